//! The file system as the SFTP and scp servers see it.
//!
//! Primer: [`Vfs`] is the list of things a file server does to paths, [`VfsFile`] and [`VfsDir`] what it does to something open. Paths are
//! bytes, relative ones start at [`Vfs::cwd`], errors are plain errno values so that both protocols can word them as OpenSSH does.
//!
//! * [`OsVfs`]: the process's own view, no restriction.
//! * [`RootedVfs`]: a directory is `/`; held by the kernel (`openat2`), not by comparing strings.
//! * [`ReadOnly`]: any of them with every change refused.
//!
//! Neither of the first two opens what leads past the server itself, see `guard`.

mod file;
mod guard;
mod os;
mod readonly;
mod realpath;
mod rooted;

use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::io::Errno;

pub use os::OsVfs;
pub use readonly::ReadOnly;
pub use rooted::{RootError, RootedVfs};

/// What every operation gives: a value or the errno.
pub type Result<T> = std::result::Result<T, Errno>;

/// The longest path that is looked at, in bytes; Linux's `PATH_MAX` without its NUL.
pub const MAX_PATH: usize = 4095;

/// How to open a file; the bits are those of `SSH_FXF_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenFlags(pub u32);

impl OpenFlags {
    /// Open for reading; also what is meant when neither this nor `WRITE` is given.
    pub const READ: Self = Self(1);
    /// Open for writing.
    pub const WRITE: Self = Self(2);
    /// Every write goes to the end.
    pub const APPEND: Self = Self(4);
    /// Make the file when there is none.
    pub const CREATE: Self = Self(8);
    /// Cut the file to nothing.
    pub const TRUNCATE: Self = Self(16);
    /// With `CREATE`: fail when the file exists.
    pub const EXCLUSIVE: Self = Self(32);

    /// Whether all bits of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether such an open can change anything.
    pub const fn changes(self) -> bool {
        self.0 & (Self::WRITE.0 | Self::CREATE.0 | Self::TRUNCATE.0) != 0
    }
}

/// Whether an open may wait for somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Opening a pipe waits for the other end, as `open` does.
    Allowed,
    /// What could wait (anything but a regular file or a directory) is not opened and gives [`Errno::WOULDBLOCK`].
    Refused,
}

/// What to do with a symbolic link as the last component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// Act on what it points to.
    Yes,
    /// Act on the link.
    No,
}

/// What `stat` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Metadata {
    /// Type and permission bits, as `st_mode`.
    pub mode: u32,
    /// Size in bytes.
    pub size: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access, seconds since 1970.
    pub atime: i64,
    /// Nanoseconds of the last access.
    pub atime_nsec: u32,
    /// Last change of the content, seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds of the last change.
    pub mtime_nsec: u32,
    /// Hard links.
    pub nlink: u64,
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
}

impl Metadata {
    /// A regular file.
    pub const fn is_file(&self) -> bool {
        self.mode & S_IFMT == S_IFREG
    }

    /// The size of a regular file; of other things it says nothing.
    pub fn file_size(&self) -> Option<u64> {
        self.is_file().then_some(self.size)
    }

    /// A directory.
    pub const fn is_dir(&self) -> bool {
        self.mode & S_IFMT == S_IFDIR
    }

    /// A symbolic link.
    pub const fn is_symlink(&self) -> bool {
        self.mode & S_IFMT == S_IFLNK
    }

    /// Reading, writing or opening it can wait for somebody else: neither a regular file nor a directory.
    pub const fn may_block(&self) -> bool {
        !self.is_file() && !self.is_dir()
    }
}

/// The bits of a mode that tell the type.
pub const S_IFMT: u32 = 0o170_000;
/// Type: regular file.
pub const S_IFREG: u32 = 0o100_000;
/// Type: directory.
pub const S_IFDIR: u32 = 0o040_000;
/// Type: symbolic link.
pub const S_IFLNK: u32 = 0o120_000;

/// Times to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Last access, seconds since 1970.
    pub atime: i64,
    /// Nanoseconds of it, below 1,000,000,000.
    pub atime_nsec: u32,
    /// Last change, seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds of it, below 1,000,000,000.
    pub mtime_nsec: u32,
}

/// Owner to set; `u32::MAX` leaves a part as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What `statvfs` tells, in the order of `statvfs@openssh.com`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FsStat {
    /// Block size, bytes.
    pub bsize: u64,
    /// Fragment size, bytes: the unit of the counts below.
    pub frsize: u64,
    /// Size of the file system in fragments.
    pub blocks: u64,
    /// Free ones.
    pub bfree: u64,
    /// Free ones for an ordinary user.
    pub bavail: u64,
    /// Inodes.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// Free inodes for an ordinary user.
    pub favail: u64,
    /// File system id.
    pub fsid: u64,
    /// Bit 0: mounted read-only; bit 1: no setuid.
    pub flag: u64,
    /// Longest name, bytes.
    pub namemax: u64,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Name: one component, may be `.` or `..`.
    pub name: Vec<u8>,
    /// What `lstat` says; entries that vanish before that are skipped.
    pub meta: Metadata,
}

