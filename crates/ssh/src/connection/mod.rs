//! The sans-IO server side of one SSH connection: login (RFC 4252) and channels (RFC 4254) on top of the transport.
//!
//! The owner moves bytes ([`input_space`](Connection::input_space), [`output`](Connection::output)), calls
//! [`process`](Connection::process) after input arrived or output left, and [`handle_timeout`](Connection::handle_timeout)
//! when [`poll_timeout`](Connection::poll_timeout) says so. Questions come from [`poll_event`](Connection::poll_event) and
//! are answered by the methods in `answers`. Whoever was told to wait for something is named by
//! [`take_notices`](Connection::take_notices) when it is worth trying again. There is no clock, no socket and no task here.
//!
//! Bounds: one unanswered login question (input is not looked at meanwhile); channels and opens, windows, and output as
//! configured; requests that wait for the application as in [`Channel::MOST_REQUESTS`](crate::channel::Channel) and
//! [`MOST_REQUEST_BYTES`]; replies owed as in `ReplyQueue::MOST`; forwards as in [`MOST_FORWARDS`].

mod answers;
mod config;
mod data;
mod fault;
mod gate;
mod global;
mod messages;
pub(crate) mod numbers;
#[cfg(any(test, feature = "testing"))]
pub mod pair;
pub(crate) mod typing;

#[cfg(test)]
mod bulk_tests;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use answers::{ForwardAnswer, Half, NextRequest, Opened, RequestAnswer};
pub use config::Config;
pub use data::{Taken, Writable};
pub(crate) use fault::Fault;
use gate::Gate;
use numbers as msg;
use typing::Typing;

use crate::auth::{Auth, Binding};
pub use crate::auth::{AuthId, AuthRequest, Stale, Verdict};
pub use crate::channel::{ChannelId, QueuedRequest, Segment};
use crate::channel::{Loan, ReplyQueue, Spares, Table, Ticket};
use crate::event::{ChannelOpen, EndReason, Ended, ForwardRequest, OpenFailure};
use crate::transport::{DisconnectReason, Negotiated, Payload, Sender, Transport};

/// Memory of channel requests that wait for the application, per connection, in bytes. The longest command line that Linux
/// takes is 2 MiB, and OpenSSH's packets hold 256 KiB. More are refused.
pub(crate) const MOST_REQUEST_BYTES: usize = 4 * 1024 * 1024;
/// Forward requests that wait for an answer, per connection. `ssh` sends one for each `-R`.
pub(crate) const MOST_FORWARDS: usize = 64;
/// Input that is read but not looked at while a login question is open, in bytes. Reading on is how the end of the socket
/// is noticed.
const UNSEEN_INPUT: usize = 64 * 1024;
/// Buffers are given back after this time without input.
const IDLE: Duration = Duration::from_secs(1);

/// What the application is told or asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Answer with [`Connection::answer_auth`].
    Auth(AuthRequest),
    /// Answer with [`Connection::accept_open`] or [`Connection::refuse_open`].
    Open {
        /// The channel to be.
        channel: ChannelId,
        /// What is to be opened.
        kind: ChannelOpen,
    },
    /// Answer with [`Connection::answer_forward`].
    Forward {
        /// For the answer.
        id: ForwardId,
        /// What is asked.
        request: ForwardRequest,
    },
}

/// Names a forward request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForwardId(Option<Ticket>);

/// Something that somebody waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// There is an event.
    Event,
    /// A request, or the end of requests.
    Request(ChannelId),
    /// Data, EOF or the end.
    Readable(ChannelId),
    /// Room, or the end.
    Writable(ChannelId),
    /// The client has closed it.
    Closed(ChannelId),
    /// The client has answered our open.
    Opened(ChannelId),
    /// Prompts were answered or given up, a keepalive was answered, or a channel is gone.
    Progress,
    /// The connection has ended: everybody should look again.
    Ended,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    transport: Transport,
    upper: Upper,
    ended: Option<Ended>,
    login_deadline: Option<Instant>,
    idle_check: Option<Instant>,
    last_input: Instant,
    unseen: usize,
    could_send: bool,
}

