//! A running process in the guest, as three independent halves.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use sandgate_wire::frame::Kind;
use sandgate_wire::message::{CloseReason, Size};
use tokio::net::unix::pipe::{Receiver, Sender};

use crate::pipes::HostEnds;
use crate::shared::{Handle, State, park};
use crate::{ExitStatus, GuestError, WindowSize};

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

/// The writing half: the standard input (or the keyboard of the terminal).
pub struct ProcessInput {
    handle: Arc<Handle>,
    kind: InputKind,
}

enum InputKind {
    Framed,
    Pipe(Sender),
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
}

enum OutputKind {
    /// `discard` is set once nobody wants the output.
    Framed { discard: bool },
    /// A pipe is dropped at its end.
    Pipes { stdout: Option<Receiver>, stderr: Option<Receiver> },
}

/// The controlling half. Never waits, and is never stuck behind standard input.
#[derive(Clone)]
pub struct ProcessControl {
    handle: Arc<Handle>,
}

impl Process {
    pub(crate) fn new(handle: Handle, pipes: Option<HostEnds>) -> Self {
        let handle = Arc::new(handle);
        let (input, output) = match pipes {
            None => (InputKind::Framed, OutputKind::Framed { discard: false }),
            Some(HostEnds { stdin, stdout, stderr }) => {
                (InputKind::Pipe(stdin), OutputKind::Pipes { stdout: Some(stdout), stderr: Some(stderr) })
            }
        };
        Self {
            input: ProcessInput { handle: Arc::clone(&handle), kind: input },
            output: ProcessOutput { handle: Arc::clone(&handle), current: None, kind: output },
            control: ProcessControl { handle },
        }
    }

    /// The three halves.
    pub fn split(self) -> (ProcessInput, ProcessOutput, ProcessControl) {
        (self.input, self.output, self.control)
    }
}

impl ProcessInput {
    /// Takes some bytes of `data` (at least one) or waits until the process has read earlier ones. `BrokenPipe` means that
    /// the process no longer reads its input: the caller should stop sending and discard what it has; the process lives on.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        match &mut self.kind {
            InputKind::Ended => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            InputKind::Pipe(pipe) => loop {
                let result = match ready!(pipe.poll_write_ready(cx)) {
                    Ok(()) => pipe.try_write(data),
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
            InputKind::Framed => {
                let mut state = self.handle.shared.lock();
                if state.reader_gone || state.exit.is_some() {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                if let Some(error) = &state.lost {
                    return Poll::Ready(Err(error.clone().into()));
                }
                let id = state.stream;
                let n = state.mux.send_data(id, Kind::Stdin, data);
                if n == 0 {
                    park(&mut state.input_waker, cx);
                    return Poll::Pending;
                }
                self.handle.shared.flush(&mut state);
                Poll::Ready(Ok(n))
            }
        }
    }

    /// End of input: the process sees EOF after everything written so far. On a terminal nothing happens, as with sshd.
    pub fn poll_shutdown(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let InputKind::Framed = self.kind {
            let mut state = self.handle.shared.lock();
            let id = state.stream;
            state.mux.send_eof(id);
            self.handle.shared.flush(&mut state);
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
        let mut state = self.handle.shared.lock();
        if let OutputKind::Framed { discard } = self.kind {
            if discard {
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
    /// of that stream). Never `Ok(0)`, unless `buf` is empty.
    pub fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(current) = self.current else { return Err(io::ErrorKind::WouldBlock.into()) };
        match &mut self.kind {
            OutputKind::Pipes { stdout, stderr } => {
                let pipe = if current == Stream::Stdout { stdout } else { stderr };
                let Some(open) = pipe else { return Err(io::ErrorKind::WouldBlock.into()) };
                match open.try_read(buf) {
                    Ok(0) if !buf.is_empty() => {
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
            OutputKind::Framed { .. } => {
                let kind = if current == Stream::Stdout { Kind::Stdout } else { Kind::Stderr };
                let mut state = self.handle.shared.lock();
                let id = state.stream;
                let n = state.mux.read(id, kind, buf);
                // Taking data may have made credit for the agent.
                if !state.mux.output().is_empty() {
                    self.handle.shared.flush(&mut state);
                }
                if n == 0 && !buf.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
            }
        }
    }

    /// Nobody wants the output any more: the process gets SIGPIPE when it next writes, and [`Self::poll_ready`] gives only
    /// the exit. Where output comes in frames the signal is sent at once and what still comes is thrown away, except for a
    /// terminal, which has no SIGPIPE and is left alone.
    pub fn close(&mut self) -> Result<(), GuestError> {
        self.current = None;
        match &mut self.kind {
            OutputKind::Pipes { stdout, stderr } => {
                (*stdout, *stderr) = (None, None);
                Ok(())
            }
            OutputKind::Framed { discard } => {
                *discard = true;
                self.handle.shared.control(|state| {
                    let id = state.stream;
                    state.mux.send_signal(id, "PIPE");
                })
            }
        }
    }

    /// Whether data comes over passed pipes and not in frames; for logs and measurements.
    pub fn is_passed(&self) -> bool {
        matches!(self.kind, OutputKind::Pipes { .. })
    }

    /// See [`Self::poll_ready`].
    pub async fn ready(&mut self) -> Ready {
        poll_fn(|cx| self.poll_ready(cx)).await
    }
}

/// Takes and forgets all output at hand, which gives the agent its credit back.
fn throw_away(state: &mut State) {
    let mut scratch = [0; 4096];
    let id = state.stream;
    for kind in [Kind::Stdout, Kind::Stderr] {
        while state.mux.read(id, kind, &mut scratch) > 0 {}
    }
}

impl ProcessControl {
    /// The terminal has a new size. Sizes that were not sent yet are replaced.
    pub fn resize(&self, size: WindowSize) -> Result<(), GuestError> {
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
