//! The stock `scp -O` against us: it must do, print and exit as it does against the installed scp.
//!
//! `-S` puts a script in the place of ssh, so no server and no network takes part.
#![allow(clippy::unwrap_used, reason = "tests report by panicking")]

mod common;

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{Duration, SystemTime};

use common::{Place, Remote, User, bytes, have_root, have_scp, keep_for_root, put, same, same_bytes};

fn mode(path: impl AsRef<std::path::Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A tree with the usual and the unusual.
fn tree(dir: &std::path::Path) {
    put(dir.join("t/a"), b"hello", 0o640);
    put(dir.join("t/empty"), b"", 0o600);
    put(dir.join("t/big"), &vec![7; 700_001], 0o755);
    put(dir.join("t/sub/deep/er/x"), b"x", 0o444);
    put(dir.join("t/sub/with space"), b"s", 0o644);
    fs::create_dir(dir.join("t/nothing")).unwrap();
    symlink("a", dir.join("t/link")).unwrap();
    symlink("sub/deep", dir.join("t/dirlink")).unwrap();
    mode(dir.join("t/sub/deep"), 0o555);
    mode(dir.join("t/nothing"), 0o700);
    for path in ["t/a", "t/big", "t/sub/deep/er/x"] {
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + path.len() as u64);
        File::open(dir.join(path)).unwrap().set_modified(then).unwrap();
    }
    for path in ["t/sub", "t/nothing", "t"] {
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_100_000_000 + path.len() as u64);
        File::open(dir.join(path)).unwrap().set_modified(then).unwrap();
    }
}

#[test]
fn single_files_go_up() {
    if !have_scp() {
        return;
    }
    let prepare = |place: &Place| {
        put(place.local().join("f"), b"hello\n", 0o654);
        put(place.local().join("g"), b"", 0o600);
        put(place.local().join("big"), &vec![1; 2_000_003], 0o644);
        put(place.remote().join("old"), b"a longer content than before", 0o600);
        put(place.remote().join("x1"), b"", 0o644);
        put(place.remote().join("y1"), b"", 0o644);
        put(place.remote().join("y2"), b"", 0o644);
        fs::create_dir(place.remote().join("dir")).unwrap();
        fs::create_dir(place.remote().join("d i r")).unwrap();
    };
    let up = |args: &[&str]| same(User::Same, args, prepare);
    let done = up(&["f", "host:new"]);
    assert_eq!((done.code, done.printed.len()), (Some(0), 0));
    assert_eq!(
        done.remote.iter().filter(|line| line.starts_with("./new 100650 6 ")).count(),
        1,
        "{:?}",
        done.remote
    );
    for args in [
        &["f", "host:"][..],
        &["f", "host:."],
        &["f", "host:dir"],
        &["f", "host:dir/"],
        &["f", "host:old"],
        &["-p", "f", "host:old"],
        &["-p", "f", "host:new"],
        &["g", "host:new"],
        &["big", "host:dir"],
        &["f", "g", "big", "host:dir"],
        &["f", "host:none/new"],
        &["f", "host:none/"],
        &["f", "host:old/new"],
        &["f", "g", "host:old"],
        &["f", "g", "host:none"],
        &["f", "missing", "g", "host:dir"],
        &["f", "host:~/dir"],
        &["f", "host:~"],
        &["f", "host:~nosuchuser/x"],
        &["f", "host:'d i r'"],
        &["f", "host:d\\ i\\ r/\"x y\""],
        &["f", "host:new with spaces"],
        &["f", "host:-new"],
        &["f", "host:-r"],
        &["f", "host:x?"],
        &["f", "host:[x]1"],
        &["f", "host:new[123]"],
        &["f", "host:y*"],
        &["f", "host:/dev/null"],
        &["f", "host:/dev/full"],
        &["f", "host:''"],
        &["scp://host/f", "."],
    ] {
        up(args);
    }
}

