//! Pings, and what becomes of a client that does not answer them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::end::{CloseCode, End};

/// Time between our pings; also how long each may take to be answered.
const PING: Duration = Duration::from_secs(30);
/// Unanswered pings that end the session.
const MAX_MISSED: u32 = 3;

/// What the futures of a session know of its client being there.
pub(crate) struct Keepalive {
    interval: Duration,
    /// Something came since the last ping.
    heard: AtomicBool,
    /// What the client sent waits for the process, so we do not listen.
    busy: AtomicBool,
    /// A ping is to be sent.
    ping: Notify,
}

impl Default for Keepalive {
    fn default() -> Keepalive {
        Keepalive::every(PING)
    }
}

impl Keepalive {
    fn every(interval: Duration) -> Keepalive {
        Keepalive {
            interval,
            heard: AtomicBool::new(true),
            busy: AtomicBool::new(false),
            ping: Notify::new(),
        }
    }

    /// Something came from the client.
    pub(crate) fn heard(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// Does something while nothing is read from the client, whose silence does not count meanwhile.
    pub(crate) async fn while_busy<T>(&self, work: impl Future<Output = T>) -> T {
        self.busy.store(true, Ordering::Relaxed);
        let result = work.await;
        self.busy.store(false, Ordering::Relaxed);
        result
    }

    /// Resolves when a ping is to be sent.
    pub(crate) async fn due(&self) {
        self.ping.notified().await;
    }

    /// Resolves when the client has not answered for long enough.
    pub(crate) async fn silence(&self) -> End {
        let mut missed = 0;
        loop {
            tokio::time::sleep(self.interval).await;
            if self.heard.swap(false, Ordering::Relaxed) {
                missed = 0;
            } else if !self.busy.load(Ordering::Relaxed) {
                missed += 1;
            }
            if missed >= MAX_MISSED {
                return End::Ours(CloseCode::Silent, Some("Timeout, client not responding.".to_owned()));
            }
            self.ping.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use tokio::time::{Instant, timeout};

    use super::*;

    const QUICK: Duration = Duration::from_millis(20);
    /// Far more than a silent client is given.
    const LONG: Duration = Duration::from_millis(400);

    /// Counts the pings, and answers them or not.
    async fn client(keepalive: &Keepalive, answers: bool, pings: &AtomicU32) -> End {
        loop {
            keepalive.due().await;
            pings.fetch_add(1, Ordering::Relaxed);
            if answers {
                keepalive.heard();
            }
        }
    }

    #[tokio::test]
    async fn a_client_that_answers_stays_and_a_silent_one_is_given_up() {
        let pings = AtomicU32::new(0);
        let keepalive = Keepalive::every(QUICK);
        let stays = async {
            tokio::select! {
                end = keepalive.silence() => end,
                end = client(&keepalive, true, &pings) => end,
            }
        };
        assert!(timeout(LONG, stays).await.is_err(), "one that answers is given up");
        assert!(pings.load(Ordering::Relaxed) > MAX_MISSED, "it was not asked often");

        let keepalive = Keepalive::every(QUICK);
        let began = Instant::now();
        let silent = async {
            tokio::select! {
                end = keepalive.silence() => end,
                end = client(&keepalive, false, &pings) => end,
            }
        };
        let end = timeout(LONG * 10, silent).await.expect("it is given up");
        assert_eq!(end, End::Ours(CloseCode::Silent, Some("Timeout, client not responding.".to_owned())));
        // It has just come when the first is sent.
        assert!(began.elapsed() >= QUICK * (1 + MAX_MISSED), "it had too little time");
    }

    #[tokio::test]
    async fn silence_does_not_count_while_the_process_does_not_read() {
        let keepalive = Keepalive::every(QUICK);
        let busy = async {
            tokio::select! {
                end = keepalive.silence() => Some(end),
                () = keepalive.while_busy(tokio::time::sleep(LONG)) => None,
            }
        };
        assert_eq!(busy.await, None);
        assert!(timeout(LONG * 10, keepalive.silence()).await.is_ok(), "it counts again");
    }
}
