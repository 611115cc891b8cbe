//! The way of connections that begin in the sandbox: from a listener to the connection's task, within two bounds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sandgate_guest::{GuestError, Listener};
use tokio::sync::{Semaphore, mpsc};

use super::incoming::{Arrived, Source};

/// Connections of one listener that the client has not answered yet; the rest wait in the guest.
const MAX_PENDING: usize = 64;

/// Where listeners put who has connected.
#[derive(Debug, Clone)]
pub(in crate::ssh) struct Arrivals {
    sender: mpsc::Sender<Arrived>,
    /// Channels of all listeners of the connection together.
    places: Arc<Semaphore>,
    /// Connections of this listener that wait for the client.
    pending: Arc<Semaphore>,
    warnings: Arc<Pace>,
}

/// How often it is worth a warning that a connection came to nothing: a program in the sandbox can bring that about as fast as it likes.
const WARN_EVERY: Duration = Duration::from_secs(1);

/// Keeps warnings about one listener to one in [`WARN_EVERY`].
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<Option<Instant>>);

impl Pace {
    /// Whether it is time for another one.
    pub(super) fn may_warn(&self) -> bool {
        let now = Instant::now();
        let mut last = self.0.lock();
        let is_time = last.is_none_or(|last| now.saturating_duration_since(last) >= WARN_EVERY);
        if is_time {
            *last = Some(now);
        }
        is_time
    }
}

impl Arrivals {
    /// The two ends. `max_channels` are those of the connection. Half of them is for what comes from the sandbox, so that programs there
    /// cannot keep the user from opening another session.
    pub(super) fn new(max_channels: usize) -> (Self, mpsc::Receiver<Arrived>) {
        // One at a time: the connection's task takes it at once.
        let (sender, receiver) = mpsc::channel(1);
        let places = Arc::new(Semaphore::new((max_channels / 2).clamp(1, Semaphore::MAX_PERMITS)));
        let pending = Arc::new(Semaphore::new(MAX_PENDING));
        (Self { sender, places, pending, warnings: Arc::default() }, receiver)
    }

    /// For another listener.
    pub(in crate::ssh) fn for_listener(&self) -> Self {
        Self { pending: Arc::new(Semaphore::new(MAX_PENDING)), warnings: Arc::default(), ..self.clone() }
    }

    /// Hands on who connects until the listener ends.
    pub(in crate::ssh) async fn hand_on(&self, listener: &mut Listener, source: &Source) -> GuestError {
        loop {
            if let Err(error) = self.hand_on_one(listener, source).await {
                return error;
            }
        }
    }

    /// Hands on the next one.
    ///
    /// # Errors
    /// The listener has ended.
    pub(in crate::ssh) async fn hand_on_one(
        &self,
        listener: &mut Listener,
        source: &Source,
    ) -> Result<(), GuestError> {
        let pending = self.pending.clone().acquire_owned().await;
        let incoming = listener.accept().await?;
        let place = self.places.clone().acquire_owned().await;
        if let (Ok(pending), Ok(place)) = (pending, place) {
            let (source, warnings) = (source.clone(), self.warnings.clone());
            // Nobody takes it when the connection is ending, and we with it.
            let _ = self.sender.send(Arrived { incoming, source, pending, place, warnings }).await;
        }
        Ok(())
    }
}