#[test]
fn trees_go_up() {
    if !have_scp() {
        return;
    }
    let prepare = |place: &Place| {
        tree(&place.local());
        put(place.remote().join("file"), b"", 0o644);
        put(place.remote().join("old/t/a"), b"before, and longer", 0o600);
        put(place.remote().join("bad/t/sub"), b"a file where a directory goes", 0o600);
        put(place.remote().join("bad/t/a/dir"), b"a directory where a file goes", 0o600);
    };
    for args in [
        &["-r", "t", "host:"][..],
        &["-r", "t", "host:new"],
        &["-r", "t/", "host:new"],
        &["-r", "t", "host:old"],
        &["-rp", "t", "host:new"],
        &["-r", "-p", "t", "host:old"],
        &["-r", "t", "host:file"],
        &["-r", "t", "host:none/new"],
        &["-r", "t", "host:bad"],
        &["-rp", "t", "host:bad"],
        &["-r", "t/sub", "t/nothing", "t/a", "host:old"],
        &["t", "host:new"],
        &["t", "t/a", "host:old"],
        &["-r", ".", "host:new"],
    ] {
        same(User::Same, args, prepare);
        same(User::Nobody, args, prepare);
    }
}

#[test]
fn single_files_come_down() {
    if !have_scp() {
        return;
    }
    let prepare = |place: &Place| {
        tree(&place.remote());
        put(place.remote().join("f.txt"), b"f", 0o644);
        put(place.remote().join("g.txt"), b"g", 0o604);
        put(place.remote().join(".hidden.txt"), b"h", 0o604);
        put(place.remote().join("-dash"), b"d", 0o644);
        put(place.remote().join("it's \"here\" $x `y` \\z"), b"q", 0o644);
        put(place.remote().join("glob[12]"), b"g", 0o644);
        put(place.remote().join("*"), b"star", 0o644);
        symlink("f.txt", place.remote().join("link")).unwrap();
        symlink("nowhere", place.remote().join("dangling")).unwrap();
        symlink("loop", place.remote().join("loop")).unwrap();
        assert!(Command::new("mkfifo").arg(place.remote().join("fifo")).status().unwrap().success());
        drop(UnixListener::bind(place.remote().join("sock")).unwrap());
    };
    let down = |args: &[&str]| same(User::Same, args, prepare);
    let done = down(&["host:t/a", "."]);
    assert_eq!((done.code, done.printed.len(), done.local.len()), (Some(0), 0, 2));
    let done = down(&["host:none", "."]);
    assert_eq!(
        (done.code, &done.printed[..]),
        (Some(1), &["scp: none: No such file or directory".to_owned()][..])
    );
    for args in [
        &["host:t/a", "new"][..],
        &["-p", "host:t/a", "new"],
        &["host:t/big", "."],
        &["host:t/empty", "."],
        &["host:t/a", "host:t/big", "."],
        &["host:none", "host:t/a", "host:t/none", "."],
        &["host:t/a/", "."],
        &["host:f.txt/x", "."],
        &["host:link", "."],
        &["host:dangling", "."],
        &["host:loop", "."],
        &["host:fifo", "."],
        &["host:sock", "."],
        &["host:/dev/null", "."],
        &["host:/proc/version", "."],
        &["host:t", "."],
        &["host:t", "host:t/a", "."],
        &["host:*.txt", "."],
        &["host:./*.txt", "."],
        &["host:[fg].txt", "."],
        &["host:?.txt", "."],
        &["host:[!f].txt", "."],
        &["host:.*.txt", "."],
        &["host:t/*/*space", "."],
        &["host:*", "."],
        &["host:nomatch*", "."],
        &["host:glob[12]", "."],
        &["host:'*'", "."],
        &["-T", "host:\\*", "."],
        &["-T", "host:'*'", "."],
        &["host:~/f.txt", "."],
        &["host:~/*.txt", "."],
        &["-T", "host:f.txt g.txt", "."],
        &["host:-dash", "."],
        &["-T", "host:'it'\\''s \"here\" $x `y` \\z'", "."],
        &["-T", "host:\"it's \\\"here\\\" \\$x \\`y\\` \\\\z\"", "."],
        &["host:", "."],
        &["host:/", "."],
        &["host:..", "."],
        &["host:''", "."],
    ] {
        down(args);
    }
}

