//! The state of a session, and the way of a request: permission, order among those of its handle, the operation, the reply.

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::audit::{Audit, Event, Verb};
use crate::codec::{DecodeError, Reply, Request, Status, Strings, VERSION, frame};
use crate::handles::{Handle, Key, OpenFile, Table, What, Work};
use crate::names::Names;
use crate::vfs::{self, Follow, Vfs};

use super::buffers::Output;
use super::pool::{Done, Job, Pool};
use super::{Config, MAX_DEFERRED, ServeError};

/// What became of the front of the input.
pub(super) enum Step {
    /// This many bytes are dealt with.
    Used(usize),
    /// Too much is waiting for threads; nothing can be taken before one is done.
    Stuck,
}

pub(super) type Outcome<T = ()> = Result<T, ServeError>;

/// One session.
pub(super) struct Session<O> {
    pub(super) config: Config,
    pub(super) vfs: Arc<dyn Vfs>,
    audit: Box<dyn Audit>,
    pub(super) handles: Table,
    pub(super) out: Output<O>,
    /// For replies other than DATA.
    pub(super) scratch: Vec<u8>,
    pool: Pool,
    /// Bytes of requests in the handles' queues.
    deferred: usize,
    names: Option<Names>,
    begun: bool,
}

impl<O: AsFd> Session<O> {
    pub(super) fn new(
        config: Config,
        vfs: Arc<dyn Vfs>,
        audit: Box<dyn Audit>,
        output: O,
    ) -> vfs::Result<Self> {
        let pool = Pool::new(Arc::clone(&vfs))?;
        let handles = Table::new(config.max_handles);
        let (out, scratch) = (Output::new(output), Vec::new());
        Ok(Self { config, vfs, audit, handles, out, scratch, pool, deferred: 0, names: None, begun: false })
    }

    /// Deals with the request at the front of `input`, which is all there, and with WRITEs after it that belong to it.
    pub(super) fn handle(&mut self, input: &[u8]) -> Outcome<Step> {
        let Some(packet) = frame(input).map_err(ServeError::Packet)? else { return Ok(Step::Stuck) };
        let used = packet.len() + 4;
        let request = match Request::decode(packet) {
            Ok(request) => request,
            Err(_) if !self.begun => return Err(ServeError::NotBegun),
            // The stream is still in step: whoever sent this learns of it and the session goes on.
            Err(DecodeError::Field { id }) => {
                return self.status(id, Status::BAD_MESSAGE).map(|()| Step::Used(used));
            }
            Err(DecodeError::Kind { id, .. }) => {
                return self.status(id, Status::OP_UNSUPPORTED).map(|()| Step::Used(used));
            }
            Err(e) => return Err(ServeError::Packet(e)),
        };
        if let Request::Init { .. } = request {
            self.begun = true;
            return self.version().map(|()| Step::Used(used));
        }
        if !self.begun {
            return Err(ServeError::NotBegun);
        }
        if !self.config.permitted.has(&request) {
            return self.status(request.id(), Status::PERMISSION_DENIED).map(|()| Step::Used(used));
        }
        if request.changes_contents() {
            self.out.settle().map_err(ServeError::Output)?;
        }
        if let Some(work) = self.in_the_way(&request) {
            return self
                .defer(&request, packet, work)
                .map(|fit| if fit { Step::Used(used) } else { Step::Stuck });
        }
        if let Request::Write { handle, .. } = request {
            let key = self.handles.find(handle);
            if self.handles.file(key).is_some_and(|f| !f.file.may_block()) {
                return self.write(key, input).map(Step::Used);
            }
        }
        self.dispatch(request)?;
        Ok(Step::Used(used))
    }

    fn dispatch(&mut self, request: Request<'_>) -> Outcome {
        match request {
            Request::Init { .. } => Ok(()),
            Request::Open { id, path, flags, attrs } => self.open(id, path, flags, attrs),
            Request::Close { id, handle } => self.close_handle(id, handle),
            Request::Read { id, handle, offset, len } => self.read(id, handle, offset, len),
            Request::Write { id, handle, offset, data } => self.write_slowly(id, handle, offset, data),
            Request::Fstat { id, handle } => self.fstat(id, handle),
            Request::Fsetstat { id, handle, attrs } => self.fsetstat(id, handle, attrs),
            Request::Opendir { id, path } => self.opendir(id, path),
            Request::Readdir { id, handle } => self.readdir(id, handle),
            Request::Extended { id, request } => self.extended(id, request),
            Request::Lstat { id, path } => self.stat(id, path, vfs::Follow::No),
            Request::Stat { id, path } => self.stat(id, path, vfs::Follow::Yes),
            Request::Setstat { id, path, attrs } => self.setstat(id, path, attrs),
            Request::Remove { id, path } => self.remove(id, path),
            Request::Mkdir { id, path, attrs } => self.mkdir(id, path, attrs),
            Request::Rmdir { id, path } => self.rmdir(id, path),
            Request::Realpath { id, path } => self.realpath(id, path),
            Request::Rename { id, from, to } => self.rename(id, from, to),
            Request::Readlink { id, path } => self.readlink(id, path),
            Request::Symlink { id, target, link } => self.symlink(id, target, link),
        }
    }

