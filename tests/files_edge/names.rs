//! Names of any bytes, long names, long paths, deep trees.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use sandgate_tests::raw::codec::Writer;
use sandgate_tests::sftp::{Ground, code, kind, open};
use sandgate_tests::{Kind, skip};

/// Names that a careless program breaks.
fn hard_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        &b"a b  c "[..],
        b" ",
        b"-rf",
        b"--",
        b"-",
        b"new\nline",
        b"\n",
        b"tab\tand\rreturn",
        b"quote'\"`",
        b"back\\slash",
        b"*?[a-z]{x,y}",
        b"~root",
        b"$HOME;$(id)&|<>!#",
        b"%s%n%d",
        b"...",
        b"C0644 3 x",
        b"\x01\x1b[31m\x7f",
        "gr\u{fc}\u{df}e \u{2014} \u{1f980}".as_bytes(),
        b"latin \xfc\xff\xfe",
        b"\x80\x81\xc0\xaf",
        b"colon:and@host:x",
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    names.push(vec![b'n'; 255]);
    names.push("\u{fc}".repeat(127).into_bytes());
    names
}

/// Every file of one directory level with its content.
fn content(dir: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|err| panic!("{}: {err}", dir.display()));
    let entry =
        |entry: std::fs::DirEntry| (entry.file_name().into_vec(), std::fs::read(entry.path()).unwrap());
    entries.map(|it| entry(it.unwrap())).collect()
}

/// Makes a file of each name, with its name as content.
fn fill(dir: &Path, names: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    std::fs::create_dir(dir).unwrap();
    for name in names {
        std::fs::write(dir.join(OsStr::from_bytes(name)), name).unwrap();
    }
    content(dir)
}

#[test]
fn hard_names_go_there_and_back_with_sftp() {
    let ground = Ground::new();
    let all = fill(&ground.target.dir().join("local"), &hard_names());
    let far = ground.path().join("far");
    ground.sftp(format!("mkdir {0}\nput -r local/. {0}\nget -r {0} back\n", far.display())).ok();
    assert_eq!(content(&far), all, "uploaded");
    assert_eq!(content(&ground.target.dir().join("back")), all, "downloaded");
}

#[test]
fn hard_names_go_there_and_back_with_scp() {
    let ground = Ground::new();
    let all = fill(&ground.target.dir().join("local"), &hard_names());
    let far = ground.path().join("far");
    ground.scp(&["-r", "local", &format!("box:{}", far.display())]).ok();
    assert_eq!(content(&far), all, "uploaded");
    ground.scp(&["-r", &format!("box:{}", far.display()), "back"]).ok();
    assert_eq!(content(&ground.target.dir().join("back")), all, "downloaded");
}

/// The old protocol has lines, so the sender writes a newline in a name as `\^J` and the receiver keeps that. Which side does what is the
/// same with OpenSSH's own `scp` at both ends.
#[test]
fn hard_names_go_there_and_back_with_the_old_scp() {
    hard_names_with_the_old_scp(&Ground::new());
}

#[test]
fn hard_names_go_there_and_back_with_the_agents_own_scp() {
    if !skip::oracle_lacks("images") {
        hard_names_with_the_old_scp(&Ground::bare());
    }
}

fn hard_names_with_the_old_scp(ground: &Ground) {
    let names: Vec<_> = hard_names();
    let mut all = fill(&ground.target.dir().join("local"), &names);
    let encoded: BTreeMap<_, _> = std::mem::take(&mut all)
        .into_iter()
        .map(|(name, content)| (String::from_utf8_lossy(&name).contains('\n'), name, content))
        .map(|(has, name, content)| if has { (newline_encoded(&name), content) } else { (name, content) })
        .collect();
    let far = ground.path().join("far");
    ground.scp(&["-O", "-r", "local", &format!("box:{}", far.display())]).ok();
    assert_eq!(content(&far), encoded, "uploaded");
    ground.scp(&["-O", "-r", &format!("box:{}", far.display()), "back"]).ok();
    assert_eq!(content(&ground.target.dir().join("back")), encoded, "downloaded");
}

fn newline_encoded(name: &[u8]) -> Vec<u8> {
    name.iter().flat_map(|byte| if *byte == b'\n' { b"\\^J".to_vec() } else { vec![*byte] }).collect()
}

/// Each request that takes a path, with each name.
#[test]
fn every_request_takes_any_name() {
    let ground = Ground::new();
    let mut sftp = ground.raw();
    for name in hard_names() {
        let path = [ground.path().as_os_str().as_bytes(), b"/", &name].concat();
        let other = [ground.path().as_os_str().as_bytes(), b"/other"].concat();
        let what = String::from_utf8_lossy(&name).into_owned();
        let text = |path: &[u8]| Writer::default().string(path);
        let handle = sftp.open(&path, open::WRITE | open::CREAT).expect(&what);
        sftp.write_at(&handle, 0, &name).expect(&what);
        sftp.close(&handle).expect(&what);
        assert_eq!(sftp.stat(kind::LSTAT, &path).expect(&what).size, name.len() as u64);
        assert_eq!(sftp.name(kind::REALPATH, &path).expect(&what), path);
        sftp.tell(kind::RENAME, text(&path).string(&other)).expect(&what);
        sftp.tell(kind::RENAME, text(&other).string(&path)).expect(&what);
        // OpenSSH has the two paths in the other order than the draft: first what the link says, then where it is.
        sftp.tell(kind::SYMLINK, text(&name).string(&other)).expect(&what);
        assert_eq!(sftp.name(kind::READLINK, &other).expect(&what), name);
        assert_eq!(sftp.stat(kind::STAT, &other).expect(&what).size, name.len() as u64);
        let mut listed = Vec::new();
        sftp.list(ground.path().as_os_str().as_bytes(), |piece| listed.extend(piece)).expect(&what);
        assert!(listed.iter().any(|entry| entry.name == name), "{what} is not listed");
        sftp.tell(kind::REMOVE, text(&other)).expect(&what);
        sftp.tell(kind::REMOVE, text(&path)).expect(&what);
        sftp.tell(kind::MKDIR, text(&path).u32(0)).expect(&what);
        sftp.tell(kind::RMDIR, text(&path)).expect(&what);
    }
    assert_eq!(std::fs::read_dir(ground.path()).unwrap().count(), 0);
}

