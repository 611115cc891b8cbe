//! Requests on paths.

use std::os::fd::AsFd;

use crate::audit::Verb;
use crate::codec::{Attrs, NameEntry, NamesWriter, Reply, Status};
use crate::vfs::{self, Follow, Owner};

use super::files::{last_error, seconds};
use super::session::{Outcome, Session};

impl<O: AsFd> Session<O> {
    pub(super) fn stat(&mut self, id: u32, path: &[u8], follow: Follow) -> Outcome {
        match self.vfs.stat(path, follow) {
            Ok(meta) => self.reply(&Reply::Attrs { id, attrs: Attrs::from(&meta) }),
            Err(e) => self.status(id, e.into()),
        }
    }

    pub(super) fn setstat(&mut self, id: u32, path: &[u8], attrs: Attrs) -> Outcome {
        let size = attrs.size.map(|size| self.vfs.set_len(path, size));
        self.set_rest(id, path, attrs, size, Follow::Yes)
    }

    /// `lsetstat@openssh.com`: a link has no size to set.
    pub(super) fn lsetstat(&mut self, id: u32, path: &[u8], attrs: Attrs) -> Outcome {
        if attrs.size.is_some() {
            return self.status(id, Status::BAD_MESSAGE);
        }
        self.set_rest(id, path, attrs, None, Follow::No)
    }

    fn set_rest(
        &mut self,
        id: u32,
        path: &[u8],
        attrs: Attrs,
        size: Option<vfs::Result<()>>,
        follow: Follow,
    ) -> Outcome {
        let vfs = &self.vfs;
        let steps = [
            size,
            attrs.mode.map(|mode| vfs.set_mode(path, mode, follow)),
            attrs.times.map(|times| vfs.set_times(path, seconds(times), follow)),
            attrs.owner.map(|(uid, gid)| vfs.set_owner(path, Owner { uid, gid }, follow)),
        ];
        self.record_attrs(path, attrs, &steps)?;
        self.status(id, last_error(&steps))
    }

    pub(super) fn remove(&mut self, id: u32, path: &[u8]) -> Outcome {
        let size = self.size_of(path);
        let result = self.vfs.remove_file(path);
        if result.is_ok() {
            self.record_sized(Verb::Removed, 0, path, size)?;
        }
        self.result(id, result)
    }

    pub(super) fn mkdir(&mut self, id: u32, path: &[u8], attrs: Attrs) -> Outcome {
        let result = self.vfs.make_dir(path, attrs.mode.map_or(0o777, |mode| mode & 0o7777));
        self.done(id, result, Verb::MadeDir, path)
    }

    pub(super) fn rmdir(&mut self, id: u32, path: &[u8]) -> Outcome {
        let result = self.vfs.remove_dir(path);
        self.done(id, result, Verb::RemovedDir, path)
    }

    pub(super) fn realpath(&mut self, id: u32, path: &[u8]) -> Outcome {
        let path = if path.is_empty() { b"." } else { path };
        match self.vfs.real_path(path) {
            Ok(path) => self.name(id, &path),
            Err(e) => self.status(id, e.into()),
        }
    }

    pub(super) fn readlink(&mut self, id: u32, path: &[u8]) -> Outcome {
        match self.vfs.read_link(path) {
            Ok(target) => self.name(id, &target),
            Err(e) => self.status(id, e.into()),
        }
    }

    pub(super) fn rename(&mut self, id: u32, from: &[u8], to: &[u8]) -> Outcome {
        let size = self.size_of(from);
        match self.vfs.rename_new(from, to) {
            Ok(true) => self.renamed(id, Ok(()), from, to, size),
            Ok(false) => self.status(id, Status::FAILURE),
            Err(e) => self.status(id, e.into()),
        }
    }

    /// Records a renaming and answers.
    pub(super) fn renamed(
        &mut self,
        id: u32,
        result: vfs::Result<()>,
        from: &[u8],
        to: &[u8],
        size: Option<u64>,
    ) -> Outcome {
        if result.is_ok() {
            self.record_pair(Verb::Renamed, from, to, size)?;
        }
        self.result(id, result)
    }

    pub(super) fn symlink(&mut self, id: u32, target: &[u8], link: &[u8]) -> Outcome {
        let result = self.vfs.symlink(target, link);
        self.done_pair(id, result, Verb::Symlinked, target, link)
    }

    /// Records a change of one path and answers.
    pub(super) fn done(&mut self, id: u32, result: vfs::Result<()>, verb: Verb, path: &[u8]) -> Outcome {
        if result.is_ok() {
            self.record(verb, 0, path)?;
        }
        self.result(id, result)
    }

    /// Records a change of two paths and answers.
    pub(super) fn done_pair(
        &mut self,
        id: u32,
        result: vfs::Result<()>,
        verb: Verb,
        from: &[u8],
        to: &[u8],
    ) -> Outcome {
        if result.is_ok() {
            self.record_pair(verb, from, to, None)?;
        }
        self.result(id, result)
    }

    /// A NAME reply with one path and no attributes.
    pub(super) fn name(&mut self, id: u32, path: &[u8]) -> Outcome {
        self.scratch.clear();
        let mut writer = NamesWriter::new(&mut self.scratch, id);
        writer.push(&NameEntry { name: path, long: path, attrs: Attrs::default() });
        writer.finish();
        self.push_scratch()
    }
}