/// Everything above the transport, so that a message borrowed from the transport can be worked on.
#[derive(Debug)]
pub(crate) struct Upper {
    config: Arc<Config>,
    auth: Auth,
    binding: Option<Binding>,
    channels: Table,
    spares: Spares,
    loan: Loan,
    gate: Gate,
    /// Bounded: one login, the configured channels, [`MOST_FORWARDS`].
    events: VecDeque<Event>,
    /// Bounded: each entry answers somebody who waits.
    notices: Vec<Notice>,
    globals: ReplyQueue<Vec<u8>>,
    forwards: usize,
    request_bytes: usize,
    keepalives_sent: u64,
    keepalives_answered: u64,
    no_more_sessions: bool,
    refuse_opens: Option<OpenFailure>,
    /// A `hostkeys-prove-00@openssh.com` to be answered once the message is no longer borrowed.
    proof: Option<(Ticket, Vec<u8>)>,
    proofs_left: u8,
    active: bool,
    typing: Typing,
    /// The time of the last call that told it.
    now: Instant,
}

impl Connection {
    /// A connection whose first byte is yet to come.
    #[must_use]
    pub fn new(config: Arc<Config>, now: Instant) -> Self {
        Self {
            transport: Transport::new(Arc::clone(&config.transport), now),
            login_deadline: now.checked_add(config.login_timeout),
            upper: Upper {
                auth: Auth::new(),
                binding: None,
                channels: Table::default(),
                spares: Spares::default(),
                loan: Loan::default(),
                gate: Gate::new(config.output_high_water),
                events: VecDeque::new(),
                notices: Vec::new(),
                globals: ReplyQueue::default(),
                forwards: 0,
                request_bytes: 0,
                keepalives_sent: 0,
                keepalives_answered: 0,
                no_more_sessions: false,
                refuse_opens: None,
                proof: None,
                proofs_left: global::MOST_PROOFS,
                active: false,
                typing: Typing::default(),
                now,
                config,
            },
            ended: None,
            idle_check: None,
            last_input: now,
            unseen: 0,
            could_send: false,
        }
    }

    /// Room for bytes from the socket; never empty. Ask [`wants_input`](Self::wants_input) first.
    pub fn input_space(&mut self) -> &mut [u8] {
        self.transport.input_space()
    }

    /// Says how many bytes were put into [`input_space`](Self::input_space). Call [`process`](Self::process) next.
    pub fn commit_input(&mut self, len: usize, now: Instant) {
        self.unseen = self.unseen.saturating_add(len);
        self.last_input = now;
        self.transport.commit_input(len);
        if self.idle_check.is_none() {
            self.idle_check = now.checked_add(IDLE);
        }
    }