#[test]
fn trees_come_down() {
    if !have_scp() {
        return;
    }
    let prepare = |place: &Place| {
        tree(&place.remote());
        symlink("nowhere", place.remote().join("t/dangling")).unwrap();
        symlink("round", place.remote().join("t/round")).unwrap();
        put(place.remote().join("up/x"), b"x", 0o644);
        symlink("../up", place.remote().join("up/again")).unwrap();
        assert!(Command::new("mkfifo").arg(place.remote().join("t/sub/fifo")).status().unwrap().success());
    };
    for args in [
        &["-r", "host:t", "."][..],
        &["-r", "host:t/", "new"],
        &["-rp", "host:t", "new"],
        &["-r", "host:t/sub", "host:t/a", "host:t/nothing", "."],
        &["-r", "host:t/*", "."],
        &["-r", "host:*/", "."],
        &["-r", "host:up", "."],
        &["-r", "host:.", "new"],
        &["-r", "host:none", "."],
    ] {
        same(User::Same, args, prepare);
        same(User::Nobody, args, prepare);
    }
}

#[test]
fn deep_trees_go_both_ways() {
    if !have_scp() {
        return;
    }
    let deep = format!("t/{}leaf", "d/".repeat(400));
    same(User::Same, &["-rp", "t", "host:new"], |place| put(place.local().join(&deep), b"leaf", 0o644));
    let done =
        same(User::Same, &["-rp", "host:t", "new"], |place| put(place.remote().join(&deep), b"leaf", 0o644));
    assert_eq!((done.code, done.local.len()), (Some(0), 403));
}

#[test]
fn copies_from_one_host_to_another_go_through_the_client() {
    if !have_scp() {
        return;
    }
    for args in [
        &["-3", "a:t/a", "b:new"][..],
        &["-3r", "a:t", "b:new"],
        &["-3rp", "a:t", "b:new"],
        &["-3", "a:none", "b:new"],
        &["-3", "a:t/a", "b:none/new"],
        &["-3", "a:t/a", "a:t/big", "b:t/empty"],
    ] {
        same(User::Same, args, |place| tree(&place.remote()));
    }
}

#[test]
fn odd_names_go_both_ways() {
    if !have_scp() {
        return;
    }
    let long = "n".repeat(255);
    let names: [&[u8]; 12] = [
        b"with space",
        b" ",
        b"-dash",
        b"--",
        b"new\nline",
        b"\n",
        b"latin-\xe9\xff",
        "umläut".as_bytes(),
        b"back\\slash",
        b"quote'\"`$;&|<>(){}[]*?#~!",
        b"tab\tesc\x1b\x7f\r",
        long.as_bytes(),
    ];
    for name in names {
        let up = |place: &Place| put(place.local().join("t").join(bytes(name)), b"odd", 0o644);
        let path = [b"./t/", name].concat();
        let done = same_bytes(User::Same, &[bytes(&path), "host:".into()], up);
        assert_eq!((done.code, done.remote.len()), (Some(0), 2), "{}", name.escape_ascii());
        same_bytes(User::Same, &["-r".into(), "t".into(), "host:new".into()], up);
        let down = |place: &Place| put(place.remote().join("t").join(bytes(name)), b"odd", 0o644);
        let done = same_bytes(User::Same, &["-r".into(), "host:t".into(), "new".into()], down);
        assert_eq!((done.code, done.local.len()), (Some(0), 3), "{}", name.escape_ascii());
        let quoted = [b"host:t/'", &name.escape_quotes()[..], b"'"].concat();
        let args: Vec<OsString> = vec!["-T".into(), bytes(&quoted), ".".into()];
        let done = same_bytes(User::Same, &args, down);
        assert_eq!((done.code, done.local.len()), (Some(0), 2), "{}", name.escape_ascii());
    }
}

