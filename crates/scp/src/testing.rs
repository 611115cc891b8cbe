//! A small file system in memory, for unit tests and fuzz targets: no links, no owners, no umask, and a bound on what it holds.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use sandgate_sftp::vfs::{
    DirEntry, Follow, FsStat, MAX_PATH, Metadata, OpenFlags, Owner, Result, S_IFDIR, S_IFREG, Times, Vfs,
    VfsDir, VfsFile, Wait,
};

use crate::expand::Homes;

/// Nobody has a home.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nobody;

impl Homes for Nobody {
    fn own(&self) -> Option<Vec<u8>> {
        None
    }

    fn of(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

/// The file system. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Memory {
    nodes: Arc<Mutex<BTreeMap<Vec<u8>, Node>>>,
    capacity: usize,
}

#[derive(Debug, Clone)]
struct Node {
    content: Option<Content>,
    meta: Arc<Mutex<Metadata>>,
}

type Content = Arc<Mutex<Vec<u8>>>;

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// Empty but for `/`, with room for a megabyte in each file.
    pub fn new() -> Self {
        Self::with_capacity(1 << 20)
    }

    /// Empty but for `/`; no file can grow beyond `capacity` bytes (then there is no space left).
    pub fn with_capacity(capacity: usize) -> Self {
        let root = Node::new(None, S_IFDIR | 0o755);
        Self { nodes: Arc::new(Mutex::new([(b"/".to_vec(), root)].into())), capacity }
    }

    /// Makes a file with this content, whatever was there.
    pub fn put(&self, path: &[u8], content: &[u8]) {
        let node = Node::new(Some(Arc::new(Mutex::new(content.to_vec()))), S_IFREG | 0o644);
        lock(&self.nodes).insert(clean(path), node);
    }

    /// The content of a file.
    pub fn get(&self, path: &[u8]) -> Option<Vec<u8>> {
        let content = self.node(path).ok()?.content?;
        let bytes = lock(&content).clone();
        Some(bytes)
    }

    /// Every path, `/` first.
    pub fn paths(&self) -> Vec<Vec<u8>> {
        lock(&self.nodes).keys().cloned().collect()
    }

    fn node(&self, path: &[u8]) -> Result<Node> {
        let cleaned = clean(path);
        self.check(path, &cleaned)?;
        let node = lock(&self.nodes).get(&cleaned).cloned().ok_or(Errno::NOENT)?;
        if path.ends_with(b"/") && node.content.is_some() { Err(Errno::NOTDIR) } else { Ok(node) }
    }

    /// What every path must be, and that its parent is a directory.
    fn check(&self, path: &[u8], cleaned: &[u8]) -> Result<()> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        if path.len() > MAX_PATH || path.split(|b| *b == b'/').any(|name| name.len() > 255) {
            return Err(Errno::NAMETOOLONG);
        }
        if path.contains(&0) {
            return Err(Errno::INVAL);
        }
        let parent = clean(&[cleaned, b"/.."].concat());
        match lock(&self.nodes).get(&parent) {
            Some(node) if node.content.is_none() => Ok(()),
            Some(_) => Err(Errno::NOTDIR),
            None => Err(Errno::NOENT),
        }
    }
}

impl Node {
    fn new(content: Option<Content>, mode: u32) -> Self {
        Self { content, meta: Arc::new(Mutex::new(Metadata { mode, nlink: 1, ..Metadata::default() })) }
    }

    fn stat(&self) -> Metadata {
        let size = self.content.as_ref().map_or(0, |content| lock(content).len());
        Metadata { size: size as u64, ..*lock(&self.meta) }
    }
}

impl Vfs for Memory {
    fn cwd(&self) -> Result<Vec<u8>> {
        Ok(b"/".to_vec())
    }

    fn open(&self, path: &[u8], flags: OpenFlags, mode: u32, _: Wait) -> Result<Arc<dyn VfsFile>> {
        let node = match self.node(path) {
            Err(Errno::NOENT) if flags.has(OpenFlags::CREATE) && !path.ends_with(b"/") => {
                self.check(path, &clean(path))?;
                let node = Node::new(Some(Arc::default()), S_IFREG | mode & 0o7777);
                lock(&self.nodes).insert(clean(path), node.clone());
                node
            }
            node => node?,
        };
        if node.content.is_none() && flags.changes() {
            return Err(Errno::ISDIR);
        }
        Ok(Arc::new(Open { node, capacity: self.capacity }))
    }

    fn open_dir(&self, path: &[u8]) -> Result<Box<dyn VfsDir>> {
        if self.node(path)?.content.is_some() {
            return Err(Errno::NOTDIR);
        }
        let mut prefix = clean(path);
        if !prefix.ends_with(b"/") {
            prefix.push(b'/');
        }
        Ok(Box::new(Listing { nodes: self.nodes.clone(), last: prefix.clone(), prefix }))
    }

    fn stat(&self, path: &[u8], _: Follow) -> Result<Metadata> {
        Ok(self.node(path)?.stat())
    }

