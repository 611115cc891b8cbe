//! A listener: where it is bound, who has connected and waits to be taken, and what is removed at its end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use sandgate_wire::message::{Listen, ListenAddress, Peer, Reason};

use crate::launch::{Base, Refusal};
use crate::net::{self, Login};
use crate::sys;
use crate::users::Creds;

/// Connections of one listener that are announced and not yet taken. The rest waits in the kernel.
pub const MAX_PENDING: usize = 64;
/// How long an announced connection waits to be taken; one to a forwarded agent waits for as long as its listener is there.
pub const MAX_WAIT: Duration = Duration::from_secs(30);
/// Connections that wait in the kernel when the host has no wish: as sshd.
const BACKLOG: u32 = 128;
/// The most that a host may wish for.
const MAX_BACKLOG: u32 = 4096;
/// Ports that are tried when the kernel's choice for one address family is taken in the other.
const PORT_ATTEMPTS: u32 = 16;
/// Permission bits that an agent socket does not get. Its directory is closed as well.
const AGENT_MASK: u32 = 0o177;
/// Where the directory of an agent socket may be, in order; the home comes last.
const AGENT_DIRS: [&[u8]; 3] = [b"/tmp", b"/run", b"/dev/shm"];
/// Letters and digits in the name of that directory.
const RANDOM_LEN: usize = 10;

/// A listener.
#[derive(Debug)]
pub struct Listening {
    /// The link it belongs to.
    pub link: u64,
    /// Its stream there.
    pub stream: u32,
    /// Connections that wait to be taken.
    pub pending: usize,
    /// How long those wait at most.
    pub patience: Option<Duration>,
    /// It rests until then, because the system has no descriptors left.
    pub paused: Option<Instant>,
    /// At most two: one for each address family.
    sockets: Vec<OwnedFd>,
    port: u16,
    files: Option<Files>,
}

/// What a Unix listener has made.
#[derive(Debug)]
struct Files {
    creds: Option<Creds>,
    path: Vec<u8>,
    /// Device and inode of the socket: what somebody else has put there stays.
    socket: Option<(u64, u64)>,
    dir: Option<Vec<u8>>,
}

/// A connection that waits to be taken.
#[derive(Debug)]
pub struct Pending {
    /// The connection.
    pub socket: OwnedFd,
    /// Its listener.
    pub listener: u64,
    /// When it is given up.
    pub end: Option<Instant>,
}

impl Listening {
    /// Begins to listen.
    pub fn start(base: &Base, listen: &Listen, link: u64, stream: u32) -> Result<Self, Refusal> {
        let login = Login::find(base, listen.user.as_deref())?;
        let creds = login.creds.as_ref();
        let backlog =
            if listen.backlog == 0 { BACKLOG } else { listen.backlog.min(MAX_BACKLOG) }.cast_signed();
        let mut new = Self {
            link,
            stream,
            pending: 0,
            patience: Some(MAX_WAIT),
            paused: None,
            sockets: Vec::new(),
            port: 0,
            files: None,
        };
        match &listen.address {
            ListenAddress::Tcp { host, port } => {
                let ips = bind_addresses(host)?;
                (new.sockets, new.port) = net::as_login(creds, || listen_tcp(&ips, *port, backlog))?;
            }
            ListenAddress::Unix { path, mask, unlink } => {
                let (path, address) = net::unix_address(path)?;
                let socket = net::as_login(creds, || {
                    if *unlink {
                        // As sshd: if it cannot be removed, bind says why.
                        let _ = rustix::fs::unlink(&path[..]);
                    }
                    listen_unix(&address, *mask, backlog)
                })?;
                new.sockets.push(socket);
                new.files = Some(Files::of(creds, path, None));
            }
            ListenAddress::AgentSocket => {
                let (socket, files) = agent_socket(&login, backlog)?;
                new.sockets.push(socket);
                new.files = Some(files);
                // The host takes a bounded number at once, and a program may wait minutes for its user to confirm a signature.
                new.patience = None;
            }
        }
        Ok(new)
    }

