//! What a file server does not open although its user may: the ways past its scope and past the audit trail.
//!
//! Primer: links of `/proc` such as `/proc/self/fd/2`, to which `/dev/stderr` leads, open what a process has open. One of these is the pipe
//! that carries the audit lines: whoever wrote to it would invent some, and whoever read from it would take some away. A pipe without a name
//! is nobody's file, so none is opened, in whichever process it is. A file of `/proc` is no file either: writing to it changes a process,
//! and `/proc/self/mem` is this server. Such are opened for reading alone. Everything is asked of what has been opened, before anything is
//! read or written, so that links, mounts and races change nothing. Opening a file for reading costs nothing more than before.

use std::os::fd::{AsFd, BorrowedFd};
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
}

impl Guard {
    pub(super) const fn new() -> Self {
        Self { plain: AtomicU64::new(NO_DEVICE) }
    }

    /// Whether what was opened with these flags may be used.
    pub(super) fn opened(&self, fd: BorrowedFd<'_>, meta: &Metadata, flags: OpenFlags) -> Result<()> {
        if meta.mode & S_IFMT == S_IFIFO {
            return pipe(fd, meta);
        }
        if flags.changes() { self.change(fd, meta.dev) } else { Ok(()) }
    }

    /// Whether what is open, and lies on this device, may be changed.
    pub(super) fn change(&self, fd: BorrowedFd<'_>, device: u64) -> Result<()> {
        if device == self.plain.load(Ordering::Relaxed) {
            return Ok(());
        }
        if is_proc(&fs::fstatfs(fd)?) {
            return Err(Errno::ACCESS);
        }
        self.plain.store(device, Ordering::Relaxed);
        Ok(())
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

/// A pipe in the file system is served as ever, but where it is one of the server's own streams.
fn pipe(fd: BorrowedFd<'_>, meta: &Metadata) -> Result<()> {
    let same =
        |own: BorrowedFd<'_>| fs::fstat(own).is_ok_and(|it| (it.st_dev, it.st_ino) == (meta.dev, meta.ino));
    if is_pipes(&fs::fstatfs(fd)?) || [stdin(), stdout(), stderr()].iter().any(|own| same(own.as_fd())) {
        return Err(Errno::ACCESS);
    }
    Ok(())
}
