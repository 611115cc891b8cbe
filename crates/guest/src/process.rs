//! A running process in the guest, as three independent halves.

use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use sandgate_wire::CAP_OUTPUT_GONE;
use sandgate_wire::frame::Kind;
use sandgate_wire::message::{CloseReason, Size};
use tokio::net::unix::pipe::{Receiver, Sender};

use crate::guest::lacks;
use crate::pipes::HostEnds;
use crate::shared::{Handle, State, park};
use crate::socket::Socket;
use crate::terminal::Master;
use crate::{ExitStatus, GuestError, WindowSize};

/// Bytes that are still read from a terminal after its shell has ended while somebody else holds it. The kernel keeps far less
/// than this, so everything that the shell's own programs wrote is in it.
const MAX_DRAIN: usize = 1024 * 1024;
/// Reads of output that nobody wants, of up to 4 KiB each, before others get their turn.
const DISCARDS_PER_TURN: usize = 64;

/// A process in the guest. Dropping all of its halves tells the agent that the client is gone: the process group gets SIGHUP,
/// then SIGTERM, then SIGKILL.
pub struct Process {
    /// What the process reads.
    pub input: ProcessInput,
    /// What the process writes, and how it ends.
    pub output: ProcessOutput,
    /// Resize, signals, hangup.
    pub control: ProcessControl,
}

/// The writing half: the standard input (or the keyboard of the terminal); of a [`Connection`](crate::Connection), what the other side
/// reads.
pub struct ProcessInput {
    kind: InputKind,
    /// The link ends with the last half. A connection without an agent in between has none.
    _handle: Option<Arc<Handle>>,
}

enum InputKind {
    Framed(Arc<Handle>),
    Pipe(Sender),
    Terminal(Arc<Master>),
    Socket(Socket),
    /// Shut down, or the reader has gone.
    Ended,
}

/// What [`ProcessOutput`] has to give next.
#[derive(Debug, Clone)]
pub enum Ready {
    /// Standard output (or the terminal's screen) may be read with [`ProcessOutput::try_read`].
    Stdout,
    /// Standard error may be read with [`ProcessOutput::try_read`].
    Stderr,
    /// The process has ended and all output has been read. Last, and repeated if asked again.
    Exit(ExitStatus),
    /// The link ended first. Last, and repeated if asked again.
    LinkLost(GuestError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
}

/// The reading half: output and exit.
pub struct ProcessOutput {
    handle: Arc<Handle>,
    /// The stream that was named last.
    current: Option<Stream>,
    kind: OutputKind,
    own: bool,
}

enum OutputKind {
    /// `discard` is set once nobody wants the output.
    Framed { discard: bool },
    /// A pipe is dropped at its end.
    Pipes { stdout: Option<Receiver>, stderr: Option<Receiver> },
    /// Held to the end of the session even when nothing more is read: to let go of it is to hang up.
    Terminal { master: Arc<Master>, screen: Screen, wanted: Wanted },
}

/// What is still to be read from a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Screen {
    /// Whatever comes.
    Live,
    /// The process has ended: what is there, with the bytes taken since. Who else holds the terminal does not count.
    Draining(usize),
    /// Nothing.
    Ended,
}

/// Whether anybody wants the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Yes,
    /// It is read and thrown away, so that the process can go on.
    No,
}

/// The controlling half. Never waits, and is never stuck behind standard input.
#[derive(Clone)]
pub struct ProcessControl {
    handle: Arc<Handle>,
    /// The terminal, if it is on our side. It ends with the other halves.
    terminal: Option<Weak<Master>>,
}