    fn set_len(&self, path: &[u8], len: u64) -> Result<()> {
        self.open(path, OpenFlags::WRITE, 0, Wait::Allowed)?.set_len(len)
    }

    fn set_mode(&self, path: &[u8], mode: u32, _: Follow) -> Result<()> {
        self.node(path)?.set_mode(mode);
        Ok(())
    }

    fn set_times(&self, path: &[u8], times: Times, _: Follow) -> Result<()> {
        self.node(path)?.set_times(times);
        Ok(())
    }

    fn set_owner(&self, _: &[u8], _: Owner, _: Follow) -> Result<()> {
        Err(Errno::NOSYS)
    }

    fn make_dir(&self, path: &[u8], mode: u32) -> Result<()> {
        match self.node(path) {
            Err(Errno::NOENT) => {}
            Ok(_) => return Err(Errno::EXIST),
            Err(errno) => return Err(errno),
        }
        self.check(path, &clean(path))?;
        lock(&self.nodes).insert(clean(path), Node::new(None, S_IFDIR | mode & 0o7777));
        Ok(())
    }

    fn remove_dir(&self, _: &[u8]) -> Result<()> {
        Err(Errno::NOSYS)
    }

    fn remove_file(&self, _: &[u8]) -> Result<()> {
        Err(Errno::NOSYS)
    }

    fn rename(&self, _: &[u8], _: &[u8]) -> Result<()> {
        Err(Errno::NOSYS)
    }

    fn link(&self, _: &[u8], _: &[u8]) -> Result<()> {
        Err(Errno::NOSYS)
    }

    fn symlink(&self, _: &[u8], _: &[u8]) -> Result<()> {
        Err(Errno::NOSYS)
    }

    fn read_link(&self, _: &[u8]) -> Result<Vec<u8>> {
        Err(Errno::INVAL)
    }

    fn stat_fs(&self, _: &[u8]) -> Result<FsStat> {
        Err(Errno::NOSYS)
    }
}

impl Node {
    fn set_mode(&self, mode: u32) {
        let mut meta = lock(&self.meta);
        meta.mode = meta.mode & !0o7777 | mode & 0o7777;
    }

    fn set_times(&self, times: Times) {
        let mut meta = lock(&self.meta);
        (meta.atime, meta.mtime) = (times.atime, times.mtime);
        (meta.atime_nsec, meta.mtime_nsec) = (times.atime_nsec, times.mtime_nsec);
    }
}

struct Open {
    node: Node,
    capacity: usize,
}

impl Open {
    fn content(&self) -> Result<MutexGuard<'_, Vec<u8>>> {
        self.node.content.as_deref().map(lock).ok_or(Errno::ISDIR)
    }
}

impl VfsFile for Open {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let content = self.content()?;
        let rest = usize::try_from(offset).ok().and_then(|at| content.get(at..)).unwrap_or_default();
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<usize> {
        let mut content = self.content()?;
        let start = usize::try_from(offset).map_err(|_| Errno::FBIG)?;
        let count = self.capacity.saturating_sub(start).min(buf.len());
        if count == 0 && !buf.is_empty() {
            return Err(Errno::NOSPC);
        }
        if content.len() < start + count {
            content.resize(start + count, 0);
        }
        content[start..start + count].copy_from_slice(&buf[..count]);
        Ok(count)
    }

    fn stat(&self) -> Result<Metadata> {
        Ok(self.node.stat())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let len = usize::try_from(len).ok().filter(|len| *len <= self.capacity).ok_or(Errno::NOSPC)?;
        self.content()?.resize(len, 0);
        Ok(())
    }

    fn set_mode(&self, mode: u32) -> Result<()> {
        self.node.set_mode(mode);
        Ok(())
    }

    fn set_times(&self, times: Times) -> Result<()> {
        self.node.set_times(times);
        Ok(())
    }

    fn set_owner(&self, _: Owner) -> Result<()> {
        Err(Errno::NOSYS)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn stat_fs(&self) -> Result<FsStat> {
        Err(Errno::NOSYS)
    }

    fn may_block(&self) -> bool {
        false
    }
}

/// Remembers the last name only, so that listing and making can go side by side.
struct Listing {
    nodes: Arc<Mutex<BTreeMap<Vec<u8>, Node>>>,
    prefix: Vec<u8>,
    last: Vec<u8>,
}

impl VfsDir for Listing {
    fn next_entry(&mut self) -> Result<Option<DirEntry>> {
        let nodes = lock(&self.nodes);
        let after = (Bound::Excluded(self.last.clone()), Bound::Unbounded);
        for (path, node) in nodes.range(after) {
            let Some(name) = path.strip_prefix(&self.prefix[..]) else { break };
            if !name.contains(&b'/') {
                self.last.clone_from(path);
                return Ok(Some(DirEntry { name: name.to_vec(), meta: node.stat() }));
            }
        }
        Ok(None)
    }
}

/// The absolute path without `.`, `..` and doubled slashes.
fn clean(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    [b"/", &names.join(&b'/')[..]].concat()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
