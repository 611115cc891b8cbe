//! TCP between this host and programs of the guest, over sockets of the guest's own network ([`Dial::tcp_socket`]).
//!
//! No process of the guest stands between, which saves two copies and four wake-ups for each piece of data. A socket never passes through the guest's
//! hands, so nothing that the guest does changes how it behaves. What only the guest can know (a name, whether its user may have a port below 1024) is
//! left to the agent.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;
use sandgate_wire::message::{Reason, Refused};
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::Sleep;

use crate::dial::{ByteStream, Dial, IpFamily};
use crate::forward::CONNECT_TIME;
use crate::{GuestError, Peer};

/// What the kernel keeps for a connection in each direction, in bytes (it takes twice that, for its own records). Thousands of connections may stand
/// still.
const BUFFER: u32 = 256 * 1024;
/// Ports below are for root alone, and only the agent knows who its user is.
const FIRST_FREE_PORT: u16 = 1024;
/// Connections that wait in the kernel when nobody has a wish: as sshd.
const BACKLOG: i32 = 128;
/// The most that may be wished for.
const MAX_BACKLOG: u32 = 4096;
/// Ports that are tried when the kernel's choice for one address family is taken in the other.
const PORT_ATTEMPTS: u32 = 16;
/// How long a listener rests when this process has no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// Connects; `None` where that is for the agent to do.
pub(crate) async fn connect(
    dial: &dyn Dial,
    host: &[u8],
    port: u16,
) -> Option<Result<TcpStream, GuestError>> {
    let ips = literal(host)?;
    let attempts = async {
        let mut failed = None;
        for ip in ips {
            let Some(socket) = dial.tcp_socket(IpFamily::of(ip)).await else { break };
            match connect_by(socket, SocketAddr::new(ip, port)).await {
                Ok(stream) => return Some(Ok(stream)),
                Err(error) => failed = Some(Err(failure(&error))),
            }
        }
        failed
    };
    let late = || Some(Err(failure(&Errno::TIMEDOUT.into())));
    tokio::time::timeout(CONNECT_TIME, attempts).await.unwrap_or_else(|_| late())
}

async fn connect_by(socket: OwnedFd, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
    socket.set_recv_buffer_size(BUFFER)?;
    socket.set_send_buffer_size(BUFFER)?;
    socket.connect(to).await
}

/// Listeners on one port, at most one for each address family.
pub(crate) struct Doors {
    listeners: Vec<TcpListener>,
    port: u16,
    /// Ends with the sandbox, whose network would otherwise stay for as long as we listen in it.
    presence: Box<dyn ByteStream>,
    /// No descriptors are left.
    pause: Option<Pin<Box<Sleep>>>,
}

/// Listens; `None` where that is for the agent to do.
pub(crate) async fn listen(
    dial: &dyn Dial,
    host: &[u8],
    port: u16,
    backlog: u32,
) -> Option<Result<Doors, GuestError>> {
    if (1..FIRST_FREE_PORT).contains(&port) {
        return None;
    }
    // The order in which sshd binds them.
    let mut ips = literal(host)?;
    ips.sort_unstable();
    let presence = dial.presence().await?;
    let backlog = if backlog == 0 { BACKLOG } else { backlog.min(MAX_BACKLOG).cast_signed() };
    let mut failed = io::Error::from(Errno::ADDRINUSE);
    for _ in 0..PORT_ATTEMPTS {
        let (mut listeners, mut bound, mut taken) = (Vec::new(), port, false);
        for ip in &ips {
            let socket = dial.tcp_socket(IpFamily::of(*ip)).await?;
            match listen_by(socket, SocketAddr::new(*ip, bound), backlog) {
                Ok((listener, chosen)) => {
                    bound = chosen;
                    listeners.push(listener);
                }
                Err(error) => {
                    taken |= error.kind() == io::ErrorKind::AddrInUse;
                    failed = error;
                }
            }
        }
        if !taken && !listeners.is_empty() {
            return Some(Ok(Doors { listeners, port: bound, presence, pause: None }));
        }
        if port != 0 || !taken {
            break;
        }
    }
    Some(Err(failure(&failed)))
}

fn listen_by(socket: OwnedFd, at: SocketAddr, backlog: i32) -> io::Result<(TcpListener, u16)> {
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Taken over by each connection.
    sockopt::set_socket_recv_buffer_size(&socket, BUFFER as usize)?;
    sockopt::set_socket_send_buffer_size(&socket, BUFFER as usize)?;
    if at.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &at)?;
    rustix::net::listen(&socket, backlog)?;
    let listener = TcpListener::from_std(std::net::TcpListener::from(socket))?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

impl Doors {
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Waits for somebody to connect. An error means that the sandbox has ended.
    pub(crate) fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(TcpStream, Peer), GuestError>> {
        let mut byte = [0];
        // Nothing is ever said there.
        if Pin::new(&mut self.presence).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_ready() {
            return Poll::Ready(Err(GuestError::SandboxGone));
        }
        loop {
            if let Some(pause) = &mut self.pause {
                if pause.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.pause = None;
            }
            for listener in &self.listeners {
                match listener.poll_accept(cx) {
                    Poll::Ready(Ok((stream, from))) => {
                        let peer = Peer::Tcp { host: from.ip().to_string(), port: from.port() };
                        return Poll::Ready(Ok((stream, peer)));
                    }
                    Poll::Ready(Err(error)) => {
                        tracing::warn!(%error, "a connection in the sandbox could not be taken; trying again");
                        self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
                    }
                    Poll::Pending => {}
                }
            }
            if self.pause.is_none() {
                return Poll::Pending;
            }
        }
    }
}

/// The addresses of a host that needs no resolver, in the order in which they are tried.
fn literal(host: &[u8]) -> Option<Vec<IpAddr>> {
    if host.eq_ignore_ascii_case(b"localhost") {
        return Some(vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()]);
    }
    Some(vec![std::str::from_utf8(host).ok()?.parse().ok()?])
}

/// What the kernel's no means, in the words that sshd would use.
fn failure(error: &io::Error) -> GuestError {
    let reason = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(
            Errno::NETUNREACH
            | Errno::HOSTUNREACH
            | Errno::NETDOWN
            | Errno::HOSTDOWN
            | Errno::ADDRNOTAVAIL
            | Errno::AFNOSUPPORT,
        ) => Reason::NoRoute,
        Some(Errno::TIMEDOUT) => Reason::ConnectTimeout,
        Some(Errno::ACCESS | Errno::PERM) => Reason::AccessDenied,
        Some(Errno::ADDRINUSE) => Reason::AddressInUse,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS | Errno::AGAIN) => Reason::Resources,
        _ => Reason::ConnectRefused,
    };
    let text = error.to_string();
    let text = text.split_once(" (os error").map_or(text.as_str(), |(words, _)| words).to_owned();
    Refused { reason, text }.into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn names_are_for_the_agent() {
        assert_eq!(literal(b"LocalHost").unwrap().len(), 2);
        assert_eq!(literal(b"::1").unwrap(), [IpAddr::from(Ipv6Addr::LOCALHOST)]);
        for name in [&b"db"[..], b"", b"*", b"127.1", b"fe80::1%eth0", b"\xff"] {
            assert_eq!(literal(name), None);
        }
    }

    #[test]
    fn failures_have_the_words_of_the_c_library() {
        for (errno, text) in [
            (Errno::CONNREFUSED, "Connection refused"),
            (Errno::ADDRINUSE, "Address already in use"),
            (Errno::TIMEDOUT, "Connection timed out"),
        ] {
            assert_eq!(failure(&errno.into()).to_string(), text);
        }
    }
}
