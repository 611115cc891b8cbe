//! Channel messages from the client (RFC 4254 §5).
//!
//! Where the RFC is silent the rule is OpenSSH's: a message for a channel that does not exist ends the connection, except
//! for a window adjust, which is ignored; data after EOF is discarded, though its window is charged.

use std::ops::Range;

use super::{Event, Fault, MOST_REQUEST_BYTES, Notice, Upper, msg};
use crate::channel::{
    Channel, ChannelId, FromPeer, Phase, QueuedRequest, ReplyQueue, SendWindow, ToPeer, parse,
};
use crate::codec::{Reader, Writer};
use crate::event::{ChannelOpen, ChannelRequest, OpenFailure, OpenReason};
use crate::transport::Sender;

/// A message that holds only its number and a channel's.
pub(super) fn short(kind: u8, channel: u32) -> [u8; 5] {
    let [a, b, c, d] = channel.to_be_bytes();
    [kind, a, b, c, d]
}

/// Gives window back.
pub(super) fn send_adjust(channel: &Channel, len: u32, sender: &mut Sender) -> Result<(), Fault> {
    let mut message = Writer::message(msg::CHANNEL_WINDOW_ADJUST);
    message.u32(channel.remote).u32(len);
    Ok(sender.send(message.as_slice())?)
}

/// Counts data as taken and gives window back when it is worth a message. When the client may send no more, nothing
/// is counted: what it was not told of is not open.
pub(super) fn take(channel: &mut Channel, len: usize, sender: &mut Sender) -> Result<(), Fault> {
    if channel.from_peer != FromPeer::Open || channel.to_peer == ToPeer::Closed {
        return Ok(());
    }
    match channel.receive.take(len) {
        Some(adjust) => send_adjust(channel, adjust, sender),
        None => Ok(()),
    }
}

/// Sends the replies that are due.
pub(super) fn send_replies(channel: &mut Channel, sender: &mut Sender) -> Result<(), Fault> {
    if channel.to_peer == ToPeer::Closed {
        channel.replies.clear();
        return Ok(());
    }
    while let Some(yes) = channel.replies.pop() {
        let kind = if yes { msg::CHANNEL_SUCCESS } else { msg::CHANNEL_FAILURE };
        sender.send(&short(kind, channel.remote))?;
    }
    Ok(())
}

impl Upper {
    /// The channel that a message names; it must exist on the wire.
    fn live(&mut self, number: u32, what: &str) -> Result<&mut Channel, Fault> {
        match self.channels.by_number(number) {
            Some(channel) if channel.is_live() => Ok(channel),
            _ => Err(Fault::Protocol(format!(
                "The {what} message refers to channel {number}, which does not exist."
            ))),
        }
    }

    /// `position` is where the body lies in the storage of the input.
    pub(super) fn channel_data(
        &mut self,
        body: &[u8],
        position: usize,
        sender: &mut Sender,
    ) -> Result<(), Fault> {
        let mut reader = Reader::new(body);
        let (number, data) = (reader.u32()?, reader.string()?);
        reader.finish()?;
        self.active = true;
        // After the number of the channel and the length.
        let start = position.saturating_add(8);
        self.data(number, data, Stream::Ordinary { place: start..start.saturating_add(data.len()) }, sender)
    }

    pub(super) fn channel_extended_data(&mut self, body: &[u8], sender: &mut Sender) -> Result<(), Fault> {
        let mut reader = Reader::new(body);
        let (number, _kind, data) = (reader.u32()?, reader.u32()?, reader.string()?);
        reader.finish()?;
        // No extended data is defined from client to server.
        self.data(number, data, Stream::Extended, sender)
    }

    fn data(&mut self, number: u32, data: &[u8], stream: Stream, sender: &mut Sender) -> Result<(), Fault> {
        let channel = match self.channels.by_number(number) {
            Some(channel) if channel.is_live() => channel,
            _ => return self.live(number, "data").map(|_| ()),
        };
        if channel.receive.charge(data.len()).is_none() {
            return Err(Fault::Protocol(format!(
                "The client sent more data on channel {number} than its window allows."
            )));
        }
        let wanted =
            channel.halves.reader && channel.from_peer == FromPeer::Open && channel.to_peer != ToPeer::Closed;
        let (true, Stream::Ordinary { place }) = (wanted, stream) else {
            return take(channel, data.len(), sender);
        };
        if !data.is_empty() {
            if channel.terminal {
                self.typing.key(self.now);
            }
            if !self.loan.note(channel.id, place) {
                channel.queue.push(data, &mut self.spares);
            }
            if std::mem::take(&mut channel.waiting.read) {
                self.notices.push(Notice::Readable(channel.id));
            }
        }
        Ok(())
    }

