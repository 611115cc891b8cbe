//! What waits to be sent to one attached client.
//!
//! The terminal's task fills it and never waits for it; the front door empties it. Its bound is in bytes of output ([`WINDOW`]): with a writer
//! the task stops reading the process when there is no room, a watcher loses what it missed and gets the screen afresh.

use std::collections::VecDeque;

use parking_lot::Mutex;
use sandgate_guest::ExitStatus;
use time::OffsetDateTime;
use tokio::sync::Notify;

use super::Mode;

/// Bytes of output that may be on their way to a client. Enough for a line of 100 Mbit/s with 20 ms of delay.
pub const WINDOW: usize = 256 * 1024;
/// Lines of progress that may wait; later ones are dropped, since they are a courtesy.
const MAX_PROGRESS: usize = 16;

/// Messages that may wait for a watcher: each change of the size is one, and cuts output in two.
const MAX_MESSAGES: usize = 1024;

/// What a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Why it waits.
    Progress(String),
    /// The shell runs, or has run.
    Ready {
        /// The session's identifier.
        session: String,
        /// Whether the shell was there before this client.
        resumed: bool,
        /// Columns.
        cols: u32,
        /// Rows.
        rows: u32,
        /// What is known of the screen began then, with an empty one; `None` where all of it is known.
        since: Option<OffsetDateTime>,
    },
    /// What draws the whole screen with what is above it in an emulator that has been reset. It counts as output.
    Screen(Vec<u8>),
    /// Output, untouched.
    Output(Vec<u8>),
    /// The terminal has another size. Only for watchers: a writer has said so itself.
    Resize {
        /// Columns.
        cols: u32,
        /// Rows.
        rows: u32,
    },
    /// The process ended. Last.
    Exit(ExitStatus),
    /// The session could not be started, or was ended. Last. One sentence for the user.
    Ended(String),
    /// Another client writes now. Last.
    Detached,
}

impl Message {
    fn is_last(&self) -> bool {
        matches!(self, Message::Exit(_) | Message::Ended(_) | Message::Detached)
    }
}

/// One client's queue.
#[derive(Debug)]
pub(super) struct Outbox {
    mode: Mode,
    state: Mutex<State>,
    /// Something is to be sent.
    filled: Notify,
    /// There is room again for a writer.
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Neighbouring output is one element. For a writer the length is bounded by that of the other messages: some of progress, one of each other
    /// kind. For a watcher it is [`MAX_MESSAGES`].
    queue: VecDeque<Message>,
    /// Bytes of output in the queue; at most [`WINDOW`].
    queued: usize,
    /// Bytes of the picture of the screen in the queue, of which there is at most one.
    picture: usize,
    /// Bytes of output that the client has not said to have taken, those in the queue among them.
    unacknowledged: usize,
    /// A watcher who has missed something; nothing more is queued until the screen is.
    missed: bool,
    /// Nothing follows.
    closed: bool,
}

impl State {
    fn miss(&mut self) {
        self.queue.retain(|message| !matches!(message, Message::Output(_)));
        (self.queued, self.missed) = (0, true);
    }
}

impl Outbox {
    pub(super) fn new(mode: Mode) -> Self {
        Self { mode, state: Mutex::default(), filled: Notify::new(), room: Notify::new() }
    }

    /// How many bytes of output a writer's client may be sent now. `stuck` when its own input fills our queue: what it acknowledges is stuck
    /// behind that, so only what we hold ourselves counts, or both would wait for each other.
    pub(super) fn room(&self, stuck: bool) -> usize {
        let state = self.state.lock();
        WINDOW.saturating_sub(if stuck { state.queued } else { state.unacknowledged })
    }

    /// Resolves when there may be more room than before.
    pub(super) async fn more_room(&self) {
        self.room.notified().await;
    }

    /// Queues output for a writer, who has the room for it.
    pub(super) fn output(&self, data: &[u8]) {
        self.push_output(&mut self.state.lock(), data);
        self.filled.notify_one();
    }

    /// Queues output for a watcher if there is room. If there is none, what waited is dropped, and the next thing to send is the screen.
    pub(super) fn offer(&self, data: &[u8]) {
        let mut state = self.state.lock();
        if state.missed || state.queued + data.len() > WINDOW || state.queue.len() >= MAX_MESSAGES {
            state.miss();
        } else {
            self.push_output(&mut state, data);
        }
        self.filled.notify_one();
    }

    /// Notes that a watcher is not offered something. What waited is dropped, and the next thing to send is the screen.
    pub(super) fn miss(&self) {
        self.state.lock().miss();
        self.filled.notify_one();
    }

    /// Whether a watcher has missed something and was not given the screen since.
    pub(super) fn has_missed(&self) -> bool {
        self.state.lock().missed
    }

