//! Ending gracefully: stop accepting, let sessions finish up to a deadline, then say so to those cut off.

use std::time::Duration;

use tokio::sync::watch;

use crate::session::EndReason;

/// Where the gateway stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrainStage {
    /// Serving.
    Running,
    /// No new connections or channels; what runs may finish.
    Draining(EndReason),
    /// What still runs is cut off now.
    Cut(EndReason),
}

/// The side that decides.
#[derive(Debug)]
pub struct Drainer(watch::Sender<DrainStage>);

impl Default for Drainer {
    fn default() -> Self {
        Self(watch::Sender::new(DrainStage::Running))
    }
}

impl Drainer {
    /// A view for a listener or a connection.
    pub fn watch(&self) -> Drain {
        Drain(self.0.subscribe())
    }

    /// Whether the end has begun.
    pub fn is_draining(&self) -> bool {
        *self.0.borrow() != DrainStage::Running
    }

    /// Drains for at most `deadline`, then cuts off what is left, and waits at most `last` for that. `idle` resolves when
    /// nothing runs any more. Returns whether everything ended by itself.
    pub async fn drain(&self, deadline: Duration, last: Duration, idle: impl AsyncFn()) -> bool {
        self.0.send_replace(DrainStage::Draining(EndReason::new("The gateway is shutting down.")));
        if tokio::time::timeout(deadline, idle()).await.is_ok() {
            return true;
        }
        let seconds = deadline.as_secs();
        let reason = format!("The gateway is shutting down; sessions had {seconds} s to finish.");
        self.0.send_replace(DrainStage::Cut(EndReason::new(reason)));
        let _ = tokio::time::timeout(last, idle()).await;
        false
    }
}

/// The side that follows.
#[derive(Debug, Clone)]
pub struct Drain(watch::Receiver<DrainStage>);

impl Drain {
    /// The next stage; never, when the gateway keeps running.
    pub async fn changed(&mut self) -> DrainStage {
        match self.0.changed().await {
            Ok(()) => self.0.borrow_and_update().clone(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether new connections are taken.
    pub fn is_running(&self) -> bool {
        *self.0.borrow() == DrainStage::Running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_does_not_finish_is_cut_off_with_a_reason() {
        let drainer = Drainer::default();
        let mut seen = drainer.watch();
        let (all_ended, stages) = tokio::join!(
            drainer.drain(Duration::from_secs(30), Duration::from_secs(1), async || std::future::pending()
                .await),
            async { (seen.changed().await, seen.changed().await) }
        );
        assert!(!all_ended);
        assert!(matches!(stages.0, DrainStage::Draining(_)));
        let DrainStage::Cut(reason) = stages.1 else { panic!("cut off at the deadline") };
        assert!(reason.text().contains("30 s"), "{}", reason.text());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_cut_off_when_all_sessions_finish() {
        let drainer = Drainer::default();
        assert!(drainer.drain(Duration::from_secs(30), Duration::from_secs(1), async || ()).await);
    }
}
