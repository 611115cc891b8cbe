//! X11 forwarding (RFC 4254 §6.3, `ssh -X`, `-Y`), per session and only when the client asks.
//!
//! As sshd with `X11UseLocalhost`: a listener inside the sandbox on TCP port 6010 or above, `DISPLAY=localhost:10.0` in the session, and
//! the client's (fake) cookie where programs look for it. sshd runs `xauth`; an image may have none, so the file is written by the
//! agent's own file server and named by XAUTHORITY. Each connection becomes an `x11` channel to the client, which checks the cookie and
//! puts the real one in its place.

mod authority;

use sandgate_driver::Progress;
use sandgate_guest::{Guest, GuestError, ListenSpec, Listener, NetworkFailure};
use sandgate_policy::{Action, Decision, Permission, Principal, decide};
use sandgate_ssh::event::{X11Connections, X11Request};
use time::OffsetDateTime;

use super::forward::{Arrivals, Source};
use crate::gateway::Gateway;
use crate::sandboxes::StartError;
use authority::Authority;

/// The first display that is tried: sshd's `X11DisplayOffset`, so that displays of the sandbox's own are left alone.
const FIRST_DISPLAY: u16 = 10;
/// Displays that are tried, one after another. sshd tries 1,000.
const MAX_DISPLAYS: u16 = 64;
/// The port of display 0.
const BASE_PORT: u16 = 6000;
/// Longest cookie, in bytes. That of MIT-MAGIC-COOKIE-1 has 16.
const MAX_COOKIE: usize = 64;
/// Longest name of an authentication protocol, in bytes.
const MAX_PROTOCOL: usize = 64;

/// Why a session has no X11 forwarding. The session itself starts.
#[derive(Debug, thiserror::Error)]
pub(super) enum X11Error {
    #[error("{0}")]
    Denied(String),
    #[error("the request's cookie is not usable")]
    Cookie,
    #[error("{0}")]
    Sandbox(#[from] StartError),
    #[error("displays {FIRST_DISPLAY} to {last} are in use", last = FIRST_DISPLAY + MAX_DISPLAYS - 1)]
    NoDisplay,
    #[error("{0}")]
    Guest(#[from] GuestError),
    #[error("the cookie could not be written: {0}")]
    Authority(String),
}

/// The display of one session. Its end is that of the listener and of the cookie's file.
pub(super) struct Display {
    listener: Listener,
    connections: X11Connections,
    number: u16,
    screen: u32,
    authority: Authority,
}

impl Display {
    /// Wakes the sandbox, listens, and writes the cookie.
    ///
    /// # Errors
    /// See [`X11Error`].
    pub(super) async fn open(
        gateway: &Gateway,
        principal: &Principal,
        asked: &X11Request,
        progress: &dyn Progress,
    ) -> Result<Display, X11Error> {
        if let Decision::Deny(reason) = decide(principal, Action::Forward, OffsetDateTime::now_utc()) {
            return Err(X11Error::Denied(reason));
        }
        if principal.session.x11 == Permission::Withheld {
            return Err(X11Error::Denied("this certificate does not permit X11 forwarding".to_owned()));
        }
        let cookie = cookie(&asked.cookie).ok_or(X11Error::Cookie)?;
        if asked.protocol.is_empty() || asked.protocol.len() > MAX_PROTOCOL {
            return Err(X11Error::Cookie);
        }
        let guest = gateway.sandboxes.ensure_running(&principal.sandbox_id, progress).await?;
        let user = gateway.sandboxes.user_of(principal).await?;
        let (listener, number) = listen(&guest, user.as_deref()).await?;
        let authority = Authority::write(guest, user, number, &asked.protocol, &cookie).await;
        let authority = authority.map_err(X11Error::Authority)?;
        Ok(Display { listener, connections: asked.connections, number, screen: asked.screen, authority })
    }

    /// What the session's programs need to find it.
    pub(super) fn env(&self) -> [(Vec<u8>, Vec<u8>); 2] {
        [
            (b"DISPLAY".to_vec(), format!("localhost:{}.{}", self.number, self.screen).into_bytes()),
            (b"XAUTHORITY".to_vec(), self.authority.path().into_bytes()),
        ]
    }

    /// Hands on who connects; never ends by itself. Connections that were made outlive it.
    pub(super) async fn serve(mut self, arrivals: &Arrivals) {
        let end = match self.connections {
            X11Connections::Many => Some(arrivals.hand_on(&mut self.listener, &Source::X11).await),
            X11Connections::Single => arrivals.hand_on_one(&mut self.listener, &Source::X11).await.err(),
        };
        if let Some(error) = end {
            tracing::warn!(%error, display = self.number, "the listener for X11 has ended");
        }
        let Display { listener, authority: _authority, .. } = self;
        drop(listener);
        std::future::pending().await
    }
}

/// The first free display.
async fn listen(guest: &Guest, user: Option<&[u8]>) -> Result<(Listener, u16), X11Error> {
    for number in FIRST_DISPLAY..FIRST_DISPLAY + MAX_DISPLAYS {
        let mut spec = ListenSpec::tcp("localhost", BASE_PORT + number);
        spec.user = user.map(<[u8]>::to_vec);
        match guest.listen(spec).await {
            Ok(listener) => return Ok((listener, number)),
            Err(GuestError::Network { kind: NetworkFailure::AddressInUse, .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(X11Error::NoDisplay)
}

/// From hexadecimal.
fn cookie(hex: &[u8]) -> Option<Vec<u8>> {
    if hex.is_empty() || !hex.len().is_multiple_of(2) || hex.len() > 2 * MAX_COOKIE {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    hex.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_hexadecimal() {
        assert_eq!(cookie(b"00fF7a"), Some(vec![0, 255, 0x7a]));
        for bad in [&b""[..], b"0", b"0g", b"+1", &[b'0'; 2 * MAX_COOKIE + 2]] {
            assert_eq!(cookie(bad), None);
        }
    }
}
