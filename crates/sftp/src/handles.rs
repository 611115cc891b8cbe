//! Open files and directories of a session: a bounded table.
//!
//! A handle on the wire is 4 bytes: the place in the table and how often the place has been used, so that a handle which was closed does
//! not name what was opened after it.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::vfs::{OpenFlags, VfsDir, VfsFile};

/// Handles at once at most. OpenSSH has no bound but the limit of file descriptors, which is 1024 where nobody raised it.
pub const MAX_HANDLES: usize = 1024;

/// A place in the table with its generation: names one opening, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    index: u16,
    generation: u16,
}

impl Key {
    /// The handle on the wire.
    pub(crate) fn to_wire(self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.index.to_be_bytes(), self.generation.to_be_bytes());
        [a, b, c, d]
    }

    fn from_wire(handle: &[u8]) -> Option<Self> {
        let [a, b, c, d] = *handle else { return None };
        Some(Self { index: u16::from_be_bytes([a, b]), generation: u16::from_be_bytes([c, d]) })
    }
}

/// Something open.
pub(crate) struct Handle {
    /// The path as the client gave it.
    pub(crate) path: Vec<u8>,
    /// What it is.
    pub(crate) what: What,
    /// A thread works for it: requests wait in `deferred`.
    pub(crate) work: Work,
    /// Requests (whole packets) that wait, in order.
    pub(crate) deferred: VecDeque<Vec<u8>>,
}

/// What a handle is.
pub(crate) enum What {
    /// A file.
    File(OpenFile),
    /// A directory being listed.
    Dir(Box<dyn VfsDir>),
}

/// An open file and what is known about its use.
pub(crate) struct OpenFile {
    pub(crate) file: Arc<dyn VfsFile>,
    pub(crate) flags: OpenFlags,
    /// Bytes written, for the audit.
    pub(crate) written: u64,
    /// Where a reader that goes from front to back reads next.
    pub(crate) next_read: u64,
    /// Whether the kernel has been told of such a reader.
    pub(crate) advised: bool,
}

/// Whether a thread works for a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// None.
    Idle,
    /// One that ends by itself: fsync, copy-data.
    Ending,
    /// One that may wait for somebody else for good: a pipe, a device.
    Endless,
}

/// The table.
pub(crate) struct Table {
    slots: Vec<(u16, Option<Handle>)>,
    free: Vec<u16>,
    max: usize,
}

impl Table {
    /// A table for `max` handles, at most [`MAX_HANDLES`].
    pub(crate) fn new(max: usize) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), max: max.min(MAX_HANDLES) }
    }

    /// Handles at once at most.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// Whether there is no room.
    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.len() >= self.max
    }

    /// Adds one; `None` when the table is full.
    pub(crate) fn insert(&mut self, path: &[u8], what: What) -> Option<Key> {
        if self.is_full() {
            return None;
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push((0, None));
                u16::try_from(self.slots.len() - 1).ok()?
            }
        };
        let (generation, slot) = self.slots.get_mut(usize::from(index))?;
        *slot = Some(Handle { path: path.to_vec(), what, work: Work::Idle, deferred: VecDeque::new() });
        Some(Key { index, generation: *generation })
    }

    /// The key of a handle on the wire, if it is open.
    pub(crate) fn find(&self, handle: &[u8]) -> Option<Key> {
        let key = Key::from_wire(handle)?;
        self.get(key).map(|_| key)
    }

    /// Looks at one.
    pub(crate) fn get(&self, key: Key) -> Option<&Handle> {
        let (generation, slot) = self.slots.get(usize::from(key.index))?;
        slot.as_ref().filter(|_| *generation == key.generation)
    }

    /// Changes one.
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut Handle> {
        let (generation, slot) = self.slots.get_mut(usize::from(key.index))?;
        slot.as_mut().filter(|_| *generation == key.generation)
    }

    /// Looks at one that is a file.
    pub(crate) fn file(&self, key: Option<Key>) -> Option<&OpenFile> {
        match &self.get(key?)?.what {
            What::File(file) => Some(file),
            What::Dir(_) => None,
        }
    }

    /// Changes one that is a file.
    pub(crate) fn file_mut(&mut self, key: Option<Key>) -> Option<&mut OpenFile> {
        match &mut self.get_mut(key?)?.what {
            What::File(file) => Some(file),
            What::Dir(_) => None,
        }
    }

    /// Takes one out.
    pub(crate) fn remove(&mut self, key: Key) -> Option<Handle> {
        self.get(key)?;
        let (generation, slot) = self.slots.get_mut(usize::from(key.index))?;
        *generation = generation.wrapping_add(1);
        self.free.push(key.index);
        slot.take()
    }

    /// Takes all out.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Handle> + use<> {
        self.free.clear();
        std::mem::take(&mut self.slots).into_iter().filter_map(|(_, slot)| slot)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    struct Nothing;

    impl VfsDir for Nothing {
        fn next_entry(&mut self) -> crate::vfs::Result<Option<crate::vfs::DirEntry>> {
            Ok(None)
        }
    }

    fn add(table: &mut Table) -> Option<Key> {
        table.insert(b"/", What::Dir(Box::new(Nothing)))
    }

    #[test]
    fn the_table_is_bounded_and_takes_again_after_a_close() {
        let mut table = Table::new(2);
        let first = add(&mut table).unwrap();
        assert!(add(&mut table).is_some() && add(&mut table).is_none() && table.is_full());
        assert!(table.remove(first).is_some() && !table.is_full());
        assert!(add(&mut table).is_some());
        assert_eq!(table.drain().count(), 2);
    }

    #[test]
    fn a_closed_handle_does_not_name_what_comes_after_it() {
        let mut table = Table::new(10);
        let old = add(&mut table).unwrap();
        table.remove(old);
        let new = add(&mut table).unwrap();
        assert_eq!(table.find(&new.to_wire()), Some(new));
        assert_eq!(table.find(&old.to_wire()), None);
        assert!(table.get(old).is_none() && table.remove(old).is_none());
        for bad in [&b""[..], b"abc", b"\xff\xff\0\0", b"\0\0\0\0\0"] {
            assert_eq!(table.find(bad), None);
        }
    }
}
