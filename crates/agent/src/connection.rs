//! A connection between something in the guest and a stream of the host.
//!
//! Each direction ends on its own: end of data is passed on as such, and the other direction lives on. Over pipes that the host has made, the
//! kernel moves the bytes (splice) and the agent only says when; else they travel in frames. Errors end both directions.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType};
use rustix::pipe::{PipeFlags, SpliceFlags, splice};
use sandgate_wire::frame::Kind;
use sandgate_wire::message::Exit;
use sandgate_wire::mux::Mux;

/// Bytes moved in one direction before others get their turn.
const MAX_TURN: usize = 256 * 1024;

/// What a direction waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    /// Data.
    Source,
    /// Room for it.
    Sink,
    /// Nothing: it has ended.
    Done,
}

/// How data gets from and to the host.
#[derive(Debug)]
enum Way {
    Framed,
    /// The guest's ends of the host's pipes; `None` once a direction has ended.
    Passed {
        from_host: Option<OwnedFd>,
        to_host: Option<OwnedFd>,
    },
}

/// Which descriptor of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Port {
    /// The socket.
    Socket,
    /// The pipe from the host.
    FromHost,
    /// The pipe to the host.
    ToHost,
}

/// What to watch a descriptor for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interest {
    /// Tell when it can be read.
    pub read: bool,
    /// Tell when it can be written.
    pub write: bool,
    /// Tell when the other end has gone away altogether.
    pub hangup: bool,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    /// The link it belongs to.
    pub link: u64,
    /// Its stream there.
    pub stream: u32,
    /// `None` once both directions have ended.
    socket: Option<OwnedFd>,
    way: Way,
    /// From the host to the socket.
    inward: Half,
    /// From the socket to the host.
    outward: Half,
    error: Option<Errno>,
    exit_sent: bool,
}

impl Connection {
    /// Of a connected socket that does not block.
    pub fn new(link: u64, stream: u32, socket: OwnedFd, pipes: Option<[OwnedFd; 2]>) -> Self {
        let way = match pipes.filter(|_| can_splice()) {
            Some([from_host, to_host]) => {
                // The ends are open files of their own: nobody else sees this. Splicing does not wait even without it.
                let _ = rustix::io::ioctl_fionbio(&from_host, true);
                let _ = rustix::io::ioctl_fionbio(&to_host, true);
                Way::Passed { from_host: Some(from_host), to_host: Some(to_host) }
            }
            None => Way::Framed,
        };
        Self {
            link,
            stream,
            socket: Some(socket),
            way,
            inward: Half::Source,
            outward: Half::Source,
            error: None,
            exit_sent: false,
        }
    }

    /// Whether the data travels on the host's pipes.
    pub fn is_passed(&self) -> bool {
        matches!(self.way, Way::Passed { .. })
    }

