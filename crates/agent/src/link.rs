//! One connection to the host: bytes and passed descriptors in, frames out.

use std::collections::{HashMap, HashSet};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
use sandgate_wire::message::Hello;
use sandgate_wire::mux::{Mux, Role};
use sandgate_wire::{
    CAP_DIAL, CAP_FILES, CAP_LISTEN, CAP_OUTPUT_GONE, CAP_PASS_STDIO, CAP_PASS_TERMINAL, CAP_PING,
};

/// Name and version in the hello.
pub const SOFTWARE: &str = concat!("sandgate-agent ", env!("CARGO_PKG_VERSION"));

/// Looks in the time in which a host promised to be heard. The delay of a look shows how long the agent did not run; what passed before the look was
/// due does not show, and must be little beside that time.
const LOOKS: u32 = 4;

/// What carries the bytes.
#[derive(Debug)]
pub enum Transport {
    /// A Unix socket: one per channel, can pass descriptors.
    Socket(OwnedFd),
    /// A vsock connection: one per channel.
    Vsock(OwnedFd),
    /// The agent's own standard input and output: one for everything.
    Stdio {
        /// From the host.
        input: OwnedFd,
        /// To the host.
        output: OwnedFd,
    },
}

/// Whether a link can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Yes.
    Alive,
    /// The other side has gone, or broke the protocol.
    Ended,
}

/// A connection.
#[derive(Debug)]
pub struct Link {
    transport: Transport,
    /// Its protocol state.
    pub mux: Mux,
    /// Streams and what they stand for: a session, a dial, a connection or a listener.
    pub streams: HashMap<u32, u64>,
    /// Those that wait for room in the output. At most as many as there are streams, and some that have gone.
    pub waiting: HashSet<u64>,
    /// Received descriptors that no request has claimed yet. At most three are kept.
    passed: Vec<OwnedFd>,
    /// Input that the protocol state did not take yet; nothing is read while there is some, so it is at most one read.
    backlog: Vec<u8>,
    /// The protocol was broken or refused: what is in the output is still tried, then the link ends.
    pub failed: bool,
    /// When something last came from the host.
    heard: Instant,
    /// How long the host is never silent, as it has promised.
    patience: Option<Duration>,
}

impl Link {
    /// A link whose descriptors do not block. `more`: capabilities that are this agent's and not every agent's.
    pub fn new(transport: Transport, more: u64) -> Self {
        let capabilities = match &transport {
            Transport::Socket(_) => CAP_PASS_STDIO | CAP_PASS_TERMINAL,
            Transport::Vsock(_) | Transport::Stdio { .. } => 0,
        };
        let capabilities =
            capabilities | more | CAP_FILES | CAP_DIAL | CAP_LISTEN | CAP_PING | CAP_OUTPUT_GONE;
        Self {
            transport,
            mux: Mux::new(Role::Agent, Hello::new(SOFTWARE, capabilities)),
            streams: HashMap::new(),
            waiting: HashSet::new(),
            passed: Vec::new(),
            backlog: Vec::new(),
            failed: false,
            heard: Instant::now(),
            patience: None,
        }
    }

    /// The host has promised to be heard again within so many milliseconds; 0 takes the promise back.
    pub fn promised(&mut self, millis: u32) {
        self.patience = (millis > 0).then(|| Duration::from_millis(millis.into()));
    }

    /// When the host is to be taken for gone, unless it is heard before.
    pub fn silent_at(&self) -> Option<Instant> {
        self.patience.and_then(|patience| self.heard.checked_add(patience))
    }

    /// When to look next whether the host has fallen silent.
    pub fn look_at(&self, now: Instant) -> Option<Instant> {
        let look = now.checked_add(self.patience? / LOOKS)?;
        self.silent_at().map(|at| at.min(look))
    }

    /// The host gets the time in which we did not run.
    pub fn spare(&mut self, late: Duration, now: Instant) {
        self.heard = self.heard.checked_add(late).map_or(now, |heard| heard.min(now));
    }

    /// Whether this is the standard input and output.
    pub fn is_stdio(&self) -> bool {
        matches!(self.transport, Transport::Stdio { .. })
    }

    /// The descriptor to read from.
    pub fn input_fd(&self) -> BorrowedFd<'_> {
        match &self.transport {
            Transport::Socket(fd) | Transport::Vsock(fd) | Transport::Stdio { input: fd, .. } => fd.as_fd(),
        }
    }

    /// The descriptor to write to.
    pub fn output_fd(&self) -> BorrowedFd<'_> {
        match &self.transport {
            Transport::Socket(fd) | Transport::Vsock(fd) | Transport::Stdio { output: fd, .. } => fd.as_fd(),
        }
    }

    /// Whether input should be read now.
    pub fn wants_input(&self) -> bool {
        !self.failed && self.backlog.is_empty() && self.mux.wants_input()
    }

    /// Reads once into the protocol state. The caller drains the events and calls [`Self::digest`] until nothing is left.
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<Status> {
        let n = match &self.transport {
            Transport::Socket(fd) => receive(fd.as_fd(), buf, &mut self.passed),
            Transport::Vsock(fd) | Transport::Stdio { input: fd, .. } => rustix::io::read(fd, &mut *buf),
        };
        match n {
            Ok(0) => Ok(Status::Ended),
            Ok(n) => {
                self.heard = Instant::now();
                self.backlog = Vec::new();
                self.feed(&buf[..n]);
                Ok(Status::Alive)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(Status::Alive),
            Err(e) => Err(e.into()),
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        match self.mux.input(bytes) {
            Ok(n) => self.backlog.extend_from_slice(&bytes[n..]),
            Err(_) => self.failed = true,
        }
    }

    /// Gives waiting input to the protocol state. Returns whether some was taken.
    pub fn digest(&mut self) -> bool {
        if self.backlog.is_empty() || self.failed || !self.mux.wants_input() {
            return false;
        }
        let bytes = std::mem::take(&mut self.backlog);
        self.feed(&bytes);
        self.backlog.len() < bytes.len()
    }

    /// Writes what can be written.
    pub fn flush(&mut self) -> Status {
        while !self.mux.output().is_empty() {
            let out = self.mux.output();
            let n = match &self.transport {
                // Without the flag the default action of SIGPIPE would be up to the environment.
                Transport::Socket(fd) | Transport::Vsock(fd) => {
                    rustix::net::send(fd, out, rustix::net::SendFlags::NOSIGNAL)
                }
                Transport::Stdio { output, .. } => rustix::io::write(output, out),
            };
            match n {
                Ok(n) => self.mux.consume_output(n),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Status::Alive,
                Err(_) => return Status::Ended,
            }
        }
        if self.failed { Status::Ended } else { Status::Alive }
    }

    /// The `N` descriptors that came with a request, if exactly that many came.
    pub fn take_passed<const N: usize>(&mut self) -> Option<[OwnedFd; N]> {
        std::mem::take(&mut self.passed).try_into().ok()
    }

    /// Throws away descriptors that no request has claimed.
    pub fn drop_unclaimed(&mut self) {
        self.passed.clear();
    }
}

/// Reads bytes and at most three descriptors; the kernel closes any others.
fn receive(fd: BorrowedFd<'_>, buf: &mut [u8], passed: &mut Vec<OwnedFd>) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message =
        rustix::net::recvmsg(fd, &mut [IoSliceMut::new(buf)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = part {
            passed.clear();
            passed.extend(fds.take(3));
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        // Out of descriptors, or too many sent: a part is useless.
        passed.clear();
    }
    Ok(message.bytes)
}
