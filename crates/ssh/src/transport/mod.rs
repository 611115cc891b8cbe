//! The transport layer of the server (RFC 4253, RFC 8308). Skeleton: signatures are final, bodies follow.
#![expect(clippy::todo, clippy::missing_errors_doc, missing_docs, reason = "skeleton")]

mod config;
mod error;

use std::sync::Arc;
use std::time::Instant;

pub use config::{Compatibility, Config};
pub use error::{DisconnectReason, Error};

/// One decrypted upper-layer message, borrowed from the input buffer.
#[derive(Debug, Clone, Copy)]
pub struct Payload<'a> {
    /// The message with its number as first byte; never empty.
    pub data: &'a [u8],
    /// The packet's sequence number, for `SSH_MSG_UNIMPLEMENTED`.
    pub sequence: u32,
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

/// What was agreed, for logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    pub kex: &'static str,
    pub host_key: &'static str,
    pub cipher_in: &'static str,
    pub cipher_out: &'static str,
    pub mac_in: &'static str,
    pub mac_out: &'static str,
    pub strict: bool,
    pub client_version: String,
}

/// The sending half: everything that may be called while a [`Payload`] is still borrowed.
#[derive(Debug)]
pub struct Sender {
    _private: (),
}

impl Sender {
    /// Sends a small message. Held back (bounded) while a key exchange runs.
    pub fn send(&mut self, _payload: &[u8]) -> Result<(), Error> {
        todo!()
    }

    /// Reserves `max_len` bytes in the output, lets `fill` write a payload there and seals it in place. `Ok(0)` from
    /// `fill` sends nothing. Fails with [`Error::Rekeying`] when [`Sender::can_send_data`] is false.
    pub fn send_with<E: From<Error>>(
        &mut self,
        _max_len: usize,
        _fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        todo!()
    }

    /// False before the first key exchange is done and while a later one holds upper-layer messages back.
    #[must_use]
    pub fn can_send_data(&self) -> bool {
        todo!()
    }

    /// Bytes waiting to be written to the socket.
    #[must_use]
    pub fn output_len(&self) -> usize {
        todo!()
    }

    /// Answers `sequence` with `SSH_MSG_UNIMPLEMENTED`.
    pub fn send_unimplemented(&mut self, _sequence: u32) -> Result<(), Error> {
        todo!()
    }

    /// Queues `SSH_MSG_DISCONNECT`; nothing can be sent afterwards.
    pub fn disconnect(&mut self, _reason: DisconnectReason, _text: &str) {
        todo!()
    }
}

/// The server side of one SSH transport.
#[derive(Debug)]
pub struct Transport {
    sender: Sender,
}

impl Transport {
    #[must_use]
    pub fn new(_config: Arc<Config>, _now: Instant) -> Self {
        todo!()
    }

    /// Room for bytes from the socket; never empty.
    pub fn input_space(&mut self) -> &mut [u8] {
        todo!()
    }

    /// Says how many bytes were put into [`Transport::input_space`].
    pub fn commit_input(&mut self, _len: usize) {
        todo!()
    }

    /// Works on the input. `Ok(None)` means that more input is needed.
    pub fn poll_payload(&mut self, _now: Instant) -> Result<Option<Payload<'_>>, Error> {
        todo!()
    }

    /// As [`Transport::poll_payload`], and gives the sending half beside the borrowed payload.
    pub fn poll_payload_split(&mut self, _now: Instant) -> Result<Option<(Payload<'_>, &mut Sender)>, Error> {
        todo!()
    }

    /// The sending half.
    pub const fn sender(&mut self) -> &mut Sender {
        &mut self.sender
    }

    /// See [`Sender::send`].
    pub fn send(&mut self, payload: &[u8]) -> Result<(), Error> {
        self.sender.send(payload)
    }

    /// See [`Sender::send_with`].
    pub fn send_with<E: From<Error>>(
        &mut self,
        max_len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        self.sender.send_with(max_len, fill)
    }

    /// Bytes to be written to the socket.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        todo!()
    }

    /// Says how many bytes of [`Transport::output`] were written.
    pub fn consume_output(&mut self, _len: usize) {
        todo!()
    }

    /// Bytes waiting to be written to the socket.
    #[must_use]
    pub fn output_len(&self) -> usize {
        self.sender.output_len()
    }

    /// See [`Sender::can_send_data`].
    #[must_use]
    pub fn can_send_data(&self) -> bool {
        self.sender.can_send_data()
    }

    /// When [`Transport::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }

    /// Does what is due at `now`: begins a key exchange, or fails with [`Error::HandshakeTimeout`].
    pub fn handle_timeout(&mut self, _now: Instant) -> Result<(), Error> {
        todo!()
    }

    /// Begins a key exchange, unless one is running.
    pub fn rekey_now(&mut self) -> Result<(), Error> {
        todo!()
    }

    /// The session identifier: the first exchange hash. `None` before the first key exchange is done.
    #[must_use]
    pub fn session_id(&self) -> Option<&[u8]> {
        todo!()
    }

    /// What was agreed in the last key exchange.
    #[must_use]
    pub fn negotiated(&self) -> Option<&Negotiated> {
        todo!()
    }

    /// See [`Sender::disconnect`].
    pub fn disconnect(&mut self, reason: DisconnectReason, text: &str) {
        self.sender.disconnect(reason, text);
    }

    /// The public key blob of the host key used in the first key exchange (for `publickey-hostbound-v00@openssh.com`).
    #[must_use]
    pub fn host_key_blob(&self) -> Option<&[u8]> {
        todo!()
    }

    /// The whole payload of the `hostkeys-00@openssh.com` global request (OpenSSH PROTOCOL §2.5).
    #[must_use]
    pub fn host_keys_announcement(&self) -> Vec<u8> {
        todo!()
    }

    /// The reply (whole payload, `SSH_MSG_REQUEST_SUCCESS`) to `hostkeys-prove-00@openssh.com`; `request` is what follows
    /// want-reply. `None` means that the request must be answered with failure.
    #[must_use]
    pub fn host_keys_proof(&self, _request: &[u8]) -> Option<Vec<u8>> {
        todo!()
    }

    /// Gives back buffer memory when nothing is buffered; call when the connection is idle.
    pub fn release_idle_memory(&mut self) {
        todo!()
    }
}
