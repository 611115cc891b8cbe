//! Listing directories: a bounded piece per request, never the whole directory.

use std::os::fd::AsFd;

use crate::codec::{Attrs, NameEntry, NamesWriter, Status};
use crate::handles::What;
use crate::longname;
use crate::names::Names;

use super::session::{Outcome, Session, now};

/// Entries of one reply at most. OpenSSH gives 100; more of them make fewer round trips, and the bound in bytes holds for long names.
const MAX_ENTRIES: u32 = 256;
/// Bytes after which a reply takes no further entry; 100 of the longest names make about as much in OpenSSH's replies.
const MAX_BYTES: usize = 48 * 1024;

impl<O: AsFd> Session<O> {
    pub(super) fn opendir(&mut self, id: u32, path: &[u8]) -> Outcome {
        if self.handles.is_full() {
            return self.status(id, Status::FAILURE);
        }
        let key = match self.vfs.open_dir(path) {
            Ok(dir) => self.handles.insert(path, What::Dir(dir)),
            Err(e) => return self.status(id, e.into()),
        };
        match key {
            Some(key) => self.reply(&crate::codec::Reply::Handle { id, handle: &key.to_wire() }),
            None => self.status(id, Status::FAILURE),
        }
    }

    pub(super) fn readdir(&mut self, id: u32, handle: &[u8]) -> Outcome {
        self.names();
        let nobody = Names::default();
        let (names, handles, scratch) = self.listing();
        let names = names.unwrap_or(&nobody);
        let dir = handles.find(handle).and_then(|key| handles.get_mut(key)).map(|h| &mut h.what);
        let Some(What::Dir(dir)) = dir else { return self.status(id, Status::FAILURE) };
        let now = now();
        scratch.clear();
        let mut long = Vec::new();
        let mut writer = NamesWriter::new(scratch, id);
        let mut failed = None;
        for _ in 0..MAX_ENTRIES {
            if writer.len() >= MAX_BYTES {
                break;
            }
            match dir.next_entry() {
                Ok(Some(entry)) => {
                    long.clear();
                    longname::write(&mut long, &entry.name, &entry.meta, names, now);
                    writer.push(&NameEntry {
                        name: &entry.name,
                        long: &long,
                        attrs: Attrs::from(&entry.meta),
                    });
                }
                Ok(None) => break,
                Err(e) => {
                    failed = Some(e);
                    break;
                }
            }
        }
        if writer.is_empty() {
            // An error in the middle is told by the next request, after the entries before it.
            return self.status(id, failed.map_or(Status::EOF, Status::from));
        }
        writer.finish();
        self.push_scratch()
    }
}