/// A file system.
pub trait Vfs: Send + Sync {
    /// Where relative paths start: an absolute path.
    ///
    /// # Errors
    /// The errno of the system call; so for all methods of this trait.
    fn cwd(&self) -> Result<Vec<u8>>;

    /// Opens a file. `mode` counts when it is made, less the umask.
    fn open(&self, path: &[u8], flags: OpenFlags, mode: u32, wait: Wait) -> Result<Arc<dyn VfsFile>>;

    /// Opens a directory for listing.
    fn open_dir(&self, path: &[u8]) -> Result<Box<dyn VfsDir>>;

    /// What is at a path.
    fn stat(&self, path: &[u8], follow: Follow) -> Result<Metadata>;

    /// Cuts or extends a file.
    fn set_len(&self, path: &[u8], len: u64) -> Result<()>;

    /// Sets permission bits (`mode & 0o7777`). A link itself has none: [`Errno::OPNOTSUPP`].
    fn set_mode(&self, path: &[u8], mode: u32, follow: Follow) -> Result<()>;

    /// Sets times.
    fn set_times(&self, path: &[u8], times: Times, follow: Follow) -> Result<()>;

    /// Sets owner and group.
    fn set_owner(&self, path: &[u8], owner: Owner, follow: Follow) -> Result<()>;

    /// Makes a directory with `mode` less the umask.
    fn make_dir(&self, path: &[u8], mode: u32) -> Result<()>;

    /// Removes an empty directory.
    fn remove_dir(&self, path: &[u8]) -> Result<()>;

    /// Removes anything but a directory.
    fn remove_file(&self, path: &[u8]) -> Result<()>;

    /// Renames; replaces what is at `to`, as POSIX says.
    fn rename(&self, from: &[u8], to: &[u8]) -> Result<()>;

    /// Makes a hard link `to` to `from`; a symbolic link at `from` is linked itself.
    fn link(&self, from: &[u8], to: &[u8]) -> Result<()>;

    /// Makes a symbolic link at `path` that says `target`.
    fn symlink(&self, target: &[u8], path: &[u8]) -> Result<()>;

    /// What a symbolic link says.
    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>>;

    /// The file system that holds a path.
    fn stat_fs(&self, path: &[u8]) -> Result<FsStat>;

    /// The absolute path without links, `.` and `..`; the last component need not exist.
    fn real_path(&self, path: &[u8]) -> Result<Vec<u8>> {
        realpath::resolve(self, path)
    }

    /// Renames without replacing anything: a regular file by link and unlink, which cannot race; other things, and file systems without
    /// hard links, by looking first. `Ok(false)` says that something was in the way (there is no errno for it).
    fn rename_new(&self, from: &[u8], to: &[u8]) -> Result<bool> {
        let rename_unless_there = || match self.stat(to, Follow::Yes) {
            Ok(_) => Ok(false),
            Err(_) => self.rename(from, to).map(|()| true),
        };
        if !self.stat(from, Follow::No)?.is_file() {
            return rename_unless_there();
        }
        match self.link(from, to) {
            Ok(()) => {}
            // Errno::PERM is what Linux says for a file system that has no hard links.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::XDEV | Errno::PERM) => return rename_unless_there(),
            Err(e) => return Err(e),
        }
        self.remove_file(from).map(|()| true).inspect_err(|_| {
            // The spare link must not stay; that it cannot be removed either is not what the caller asked.
            let _ = self.remove_file(to);
        })
    }
}

/// An open file. Shared between threads: offsets are explicit.
pub trait VfsFile: Send + Sync {
    /// Reads at an offset; 0 is the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize>;

    /// Writes at an offset (at the end if opened with `APPEND`); may write less.
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<usize>;

    /// Writes several pieces one after another; may write less.
    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<usize> {
        bufs.first().map_or(Ok(0), |b| self.write_at(b, offset))
    }

    /// What it is now.
    fn stat(&self) -> Result<Metadata>;

    /// Cuts or extends.
    fn set_len(&self, len: u64) -> Result<()>;

    /// Sets permission bits.
    fn set_mode(&self, mode: u32) -> Result<()>;

    /// Sets times.
    fn set_times(&self, times: Times) -> Result<()>;

    /// Sets owner and group.
    fn set_owner(&self, owner: Owner) -> Result<()>;

    /// Waits until the content is on the disk.
    fn sync(&self) -> Result<()>;

    /// The file system that holds it.
    fn stat_fs(&self) -> Result<FsStat>;

    /// Reads and writes can wait for somebody else (a pipe, a device).
    fn may_block(&self) -> bool;

    /// It will be read from front to back: a hint.
    fn expect_sequential(&self) {}

    /// The descriptor, where there is one, for copying inside the kernel.
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// An open directory.
pub trait VfsDir: Send {
    /// The next entry, in no order; `None` at the end.
    fn next_entry(&mut self) -> Result<Option<DirEntry>>;
}
