//! A layer of an image as a disk: one read-only erofs file for machines that have no view of the host's directories.
//!
//! Made once by `mkfs.erofs` and kept in `<data-dir>/images/disks/<key>.erofs`. An archive that we unpacked is known by its digest;
//! a directory of the host's, which may change, by what a walk over it sees. Owners are those of the files, literally. Not
//! compressed: a guest reads faster that way, and /usr is on the host's disk once anyway.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::digest;
use walkdir::WalkDir;

use super::hex;
use crate::shim::find_program;
use crate::shim::message::{Failure, Report};
use crate::state::lock::OpLock;
use crate::state::{DataDir, Layer};

/// The program that makes the file, and the Debian package it comes in.
const PROGRAM: &str = "mkfs.erofs";
const PACKAGE: &str = "erofs-utils";

/// How long to wait for another sandbox that makes the same disk, and how long making one may take: 64 GiB at 100 MiB/s.
const PATIENCE: Duration = Duration::from_secs(660);
const BUILD_DEADLINE: Duration = Duration::from_secs(650);

/// How often a running mkfs.erofs is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Most entries of a directory that becomes a disk; as for archives.
const MAX_ENTRIES: u64 = 4_000_000;

/// How much of what mkfs.erofs says is shown, in bytes from its end.
const MAX_WORDS: u64 = 400;

/// What the disks of directories that are not ours begin with; the rest is a digest.
const DIRECTORY: &str = "dir-";

/// Where the disks are.
pub(crate) fn home(data: &DataDir) -> PathBuf {
    data.images().join("disks")
}

/// Removes the disks that were made of directories of the host, but for those that are `needed` and those that were used within `kept`. An archive's disk
/// goes with what was unpacked of it. The caller has made sure that nobody makes a machine.
pub(crate) fn sweep(home: &Path, needed: &BTreeSet<OsString>, kept: Duration) -> Result<(), Failure> {
    let entries = match fs::read_dir(home) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::io("list the disks")(error)),
    };
    // Also what an attempt has left that was cut off: a lock, a half-made file, a log.
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let keys: BTreeSet<String> = names
        .filter(|name| name.starts_with(DIRECTORY))
        .filter_map(|name| name.split_once('.').map(|(key, _)| key.to_owned()))
        .collect();
    for key in keys {
        let file = |kind: &str| home.join(format!("{key}.{kind}"));
        let changed = |kind| fs::metadata(file(kind)).and_then(|it| it.modified()).ok();
        let used = changed("lock").max(changed("erofs"));
        let is_young = used.is_some_and(|at| at.elapsed().is_ok_and(|age| age < kept));
        if needed.contains(&OsString::from(format!("{key}.erofs"))) || is_young {
            continue;
        }
        let lock = OpLock::acquire(&file("lock"), Duration::ZERO).map_err(Failure::io("lock a disk"))?;
        if lock.is_some() {
            for kind in ["erofs", "new", "log", "lock"] {
                remove_if_there(&file(kind))?;
            }
        }
    }
    Ok(())
}