impl Process {
    pub(crate) fn new(handle: Handle, pipes: Option<HostEnds>, own: bool) -> Self {
        let handle = Arc::new(handle);
        let mut terminal = None;
        let (input, output) = match pipes {
            None => (InputKind::Framed(Arc::clone(&handle)), OutputKind::Framed { discard: false }),
            Some(HostEnds::Pipes { stdin, stdout, stderr }) => {
                (InputKind::Pipe(stdin), OutputKind::Pipes { stdout: Some(stdout), stderr: Some(stderr) })
            }
            Some(HostEnds::Terminal(master)) => {
                let master = Arc::new(master);
                terminal = Some(Arc::downgrade(&master));
                let output = OutputKind::Terminal {
                    master: Arc::clone(&master),
                    screen: Screen::Live,
                    wanted: Wanted::Yes,
                };
                (InputKind::Terminal(master), output)
            }
        };
        Self {
            input: ProcessInput { kind: input, _handle: Some(Arc::clone(&handle)) },
            output: ProcessOutput { handle: Arc::clone(&handle), current: None, kind: output, own },
            control: ProcessControl { handle, terminal },
        }
    }

    /// The three halves.
    pub fn split(self) -> (ProcessInput, ProcessOutput, ProcessControl) {
        (self.input, self.output, self.control)
    }
}

impl ProcessInput {
    /// The writing half of a connection.
    pub(crate) fn of_connection(handle: Arc<Handle>, pipe: Option<Sender>) -> Self {
        let kind = pipe.map_or_else(|| InputKind::Framed(Arc::clone(&handle)), InputKind::Pipe);
        Self { kind, _handle: Some(handle) }
    }

    /// The writing half of a connection that no agent stands in.
    pub(crate) fn of_socket(socket: Socket) -> Self {
        Self { kind: InputKind::Socket(socket), _handle: None }
    }

    /// Takes some bytes of `data` (at least one) or waits until the process has read earlier ones. `BrokenPipe` means that
    /// the process no longer reads its input: the caller should stop sending and discard what it has; the process lives on.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    /// As [`Self::poll_write`], from several slices in order, as by `writev(2)`.
    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(first) = slices.iter().find(|slice| !slice.is_empty()) else { return Poll::Ready(Ok(0)) };
        match &mut self.kind {
            InputKind::Ended => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            InputKind::Pipe(pipe) => loop {
                let result = match ready!(pipe.poll_write_ready(cx)) {
                    Ok(()) => pipe.try_write_vectored(slices),
                    Err(e) => Err(e),
                };
                match result {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) => {
                        self.kind = InputKind::Ended;
                        return Poll::Ready(Err(e));
                    }
                    ok => return Poll::Ready(ok),
                }
            },
            InputKind::Terminal(master) => {
                let result = ready!(master.poll_write(cx, first));
                Poll::Ready(result.map_err(|_| {
                    // Nobody has the terminal open any more.
                    self.kind = InputKind::Ended;
                    io::ErrorKind::BrokenPipe.into()
                }))
            }
            InputKind::Socket(socket) => {
                let result = ready!(socket.poll_write_vectored(cx, slices));
                Poll::Ready(result.map_err(|_| {
                    // Reset, or read no more.
                    self.kind = InputKind::Ended;
                    io::ErrorKind::BrokenPipe.into()
                }))
            }
            InputKind::Framed(handle) => {
                let mut state = handle.shared.lock();
                if state.reader_gone || state.exit.is_some() {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                if let Some(error) = &state.lost {
                    return Poll::Ready(Err(error.clone().into()));
                }
                let id = state.stream;
                let n = state.mux.send_data(id, Kind::Stdin, first);
                if n == 0 {
                    park(&mut state.input_waker, cx);
                    return Poll::Pending;
                }
                handle.shared.flush(&mut state);
                Poll::Ready(Ok(n))
            }
        }
    }

    /// Ready once the process has ended while others may hold its standard input, which is closed by it: as with sshd, they see its end.
    /// Only for a pipe on our side; the agent does it for its own.
    pub fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (InputKind::Pipe(_), Some(handle)) = (&self.kind, &self._handle) else { return Poll::Pending };
        let mut state = handle.shared.lock();
        if state.exit.is_none() {
            park(&mut state.input_waker, cx);
            return Poll::Pending;
        }
        drop(state);
        self.kind = InputKind::Ended;
        Poll::Ready(())
    }

    /// End of input: the process sees EOF after everything written so far. On a terminal nothing happens, as with sshd.
    pub fn poll_shutdown(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.kind {
            InputKind::Framed(handle) => {
                let mut state = handle.shared.lock();
                let id = state.stream;
                state.mux.send_eof(id);
                handle.shared.flush(&mut state);
            }
            InputKind::Socket(socket) => socket.shut_down(),
            InputKind::Pipe(_) | InputKind::Terminal(_) | InputKind::Ended => {}
        }
        self.kind = InputKind::Ended;
        Poll::Ready(Ok(()))
    }

    /// Writes all of `data`; see [`Self::poll_write`].
    pub async fn write_all(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let n = poll_fn(|cx| self.poll_write(cx, data)).await?;
            data = data.get(n..).unwrap_or_default();
        }
        Ok(())
    }

    /// See [`Self::poll_shutdown`].
    pub async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_shutdown(cx)).await
    }
}