    /// The TCP port, or 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path of the Unix socket, or nothing.
    pub fn path(&self) -> &[u8] {
        self.files.as_ref().map_or(&[], |files| &files.path)
    }

    /// The sockets: one or two.
    pub fn socket(&self, index: usize) -> Option<BorrowedFd<'_>> {
        self.sockets.get(index).map(AsFd::as_fd)
    }

    /// Whether another connection may be taken from the kernel.
    pub fn has_room(&self) -> bool {
        self.pending < MAX_PENDING && self.paused.is_none()
    }

    /// Takes one from the kernel; `None` when there is none.
    pub fn accept(&self, index: usize) -> Result<Option<(OwnedFd, Peer)>, Errno> {
        let Some(socket) = self.sockets.get(index) else { return Ok(None) };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (fd, address) = match rustix::net::acceptfrom_with(socket, flags) {
            Ok(new) => new,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(None),
            Err(e) => return Err(e),
        };
        let peer = match address.and_then(|a| SocketAddr::try_from(a).ok()) {
            Some(address) => {
                net::tune(&fd);
                Peer::Tcp { host: address.ip().to_string(), port: address.port() }
            }
            None => Peer::Unix,
        };
        Ok(Some((fd, peer)))
    }
}

impl Files {
    fn of(creds: Option<&Creds>, path: Vec<u8>, dir: Option<Vec<u8>>) -> Self {
        let socket = rustix::fs::lstat(&path[..]).ok().map(|s| (s.st_dev, s.st_ino));
        Self { creds: creds.cloned(), path, socket, dir }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let remove = || {
            let now = rustix::fs::lstat(&self.path[..]).ok().map(|s| (s.st_dev, s.st_ino));
            if now.is_some() && now == self.socket {
                let _ = rustix::fs::unlink(&self.path[..]);
            }
            if let Some(dir) = &self.dir {
                let _ = rustix::fs::unlinkat(rustix::fs::CWD, &dir[..], AtFlags::REMOVEDIR);
            }
        };
        // The login user's rights are enough, and more could be led astray.
        let _ = sys::as_user(self.creds.as_ref(), remove);
    }
}

/// RFC 4254 section 7.1, as sshd does it with GatewayPorts=clientspecified.
fn bind_addresses(host: &[u8]) -> Result<Vec<IpAddr>, Refusal> {
    match host {
        b"" | b"*" => Ok(vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]),
        b"localhost" => Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
        _ => {
            let ip = std::str::from_utf8(host).ok().and_then(|text| text.parse().ok());
            let bad =
                || Refusal::new(Reason::BadRequest, "only a literal address or localhost can be listened on");
            Ok(vec![ip.ok_or_else(bad)?])
        }
    }
}

/// Binds all addresses to one port. An address family that the kernel does not have is left out, as long as there is another one.
fn listen_tcp(ips: &[IpAddr], port: u16, backlog: i32) -> Result<(Vec<OwnedFd>, u16), Errno> {
    let mut error = Errno::ADDRINUSE;
    for _ in 0..PORT_ATTEMPTS {
        let mut sockets = Vec::new();
        let mut bound = port;
        let mut taken = false;
        for ip in ips {
            match listen_on(SocketAddr::new(*ip, bound), backlog) {
                Ok((socket, new_port)) => {
                    bound = new_port;
                    sockets.push(socket);
                }
                Err(e) => {
                    taken |= e == Errno::ADDRINUSE;
                    error = e;
                }
            }
        }
        if !taken && !sockets.is_empty() {
            return Ok((sockets, bound));
        }
        if port != 0 || !taken {
            break;
        }
    }
    Err(error)
}

fn listen_on(address: SocketAddr, backlog: i32) -> Result<(OwnedFd, u16), Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, backlog)?;
    let bound = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
    Ok((socket, bound.port()))
}

fn listen_unix(address: &SocketAddrUnix, mask: u32, backlog: i32) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The mask belongs to the whole process, which is one thread.
    let old = rustix::process::umask(Mode::from_raw_mode(mask & 0o777));
    let bound = rustix::net::bind(&socket, address);
    rustix::process::umask(old);
    bound?;
    rustix::net::listen(&socket, backlog)?;
    Ok(socket)
}

