//! A small root file system that is the same for all drivers, made once from the host's own programs with their libraries.

use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Feed, run};
use crate::{client, files, paths};

/// The account inside that tests log in as; it is not root, so that who owns a file says who wrote it.
pub const USER: &str = "dev";
/// Its user and group id.
pub const USER_ID: u32 = 1000;

/// What the image holds, by the name of the host's program. `bash` is also `sh`.
const PROGRAMS: &[&str] = &[
    "base64",
    "bash",
    "cat",
    "chmod",
    "cmp",
    "cp",
    "cut",
    "date",
    "dd",
    "env",
    "false",
    "find",
    "git",
    "git-receive-pack",
    "git-upload-pack",
    "grep",
    "head",
    "id",
    "ls",
    "mkdir",
    "mv",
    "nohup",
    "od",
    "pgrep",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "rm",
    "rsync",
    "scp",
    "sed",
    "seq",
    "setsid",
    "sha256sum",
    "sleep",
    "sort",
    "ssh",
    "ssh-add",
    "ssh-keygen",
    "stat",
    "stty",
    "tail",
    "touch",
    "tr",
    "true",
    "tty",
    "uname",
    "wc",
    "xargs",
    "yes",
];

/// What of Python's library the servers and the hostile agent of the tests have no use for, and what is large.
const PYTHON_WITHOUT: &[&str] =
    &["test", "idlelib", "lib2to3", "tkinter", "ensurepip", "distutils", "pydoc_data"];

/// The directory of the image. The first caller makes it; later ones, and other test processes, find it.
///
/// # Panics
/// When the host lacks one of the programs.
pub fn image() -> PathBuf {
    let made = paths::target_dir().join("contract/rootfs");
    if made.exists() {
        return made;
    }
    let parent = made.parent().unwrap();
    std::fs::create_dir_all(parent).unwrap();
    let draft = tempfile::Builder::new().prefix("rootfs-").tempdir_in(parent).unwrap();
    fill(draft.path());
    // Whoever is first wins; the loser's draft goes with its guard.
    if std::fs::rename(draft.path(), &made).is_ok() {
        let _ = draft.keep();
    }
    assert!(made.exists(), "the image could not be put into place");
    made
}

/// A root file system without any program: accounts and nothing else.
///
/// # Panics
/// When it cannot be written.
pub fn empty_image(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    accounts(dir);
}

fn fill(dir: &Path) {
    files::make_image(dir, PROGRAMS);
    symlink("bash", dir.join("bin/sh")).unwrap();
    std::fs::create_dir_all(dir.join("usr/lib")).unwrap();
    symlink("../bin", dir.join("usr/bin")).unwrap();
    python_library(dir);
    accounts(dir);
}

fn python_library(dir: &Path) {
    let ask = "import sysconfig; print(sysconfig.get_path('stdlib'))";
    // Debian's own: the name in PATH may be a wrapper of a version manager, which leads nowhere inside.
    files::put_program(dir, Path::new("/usr/bin/python3"), "python3");
    let library = run(Command::new("/usr/bin/python3").args(["-c", ask]), Feed::Null, client::DEADLINE).ok();
    let mut copy = Command::new("cp");
    run(copy.args(["-a", &library]).arg(dir.join("usr/lib/")), Feed::Null, client::DEADLINE).ok();
    let inside = dir.join("usr/lib").join(Path::new(&library).file_name().unwrap());
    for name in PYTHON_WITHOUT {
        let _ = std::fs::remove_dir_all(inside.join(name));
    }
}

fn accounts(dir: &Path) {
    for name in ["etc", "tmp", "run", "proc", "sys", "dev", "root", "home/dev"] {
        std::fs::create_dir_all(dir.join(name)).unwrap();
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(dir.join("tmp"), std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::fs::set_permissions(dir.join("root"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let passwd =
        format!("root:x:0:0:root:/root:/bin/sh\n{USER}:x:{USER_ID}:{USER_ID}::/home/{USER}:/bin/sh\n");
    std::fs::write(dir.join("etc/passwd"), passwd).unwrap();
    std::fs::write(dir.join("etc/group"), format!("root:x:0:\n{USER}:x:{USER_ID}:\n")).unwrap();
    std::fs::write(dir.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
    // An ordinary user cannot give files away; then the image has one owner.
    let _ = chown(dir.join("home").join(USER), Some(USER_ID), Some(USER_ID));
}
