//! A directory as `/`: nothing outside of it can be reached, whatever links, `..` and races there are.
//!
//! Primer: every path is opened by the kernel with `openat2` and `RESOLVE_IN_ROOT`, below a descriptor of the root directory; absolute
//! links and `..` then end at that directory, also when somebody renames things meanwhile. Operations on a name (unlink, rename, …) open
//! the name's directory that way and then use the last component only, which is never `.` or `..` and which those calls do not follow.
//! Operations on what a name stands for open that and act on the descriptor. There is no other way here from a path to a file: a kernel
//! that has no `openat2` or refuses it gets no rooted server at all.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::file::{DotDot, OsDir, OsFile, from_stat, from_statvfs, group, open_flags, timestamps, user};
use super::guard::{Guard, is_proc};
use super::{
    Follow, FsStat, MAX_PATH, Metadata, OpenFlags, Owner, Result, Times, Vfs, VfsDir, VfsFile, Wait,
};

/// How often a path is looked up again when the kernel saw a rename in the middle of it.
const RETRIES: usize = 64;

/// A file system whose `/` is a directory.
#[derive(Debug)]
pub struct RootedVfs {
    root: OwnedFd,
    /// `/proc`, for the one operation (chmod of what a path stands for) that old kernels do through it only.
    proc: Option<OwnedFd>,
    cwd: Vec<u8>,
    guard: Guard,
}

