//! The application's side: answers, opens, status, and letting go.

use zeroize::Zeroizing;

use super::messages::{send_open_failure, send_replies, short, take};
use super::{AuthId, ChannelId, Connection, Fault, Stale, Verdict, msg};
use crate::channel::{Channel, FromPeer, Halves, Phase, QueuedRequest, Ticket, ToPeer};
use crate::codec::Writer;
use crate::event::{ChannelRequest, CoreDump, ExitSignal, OpenFailure, Prompt, ServerOpen};
use crate::transport::Sender;

/// The answer to a forward request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardAnswer {
    /// It is done.
    Yes,
    /// It is done, with this port; the request named port 0.
    Port(u16),
    /// It is not.
    No,
}

/// A part of a channel that the application holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// Requests.
    Requests,
    /// Data from the client.
    Reader,
    /// Data to the client.
    Writer,
}

/// Names a channel request for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestAnswer {
    channel: ChannelId,
    ticket: Option<Ticket>,
    starts: bool,
}

impl RequestAnswer {
    /// Whether the client wants a reply at all.
    #[must_use]
    pub const fn is_wanted(&self) -> bool {
        self.ticket.is_some()
    }
}

/// What became of a channel we open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// The client has not answered yet.
    Pending,
    /// It is open.
    Yes,
    /// The client, or the end of the connection, said no.
    No(OpenFailure),
}

/// The next request on a channel.
#[derive(Debug)]
pub enum NextRequest {
    /// One, with the name for its answer.
    Some(ChannelRequest, RequestAnswer),
    /// None yet; a notice will follow.
    Pending,
    /// There will be none.
    End,
}

impl Connection {
    /// Answers a login question. Stale answers are ignored.
    pub fn answer_auth(&mut self, id: AuthId, verdict: Verdict) {
        if self.ended.is_some() {
            return;
        }
        let upper = &mut self.upper;
        let mut sent = upper.auth.answer(id, verdict, self.transport.sender(), &upper.config);
        if sent.is_ok() && self.upper.auth.is_done() && self.login_deadline.take().is_some() {
            sent = self.announce_host_keys();
        }
        self.settle(sent);
    }

    /// Shows a text to the user who is logging in.
    pub fn auth_banner(&mut self, id: AuthId, text: &str) {
        if self.ended.is_none() {
            let sent = self.upper.auth.banner(id, text, self.transport.sender());
            self.settle(sent);
        }
    }

    /// Sends keyboard-interactive prompts.
    ///
    /// # Errors
    /// [`Stale`] when the attempt is over or is of another method.
    pub fn auth_prompt(
        &mut self,
        id: AuthId,
        name: &str,
        instruction: &str,
        prompts: &[Prompt],
    ) -> Result<(), Stale> {
        if self.ended.is_some() {
            return Err(Stale);
        }
        match self.upper.auth.prompt(id, name, instruction, prompts, self.transport.sender()) {
            Ok(sent) => sent,
            Err(fault) => {
                self.settle(Err(fault));
                Err(Stale)
            }
        }
    }

    /// The answers to the last prompts; `None` while they have not come.
    ///
    /// # Errors
    /// [`Stale`] when the attempt is over.
    pub fn take_auth_responses(&mut self, id: AuthId) -> Result<Option<Vec<Zeroizing<Vec<u8>>>>, Stale> {
        if self.ended.is_some() {
            return Err(Stale);
        }
        self.upper.auth.take_responses(id)
    }

    /// Opens the channel that the client asked for. False if the connection has ended meanwhile.
    pub fn accept_open(&mut self, id: ChannelId) -> bool {
        let Some(channel) = self.upper.channels.get_mut(id) else { return false };
        if self.ended.is_some() || !matches!(channel.phase, Phase::Asked) {
            return false;
        }
        channel.phase = Phase::Open;
        let mut message = Writer::message(msg::CHANNEL_OPEN_CONFIRMATION);
        message
            .u32(channel.remote)
            .u32(id.index)
            .u32(channel.receive.size())
            .u32(self.upper.config.max_packet);
        let sent = self.transport.send(message.as_slice()).map_err(Fault::from);
        self.settle(sent);
        true
    }

    /// Refuses the channel that the client asked for.
    pub fn refuse_open(&mut self, id: ChannelId, failure: &OpenFailure) {
        let Some(channel) = self.upper.channels.get_mut(id) else { return };
        if !matches!(channel.phase, Phase::Asked) {
            return;
        }
        let remote = channel.remote;
        self.upper.remove(id);
        if self.ended.is_none() {
            let sent = send_open_failure(remote, failure, self.transport.sender());
            self.settle(sent);
        }
    }

    /// From now on opens are refused with this.
    pub fn refuse_opens(&mut self, failure: OpenFailure) {
        self.upper.refuse_opens = Some(failure);
    }

