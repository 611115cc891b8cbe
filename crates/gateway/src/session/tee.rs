//! Where a session's terminal can be followed by somebody else while it goes on.
//!
//! It stands where the recorder stands. A session that nobody follows pays one look at a flag for each read, and keeps nothing. While somebody
//! does, what passes is copied into a bounded queue: the session never waits, and what is too much is dropped, which the follower is told.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf as _, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Outcome;

/// Bytes of output that may wait for the follower. More than a screen with a thousand lines above it, so that what comes in a burst is all there.
const BACKLOG: usize = 1024 * 1024;
/// Given to the follower at once, in bytes.
const PIECE: usize = 32 * 1024;

/// The session's side. All clones are one.
#[derive(Clone)]
pub(crate) struct Tee(Arc<Shared>);

struct Shared {
    /// Somebody follows: all that is looked at for each read of a session that nobody watches.
    followed: AtomicBool,
    state: Mutex<State>,
    /// There is something in the queue.
    filled: Notify,
}

struct State {
    size: Size,
    /// Boxed, so that a session which nobody follows stays small.
    queue: Option<Box<Queue>>,
    /// The session has ended.
    over: bool,
}

/// Columns and rows.
type Size = (u32, u32);

/// What the follower has not been given yet.
#[derive(Default)]
struct Queue {
    /// At most [`BACKLOG`] bytes.
    output: BytesMut,
    /// The newest size, and how many bytes of `output` come before it.
    resized: Option<(usize, Size)>,
    /// There was output before all this that was dropped.
    missed: bool,
    end: Option<Outcome>,
}

/// What happens to a terminal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Output, untouched.
    Output(Bytes),
    /// It has another size.
    Resized(Size),
    /// Some output is not given, since the follower was too late for it.
    Missed,
    /// The session has ended. Last.
    Ended(Outcome),
}

impl Tee {
    /// For a terminal of so many columns and rows.
    pub(crate) fn new(cols: u32, rows: u32) -> Tee {
        Tee(Arc::new(Shared {
            followed: AtomicBool::new(false),
            state: Mutex::new(State { size: (cols, rows), queue: None, over: false }),
            filled: Notify::new(),
        }))
    }

    /// `count` bytes at the start of `bufs` have passed.
    pub(crate) fn passed<'a>(&self, bufs: impl IntoIterator<Item = &'a [u8]>, count: usize) {
        // Relaxed: a follower gets everything from some read on, and it does not matter from which.
        if self.0.followed.load(Ordering::Relaxed) {
            self.copy(bufs, count);
        }
    }

    fn copy<'a>(&self, bufs: impl IntoIterator<Item = &'a [u8]>, mut count: usize) {
        self.note(|queue| {
            if !queue.make_room(count) {
                return;
            }
            for buf in bufs {
                let piece = buf.get(..count.min(buf.len())).unwrap_or_default();
                count -= piece.len();
                queue.output.extend_from_slice(piece);
            }
        });
    }

    /// The terminal has another size.
    pub(crate) fn resized(&self, cols: u32, rows: u32) {
        self.0.state.lock().size = (cols, rows);
        self.note(|queue| queue.resized = Some((queue.output.len(), (cols, rows))));
    }

    /// The session has ended.
    pub(crate) fn finish(&self, outcome: Outcome) {
        self.0.state.lock().over = true;
        self.note(|queue| queue.end = Some(outcome));
    }

    fn note(&self, what: impl FnOnce(&mut Queue)) {
        if let Some(queue) = &mut self.0.state.lock().queue {
            what(queue);
        }
        self.0.filled.notify_one();
    }

    /// Begins to follow the terminal from here on; `None` when the session has ended or somebody follows already.
    pub(crate) fn follow(&self) -> Option<Follower> {
        let mut state = self.0.state.lock();
        if state.over || state.queue.is_some() {
            return None;
        }
        state.queue = Some(Box::default());
        self.0.followed.store(true, Ordering::Relaxed);
        Some(Follower { shared: self.0.clone(), size: state.size })
    }
}

impl fmt::Debug for Tee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tee").field("followed", &self.0.followed).finish_non_exhaustive()
    }
}

impl Queue {
    /// Drops what is oldest where there is no room for so many bytes more, and half of the queue at once: so what is left is long, and a gap rare.
    /// `false` when there is no room even then.
    fn make_room(&mut self, count: usize) -> bool {
        if self.output.len() + count <= BACKLOG {
            return true;
        }
        let kept = self.output.len().min((BACKLOG / 2).saturating_sub(count));
        let dropped = self.output.len() - kept;
        self.output.advance(dropped);
        if let Some((before, _)) = &mut self.resized {
            *before = before.saturating_sub(dropped);
        }
        self.missed = true;
        count <= BACKLOG
    }

