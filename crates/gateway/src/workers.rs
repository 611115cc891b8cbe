//! The threads that serve connections: one single-threaded runtime per core.
//!
//! A connection stays on its thread from accept to end, with its socket, its pipes and its timers. A work-stealing runtime
//! would move it at every wake-up: measured on a bulk download it spent a fifth of the time in switching threads, and one
//! wake-up call for every 128 KiB. What connections share (the store, the registers) is made for any thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// More threads than this bring nothing that a second gateway would not do better.
const MAX_WORKERS: usize = 64;

/// The threads. They end when this is dropped; what still runs on them ends with them.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Worker>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    load: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts one thread per available core.
    ///
    /// # Errors
    /// The system gives no thread or no event queue.
    pub fn start() -> io::Result<Self> {
        let count = thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
        let stop = CancellationToken::new();
        let workers =
            (0..count).map(|index| Worker::start(index, stop.clone())).collect::<io::Result<_>>()?;
        Ok(Self { workers, stop })
    }

    /// The thread with the fewest connections, counting the one that now comes; `None` only when there are no threads.
    pub fn least_busy(&self) -> Option<Place> {
        let worker = self.workers.iter().min_by_key(|worker| worker.load.load(Ordering::Relaxed))?;
        worker.load.fetch_add(1, Ordering::Relaxed);
        Some(Place { runtime: worker.runtime.clone(), load: worker.load.clone() })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Worker {
    fn start(index: usize, stop: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        thread::Builder::new()
            .name(format!("ssh-{index}"))
            .spawn(move || runtime.block_on(stop.cancelled_owned()))?;
        Ok(Self { runtime: handle, load: Arc::default() })
    }
}

/// A connection's place on a thread, given back when dropped.
#[derive(Debug)]
pub struct Place {
    runtime: Handle,
    load: Arc<AtomicUsize>,
}

impl Place {
    /// The runtime to spawn on.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_spread_and_places_given_back() {
        let workers = Workers::start().expect("threads");
        let places: Vec<_> = (0..workers.workers.len() * 2).filter_map(|_| workers.least_busy()).collect();
        let loads =
            || workers.workers.iter().map(|worker| worker.load.load(Ordering::Relaxed)).collect::<Vec<_>>();
        assert!(loads().iter().all(|load| *load == 2), "{:?}", loads());
        drop(places);
        assert!(loads().iter().all(|load| *load == 0), "{:?}", loads());
    }

    #[test]
    fn work_runs_on_the_chosen_thread() {
        let workers = Workers::start().expect("threads");
        let place = workers.least_busy().expect("a place");
        let (sender, receiver) = std::sync::mpsc::channel();
        place.runtime().spawn(async move { sender.send(thread::current().name().map(str::to_owned)) });
        let name = receiver.recv().expect("an answer").expect("a name");
        assert!(name.starts_with("ssh-"), "{name}");
    }
}