    /// Asks the client to open a channel.
    ///
    /// # Errors
    /// A limit is reached, nobody is logged in, or the connection has ended.
    pub fn open(&mut self, kind: &ServerOpen) -> Result<ChannelId, OpenFailure> {
        if self.ended.is_some() || !self.upper.auth.is_done() {
            return Err(OpenFailure::connect_failed("The connection has ended."));
        }
        let upper = &mut self.upper;
        let limit = upper.config.max_channels;
        if upper.channels.len() >= limit {
            return Err(OpenFailure::shortage(format!(
                "The limit of {limit} channels per connection is reached."
            )));
        }
        let max_packet = upper.config.max_packet;
        let channel = upper.channels.insert(
            Phase::Opening,
            upper.config.window,
            max_packet,
            upper.config.window_budget,
        );
        let id = channel.id;
        let mut message = Writer::message(msg::CHANNEL_OPEN);
        message.string(match kind {
            ServerOpen::ForwardedTcpip { .. } => "forwarded-tcpip",
            ServerOpen::ForwardedStreamlocal { .. } => "forwarded-streamlocal@openssh.com",
            ServerOpen::AuthAgent => "auth-agent@openssh.com",
            ServerOpen::X11 { .. } => "x11",
        });
        message.u32(id.index).u32(channel.receive.size()).u32(max_packet);
        match kind {
            ServerOpen::ForwardedTcpip { address, port, originator, originator_port } => {
                message.string(address).u32(*port).string(originator).u32(*originator_port);
            }
            ServerOpen::ForwardedStreamlocal { path } => {
                message.string(path).string("");
            }
            ServerOpen::AuthAgent => {}
            ServerOpen::X11 { originator, originator_port } => {
                message.string(originator).u32(*originator_port);
            }
        }
        let sent = self.transport.send(message.as_slice()).map_err(Fault::from);
        self.settle(sent);
        Ok(id)
    }

    /// What became of [`open`](Self::open). After a `No` the channel is gone.
    pub fn opened(&mut self, id: ChannelId) -> Opened {
        let ended = || Opened::No(OpenFailure::connect_failed("The connection has ended."));
        let Some(channel) = self.upper.channels.get(id) else { return ended() };
        match &channel.phase {
            Phase::Open => Opened::Yes,
            Phase::Refused(failure) => {
                let failure = failure.clone();
                self.upper.remove(id);
                Opened::No(failure)
            }
            Phase::Asked | Phase::Opening if self.ended.is_some() => {
                self.upper.remove(id);
                ended()
            }
            Phase::Asked | Phase::Opening => Opened::Pending,
        }
    }

    /// The next request of the client on a channel.
    pub fn next_request(&mut self, id: ChannelId) -> NextRequest {
        let Some(channel) = self.upper.channels.get_mut(id) else { return NextRequest::End };
        if let Some(queued) = channel.requests.pop_front() {
            if channel.requests.is_empty() {
                channel.requests = std::collections::VecDeque::new();
            }
            self.upper.request_bytes = self.upper.request_bytes.saturating_sub(queued.cost());
            let QueuedRequest { request, ticket } = queued;
            let starts = matches!(
                request,
                ChannelRequest::Shell | ChannelRequest::Exec { .. } | ChannelRequest::Subsystem { .. }
            );
            return NextRequest::Some(request, RequestAnswer { channel: id, ticket, starts });
        }
        let over = channel.from_peer == FromPeer::Closed || channel.to_peer == ToPeer::Closed;
        if over || self.ended.is_some() {
            return NextRequest::End;
        }
        channel.waiting.request = true;
        NextRequest::Pending
    }

    /// Answers a request with yes (`Ok`) or no (`Err`).
    pub fn answer_request(&mut self, answer: RequestAnswer, verdict: Result<(), ()>) {
        let Some(channel) = self.upper.channels.get_mut(answer.channel) else { return };
        channel.started |= answer.starts && verdict.is_ok();
        if let Some(ticket) = answer.ticket {
            channel.replies.answer(ticket, verdict.is_ok());
            if self.ended.is_none() {
                let sent = send_replies(channel, self.transport.sender());
                self.settle(sent);
            }
        }
    }

    /// Sends a message on a channel that is not closed.
    fn on_open_channel(
        &mut self,
        id: ChannelId,
        send: impl FnOnce(&mut Channel, &mut Sender) -> Result<(), Fault>,
    ) {
        let Some(channel) = self.upper.channels.get_mut(id) else { return };
        if self.ended.is_none() && matches!(channel.phase, Phase::Open) && channel.to_peer != ToPeer::Closed {
            let sent = send(channel, self.transport.sender());
            self.settle(sent);
        }
    }

    /// Sends EOF, once.
    pub fn eof(&mut self, id: ChannelId) {
        self.on_open_channel(id, send_eof);
    }

