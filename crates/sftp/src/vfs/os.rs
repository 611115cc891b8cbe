//! The process's own view of the file system: the same system calls on the same paths as OpenSSH's server makes, less what `guard` keeps.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{self, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::file::{DotDot, OsDir, OsFile, from_stat, from_statvfs, group, open_flags, timestamps, user};
use super::guard::{self, Guard};
use super::{Follow, FsStat, Metadata, OpenFlags, Owner, Result, Times, Vfs, VfsDir, VfsFile, Wait};

/// No restriction: paths mean what they mean to the process.
#[derive(Debug)]
pub struct OsVfs {
    guard: Guard,
}

impl Default for OsVfs {
    fn default() -> Self {
        Self::new()
    }
}

impl OsVfs {
    /// The file system as the process sees it.
    pub const fn new() -> Self {
        Self { guard: Guard::new() }
    }
}

impl Vfs for OsVfs {
    fn cwd(&self) -> Result<Vec<u8>> {
        Ok(rustix::process::getcwd(Vec::new())?.into_bytes())
    }

    fn open(&self, path: &[u8], flags: OpenFlags, mode: u32, wait: Wait) -> Result<Arc<dyn VfsFile>> {
        let mut how = open_flags(flags);
        if wait == Wait::Refused {
            // Looked at before it is opened: opening a pipe, even without waiting, wakes the process at its other end.
            if !how.contains(OFlags::CREATE | OFlags::EXCL)
                && let Ok(stat) = fs::stat(path)
                && from_stat(&stat).may_block()
            {
                return Err(Errno::WOULDBLOCK);
            }
            // In case that it became a pipe since.
            how |= OFlags::NONBLOCK;
        }
        let fd = fs::openat(CWD, path, how, Mode::from_raw_mode(mode & 0o7777))?;
        OsFile::wrap(fd, flags, wait, &self.guard)
    }

    fn open_dir(&self, path: &[u8]) -> Result<Box<dyn VfsDir>> {
        let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        OsDir::wrap(fs::openat(CWD, path, how, Mode::empty())?, DotDot::Parent)
    }

    fn stat(&self, path: &[u8], follow: Follow) -> Result<Metadata> {
        let stat = match follow {
            Follow::Yes => fs::stat(path)?,
            Follow::No => fs::lstat(path)?,
        };
        Ok(from_stat(&stat))
    }

    fn set_len(&self, path: &[u8], len: u64) -> Result<()> {
        let meta = from_stat(&fs::stat(path)?);
        if !meta.is_file() {
            return Err(if meta.is_dir() { Errno::ISDIR } else { Errno::INVAL });
        }
        // Should it have become a pipe since, then without waiting for its reader.
        let fd = fs::openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
        self.guard.change(fd.as_fd(), &from_stat(&fs::fstat(&fd)?))?;
        fs::ftruncate(fd, len)
    }

    fn set_mode(&self, path: &[u8], mode: u32, follow: Follow) -> Result<()> {
        if follow == Follow::No && from_stat(&fs::lstat(path)?).is_symlink() {
            return Err(Errno::OPNOTSUPP);
        }
        guarded(path, follow)?;
        fs::chmod(path, Mode::from_raw_mode(mode & 0o7777))
    }

    fn set_times(&self, path: &[u8], times: Times, follow: Follow) -> Result<()> {
        guarded(path, follow)?;
        fs::utimensat(CWD, path, &timestamps(times), at_flags(follow))
    }

    fn set_owner(&self, path: &[u8], owner: Owner, follow: Follow) -> Result<()> {
        guarded(path, follow)?;
        fs::chownat(CWD, path, user(owner), group(owner), at_flags(follow))
    }

    fn make_dir(&self, path: &[u8], mode: u32) -> Result<()> {
        fs::mkdir(path, Mode::from_raw_mode(mode & 0o7777))
    }

    fn remove_dir(&self, path: &[u8]) -> Result<()> {
        fs::rmdir(path)
    }

    fn remove_file(&self, path: &[u8]) -> Result<()> {
        fs::unlink(path)
    }

    fn rename(&self, from: &[u8], to: &[u8]) -> Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &[u8], to: &[u8]) -> Result<()> {
        fs::link(from, to)
    }

    fn symlink(&self, target: &[u8], path: &[u8]) -> Result<()> {
        fs::symlink(target, path)
    }

    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>> {
        Ok(fs::readlink(path, Vec::new())?.into_bytes())
    }

    fn stat_fs(&self, path: &[u8]) -> Result<FsStat> {
        Ok(from_statvfs(&fs::statvfs(path)?))
    }
}

/// A link that is changed itself leads nowhere.
fn guarded(path: &[u8], follow: Follow) -> Result<()> {
    match follow {
        Follow::Yes => guard::path(path),
        Follow::No => Ok(()),
    }
}

fn at_flags(follow: Follow) -> AtFlags {
    match follow {
        Follow::Yes => AtFlags::empty(),
        Follow::No => AtFlags::SYMLINK_NOFOLLOW,
    }
}
