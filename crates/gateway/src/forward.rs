//! Forwards, whichever front door asks: may the principal, does the sandbox run, and then the dial or the listener inside it.
//!
//! Names are resolved in the guest and everything listens in the guest; the host has no part in it but to carry the bytes.

use std::fmt;

use sandgate_driver::NoProgress;
use sandgate_guest::{
    Address, Connection, DialSpec, Guest, GuestError, ListenAddress, ListenSpec, Listener, OpenFailure,
};
use sandgate_policy::{Action, Decision, Principal, decide};
use time::OffsetDateTime;

use crate::gateway::Gateway;
use crate::sandboxes::StartError;

/// Bytes of a client's host or path that a log line shows.
const SHOWN: usize = 256;

/// Somewhere to connect to or to listen on, as the client named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A TCP port.
    Tcp {
        /// Host or address.
        host: Vec<u8>,
        /// The port; for a listener 0 means any free one.
        port: u16,
    },
    /// A Unix socket.
    Unix {
        /// Its path.
        path: Vec<u8>,
    },
}

impl fmt::Display for Place {
    /// For logs: one line, whatever the client sent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| {
            String::from_utf8_lossy(bytes.get(..SHOWN).unwrap_or(bytes)).escape_debug().to_string()
        };
        match self {
            Place::Tcp { host, port } if host.contains(&b':') => write!(f, "[{}]:{port}", text(host)),
            Place::Tcp { host, port } => write!(f, "{}:{port}", text(host)),
            Place::Unix { path } => f.write_str(&text(path)),
        }
    }
}

/// Why there is no connection or listener. Every message is a text that the user may read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ForwardError {
    /// The principal may not do this.
    #[error("{0}")]
    Denied(String),
    /// The sandbox does not run and could not be started.
    #[error("{0}")]
    Sandbox(#[from] StartError),
    /// It failed inside the guest; the words are those of its kernel.
    #[error("{0}")]
    Guest(#[from] GuestError),
}

impl ForwardError {
    /// What kind of failure that is to a protocol that tells them apart.
    pub fn open_failure(&self) -> OpenFailure {
        match self {
            ForwardError::Denied(_) => OpenFailure::Prohibited,
            ForwardError::Sandbox(_) => OpenFailure::ConnectFailed,
            ForwardError::Guest(error) => error.open_failure(),
        }
    }
}

/// Connects inside the sandbox as the login user, after waking it. Returns when that has succeeded or failed.
///
/// # Errors
/// See [`ForwardError`].
pub async fn dial(
    gateway: &Gateway,
    principal: &Principal,
    place: &Place,
) -> Result<Connection, ForwardError> {
    permit(
        principal,
        match place {
            Place::Tcp { host, port } => principal.forward.connect_tcp(host, *port),
            Place::Unix { path } => principal.forward.connect_socket(path),
        },
    )?;
    let guest = gateway.sandboxes.ensure_running(&principal.sandbox_id, &NoProgress).await?;
    let address = match place.clone() {
        Place::Tcp { host, port } => Address::Tcp { host, port },
        Place::Unix { path } => Address::Unix { path },
    };
    let user = gateway.sandboxes.user_of(principal).await?;
    Ok(guest.dial(DialSpec { user, address }).await?)
}

/// A listener inside a sandbox that can be made again when its guest has ended it.
pub struct Listening {
    /// The listener.
    pub listener: Listener,
    guest: Guest,
    spec: ListenSpec,
}

/// Listens inside the sandbox as the login user, after waking it.
///
/// # Errors
/// See [`ForwardError`].
pub async fn listen(
    gateway: &Gateway,
    principal: &Principal,
    place: &Place,
) -> Result<Listening, ForwardError> {
    permit(
        principal,
        match place {
            Place::Tcp { host, port } => principal.forward.listen_tcp(host, *port),
            Place::Unix { path } => principal.forward.listen_socket(path),
        },
    )?;
    let guest = gateway.sandboxes.ensure_running(&principal.sandbox_id, &NoProgress).await?;
    let mut spec = match place {
        Place::Tcp { host, port } => ListenSpec::tcp(bind_host(host), *port),
        Place::Unix { path } => ListenSpec::unix(path.clone()),
    };
    if let ListenAddress::Unix { unlink, .. } = &mut spec.address {
        *unlink = gateway.config.ssh.stream_local_bind_unlink;
    }
    spec.user = gateway.sandboxes.user_of(principal).await?;
    let listener = guest.listen(spec.clone()).await?;
    if let ListenAddress::Tcp { port, .. } = &mut spec.address {
        *port = listener.port();
    }
    Ok(Listening { listener, guest, spec })
}

impl Listening {
    /// Listens again, on the same port. Does not wake a sandbox: somebody has stopped it or will start it.
    ///
    /// # Errors
    /// The guest is not there or refuses.
    pub async fn again(&mut self) -> Result<(), GuestError> {
        self.listener = self.guest.listen(self.spec.clone()).await?;
        Ok(())
    }
}

/// Whether scope and rules both allow it.
pub(crate) fn permit(principal: &Principal, rules: Decision) -> Result<(), ForwardError> {
    for decision in [decide(principal, Action::Forward, OffsetDateTime::now_utc()), rules] {
        if let Decision::Deny(reason) = decision {
            return Err(ForwardError::Denied(reason));
        }
    }
    Ok(())
}

/// The address that is listened on for what a client asks: always a loopback one, as sshd's `GatewayPorts no`. A client that names one of the
/// two loopback addresses gets that one alone.
pub fn bind_host(asked: &[u8]) -> &[u8] {
    match asked {
        b"127.0.0.1" | b"::1" => asked,
        _ => b"localhost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_one_short_line() {
        let tcp = |host: &[u8]| Place::Tcp { host: host.to_vec(), port: 80 }.to_string();
        assert_eq!(tcp(b"db"), "db:80");
        assert_eq!(tcp(b"::1"), "[::1]:80");
        assert_eq!(tcp(b"a\nb\x1b[0m\xff"), "a\\nb\\u{1b}[0m\u{fffd}:80");
        assert!(Place::Unix { path: vec![b'x'; 70_000] }.to_string().len() <= SHOWN);
    }

    #[test]
    fn only_loopback_is_listened_on() {
        for asked in [&b""[..], b"*", b"0.0.0.0", b"::", b"localhost", b"10.0.0.1", b"example.org"] {
            assert_eq!(bind_host(asked), b"localhost");
        }
        assert_eq!((bind_host(b"127.0.0.1"), bind_host(b"::1")), (&b"127.0.0.1"[..], &b"::1"[..]));
    }
}
