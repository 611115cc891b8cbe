//! Whether a machine's vsock device still works.
//!
//! `vhost-device-vsock` serves all connections on one thread. When that ends the process goes on, nobody can reach the machine any more, and
//! nothing says so.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What that thread is called (`vhost-user-backend`).
const WORKER: &str = "vring_worker";
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(5);
/// Before the second look at a device whose worker is missing: it makes a new one when QEMU has gone.
const RECHECK: Duration = Duration::from_millis(500);

/// Looks for the thread now and then.
#[derive(Debug)]
pub(super) struct DeviceWatch {
    /// Where the kernel lists the device's threads.
    threads: PathBuf,
    state: Worker,
    /// When to look again.
    pub(super) next: Instant,
}

/// What was found at the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Worker {
    /// Nothing yet. A device that calls its thread something else stays here.
    NotSeen,
    There,
    Missing,
}

impl DeviceWatch {
    pub(super) fn new(device: u32) -> Self {
        let threads = PathBuf::from(format!("/proc/{device}/task"));
        Self { threads, state: Worker::NotSeen, next: Instant::now() }
    }

    /// Looks when it is time. Whether the worker was there once and has been missing twice since.
    pub(super) fn is_lost(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        self.next = now + PAUSE;
        // A device that has ended is noticed by its end.
        let Ok(is_there) = self.has_worker() else { return false };
        match (self.state, is_there) {
            (_, true) => self.state = Worker::There,
            (Worker::NotSeen, false) => {}
            (Worker::There, false) => {
                self.state = Worker::Missing;
                self.next = now + RECHECK;
            }
            (Worker::Missing, false) => return true,
        }
        false
    }

    fn has_worker(&self) -> io::Result<bool> {
        for thread in fs::read_dir(&self.threads)? {
            // One that ends at this moment has no name any more.
            let name = fs::read_to_string(thread?.path().join("comm")).unwrap_or_default();
            if name.trim_end() == WORKER {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_was_there_is_missed_and_no_other() {
        let mut watch = DeviceWatch::new(std::process::id());
        let mut now = watch.next;
        let mut look = |watch: &mut DeviceWatch| {
            now = now.max(watch.next);
            watch.is_lost(now)
        };
        assert!(!look(&mut watch) && !look(&mut watch) && !look(&mut watch), "it was never there");
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let worker = std::thread::Builder::new().name(WORKER.into()).spawn(move || ended.recv()).unwrap();
        // A thread names itself when it begins.
        let deadline = Instant::now() + Duration::from_secs(5);
        while !watch.has_worker().unwrap() {
            assert!(Instant::now() < deadline, "the thread has no name");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!look(&mut watch));
        assert!(!watch.is_lost(watch.next.checked_sub(Duration::from_millis(1)).unwrap()));
        drop(end);
        let _ = worker.join().unwrap();
        // The kernel lists it for a moment after that.
        while watch.has_worker().unwrap() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!look(&mut watch), "once may be by chance");
        assert!(look(&mut watch));
    }
}