    pub(super) fn channel_window_adjust(&mut self, body: &[u8]) -> Result<(), Fault> {
        let mut reader = Reader::new(body);
        let (number, len) = (reader.u32()?, reader.u32()?);
        reader.finish()?;
        let Some(channel) = self.channels.by_number(number).filter(|channel| channel.is_live()) else {
            return Ok(());
        };
        channel.leash.progress();
        if channel.send.adjust(len).is_none() {
            return Err(Fault::Protocol(format!(
                "The window of channel {number} was adjusted past 2^32 - 1."
            )));
        }
        if std::mem::take(&mut channel.waiting.write) {
            self.notices.push(Notice::Writable(channel.id));
        }
        Ok(())
    }

    pub(super) fn channel_eof(&mut self, body: &[u8]) -> Result<(), Fault> {
        let mut reader = Reader::new(body);
        let number = reader.u32()?;
        reader.finish()?;
        let channel = self.live(number, "EOF")?;
        if channel.from_peer == FromPeer::Open {
            channel.from_peer = FromPeer::Eof;
            if std::mem::take(&mut channel.waiting.read) {
                let id = channel.id;
                self.notices.push(Notice::Readable(id));
            }
        }
        Ok(())
    }

    pub(super) fn channel_close(&mut self, body: &[u8], sender: &mut Sender) -> Result<(), Fault> {
        let mut reader = Reader::new(body);
        let number = reader.u32()?;
        reader.finish()?;
        let channel = self.live(number, "close")?;
        channel.from_peer = FromPeer::Closed;
        if channel.to_peer != ToPeer::Closed {
            channel.to_peer = ToPeer::Closed;
            sender.send(&short(msg::CHANNEL_CLOSE, channel.remote))?;
        }
        channel.replies.clear();
        let id = channel.id;
        self.wake_all(id);
        self.forget_if_over(id);
        Ok(())
    }

    /// Tells everybody who waits on a channel to look again.
    pub(super) fn wake_all(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(id) else { return };
        let waiting = &mut channel.waiting;
        let notices = [
            (std::mem::take(&mut waiting.request), Notice::Request(id)),
            (std::mem::take(&mut waiting.read), Notice::Readable(id)),
            (std::mem::take(&mut waiting.write), Notice::Writable(id)),
            (std::mem::take(&mut waiting.closed), Notice::Closed(id)),
        ];
        self.notices.extend(notices.into_iter().filter_map(|(waits, notice)| waits.then_some(notice)));
    }

    /// Removes a channel that nobody needs.
    pub(super) fn forget_if_over(&mut self, id: ChannelId) {
        if self.channels.get(id).is_some_and(Channel::is_forgotten) {
            self.remove(id);
        }
    }

    pub(super) fn remove(&mut self, id: ChannelId) {
        if let Some(channel) = self.channels.remove(id) {
            let cost: usize = channel.requests.iter().map(QueuedRequest::cost).sum();
            self.request_bytes = self.request_bytes.saturating_sub(cost);
            if channel.waiting.gated {
                self.gate.forget(id);
            }
            self.notices.push(Notice::Progress);
        }
    }

    pub(super) fn channel_open(&mut self, body: &[u8], sender: &mut Sender) -> Result<(), Fault> {
        let message = parse::open(body)?;
        let limit = self.config.max_channels;
        let kind = match message.kind {
            Ok(ChannelOpen::Session) if self.no_more_sessions => {
                return Err(Fault::protocol("A session was opened after no-more-sessions@openssh.com."));
            }
            Ok(_) if self.channels.len() >= limit => Err(OpenFailure::shortage(format!(
                "The limit of {limit} channels per connection is reached."
            ))),
            Ok(kind) => match &self.refuse_opens {
                Some(failure) => Err(failure.clone()),
                None => Ok(kind),
            },
            Err(failure) => Err(failure),
        };
        let kind = match kind {
            Ok(kind) => kind,
            Err(failure) => return send_open_failure(message.sender, &failure, sender),
        };
        let config = &self.config;
        let channel =
            self.channels.insert(Phase::Asked, config.window, config.max_packet, config.window_budget);
        channel.session = kind == ChannelOpen::Session;
        channel.remote = message.sender;
        channel.send = SendWindow::new(message.window, message.max_packet);
        self.events.push_back(Event::Open { channel: channel.id, kind });
        self.notices.push(Notice::Event);
        self.active = true;
        Ok(())
    }

    pub(super) fn channel_open_confirmation(
        &mut self,
        body: &[u8],
        sender: &mut Sender,
    ) -> Result<(), Fault> {
        let mut reader = Reader::new(body);
        let (number, remote) = (reader.u32()?, reader.u32()?);
        let (window, max_packet) = (reader.u32()?, reader.u32()?);
        let channel = self.opening(number)?;
        if max_packet == 0 {
            return Err(Fault::protocol("A maximum packet size of 0 cannot carry data."));
        }
        channel.phase = Phase::Open;
        channel.remote = remote;
        channel.send = SendWindow::new(window, max_packet);
        let id = channel.id;
        if channel.halves.none_left() {
            // Whoever asked for it has gone away meanwhile.
            channel.to_peer = ToPeer::Closed;
            sender.send(&short(msg::CHANNEL_CLOSE, remote))?;
        }
        self.active = true;
        self.notices.push(Notice::Opened(id));
        Ok(())
    }