    /// The descriptor behind a port, while it is open.
    pub fn port(&self, port: Port) -> Option<BorrowedFd<'_>> {
        let fd = match (&self.way, port) {
            (_, Port::Socket) => &self.socket,
            (Way::Passed { from_host, .. }, Port::FromHost) => from_host,
            (Way::Passed { to_host, .. }, Port::ToHost) => to_host,
            (Way::Framed, _) => return None,
        };
        fd.as_ref().map(AsFd::as_fd)
    }

    /// What to watch on a port now.
    pub fn interest(&self, port: Port, mux: &Mux) -> Interest {
        let (read, write) = match (&self.way, port) {
            (Way::Framed, Port::Socket) => (
                self.outward != Half::Done && mux.send_capacity(self.stream) > 0,
                self.inward != Half::Done && mux.readable(self.stream).0 > 0,
            ),
            (Way::Passed { .. }, Port::Socket) => (self.outward == Half::Source, self.inward == Half::Sink),
            (Way::Passed { .. }, Port::FromHost) => (self.inward == Half::Source, false),
            (Way::Passed { .. }, Port::ToHost) => (false, self.outward == Half::Sink),
            (Way::Framed, _) => (false, false),
        };
        // The other side may go away altogether after it has ended its direction: nothing can reach it then.
        let hangup = port == Port::Socket && self.outward == Half::Done && self.inward != Half::Done;
        Interest { read, write, hangup }
    }

    /// Something has happened on a port.
    pub fn on_event(&mut self, port: Port, readable: bool, writable: bool, hangup: bool, mux: &mut Mux) {
        match port {
            Port::FromHost => self.pump_in(mux),
            Port::ToHost => self.pump_out(mux),
            Port::Socket => {
                if writable || hangup {
                    self.pump_in(mux);
                }
                if readable || hangup {
                    self.pump_out(mux);
                }
                if hangup && self.outward == Half::Done && self.inward != Half::Done {
                    self.end_inward(mux);
                }
            }
        }
    }

    /// Moves data from the host to the socket.
    pub fn pump_in(&mut self, mux: &mut Mux) {
        let Some(socket) = self.socket.as_ref().filter(|_| self.inward != Half::Done) else { return };
        let result = match &self.way {
            Way::Framed => send_frames(self.stream, socket, mux),
            Way::Passed { from_host: Some(from), .. } => splice_in(from, socket),
            Way::Passed { from_host: None, .. } => return,
        };
        match result {
            Ok(Half::Done) => {
                let _ = rustix::net::shutdown(socket, Shutdown::Write);
                self.inward = Half::Done;
            }
            Ok(half) => self.inward = half,
            Err(e) => {
                // There may still be something to read. The kernel tells of a reset only once, so it is remembered.
                if e != Errno::PIPE {
                    self.error = Some(e);
                }
                self.end_inward(mux);
            }
        }
    }

    /// The other side reads no more.
    fn end_inward(&mut self, mux: &mut Mux) {
        self.inward = Half::Done;
        if let Way::Framed = self.way {
            mux.reader_gone(self.stream);
        }
    }

    /// Moves data from the socket to the host.
    pub fn pump_out(&mut self, mux: &mut Mux) {
        let Some(socket) = self.socket.as_ref().filter(|_| self.outward != Half::Done) else { return };
        let result = match &self.way {
            Way::Framed => receive_frames(self.stream, socket, mux),
            Way::Passed { to_host: Some(to), .. } => splice_out(socket, to),
            Way::Passed { to_host: None, .. } => return,
        };
        match result {
            Ok(Half::Done) => {
                // Over a pipe as well: its end alone could be the death of the agent.
                if self.error.is_none() {
                    mux.send_eof(self.stream);
                }
                self.outward = Half::Done;
            }
            Ok(half) => self.outward = half,
            Err(Errno::PIPE) => {
                // The host reads no more. Let the other side know when it writes.
                let _ = rustix::net::shutdown(socket, Shutdown::Read);
                self.outward = Half::Done;
            }
            Err(e) => {
                self.error = Some(e);
                self.outward = Half::Done;
                self.end_inward(mux);
            }
        }
    }

    /// The ports whose direction has ended; they are to be closed, after the caller has stopped watching them.
    pub fn finished_ports(&self) -> impl Iterator<Item = Port> + use<> {
        let (inward, outward) = (self.inward == Half::Done, self.outward == Half::Done);
        let ports = [(inward, Port::FromHost), (outward, Port::ToHost), (inward && outward, Port::Socket)];
        ports.into_iter().filter(|(done, _)| *done).map(|(_, port)| port)
    }

    /// Closes a port.
    pub fn close(&mut self, port: Port) {
        match (&mut self.way, port) {
            (_, Port::Socket) => self.socket = None,
            (Way::Passed { from_host, .. }, Port::FromHost) => *from_host = None,
            (Way::Passed { to_host, .. }, Port::ToHost) => *to_host = None,
            (Way::Framed, _) => {}
        }
    }

    /// Says how it ended, once both directions have.
    pub fn finish(&mut self, mux: &mut Mux) {
        if self.inward == Half::Done && self.outward == Half::Done && !self.exit_sent {
            self.exit_sent = true;
            let code = self.error.map_or(0, |e| e.raw_os_error().unsigned_abs());
            mux.send_exit(self.stream, &Exit::Code(code));
        }
    }
}

