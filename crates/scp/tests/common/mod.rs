//! Runs the stock `scp -O` twice over equal files: once with Debian's scp (behind a shell) on the remote side, once with ours.
#![allow(clippy::unwrap_used, reason = "tests report by panicking")]

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// User and group `nobody`, who are in every passwd.
const NOBODY: u32 = 65534;

/// What stands on the remote side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remote {
    /// `sh -c COMMAND`, as sshd would run it, and so the installed scp.
    Stock,
    /// `sandgate-scp --command COMMAND`, with no shell between.
    Ours,
}

/// Who runs both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// Whoever runs the tests.
    Same,
    /// Nobody, if the tests are run by root, whom permissions do not stop.
    Nobody,
}

/// Two directories and a stand-in for ssh.
pub struct Place {
    dir: TempDir,
    user: User,
    remote: Remote,
    /// Of our program.
    flags: String,
}

/// What a run gave, in a form that can be compared.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Exit status of the client.
    pub code: Option<i32>,
    /// What it printed, line by line and sorted, since directories are listed in any order.
    pub printed: Vec<String>,
    /// The trees, without times (last change, last access) unless `-p` was given.
    pub local: Vec<String>,
    /// The same on the other side.
    pub remote: Vec<String>,
}

impl Place {
    /// Fresh directories, and `remote` on the other side.
    pub fn new(remote: Remote, user: User) -> Self {
        Self::with_flags(remote, user, &[])
    }

    /// Fresh directories, and ours on the other side with these flags.
    pub fn restricted(flags: &[&str]) -> Self {
        Self::with_flags(Remote::Ours, User::Same, flags)
    }

    fn with_flags(remote: Remote, user: User, flags: &[&str]) -> Self {
        let user = if rustix_is_root() { user } else { User::Same };
        let flags = flags.iter().map(|flag| format!(" {flag}")).collect();
        let place = Self { dir: TempDir::new().unwrap(), user, remote, flags };
        for dir in [place.local(), place.remote()] {
            fs::create_dir(dir).unwrap();
        }
        bring(user, Path::new(env!("CARGO_BIN_EXE_sandgate-scp")), &place.program());
        bring(user, &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/remote.sh"), &place.wrapper());
        fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        place
    }

    /// Where the client is started.
    pub fn local(&self) -> PathBuf {
        self.dir.path().join("local")
    }

    /// Where the other side is started; its home too.
    pub fn remote(&self) -> PathBuf {
        self.dir.path().join("remote")
    }

    fn wrapper(&self) -> PathBuf {
        self.dir.path().join("ssh")
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join("sandgate-scp")
    }

    /// Runs `scp -O` with these arguments.
    pub fn scp(&self, args: &[OsString]) -> Outcome {
        if self.user == User::Nobody {
            own(&self.local());
            own(&self.remote());
        }
        let mut command = match self.user {
            User::Same => Command::new("scp"),
            User::Nobody => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "scp"]);
                command
            }
        };
        let ours = match self.remote {
            Remote::Stock => String::new(),
            Remote::Ours => format!("{}{}", self.program().display(), self.flags),
        };
        let output = command
            .args(["-O", "-S"])
            .arg(self.wrapper())
            .args(args)
            .current_dir(self.local())
            .stdin(Stdio::null())
            .env("LC_ALL", "C.UTF-8")
            .env("REMOTE_DIR", self.remote())
            .env("OURS", ours)
            .output()
            .unwrap();
        let printed = [output.stdout, output.stderr].concat();
        // What carries the name of this place would differ.
        let own = self.dir.path().to_str().unwrap();
        let mut printed: Vec<String> =
            String::from_utf8_lossy(&printed).lines().map(|line| line.replace(own, "")).collect();
        printed.sort();
        let times =
            args.iter().any(|arg| matches!(arg.as_bytes(), [b'-', rest @ ..] if rest.contains(&b'p')));
        Outcome {
            code: output.status.code(),
            printed,
            local: snapshot(&self.local(), times),
            remote: snapshot(&self.remote(), times),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        open_up(self.dir.path());
    }
}

/// Makes every directory writable: an ordinary user could not remove what the tests make otherwise.
fn open_up(dir: &Path) {
    // What cannot be done shows as a directory that stays.
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o755));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

/// Runs the same with both; the outcomes must be equal. Gives it, so that a test can also say what it must be.
pub fn same(user: User, args: &[&str], prepare: impl Fn(&Place)) -> Outcome {
    let args: Vec<OsString> = args.iter().map(OsString::from).collect();
    same_bytes(user, &args, prepare)
}

