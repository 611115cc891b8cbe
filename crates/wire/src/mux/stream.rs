//! What one end of a link knows of a stream.

use crate::frame::MAX_CHUNK;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Open was sent (host) or reported (agent), the answer is out.
    Opening,
    /// Answered with yes.
    Open,
    /// Exit was sent or has arrived; only Close can follow.
    Ended,
}

/// Data that has arrived and was not taken. Bounded by the stream's window.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    store: Vec<u8>,
    head: usize,
}

impl Inbox {
    pub(super) fn len(&self) -> usize {
        self.store.len() - self.head
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.head > MAX_CHUNK && self.head >= self.store.len() / 2 {
            self.store.drain(..self.head);
            self.head = 0;
        }
        self.store.extend_from_slice(bytes);
    }

    pub(super) fn peek(&self) -> &[u8] {
        &self.store[self.head..]
    }

    pub(super) fn consume(&mut self, n: usize) {
        self.head = self.head.saturating_add(n).min(self.store.len());
        if self.head == self.store.len() {
            self.head = 0;
            self.store.clear();
            if self.store.capacity() > MAX_CHUNK {
                self.store = Vec::new();
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) state: State,
    /// Standard input at the agent; standard output at the host.
    pub(super) main: Inbox,
    /// Standard error at the host.
    pub(super) err: Inbox,
    /// Bytes that the peer may still send.
    pub(super) recv_credit: usize,
    /// Bytes taken but not yet given back as credit.
    pub(super) owed: usize,
    /// Bytes that we may still send.
    pub(super) send_credit: usize,
    /// A Readable is out.
    pub(super) told_readable: bool,
    /// The owner ran out of credit and waits for Writable.
    pub(super) wants_credit: bool,
    /// The peer has sent Eof.
    pub(super) peer_eof: bool,
    /// We have sent Eof.
    pub(super) sent_eof: bool,
    /// The owner takes no more data: what comes is thrown away and given back as credit.
    pub(super) discard: bool,
}
