//! What connecting and listening have in common: as whom, sockets' addresses, and the words for what failed.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, sockopt};
use sandgate_wire::keepalive::TCP_IDLE;
use sandgate_wire::message::{MAX_SOCKET_PATH, Reason};

use crate::launch::{Base, Refusal, login};
use crate::sys;
use crate::users::{Creds, Database, User};

/// Whom to act as.
#[derive(Debug)]
pub struct Login {
    /// The login.
    pub user: User,
    /// What to change to; `None` when the agent is that user already (or root: then nothing changes).
    pub creds: Option<Creds>,
}

impl Login {
    /// Looks a request's user up.
    pub fn find(base: &Base, user: Option<&[u8]>) -> Result<Self, Refusal> {
        let user = login(base, user, &Database::load(Path::new("/etc")))?;
        let creds = (base.uid == 0 && user.creds.uid != 0).then(|| user.creds.clone());
        Ok(Self { user, creds })
    }
}

/// Runs `act` with the rights of the login user.
pub fn as_login<T>(creds: Option<&Creds>, act: impl FnOnce() -> Result<T, Errno>) -> Result<T, Refusal> {
    let cannot = |e: io::Error| {
        let text = sys::errno_text(e.raw_os_error().unwrap_or_default());
        Refusal::new(Reason::NotPermitted, format!("the agent cannot become the login user: {text}"))
    };
    sys::as_user(creds, act).map_err(cannot)?.map_err(refusal)
}

/// The path and address of a Unix socket. A relative path counts from `/`, which is where sshd's own process is.
pub fn unix_address(path: &[u8]) -> Result<(Vec<u8>, SocketAddrUnix), Refusal> {
    if path.is_empty() {
        return Err(refusal(Errno::NOENT));
    }
    let path = if path.starts_with(b"/") { path.to_vec() } else { [b"/", path].concat() };
    if path.len() > MAX_SOCKET_PATH {
        let text = format!("the path of the socket is too long (at most {MAX_SOCKET_PATH} bytes)");
        return Err(Refusal::new(Reason::BadRequest, text));
    }
    let address = SocketAddrUnix::new(&path[..]).map_err(refusal)?;
    Ok((path, address))
}

/// Small writes go out at once, as with sshd, and a peer that has vanished is noticed. It works without.
pub fn tune(socket: &OwnedFd) {
    let _ = sockopt::set_tcp_nodelay(socket, true);
    let _ = sockopt::set_tcp_keepidle(socket, TCP_IDLE);
    let _ = sockopt::set_tcp_keepintvl(socket, TCP_IDLE);
    let _ = sockopt::set_socket_keepalive(socket, true);
}

/// What the kernel's no means, in the words that sshd would use.
pub fn refusal(errno: Errno) -> Refusal {
    let reason = match errno {
        Errno::NETUNREACH
        | Errno::HOSTUNREACH
        | Errno::NETDOWN
        | Errno::HOSTDOWN
        | Errno::ADDRNOTAVAIL
        | Errno::AFNOSUPPORT => Reason::NoRoute,
        Errno::TIMEDOUT | Errno::AGAIN => Reason::ConnectTimeout,
        Errno::NOENT | Errno::NOTDIR | Errno::NOTSOCK | Errno::PROTOTYPE | Errno::LOOP | Errno::NXIO => {
            Reason::NotFound
        }
        Errno::ACCESS | Errno::PERM | Errno::ROFS => Reason::AccessDenied,
        Errno::ADDRINUSE | Errno::EXIST => Reason::AddressInUse,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS | Errno::NOSPC => Reason::Resources,
        _ => Reason::ConnectRefused,
    };
    Refusal::new(reason, sys::errno_text(errno.raw_os_error()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute_and_bounded() {
        assert_eq!(unix_address(b"run/x").unwrap().0, b"/run/x");
        assert_eq!(unix_address(&[b'/'; 107]).unwrap().0.len(), 107);
        let error = unix_address(&[b'/'; 108]).unwrap_err();
        assert_eq!(error.reason, Reason::BadRequest);
        assert_eq!(error.text, "the path of the socket is too long (at most 107 bytes)");
        assert_eq!(unix_address(b"").unwrap_err().reason, Reason::NotFound);
    }

    #[test]
    fn the_words_are_those_of_the_c_library() {
        for (errno, text) in [
            (Errno::CONNREFUSED, "Connection refused"),
            (Errno::TIMEDOUT, "Connection timed out"),
            (Errno::HOSTUNREACH, "No route to host"),
            (Errno::NETUNREACH, "Network is unreachable"),
            (Errno::ADDRINUSE, "Address already in use"),
            (Errno::NOENT, "No such file or directory"),
            (Errno::ACCESS, "Permission denied"),
        ] {
            assert_eq!(refusal(errno).text, text);
        }
    }
}