trait EscapeQuotes {
    fn escape_quotes(&self) -> Vec<u8>;
}

impl EscapeQuotes for &[u8] {
    /// For use within single quotes of a shell.
    fn escape_quotes(&self) -> Vec<u8> {
        self.iter().flat_map(|b| if *b == b'\'' { b"'\\''".to_vec() } else { vec![*b] }).collect()
    }
}

#[test]
fn a_directory_with_a_newline_in_its_name_comes_down_too() {
    if !have_scp() {
        return;
    }
    // OpenSSH's source looks for the encoded name and finds nothing.
    let place = Place::new(Remote::Ours, User::Same);
    put(place.remote().join("t/d\ne/f\ng"), b"x", 0o644);
    let outcome = place.scp(&["-r".into(), "host:t".into(), ".".into()]);
    assert_eq!((outcome.code, outcome.printed.len()), (Some(0), 0));
    assert_eq!(fs::read(place.local().join("t/d\\^Je/f\\^Jg")).unwrap(), b"x");
}

#[test]
fn symlinks_on_the_way_up_are_followed() {
    if !have_scp() {
        return;
    }
    let prepare = |place: &Place| {
        put(place.local().join("f"), b"new", 0o644);
        tree(&place.local());
        put(place.remote().join("real/old"), b"old content", 0o600);
        symlink("real/old", place.remote().join("link")).unwrap();
        symlink("real", place.remote().join("dir")).unwrap();
        symlink("real/made", place.remote().join("dangling")).unwrap();
        symlink("none/made", place.remote().join("broken")).unwrap();
        symlink("loop", place.remote().join("loop")).unwrap();
        symlink("../real", place.remote().join("real/t")).unwrap();
    };
    for args in [
        &["f", "host:link"][..],
        &["f", "host:dir"],
        &["f", "host:dangling"],
        &["f", "host:broken"],
        &["f", "host:loop"],
        &["-p", "f", "host:link"],
        &["-r", "t", "host:dir"],
        &["-r", "t", "host:dangling"],
        &["-r", "t", "host:loop"],
    ] {
        same(User::Same, args, prepare);
    }
}

#[test]
fn permissions_are_told_as_openssh_tells_them() {
    if !have_scp() {
        return;
    }
    let up = |place: &Place| {
        put(place.local().join("f"), b"new", 0o644);
        put(place.local().join("t/sub/f"), b"new", 0o644);
        put(place.local().join("t/g"), b"new", 0o644);
        put(place.remote().join("readonly"), b"old", 0o444);
        put(place.remote().join("locked/f"), b"old", 0o644);
        put(place.remote().join("locked/t/g"), b"old", 0o644);
        mode(place.remote().join("locked/t"), 0o555);
        mode(place.remote().join("locked"), 0o555);
        put(place.remote().join("closed/x"), b"", 0o644);
        mode(place.remote().join("closed"), 0o000);
    };
    for args in [
        &["f", "host:readonly"][..],
        &["f", "host:locked"],
        &["f", "host:locked/new"],
        &["-r", "t", "host:locked"],
        &["-rp", "t", "host:locked"],
        &["f", "host:closed"],
        &["f", "host:closed/x"],
        &["-r", "t", "host:closed"],
        &["f", "f", "host:closed"],
    ] {
        same(User::Nobody, args, up);
    }
    let down = |place: &Place| {
        put(place.remote().join("t/no"), b"", 0o000);
        put(place.remote().join("t/yes"), b"yes", 0o400);
        put(place.remote().join("t/closed/x"), b"", 0o644);
        mode(place.remote().join("t/closed"), 0o000);
        put(place.remote().join("t/blind/x"), b"seen", 0o644);
        mode(place.remote().join("t/blind"), 0o311);
    };
    for args in [
        &["host:t/no", "."][..],
        &["-r", "host:t", "."],
        &["-r", "host:t/closed", "."],
        &["host:t/closed/x", "."],
        &["host:t/blind/x", "."],
        &["host:t/closed/*", "."],
        &["host:t/no", "host:t/yes", "."],
    ] {
        same(User::Nobody, args, down);
    }
}