#[test]
fn a_name_or_path_that_is_too_long_is_refused_in_opensshs_words() {
    let ground = Ground::of_a_user();
    let long = "x".repeat(256);
    let (code, _, errors) = ground.same_as_oracle(
        |dir| std::fs::write(dir.join("f"), "f").unwrap(),
        |dir| {
            format!(
                "-put ssh_config {dir}/{long}\n-mkdir {dir}/{long}\n-rm {dir}/{long}\n-rename {dir}/f {dir}/{long}\n\
                 -ln -s f {dir}/{long}\n-ls {dir}/{long}\n"
            )
        },
    );
    assert_eq!(code, 0);
    assert!(errors.contains(": Bad message"), "{errors}");

    // The kernel's bound is 4,096 bytes with the zero at the end.
    let mut sftp = ground.raw();
    let root = ground.path().as_os_str().as_bytes();
    let path = |length: usize| [root, &b"/".repeat(length - root.len() - 1), b"x"].concat();
    let handle = sftp.open(&path(4095), open::WRITE | open::CREAT).unwrap();
    sftp.close(&handle).unwrap();
    let refused = sftp.open(&path(4096), open::WRITE | open::CREAT).unwrap_err();
    assert_eq!((refused.code, &*refused.words), (code::BAD_MESSAGE, "Bad message"));
    assert_eq!(sftp.stat(kind::STAT, &path(30_000)).unwrap_err(), refused);
}

fn deep_tree(root: &Path, levels: usize) {
    let inside = root.join("d/".repeat(levels));
    std::fs::create_dir_all(&inside).unwrap();
    std::fs::write(inside.join("leaf"), "at the end").unwrap();
}

#[track_caller]
fn has_leaf(root: &Path, levels: usize) {
    let leaf = root.join("d/".repeat(levels)).join("leaf");
    assert_eq!(std::fs::read_to_string(leaf).unwrap(), "at the end");
}

/// The stock `sftp` itself refuses more than 64 levels.
#[test]
fn deep_trees_go_there_and_back_with_sftp() {
    let ground = Ground::new();
    deep_tree(&ground.target.dir().join("deep"), 60);
    let far = ground.path().display();
    ground.sftp(format!("put -r deep {far}\nget -r {far}/deep back\n")).ok();
    has_leaf(&ground.path().join("deep"), 60);
    has_leaf(&ground.target.dir().join("back"), 60);
}

fn deep_trees_with_the_old_scp(ground: &Ground) {
    deep_tree(&ground.target.dir().join("deep"), 400);
    let far = ground.path().display();
    ground.scp(&["-r", "-O", "deep", &format!("box:{far}")]).ok();
    ground.scp(&["-r", "-O", &format!("box:{far}/deep"), "back"]).ok();
    has_leaf(&ground.path().join("deep"), 400);
    has_leaf(&ground.target.dir().join("back"), 400);
}

#[test]
fn deep_trees_go_there_and_back_with_the_old_scp() {
    deep_trees_with_the_old_scp(&Ground::new());
}

#[test]
fn deep_trees_go_there_and_back_with_the_agents_own_scp() {
    if !skip::oracle_lacks("images") {
        deep_trees_with_the_old_scp(&Ground::bare());
    }
}

#[test]
fn a_tree_of_two_thousand_levels_is_made_and_removed() {
    let ground = Ground::new();
    let mut sftp = ground.raw();
    let path = |levels: usize| format!("{}{}", ground.path().display(), "/d".repeat(levels)).into_bytes();
    let most = (4095 - ground.path().as_os_str().len()) / 2;
    for level in 1..=most {
        sftp.tell(kind::MKDIR, Writer::default().string(path(level)).u32(0)).expect("mkdir");
    }
    assert_eq!(sftp.stat(kind::STAT, &path(most)).unwrap().mode & 0o170_000, 0o040_000);
    let refused = sftp.tell(kind::MKDIR, Writer::default().string(path(most + 1)).u32(0)).unwrap_err();
    assert_eq!(&*refused.words, "Bad message");
    for level in (1..=most).rev() {
        sftp.tell(kind::RMDIR, Writer::default().string(path(level))).expect("rmdir");
    }
    assert_eq!(std::fs::read_dir(ground.path()).unwrap().count(), 0);
}

/// Commands of the batch with names that need quoting, one by one.
#[test]
fn quoted_names_in_a_batch() {
    let ground = Ground::new();
    let far = ground.path().display();
    let batch = format!(
        "put ssh_config \"{far}/a b\"\nput ssh_config \"{far}/-rf\"\nrename \"{far}/a b\" \"{far}/it's \\\"x\\\"\"\n\
         get \"{far}/it's \\\"x\\\"\" 'two words'\ncd {far}\nrm ./-rf\nls -1\n"
    );
    let output = ground.sftp(batch);
    output.ok();
    assert!(output.text().ends_with("ls -1\nit's \"x\"\n"), "{}", output.text());
    assert!(ground.target.dir().join("two words").exists());
    if ground.target.kind() == Kind::Gateway {
        assert!(ground.path().join("it's \"x\"").exists());
    }
}