/// Frames to the socket.
fn send_frames(stream: u32, socket: &OwnedFd, mux: &mut Mux) -> Result<Half, Errno> {
    let mut moved = 0;
    loop {
        let data = mux.peek(stream, Kind::Stdin);
        if data.is_empty() {
            return Ok(if mux.peer_eof(stream) { Half::Done } else { Half::Source });
        }
        if moved >= MAX_TURN {
            return Ok(Half::Sink);
        }
        match rustix::net::send(socket, data, SendFlags::NOSIGNAL) {
            Ok(n) => {
                mux.take(stream, Kind::Stdin, n);
                moved += n;
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(Half::Sink),
            Err(e) => return Err(e),
        }
    }
}

/// The socket to frames, as far as credit and room in the output go.
fn receive_frames(stream: u32, socket: &OwnedFd, mux: &mut Mux) -> Result<Half, Errno> {
    let mut moved = 0;
    loop {
        if moved >= MAX_TURN || mux.send_capacity(stream) == 0 {
            // Asking with an empty room notes that credit is wanted.
            mux.send_with(stream, Kind::Stdout, |_| Ok::<_, Errno>(0))?;
            return Ok(Half::Source);
        }
        match mux.send_with(stream, Kind::Stdout, |room| rustix::io::read(socket, room)) {
            Ok(0) => return Ok(Half::Done),
            Ok(n) => moved += n,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(Half::Source),
            Err(e) => return Err(e),
        }
    }
}

fn splice_in(from: &OwnedFd, socket: &OwnedFd) -> Result<Half, Errno> {
    let end = splice_some(from, socket)?;
    Ok(end.unwrap_or_else(|| {
        // "Try again" does not say which end it was. A pipe at its end reads as readable, and then splicing never waits.
        if is_ready(from, PollFlags::IN) { Half::Sink } else { Half::Source }
    }))
}

fn splice_out(socket: &OwnedFd, to: &OwnedFd) -> Result<Half, Errno> {
    let end = splice_some(socket, to)?;
    Ok(end.unwrap_or_else(|| if is_ready(to, PollFlags::OUT) { Half::Source } else { Half::Sink }))
}

/// `Some` at the end of data and of a turn; `None` when an end is not ready.
fn splice_some(from: &OwnedFd, to: &OwnedFd) -> Result<Option<Half>, Errno> {
    let mut moved = 0;
    while moved < MAX_TURN {
        match splice(from, None, to, None, MAX_TURN, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
            Ok(0) => return Ok(Some(Half::Done)),
            Ok(n) => moved += n,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(e) => return Err(e),
        }
    }
    Ok(Some(Half::Source))
}

fn is_ready(fd: &OwnedFd, what: PollFlags) -> bool {
    let mut fds = [PollFd::new(fd, what)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&at_once)).is_ok_and(|n| n > 0)
}

/// Whether this kernel splices between pipes and sockets (a sandbox may have another one than Linux, or a filter). Tried once.
fn can_splice() -> bool {
    static RESULT: OnceLock<bool> = OnceLock::new();
    *RESULT.get_or_init(|| {
        let attempt = || -> Result<bool, Errno> {
            let (r, w) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            rustix::io::write(&w, b"x")?;
            let there = splice(&r, None, &a, None, 1, SpliceFlags::NONBLOCK)?;
            let back = splice(&b, None, &w, None, 1, SpliceFlags::NONBLOCK)?;
            Ok((there, back) == (1, 1))
        };
        attempt().unwrap_or(false)
    })
}
