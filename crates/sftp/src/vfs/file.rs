//! Open files and directories of the operating system, and the translation of its structures.

use std::ffi::CStr;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, Advice, AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::guard::Guard;
use super::{DirEntry, FsStat, Metadata, OpenFlags, Owner, Result, Times, VfsDir, VfsFile, Wait};

/// A file descriptor.
pub(super) struct OsFile {
    fd: OwnedFd,
    may_block: bool,
    flags: OpenFlags,
}

impl OsFile {
    /// Wraps what was opened, if the guard lets it be used. With [`Wait::Refused`] something that became a pipe in the meantime is refused.
    pub(super) fn wrap(fd: OwnedFd, flags: OpenFlags, wait: Wait, guard: &Guard) -> Result<Arc<dyn VfsFile>> {
        let meta = from_stat(&fs::fstat(&fd)?);
        guard.opened(fd.as_fd(), &meta, flags)?;
        let may_block = meta.may_block();
        if may_block && wait == Wait::Refused {
            return Err(Errno::WOULDBLOCK);
        }
        Ok(Arc::new(Self { fd, may_block, flags }))
    }

    /// OpenSSH seeks only where it does not append, so an appending handle may be a pipe, which no positioned write takes.
    fn appends_to_stream(&self) -> bool {
        self.may_block && self.flags.has(OpenFlags::APPEND)
    }
}

impl VfsFile for OsFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        rustix::io::retry_on_intr(|| rustix::io::pread(&self.fd, &mut *buf, offset))
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<usize> {
        if self.appends_to_stream() {
            return rustix::io::retry_on_intr(|| rustix::io::write(&self.fd, buf));
        }
        rustix::io::retry_on_intr(|| rustix::io::pwrite(&self.fd, buf, offset))
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<usize> {
        if self.appends_to_stream() {
            return bufs.first().map_or(Ok(0), |b| self.write_at(b, offset));
        }
        rustix::io::retry_on_intr(|| rustix::io::pwritev(&self.fd, bufs, offset))
    }

    fn stat(&self) -> Result<Metadata> {
        Ok(from_stat(&fs::fstat(&self.fd)?))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        fs::ftruncate(&self.fd, len)
    }

    fn set_mode(&self, mode: u32) -> Result<()> {
        fs::fchmod(&self.fd, Mode::from_raw_mode(mode & 0o7777))
    }

    fn set_times(&self, times: Times) -> Result<()> {
        fs::futimens(&self.fd, &timestamps(times))
    }

    fn set_owner(&self, owner: Owner) -> Result<()> {
        fs::fchown(&self.fd, user(owner), group(owner))
    }

    fn sync(&self) -> Result<()> {
        fs::fsync(&self.fd)
    }

    fn stat_fs(&self) -> Result<FsStat> {
        Ok(from_statvfs(&fs::fstatvfs(&self.fd)?))
    }

    fn may_block(&self) -> bool {
        self.may_block
    }

    fn expect_sequential(&self) {
        // A hint that is not taken changes nothing.
        let _ = fs::fadvise(&self.fd, 0, None, Advice::Sequential);
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }
}

/// A directory being listed; holds one buffer of a few kilobytes, never the whole directory.
pub(super) struct OsDir {
    dir: fs::Dir,
    dot_dot: DotDot,
}

/// Whose attributes a listing shows for `..`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DotDot {
    /// The directory above.
    Parent,
    /// The listed directory: above it may be outside of the root.
    Own,
}

impl OsDir {
    /// Takes a directory opened for reading.
    pub(super) fn wrap(fd: OwnedFd, dot_dot: DotDot) -> Result<Box<dyn VfsDir>> {
        Ok(Box::new(Self { dir: fs::Dir::new(fd)?, dot_dot }))
    }

    fn lstat(&self, name: &CStr) -> Result<Metadata> {
        let name = if name == c".." && self.dot_dot == DotDot::Own { c"." } else { name };
        Ok(from_stat(&fs::statat(self.dir.fd()?, name, AtFlags::SYMLINK_NOFOLLOW)?))
    }
}

impl VfsDir for OsDir {
    fn next_entry(&mut self) -> Result<Option<DirEntry>> {
        while let Some(entry) = self.dir.read() {
            let entry = entry?;
            // Gone since, or not to be seen: OpenSSH leaves such entries out.
            let Ok(meta) = self.lstat(entry.file_name()) else { continue };
            return Ok(Some(DirEntry { name: entry.file_name().to_bytes().to_vec(), meta }));
        }
        Ok(None)
    }
}

/// The `O_*` flags of an open, as OpenSSH's server translates them.
pub(super) fn open_flags(flags: OpenFlags) -> OFlags {
    let mut out = match (flags.has(OpenFlags::READ), flags.has(OpenFlags::WRITE)) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        (_, false) => OFlags::RDONLY,
    };
    // No terminal may become ours by being opened.
    out |= OFlags::CLOEXEC | OFlags::NOCTTY;
    for (bit, flag) in [
        (OpenFlags::APPEND, OFlags::APPEND),
        (OpenFlags::CREATE, OFlags::CREATE),
        (OpenFlags::TRUNCATE, OFlags::TRUNC),
        (OpenFlags::EXCLUSIVE, OFlags::EXCL),
    ] {
        if flags.has(bit) {
            out |= flag;
        }
    }
    out
}

/// Translates `struct stat`.
#[expect(
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    reason = "sizes are not negative, nanoseconds fit"
)]
pub(super) fn from_stat(stat: &fs::Stat) -> Metadata {
    Metadata {
        mode: stat.st_mode,
        size: stat.st_size as u64,
        uid: stat.st_uid,
        gid: stat.st_gid,
        atime: stat.st_atime,
        atime_nsec: stat.st_atime_nsec as u32,
        mtime: stat.st_mtime,
        mtime_nsec: stat.st_mtime_nsec as u32,
        nlink: stat.st_nlink,
        dev: stat.st_dev,
        ino: stat.st_ino,
    }
}

/// Translates `struct statvfs`.
pub(super) fn from_statvfs(stat: &fs::StatVfs) -> FsStat {
    let read_only = u64::from(stat.f_flag.contains(fs::StatVfsMountFlags::RDONLY));
    let no_suid = u64::from(stat.f_flag.contains(fs::StatVfsMountFlags::NOSUID));
    FsStat {
        bsize: stat.f_bsize,
        frsize: stat.f_frsize,
        blocks: stat.f_blocks,
        bfree: stat.f_bfree,
        bavail: stat.f_bavail,
        files: stat.f_files,
        ffree: stat.f_ffree,
        favail: stat.f_favail,
        fsid: stat.f_fsid,
        flag: read_only | no_suid << 1,
        namemax: stat.f_namemax,
    }
}

/// Translates times to set.
pub(super) fn timestamps(times: Times) -> Timestamps {
    let spec = |tv_sec, nsec: u32| Timespec { tv_sec, tv_nsec: nsec.into() };
    Timestamps {
        last_access: spec(times.atime, times.atime_nsec),
        last_modification: spec(times.mtime, times.mtime_nsec),
    }
}

/// The user to set, `None` for "as it is".
pub(super) fn user(owner: Owner) -> Option<Uid> {
    (owner.uid != u32::MAX).then(|| Uid::from_raw(owner.uid))
}

/// The group to set, `None` for "as it is".
pub(super) fn group(owner: Owner) -> Option<Gid> {
    (owner.gid != u32::MAX).then(|| Gid::from_raw(owner.gid))
}
