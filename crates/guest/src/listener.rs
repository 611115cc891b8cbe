//! A listener in the guest, and the connections that it announces.

use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use sandgate_wire::message::Listening;
use tokio::net::TcpStream;

use crate::direct::Doors;
use crate::shared::{Handle, park};
use crate::{Connection, Guest, GuestError, Peer};

/// A listener inside the guest. Dropping it ends it; connections that were accepted live on.
pub struct Listener {
    kind: Kind,
}

enum Kind {
    Agent {
        guest: Guest,
        handle: Arc<Handle>,
        at: Listening,
    },
    /// Without the agent.
    Direct(Doors),
}

/// Somebody has connected to a [`Listener`]. Dropped without [`Incoming::accept`], the connection is closed in the guest at once.
pub struct Incoming {
    /// Who it is, as the guest says.
    pub peer: Peer,
    from: From,
}

enum From {
    Agent(Announced),
    /// Taken already.
    Direct(TcpStream),
}

/// A connection that waits with the agent.
struct Announced {
    guest: Guest,
    id: u64,
    /// Not a reason for the listener to live.
    listener: Weak<Handle>,
    accepted: bool,
}

impl Listener {
    pub(crate) fn new(guest: Guest, handle: Handle, at: Listening) -> Self {
        Self { kind: Kind::Agent { guest, handle: Arc::new(handle), at } }
    }

    pub(crate) fn direct(doors: Doors) -> Self {
        Self { kind: Kind::Direct(doors) }
    }

    /// The TCP port; 0 for a Unix socket.
    pub fn port(&self) -> u16 {
        match &self.kind {
            Kind::Agent { at, .. } => at.port,
            Kind::Direct(doors) => doors.port(),
        }
    }

    /// The path of the Unix socket inside the guest; empty for TCP.
    pub fn path(&self) -> &[u8] {
        match &self.kind {
            Kind::Agent { at, .. } => &at.path,
            Kind::Direct(_) => &[],
        }
    }

    /// Waits for somebody to connect. An error means that the listener has ended.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming, GuestError>> {
        let (guest, handle) = match &mut self.kind {
            Kind::Direct(doors) => {
                let taken = doors.poll_accept(cx);
                return taken.map_ok(|(stream, peer)| Incoming { peer, from: From::Direct(stream) });
            }
            Kind::Agent { guest, handle, .. } => (guest, handle),
        };
        let mut state = handle.shared.lock();
        if let Some(announced) = state.incoming.as_mut().and_then(|queue| queue.pop_front()) {
            let from = Announced {
                guest: guest.clone(),
                id: announced.id,
                listener: Arc::downgrade(handle),
                accepted: false,
            };
            return Poll::Ready(Ok(Incoming { peer: announced.peer, from: From::Agent(from) }));
        }
        if let Some(error) = &state.lost {
            return Poll::Ready(Err(error.clone()));
        }
        park(&mut state.output_waker, cx);
        Poll::Pending
    }

    /// See [`Self::poll_accept`].
    pub async fn accept(&mut self) -> Result<Incoming, GuestError> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }
}

impl Incoming {
    /// Takes the connection, over a link of its own. The agent gives up connections that nobody takes within 30 s,
    /// but for those to an agent socket, which wait for as long as the listener is there.
    pub async fn accept(self) -> Result<Connection, GuestError> {
        match self.from {
            From::Direct(stream) => Ok(Connection::direct(stream)),
            From::Agent(mut announced) => {
                let connection = announced.guest.take_incoming(announced.id).await?;
                announced.accepted = true;
                Ok(connection)
            }
        }
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        if !self.accepted
            && let Some(handle) = self.listener.upgrade()
        {
            // A listener that is gone or stuck closes its connections anyway.
            let _ = handle.shared.control(|state| {
                let id = state.stream;
                state.mux.send_unwanted(id, self.id);
            });
        }
    }
}