/// As [`same`], for names that are not UTF-8.
pub fn same_bytes(user: User, args: &[OsString], prepare: impl Fn(&Place)) -> Outcome {
    let run = |remote| {
        let place = Place::new(remote, user);
        prepare(&place);
        place.scp(args)
    };
    let (stock, ours) = (run(Remote::Stock), run(Remote::Ours));
    assert!(ours == stock, "with {user:?} and {args:?}: {}", differences(&ours, &stock));
    ours
}

/// Only what differs: a whole outcome is too long to be read.
fn differences(ours: &Outcome, stock: &Outcome) -> String {
    let mut text = format!("code {:?}, stock {:?}", ours.code, stock.code);
    for (what, ours, stock) in [
        ("printed", &ours.printed, &stock.printed),
        ("local", &ours.local, &stock.local),
        ("remote", &ours.remote, &stock.remote),
    ] {
        for (who, mine, other) in [("ours", ours, stock), ("stock", stock, ours)] {
            for line in mine.iter().filter(|line| !other.contains(line)) {
                text.push_str(&format!("\n{what}, {who} alone: {line}"));
            }
        }
    }
    text
}

/// Whether the stock client is there; says so if not.
pub fn have_scp() -> bool {
    let there = Command::new("scp").stderr(Stdio::null()).status().is_ok();
    if !there {
        skip("no scp is installed");
    }
    there
}

/// Whether this user may mount and change its user.
pub fn have_root() -> bool {
    let root = rustix_is_root();
    if !root {
        skip("only root can mount a small tmpfs");
    }
    root
}

fn rustix_is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Writes a file with its parents.
pub fn put(path: impl AsRef<Path>, content: &[u8], mode: u32) {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A path from bytes.
pub fn bytes(path: &[u8]) -> OsString {
    OsString::from_vec(path.to_vec())
}

/// Says why a test did nothing, and notes it where `make test` looks for skips.
pub fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    // target/<profile>/sandgate-scp
    let Some(target) = Path::new(env!("CARGO_BIN_EXE_sandgate-scp")).ancestors().nth(2) else { return };
    if let Ok(mut file) = fs::File::options().create(true).append(true).open(target.join("test-skips.txt")) {
        let _ = file.write_all(format!("{name}: {reason}\n").as_bytes());
    }
}

/// Puts a program beside the files. By a link where it can be: a file that has just been written is busy for as long as any process that
/// another test has forked meanwhile holds it open. Nobody may not be let in where it came from, so then it is a hard link.
fn bring(user: User, from: &Path, to: &Path) {
    match user {
        User::Same => symlink(from, to).unwrap(),
        User::Nobody => fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(|_| ())).unwrap(),
    }
}

/// Gives a tree to nobody.
fn own(path: &Path) {
    let meta = fs::symlink_metadata(path).unwrap();
    if meta.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            own(&entry.unwrap().path());
        }
    }
    // What belongs to somebody else on purpose is marked by its group.
    if meta.gid() != 1 {
        std::os::unix::fs::lchown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    // A change of owner takes these bits away.
    if !meta.is_symlink() {
        fs::set_permissions(path, meta.permissions()).unwrap();
    }
}

/// Marks something as root's, which [`User::Nobody`] does not get.
pub fn keep_for_root(path: impl AsRef<Path>) {
    chown(path, Some(0), Some(1)).unwrap();
}

/// Every entry of a tree in one line each.
fn snapshot(root: &Path, times: bool) -> Vec<String> {
    let mut lines = Vec::new();
    walk(root, OsStr::new("."), times, &mut lines);
    lines.sort();
    lines
}

fn walk(path: &Path, name: &OsStr, times: bool, lines: &mut Vec<String>) {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return lines.push(format!("{} hidden", name.as_bytes().escape_ascii()));
    };
    let mut line = format!("{} {:o}", name.as_bytes().escape_ascii(), meta.mode());
    if times && !meta.is_symlink() && name != "." {
        line = format!("{line} {} {}", known(meta.mtime()), known(meta.atime()));
    }
    if meta.is_symlink() {
        line = format!("{line} -> {}", fs::read_link(path).unwrap().display());
    } else if meta.is_file() {
        // An ordinary user may not read all that the tests make.
        let content = fs::read(path).unwrap_or_else(|_| b"unreadable".to_vec());
        let sum = content.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
        line = format!("{line} {} {sum:x}", content.len());
    }
    lines.push(line);
    if meta.is_dir()
        && let Ok(entries) = fs::read_dir(path)
    {
        for entry in entries {
            let entry = entry.unwrap();
            let name = [name.as_bytes(), b"/", entry.file_name().as_bytes()].concat();
            walk(&entry.path(), OsStr::from_bytes(&name), times, lines);
        }
    }
}

/// A time that a test has set; others depend on when it ran.
fn known(time: i64) -> String {
    if time < 1_500_000_000 { time.to_string() } else { "now".to_owned() }
}