    /// Queues a picture of the whole screen, whatever its size, in place of all output that waits.
    pub(super) fn screen(&self, dump: Vec<u8>) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        state.queue.retain(|message| !matches!(message, Message::Output(_) | Message::Screen(_)));
        state.unacknowledged -= (state.queued + state.picture).min(state.unacknowledged);
        (state.queued, state.missed) = (0, false);
        state.picture = dump.len();
        state.unacknowledged += dump.len();
        state.queue.push_back(Message::Screen(dump));
        self.filled.notify_one();
    }

    fn push_output(&self, state: &mut State, data: &[u8]) {
        if state.closed {
            return;
        }
        state.queued += data.len();
        state.unacknowledged += data.len();
        match state.queue.back_mut() {
            Some(Message::Output(waiting)) => waiting.extend_from_slice(data),
            _ => state.queue.push_back(Message::Output(data.to_vec())),
        }
    }

    /// Queues something else than output.
    pub(super) fn say(&self, message: Message) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        match message {
            Message::Progress(_) if state.queue.len() >= MAX_PROGRESS => return,
            // Only the newest size counts. It stays where it is, behind all output of the old one.
            Message::Resize { .. } if matches!(state.queue.back(), Some(Message::Resize { .. })) => {
                state.queue.pop_back();
            }
            // The size is said again with the screen.
            Message::Resize { .. } if state.missed => return,
            _ => {}
        }
        state.closed = message.is_last();
        state.queue.push_back(message);
        self.filled.notify_one();
    }

    /// Queues the size that the screen which follows has.
    pub(super) fn say_size(&self, cols: u32, rows: u32) {
        let mut state = self.state.lock();
        if !state.closed {
            state.queue.retain(|message| !matches!(message, Message::Resize { .. }));
            state.queue.push_back(Message::Resize { cols, rows });
        }
    }

    /// The client has taken so many bytes more.
    pub(super) fn acknowledge(&self, bytes: usize) {
        let mut state = self.state.lock();
        // Never more than was sent: a client cannot win room by it.
        let sent = state.unacknowledged.saturating_sub(state.queued + state.picture);
        state.unacknowledged -= bytes.min(sent);
        self.room.notify_one();
    }

    /// Whether a watcher is to be sent the screen afresh now.
    pub(super) fn wants_screen(&self) -> bool {
        let state = self.state.lock();
        state.missed && state.queue.is_empty() && !state.closed
    }

    /// Nothing more will come; what is queued is still sent.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.filled.notify_one();
    }

    /// The next message, if there is one already.
    pub(super) fn take(&self) -> Next {
        let mut state = self.state.lock();
        let Some(message) = state.queue.pop_front() else {
            return match (state.closed, state.missed) {
                (true, _) => Next::Closed,
                (false, true) => Next::WantsScreen,
                (false, false) => Next::Nothing,
            };
        };
        match &message {
            Message::Output(data) => state.queued -= data.len().min(state.queued),
            Message::Screen(_) => state.picture = 0,
            _ => {}
        }
        if self.mode == Mode::Watch {
            state.unacknowledged = 0;
        }
        // For a writer whose own input is stuck.
        self.room.notify_one();
        Next::Message(message)
    }

    /// Resolves when there may be more to take.
    pub(super) async fn more(&self) {
        self.filled.notified().await;
    }
}

/// What [`Outbox::take`] finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// To be sent.
    Message(Message),
    /// Nothing yet.
    Nothing,
    /// Nothing before the terminal's task has been asked for the screen.
    WantsScreen,
    /// Nothing any more.
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_has_the_window_and_gets_it_back_by_acknowledging() {
        let outbox = Outbox::new(Mode::Write);
        outbox.output(&vec![b'x'; WINDOW - 1]);
        outbox.output(b"y");
        assert_eq!((outbox.room(false), outbox.room(true)), (0, 0));
        outbox.acknowledge(10);
        assert_eq!(outbox.room(false), 0, "what was not sent cannot be acknowledged");
        let Next::Message(Message::Output(data)) = outbox.take() else { panic!("output") };
        assert_eq!(data.len(), WINDOW, "pieces go together");
        assert_eq!((outbox.room(false), outbox.room(true)), (0, WINDOW));
        outbox.acknowledge(1000);
        assert_eq!(outbox.room(false), 1000);
        outbox.acknowledge(usize::MAX);
        assert_eq!(outbox.room(false), WINDOW);
    }

    #[test]
    fn a_watcher_who_lags_gets_the_screen_in_place_of_what_was_missed() {
        let outbox = Outbox::new(Mode::Watch);
        outbox.say(Message::Resize { cols: 1, rows: 1 });
        outbox.offer(&vec![b'x'; WINDOW]);
        assert!(!outbox.has_missed());
        outbox.offer(b"y");
        outbox.offer(b"z");
        assert!(outbox.has_missed());
        assert!(!outbox.wants_screen(), "not before the rest was sent");
        assert_eq!(outbox.take(), Next::Message(Message::Resize { cols: 1, rows: 1 }));
        assert_eq!(outbox.take(), Next::WantsScreen);
        assert!(outbox.wants_screen());
        outbox.screen(b"the screen".to_vec());
        outbox.offer(&vec![b'x'; WINDOW]);
        outbox.offer(b"missed again");
        assert_eq!(
            outbox.take(),
            Next::Message(Message::Screen(b"the screen".to_vec())),
            "it comes all the same"
        );
        assert_eq!(outbox.take(), Next::WantsScreen);
        outbox.screen(b"another".to_vec());
        assert_eq!(outbox.take(), Next::Message(Message::Screen(b"another".to_vec())));
        outbox.offer(b"more");
        assert_eq!(outbox.take(), Next::Message(Message::Output(b"more".to_vec())));
        outbox.offer(b"before what nobody has");
        outbox.miss();
        outbox.offer(b"after it");
        assert_eq!(outbox.take(), Next::WantsScreen);
    }

    #[test]
    fn the_exit_comes_after_all_output_and_is_the_last() {
        let outbox = Outbox::new(Mode::Write);
        outbox.output(b"bye");
        outbox.say(Message::Exit(ExitStatus::Code(3)));
        outbox.output(b"late");
        outbox.say(Message::Detached);
        assert_eq!(outbox.take(), Next::Message(Message::Output(b"bye".to_vec())));
        assert_eq!(outbox.take(), Next::Message(Message::Exit(ExitStatus::Code(3))));
        assert_eq!(outbox.take(), Next::Closed);
    }
}
