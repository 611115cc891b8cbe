//! Threads for what may take long: opening and using pipes and devices, fsync, copies.
//!
//! Bounds: [`THREADS`] threads, made when first needed. At most [`ENDLESS`] jobs may be such that they can wait for somebody else for
//! good, so the others always find a thread. A job belongs to one handle (a copy to two) and a handle has one job at a time, so the queue
//! is no longer than the handle table plus [`ENDLESS`].

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use crate::codec::Status;
use crate::handles::Key;
use crate::vfs::{self, OpenFlags, Vfs, VfsFile, Wait};

use super::copy::{self, Copy};

/// Threads at most.
const THREADS: usize = 16;
/// Stack of a thread, in bytes; the deepest call is a system call.
const STACK: usize = 128 * 1024;
/// Jobs at once that may never end; fewer than [`THREADS`].
pub(super) const ENDLESS: usize = 12;

/// Something to do.
pub(super) enum Job {
    Open {
        id: u32,
        path: Vec<u8>,
        flags: OpenFlags,
        mode: u32,
    },
    Read {
        id: u32,
        key: Key,
        file: Arc<dyn VfsFile>,
        offset: u64,
        len: usize,
    },
    Write {
        id: u32,
        key: Key,
        file: Arc<dyn VfsFile>,
        offset: u64,
        data: Vec<u8>,
    },
    Sync {
        id: u32,
        key: Key,
        file: Arc<dyn VfsFile>,
    },
    Copy {
        id: u32,
        from: Key,
        to: Key,
        copy: Copy,
    },
    /// Lets go of a file; closing a terminal waits until its output is gone.
    Drop {
        file: Arc<dyn VfsFile>,
    },
}

/// What came of it.
pub(super) enum Done {
    Opened { id: u32, path: Vec<u8>, flags: OpenFlags, file: vfs::Result<Arc<dyn VfsFile>> },
    Read { id: u32, key: Key, data: vfs::Result<Vec<u8>> },
    Wrote { id: u32, key: Key, status: Status, bytes: u64 },
    Synced { id: u32, key: Key, status: Status },
    Copied { id: u32, from: Key, to: Key, status: Status, bytes: u64 },
    Dropped,
}

impl Job {
    /// Whether it may wait for good.
    pub(super) fn is_endless(&self) -> bool {
        matches!(self, Self::Open { .. } | Self::Read { .. } | Self::Write { .. } | Self::Drop { .. })
    }
}

impl Done {
    pub(super) fn was_endless(&self) -> bool {
        !matches!(self, Self::Synced { .. } | Self::Copied { .. })
    }
}

/// The pool of one session.
pub(super) struct Pool {
    shared: Arc<Shared>,
    threads: usize,
    /// Jobs given and not yet collected.
    ending: usize,
    endless: usize,
}

struct Shared {
    vfs: Arc<dyn Vfs>,
    state: Mutex<State>,
    wake: Condvar,
    /// Counts up when something is done.
    event: OwnedFd,
    stop: AtomicBool,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    done: Vec<Done>,
    idle: usize,
    closed: bool,
}

impl Pool {
    /// A pool without threads yet.
    ///
    /// # Errors
    /// No event descriptor can be made.
    pub(super) fn new(vfs: Arc<dyn Vfs>) -> vfs::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (state, wake, stop) = (Mutex::default(), Condvar::new(), AtomicBool::new(false));
        Ok(Self {
            shared: Arc::new(Shared { vfs, state, wake, event, stop }),
            threads: 0,
            ending: 0,
            endless: 0,
        })
    }

    /// Gives a job to a thread, or gives it back when there are too many that may never end, or no thread can be had.
    pub(super) fn submit(&mut self, job: Job) -> Result<(), Job> {
        let endless = job.is_endless();
        if endless && self.endless >= ENDLESS {
            return Err(job);
        }
        let mut state = self.shared.lock();
        if state.idle <= state.jobs.len() && self.threads < THREADS {
            let shared = Arc::clone(&self.shared);
            match std::thread::Builder::new()
                .name("sftp-slow".into())
                .stack_size(STACK)
                .spawn(move || shared.work())
            {
                Ok(_) => self.threads += 1,
                Err(_) if self.threads > self.endless => {}
                Err(_) => return Err(job),
            }
        }
        state.jobs.push_back(job);
        drop(state);
        self.shared.wake.notify_one();
        if endless {
            self.endless += 1;
        } else {
            self.ending += 1;
        }
        Ok(())
    }

    /// Does a job here and now.
    pub(super) fn run(&self, job: Job) -> Done {
        self.shared.run(job)
    }

    /// Jobs under way.
    pub(super) fn is_working(&self) -> bool {
        self.ending + self.endless > 0
    }

    /// Jobs under way that end by themselves.
    pub(super) fn has_ending(&self) -> bool {
        self.ending > 0
    }

    /// Becomes readable when something is done.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }

    /// What is done since.
    pub(super) fn collect(&mut self) -> Vec<Done> {
        let mut count = [0; 8];
        // Nothing to read means that nothing is done.
        let _ = rustix::io::read(&self.shared.event, &mut count);
        let done = std::mem::take(&mut self.shared.lock().done);
        for one in &done {
            if one.was_endless() {
                self.endless = self.endless.saturating_sub(1);
            } else {
                self.ending = self.ending.saturating_sub(1);
            }
        }
        done
    }
}

impl Drop for Pool {
    /// Threads that wait for jobs end; one that waits for the other end of a pipe stays until the process ends.
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut state = self.shared.lock();
        state.closed = true;
        state.jobs.clear();
        drop(state);
        self.shared.wake.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can panic; if it did, the queues would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if state.closed {
                return;
            }
            let Some(job) = state.jobs.pop_front() else {
                state.idle += 1;
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle = state.idle.saturating_sub(1);
                continue;
            };
            drop(state);
            let done = self.run(job);
            state = self.lock();
            state.done.push(done);
            // Full is as good as written: the reader wakes.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    fn run(&self, job: Job) -> Done {
        match job {
            Job::Open { id, path, flags, mode } => {
                let file = self.vfs.open(&path, flags, mode, Wait::Allowed);
                Done::Opened { id, path, flags, file }
            }
            Job::Read { id, key, file, offset, len } => {
                let mut data = vec![0; len];
                let data = file.read_at(&mut data, offset).map(|n| {
                    data.truncate(n);
                    data
                });
                Done::Read { id, key, data }
            }
            Job::Write { id, key, file, offset, data } => {
                let (status, bytes) = write_all(&*file, &data, offset);
                Done::Wrote { id, key, status, bytes }
            }
            Job::Sync { id, key, file } => {
                Done::Synced { id, key, status: file.sync().err().map_or(Status::OK, Status::from) }
            }
            Job::Copy { id, from, to, copy } => {
                let (status, bytes) = copy::run(&copy, &self.stop);
                Done::Copied { id, from, to, status, bytes }
            }
            Job::Drop { file } => {
                drop(file);
                Done::Dropped
            }
        }
    }
}

/// Writes all of it, or says how it failed and how much was written.
pub(super) fn write_all(file: &dyn VfsFile, mut data: &[u8], offset: u64) -> (Status, u64) {
    let mut written = 0_u64;
    // A write of nothing is still tried: it tells whether the handle can be written.
    loop {
        match file.write_at(data, offset.saturating_add(written)) {
            Ok(n) => {
                written += n as u64;
                data = data.get(n..).unwrap_or_default();
                if data.is_empty() {
                    return (Status::OK, written);
                }
                if n == 0 {
                    return (Status::FAILURE, written);
                }
            }
            Err(e) => return (e.into(), written),
        }
    }
}
