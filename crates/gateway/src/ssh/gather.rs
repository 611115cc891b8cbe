//! Fewer, larger reads from a client that sends bulk data.
//!
//! A client writes 32 KiB or so at a time. Woken for each of them, a gateway spends more time on falling asleep, waking up and waking
//! whoever reads at the other end than on the data. While data comes in bulk the kernel is therefore told to wake us for [`ENOUGH`] of it at once
//! (`SO_RCVLOWAT`, socket(7)), and a timer fetches what is less than that and nobody adds to.
//!
//! Most clients that send so much keep sending. One that waits for an answer after each piece would wait for the timer each time, so
//! whoever makes us wait in vain is left alone for a while, and longer each time.

use std::future::Future as _;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use nix_sockopt::sys::socket::SetSockOpt as _;
use nix_sockopt::sys::socket::sockopt::SetStruct;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// What is worth a wake-up, in bytes.
const ENOUGH: usize = 256 * 1024;
/// What arrives between two waits of a client that sends in bulk, in bytes.
const BULK: usize = 64 * 1024;
/// So much must have come in bulk before it is waited for, in bytes.
const START: usize = 1024 * 1024;
/// The longest wait. A key press in the middle of an upload is late by no more, twice that by tokio's clock.
const PATIENCE: Duration = Duration::from_millis(1);
/// Waits in vain cost so many successful ones.
const PRICE: u32 = 4;
/// The most that successful waits pay in advance.
const MOST_CREDIT: u32 = 16;
/// The least and the most that comes unwaited for after too many waits in vain, in bytes.
const PAUSE: (usize, usize) = (4 * 1024 * 1024, 64 * 1024 * 1024);

#[derive(Debug, Clone, Copy)]
struct ReceiveLowWater;
nix_sockopt::setsockopt_impl!(
    ReceiveLowWater,
    libc::SOL_SOCKET,
    libc::SO_RCVLOWAT,
    libc::c_int,
    SetStruct<'_, libc::c_int>
);

/// See the module.
#[derive(Debug)]
pub(super) struct Gather {
    waiting: Waiting,
    /// The kernel waits for [`ENOUGH`].
    set: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Gather {
    pub(super) fn new() -> Self {
        Self { waiting: Waiting::default(), set: false, timer: None }
    }

    /// So much was read.
    pub(super) fn came(&mut self, len: usize) {
        self.waiting.since = self.waiting.since.saturating_add(len);
    }

    /// There is nothing to read, and whoever asks has been registered to be woken.
    pub(super) fn nothing(&mut self, stream: &TcpStream, cx: &mut Context<'_>) {
        if let Some(wait) = self.waiting.after_reading() {
            self.set(stream, wait);
            if self.set {
                let until = Instant::now() + PATIENCE;
                match &mut self.timer {
                    Some(timer) => timer.as_mut().reset(until),
                    none => *none = Some(Box::pin(tokio::time::sleep_until(until))),
                }
            }
        }
        if self.set && self.timer.as_mut().is_none_or(|timer| timer.as_mut().poll(cx).is_ready()) {
            self.waiting.in_vain();
            // The kernel wakes us now if it has anything.
            self.set(stream, false);
        }
    }

    #[cfg(test)]
    pub(super) fn has_waited_in_vain(&self) -> bool {
        self.waiting.pause != PAUSE.0
    }

    fn set(&mut self, stream: &TcpStream, wait: bool) {
        if self.set != wait {
            let bytes = if wait { ENOUGH } else { 1 };
            // Where it cannot be set, bulk data costs more and nothing else.
            let done = ReceiveLowWater.set(stream, &libc::c_int::try_from(bytes).unwrap_or(1)).is_ok();
            self.set = wait && done;
        }
    }
}

/// Whether to wait, apart from sockets and time.
#[derive(Debug)]
struct Waiting {
    /// Bytes since there was nothing to read.
    since: usize,
    /// Bytes that came in bulk, one after the other.
    streak: usize,
    credit: u32,
    /// Bytes still to come before it is tried again.
    left: usize,
    pause: usize,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { since: 0, streak: 0, credit: PRICE, left: 0, pause: PAUSE.0 }
    }
}

impl Waiting {
    /// All that came has been read: whether to wait for enough of it from now on. `None` if nothing came.
    fn after_reading(&mut self) -> Option<bool> {
        let came = std::mem::take(&mut self.since);
        if came == 0 {
            return None;
        }
        self.left = self.left.saturating_sub(came);
        self.streak = if came >= BULK { self.streak.saturating_add(came) } else { 0 };
        if came >= ENOUGH {
            self.credit = self.credit.saturating_add(1).min(MOST_CREDIT);
            if self.credit == MOST_CREDIT {
                self.pause = PAUSE.0;
            }
        }
        Some(self.streak >= START && self.left == 0)
    }

    /// Less than enough came in time.
    fn in_vain(&mut self) {
        self.credit = self.credit.saturating_sub(PRICE);
        if self.credit == 0 {
            self.left = self.pause;
            self.pause = self.pause.saturating_mul(2).min(PAUSE.1);
            self.credit = PRICE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comes(waiting: &mut Waiting, len: usize) -> Option<bool> {
        waiting.since = len;
        waiting.after_reading()
    }

    #[test]
    fn bulk_is_waited_for_and_nothing_else() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.after_reading(), None);
        for _ in 0..1000 {
            assert_eq!(comes(&mut waiting, BULK - 1), Some(false));
        }
        let waits: Vec<_> = (0..20).filter_map(|_| comes(&mut waiting, BULK)).collect();
        assert_eq!(waits.iter().position(|wait| *wait), Some(START / BULK - 1));
        assert!(waits[START / BULK..].iter().all(|wait| *wait), "{waits:?}");
        assert_eq!(comes(&mut waiting, 100), Some(false), "the client has fallen silent");
    }

    #[test]
    fn a_client_that_waits_for_answers_is_seldom_made_to_wait() {
        let mut waiting = Waiting::default();
        let pieces = 10_000;
        let mut waited = 0;
        for _ in 0..pieces {
            if comes(&mut waiting, 128 * 1024) == Some(true) {
                waited += 1;
                waiting.in_vain();
            }
        }
        // 1.2 GiB: 4, 8, 16, 32 and then 64 MiB apart.
        assert!((5..40).contains(&waited), "{waited} of {pieces}");
    }

    #[test]
    fn a_steady_stream_may_falter() {
        let mut waiting = Waiting::default();
        let mut waited = 0;
        for n in 0..10_000 {
            if comes(&mut waiting, ENOUGH) == Some(true) {
                waited += 1;
                if n % 8 == 0 {
                    waiting.in_vain();
                }
            }
        }
        assert!(waited > 9_900, "{waited}");
    }

    #[tokio::test]
    async fn what_is_too_little_comes_all_the_same() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let mut client =
            TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        let (stream, _) = listener.accept().await.expect("accepted");
        let mut stream = super::super::client_stream::ClientStream::new(stream);
        let (mut sent, mut got) = (0, 0);
        let mut buf = vec![0; 512 * 1024];
        for _ in 0..50 {
            client.write_all(&vec![1; 100 * 1024]).await.expect("written");
            sent += 100 * 1024;
            while got < sent {
                let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buf));
                got += read.await.expect("what was sent arrives").expect("read");
            }
        }
        client.write_all(b"x").await.expect("written");
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buf));
        assert_eq!(read.await.expect("one byte arrives").expect("read"), 1);
        assert!(stream.has_waited_in_vain(), "it was never waited, so the test proves nothing");
    }
}
