//! What a file server does not open although its user may: the ways past its scope and past the audit trail.
//!
//! Primer: links of `/proc` such as `/proc/self/fd/2`, to which `/dev/stderr` leads, open what a process has open. One of these is the pipe
//! that carries the audit lines: whoever wrote to it would invent some, and whoever read from it would take some away. A pipe without a name
//! is nobody's file, so none is opened, in whichever process it is. A file of `/proc` is no file either: writing to it changes a process,
//! and `/proc/self/mem` is this server. Such are opened for reading alone. Everything is asked of what has been opened, before anything is
//! read or written, so that links, mounts and races change nothing. Opening a file for reading costs nothing more than before.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self, PROC_SUPER_MAGIC, StatFs};
use rustix::io::Errno;
use rustix::stdio::{stderr, stdin, stdout};

use super::{Metadata, OpenFlags, Result, S_IFMT};

/// Type: pipe.
const S_IFIFO: u32 = 0o010_000;
/// The type of the file system that pipes without a name are in, from the kernel's `magic.h`.
const PIPE_MAGIC: u64 = 0x5049_5045;
/// No device has this number.
const NO_DEVICE: u64 = u64::MAX;

/// Decides, and remembers a device that is not `/proc`: to ask for the type of a file system may be slow (FUSE, NFS), and what is written
/// lies in the same one as a rule.
#[derive(Debug)]
pub(super) struct Guard {
    plain: AtomicU64,
    /// The server's own streams, by device and inode, once somebody asked.
    own: OnceLock<[Option<(u64, u64)>; 3]>,
}

impl Guard {
    pub(super) const fn new() -> Self {
        Self { plain: AtomicU64::new(NO_DEVICE), own: OnceLock::new() }
    }

    /// Whether what was opened with these flags may be used.
    pub(super) fn opened(&self, fd: BorrowedFd<'_>, meta: &Metadata, flags: OpenFlags) -> Result<()> {
        if meta.mode & S_IFMT == S_IFIFO {
            // One in the file system is served as ever, but where it is a stream of the server.
            return if is_pipes(&fs::fstatfs(fd)?) || self.is_own(meta) {
                Err(Errno::ACCESS)
            } else {
                Ok(())
            };
        }
        if flags.changes() { self.change(fd, meta) } else { Ok(()) }
    }

    /// Whether what is open may be changed.
    pub(super) fn change(&self, fd: BorrowedFd<'_>, meta: &Metadata) -> Result<()> {
        // A stream may be a file. (An open that empties it has done that by now; the streams that the gateway makes are pipes.)
        if meta.is_file() && self.is_own(meta) {
            return Err(Errno::ACCESS);
        }
        if meta.dev == self.plain.load(Ordering::Relaxed) {
            return Ok(());
        }
        if is_proc(&fs::fstatfs(fd)?) {
            return Err(Errno::ACCESS);
        }
        self.plain.store(meta.dev, Ordering::Relaxed);
        Ok(())
    }

    fn is_own(&self, meta: &Metadata) -> bool {
        let number = |fd: BorrowedFd<'_>| fs::fstat(fd).ok().map(|it| (it.st_dev, it.st_ino));
        let own = self.own.get_or_init(|| [stdin(), stdout(), stderr()].map(|fd| number(fd.as_fd())));
        own.contains(&Some((meta.dev, meta.ino)))
    }
}

/// Whether what a path leads to may be changed by that path. What is not there gets its error from the change.
pub(super) fn path(path: &[u8]) -> Result<()> {
    match fs::statfs(path) {
        Ok(found) if is_proc(&found) || is_pipes(&found) => Err(Errno::ACCESS),
        _ => Ok(()),
    }
}

/// Whether this is `/proc`.
pub(super) fn is_proc(found: &StatFs) -> bool {
    found.f_type == PROC_SUPER_MAGIC
}

fn is_pipes(found: &StatFs) -> bool {
    u64::try_from(found.f_type) == Ok(PIPE_MAGIC)
}
