//! The transport layer of the server (RFC 4253, RFC 8308, OpenSSH PROTOCOL §1), without I/O and without a clock.
//!
//! Bytes from the socket go straight into [`Transport::input_space`]; [`Transport::poll_payload`] decrypts one packet in
//! place and lends it out. Messages of the transport itself never reach the caller. What is to be sent is sealed in place
//! in one output buffer, many packets to a write.
//!
//! **Key exchange** has two halves that end apart. Ours runs from our KEXINIT to our NEWKEYS, and [`Sender`] holds
//! upper-layer messages back in between. The peer's runs from its KEXINIT to its NEWKEYS. Either side may begin; both
//! may at the same time. After the first exchange we accept upper-layer messages at any point of the peer's half:
//! RFC 4253 §7.1 forbids it to send them, some clients do, sshd takes them, and they are protected by keys that are
//! still valid.
//!
//! **Strict key exchange** (OpenSSH PROTOCOL §1.10) closes the prefix truncation attack known as Terrapin: when both
//! sides offer it, the first exchange may contain nothing but key exchange messages, and sequence numbers begin again at
//! zero with every NEWKEYS.

mod config;
mod error;
mod exchange;
mod identification;
mod kexinit;
pub(crate) mod messages;
mod proof;
mod receiver;
mod sender;

use std::io::IoSliceMut;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::algorithm::HostKeyAlgorithm;
use crate::codec::Reader;
pub use crate::packet::MAX_PAYLOAD;
pub use config::{Compatibility, Config};
pub use error::{DisconnectReason, Error};
use exchange::Exchange;
use messages::*;
use receiver::Receiver;
pub use sender::{OUTPUT_LIMIT, Sender};

/// The longest text of a peer's `SSH_MSG_DISCONNECT` that is kept, in characters.
const MAX_DISCONNECT_TEXT: usize = 255;

/// One decrypted upper-layer message, borrowed from the input buffer.
#[derive(Debug, Clone, Copy)]
pub struct Payload<'a> {
    /// The message with its number as first byte; never empty.
    pub data: &'a [u8],
    /// The packet's sequence number, for `SSH_MSG_UNIMPLEMENTED`.
    pub sequence: u32,
    /// Where the message is in the storage of the input, until more input is read; see [`Transport::exchange_storage`].
    pub(crate) position: usize,
}

impl<'a> Payload<'a> {
    /// The message number.
    #[must_use]
    pub fn kind(&self) -> u8 {
        self.data.first().copied().unwrap_or(0)
    }

    /// What follows the message number.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.data.get(1..).unwrap_or_default()
    }
}

/// What was agreed in a key exchange, for logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// The key exchange method.
    pub kex: &'static str,
    /// The host key signature algorithm.
    pub host_key: &'static str,
    /// The cipher from client to server.
    pub cipher_in: &'static str,
    /// The cipher from server to client.
    pub cipher_out: &'static str,
    /// The MAC from client to server; `<implicit>` with an AEAD cipher.
    pub mac_in: &'static str,
    /// The MAC from server to client; `<implicit>` with an AEAD cipher.
    pub mac_out: &'static str,
    /// Strict key exchange is in force.
    pub strict: bool,
    /// The client's identification line, with everything but printable ASCII replaced.
    pub client_version: String,
}

/// How far the connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The client's identification line has not arrived.
    Identification,
    /// The first key exchange runs.
    FirstExchange,
    /// Keys are in use in both directions.
    Established,
}

/// The server side of one SSH transport.
#[derive(Debug)]
pub struct Transport {
    config: Arc<Config>,
    sender: Sender,
    receiver: Receiver,
    phase: Phase,
    exchange: Exchange,
    strict: bool,
    client_version: Vec<u8>,
    server_version: Vec<u8>,
    session_id: Vec<u8>,
    host_key_blob: Vec<u8>,
    /// How RSA host keys are proved to this client.
    rsa_algorithm: HostKeyAlgorithm,
    negotiated: Option<Negotiated>,
    handshake_deadline: Instant,
    /// When the keys are old enough for another exchange; `None` when no such time can be told.
    rekey_at: Option<Instant>,
}

impl Transport {
    /// A transport for a connection accepted at `now`. Our identification line is in the output at once.
    #[must_use]
    pub fn new(config: Arc<Config>, now: Instant) -> Self {
        let server_version = format!("SSH-2.0-{}", config.software_version).into_bytes();
        let mut sender = Sender::new(Arc::clone(&config));
        sender.raw(&server_version);
        sender.raw(b"\r\n");
        Self {
            handshake_deadline: now.checked_add(config.handshake_timeout).unwrap_or(now),
            config,
            sender,
            receiver: Receiver::new(),
            phase: Phase::Identification,
            exchange: Exchange::Idle,
            strict: false,
            client_version: Vec::new(),
            server_version,
            session_id: Vec::new(),
            host_key_blob: Vec::new(),
            rsa_algorithm: HostKeyAlgorithm::RsaSha512,
            negotiated: None,
            rekey_at: None,
        }
    }

