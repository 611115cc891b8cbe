//! [`ConnectionHandle`]: events, opening channels, keepalives and the end of a connection.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::channel::Channel;
use super::question::{AuthQuestion, ForwardQuestion, OpenQuestion};
use super::shared::Shared;
use crate::connection::{self, ChannelId, Opened};
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
pub struct ConnectionHandle {
    handle: Arc<Handle>,
}

/// Lives as long as any [`ConnectionHandle`].
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.with(|state| state.orphaned = true);
    }
}

/// A channel on its way; let go of if the application stops waiting.
struct Opening<'a> {
    shared: &'a Arc<Shared>,
    id: Option<ChannelId>,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.shared.with(|state| state.connection.abandon(id));
        }
    }
}

impl ConnectionHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { handle: Arc::new(Handle { shared }) }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// The next event; `None` after [`Event::Ended`] was given.
    pub async fn next_event(&self) -> Option<Event> {
        std::future::poll_fn(|cx| self.poll_event(cx)).await
    }

    /// As [`next_event`](Self::next_event), for hand-written futures.
    pub fn poll_event(&self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        // Questions lock when they are dropped, so they are made outside of the lock.
        let found = self.shared().with(|state| {
            if let Some(event) = state.connection.poll_event() {
                return Poll::Ready(Some(Ok(event)));
            }
            match state.connection.ended() {
                Some(_) if state.end_told => Poll::Ready(None),
                Some(ended) => {
                    state.end_told = true;
                    Poll::Ready(Some(Err(ended.clone())))
                }
                None => {
                    state.events.register(cx);
                    Poll::Pending
                }
            }
        });
        found.map(|event| {
            Some(match event? {
                Ok(connection::Event::Auth(request)) => {
                    Event::Auth(AuthQuestion::new(Arc::clone(self.shared()), request))
                }
                Ok(connection::Event::Open { channel, kind }) => {
                    Event::Open(OpenQuestion::new(Arc::clone(self.shared()), channel, kind))
                }
                Ok(connection::Event::Forward { id, request }) => {
                    Event::Global(ForwardQuestion::new(Arc::clone(self.shared()), id, request))
                }
                Err(ended) => Event::Ended(ended),
            })
        })
    }

    /// Opens a channel towards the client.
    ///
    /// # Errors
    /// The client's refusal, or one of our own when the limit of channels is reached or the connection has ended.
    pub async fn open(&self, kind: ServerOpen) -> Result<Channel, OpenFailure> {
        let id = self.shared().with(|state| state.connection.open(&kind))?;
        let mut opening = Opening { shared: self.shared(), id: Some(id) };
        let opened = self
            .shared()
            .wait_for(|state| match state.connection.opened(id) {
                Opened::Pending => None,
                Opened::Yes => Some(Ok(())),
                Opened::No(failure) => Some(Err(failure)),
            })
            .await;
        opening.id = None;
        opened.map(|()| Channel::new(self.shared(), id))
    }

    /// Sends `SSH_MSG_DISCONNECT` after what is already in the output, and ends the connection. The text is shown to
    /// the user by stock clients.
    pub fn disconnect(&self, reason: DisconnectReason, text: &str) {
        self.shared().with(|state| state.connection.disconnect(reason, text));
    }

    /// Sends `keepalive@openssh.com` with want-reply and waits for the answer, either of which will do. The caller
    /// brings the deadline. Before the login there is nothing to ask, and this returns at once.
    ///
    /// # Errors
    /// The connection ended meanwhile.
    pub async fn keepalive(&self) -> Result<(), Ended> {
        let number = self.shared().with(|state| state.connection.send_keepalive());
        self.shared()
            .wait_for(|state| {
                if let Some(ended) = state.connection.ended() {
                    return Some(Err(ended.clone()));
                }
                state.connection.is_answered(number).then_some(Ok(()))
            })
            .await
    }

    /// Waits for the end of the connection.
    pub async fn ended(&self) -> Ended {
        self.shared().wait_for(|state| state.connection.ended().cloned()).await
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn try_ended(&self) -> Option<Ended> {
        self.shared().with(|state| state.connection.ended().cloned())
    }

    /// From now on the core refuses opens of the client by itself with this text (drain).
    pub fn refuse_opens(&self, failure: OpenFailure) {
        self.shared().with(|state| state.connection.refuse_opens(failure));
    }

    /// The number of channels that exist or are being opened. A channel counts until it is closed by both sides and the
    /// application has dropped its halves.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.shared().with(|state| state.connection.channels())
    }

    /// Waits until there are no channels (drain), or the connection has ended.
    pub async fn no_channels(&self) {
        let check = |connection: &connection::Connection| {
            (connection.channels() == 0 || connection.ended().is_some()).then_some(())
        };
        self.shared().wait_for(|state| check(&state.connection)).await;
    }

    /// When channel data last went either way, or a channel was opened; the start of the connection before that.
    #[must_use]
    pub fn last_activity(&self) -> Instant {
        self.shared().with(|state| state.last_activity)
    }

    /// When bytes last came from the client, of any kind. For finding dead peers.
    #[must_use]
    pub fn last_received(&self) -> Instant {
        self.shared().with(|state| state.last_received)
    }

    /// Bytes over the socket.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.shared().with(|state| state.traffic)
    }

    /// What was negotiated and the client's version; `None` before the first key exchange.
    #[must_use]
    pub fn negotiated(&self) -> Option<Negotiated> {
        self.shared().with(|state| state.connection.negotiated().cloned())
    }

    /// True after the client has logged in.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        self.shared().with(|state| state.connection.is_authenticated())
    }

    /// Sends `SSH_MSG_DEBUG` with always-display. OpenSSH shows it with `-v` only.
    pub fn send_debug(&self, text: &str) {
        self.shared().with(|state| state.connection.send_debug(text));
    }

    /// Begins a key exchange now.
    pub fn rekey(&self) {
        self.shared().with(|state| state.connection.rekey());
    }
}