    fn take(&mut self) -> Option<Event> {
        if std::mem::take(&mut self.missed) {
            return Some(Event::Missed);
        }
        let most = match &mut self.resized {
            Some((0, size)) => {
                let size = *size;
                self.resized = None;
                return Some(Event::Resized(size));
            }
            Some((before, _)) => {
                let most = PIECE.min(*before);
                *before -= most;
                most
            }
            None => PIECE.min(self.output.len()),
        };
        if most > 0 {
            return Some(Event::Output(self.output.split_to(most).freeze()));
        }
        self.end.take().map(Event::Ended)
    }
}

/// The follower's side. Dropping it ends the following.
pub(crate) struct Follower {
    shared: Arc<Shared>,
    size: Size,
}

impl Follower {
    /// The terminal's size when the following began.
    pub(crate) fn size(&self) -> Size {
        self.size
    }

    /// The next thing that happens, in order. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            let event = self.shared.state.lock().queue.as_mut().and_then(|queue| queue.take());
            if let Some(event) = event {
                return event;
            }
            self.shared.filled.notified().await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        self.shared.followed.store(false, Ordering::Relaxed);
        state.queue = None;
    }
}

#[cfg(test)]
mod tests {
    use sandgate_guest::ExitStatus;

    use super::*;

    fn print(tee: &Tee, text: &[u8]) {
        tee.passed([text], text.len());
    }

    fn waiting(tee: &Tee) -> Option<usize> {
        tee.0.state.lock().queue.as_ref().map(|queue| queue.output.len())
    }

    fn output(text: &'static [u8]) -> Event {
        Event::Output(Bytes::from_static(text))
    }

    #[tokio::test]
    async fn what_passes_while_somebody_follows_is_given_in_its_order() {
        let tee = Tee::new(80, 24);
        print(&tee, b"before");
        tee.resized(90, 30);
        let mut follower = tee.follow().expect("it goes on");
        assert_eq!(follower.size(), (90, 30));
        assert!(tee.follow().is_none(), "one at a time");
        // As a read leaves it: what is behind the count is not of it.
        tee.passed([b"one ".as_slice(), b"", b"two xx", b"xx"], 8);
        tee.resized(100, 40);
        tee.resized(101, 41);
        print(&tee, b"three");
        tee.finish(Outcome::Exited(ExitStatus::Code(3)));
        assert_eq!(follower.next().await, output(b"one two "));
        assert_eq!(follower.next().await, Event::Resized((101, 41)), "only the newest size");
        assert_eq!(follower.next().await, output(b"three"));
        assert_eq!(follower.next().await, Event::Ended(Outcome::Exited(ExitStatus::Code(3))));
        drop(follower);
        assert!(tee.follow().is_none(), "it is over");
    }

    #[tokio::test]
    async fn nothing_is_kept_while_nobody_follows() {
        let tee = Tee::new(80, 24);
        print(&tee, b"unseen");
        assert_eq!(waiting(&tee), None);
        let follower = tee.follow().expect("it goes on");
        print(&tee, b"seen");
        assert_eq!(waiting(&tee), Some(4));
        drop(follower);
        print(&tee, b"unseen");
        assert_eq!(waiting(&tee), None);
        let mut next = tee.follow().expect("it goes on");
        print(&tee, b"anew");
        assert_eq!(next.next().await, output(b"anew"), "nothing of what went before");
    }

    #[tokio::test]
    async fn who_does_not_take_it_loses_what_is_old_and_is_told() {
        let tee = Tee::new(80, 24);
        let mut follower = tee.follow().expect("it goes on");
        let piece = vec![b'x'; 300 * 1024];
        for _ in 0..100 {
            print(&tee, &piece);
            assert!(waiting(&tee).is_some_and(|waiting| waiting <= BACKLOG), "it is bounded");
        }
        assert!(waiting(&tee).is_some_and(|waiting| waiting >= BACKLOG / 2), "what is new is there");
        tee.resized(7, 7);
        print(&tee, &vec![b'y'; BACKLOG]);
        print(&tee, &vec![b'z'; BACKLOG + 1]);
        print(&tee, b"the end");
        assert_eq!(follower.next().await, Event::Missed, "what was dropped came before the rest");
        assert_eq!(follower.next().await, Event::Resized((7, 7)), "a size is never lost");
        assert_eq!(follower.next().await, output(b"the end"));
        print(&tee, &vec![b'x'; PIECE + 1]);
        for expected in [PIECE, 1] {
            let Event::Output(piece) = follower.next().await else { panic!("output") };
            assert_eq!(piece.len(), expected);
        }
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let tee = Tee::new(80, 24);
        let mut follower = tee.follow().expect("it goes on");
        let there = tee.clone();
        let next = tokio::spawn(async move { follower.next().await });
        tokio::task::yield_now().await;
        there.finish(Outcome::LinkLost);
        assert_eq!(next.await.expect("an event"), Event::Ended(Outcome::LinkLost));
    }

    #[test]
    fn a_terminal_that_nobody_follows_costs_next_to_nothing() {
        assert!(size_of::<Shared>() <= 128, "{} bytes", size_of::<Shared>());
    }
}