    /// Sends `exit-status` (RFC 4254 §6.10), on sessions only.
    pub fn exit_status(&mut self, id: ChannelId, status: u32) {
        self.on_open_channel(id, |channel, sender| {
            if !channel.session {
                return Ok(());
            }
            let mut message = Writer::message(msg::CHANNEL_REQUEST);
            message.u32(channel.remote).string("exit-status").bool(false).u32(status);
            Ok(sender.send(message.as_slice())?)
        });
    }

    /// Sends `exit-signal` (RFC 4254 §6.10), on sessions only.
    pub fn exit_signal(&mut self, id: ChannelId, signal: &ExitSignal) {
        self.on_open_channel(id, |channel, sender| {
            if !channel.session {
                return Ok(());
            }
            let mut message = Writer::message(msg::CHANNEL_REQUEST);
            message.u32(channel.remote).string("exit-signal").bool(false);
            message.string(&signal.name).bool(signal.core == CoreDump::Dumped);
            message.string(&signal.message).string("");
            Ok(sender.send(message.as_slice())?)
        });
    }

    /// Sends EOF if need be, and CLOSE, once.
    pub fn close(&mut self, id: ChannelId) {
        self.on_open_channel(id, |channel, sender| {
            send_eof(channel, sender)?;
            channel.to_peer = ToPeer::Closed;
            channel.replies.clear();
            Ok(sender.send(&short(msg::CHANNEL_CLOSE, channel.remote))?)
        });
        self.upper.wake_all(id);
        self.upper.forget_if_over(id);
    }

    /// The application lets go of a part of a channel.
    pub fn release(&mut self, id: ChannelId, half: Half) {
        let Some(channel) = self.upper.channels.get_mut(id) else { return };
        let held = match half {
            Half::Requests => &mut channel.halves.requests,
            Half::Reader => &mut channel.halves.reader,
            Half::Writer => &mut channel.halves.writer,
        };
        if !std::mem::take(held) {
            return;
        }
        match half {
            Half::Requests => self.release_requests(id),
            Half::Reader => self.release_reader(id),
            Half::Writer => self.eof(id),
        }
        let Some(channel) = self.upper.channels.get(id) else { return };
        if channel.halves.none_left() {
            if self.ended.is_some() {
                self.upper.remove(id);
            } else {
                self.close(id);
            }
        }
    }

    /// The application lets go of a channel before it was opened.
    pub fn abandon(&mut self, id: ChannelId) {
        if let Some(channel) = self.upper.channels.get_mut(id) {
            channel.halves = Halves::default();
        }
        if self.ended.is_some() {
            self.upper.remove(id);
        } else {
            self.close(id);
        }
    }

    fn release_requests(&mut self, id: ChannelId) {
        let Some(channel) = self.upper.channels.get_mut(id) else { return };
        for queued in std::mem::take(&mut channel.requests) {
            self.upper.request_bytes = self.upper.request_bytes.saturating_sub(queued.cost());
            if let Some(ticket) = queued.ticket {
                channel.replies.answer(ticket, false);
            }
        }
        if self.ended.is_none() && matches!(channel.phase, Phase::Open) {
            let sent = send_replies(channel, self.transport.sender());
            self.settle(sent);
        }
    }

    /// Discards what has come and will come. An OpenSSH client is told, so that its own writer gets SIGPIPE.
    fn release_reader(&mut self, id: ChannelId) {
        let openssh = self.transport.negotiated().is_some_and(|n| n.client_version.contains("OpenSSH"));
        let Some(channel) = self.upper.channels.get_mut(id) else { return };
        let unread = channel.queue.clear();
        self.on_open_channel(id, |channel, sender| {
            take(channel, unread, sender)?;
            if openssh && channel.session && channel.from_peer == FromPeer::Open {
                let mut message = Writer::message(msg::CHANNEL_REQUEST);
                message.u32(channel.remote).string("eow@openssh.com").bool(false);
                sender.send(message.as_slice())?;
            }
            Ok(())
        });
    }

    /// Asks for a notice when the client has closed the channel. True when it has, or the connection has ended.
    pub fn is_closed_by_peer(&mut self, id: ChannelId) -> bool {
        let Some(channel) = self.upper.channels.get_mut(id) else { return true };
        if self.ended.is_some() || channel.from_peer == FromPeer::Closed {
            return true;
        }
        channel.waiting.closed = true;
        false
    }

    /// True when nothing more can be sent on the channel but what was sent.
    #[must_use]
    pub fn is_closed(&self, id: ChannelId) -> bool {
        self.ended.is_some() || self.upper.channels.get(id).is_none_or(|c| c.to_peer == ToPeer::Closed)
    }
}

fn send_eof(channel: &mut Channel, sender: &mut Sender) -> Result<(), Fault> {
    if channel.to_peer == ToPeer::Open {
        channel.to_peer = ToPeer::Eof;
        sender.send(&short(msg::CHANNEL_EOF, channel.remote))?;
    }
    Ok(())
}
