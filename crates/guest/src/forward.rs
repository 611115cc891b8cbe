//! Connecting and listening inside the guest.

use std::sync::Arc;
use std::time::Duration;

use sandgate_wire::message::{Accept, Dial, Listen, MAX_HOST, MAX_SOCKET_PATH, Open, Opened};
pub use sandgate_wire::message::{Address, ListenAddress, Peer};
use sandgate_wire::{CAP_DIAL, CAP_LISTEN};

use crate::direct;
use crate::guest::{MakePipes, lacks, wrong_answer};
use crate::pipes::{self, ConnectionEnds};
use crate::shared::Handle;
use crate::{Connection, Guest, GuestError, Listener};

/// How long the agent tries to connect before it says no, from the request on (see `docs/wire.md`). The answer may take this long
/// and the time of any other answer.
pub(crate) const CONNECT_TIME: Duration = Duration::from_secs(30);
/// What an agent from before these requests is told apart by.
const TOO_OLD: GuestError =
    GuestError::Limit("its agent is too old to forward connections; restart the sandbox");

/// Something to connect to in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialSpec {
    /// As whom: login name, `uid` or `uid:gid`; `None` for the agent's default user. Decides what Unix sockets can be reached and
    /// whom the other side sees.
    pub user: Option<Vec<u8>>,
    /// Where to. Names are resolved inside the guest.
    pub address: Address,
}

impl DialSpec {
    /// A TCP port.
    pub fn tcp(host: impl Into<Vec<u8>>, port: u16) -> Self {
        Self { user: None, address: Address::Tcp { host: host.into(), port } }
    }

    /// A Unix socket.
    pub fn unix(path: impl Into<Vec<u8>>) -> Self {
        Self { user: None, address: Address::Unix { path: path.into() } }
    }
}

/// Somewhere to listen in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenSpec {
    /// As whom: login name, `uid` or `uid:gid`; `None` for the agent's default user.
    pub user: Option<Vec<u8>>,
    /// Where.
    pub address: ListenAddress,
    /// Connections that wait in the guest's kernel before they are announced; 0 for the default (128).
    pub backlog: u32,
}

/// Permission bits that the socket of [`ListenSpec::unix`] does not get: as sshd's StreamLocalBindMask.
const BIND_MASK: u32 = 0o177;

impl ListenSpec {
    /// A TCP port. `host` as in RFC 4254 section 7.1; port 0 lets the guest's kernel choose.
    pub fn tcp(host: impl Into<Vec<u8>>, port: u16) -> Self {
        Self { user: None, address: ListenAddress::Tcp { host: host.into(), port }, backlog: 0 }
    }

    /// A Unix socket for its owner alone; what is at the path stays, and is an error.
    pub fn unix(path: impl Into<Vec<u8>>) -> Self {
        let address = ListenAddress::Unix { path: path.into(), mask: BIND_MASK, unlink: false };
        Self { user: None, address, backlog: 0 }
    }

    /// A socket for a forwarded agent, in a new directory that only the login user can enter.
    pub fn agent_socket() -> Self {
        Self { user: None, address: ListenAddress::AgentSocket, backlog: 0 }
    }
}

impl Guest {
    /// Connects to something inside the guest; returns when that has succeeded or failed. What failed in the guest is
    /// [`GuestError::Network`], with the words that sshd would use. Dialing the *agent* is retried as for [`Guest::exec`].
    pub async fn dial(&self, spec: DialSpec) -> Result<Connection, GuestError> {
        match &spec.address {
            Address::Tcp { host, .. } => check(host, MAX_HOST, "the host name is too long")?,
            Address::Unix { path } => check(path, MAX_SOCKET_PATH, "the path of the socket is too long")?,
        }
        if let Address::Tcp { host, port } = &spec.address
            && let Some(result) = direct::connect(self.way(), host, *port).await
        {
            return result.map(Connection::direct);
        }
        let DialSpec { user, address } = spec;
        let open = |passed_stdio| Open::Dial(Dial { passed_stdio, user, address });
        let (handle, ends) = self.start(Some(pipes::make_two as MakePipes<ConnectionEnds>), open).await?;
        match self.answer(&handle, CONNECT_TIME.saturating_add(self.open_deadline())).await {
            Ok(Opened::Dial { passed_stdio }) => self.connected(handle, ends, passed_stdio),
            Ok(_) => Err(wrong_answer()),
            Err(_) if lacks(&handle, CAP_DIAL) => Err(TOO_OLD),
            Err(error) => Err(error),
        }
    }

    /// Listens inside the guest until the [`Listener`] is dropped. Nothing listens on the host.
    pub async fn listen(&self, spec: ListenSpec) -> Result<Listener, GuestError> {
        match &spec.address {
            ListenAddress::Tcp { host, .. } => check(host, MAX_HOST, "the host name is too long")?,
            ListenAddress::Unix { path, .. } => {
                check(path, MAX_SOCKET_PATH, "the path of the socket is too long")?;
            }
            ListenAddress::AgentSocket => {}
        }
        if let ListenAddress::Tcp { host, port } = &spec.address
            && let Some(result) = direct::listen(self.way(), host, *port, spec.backlog).await
        {
            return result.map(Listener::direct);
        }
        let ListenSpec { user, address, backlog } = spec;
        let open = |_| Open::Listen(Listen { user, address, backlog });
        let (handle, _) = self.start(None::<MakePipes<()>>, open).await?;
        match self.answer(&handle, self.open_deadline()).await {
            Ok(Opened::Listen(listening)) => Ok(Listener::new(self.clone(), handle, listening)),
            Ok(_) => Err(wrong_answer()),
            Err(_) if lacks(&handle, CAP_LISTEN) => Err(TOO_OLD),
            Err(error) => Err(error),
        }
    }

    /// Takes a connection that was announced.
    pub(crate) async fn take_incoming(&self, id: u64) -> Result<Connection, GuestError> {
        let open = |passed_stdio| Open::Accept(Accept { passed_stdio, id });
        let (handle, ends) = self.start(Some(pipes::make_two as MakePipes<ConnectionEnds>), open).await?;
        match self.answer(&handle, self.open_deadline()).await? {
            Opened::Accept { passed_stdio } => self.connected(handle, ends, passed_stdio),
            _ => Err(wrong_answer()),
        }
    }

    fn connected(
        &self,
        handle: Handle,
        ends: Option<ConnectionEnds>,
        passed: bool,
    ) -> Result<Connection, GuestError> {
        match ends {
            Some(ends) if passed => Ok(Connection::new(Arc::new(handle), Some(ends))),
            None if passed => Err(wrong_answer()),
            _ => {
                self.pipes_were_not_taken(&handle);
                Ok(Connection::new(Arc::new(handle), None))
            }
        }
    }
}

fn check(text: &[u8], max: usize, too_long: &'static str) -> Result<(), GuestError> {
    if text.contains(&0) {
        return Err(GuestError::Limit("an address must not contain a NUL byte"));
    }
    if text.len() > max { Err(GuestError::Limit(too_long)) } else { Ok(()) }
}

// Callers spawn these futures on a multi-threaded runtime.
const _: fn(&Guest, DialSpec, ListenSpec) = |guest, dial, listen| {
    fn is_send<T: Send>(_: T) {}
    is_send(guest.dial(dial));
    is_send(guest.listen(listen));
};
