//! A connection that is being made: name, addresses, attempts, deadline.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use sandgate_wire::message::{Address, Dial, Reason};

use crate::launch::{Base, Refusal};
use crate::net::{self, Login};
use crate::resolve::Lookup;
use crate::users::Creds;

/// From the request to a connection, in all.
const MAX_TIME: Duration = Duration::from_secs(30);
/// For one name.
const MAX_LOOKUP: Duration = Duration::from_secs(10);
/// Pause before another attempt at a Unix socket whose queue is full: the kernel does not tell when there is room.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// A connection that is being made.
#[derive(Debug)]
pub struct Dialing {
    /// The link it belongs to.
    pub link: u64,
    /// Its stream there.
    pub stream: u32,
    /// The host's pipes for it: what the other side is to read, and where what it writes is to go.
    pub pipes: Option<[OwnedFd; 2]>,
    creds: Option<Creds>,
    step: Step,
    /// Addresses that are still to be tried.
    targets: VecDeque<Target>,
    end: Instant,
    error: Errno,
}

#[derive(Debug, Clone)]
enum Target {
    Tcp(SocketAddr),
    Unix(SocketAddrUnix),
}

#[derive(Debug)]
enum Step {
    /// Nothing is under way: there is an address to be tried, or none left.
    Idle,
    /// The name waits until fewer names are being resolved.
    Queued { host: Vec<u8>, port: u16 },
    /// A child resolves the name.
    Resolving { lookup: Lookup, port: u16, end: Instant },
    /// The kernel connects.
    Connecting(OwnedFd),
    /// The queue of this Unix socket is full.
    Busy { target: SocketAddrUnix, again: Instant },
}

/// How far it has come.
#[derive(Debug)]
pub enum Progress {
    /// Something has to happen first.
    Waiting,
    /// It needs a child to resolve its name.
    WantsLookup,
    /// Done.
    Connected(OwnedFd),
    /// Not to be had.
    Failed(Refusal),
}

impl Dialing {
    /// Checks the request. Nothing is under way yet.
    pub fn new(
        base: &Base,
        dial: Dial,
        pipes: Option<[OwnedFd; 2]>,
        link: u64,
        stream: u32,
        now: Instant,
    ) -> Result<Self, Refusal> {
        let creds = Login::find(base, dial.user.as_deref())?.creds;
        let mut step = Step::Idle;
        let targets = match dial.address {
            Address::Unix { path } => VecDeque::from([Target::Unix(net::unix_address(&path)?.1)]),
            Address::Tcp { host, port } => match literal(&host) {
                Some(ips) => ips.iter().map(|ip| Target::Tcp(SocketAddr::new(*ip, port))).collect(),
                None => {
                    step = Step::Queued { host, port };
                    VecDeque::new()
                }
            },
        };
        let end = now + MAX_TIME;
        Ok(Self { link, stream, pipes, creds, step, targets, end, error: Errno::TIMEDOUT })
    }

    /// Goes on as far as possible. Call it at first, after an event, and when [`Self::deadline`] is over.
    pub fn advance(&mut self, now: Instant) -> Progress {
        loop {
            if now >= self.end {
                return Progress::Failed(net::refusal(Errno::TIMEDOUT));
            }
            match std::mem::replace(&mut self.step, Step::Idle) {
                step @ Step::Queued { .. } => {
                    self.step = step;
                    return Progress::WantsLookup;
                }
                Step::Resolving { mut lookup, port, end } => match lookup.read() {
                    Some(Ok(found)) => {
                        let with_port = |mut a: SocketAddr| {
                            a.set_port(port);
                            Target::Tcp(a)
                        };
                        self.targets = found.into_iter().map(with_port).collect();
                    }
                    Some(Err(refusal)) => return Progress::Failed(refusal),
                    None if now >= end => {
                        let text = "Temporary failure in name resolution";
                        return Progress::Failed(Refusal::new(Reason::NameNotFound, text));
                    }
                    None => {
                        self.step = Step::Resolving { lookup, port, end };
                        return Progress::Waiting;
                    }
                },
                Step::Connecting(socket) => match is_connected(&socket) {
                    Ok(true) => return Progress::Connected(socket),
                    Ok(false) => {
                        self.step = Step::Connecting(socket);
                        return Progress::Waiting;
                    }
                    Err(e) => self.error = e,
                },
                Step::Busy { target, again } if now < again => {
                    self.step = Step::Busy { target, again };
                    return Progress::Waiting;
                }
                Step::Busy { target, .. } => self.targets.push_front(Target::Unix(target)),
                Step::Idle => {
                    let Some(target) = self.targets.pop_front() else {
                        return Progress::Failed(net::refusal(self.error));
                    };
                    match net::as_login(self.creds.as_ref(), || Ok(connect(&target))) {
                        Err(refusal) => return Progress::Failed(refusal),
                        Ok(Ok(socket)) => self.step = Step::Connecting(socket),
                        Ok(Err(Errno::AGAIN)) if let Target::Unix(target) = target => {
                            self.step = Step::Busy { target, again: now + BUSY_PAUSE };
                        }
                        Ok(Err(e)) => self.error = e,
                    }
                }
            }
        }
    }