#[test]
fn a_directory_that_can_be_listed_but_not_entered_is_an_error() {
    if !have_scp() {
        return;
    }
    let place = Place::new(Remote::Ours, User::Nobody);
    put(place.remote().join("t/x"), b"", 0o644);
    mode(place.remote().join("t"), 0o444);
    let outcome = place.scp(&["-r".into(), "host:t".into(), ".".into()]);
    // OpenSSH says the same of each file in it.
    assert_eq!(
        (outcome.code, &outcome.printed[..]),
        (Some(1), &["scp: t: Permission denied".to_owned()][..])
    );
}

#[test]
fn times_and_modes_of_somebody_elses_file_are_told() {
    if !have_scp() || !have_root() {
        return;
    }
    let prepare = |place: &Place| {
        put(place.local().join("f"), b"new", 0o644);
        put(place.remote().join("theirs"), b"old", 0o666);
        keep_for_root(place.remote().join("theirs"));
    };
    let done = same(User::Nobody, &["-p", "f", "host:theirs"], prepare);
    assert_eq!(done.printed, ["scp: theirs: set mode: Operation not permitted"]);
    same(User::Nobody, &["f", "host:theirs"], prepare);
}

#[test]
fn with_p_both_times_are_kept_to_the_second() {
    if !have_scp() {
        return;
    }
    let place = Place::new(Remote::Ours, User::Same);
    let path = place.local().join("f");
    put(&path, b"x", 0o4711);
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let times = fs::FileTimes::new().set_accessed(at(1_234_567_890)).set_modified(at(987_654_321));
    File::open(&path).unwrap().set_times(times).unwrap();
    let outcome = place.scp(&["-p".into(), "f".into(), "host:".into()]);
    assert_eq!(outcome.code, Some(0));
    assert!(outcome.remote[1].starts_with("./f 104711 987654321 1234567890 "), "{outcome:?}");
}

#[test]
fn a_full_disk_is_told_and_the_rest_goes_on() {
    if !have_scp() || !have_root() {
        return;
    }
    let prepare = |place: &Place| {
        put(place.local().join("t/a"), &vec![1; 300_000], 0o644);
        put(place.local().join("t/b"), b"small", 0o644);
        put(place.local().join("huge"), &vec![1; 3_000_000], 0o644);
        put(place.local().join("small"), b"small", 0o644);
        let full = place.remote().join("full");
        fs::create_dir(&full).unwrap();
    };
    for args in [
        &["huge", "host:full"][..],
        &["huge", "small", "host:full"],
        &["-p", "huge", "host:full/x"],
        &["-rp", "t", "host:full"],
        &["-r", "t", "huge", "small", "host:full"],
    ] {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let run = |remote| {
            let place = Place::new(remote, User::Same);
            prepare(&place);
            let _mount = Mount::new(place.remote().join("full"))?;
            let mut outcome = place.scp(&args);
            // How much of a file fits depends on the size of the writes.
            outcome
                .remote
                .iter_mut()
                .for_each(|line| line.truncate(line.find(" 10").unwrap_or(line.len()) + 7));
            Some(outcome)
        };
        let (Some(stock), Some(ours)) = (run(Remote::Stock), run(Remote::Ours)) else {
            return common::skip("mounting a tmpfs is not allowed");
        };
        assert_eq!(ours, stock, "{args:?}");
        if args.iter().any(|arg| arg == "huge") {
            assert!(ours.printed.iter().any(|line| line.ends_with(": No space left on device")), "{ours:?}");
            assert_eq!(ours.code, Some(1));
        }
    }
}

/// A tmpfs of a megabyte, for as long as this lives.
struct Mount(std::path::PathBuf);

