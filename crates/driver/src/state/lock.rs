//! The two locks of a sandbox.
//!
//! *op.lock* is a BSD lock (flock): it belongs to an open file, so two tasks of one gateway exclude each other as well as two
//! gateways do. *run.lock* is a POSIX record lock: it belongs to a process and is not inherited by fork, so a container's init
//! that has not called exec yet cannot keep it alive after its shim was killed. Both vanish with their holder, however that
//! ends, which no file with a process id in it can promise.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::io::Errno;

/// How often a waiter looks again.
const RETRY: Duration = Duration::from_millis(10);

/// Holds an flock until dropped.
#[derive(Debug)]
pub(crate) struct OpLock {
    _file: File,
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

impl OpLock {
    /// Takes the lock, waiting at most `patience`. `Ok(None)` means that somebody else still has it.
    pub(crate) fn acquire(path: &Path, patience: Duration) -> io::Result<Option<Self>> {
        let deadline = Instant::now() + patience;
        loop {
            let file = open(path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // A lock on a file that was removed meanwhile excludes nobody.
                Ok(()) if is_at(&file, path)? => return Ok(Some(Self { _file: file })),
                Ok(()) | Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(RETRY);
        }
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(found) => Ok(found.ino() == held.ino() && found.dev() == held.dev()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Holds the POSIX lock of a running shim until the process ends.
#[derive(Debug)]
pub(crate) struct RunLock {
    _file: File,
}

impl RunLock {
    /// Takes the lock for this process. `Ok(None)` means that another shim has it.
    pub(crate) fn acquire(path: &Path) -> io::Result<Option<Self>> {
        let file = open(path)?;
        // A gateway that probes holds the lock for a moment.
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(Self { _file: file })),
                Err(Errno::WOULDBLOCK | Errno::ACCESS | Errno::INTR) if Instant::now() < deadline => {
                    std::thread::sleep(RETRY);
                }
                Err(Errno::WOULDBLOCK | Errno::ACCESS) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether a shim lives. Must not be called by the shim itself: it would give its own lock away.
    pub(crate) fn is_held(path: &Path) -> io::Result<bool> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match fcntl_lock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK | Errno::ACCESS) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_operation_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("op.lock");
        let held = OpLock::acquire(&path, Duration::ZERO).unwrap().unwrap();
        assert!(OpLock::acquire(&path, Duration::from_millis(30)).unwrap().is_none());
        drop(held);
        assert!(OpLock::acquire(&path, Duration::ZERO).unwrap().is_some());
    }

    #[test]
    fn a_lock_on_a_removed_file_is_not_taken_for_the_real_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("op.lock");
        let _held = OpLock::acquire(&path, Duration::ZERO).unwrap().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(OpLock::acquire(&path, Duration::ZERO).unwrap().is_some());
    }

    #[test]
    fn nobody_holds_a_lock_that_was_never_made() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!RunLock::is_held(&dir.path().join("run.lock")).unwrap());
    }
}