/// The erofs file of a layer, made where it is missing.
pub(crate) fn prepare(data: &DataDir, layer: &Layer, report: &mut Report) -> Result<PathBuf, Failure> {
    let unpacked = unpacked_key(data, &layer.source);
    let key = match &unpacked {
        Some(key) => key.clone(),
        None => walk_key(&layer.source)?,
    };
    let home = home(data);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&home)
        .map_err(Failure::io("make the directory of disks"))?;
    let disk = home.join(format!("{key}.erofs"));
    let lock_file = home.join(format!("{key}.lock"));
    let lock = OpLock::acquire(&lock_file, PATIENCE).map_err(Failure::io("lock the disk"))?;
    let Some(_lock) = lock else {
        return Err(Failure::image("another sandbox has been making its disk for too long"));
    };
    // For whoever removes those that nobody has used for long.
    let _ = File::open(&lock_file).and_then(|lock| lock.set_modified(SystemTime::now()));
    if disk.exists() {
        return Ok(disk);
    }
    let Some(program) = find_program(PROGRAM) else {
        return Err(Failure::machine(format!("{PROGRAM} is missing; install the package {PACKAGE}")));
    };
    report.step("making a disk of the image");
    let fresh = home.join(format!("{key}.new"));
    // From an attempt that was interrupted: nobody else has this name while we hold the lock.
    let made = remove_if_there(&fresh)
        .and_then(|()| build(&program, &layer.source, &fresh, &home.join(format!("{key}.log"))))
        .and_then(|()| {
            // A package that was installed meanwhile would leave a mixture of old and new under the old name.
            if unpacked.is_none() && walk_key(&layer.source)? != key {
                return Err(Failure::image("its files changed while they were read; try again"));
            }
            finish(&fresh, &disk)
        });
    if made.is_err() {
        remove_if_there(&fresh)?;
    }
    made.map(|()| disk)
}

/// The name of an archive that we unpacked ourselves, which never changes.
fn unpacked_key(data: &DataDir, source: &Path) -> Option<String> {
    let name = source.strip_prefix(data.images()).ok()?.to_str()?.strip_suffix("/rootfs")?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (!name.is_empty() && name.bytes().all(plain)).then(|| name.to_owned())
}

/// A digest over everything about the files below `source` but their content. Change times are in it, so that new content under
/// an old date and size is noticed too.
fn walk_key(source: &Path) -> Result<String, Failure> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut field = |bytes: &[u8]| {
        context.update(&(bytes.len() as u64).to_le_bytes());
        context.update(bytes);
    };
    let mut entries = 0u64;
    for entry in WalkDir::new(source).sort_by_file_name() {
        let entry = entry.map_err(Failure::io(format!("walk over {}", source.display())))?;
        entries += 1;
        if entries > MAX_ENTRIES {
            return Err(Failure::image(format!("it has more than {MAX_ENTRIES} entries")));
        }
        let meta = entry.metadata().map_err(Failure::io(format!("read {}", entry.path().display())))?;
        let changed = if meta.is_dir() { (0, 0) } else { (meta.ctime(), meta.ctime_nsec()) };
        let path = entry.path().strip_prefix(source).unwrap_or(entry.path());
        field(path.as_os_str().as_bytes());
        field(&meta.mode().to_le_bytes());
        field(&meta.uid().to_le_bytes());
        field(&meta.gid().to_le_bytes());
        field(&meta.size().to_le_bytes());
        field(&meta.rdev().to_le_bytes());
        for time in [meta.mtime(), meta.mtime_nsec(), changed.0, changed.1] {
            field(&time.to_le_bytes());
        }
        if meta.is_symlink() {
            let target = fs::read_link(entry.path())
                .map_err(Failure::io(format!("read {}", entry.path().display())))?;
            field(target.as_os_str().as_bytes());
        }
    }
    Ok(format!("{DIRECTORY}{}", hex(context.finish().as_ref())))
}

fn build(program: &Path, source: &Path, fresh: &Path, log: &Path) -> Result<(), Failure> {
    let words = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(log)
        .map_err(Failure::io("make a log"))?;
    let stderr = words.try_clone().map_err(Failure::io("make a log"))?;
    let mut child = Command::new(program)
        // Errors alone; the identity of a cached file must not be random.
        .args(["-d1", "-U00000000-0000-0000-0000-000000000000"])
        .arg(fresh)
        .arg(source)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .map_err(Failure::io(format!("start {}", program.display())))?;
    let deadline = Instant::now() + BUILD_DEADLINE;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(Failure::io(format!("wait for {PROGRAM}")))? {
            break status;
        }
        if Instant::now() >= deadline {
            // It may have ended just now; either way it is gone after the wait.
            let _ = child.kill();
            child.wait().map_err(Failure::io(format!("wait for {PROGRAM}")))?;
            remove_if_there(log)?;
            return Err(Failure::image(format!(
                "{PROGRAM} was not done within {} s",
                BUILD_DEADLINE.as_secs()
            )));
        }
        std::thread::sleep(LOOK);
    };
    let said = last_words(words);
    remove_if_there(log)?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::image(format!("{PROGRAM} failed ({status}): {said}")))
}

