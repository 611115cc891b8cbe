//! Nothing, holes, and more than four GiB.

use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::process::Command;

use sandgate_tests::sftp::{Ground, ORACLE, Sftp, code, kind, open};
use sandgate_tests::{data, skip};

const GIB: u64 = 1 << 30;

#[test]
fn empty_files_and_directories() {
    empty(&Ground::new());
}

#[test]
fn empty_files_and_directories_by_the_agents_own_scp() {
    if !skip::oracle_lacks("images") {
        empty(&Ground::bare());
    }
}

fn empty(ground: &Ground) {
    let local = ground.target.dir().join("empty");
    std::fs::create_dir_all(local.join("dir")).unwrap();
    std::fs::write(local.join("file"), "").unwrap();
    for (way, options) in [("sftp", None), ("scp", Some("-r")), ("old", Some("-Or"))] {
        let far = format!("{}/{way}", ground.path().display());
        match options {
            None => {
                ground.sftp(format!("mkdir {far}\nput -r empty/. {far}\nget -r {far} back-{way}\n")).ok();
            }
            Some(options) => {
                ground.scp(&[options, "empty", &format!("box:{far}")]).ok();
                ground.scp(&[options, &format!("box:{far}"), &format!("back-{way}")]).ok();
            }
        }
        for root in [ground.path().join(way), ground.target.dir().join(format!("back-{way}"))] {
            assert_eq!(root.join("file").metadata().unwrap().len(), 0, "{way}");
            assert_eq!(root.join("dir").read_dir().unwrap().count(), 0, "{way}");
        }
    }
    // An empty one over one that is not.
    let far = ground.path().display();
    ground.sftp(format!("put ssh_config {far}/full\n")).ok();
    ground.sftp(format!("put empty/file {far}/full\n")).ok();
    assert_eq!(ground.path().join("full").metadata().unwrap().len(), 0);
}

#[test]
fn a_file_with_holes_arrives_with_the_same_bytes() {
    holes(&Ground::new());
}

#[test]
fn a_file_with_holes_arrives_with_the_same_bytes_by_the_agents_own_scp() {
    if !skip::oracle_lacks("images") {
        holes(&Ground::bare());
    }
}

fn holes(ground: &Ground) {
    let local = ground.target.dir().join("holes");
    let file = File::create(&local).unwrap();
    let piece = data::random(5, 100_000);
    for offset in [3 << 20, (7 << 20) + 1] {
        file.write_all_at(&piece, offset).unwrap();
    }
    file.set_len(20 << 20).unwrap();
    let whole = std::fs::read(&local).unwrap();
    let far = ground.path().display();
    ground.sftp(format!("put holes {far}/sftp\nget {far}/sftp back-sftp\n")).ok();
    ground.scp(&["-O", "holes", &format!("box:{far}/old")]).ok();
    ground.scp(&["-O", &format!("box:{far}/old"), "back-old"]).ok();
    for name in ["sftp", "old"] {
        assert!(std::fs::read(ground.path().join(name)).unwrap() == whole, "{name} arrived differently");
        let back = std::fs::read(ground.target.dir().join(format!("back-{name}"))).unwrap();
        assert!(back == whole, "{name} came back differently");
    }
}

/// Single bytes around every place where a number of 32 bits would turn over.
#[test]
fn offsets_beyond_five_gib() {
    let ground = Ground::new();
    let path = ground.path().join("sparse");
    let mut sftp = ground.raw();
    let handle =
        sftp.open(path.as_os_str().as_bytes(), open::READ | open::WRITE | open::CREAT | open::TRUNC).unwrap();
    let offsets = [2 * GIB - 3, 4 * GIB - 3, 5 * GIB + 123, 1 << 40];
    for (number, offset) in offsets.into_iter().enumerate() {
        sftp.write_at(&handle, offset, format!("mark {number}").as_bytes()).unwrap();
    }
    let size = offsets[3] + 6;
    assert_eq!(sftp.stat(kind::STAT, path.as_os_str().as_bytes()).unwrap().size, size);
    for (number, offset) in offsets.into_iter().enumerate() {
        let around = sftp.read(&handle, offset - 2, 10).unwrap();
        let expected = [b"\0\0mark ", number.to_string().as_bytes(), b"\0\0"].concat();
        assert_eq!(around, expected[..around.len()], "at {offset}");
    }
    let end = sftp.read(&handle, size, 1).unwrap_err();
    assert_eq!((end.code, &*end.words), (code::EOF, "End of file"));
    sftp.close(&handle).unwrap();
    let meta = path.metadata().unwrap();
    assert_eq!(meta.len(), size);
    assert!(meta.blocks() * 512 < 1 << 20, "the holes were filled: {} blocks", meta.blocks());
}

/// The end of the range of numbers: whatever OpenSSH answers. (Offsets that only the file system finds too large differ: OpenSSH seeks
/// before it reads, and has an error where a plain read finds the end of the file.)
#[test]
fn impossible_offsets_get_opensshs_answers() {
    let ground = Ground::new();
    let answers = |mut sftp: Sftp, name: &str| {
        let path = ground.path().join(name);
        let flags = open::READ | open::WRITE | open::CREAT;
        let handle = sftp.open(path.as_os_str().as_bytes(), flags).unwrap();
        let mut answers = Vec::new();
        for offset in [(1 << 63) - 1, 1 << 63, u64::MAX - 1, u64::MAX] {
            answers.push((offset, sftp.read(&handle, offset, 8).map(|data| data.len())));
            answers.push((offset, sftp.write_at(&handle, offset, b"x").map(|()| 0)));
        }
        answers
    };
    let theirs = answers(Sftp::start(&mut Command::new(ORACLE)), "oracle");
    assert_eq!(answers(ground.raw(), "server"), theirs);
}

/// The stock client goes on behind five GiB, both ways.
#[test]
fn a_transfer_resumes_behind_five_gib() {
    let ground = Ground::new();
    let tail = data::random(6, 3 << 20);
    let local = File::create(ground.target.dir().join("big")).unwrap();
    local.write_all_at(&tail, 5 * GIB).unwrap();
    let far = ground.path().join("far");
    ground.target.exec(&format!("truncate -s 5G {0} && chmod 666 {0}", far.display())).ok();
    ground.sftp(format!("reput big {}\n", far.display())).ok();
    let tail_of = |file: &File| {
        let mut bytes = vec![0; tail.len()];
        file.read_exact_at(&mut bytes, 5 * GIB).unwrap();
        (file.metadata().unwrap().len(), data::sha256(&bytes))
    };
    let expected = (5 * GIB + tail.len() as u64, data::sha256(&tail));
    assert_eq!(tail_of(&File::open(&far).unwrap()), expected, "uploaded");

    let back = File::options().read(true).write(true).create_new(true).open(ground.target.dir().join("back"));
    let back = back.unwrap();
    back.set_len(5 * GIB).unwrap();
    ground.sftp(format!("reget {} back\n", far.display())).ok();
    assert_eq!(tail_of(&back), expected, "downloaded");
}