/// A socket in a new directory that only the login user can enter: `/tmp/ssh-XXXXXXXXXX/agent.PID`, as sshd makes it.
fn agent_socket(login: &Login, backlog: i32) -> Result<(OwnedFd, Files), Refusal> {
    let home = login.user.home.as_slice();
    let mut refusal = net::refusal(Errno::NOENT);
    for parent in AGENT_DIRS.into_iter().chain([home]) {
        let name = random_name().map_err(net::refusal)?;
        let dir = [parent, b"/ssh-", &name].concat();
        let path = [&dir[..], format!("/agent.{}", std::process::id()).as_bytes()].concat();
        let (path, address) = match net::unix_address(&path) {
            Ok(found) => found,
            Err(too_long) => {
                refusal = too_long;
                continue;
            }
        };
        let made = net::as_login(login.creds.as_ref(), || {
            // The process's own mask must not take the owner's bits away.
            let old = rustix::process::umask(Mode::from_raw_mode(0o077));
            let made = rustix::fs::mkdir(&dir[..], Mode::RWXU);
            rustix::process::umask(old);
            made?;
            listen_unix(&address, AGENT_MASK, backlog).inspect_err(|_| {
                let _ = rustix::fs::unlinkat(rustix::fs::CWD, &dir[..], AtFlags::REMOVEDIR);
            })
        });
        match made {
            Ok(socket) => {
                let files = Files::of(login.creds.as_ref(), path, Some(dir));
                return Ok((socket, files));
            }
            Err(other) => refusal = other,
        }
    }
    let text =
        format!("no directory for the agent's socket (tried /tmp, /run, /dev/shm and the home): {refusal}");
    Err(Refusal::new(refusal.reason, text))
}

fn random_name() -> Result<Vec<u8>, Errno> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    let mut bytes = [0; RANDOM_LEN];
    let n = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if n < bytes.len() {
        return Err(Errno::AGAIN);
    }
    Ok(bytes.iter().filter_map(|b| LETTERS.get(usize::from(b % 64)).copied()).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn bind_addresses_as_in_rfc_4254() {
        let v4 = |ip: Ipv4Addr| IpAddr::from(ip);
        for all in [&b""[..], b"*"] {
            assert_eq!(bind_addresses(all).unwrap()[0], v4(Ipv4Addr::UNSPECIFIED));
            assert_eq!(bind_addresses(all).unwrap().len(), 2);
        }
        assert_eq!(bind_addresses(b"localhost").unwrap()[0], v4(Ipv4Addr::LOCALHOST));
        assert_eq!(bind_addresses(b"0.0.0.0").unwrap(), [v4(Ipv4Addr::UNSPECIFIED)]);
        assert_eq!(bind_addresses(b"::1").unwrap(), [IpAddr::from(Ipv6Addr::LOCALHOST)]);
        assert_eq!(bind_addresses(b"example.org").unwrap_err().reason, Reason::BadRequest);
    }

    #[test]
    fn both_families_have_the_same_port_and_a_taken_one_is_refused() {
        let loopback = bind_addresses(b"localhost").unwrap();
        let (held, port) = listen_tcp(&loopback, 0, 1).unwrap();
        assert!(!held.is_empty() && port != 0);
        assert_eq!(listen_tcp(&loopback, port, 1).unwrap_err(), Errno::ADDRINUSE);
        // Taken in one family only: sshd would listen on the other one and say yes.
        drop(held);
        let _v4 = listen_tcp(&loopback[..1], port, 1).unwrap();
        assert_eq!(listen_tcp(&loopback, port, 1).unwrap_err(), Errno::ADDRINUSE);
    }

    #[test]
    fn names_of_directories_differ() {
        let (a, b) = (random_name().unwrap(), random_name().unwrap());
        assert!(a != b && a.len() == RANDOM_LEN && a.iter().all(|c| c.is_ascii_graphic()));
    }
}
