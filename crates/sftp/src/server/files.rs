//! Requests on open files: open, close, read, write, and attributes.

use std::io::IoSlice;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::io::Errno;

use crate::audit::Verb;
use crate::codec::{Attrs, MAX_DATA, Reply, Request, Status, frame, kind};
use crate::handles::{Key, OpenFile, What};
use crate::vfs::{self, OpenFlags, Owner, Times, VfsFile, Wait};

use super::pool::{Job, write_all};
use super::session::{Outcome, Session};
use super::{ServeError, lend};

/// WRITEs that one system call writes, at most.
const MAX_WRITES: usize = 64;
/// Bytes of a DATA reply before the data: length, type, id, length of the data.
const DATA_HEADER: usize = 4 + 1 + 4 + 4;

impl<O: AsFd> Session<O> {
    pub(super) fn open(&mut self, id: u32, path: &[u8], flags: OpenFlags, attrs: Attrs) -> Outcome {
        if self.config.permitted.is_read_only() && flags.changes() {
            return self.status(id, Status::PERMISSION_DENIED);
        }
        if self.handles.is_full() {
            return self.status(id, Status::FAILURE);
        }
        let mode = attrs.mode.unwrap_or(0o666);
        match self.vfs.open(path, flags, mode, Wait::Refused) {
            Err(Errno::WOULDBLOCK) => {
                self.submit(id, &[], Job::Open { id, path: path.to_vec(), flags, mode })
            }
            result => self.opened(id, path, flags, result),
        }
    }

    /// Gives a handle for what was opened.
    pub(super) fn opened(
        &mut self,
        id: u32,
        path: &[u8],
        flags: OpenFlags,
        result: vfs::Result<Arc<dyn VfsFile>>,
    ) -> Outcome {
        let file = match result {
            Ok(file) => OpenFile { file, flags, written: 0, next_read: 0, advised: false },
            Err(e) => return self.status(id, e.into()),
        };
        let Some(key) = self.handles.insert(path, What::File(file)) else {
            return self.status(id, Status::FAILURE);
        };
        if flags.changes() {
            self.record(Verb::Opened, 0, path)?;
        }
        self.reply(&Reply::Handle { id, handle: &key.to_wire() })
    }

    pub(super) fn close_handle(&mut self, id: u32, handle: &[u8]) -> Outcome {
        let Some(handle) = self.handles.find(handle).and_then(|key| self.handles.remove(key)) else {
            return self.status(id, Status::NO_SUCH_FILE);
        };
        if let What::File(file) = handle.what {
            self.record_written(&handle.path, &file)?;
            self.drop_slowly(file);
        }
        self.status(id, Status::OK)
    }

    pub(super) fn read(&mut self, id: u32, handle: &[u8], offset: u64, len: u32) -> Outcome {
        let key = self.handles.find(handle);
        let Some(open) = self.handles.file_mut(key) else { return self.status(id, Status::FAILURE) };
        let len = usize::try_from(len).unwrap_or(MAX_DATA).min(MAX_DATA);
        if let Some(key) = key
            && open.file.may_block()
        {
            let file = Arc::clone(&open.file);
            return self.submit(id, &[key], Job::Read { id, key, file, offset, len });
        }
        if !open.advised && offset == open.next_read && offset > 0 {
            open.file.expect_sequential();
            open.advised = true;
        }
        // Only the second of neighbouring pieces shows that the file is not a small one.
        if len >= lend::LEAST
            && offset > 0
            && offset == open.next_read
            && let Some(file) = open.file.as_fd()
            && let Some(n) = self.out.fetch(file, offset, len)
        {
            open.next_read = offset.saturating_add(n as u64);
            return match n {
                0 => self.status(id, Status::EOF),
                n => self.out.send_fetched(&data_header(id, n), n).map_err(ServeError::Output),
            };
        }
        let room = self.out.room(DATA_HEADER + len).map_err(ServeError::Output)?;
        let Some((header, data)) = room.split_first_chunk_mut::<DATA_HEADER>() else { return Ok(()) };
        let n = match open.file.read_at(data, offset) {
            // Nothing was asked for: that is no end of the file.
            Ok(0) if len > 0 => return self.status(id, Status::EOF),
            Ok(n) => n,
            Err(e) => return self.status(id, e.into()),
        };
        open.next_read = offset.saturating_add(n as u64);
        *header = data_header(id, n);
        self.out.commit(DATA_HEADER + n).map_err(ServeError::Output)
    }

