//! Trees of files, what they look like on either side, and the stock client's programs that copy them.

use std::ffi::OsStr;
use std::fs::{File, FileTimes, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::client::DEADLINE;
use crate::process::{Feed, Output, run};
use crate::target::Target;
use crate::{data, paths};

/// Sizes around the block and packet sizes of clients and server, in bytes.
const SIZES: [usize; 12] =
    [0, 1, 4095, 4096, 32_767, 32_768, 32_769, 65_536, 261_120, 262_144, 262_145, 1_500_001];
/// Names that every client can carry.
const NAMES: [&str; 12] = [
    "empty",
    "a",
    "with space",
    "UPPER.txt",
    "ünïcödé",
    ".hidden",
    "-dash",
    "q'uote\"d",
    "semi;colon",
    "$dollar",
    "per%cent",
    "hash#",
];
/// The oldest time in a tree, in seconds since 1970: 2001-09-09.
const TIME: u64 = 1_000_000_000;
/// How deep a tree goes.
const DEPTH: usize = 12;

/// Makes a tree at `dir`: every size, modes from 0400 to 0777, a deep end, an empty directory, old times. Names are tame.
pub fn make_tree(dir: &Path) {
    std::fs::create_dir_all(dir.join("sub/empty directory")).unwrap();
    let deep: PathBuf = (0..DEPTH).map(|level| format!("level {level}")).collect();
    std::fs::create_dir_all(dir.join(&deep)).unwrap();
    let modes = [0o644, 0o600, 0o755, 0o640, 0o400, 0o777];
    for (index, (name, size)) in NAMES.iter().zip(SIZES).enumerate() {
        let parent = [dir.to_owned(), dir.join("sub"), dir.join(&deep)][index % 3].clone();
        write_file(&parent.join(name), &data::random(index as u64, size), modes[index % modes.len()]);
    }
    set_old_times(dir);
}

/// Adds names that shells, patterns and decoders trip over: newline, star, backslash, 255 bytes, no UTF-8, a leading dash.
pub fn add_odd_names(dir: &Path) {
    let long = [b'n'; 255];
    let odd: [&[u8]; 8] =
        [b"new\nline", b"star*", b"[a-z]", b"back\\slash", b"no \xff\xfe utf-8", b"-rf", b" spaces ", &long];
    for (index, name) in odd.into_iter().enumerate() {
        write_file(
            &dir.join(OsStr::from_bytes(name)),
            &data::random(100 + index as u64, 1000 + index),
            0o644,
        );
    }
    set_old_times(dir);
}

/// Makes `count` small files, a hundred to a directory.
pub fn make_many(dir: &Path, count: usize) {
    for index in 0..count {
        let parent = dir.join(format!("d{:03}", index / 100));
        std::fs::create_dir_all(&parent).unwrap();
        std::fs::write(parent.join(format!("f{index}")), data::random(index as u64, index * 7 % 8192))
            .unwrap();
    }
}

fn write_file(path: &Path, bytes: &[u8], mode: u32) {
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Gives everything below `dir` but links, and `dir`, a time of its own: whole seconds, since the protocols carry no fractions.
pub fn set_old_times(dir: &Path) {
    let mut pending = vec![dir.to_owned()];
    let mut found = Vec::new();
    while let Some(next) = pending.pop() {
        let entries = std::fs::read_dir(&next).unwrap().map(|entry| entry.unwrap().path());
        let (dirs, others): (Vec<_>, Vec<_>) =
            entries.filter(|path| !path.is_symlink()).partition(|path| path.is_dir());
        found.push(next);
        found.extend(others);
        pending.extend(dirs);
    }
    found.sort();
    for (index, path) in found.iter().enumerate() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(TIME + 1000 * index as u64);
        let times = FileTimes::new().set_accessed(time).set_modified(time);
        File::open(path).unwrap().set_times(times).unwrap();
    }
}

/// How much of a tree has to be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Names, kinds, and the bytes of the files.
    Contents,
    /// Modes, times and the targets of links as well.
    All,
}

