//! A file system in memory, as simple as it can be: what the real one is compared with.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::io::Errno;
use sandgate_sftp::vfs::{
    DirEntry, Follow, FsStat, Metadata, OpenFlags, Owner, Result, S_IFDIR, S_IFLNK, S_IFREG, Times, Vfs,
    VfsDir, VfsFile, Wait,
};

/// Links followed in one path; as Linux.
const MAX_LINKS: u32 = 40;
const ROOT: usize = 0;

/// The file system; clones are the same one.
#[derive(Clone, Default)]
pub struct Model(Arc<Mutex<State>>);

struct State {
    nodes: Vec<Node>,
}

struct Node {
    mode: u32,
    nlink: u64,
    what: What,
}

enum What {
    File(Vec<u8>),
    Dir { entries: BTreeMap<Vec<u8>, usize>, parent: usize },
    Link(Vec<u8>),
}

impl Default for State {
    fn default() -> Self {
        let what = What::Dir { entries: BTreeMap::new(), parent: ROOT };
        Self { nodes: vec![Node { mode: S_IFDIR | 0o755, nlink: 2, what }] }
    }
}

/// Where a path leads: the directory and name of its last component, and what is there. `/`, `.` and `..` have no name.
struct Place {
    dir: usize,
    name: Option<Vec<u8>>,
    node: Option<usize>,
}

impl State {
    fn walk(&self, path: &[u8], follow: Follow) -> Result<Place> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        self.walk_from(ROOT, path, follow, &mut 0)
    }

    fn walk_from(&self, start: usize, path: &[u8], follow: Follow, links: &mut u32) -> Result<Place> {
        let mut dir = if path.first() == Some(&b'/') { ROOT } else { start };
        let parts: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|part| !part.is_empty()).collect();
        let mut place = Place { dir, name: None, node: Some(dir) };
        for (at, part) in parts.iter().enumerate() {
            let last = at + 1 == parts.len();
            let What::Dir { entries, parent } = &self.nodes[dir].what else { return Err(Errno::NOTDIR) };
            let (name, node) = match *part {
                b"." => (None, Some(dir)),
                b".." => (None, Some(*parent)),
                name => (Some(name.to_vec()), entries.get(name).copied()),
            };
            place = Place { dir, name, node };
            if let Some(node) = node
                && let What::Link(target) = &self.nodes[node].what
                && (!last || follow == Follow::Yes)
            {
                *links += 1;
                if *links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                place = self.walk_from(dir, target, Follow::Yes, links)?;
            }
            if !last {
                dir = place.node.ok_or(Errno::NOENT)?;
            }
        }
        Ok(place)
    }

    fn find(&self, path: &[u8], follow: Follow) -> Result<usize> {
        self.walk(path, follow)?.node.ok_or(Errno::NOENT)
    }

    fn entries(&mut self, dir: usize) -> &mut BTreeMap<Vec<u8>, usize> {
        match &mut self.nodes[dir].what {
            What::Dir { entries, .. } => entries,
            _ => unreachable!("a walk ends in a directory"),
        }
    }

    /// The directory and name for a new entry.
    fn vacant(&self, path: &[u8], follow: Follow) -> Result<(usize, Vec<u8>)> {
        let place = self.walk(path, follow)?;
        match (place.node, place.name) {
            (None, Some(name)) => Ok((place.dir, name)),
            _ => Err(Errno::EXIST),
        }
    }

    fn add(&mut self, (dir, name): (usize, Vec<u8>), mode: u32, what: What) -> usize {
        self.nodes.push(Node { mode, nlink: 1, what });
        let node = self.nodes.len() - 1;
        self.entries(dir).insert(name, node);
        node
    }

    fn meta(&self, node: usize) -> Metadata {
        let n = &self.nodes[node];
        let size = match &n.what {
            What::File(data) => data.len() as u64,
            What::Link(target) => target.len() as u64,
            What::Dir { .. } => 0,
        };
        Metadata { mode: n.mode, size, nlink: n.nlink, dev: 1, ino: node as u64 + 1, ..Metadata::default() }
    }

    fn file(&mut self, node: usize) -> Result<&mut Vec<u8>> {
        match &mut self.nodes[node].what {
            What::File(data) => Ok(data),
            What::Dir { .. } => Err(Errno::ISDIR),
            What::Link(_) => Err(Errno::LOOP),
        }
    }

    fn is_dir(&self, node: usize) -> bool {
        matches!(self.nodes[node].what, What::Dir { .. })
    }

    fn is_empty(&self, node: usize) -> bool {
        matches!(&self.nodes[node].what, What::Dir { entries, .. } if entries.is_empty())
    }

    /// Whether `node` is `dir` or above it.
    fn holds(&self, node: usize, mut dir: usize) -> bool {
        loop {
            match &self.nodes[dir].what {
                _ if dir == node => return true,
                What::Dir { parent, .. } if dir != ROOT => dir = *parent,
                _ => return false,
            }
        }
    }
}