    /// Room for bytes from the socket; never empty. Payloads lent out before are gone.
    pub fn input_space(&mut self) -> &mut [u8] {
        self.receiver.space()
    }

    /// Says how many bytes were put into [`Transport::input_space`].
    pub fn commit_input(&mut self, len: usize) {
        self.receiver.commit(len);
    }

    /// Works on the input until an upper-layer message (5, 6, 50–127) is found. `Ok(None)` means that more input is needed.
    ///
    /// # Errors
    /// Every error ends the connection. The matching `SSH_MSG_DISCONNECT` is already in the output: write it, then close.
    pub fn poll_payload(&mut self, now: Instant) -> Result<Option<Payload<'_>>, Error> {
        Ok(self.poll_payload_split(now)?.map(|(payload, _)| payload))
    }

    /// As [`Transport::poll_payload`], and lends the sending half beside the payload, so that an answer can be written
    /// without copying the question.
    ///
    /// # Errors
    /// As [`Transport::poll_payload`].
    pub fn poll_payload_split(&mut self, now: Instant) -> Result<Option<(Payload<'_>, &mut Sender)>, Error> {
        if self.sender.is_closed() {
            return Err(Error::Closed);
        }
        match self.advance(now) {
            Ok(None) => Ok(None),
            Ok(Some(packet)) => {
                let position = Receiver::position(&packet);
                let payload =
                    Payload { data: self.receiver.payload(&packet), sequence: packet.sequence, position };
                Ok(Some((payload, &mut self.sender)))
            }
            Err(error) => {
                self.fail(&error);
                Err(error)
            }
        }
    }

    /// How large the storage of the input is, in bytes.
    pub(crate) const fn storage_size(&self) -> usize {
        self.receiver.storage_size()
    }

    /// What lies in the storage: messages that were given out since input was read last.
    pub(crate) fn storage(&self, range: Range<usize>) -> &[u8] {
        self.receiver.storage(range)
    }

    /// Gives the storage away with all messages that were given out of it, so that nobody need copy them, and goes on with `fresh`.
    pub(crate) fn exchange_storage(&mut self, fresh: Vec<u8>) -> Vec<u8> {
        self.receiver.exchange_storage(fresh)
    }

    /// The sending half.
    pub const fn sender(&mut self) -> &mut Sender {
        &mut self.sender
    }

    /// See [`Sender::send`].
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub fn send(&mut self, payload: &[u8]) -> Result<(), Error> {
        self.sender.send(payload)
    }

    /// See [`Sender::send_data`].
    ///
    /// # Errors
    /// As [`Sender::send_data`].
    pub fn send_data<E: From<Error>>(
        &mut self,
        head: &[u8],
        each: usize,
        total: usize,
        fill: impl FnOnce(&mut [IoSliceMut<'_>]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        self.sender.send_data(head, each, total, fill)
    }

    /// Bytes to be written to the socket.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        self.sender.output().bytes()
    }

    /// Says how many bytes of [`Transport::output`] were written.
    pub fn consume_output(&mut self, len: usize) {
        self.sender.output_mut().consume(len);
    }

    /// Bytes waiting to be written to the socket.
    #[must_use]
    pub const fn output_len(&self) -> usize {
        self.sender.output_len()
    }

    /// See [`Sender::can_send_data`].
    #[must_use]
    pub fn can_send_data(&self) -> bool {
        self.sender.can_send_data()
    }

    /// When [`Transport::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.sender.is_closed() {
            None
        } else if self.phase == Phase::Established {
            self.rekey_at
        } else {
            Some(self.handshake_deadline)
        }
    }

    /// Does what is due at `now`: begins a key exchange, or gives the handshake up.
    ///
    /// # Errors
    /// [`Error::HandshakeTimeout`], or an error of [`Sender::send`]; both end the connection.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        if self.sender.is_closed() {
            return Ok(());
        }
        if self.phase != Phase::Established {
            if now < self.handshake_deadline {
                return Ok(());
            }
            self.fail(&Error::HandshakeTimeout);
            return Err(Error::HandshakeTimeout);
        }
        if self.rekey_at.is_some_and(|at| now >= at) {
            self.rekey_now()?;
        }
        Ok(())
    }

    /// Begins a key exchange, unless one is running or the first is not over.
    ///
    /// # Errors
    /// An error of [`Sender::send`], which ends the connection.
    pub fn rekey_now(&mut self) -> Result<(), Error> {
        if self.phase != Phase::Established {
            return Ok(());
        }
        self.rekey_at = None;
        self.sender.begin_exchange().inspect_err(|error| self.sender.fail(error))
    }

    /// The session identifier: the exchange hash of the first key exchange. `None` before that has been made.
    #[must_use]
    pub fn session_id(&self) -> Option<&[u8]> {
        (!self.session_id.is_empty()).then_some(self.session_id.as_slice())
    }

    /// True once keys are in use in both directions.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.phase == Phase::Established
    }

    /// What was agreed in the last key exchange.
    #[must_use]
    pub const fn negotiated(&self) -> Option<&Negotiated> {
        self.negotiated.as_ref()
    }

    /// See [`Sender::disconnect`].
    pub fn disconnect(&mut self, reason: DisconnectReason, text: &str) {
        self.sender.disconnect(reason, text);
    }

    /// Ends the connection because of `error`, telling the peer where the protocol allows it.
    pub fn fail(&mut self, error: &Error) {
        if self.phase == Phase::Identification && !self.sender.is_closed() {
            // No packets yet: whoever is there reads lines at best, so sshd answers in one as well.
            self.sender.raw(format!("{error}\r\n").as_bytes());
            self.sender.close();
        } else {
            self.sender.fail(error);
        }
    }

    /// The public key blob of the host key used in the first key exchange (`publickey-hostbound-v00@openssh.com`).
    #[must_use]
    pub fn host_key_blob(&self) -> Option<&[u8]> {
        (!self.host_key_blob.is_empty()).then_some(self.host_key_blob.as_slice())
    }

    /// Frees the buffers that hold nothing; call it when the connection falls idle. They come back with the next byte.
    pub fn release_idle_memory(&mut self) {
        self.receiver.release();
        self.sender.release_idle_memory();
    }

    fn advance(&mut self, now: Instant) -> Result<Option<receiver::Packet>, Error> {
        if self.phase == Phase::Identification {
            let Some(id) = identification::read(self.receiver.bytes())? else { return Ok(None) };
            self.receiver.skip(id.consumed);
            self.client_version = id.line;
            self.phase = Phase::FirstExchange;
            self.sender.begin_exchange()?;
        }
        while let Some(packet) = self.receiver.next_packet()? {
            if self.phase == Phase::Established {
                if self.receiver.is_due() {
                    self.sender.begin_exchange()?;
                }
                if is_for_upper_layer(packet.kind) {
                    return Ok(Some(packet));
                }
            }
            self.handle(&packet, now)?;
        }
        Ok(None)
    }

    fn handle(&mut self, packet: &receiver::Packet, now: Instant) -> Result<(), Error> {
        let kind = packet.kind;
        let first = self.phase == Phase::FirstExchange;
        if first
            && self.strict
            && !matches!(kind, MSG_DISCONNECT | MSG_NEWKEYS)
            && !KEX_METHOD.contains(&kind)
        {
            return Err(Error::StrictKexViolation(kind));
        }
        match kind {
            MSG_DISCONNECT => Err(disconnected(self.receiver.payload(packet))),
            MSG_IGNORE | MSG_DEBUG | MSG_UNIMPLEMENTED => {
                tracing::trace!(kind, "transport message ignored");
                Ok(())
            }
            MSG_KEXINIT => self.on_kexinit(packet),
            MSG_NEWKEYS => self.on_newkeys(packet, now),
            _ if KEX_METHOD.contains(&kind) => self.on_method(packet),
            MSG_EXT_INFO | MSG_PONG if !first => Ok(()),
            MSG_PING if !first => self.on_ping(packet),
            MSG_EXT_INFO | MSG_PING | MSG_PONG => Err(Error::UnexpectedMessage(kind)),
            _ if is_for_upper_layer(kind) => Err(Error::UnexpectedMessage(kind)),
            _ => self.sender.send_unimplemented(packet.sequence),
        }
    }

    /// OpenSSH PROTOCOL §1.12: the answer carries the data of the question.
    fn on_ping(&mut self, packet: &receiver::Packet) -> Result<(), Error> {
        let mut question = Reader::new(self.receiver.payload(packet).get(1..).unwrap_or_default());
        let mut answer = crate::codec::Writer::message(MSG_PONG);
        answer.string(question.string()?);
        self.sender.send(answer.as_slice())
    }
}

impl Sender {
    /// Ends the connection because of `error`, telling the peer where the protocol allows it.
    pub(super) fn fail(&mut self, error: &Error) {
        match error.disconnect_reason() {
            Some(reason) if !self.is_closed() => self.disconnect(reason, &error.to_string()),
            _ => self.close(),
        }
    }
}

fn is_for_upper_layer(kind: u8) -> bool {
    matches!(kind, MSG_SERVICE_REQUEST | MSG_SERVICE_ACCEPT) || UPPER_LAYER.contains(&kind)
}

/// Reads `SSH_MSG_DISCONNECT`; a malformed one means the same.
fn disconnected(payload: &[u8]) -> Error {
    let mut r = Reader::new(payload.get(1..).unwrap_or_default());
    let reason = r.u32().unwrap_or(0);
    let text = String::from_utf8_lossy(r.string().unwrap_or_default())
        .chars()
        .take(MAX_DISCONNECT_TEXT)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    Error::Disconnected { reason, text }
}

#[cfg(test)]
mod tests;
