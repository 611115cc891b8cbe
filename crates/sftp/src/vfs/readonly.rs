//! Any file system with every change refused.

use std::sync::Arc;

use rustix::io::Errno;

use super::{Follow, FsStat, Metadata, OpenFlags, Owner, Result, Times, Vfs, VfsDir, VfsFile, Wait};

/// Refuses every change with [`Errno::ACCESS`], which both protocols word as "Permission denied", as OpenSSH's `-R` does.
#[derive(Debug, Clone, Copy)]
pub struct ReadOnly<V>(pub V);

impl<V: Vfs> Vfs for ReadOnly<V> {
    fn cwd(&self) -> Result<Vec<u8>> {
        self.0.cwd()
    }

    fn open(&self, path: &[u8], flags: OpenFlags, mode: u32, wait: Wait) -> Result<Arc<dyn VfsFile>> {
        if flags.changes() {
            return Err(Errno::ACCESS);
        }
        Ok(Arc::new(ReadOnlyFile(self.0.open(path, flags, mode, wait)?)))
    }

    fn open_dir(&self, path: &[u8]) -> Result<Box<dyn VfsDir>> {
        self.0.open_dir(path)
    }

    fn stat(&self, path: &[u8], follow: Follow) -> Result<Metadata> {
        self.0.stat(path, follow)
    }

    fn set_len(&self, _: &[u8], _: u64) -> Result<()> {
        Err(Errno::ACCESS)
    }

    fn set_mode(&self, _: &[u8], _: u32, _: Follow) -> Result<()> {
        Err(Errno::ACCESS)
    }

    fn set_times(&self, _: &[u8], _: Times, _: Follow) -> Result<()> {
        Err(Errno::ACCESS)
    }

    fn set_owner(&self, _: &[u8], _: Owner, _: Follow) -> Result<()> {
        Err(Errno::ACCESS)
    }

    fn make_dir(&self, _: &[u8], _: u32) -> Result<()> {
        Err(Errno::ACCESS)
    }

    fn remove_dir(&self, _: &[u8]) -> Result<()> {
        Err(Errno::ACCESS)
    }

    fn remove_file(&self, _: &[u8]) -> Result<()> {
        Err(Errno::ACCESS)
    }

    fn rename(&self, _: &[u8], _: &[u8]) -> Result<()> {
        Err(Errno::ACCESS)
    }

    fn link(&self, _: &[u8], _: &[u8]) -> Result<()> {
        Err(Errno::ACCESS)
    }

    fn symlink(&self, _: &[u8], _: &[u8]) -> Result<()> {
        Err(Errno::ACCESS)
    }

    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>> {
        self.0.read_link(path)
    }

    fn stat_fs(&self, path: &[u8]) -> Result<FsStat> {
        self.0.stat_fs(path)
    }

    fn real_path(&self, path: &[u8]) -> Result<Vec<u8>> {
        self.0.real_path(path)
    }

    fn rename_new(&self, _: &[u8], _: &[u8]) -> Result<bool> {
        Err(Errno::ACCESS)
    }
}

/// A file opened for reading: its mode, owner and times could still be set through it, so that is refused as well.
struct ReadOnlyFile(Arc<dyn VfsFile>);

impl VfsFile for ReadOnlyFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, _: &[u8], _: u64) -> Result<usize> {
        Err(Errno::ACCESS)
    }

    fn stat(&self) -> Result<Metadata> {
        self.0.stat()
    }

    fn set_len(&self, _: u64) -> Result<()> {
        Err(Errno::ACCESS)
    }

    fn set_mode(&self, _: u32) -> Result<()> {
        Err(Errno::ACCESS)
    }

    fn set_times(&self, _: Times) -> Result<()> {
        Err(Errno::ACCESS)
    }

    fn set_owner(&self, _: Owner) -> Result<()> {
        Err(Errno::ACCESS)
    }

    fn sync(&self) -> Result<()> {
        Err(Errno::ACCESS)
    }

    fn stat_fs(&self) -> Result<FsStat> {
        self.0.stat_fs()
    }

    fn may_block(&self) -> bool {
        self.0.may_block()
    }

    fn expect_sequential(&self) {
        self.0.expect_sequential();
    }
}
