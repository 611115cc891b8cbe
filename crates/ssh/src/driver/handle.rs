//! [`ConnectionHandle`]: events, opening channels, keepalives and the end of a connection.

use std::task::{Context, Poll};
use std::time::Instant;

use super::channel::Channel;
use super::question::{AuthQuestion, ForwardQuestion, OpenQuestion};
use crate::event::{Ended, OpenFailure, ServerOpen};
use crate::transport::{DisconnectReason, Negotiated};

/// What the application is told or asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The client wants to log in. One at a time: nothing else is read from the client until it is answered.
    Auth(AuthQuestion),
    /// The client wants to open a channel.
    Open(OpenQuestion),
    /// The client wants a listener, or to remove one. Requests that the core answers itself are not seen here.
    Global(ForwardQuestion),
    /// The connection is over. Always the last event, and given once.
    Ended(Ended),
}

/// Bytes moved over the socket, encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Read from the client.
    pub bytes_in: u64,
    /// Written to the client.
    pub bytes_out: u64,
}

/// A handle to a connection. When all handles are gone, new opens are refused, and the connection ends with its
/// last channel.
#[derive(Debug, Clone)]
pub struct ConnectionHandle {}

impl ConnectionHandle {
    /// The next event; `None` after [`Event::Ended`] was given.
    pub async fn next_event(&self) -> Option<Event> {
        todo!()
    }

    /// As [`next_event`](Self::next_event), for hand-written futures.
    pub fn poll_event(&self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        todo!()
    }

    /// Opens a channel towards the client.
    ///
    /// # Errors
    /// The client's refusal, or one of our own when the limit of channels is reached or the connection has ended.
    pub async fn open(&self, kind: ServerOpen) -> Result<Channel, OpenFailure> {
        todo!()
    }

    /// Sends `SSH_MSG_DISCONNECT` after what is already in the output, and ends the connection. The text is shown to
    /// the user by stock clients.
    pub fn disconnect(&self, reason: DisconnectReason, text: &str) {
        todo!()
    }

    /// Sends `keepalive@openssh.com` with want-reply and waits for the answer, either of which will do. The caller
    /// brings the deadline.
    ///
    /// # Errors
    /// The connection ended meanwhile.
    pub async fn keepalive(&self) -> Result<(), Ended> {
        todo!()
    }

    /// Waits for the end of the connection.
    pub async fn ended(&self) -> Ended {
        todo!()
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn try_ended(&self) -> Option<Ended> {
        todo!()
    }

    /// From now on the core refuses opens of the client by itself with this text (drain).
    pub fn refuse_opens(&self, failure: OpenFailure) {
        todo!()
    }

    /// The number of channels that exist or are being opened.
    #[must_use]
    pub fn channels(&self) -> usize {
        todo!()
    }

    /// Waits until there are no channels (drain), or the connection has ended.
    pub async fn no_channels(&self) {
        todo!()
    }

    /// When channel data last went either way, or a channel was opened; the start of the connection before that.
    #[must_use]
    pub fn last_activity(&self) -> Instant {
        todo!()
    }

    /// When bytes last came from the client, of any kind. For finding dead peers.
    #[must_use]
    pub fn last_received(&self) -> Instant {
        todo!()
    }

    /// Bytes over the socket.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        todo!()
    }

    /// What was negotiated and the client's version; `None` before the first key exchange.
    #[must_use]
    pub fn negotiated(&self) -> Option<Negotiated> {
        todo!()
    }

    /// True after the client has logged in.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        todo!()
    }

    /// Sends `SSH_MSG_DEBUG` with always-display. OpenSSH shows it with `-v` only.
    pub fn send_debug(&self, text: &str) {
        todo!()
    }

    /// Begins a key exchange now.
    pub fn rekey(&self) {
        todo!()
    }
}