    /// False while nothing should be read from the socket: too much output waits, or enough input does.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.ended.is_none()
            && !self.is_output_full()
            && (!self.upper.auth.is_asking() || self.unseen < UNSEEN_INPUT)
    }

    fn is_output_full(&self) -> bool {
        self.transport.output_len() > self.upper.config.output_stop_input
    }

    /// Works on the input there is. Also to be called after output has left and after answers.
    pub fn process(&mut self, now: Instant) {
        self.upper.now = now;
        while self.ended.is_none() && !self.upper.auth.is_asking() && !self.is_output_full() {
            if self.upper.binding.is_none()
                && let (Some(session_id), Some(host_key)) =
                    (self.transport.session_id(), self.transport.host_key_blob())
            {
                let (session_id, host_key) = (session_id.to_vec(), host_key.to_vec());
                self.upper.binding = Some(Binding { session_id, host_key });
            }
            let worked = match self.transport.poll_payload_split(now) {
                Ok(Some((payload, sender))) => self.upper.payload(payload, sender),
                Ok(None) => {
                    self.unseen = 0;
                    break;
                }
                Err(error) => Err(Fault::Transport(error)),
            };
            let worked = worked.and_then(|()| self.prove_host_keys());
            self.settle(worked);
        }
        self.settle_loan();
        let can_send = self.transport.can_send_data();
        if can_send && !self.could_send {
            self.open_gate();
        }
        self.could_send = can_send;
    }

    /// Puts the bulk data that was only noted into its channel's queue, before its place is used for other input.
    fn settle_loan(&mut self) {
        let Upper { loan, channels, spares, .. } = &mut self.upper;
        let Some(id) = loan.channel() else { return };
        match channels.get_mut(id) {
            None => loan.forget(),
            Some(channel) if loan.fills(self.transport.storage_size()) => {
                loan.hand_over(self.transport.exchange_storage(spares.storage()), &mut channel.queue);
            }
            Some(channel) => loan.copy(|place| self.transport.storage(place), &mut channel.queue, spares),
        }
    }

    /// The client's side of the socket is at its end.
    pub fn input_ended(&mut self, now: Instant) {
        self.process(now);
        self.end(EndReason::ClosedByPeer);
    }

    /// Bytes for the socket.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        self.transport.output()
    }

    /// Bytes waiting for the socket.
    #[must_use]
    pub fn output_len(&self) -> usize {
        self.transport.output_len()
    }

    /// Says how many bytes of [`output`](Self::output) were written. Call [`process`](Self::process) next, if
    /// [`wants_input`](Self::wants_input) was false before.
    pub fn consume_output(&mut self, len: usize) {
        self.transport.consume_output(len);
        self.open_gate();
    }

    fn open_gate(&mut self) {
        let upper = &mut self.upper;
        for id in upper.gate.drained(self.transport.output_len()) {
            if let Some(channel) = upper.channels.get_mut(id) {
                channel.waiting.gated = false;
                if std::mem::take(&mut channel.waiting.write) {
                    upper.notices.push(Notice::Writable(id));
                }
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.ended.is_some() {
            return None;
        }
        let deadlines = [
            self.login_deadline,
            self.idle_check,
            self.transport.poll_timeout(),
            self.upper.typing.poll_timeout(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// True when [`poll_timeout`](Self::poll_timeout) may have become earlier without [`process`](Self::process): whoever waits
    /// for it should ask again.
    pub const fn take_new_deadline(&mut self) -> bool {
        self.upper.typing.take_new_deadline()
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.ended.is_some() {
            return;
        }
        if self.login_deadline.is_some_and(|at| at <= now) {
            self.login_deadline = None;
            self.settle(Err(Fault::LoginTimeout));
            return;
        }
        self.upper.now = now;
        if self.upper.typing.due(now) {
            let Upper { typing, channels, notices, .. } = &mut self.upper;
            for channel in channels.iter_mut() {
                if typing.lengthen(&mut channel.leash, now) && std::mem::take(&mut channel.waiting.write) {
                    notices.push(Notice::Writable(channel.id));
                }
            }
        }
        if self.idle_check.is_some_and(|at| at <= now) {
            self.idle_check = self.last_input.checked_add(IDLE).filter(|at| *at > now);
            if self.idle_check.is_none() {
                self.upper.spares.release();
                self.transport.release_idle_memory();
            }
        }
        if self.transport.poll_timeout().is_some_and(|at| at <= now) {
            let done = self.transport.handle_timeout(now).map_err(Fault::from);
            self.settle(done);
        }
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.upper.events.pop_front()
    }

    /// Who should try again. In the order in which they should.
    pub fn take_notices(&mut self) -> impl Iterator<Item = Notice> + '_ {
        self.upper.notices.drain(..)
    }

    /// True when somebody should try again.
    #[must_use]
    pub fn has_notices(&self) -> bool {
        !self.upper.notices.is_empty()
    }

    /// How the connection ended, if it has. What [`output`](Self::output) still holds should be written, within reason.
    #[must_use]
    pub const fn ended(&self) -> Option<&Ended> {
        self.ended.as_ref()
    }

    /// Tells the client, and ends the connection.
    pub fn disconnect(&mut self, reason: DisconnectReason, text: &str) {
        if self.ended.is_none() {
            self.transport.disconnect(reason, text);
            self.end(EndReason::DisconnectedByUs { text: text.to_owned() });
        }
    }

    /// Ends the connection without a word.
    pub fn end(&mut self, reason: EndReason) {
        if self.ended.is_none() {
            self.ended = Some(Ended { reason, authenticated: self.upper.auth.is_done() });
            for event in std::mem::take(&mut self.upper.events) {
                if let Event::Open { channel, .. } = event {
                    self.upper.remove(channel);
                }
            }
            // Those that only waited for the client's CLOSE: nobody holds them, so nobody else would remove them.
            for id in self.upper.channels.unheld() {
                self.upper.remove(id);
            }
            self.upper.notices.push(Notice::Ended);
        }
    }

    /// Ends the connection if something has gone wrong.
    fn settle(&mut self, result: Result<(), Fault>) {
        if let Err(fault) = result
            && self.ended.is_none()
        {
            if let Some((reason, text)) = fault.disconnect() {
                self.transport.disconnect(reason, &text);
            }
            self.end(fault.into());
        }
    }

    /// True after the login.
    #[must_use]
    pub const fn is_authenticated(&self) -> bool {
        self.upper.auth.is_done()
    }

    /// What was negotiated, after the first key exchange.
    #[must_use]
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.transport.negotiated()
    }

    /// Channels that exist, are being opened, or still have handles.
    #[must_use]
    pub const fn channels(&self) -> usize {
        self.upper.channels.len()
    }

    /// True once after channel data moved or a channel was opened.
    pub fn take_activity(&mut self) -> bool {
        std::mem::take(&mut self.upper.active)
    }

    /// Begins a key exchange.
    pub fn rekey(&mut self) {
        if self.ended.is_none() && self.transport.session_id().is_some() {
            let begun = self.transport.rekey_now().map_err(Fault::from);
            self.settle(begun);
        }
    }
}

impl Upper {
    fn payload(&mut self, payload: Payload<'_>, sender: &mut Sender) -> Result<(), Fault> {
        let (kind, body) = (payload.kind(), payload.body());
        if !self.auth.is_done() {
            let no_binding = Binding::default();
            let binding = self.binding.as_ref().unwrap_or(&no_binding);
            let asked = self.auth.message(kind, body, sender, &self.config, binding)?;
            if let Some(request) = asked {
                self.events.push_back(Event::Auth(request));
                self.notices.push(Notice::Event);
            }
            // Prompts may have been answered, or given up.
            self.notices.push(Notice::Progress);
            return Ok(());
        }
        match kind {
            msg::CHANNEL_DATA => self.channel_data(body, payload.position.saturating_add(1), sender),
            msg::CHANNEL_WINDOW_ADJUST => self.channel_window_adjust(body),
            msg::CHANNEL_OPEN => self.channel_open(body, sender),
            msg::CHANNEL_OPEN_CONFIRMATION => self.channel_open_confirmation(body, sender),
            msg::CHANNEL_OPEN_FAILURE => self.channel_open_failure(body),
            msg::CHANNEL_EXTENDED_DATA => self.channel_extended_data(body, sender),
            msg::CHANNEL_EOF => self.channel_eof(body),
            msg::CHANNEL_CLOSE => self.channel_close(body, sender),
            msg::CHANNEL_REQUEST => self.channel_request(body, sender),
            msg::CHANNEL_SUCCESS | msg::CHANNEL_FAILURE => self.channel_reply(body),
            msg::GLOBAL_REQUEST => self.global_request(body, sender),
            msg::REQUEST_SUCCESS | msg::REQUEST_FAILURE => {
                self.global_reply();
                Ok(())
            }
            // RFC 4252 §5.1: requests after success are silently ignored; so are other messages of the login.
            50..=79 => Ok(()),
            _ => Ok(sender.send_unimplemented(payload.sequence)?),
        }
    }
}