impl Mount {
    fn new(path: std::path::PathBuf) -> Option<Self> {
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&path).output().ok()?;
        mount.status.success().then_some(Self(path))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A mount that stays would show as a directory that cannot be removed.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_pipe_on_the_remote_side_takes_the_bytes_in_order() {
    if !have_scp() {
        return;
    }
    for remote in [Remote::Stock, Remote::Ours] {
        let place = Place::new(remote, User::Same);
        let fifo = place.remote().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let content: Vec<u8> = (0..=250).cycle().take(1_000_000).collect();
        put(place.local().join("f"), &content, 0o644);
        let reader = std::thread::spawn(move || fs::read(fifo).unwrap());
        let outcome = place.scp(&["f".into(), "host:fifo".into()]);
        assert!(reader.join().unwrap() == content);
        assert_eq!((outcome.code, outcome.printed.len()), (Some(0), 0), "{remote:?}");
    }
}

#[test]
fn restrictions_hold_and_are_told() {
    if !have_scp() {
        return;
    }
    let place = Place::restricted(&["--read-only", "--audit"]);
    put(place.local().join("f"), b"new", 0o644);
    put(place.local().join("t/sub/f"), b"new", 0o644);
    put(place.remote().join("old"), b"old", 0o644);
    fs::create_dir(place.remote().join("t")).unwrap();
    for (args, message) in [
        (&["f", "host:new"][..], "scp: new: Permission denied"),
        (&["f", "host:old"], "scp: old: Permission denied"),
        (&["-r", "t", "host:"], "scp: ./t/sub: Permission denied"),
    ] {
        let outcome = place.scp(&args.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!((outcome.code, &outcome.printed[..]), (Some(1), &[message.to_owned()][..]), "{args:?}");
        assert_eq!(outcome.remote.len(), 3);
    }
    assert_eq!(place.scp(&["host:old".into(), ".".into()]).code, Some(0));

    let place = Place::restricted(&["--root", "inside", "--audit"]);
    put(place.local().join("f"), b"new", 0o644);
    put(place.remote().join("outside"), b"secret", 0o644);
    put(place.remote().join("inside/etc/x"), b"x", 0o644);
    symlink("../../outside", place.remote().join("inside/up")).unwrap();
    symlink(place.remote().join("outside"), place.remote().join("inside/absolute")).unwrap();
    for source in ["up", "absolute", "../outside", "/../outside"] {
        let outcome = place.scp(&[format!("host:{source}").into(), ".".into()]);
        let message = format!("scp: {source}: No such file or directory");
        assert_eq!((outcome.code, &outcome.printed[..]), (Some(1), &[message][..]));
    }
    // The same names made from here are files inside.
    for target in ["up", "absolute", "../outside", "/../outside"] {
        let outcome = place.scp(&["f".into(), format!("host:{target}").into()]);
        assert_eq!(fs::read(place.remote().join("outside")).unwrap(), b"secret", "{outcome:?}");
    }
    assert_eq!(place.scp(&["host:/etc/x".into(), ".".into()]).code, Some(0));
    let outcome = place.scp(&["f".into(), "host:~/etc".into()]);
    assert_eq!(
        (outcome.code, &outcome.printed[..]),
        (Some(0), &["opened 0 /etc/f", "wrote 3 /etc/f 3"].map(String::from)[..])
    );
}

#[test]
fn a_file_of_five_gigabytes_is_announced_with_all_its_digits() {
    use std::io::Write as _;
    use std::process::Stdio;

    let place = Place::new(Remote::Ours, User::Same);
    let file = File::create(place.remote().join("sparse")).unwrap();
    file.set_len(5 << 30).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_sandgate-scp"))
        .args(["-f", "sparse"])
        .current_dir(place.remote())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Yes to begin with, and no to the file: nothing needs to be moved.
    child.stdin.take().unwrap().write_all(b"\0\x01too large\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout), (Some(1), b"C0644 5368709120 sparse\n".to_vec()));
}