/// The end of a log, as one printable line.
fn last_words(mut log: File) -> String {
    let length = log.metadata().map(|meta| meta.len()).unwrap_or_default();
    let mut bytes = Vec::new();
    let read = log
        .seek(SeekFrom::Start(length.saturating_sub(MAX_WORDS)))
        .and_then(|_| log.take(MAX_WORDS).read_to_end(&mut bytes));
    if read.is_err() {
        return "its words cannot be read".to_owned();
    }
    let text = String::from_utf8_lossy(&bytes);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.trim().to_owned()
}

/// Makes the file whole on the disk before it gets the name that is believed.
fn finish(fresh: &Path, disk: &Path) -> Result<(), Failure> {
    let fail = || Failure::io("keep the disk of the image");
    // For each machine's user, in its jail; on the host the directory keeps others out.
    fs::set_permissions(fresh, fs::Permissions::from_mode(0o444)).map_err(fail())?;
    File::open(fresh).and_then(|file| file.sync_all()).map_err(fail())?;
    fs::rename(fresh, disk).map_err(fail())
}

fn remove_if_there(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Failure::io(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;
    use crate::state::LayerOwner;

    fn layer(source: &Path) -> Layer {
        Layer { source: source.to_owned(), target: String::new(), owner: LayerOwner::Literal }
    }

    #[test]
    fn disks_of_directories_go_when_no_machine_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("disks");
        let day = Duration::from_secs(24 * 3600);
        sweep(&home, &BTreeSet::new(), day).unwrap();
        fs::create_dir(&home).unwrap();
        let make = |name: &str, ago: Duration| {
            fs::write(home.join(name), "").unwrap();
            File::open(home.join(name)).unwrap().set_modified(SystemTime::now() - ago).unwrap();
        };
        for key in ["dir-used", "dir-old", "dir-locked", "dir-again", "sha256-00"] {
            make(&format!("{key}.erofs"), 2 * day);
            make(&format!("{key}.lock"), 2 * day);
        }
        // Found there and taken once more an hour ago.
        make("dir-again.lock", day / 24);
        make("dir-half.new", 2 * day);
        make("dir-half.log", 2 * day);
        let locked = OpLock::acquire(&home.join("dir-locked.lock"), Duration::ZERO).unwrap().unwrap();
        let needed = BTreeSet::from([OsString::from("dir-used.erofs")]);
        let left = || {
            let names = fs::read_dir(&home).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name.ends_with(".erofs")).collect::<BTreeSet<_>>()
        };
        let names = |keys: &[&str]| keys.iter().map(|key| format!("{key}.erofs")).collect::<BTreeSet<_>>();
        sweep(&home, &needed, day).unwrap();
        assert_eq!(left(), names(&["dir-used", "dir-locked", "dir-again", "sha256-00"]));
        let gone = ["dir-old.lock", "dir-half.new", "dir-half.log", "dir-half.lock"];
        assert!(gone.iter().all(|name| !home.join(name).exists()));
        drop(locked);
        sweep(&home, &needed, Duration::ZERO).unwrap();
        assert_eq!(left(), names(&["dir-used", "sha256-00"]));
    }

    /// One line for each path: type, mode, owner, size or target, content, extended attributes aside.
    fn listing(root: &Path) -> Vec<String> {
        let walk = WalkDir::new(root).sort_by_file_name();
        walk.into_iter()
            .map(|entry| {
                let entry = entry.unwrap();
                let meta = entry.metadata().unwrap();
                let content = if meta.is_symlink() {
                    fs::read_link(entry.path()).unwrap().into_os_string().into_encoded_bytes()
                } else if meta.is_file() {
                    fs::read(entry.path()).unwrap()
                } else {
                    Vec::new()
                };
                let path = entry.path().strip_prefix(root).unwrap().to_owned();
                let (mode, uid, gid, time) = (meta.mode(), meta.uid(), meta.gid(), meta.mtime());
                format!("{path:?} {mode:o} {uid}:{gid} {time} {}", content.escape_ascii())
            })
            .collect()
    }

    fn tree(root: &Path) {
        fs::create_dir_all(root.join("etc/deep")).unwrap();
        fs::write(root.join("etc/deep/file"), "content").unwrap();
        fs::write(root.join("big"), vec![7; 100_000]).unwrap();
        fs::write(root.join("setuid"), "x").unwrap();
        if rustix::process::geteuid().is_root() {
            chown(root.join("etc/deep/file"), Some(1000), Some(33)).unwrap();
        }
        fs::set_permissions(root.join("setuid"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::hard_link(root.join("big"), root.join("big2")).unwrap();
        symlink("/etc/../nowhere", root.join("link")).unwrap();
    }

    #[test]
    fn a_changed_directory_has_another_key() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        tree(&root);
        let mut keys = vec![walk_key(&root).unwrap()];
        assert_eq!(keys[0], walk_key(&root).unwrap());
        let changes: [&dyn Fn(); 4] = [
            &|| fs::set_permissions(root.join("big"), fs::Permissions::from_mode(0o600)).unwrap(),
            &|| fs::write(root.join("etc/deep/file"), "CONTENT").unwrap(),
            &|| fs::rename(root.join("setuid"), root.join("setuid2")).unwrap(),
            &|| fs::write(root.join("etc/new"), "").unwrap(),
        ];
        for change in changes {
            change();
            let key = walk_key(&root).unwrap();
            assert!(!keys.contains(&key));
            keys.push(key);
        }
    }

    #[test]
    fn only_what_we_unpacked_is_known_by_its_name() {
        let data = DataDir::new("/data");
        let key = |path: &str| unpacked_key(&data, Path::new(path));
        assert_eq!(key("/data/images/sha256-00/rootfs").as_deref(), Some("sha256-00"));
        assert_eq!(key("/data/images/../rootfs"), None);
        assert_eq!(key("/data/images/a/b/rootfs"), None);
        assert_eq!(key("/usr"), None);
    }

    #[test]
    fn a_disk_holds_what_the_directory_held() {
        if find_program(PROGRAM).is_none() {
            eprintln!("skipped: {PROGRAM} is not installed");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path().join("data"));
        let root = dir.path().join("root");
        tree(&root);
        let disk = prepare(&data, &layer(&root), &mut Report::default()).unwrap();
        let made = fs::metadata(&disk).unwrap();
        // The second time it is the same file.
        assert_eq!(prepare(&data, &layer(&root), &mut Report::default()).unwrap(), disk);
        assert_eq!(fs::metadata(&disk).unwrap().ino(), made.ino());
        let left: Vec<_> =
            fs::read_dir(disk.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "the disk and its lock: {left:?}");

        let place = dir.path().join("mounted");
        fs::create_dir(&place).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "erofs", "-o", "ro,loop"])
            .arg(&disk)
            .arg(&place)
            .output()
            .unwrap();
        if !mount.status.success() {
            eprintln!("skipped: the disk cannot be mounted here: {}", String::from_utf8_lossy(&mount.stderr));
            return;
        }
        let mounted = listing(&place);
        let umount = Command::new("umount").arg(&place).status().unwrap();
        assert!(umount.success());
        assert_eq!(mounted, listing(&root));
    }

    #[test]
    fn a_failed_attempt_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (fresh, log) = (dir.path().join("new"), dir.path().join("log"));
        let failure = build(Path::new("/bin/false"), dir.path(), &fresh, &log).unwrap_err();
        assert!(failure.reason.contains("failed"), "{}", failure.reason);
        assert!(!fresh.exists() && !log.exists());
    }
}