/// Why there is no rooted file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// The directory cannot be opened.
    #[error("The root directory cannot be opened.")]
    Root(#[source] Errno),
    /// The kernel does not hold paths inside a directory: older than Linux 5.6, or a filter refuses the call.
    #[error("The kernel refuses openat2, so files cannot be held inside a root directory.")]
    Unsupported(#[source] Errno),
}

impl RootedVfs {
    /// Takes `root`, a path as the process sees it, as `/`. Relative paths start at the process's working directory where that is inside,
    /// else at the root.
    ///
    /// # Errors
    /// [`RootError`]. It is never replaced by something weaker.
    pub fn new(root: &[u8]) -> std::result::Result<Self, RootError> {
        let how = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::openat(CWD, root, how, Mode::empty()).map_err(RootError::Root)?;
        let mut vfs = Self { root: fd, proc: proc(), cwd: b"/".to_vec(), guard: Guard::new() };
        vfs.look(b"/", Follow::Yes).map_err(RootError::Unsupported)?;
        let plain = super::OsVfs::new();
        if let (Ok(root), Ok(cwd)) = (plain.real_path(root), plain.cwd())
            && let Some(inside) = below(&cwd, &root)
            && vfs.stat(inside, Follow::Yes).is_ok_and(|meta| meta.is_dir())
        {
            vfs.cwd = inside.to_vec();
        }
        Ok(vfs)
    }

    /// Opens inside the root.
    fn open_at(&self, path: &[u8], flags: OFlags, mode: u32) -> Result<OwnedFd> {
        let full = self.full(path)?;
        // openat2 takes a mode only with a flag that can use it.
        let mode = if flags.contains(OFlags::CREATE) { mode & 0o7777 } else { 0 };
        // Links of /proc that lead to descriptors lead anywhere.
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC;
        for _ in 0..RETRIES {
            match fs::openat2(&self.root, &*full, flags, Mode::from_raw_mode(mode), resolve) {
                // A rename or mount came between; with O_NONBLOCK it may also be a lease, which is the caller's.
                Err(Errno::AGAIN) if !flags.contains(OFlags::NONBLOCK) => {}
                Err(Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// The path with the working directory before it.
    fn full(&self, path: &[u8]) -> Result<Vec<u8>> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        if path.len() > MAX_PATH {
            return Err(Errno::NAMETOOLONG);
        }
        Ok(if path[0] == b'/' { path.to_vec() } else { [&self.cwd, &b"/"[..], path].concat() })
    }

    /// What a path stands for, without the right to read it.
    fn look(&self, path: &[u8], follow: Follow) -> Result<OwnedFd> {
        let nofollow = if follow == Follow::No { OFlags::NOFOLLOW } else { OFlags::empty() };
        self.open_at(path, OFlags::PATH | nofollow, 0)
    }

    /// The directory of a path, and the last component. `special` is the error for a path that ends in nothing, `.` or `..`.
    fn parent<'p>(&self, path: &'p [u8], special: Errno) -> Result<(OwnedFd, &'p [u8])> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        let slashes = path.iter().rev().take_while(|b| **b == b'/').count();
        let bare = &path[..path.len() - slashes];
        let start = bare.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
        let (dir, name) = bare.split_at(start);
        if matches!(name, b"" | b"." | b"..") {
            return Err(special);
        }
        let dir = if dir.is_empty() { b"." } else { dir };
        let dir = self.open_at(dir, OFlags::PATH | OFlags::DIRECTORY, 0)?;
        // Slashes at the end ask for a directory; the call on the name must see them.
        Ok((dir, &path[start..]))
    }

    fn chmod_fd(&self, fd: &OwnedFd, mode: u32) -> Result<()> {
        // The descriptor cannot be used for fchmod, but it has a name, and that is no link that anybody can exchange.
        let proc = self.proc.as_ref().ok_or(Errno::OPNOTSUPP)?;
        let name = format!("self/fd/{}", fd.as_raw_fd());
        fs::chmodat(proc, &*name, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())
    }

    /// The same with times, for kernels before 5.8.
    fn utimes_fd(&self, fd: &OwnedFd, times: Times) -> Result<()> {
        let proc = self.proc.as_ref().ok_or(Errno::OPNOTSUPP)?;
        let name = format!("self/fd/{}", fd.as_raw_fd());
        fs::utimensat(proc, &*name, &timestamps(times), AtFlags::empty())
    }
}

impl Vfs for RootedVfs {
    fn cwd(&self) -> Result<Vec<u8>> {
        Ok(self.cwd.clone())
    }

    fn open(&self, path: &[u8], flags: OpenFlags, mode: u32, wait: Wait) -> Result<Arc<dyn VfsFile>> {
        let mut how = open_flags(flags);
        if wait == Wait::Refused {
            // As in `OsVfs`: a pipe is not touched.
            if !how.contains(OFlags::CREATE | OFlags::EXCL)
                && self.stat(path, Follow::Yes).is_ok_and(|meta| meta.may_block())
            {
                return Err(Errno::WOULDBLOCK);
            }
            how |= OFlags::NONBLOCK;
        }
        OsFile::wrap(self.open_at(path, how, mode)?, flags, wait, &self.guard)
    }

    fn open_dir(&self, path: &[u8]) -> Result<Box<dyn VfsDir>> {
        OsDir::wrap(self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY, 0)?, DotDot::Own)
    }

    fn stat(&self, path: &[u8], follow: Follow) -> Result<Metadata> {
        Ok(from_stat(&fs::fstat(self.look(path, follow)?)?))
    }

    fn set_len(&self, path: &[u8], len: u64) -> Result<()> {
        let meta = self.stat(path, Follow::Yes)?;
        if !meta.is_file() {
            return Err(if meta.is_dir() { Errno::ISDIR } else { Errno::INVAL });
        }
        let fd = self.open_at(path, OFlags::WRONLY | OFlags::NONBLOCK, 0)?;
        self.guard.change(fd.as_fd(), &from_stat(&fs::fstat(&fd)?))?;
        fs::ftruncate(fd, len)
    }

    fn set_mode(&self, path: &[u8], mode: u32, follow: Follow) -> Result<()> {
        let fd = self.look(path, follow)?;
        let meta = from_stat(&fs::fstat(&fd)?);
        if meta.is_symlink() {
            return Err(Errno::OPNOTSUPP);
        }
        self.guard.change(fd.as_fd(), &meta)?;
        self.chmod_fd(&fd, mode)
    }

    fn set_times(&self, path: &[u8], times: Times, follow: Follow) -> Result<()> {
        let fd = self.look(path, follow)?;
        self.guard.change(fd.as_fd(), &from_stat(&fs::fstat(&fd)?))?;
        match fs::utimensat(&fd, c"", &timestamps(times), AtFlags::EMPTY_PATH) {
            Err(Errno::INVAL) if !from_stat(&fs::fstat(&fd)?).is_symlink() => self.utimes_fd(&fd, times),
            other => other,
        }
    }

    fn set_owner(&self, path: &[u8], owner: Owner, follow: Follow) -> Result<()> {
        let fd = self.look(path, follow)?;
        self.guard.change(fd.as_fd(), &from_stat(&fs::fstat(&fd)?))?;
        fs::chownat(fd, c"", user(owner), group(owner), AtFlags::EMPTY_PATH)
    }

    fn make_dir(&self, path: &[u8], mode: u32) -> Result<()> {
        let (dir, name) = self.parent(path, Errno::EXIST)?;
        fs::mkdirat(dir, name, Mode::from_raw_mode(mode & 0o7777))
    }

    fn remove_dir(&self, path: &[u8]) -> Result<()> {
        let (dir, name) = self.parent(path, Errno::INVAL)?;
        fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
    }

    fn remove_file(&self, path: &[u8]) -> Result<()> {
        let (dir, name) = self.parent(path, Errno::ISDIR)?;
        fs::unlinkat(dir, name, AtFlags::empty())
    }

    fn rename(&self, from: &[u8], to: &[u8]) -> Result<()> {
        let (from_dir, from) = self.parent(from, Errno::BUSY)?;
        let (to_dir, to) = self.parent(to, Errno::BUSY)?;
        fs::renameat(from_dir, from, to_dir, to)
    }

    fn link(&self, from: &[u8], to: &[u8]) -> Result<()> {
        // With slashes at the end the kernel would follow a link there: the directory it leads to cannot be linked anyway.
        if from.last() == Some(&b'/') {
            return Err(if self.stat(from, Follow::Yes)?.is_dir() { Errno::PERM } else { Errno::NOTDIR });
        }
        let (from_dir, from) = self.parent(from, Errno::PERM)?;
        let (to_dir, to) = self.parent(to, Errno::EXIST)?;
        fs::linkat(from_dir, from, to_dir, to, AtFlags::empty())
    }

    fn symlink(&self, target: &[u8], path: &[u8]) -> Result<()> {
        let (dir, name) = self.parent(path, Errno::EXIST)?;
        fs::symlinkat(target, dir, name)
    }

    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>> {
        let fd = self.look(path, Follow::No)?;
        match fs::readlinkat(&fd, c"", Vec::new()) {
            Ok(target) => Ok(target.into_bytes()),
            // What the kernel says for an open file that is no link; by name it would say EINVAL.
            Err(Errno::NOENT) => Err(Errno::INVAL),
            Err(e) => Err(e),
        }
    }

    fn stat_fs(&self, path: &[u8]) -> Result<FsStat> {
        Ok(from_statvfs(&fs::fstatvfs(self.look(path, Follow::Yes)?)?))
    }
}

/// `/proc`, if it really is.
fn proc() -> Option<OwnedFd> {
    let how = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = fs::openat(CWD, c"/proc", how, Mode::empty()).ok()?;
    is_proc(&fs::fstatfs(&fd).ok()?).then_some(fd)
}

/// The path below `root`, beginning with a slash.
fn below<'p>(path: &'p [u8], root: &[u8]) -> Option<&'p [u8]> {
    if root == b"/" {
        return Some(path);
    }
    match path.strip_prefix(root)? {
        [] => Some(b"/"),
        rest @ [b'/', ..] => Some(rest),
        _ => None,
    }
}