impl ProcessOutput {
    /// Waits for output, the exit, or the end of the link.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Ready> {
        // The stream that was not served last is asked first, so that neither starves the other.
        let order = match self.current {
            Some(Stream::Stdout) => [Stream::Stderr, Stream::Stdout],
            _ => [Stream::Stdout, Stream::Stderr],
        };
        let mut at_end = true;
        if let OutputKind::Pipes { stdout, stderr } = &mut self.kind {
            for stream in order {
                let pipe = match stream {
                    Stream::Stdout => &mut *stdout,
                    Stream::Stderr => &mut *stderr,
                };
                match pipe.as_ref().map(|p| p.poll_read_ready(cx)) {
                    None => {}
                    Some(Poll::Pending) => at_end = false,
                    Some(Poll::Ready(Ok(()))) => return Poll::Ready(self.named(stream)),
                    Some(Poll::Ready(Err(_))) => *pipe = None,
                }
            }
        }
        if let OutputKind::Terminal { master, screen: screen @ Screen::Live, wanted } = &mut self.kind {
            let more = match wanted {
                Wanted::Yes => master.poll_read_ready(cx).map_ok(|()| true),
                Wanted::No => poll_discard(master, cx),
            };
            match more {
                Poll::Pending => {}
                Poll::Ready(Ok(true)) => return Poll::Ready(self.named(Stream::Stdout)),
                Poll::Ready(Ok(false) | Err(_)) => *screen = Screen::Ended,
            }
        }
        let mut state = self.handle.shared.lock();
        if let OutputKind::Terminal { screen, wanted, .. } = &mut self.kind
            && *screen != Screen::Ended
        {
            at_end = false;
            if state.exit.is_some() && *wanted == Wanted::No {
                (at_end, *screen) = (true, Screen::Ended);
            } else if state.exit.is_some() {
                if *screen == Screen::Live {
                    *screen = Screen::Draining(0);
                }
                drop(state);
                return Poll::Ready(self.named(Stream::Stdout));
            }
        }
        if let OutputKind::Framed { discard } = self.kind {
            if discard {
                // An agent that cannot be told to stop.
                throw_away(&mut state);
                self.handle.shared.flush(&mut state);
            }
            let (out, err) = state.mux.readable(state.stream);
            for stream in order {
                let waiting = if stream == Stream::Stdout { out } else { err };
                if waiting > 0 {
                    drop(state);
                    return Poll::Ready(self.named(stream));
                }
            }
        }
        if at_end && let Some(exit) = state.exit.clone() {
            drop(state);
            self.handle.shared.close(CloseReason::Done);
            return Poll::Ready(Ready::Exit(exit));
        }
        // With an exit in hand the end of the link is no loss: pipes may still be open in a background child.
        if state.exit.is_none()
            && let Some(error) = &state.lost
        {
            return Poll::Ready(Ready::LinkLost(error.clone()));
        }
        park(&mut state.output_waker, cx);
        Poll::Pending
    }

    fn named(&mut self, stream: Stream) -> Ready {
        self.current = Some(stream);
        match stream {
            Stream::Stdout => Ready::Stdout,
            Stream::Stderr => Ready::Stderr,
        }
    }

    /// Reads from the stream that [`Self::poll_ready`] named last. `WouldBlock` means: ask `poll_ready` again (also at the end
    /// of that stream). Never `Ok(0)`, unless there is no room in `bufs`, which are filled in order as by `readv(2)`.
    pub fn try_read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let room = bufs.iter().any(|buf| !buf.is_empty());
        let Some(current) = self.current else { return Err(io::ErrorKind::WouldBlock.into()) };
        match &mut self.kind {
            OutputKind::Pipes { stdout, stderr } => {
                let pipe = if current == Stream::Stdout { stdout } else { stderr };
                let Some(open) = pipe else { return Err(io::ErrorKind::WouldBlock.into()) };
                match open.try_read_vectored(bufs) {
                    Ok(0) if room => {
                        *pipe = None;
                        Err(io::ErrorKind::WouldBlock.into())
                    }
                    Err(e) if e.kind() != io::ErrorKind::WouldBlock => {
                        *pipe = None;
                        Err(io::ErrorKind::WouldBlock.into())
                    }
                    other => other,
                }
            }
            OutputKind::Terminal { master, screen, .. } => {
                let result = match screen {
                    Screen::Live => match master.try_read_vectored(bufs) {
                        // Nobody has the terminal open any more; that it is empty is a question of its own.
                        Err(e) if e.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                            master.read_rest(bufs)
                        }
                        other => other,
                    },
                    Screen::Draining(_) => master.read_rest(bufs),
                    Screen::Ended => return Err(io::ErrorKind::WouldBlock.into()),
                };
                match (result, &mut *screen) {
                    (Ok(n), Screen::Draining(taken)) if n > 0 => {
                        *taken = taken.saturating_add(n);
                        if *taken > MAX_DRAIN {
                            *screen = Screen::Ended;
                        }
                        Ok(n)
                    }
                    (Ok(n), _) if n > 0 || !room => Ok(n),
                    (Err(e), _) if e.kind() == io::ErrorKind::Interrupted => {
                        Err(io::ErrorKind::WouldBlock.into())
                    }
                    (Err(e), Screen::Live) if e.kind() == io::ErrorKind::WouldBlock => Err(e),
                    // Read empty after the process's end, or (EIO) nobody has the terminal open any more.
                    _ => {
                        *screen = Screen::Ended;
                        Err(io::ErrorKind::WouldBlock.into())
                    }
                }
            }
            OutputKind::Framed { .. } => {
                let kind = if current == Stream::Stdout { Kind::Stdout } else { Kind::Stderr };
                let n = self.handle.shared.read_frames(kind, bufs);
                if n == 0 && room { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
            }
        }
    }

    /// Nobody wants the standard output any more: the process gets SIGPIPE, or EPIPE if it ignores that, when it next writes there, and
    /// [`Self::poll_ready`] gives only standard error and the exit. An agent without [`CAP_OUTPUT_GONE`] sends the signal at once, and
    /// what still comes is thrown away. A terminal has no SIGPIPE and is left alone.
    pub fn close(&mut self) -> Result<(), GuestError> {
        self.current = None;
        match &mut self.kind {
            OutputKind::Pipes { stdout, .. } => {
                *stdout = None;
                Ok(())
            }
            OutputKind::Terminal { wanted, .. } => {
                *wanted = Wanted::No;
                Ok(())
            }
            OutputKind::Framed { discard } => {
                *discard = true;
                let told = !lacks(&self.handle, CAP_OUTPUT_GONE);
                self.handle.shared.control(|state| {
                    let id = state.stream;
                    if told {
                        state.mux.reader_gone(id);
                    } else {
                        state.mux.send_signal(id, "PIPE");
                    }
                })
            }
        }
    }

    /// Whether this is the agent's own file server: its standard error holds a line for each change, and nothing for a person.
    /// Also true when a command was to run `scp` and the image has none.
    pub fn is_file_server(&self) -> bool {
        self.own
    }

    /// Takes standard error out, as a non-blocking descriptor, for who reads it in their own time: [`Self::poll_ready`] names it no
    /// more, and the exit no longer waits for its end. `None` where it comes in frames, or has ended.
    pub fn take_stderr(&mut self) -> Option<OwnedFd> {
        match &mut self.kind {
            OutputKind::Framed { .. } | OutputKind::Terminal { .. } => None,
            OutputKind::Pipes { stderr, .. } => stderr.take()?.into_nonblocking_fd().ok(),
        }
    }

    /// Whether data comes over passed pipes or a passed terminal and not in frames; for logs and measurements.
    pub fn is_passed(&self) -> bool {
        !matches!(self.kind, OutputKind::Framed { .. })
    }

    /// As [`Self::try_read_vectored`], into one buffer.
    pub fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.try_read_vectored(&mut [IoSliceMut::new(buf)])
    }

    /// See [`Self::poll_ready`].
    pub async fn ready(&mut self) -> Ready {
        poll_fn(|cx| self.poll_ready(cx)).await
    }
}

