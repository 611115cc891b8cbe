//! Channels (RFC 4254 §5, OpenSSH PROTOCOL and the state machine its `nchan.ms` draws).
//!
//! A channel carries two byte streams that end independently. Each direction has its own small state machine: what the
//! client has said ([`FromPeer`]) and what we have said ([`ToPeer`]). A number may be used again by either side only
//! when both have said CLOSE; here it also waits until the application has let go of all its halves, so that a handle
//! can never reach a later channel that happens to have the same number ([`ChannelId`] carries a serial as well).

mod loan;
pub(crate) mod parse;
mod queue;
mod replies;
mod table;
mod window;

use std::collections::VecDeque;

pub(crate) use loan::{Loan, MOST_PIECES};
pub use queue::Segment;
pub(crate) use queue::{ReceiveQueue, Spares};
pub(crate) use replies::{ReplyQueue, Ticket};
pub(crate) use table::Table;
pub(crate) use window::{MAX_DATA, ReceiveWindow, SendWindow};

use crate::connection::typing::Leash;
use crate::event::{ChannelRequest, OpenFailure};

/// Names a channel of a connection for as long as anybody can refer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChannelId {
    /// Our number on the wire.
    pub(crate) index: u32,
    /// Tells channels with the same number apart.
    pub(crate) serial: u32,
}

impl ChannelId {
    /// Names no channel.
    pub(crate) const NONE: Self = Self { index: u32::MAX, serial: 0 };
}

/// How far the opening of a channel has come.
#[derive(Debug)]
pub(crate) enum Phase {
    /// The client asked; the application has not answered. The client does not know our number yet.
    Asked,
    /// We asked; the client has not answered.
    Opening,
    /// We asked; the client said no. Kept until the application has taken the answer.
    Refused(OpenFailure),
    /// Both sides know both numbers.
    Open,
}

/// What the client has said about its direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FromPeer {
    /// Data may come (`CHAN_OUTPUT_OPEN` in OpenSSH's words, where "output" is towards the program).
    Open,
    /// EOF has come: no more data, though requests and window adjusts go on.
    Eof,
    /// CLOSE has come: nothing more at all.
    Closed,
}

/// What we have said about our direction. Everything is put into the output at once and in call order, so there are no
/// states for waiting to drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToPeer {
    /// Data may be sent.
    Open,
    /// EOF was sent: no more data, though exit-status and replies go on.
    Eof,
    /// CLOSE was sent: nothing more at all, not even replies.
    Closed,
}

/// What the application still holds of a channel.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Halves {
    pub(crate) requests: bool,
    pub(crate) reader: bool,
    pub(crate) writer: bool,
}

impl Halves {
    pub(crate) const ALL: Self = Self { requests: true, reader: true, writer: true };

    pub(crate) const fn none_left(self) -> bool {
        !(self.requests || self.reader || self.writer)
    }
}

/// Who waits to be told about what. Set when a poll said "not now", cleared when the notice is given.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Waiting {
    pub(crate) request: bool,
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) closed: bool,
    /// Stands in the output gate's line (whether or not anybody still wants to know).
    pub(crate) gated: bool,
}

/// A request that the application has not taken yet.
#[derive(Debug)]
pub struct QueuedRequest {
    /// What is asked.
    pub request: ChannelRequest,
    /// The place of the reply, if one is wanted.
    pub(crate) ticket: Option<Ticket>,
}

impl QueuedRequest {
    /// Roughly the memory it takes, in bytes, for the connection's bound.
    pub(crate) fn cost(&self) -> usize {
        let variable = match &self.request {
            ChannelRequest::Pty(p) => p.term.len().saturating_add(p.modes.len()),
            ChannelRequest::Env { name, value } => name.len().saturating_add(value.len()),
            ChannelRequest::Exec { command } => command.len(),
            ChannelRequest::Subsystem { name } | ChannelRequest::Signal { name } => name.len(),
            ChannelRequest::X11(x) => x.protocol.len().saturating_add(x.cookie.len()),
            _ => 0,
        };
        variable.saturating_add(size_of::<Self>())
    }
}

/// The state of one channel.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) id: ChannelId,
    pub(crate) session: bool,
    pub(crate) phase: Phase,
    /// The client's number for it.
    pub(crate) remote: u32,
    pub(crate) from_peer: FromPeer,
    pub(crate) to_peer: ToPeer,
    pub(crate) queue: ReceiveQueue,
    pub(crate) receive: ReceiveWindow,
    pub(crate) send: SendWindow,
    /// Bounded in number by [`Channel::MOST_REQUESTS`] and in bytes per connection.
    pub(crate) requests: VecDeque<QueuedRequest>,
    pub(crate) replies: ReplyQueue<bool>,
    /// A shell, command or subsystem was accepted: no second one may follow.
    pub(crate) started: bool,
    pub(crate) halves: Halves,
    pub(crate) waiting: Waiting,
    /// Bookkeeping of the output gate: the round it last sent in and how much.
    pub(crate) round: u64,
    pub(crate) round_bytes: usize,
    /// The client has asked for a terminal.
    pub(crate) terminal: bool,
    /// How much may be under way while somebody types.
    pub(crate) leash: Leash,
}

impl Channel {
    /// Requests that wait for the application, per channel. `ssh -o SendEnv=*` with a large environment sends about a
    /// hundred at once. More are refused.
    pub(crate) const MOST_REQUESTS: usize = 256;

    pub(crate) fn new(id: ChannelId, phase: Phase, receive: ReceiveWindow) -> Self {
        Self {
            id,
            session: false,
            phase,
            remote: 0,
            from_peer: FromPeer::Open,
            to_peer: ToPeer::Open,
            queue: ReceiveQueue::default(),
            receive,
            send: SendWindow::new(0, 0),
            requests: VecDeque::new(),
            replies: ReplyQueue::default(),
            started: false,
            halves: Halves::ALL,
            waiting: Waiting::default(),
            round: 0,
            round_bytes: 0,
            terminal: false,
            leash: Leash::default(),
        }
    }

    /// True when the client may refer to the channel in a message.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Open) && !self.is_over()
    }

    /// True when both sides have said CLOSE: on the wire the channel does not exist any more.
    pub(crate) fn is_over(&self) -> bool {
        self.from_peer == FromPeer::Closed && self.to_peer == ToPeer::Closed
    }

    /// True when nobody needs the state any more.
    pub(crate) fn is_forgotten(&self) -> bool {
        self.halves.none_left() && (self.is_over() || matches!(self.phase, Phase::Refused(_)))
    }
}