impl Model {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while locked")
    }
}

impl Vfs for Model {
    fn cwd(&self) -> Result<Vec<u8>> {
        Ok(b"/".to_vec())
    }

    fn open(&self, path: &[u8], flags: OpenFlags, mode: u32, _: Wait) -> Result<Arc<dyn VfsFile>> {
        let mut state = self.lock();
        let create = flags.has(OpenFlags::CREATE);
        let follow = if create && flags.has(OpenFlags::EXCLUSIVE) { Follow::No } else { Follow::Yes };
        let place = state.walk(path, follow)?;
        let node = match (place.node, place.name) {
            (Some(_), _) if create && flags.has(OpenFlags::EXCLUSIVE) => return Err(Errno::EXIST),
            (Some(node), _) => {
                if state.is_dir(node) && (flags.changes() || create) {
                    return Err(Errno::ISDIR);
                }
                if flags.has(OpenFlags::TRUNCATE) {
                    state.file(node)?.clear();
                }
                node
            }
            (None, Some(name)) if create => {
                state.add((place.dir, name), S_IFREG | mode & 0o7777, What::File(Vec::new()))
            }
            _ => return Err(Errno::NOENT),
        };
        Ok(Arc::new(Open { model: self.clone(), node, flags }))
    }

    fn open_dir(&self, path: &[u8]) -> Result<Box<dyn VfsDir>> {
        let state = self.lock();
        let node = state.find(path, Follow::Yes)?;
        let What::Dir { entries, parent } = &state.nodes[node].what else { return Err(Errno::NOTDIR) };
        let mut all = vec![(b".".to_vec(), node), (b"..".to_vec(), *parent)];
        all.extend(entries.iter().map(|(name, node)| (name.clone(), *node)));
        let list: Vec<DirEntry> =
            all.into_iter().map(|(name, node)| DirEntry { name, meta: state.meta(node) }).collect();
        Ok(Box::new(Listing(list.into_iter())))
    }

    fn stat(&self, path: &[u8], follow: Follow) -> Result<Metadata> {
        let state = self.lock();
        Ok(state.meta(state.find(path, follow)?))
    }

    fn set_len(&self, path: &[u8], len: u64) -> Result<()> {
        let mut state = self.lock();
        let node = state.find(path, Follow::Yes)?;
        resize(state.file(node)?, len)
    }

    fn set_mode(&self, path: &[u8], mode: u32, follow: Follow) -> Result<()> {
        let mut state = self.lock();
        let node = state.find(path, follow)?;
        if matches!(state.nodes[node].what, What::Link(_)) {
            return Err(Errno::OPNOTSUPP);
        }
        let node = &mut state.nodes[node];
        node.mode = node.mode & !0o7777 | mode & 0o7777;
        Ok(())
    }

    fn set_times(&self, path: &[u8], _: Times, follow: Follow) -> Result<()> {
        self.lock().find(path, follow).map(|_| ())
    }

    fn set_owner(&self, path: &[u8], _: Owner, follow: Follow) -> Result<()> {
        self.lock().find(path, follow).map(|_| ())
    }

    fn make_dir(&self, path: &[u8], mode: u32) -> Result<()> {
        let mut state = self.lock();
        let at = state.vacant(path, Follow::No)?;
        let what = What::Dir { entries: BTreeMap::new(), parent: at.0 };
        state.add(at, S_IFDIR | mode & 0o1777, what);
        Ok(())
    }

    fn remove_dir(&self, path: &[u8]) -> Result<()> {
        let mut state = self.lock();
        let place = state.walk(path, Follow::No)?;
        let node = place.node.ok_or(Errno::NOENT)?;
        let name = place.name.ok_or(Errno::INVAL)?;
        if !state.is_dir(node) {
            return Err(Errno::NOTDIR);
        }
        if !state.is_empty(node) {
            return Err(Errno::NOTEMPTY);
        }
        state.entries(place.dir).remove(&name);
        Ok(())
    }

    fn remove_file(&self, path: &[u8]) -> Result<()> {
        let mut state = self.lock();
        let place = state.walk(path, Follow::No)?;
        let node = place.node.ok_or(Errno::NOENT)?;
        if state.is_dir(node) {
            return Err(Errno::ISDIR);
        }
        state.nodes[node].nlink -= 1;
        state.entries(place.dir).remove(&place.name.ok_or(Errno::ISDIR)?);
        Ok(())
    }