impl Look {
    /// A script that prints what the tree at `dir` looks like; `dir` goes through a shell.
    fn script(self, dir: &str) -> String {
        let fields = match self {
            Self::Contents => "%y %P",
            Self::All => "%y %m %T@ %l %P",
        };
        format!(
            "cd '{dir}' && find . ! -type l -printf '{fields}\\0' -o -printf '%y %l %P\\0' | LC_ALL=C sort -z | tr '\\0' '\\n' && \
             find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum"
        )
    }

    /// What the tree at `dir` on this side looks like.
    #[track_caller]
    pub fn near(self, dir: &Path) -> String {
        let script = self.script(dir.to_str().unwrap());
        run(Command::new("bash").args(["-c", &script]), Feed::Null, DEADLINE).ok()
    }

    /// What the tree at `dir` on the far side looks like.
    #[track_caller]
    pub fn far(self, target: &Target, dir: &str) -> String {
        target.exec(&self.script(dir)).ok()
    }
}

/// Asserts that two trees look the same, and says where they do not.
///
/// # Panics
/// When they differ.
#[track_caller]
pub fn same(one: &str, other: &str) {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    let (left, right) = (lines(one), lines(other));
    let missing: Vec<_> = left.difference(&right).take(10).collect();
    let added: Vec<_> = right.difference(&left).take(10).collect();
    assert!(
        !one.is_empty() && one == other,
        "the trees differ; only here: {missing:#?}, only there: {added:#?}"
    );
}

impl Target {
    /// A fresh directory on the far side, as an absolute path; the oracle's lies in the scratch directory, so nothing is left behind.
    #[track_caller]
    pub fn far_dir(&self) -> String {
        let dir = format!("{}/far", self.dir().display());
        self.exec(&format!("mkdir -p '{dir}'")).ok();
        dir
    }

    /// A tree of [`make_tree`] on this side.
    pub fn near_tree(&self) -> PathBuf {
        let dir = self.dir().join("tree");
        make_tree(&dir);
        dir
    }

    /// `scp -F config ARGS…` to its end; the far side is `box:`, another login goes in with `-o User=…`.
    #[track_caller]
    pub fn scp(&self, args: &[&str]) -> Output {
        let mut command = Command::new("scp");
        run(command.arg("-F").arg(self.config()).args(args), Feed::Null, DEADLINE)
    }

    /// `sftp -F config ARGS… -b - box` with these commands, to its end.
    #[track_caller]
    pub fn sftp(&self, args: &[&str], batch: &str) -> Output {
        let mut command = Command::new("sftp");
        command.arg("-F").arg(self.config()).args(args).args(["-b", "-", "box"]);
        run(&mut command, Feed::Bytes(batch.as_bytes().to_vec()), DEADLINE)
    }
}

/// Makes the directory of an image at `dir` that holds these programs of the host, with their libraries, and nothing else.
///
/// # Panics
/// When the host has no such program.
pub fn make_image(dir: &Path, programs: &[&str]) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
    for program in programs {
        let file =
            paths::which(program).unwrap_or_else(|| panic!("there is no {program} to put into an image"));
        put_program(dir, &file, program);
    }
}

/// Puts one program of the host into the image, as `/bin/NAME`, with its libraries.
///
/// # Panics
/// When it cannot be read.
pub fn put_program(dir: &Path, file: &Path, name: &str) {
    put(dir, file, Path::new("/bin").join(name).as_path());
    // A static program has no libraries, and ldd says so with an error.
    let list = run(Command::new("ldd").arg(file), Feed::Null, DEADLINE).text();
    for library in list.split_whitespace().filter(|word| word.starts_with('/')) {
        put(dir, Path::new(library), Path::new(library));
    }
}

fn put(image: &Path, from: &Path, to: &Path) {
    let to = image.join(to.strip_prefix("/").unwrap());
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(from, to).unwrap();
}