    /// Starts the child that [`Progress::WantsLookup`] asked for. Returns its process id.
    pub fn look_up(
        &mut self,
        base: &Base,
        nofile: Option<(u64, u64)>,
        now: Instant,
    ) -> Result<Option<i32>, Refusal> {
        let Step::Queued { host, port } = &self.step else { return Ok(None) };
        let lookup = Lookup::start(base, nofile, self.creds.as_ref(), host)?;
        let pid = lookup.pid();
        self.step = Step::Resolving { lookup, port: *port, end: now + MAX_LOOKUP };
        Ok(pid)
    }

    /// Whether a child works for it.
    pub fn is_resolving(&self) -> bool {
        matches!(self.step, Step::Resolving { .. })
    }

    /// Its child has been reaped.
    pub fn reaped(&mut self) {
        if let Step::Resolving { lookup, .. } = &mut self.step {
            lookup.reaped();
        }
    }

    /// Where to wait: until it can be read, or written.
    pub fn wait(&self) -> (Option<BorrowedFd<'_>>, Option<BorrowedFd<'_>>) {
        match &self.step {
            Step::Resolving { lookup, .. } => (Some(lookup.fd()), None),
            Step::Connecting(socket) => (None, Some(socket.as_fd())),
            Step::Idle | Step::Queued { .. } | Step::Busy { .. } => (None, None),
        }
    }

    /// When to look again if nothing happens.
    pub fn deadline(&self) -> Instant {
        match &self.step {
            Step::Resolving { end, .. } => self.end.min(*end),
            Step::Busy { again, .. } => self.end.min(*again),
            _ => self.end,
        }
    }
}

/// The addresses of a host that needs no resolver.
fn literal(host: &[u8]) -> Option<Vec<IpAddr>> {
    if host.eq_ignore_ascii_case(b"localhost") {
        return Some(vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()]);
    }
    let ip: IpAddr = std::str::from_utf8(host).ok()?.parse().ok()?;
    Some(vec![ip])
}

/// Begins to connect. A socket that comes back is connected or will be.
fn connect(target: &Target) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let new = |family| rustix::net::socket_with(family, SocketType::STREAM, flags, None);
    let (socket, result) = match target {
        Target::Tcp(address) => {
            let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = new(family)?;
            net::tune(&socket);
            let result = rustix::net::connect(&socket, address);
            (socket, result)
        }
        Target::Unix(address) => {
            let socket = new(AddressFamily::UNIX)?;
            let result = rustix::net::connect(&socket, address);
            (socket, result)
        }
    };
    match result {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(socket),
        Err(e) => Err(e),
    }
}

/// Whether a connect has come to its end, and how.
fn is_connected(socket: &OwnedFd) -> Result<bool, Errno> {
    sockopt::socket_error(socket)??;
    match rustix::net::getpeername(socket) {
        Ok(_) => Ok(true),
        Err(Errno::NOTCONN) => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_need_no_resolver() {
        assert_eq!(literal(b"LocalHost").unwrap().len(), 2);
        assert_eq!(literal(b"127.0.0.1").unwrap(), [IpAddr::from(Ipv4Addr::LOCALHOST)]);
        assert_eq!(literal(b"::1").unwrap(), [IpAddr::from(Ipv6Addr::LOCALHOST)]);
        for name in [&b"example.org"[..], b"", b"fe80::1%eth0", b"\xff", b"1.2.3"] {
            assert_eq!(literal(name), None);
        }
    }
}