    fn rename(&self, from: &[u8], to: &[u8]) -> Result<()> {
        let mut state = self.lock();
        let source = state.walk(from, Follow::No)?;
        let target = state.walk(to, Follow::No)?;
        let (Some(from_name), Some(to_name)) = (source.name, target.name) else { return Err(Errno::BUSY) };
        let node = source.node.ok_or(Errno::NOENT)?;
        if state.is_dir(node) && state.holds(node, target.dir) {
            return Err(Errno::INVAL);
        }
        if let Some(old) = target.node {
            // A directory above the source is never empty.
            if state.is_dir(old) && state.holds(old, source.dir) {
                return Err(Errno::NOTEMPTY);
            }
            if old == node {
                return Ok(());
            }
            match (state.is_dir(node), state.is_dir(old)) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                (true, true) if !state.is_empty(old) => return Err(Errno::NOTEMPTY),
                _ => state.nodes[old].nlink -= 1,
            }
        }
        state.entries(source.dir).remove(&from_name);
        state.entries(target.dir).insert(to_name, node);
        if let What::Dir { parent, .. } = &mut state.nodes[node].what {
            *parent = target.dir;
        }
        Ok(())
    }

    fn link(&self, from: &[u8], to: &[u8]) -> Result<()> {
        let mut state = self.lock();
        let place = state.walk(from, Follow::No)?;
        let node = place.node.ok_or(Errno::NOENT)?;
        let (dir, name) = state.vacant(to, Follow::No)?;
        if state.is_dir(node) {
            return Err(Errno::PERM);
        }
        state.entries(dir).insert(name, node);
        state.nodes[node].nlink += 1;
        Ok(())
    }

    fn symlink(&self, target: &[u8], path: &[u8]) -> Result<()> {
        if target.is_empty() {
            return Err(Errno::NOENT);
        }
        let mut state = self.lock();
        let at = state.vacant(path, Follow::No)?;
        state.add(at, S_IFLNK | 0o777, What::Link(target.to_vec()));
        Ok(())
    }

    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>> {
        let state = self.lock();
        match &state.nodes[state.find(path, Follow::No)?].what {
            What::Link(target) => Ok(target.clone()),
            _ => Err(Errno::INVAL),
        }
    }

    fn stat_fs(&self, path: &[u8]) -> Result<FsStat> {
        self.lock().find(path, Follow::Yes).map(|_| FsStat::default())
    }
}

struct Open {
    model: Model,
    node: usize,
    flags: OpenFlags,
}

impl VfsFile for Open {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        if self.flags.has(OpenFlags::WRITE) && !self.flags.has(OpenFlags::READ) {
            return Err(Errno::BADF);
        }
        let mut state = self.model.lock();
        let data = state.file(self.node)?;
        let rest = data.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<usize> {
        if !self.flags.has(OpenFlags::WRITE) {
            return Err(Errno::BADF);
        }
        let mut state = self.model.lock();
        let data = state.file(self.node)?;
        let at = if self.flags.has(OpenFlags::APPEND) {
            data.len()
        } else {
            usize::try_from(offset).unwrap_or(usize::MAX)
        };
        if buf.is_empty() {
            return Ok(0);
        }
        if data.len() < at + buf.len() {
            data.resize(at + buf.len(), 0);
        }
        data[at..at + buf.len()].copy_from_slice(buf);
        Ok(buf.len())
    }

    fn stat(&self) -> Result<Metadata> {
        Ok(self.model.lock().meta(self.node))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        if !self.flags.has(OpenFlags::WRITE) {
            return Err(Errno::INVAL);
        }
        resize(self.model.lock().file(self.node)?, len)
    }

    fn set_mode(&self, mode: u32) -> Result<()> {
        let mut state = self.model.lock();
        let node = &mut state.nodes[self.node];
        node.mode = node.mode & !0o7777 | mode & 0o7777;
        Ok(())
    }

    fn set_times(&self, _: Times) -> Result<()> {
        Ok(())
    }

    fn set_owner(&self, _: Owner) -> Result<()> {
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn stat_fs(&self) -> Result<FsStat> {
        Ok(FsStat::default())
    }

    fn may_block(&self) -> bool {
        false
    }
}

struct Listing(std::vec::IntoIter<DirEntry>);

impl VfsDir for Listing {
    fn next_entry(&mut self) -> Result<Option<DirEntry>> {
        Ok(self.0.next())
    }
}

fn resize(data: &mut Vec<u8>, len: u64) -> Result<()> {
    data.resize(usize::try_from(len).map_err(|_| Errno::FBIG)?, 0);
    Ok(())
}
