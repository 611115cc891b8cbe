//! Global requests (RFC 4254 §4, §7.1; OpenSSH PROTOCOL §2.2, §2.4, §2.5), ours and the client's.
//!
//! Replies go out in the order of the requests. What the core can answer itself it answers at once, but never before an
//! older request that the application still thinks about.

use super::{Connection, Event, Fault, ForwardAnswer, ForwardId, MOST_FORWARDS, Notice, Upper, msg};
use crate::codec::{DecodeError, Reader, Writer};
use crate::event::ForwardRequest;
use crate::transport::Sender;

/// Times per connection that host keys are proved: each costs signatures, and honest clients ask once.
pub(super) const MOST_PROOFS: u8 = 4;
/// Keepalives without an answer. A further one only waits for those.
const MOST_KEEPALIVES: u64 = 16;

impl Upper {
    pub(super) fn global_request(&mut self, body: &[u8], sender: &mut Sender) -> Result<(), Fault> {
        let mut reader = Reader::new(body);
        let (name, wants_reply) = (reader.string()?, reader.bool()?);
        let ticket = if wants_reply {
            let reserved = self.globals.reserve();
            Some(reserved.ok_or_else(|| Fault::protocol("Too many global requests wait for a reply."))?)
        } else {
            None
        };
        if let Some(request) = forward(name, reader.rest())? {
            match request {
                Some(request) if self.forwards < MOST_FORWARDS => {
                    self.forwards = self.forwards.saturating_add(1);
                    self.events.push_back(Event::Forward { id: ForwardId(ticket), request });
                    self.notices.push(Notice::Event);
                }
                _ => self.answer_global(ticket, vec![msg::REQUEST_FAILURE]),
            }
            return self.send_global_replies(sender);
        }
        match (name, ticket) {
            (b"no-more-sessions@openssh.com", _) => {
                self.no_more_sessions = true;
                self.answer_global(ticket, vec![msg::REQUEST_SUCCESS]);
            }
            (b"hostkeys-prove-00@openssh.com", Some(ticket)) if self.proofs_left > 0 => {
                self.proofs_left = self.proofs_left.saturating_sub(1);
                self.proof = Some((ticket, reader.rest().to_vec()));
            }
            // keepalive@openssh.com among them: a failure is an answer too, and is what sshd sends.
            _ => self.answer_global(ticket, vec![msg::REQUEST_FAILURE]),
        }
        self.send_global_replies(sender)
    }

    fn answer_global(&mut self, ticket: Option<u64>, reply: Vec<u8>) {
        if let Some(ticket) = ticket {
            self.globals.answer(ticket, reply);
        }
    }

    fn send_global_replies(&mut self, sender: &mut Sender) -> Result<(), Fault> {
        while let Some(reply) = self.globals.pop() {
            sender.send(&reply)?;
        }
        Ok(())
    }

    /// Our only requests that want replies are keepalives, and replies come in order.
    pub(super) fn global_reply(&mut self) {
        if self.keepalives_answered < self.keepalives_sent {
            self.keepalives_answered = self.keepalives_answered.saturating_add(1);
            self.notices.push(Notice::Progress);
        }
    }
}

/// `Ok(None)`: some other request. `Ok(Some(None))`: a forward that is impossible.
fn forward(name: &[u8], data: &[u8]) -> Result<Option<Option<ForwardRequest>>, DecodeError> {
    let mut reader = Reader::new(data);
    let request = match name {
        b"tcpip-forward" | b"cancel-tcpip-forward" => {
            let (address, port) = (reader.string()?.to_vec(), reader.u32()?);
            u16::try_from(port).ok().map(|port| match name {
                b"tcpip-forward" => ForwardRequest::Tcpip { address, port },
                _ => ForwardRequest::CancelTcpip { address, port },
            })
        }
        b"streamlocal-forward@openssh.com" => {
            Some(ForwardRequest::Streamlocal { path: reader.string()?.to_vec() })
        }
        b"cancel-streamlocal-forward@openssh.com" => {
            Some(ForwardRequest::CancelStreamlocal { path: reader.string()?.to_vec() })
        }
        _ => return Ok(None),
    };
    reader.finish()?;
    Ok(Some(request))
}

impl Connection {
    /// Answers a forward request.
    pub fn answer_forward(&mut self, id: ForwardId, answer: ForwardAnswer) {
        if self.ended.is_some() {
            return;
        }
        let upper = &mut self.upper;
        upper.forwards = upper.forwards.saturating_sub(1);
        let reply = match answer {
            ForwardAnswer::Yes => vec![msg::REQUEST_SUCCESS],
            ForwardAnswer::Port(port) => {
                let mut reply = Writer::message(msg::REQUEST_SUCCESS);
                reply.u32(port.into());
                reply.into_vec()
            }
            ForwardAnswer::No => vec![msg::REQUEST_FAILURE],
        };
        upper.answer_global(id.0, reply);
        let sent = upper.send_global_replies(self.transport.sender());
        self.settle(sent);
    }

    pub(super) fn prove_host_keys(&mut self) -> Result<(), Fault> {
        let Some((ticket, request)) = self.upper.proof.take() else { return Ok(()) };
        let reply = self.transport.host_keys_proof(&request);
        self.upper.answer_global(Some(ticket), reply.unwrap_or_else(|| vec![msg::REQUEST_FAILURE]));
        self.upper.send_global_replies(self.transport.sender())
    }

    /// Tells the client which host keys there are, so that it can learn new ones (OpenSSH PROTOCOL §2.5).
    pub(super) fn announce_host_keys(&mut self) -> Result<(), Fault> {
        let announcement = self.transport.host_keys_announcement();
        if announcement.is_empty() { Ok(()) } else { Ok(self.transport.send(&announcement)?) }
    }

    /// Sends `keepalive@openssh.com` and gives a number for [`is_answered`](Self::is_answered).
    pub fn send_keepalive(&mut self) -> u64 {
        let upper = &mut self.upper;
        if self.ended.is_none()
            && upper.auth.is_done()
            && upper.keepalives_sent.saturating_sub(upper.keepalives_answered) < MOST_KEEPALIVES
        {
            upper.keepalives_sent = upper.keepalives_sent.saturating_add(1);
            let mut message = Writer::message(msg::GLOBAL_REQUEST);
            message.string("keepalive@openssh.com").bool(true);
            let sent = self.transport.send(message.as_slice()).map_err(Fault::from);
            self.settle(sent);
        }
        self.upper.keepalives_sent
    }

    /// True when the client has answered the keepalive of that number.
    #[must_use]
    pub const fn is_answered(&self, keepalive: u64) -> bool {
        self.upper.keepalives_answered >= keepalive
    }

    /// Sends `SSH_MSG_DEBUG` that asks to be displayed (RFC 4253 §11.3).
    pub fn send_debug(&mut self, text: &str) {
        if self.ended.is_none() && self.transport.session_id().is_some() {
            let mut message = Writer::message(msg::DEBUG);
            message.bool(true).string(text).string("");
            let sent = self.transport.send(message.as_slice()).map_err(Fault::from);
            self.settle(sent);
        }
    }
}