/// Takes and forgets what a terminal shows. `Ok(false)` at its end.
fn poll_discard(master: &Master, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
    let mut scratch = [0; 4096];
    for _ in 0..DISCARDS_PER_TURN {
        ready!(master.poll_read_ready(cx))?;
        match master.try_read_vectored(&mut [IoSliceMut::new(&mut scratch)]) {
            Ok(0) => return Poll::Ready(Ok(false)),
            Err(e) if !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Poll::Ready(Err(e));
            }
            _ => {}
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Takes and forgets all standard output at hand, which gives the agent its credit back.
fn throw_away(state: &mut State) {
    let mut scratch = [0; 4096];
    while state.mux.read(state.stream, Kind::Stdout, &mut scratch) > 0 {}
}

impl ProcessControl {
    /// The terminal has a new size. Sizes that were not sent yet are replaced.
    pub fn resize(&self, size: WindowSize) -> Result<(), GuestError> {
        if let Some(terminal) = &self.terminal {
            terminal.upgrade().iter().for_each(|master| master.resize(size));
            return Ok(());
        }
        let WindowSize { cols, rows, xpixel, ypixel } = size;
        self.handle.shared.resize(Size { cols, rows, xpixel, ypixel })
    }

    /// Sends a signal by name without `SIG` (RFC 4254 section 6.9) to the process group; with a terminal, to the foreground group.
    pub fn signal(&self, name: &str) -> Result<(), GuestError> {
        let mut known = true;
        self.handle.shared.control(|state| {
            let id = state.stream;
            known = state.mux.send_signal(id, name);
        })?;
        if known { Ok(()) } else { Err(GuestError::Limit("this is not a signal name")) }
    }

    /// A serial break of `millis` milliseconds on the terminal (RFC 4335).
    pub fn send_break(&self, millis: u32) -> Result<(), GuestError> {
        if let Some(terminal) = &self.terminal {
            terminal.upgrade().iter().for_each(|master| master.send_break());
            return Ok(());
        }
        self.handle.shared.control(|state| {
            let id = state.stream;
            state.mux.send_break(id, millis);
        })
    }

    /// The client is gone: SIGHUP, SIGTERM, SIGKILL, although the halves are still held.
    pub fn hangup(&self) {
        self.handle.shared.close(CloseReason::Gone);
    }
}
