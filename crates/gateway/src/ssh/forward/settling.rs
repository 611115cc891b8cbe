//! Listeners that were asked for and not yet answered.
//!
//! sshd listens before it looks at the next message, so a program that is started after a `-R` finds its port open. Ours are asked for while the
//! session is already being made, and its program waits for them.

use tokio::sync::watch;

/// How many there are.
#[derive(Debug)]
pub(in crate::ssh) struct Settling(watch::Sender<usize>);

/// One of them. Dropped when it has been answered.
#[derive(Debug)]
pub(super) struct Unsettled(watch::Sender<usize>);

/// Waits for all of them.
#[derive(Debug)]
pub(in crate::ssh) struct Settled(watch::Receiver<usize>);

impl Settling {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Notes another one.
    pub(super) fn begin(&self) -> Unsettled {
        self.0.send_modify(|count| *count += 1);
        Unsettled(self.0.clone())
    }

    pub(super) fn settled(&self) -> Settled {
        Settled(self.0.subscribe())
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Settled {
    /// At once when there are none.
    pub(in crate::ssh) async fn wait(mut self) {
        // Nobody is left to be waited for when the connection is ending.
        let _ = self.0.wait_for(|count| *count == 0).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_that_began_are_waited_for() {
        let settling = Settling::new();
        settling.settled().wait().await;
        let (one, two) = (settling.begin(), settling.begin());
        let mut waiting = boxed(settling.settled());
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(one);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(two);
        waiting.await;
    }

    fn boxed(settled: Settled) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(settled.wait())
    }
}