    /// Closes everything at the end and records what was written.
    pub(super) fn close(&mut self) -> Outcome {
        let handles: Vec<Handle> = self.handles.drain().collect();
        for handle in &handles {
            if let What::File(file) = &handle.what {
                self.record_written(&handle.path, file)?;
            }
        }
        // One that a thread still holds, or whose close may wait, is closed by the end of the process.
        Ok(())
    }

    // --- threads ---

    pub(super) fn is_working(&self) -> bool {
        self.pool.is_working()
    }

    pub(super) fn has_ending(&self) -> bool {
        self.pool.has_ending()
    }

    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.pool.event()
    }

    /// Waits until a thread is done and collects what is done.
    pub(super) fn wait(&mut self) -> Outcome {
        match poll(&mut [PollFd::from_borrowed_fd(self.pool.event(), PollFlags::IN)], None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(ServeError::Input(e.into())),
        }
        self.collect()?;
        self.flush()
    }

    /// Answers what threads have done, and takes up the requests that waited for it.
    pub(super) fn collect(&mut self) -> Outcome {
        for done in self.pool.collect() {
            self.finish(done)?;
        }
        Ok(())
    }

    /// Answers one thing done.
    fn finish(&mut self, done: Done) -> Outcome {
        match done {
            Done::Opened { id, path, flags, file } => self.opened(id, &path, flags, file),
            Done::Read { id, key, data } => {
                match data {
                    Ok(data) if data.is_empty() => self.status(id, Status::EOF)?,
                    Ok(data) => self.reply(&Reply::Data { id, data: &data })?,
                    Err(e) => self.status(id, e.into())?,
                }
                self.resume(key)
            }
            Done::Wrote { id, key, status, bytes } => {
                self.add_written(key, bytes);
                self.status(id, status)?;
                self.resume(key)
            }
            Done::Synced { id, key, status } => {
                self.status(id, status)?;
                self.resume(key)
            }
            Done::Copied { id, from, to, status, bytes } => {
                self.add_written(to, bytes);
                self.status(id, status)?;
                self.resume(from)?;
                self.resume(to)
            }
            Done::Dropped => Ok(()),
        }
    }

    /// Gives a job to a thread and marks its handles; answers "Failure" when too many threads wait for good already.
    pub(super) fn submit(&mut self, id: u32, keys: &[Key], job: Job) -> Outcome {
        let work = if job.is_endless() { Work::Endless } else { Work::Ending };
        match self.pool.submit(job) {
            Ok(()) => {}
            // No thread can be had: what ends by itself is done here.
            Err(job) if work == Work::Ending => {
                let done = self.pool.run(job);
                return self.finish(done);
            }
            Err(_) => return self.status(id, Status::FAILURE),
        }
        for key in keys {
            if let Some(handle) = self.handles.get_mut(*key) {
                handle.work = work;
            }
        }
        Ok(())
    }

    /// Lets a file go that might wait when it is closed.
    pub(super) fn drop_slowly(&mut self, file: OpenFile) {
        if file.file.may_block() {
            // Without a thread for it, it is closed here.
            let _ = self.pool.submit(Job::Drop { file: file.file });
        }
    }

    /// What works for the handles of a request right now.
    fn in_the_way(&self, request: &Request<'_>) -> Option<Work> {
        if !self.pool.is_working() {
            return None;
        }
        let handles = request.handles().into_iter().flatten();
        let works = handles.filter_map(|h| self.handles.get(self.handles.find(h)?)).map(|h| h.work);
        works.filter(|work| *work != Work::Idle).max_by_key(|work| *work == Work::Endless)
    }

    /// Puts a request into the queue of its handle. Tells whether it fit.
    fn defer(&mut self, request: &Request<'_>, packet: &[u8], work: Work) -> Outcome<bool> {
        let handle = match request.handles() {
            // It has two handles, and what comes after it on either must wait for it: so everything waits.
            [Some(_), Some(_)] => None,
            [one, _] => one,
        };
        // What the queue itself needs for one, so that many small ones are bounded too.
        let cost = packet.len() + 64;
        let key = handle.and_then(|h| self.handles.find(h));
        if let Some(handle) = key.and_then(|key| self.handles.get_mut(key))
            && self.deferred + cost <= MAX_DEFERRED
        {
            handle
                .deferred
                .push_back([&u32::try_from(packet.len()).unwrap_or(0).to_be_bytes(), packet].concat());
            self.deferred += cost;
            return Ok(true);
        }
        if work == Work::Endless {
            return self.status(request.id(), Status::FAILURE).map(|()| true);
        }
        Ok(false)
    }

    /// A thread is done with a handle: its waiting requests are next, until one of them needs a thread again.
    fn resume(&mut self, key: Key) -> Outcome {
        if let Some(handle) = self.handles.get_mut(key) {
            handle.work = Work::Idle;
        }
        // A queue that the request closed with its handle is gone; what waited behind is answered all the same.
        let mut orphans = std::collections::VecDeque::new();
        loop {
            let packet = match self.handles.get_mut(key) {
                Some(handle) if handle.work != Work::Idle => return Ok(()),
                Some(handle) => handle.deferred.pop_front(),
                None => orphans.pop_front(),
            };
            let Some(packet) = packet else { return Ok(()) };
            self.deferred = self.deferred.saturating_sub(packet.len() + 60);
            if let Ok(Request::Close { .. }) = Request::decode(packet.get(4..).unwrap_or_default())
                && let Some(handle) = self.handles.get_mut(key)
            {
                orphans = std::mem::take(&mut handle.deferred);
            }
            // Only a full queue gives `Stuck`, and this one has just become shorter.
            self.handle(&packet)?;
        }
    }

    fn add_written(&mut self, key: Key, bytes: u64) {
        if let Some(file) = self.handles.file_mut(Some(key)) {
            file.written = file.written.saturating_add(bytes);
        }
    }

    // --- replies ---

    pub(super) fn flush(&mut self) -> Outcome {
        self.out.flush().map_err(ServeError::Output)
    }

    pub(super) fn reply(&mut self, reply: &Reply<'_>) -> Outcome {
        self.scratch.clear();
        reply.encode(&mut self.scratch);
        self.push_scratch()
    }

    /// Sends the packet in `scratch`.
    pub(super) fn push_scratch(&mut self) -> Outcome {
        self.out.push(&self.scratch).map_err(ServeError::Output)
    }

    pub(super) fn status(&mut self, id: u32, status: Status) -> Outcome {
        self.reply(&Reply::status(id, status))
    }

    /// A STATUS for an operation that gives nothing.
    pub(super) fn result(&mut self, id: u32, result: vfs::Result<()>) -> Outcome {
        self.status(id, result.err().map_or(Status::OK, Status::from))
    }

    fn version(&mut self) -> Outcome {
        let mut extensions = Vec::new();
        for (name, version) in self.config.permitted.extensions() {
            for text in [name, version] {
                extensions.extend(u32::try_from(text.len()).unwrap_or(0).to_be_bytes());
                extensions.extend(text.bytes());
            }
        }
        self.reply(&Reply::Version { version: VERSION, extensions: Strings(&extensions) })
    }

    // --- audit and names ---

    /// Records a change of one path.
    pub(super) fn record(&mut self, verb: Verb, size: u64, path: &[u8]) -> Outcome {
        self.record_sized(verb, size, path, None)
    }

    /// The same with the size of the whole file.
    pub(super) fn record_sized(
        &mut self,
        verb: Verb,
        size: u64,
        path: &[u8],
        file_size: Option<u64>,
    ) -> Outcome {
        let path = self.absolute(path);
        self.audit.record(&Event::new(verb, size, &path).of_size(file_size)).map_err(ServeError::Audit)
    }

    /// Records a change of two paths. What a symbolic link says is recorded as it is.
    pub(super) fn record_pair(
        &mut self,
        verb: Verb,
        from: &[u8],
        to: &[u8],
        file_size: Option<u64>,
    ) -> Outcome {
        let from = if verb == Verb::Symlinked { Cow::Borrowed(from) } else { self.absolute(from) };
        let to = self.absolute(to);
        self.audit.record(&Event::pair(verb, &from, &to).of_size(file_size)).map_err(ServeError::Audit)
    }

    /// Records what was written to a file that is closed now.
    pub(super) fn record_written(&mut self, path: &[u8], file: &OpenFile) -> Outcome {
        // As when `Opened` is said: an open for reading may make or empty a file too.
        if !file.flags.changes() {
            return Ok(());
        }
        let size = file.file.stat().ok().and_then(|meta| meta.file_size());
        self.record_sized(Verb::Wrote, file.written, path, size)
    }

    /// The size of the file at a path, links not followed, before that path is gone.
    pub(super) fn size_of(&self, path: &[u8]) -> Option<u64> {
        self.vfs.stat(path, Follow::No).ok()?.file_size()
    }

    fn absolute<'p>(&self, path: &'p [u8]) -> Cow<'p, [u8]> {
        if path.first() == Some(&b'/') {
            return Cow::Borrowed(path);
        }
        let mut full = self.vfs.cwd().unwrap_or_else(|_| b"?".to_vec());
        if full.last() != Some(&b'/') {
            full.push(b'/');
        }
        full.extend_from_slice(path);
        Cow::Owned(full)
    }

    /// What a listing needs at once.
    pub(super) fn listing(&mut self) -> (Option<&Names>, &mut Table, &mut Vec<u8>) {
        (self.names.as_ref(), &mut self.handles, &mut self.scratch)
    }

    /// Names of users and groups, read when first needed.
    pub(super) fn names(&mut self) -> &Names {
        let etc = &self.config.etc;
        self.names.get_or_insert_with(|| Names::load(etc))
    }
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}