    pub(super) fn channel_open_failure(&mut self, body: &[u8]) -> Result<(), Fault> {
        let mut reader = Reader::new(body);
        let (number, code, text) = (reader.u32()?, reader.u32()?, reader.string()?);
        let text: String =
            String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).take(255).collect();
        let channel = self.opening(number)?;
        channel.phase = Phase::Refused(OpenFailure::new(OpenReason::from_code(code), text));
        let id = channel.id;
        self.notices.push(Notice::Opened(id));
        self.forget_if_over(id);
        Ok(())
    }

    fn opening(&mut self, number: u32) -> Result<&mut Channel, Fault> {
        match self.channels.by_number(number) {
            Some(channel) if matches!(channel.phase, Phase::Opening) => Ok(channel),
            _ => Err(Fault::Protocol(format!(
                "The answer to an open names channel {number}, which was not asked for."
            ))),
        }
    }

    /// We want no replies to what we send on channels, so nothing depends on them.
    pub(super) fn channel_reply(&mut self, body: &[u8]) -> Result<(), Fault> {
        let mut reader = Reader::new(body);
        let number = reader.u32()?;
        reader.finish()?;
        self.live(number, "reply").map(|_| ())
    }

    pub(super) fn channel_request(&mut self, body: &[u8], sender: &mut Sender) -> Result<(), Fault> {
        let mut reader = Reader::new(body);
        let (number, name, wants_reply) = (reader.u32()?, reader.string()?, reader.bool()?);
        let request_bytes = self.request_bytes;
        let channel = self.live(number, "request")?;
        if channel.to_peer == ToPeer::Closed {
            return Ok(());
        }
        let request = parse::request(name, reader.rest())?;
        let ticket = if wants_reply {
            let most = ReplyQueue::<bool>::MOST;
            let reserved = channel.replies.reserve();
            Some(
                reserved
                    .ok_or_else(|| Fault::Protocol(format!("More than {most} requests wait for a reply.")))?,
            )
        } else {
            None
        };
        let queued = request.filter(|request| is_possible(channel, request));
        let queued = queued.map(|request| QueuedRequest { request, ticket });
        let room = |queued: &QueuedRequest| {
            channel.requests.len() < Channel::MOST_REQUESTS
                && request_bytes.saturating_add(queued.cost()) <= MOST_REQUEST_BYTES
        };
        let Some(queued) = queued.filter(room) else {
            if let Some(ticket) = ticket {
                channel.replies.answer(ticket, false);
            }
            return send_replies(channel, sender);
        };
        if let (ChannelRequest::WindowChange(new), None, Some(last)) =
            (&queued.request, queued.ticket, channel.requests.back_mut())
            && let (ChannelRequest::WindowChange(old), None) = (&mut last.request, last.ticket)
        {
            *old = *new;
            return Ok(());
        }
        channel.terminal |= matches!(queued.request, ChannelRequest::Pty(_));
        let cost = queued.cost();
        channel.requests.push_back(queued);
        let notice = std::mem::take(&mut channel.waiting.request).then_some(Notice::Request(channel.id));
        self.request_bytes = self.request_bytes.saturating_add(cost);
        self.notices.extend(notice);
        Ok(())
    }
}

/// Which data message it was.
#[derive(Debug)]
enum Stream {
    Ordinary {
        /// Where the data is in the storage of the input.
        place: Range<usize>,
    },
    Extended,
}

/// Whether the channel can take such a request at all, in its present state.
fn is_possible(channel: &Channel, request: &ChannelRequest) -> bool {
    let before_start = matches!(
        request,
        ChannelRequest::Pty(_)
            | ChannelRequest::Env { .. }
            | ChannelRequest::Shell
            | ChannelRequest::Exec { .. }
            | ChannelRequest::Subsystem { .. }
            | ChannelRequest::AgentForward
            | ChannelRequest::X11(_)
    );
    let allowed = channel.session || matches!(request, ChannelRequest::EndOfWrite);
    channel.halves.requests && allowed && !(before_start && channel.started)
}

pub(super) fn send_open_failure(
    remote: u32,
    failure: &OpenFailure,
    sender: &mut Sender,
) -> Result<(), Fault> {
    let mut message = Writer::message(msg::CHANNEL_OPEN_FAILURE);
    message.u32(remote).u32(failure.reason.code()).string(&failure.text).string("");
    Ok(sender.send(message.as_slice())?)
}