    /// Writes the WRITE at the front of `input` and those after it that go on where it ends. Gives the bytes of input used.
    pub(super) fn write(&mut self, key: Option<Key>, input: &[u8]) -> Outcome<usize> {
        let run = Run::collect(input);
        let Some(open) = self.handles.file_mut(key) else { return Ok(input.len()) };
        // A single one, and whatever a first call left over, is written one by one, so that each has its own outcome.
        let mut whole = 0;
        if run.writes.len() > 1 {
            let slices: Vec<IoSlice<'_>> = run.writes.iter().map(|(_, data)| IoSlice::new(data)).collect();
            whole = open.file.write_vectored_at(&slices, run.offset).unwrap_or(0);
        }
        let mut offset = run.offset;
        let mut statuses = Vec::with_capacity(run.writes.len());
        for (id, data) in &run.writes {
            let before = whole.min(data.len());
            whole -= before;
            let (status, bytes) = match data.get(before..).unwrap_or_default() {
                [] if before > 0 => (Status::OK, 0),
                rest => write_all(&*open.file, rest, offset.saturating_add(before as u64)),
            };
            open.written = open.written.saturating_add(bytes).saturating_add(before as u64);
            offset = offset.saturating_add(data.len() as u64);
            statuses.push((*id, status));
        }
        for (id, status) in statuses {
            self.status(id, status)?;
        }
        Ok(run.used)
    }

    /// A WRITE to what may block, or to nothing that is open.
    pub(super) fn write_slowly(&mut self, id: u32, handle: &[u8], offset: u64, data: &[u8]) -> Outcome {
        let key = self.handles.find(handle);
        let (Some(open), Some(key)) = (self.handles.file(key), key) else {
            return self.status(id, Status::FAILURE);
        };
        let file = Arc::clone(&open.file);
        self.submit(id, &[key], Job::Write { id, key, file, offset, data: data.to_vec() })
    }

    pub(super) fn fstat(&mut self, id: u32, handle: &[u8]) -> Outcome {
        let Some(open) = self.handles.file(self.handles.find(handle)) else {
            return self.status(id, Status::FAILURE);
        };
        match open.file.stat() {
            Ok(meta) => self.reply(&Reply::Attrs { id, attrs: Attrs::from(&meta) }),
            Err(e) => self.status(id, e.into()),
        }
    }

    pub(super) fn fsetstat(&mut self, id: u32, handle: &[u8], attrs: Attrs) -> Outcome {
        let Some(key) = self.handles.find(handle) else { return self.status(id, Status::FAILURE) };
        let Some(open) = self.handles.file(Some(key)) else { return self.status(id, Status::FAILURE) };
        let file = &open.file;
        let steps = [
            attrs.size.map(|size| file.set_len(size)),
            attrs.mode.map(|mode| file.set_mode(mode)),
            attrs.times.map(|times| file.set_times(seconds(times))),
            attrs.owner.map(|(uid, gid)| file.set_owner(Owner { uid, gid })),
        ];
        let path = self.handles.get(key).map(|h| h.path.clone()).unwrap_or_default();
        self.record_attrs(&path, attrs, &steps)?;
        self.status(id, last_error(&steps))
    }

    /// Records which attributes were set.
    pub(super) fn record_attrs(
        &mut self,
        path: &[u8],
        attrs: Attrs,
        steps: &[Option<vfs::Result<()>>; 4],
    ) -> Outcome {
        if let (Some(size), Some(Ok(()))) = (attrs.size, steps[0]) {
            self.record(Verb::Resized, size, path)?;
        }
        if steps[1..].iter().any(|step| matches!(step, Some(Ok(())))) {
            self.record(Verb::Changed, 0, path)?;
        }
        Ok(())
    }
}

/// What stands before the data of a DATA reply.
fn data_header(id: u32, len: usize) -> [u8; DATA_HEADER] {
    let mut header = [0; DATA_HEADER];
    // At most MAX_DATA.
    let len = u32::try_from(len).unwrap_or(0);
    header[..4].copy_from_slice(&(len + 9).to_be_bytes());
    header[4] = kind::DATA;
    header[5..9].copy_from_slice(&id.to_be_bytes());
    header[9..].copy_from_slice(&len.to_be_bytes());
    header
}

/// Neighbouring WRITEs at the front of the input.
struct Run<'a> {
    offset: u64,
    writes: Vec<(u32, &'a [u8])>,
    used: usize,
}

impl<'a> Run<'a> {
    fn collect(input: &'a [u8]) -> Self {
        let mut run = Self { offset: 0, writes: Vec::new(), used: 0 };
        let mut first: Option<&[u8]> = None;
        let mut end = 0;
        while run.writes.len() < MAX_WRITES
            && let Ok(Some(packet)) = frame(input.get(run.used..).unwrap_or_default())
            && let Ok(Request::Write { id, handle, offset, data }) = Request::decode(packet)
        {
            match first {
                None => (first, run.offset) = (Some(handle), offset),
                Some(first) if first == handle && offset == end && !data.is_empty() => {}
                Some(_) => break,
            }
            end = offset.saturating_add(data.len() as u64);
            run.writes.push((id, data));
            run.used += packet.len() + 4;
        }
        run
    }
}

/// Times of the protocol.
pub(super) fn seconds((atime, mtime): (u32, u32)) -> Times {
    Times { atime: atime.into(), atime_nsec: 0, mtime: mtime.into(), mtime_nsec: 0 }
}

/// Every step is tried; what is told is the last that failed, as OpenSSH does.
pub(super) fn last_error(steps: &[Option<vfs::Result<()>>]) -> Status {
    let failed = steps.iter().rev().find_map(|step| step.and_then(Result::err));
    failed.map_or(Status::OK, Status::from)
}
