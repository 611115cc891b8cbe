//! A connection in the guest, as two independent halves.

use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::sync::Arc;
use std::task::{Context, Poll};

use sandgate_wire::frame::Kind;
use sandgate_wire::message::CloseReason;
use tokio::net::TcpStream;
use tokio::net::unix::pipe::Receiver;

use crate::pipes::ConnectionEnds;
use crate::shared::{Handle, park};
use crate::socket::{Over, Socket};
use crate::{ExitStatus, GuestError, ProcessInput};

/// A connection in the guest: dialed there, or taken from a [`Listener`](crate::Listener). Each half ends on its own. Dropping both
/// closes it.
pub struct Connection {
    /// What the other side reads. [`ProcessInput::poll_shutdown`] is passed on as the end of data in this direction;
    /// `BrokenPipe` means that the other side reads no more, while the other half lives on.
    pub input: ProcessInput,
    /// What the other side writes.
    pub output: ConnectionOutput,
}

/// What [`ConnectionOutput`] has to give next.
#[derive(Debug, Clone)]
pub enum ConnectionReady {
    /// Data may be read with [`ConnectionOutput::try_read_vectored`].
    Data,
    /// The other side has ended its direction and all of it has been read. The writing half lives on. Last, and repeated if asked again.
    End,
    /// The connection was reset ([`GuestError::Reset`]), or the way to it was lost. Last, and repeated if asked again.
    Lost(GuestError),
}

/// The reading half.
pub struct ConnectionOutput {
    kind: OutputKind,
    /// What was said last, once that is for good.
    end: Option<ConnectionReady>,
}

enum OutputKind {
    Framed(Arc<Handle>),
    /// Dropped at its end.
    Pipe(Option<Receiver>, Arc<Handle>),
    /// No agent stands in it. The second is there once somebody waits for the end of both directions.
    Socket(Socket, Option<Over>),
}

impl Connection {
    pub(crate) fn new(handle: Arc<Handle>, ends: Option<ConnectionEnds>) -> Self {
        let (input, kind) = match ends {
            Some(ConnectionEnds { input, output }) => {
                (Some(input), OutputKind::Pipe(Some(output), Arc::clone(&handle)))
            }
            None => (None, OutputKind::Framed(Arc::clone(&handle))),
        };
        Self {
            input: ProcessInput::of_connection(handle, input),
            output: ConnectionOutput { kind, end: None },
        }
    }

    /// One that no agent stands in.
    pub(crate) fn direct(stream: TcpStream) -> Self {
        let socket = Socket::new(stream);
        Self {
            input: ProcessInput::of_socket(socket.clone()),
            output: ConnectionOutput { kind: OutputKind::Socket(socket, None), end: None },
        }
    }

    /// The two halves.
    pub fn split(self) -> (ProcessInput, ConnectionOutput) {
        (self.input, self.output)
    }
}

impl ConnectionOutput {
    /// Waits for data, the end of it, or the loss of the connection.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionReady> {
        if let Some(end) = &self.end {
            return Poll::Ready(end.clone());
        }
        let mut drained = true;
        let (handle, framed) = match &mut self.kind {
            OutputKind::Socket(socket, _) => {
                // Its end is found by reading.
                return socket.poll_read_ready(cx).map(|_| ConnectionReady::Data);
            }
            OutputKind::Pipe(pipe, handle) => {
                match pipe.as_ref().map(|p| p.poll_read_ready(cx)) {
                    None => {}
                    Some(Poll::Ready(Ok(()))) => return Poll::Ready(ConnectionReady::Data),
                    Some(Poll::Ready(Err(_))) => *pipe = None,
                    Some(Poll::Pending) => drained = false,
                }
                (handle, false)
            }
            OutputKind::Framed(handle) => (handle, true),
        };
        let mut state = handle.shared.lock();
        let id = state.stream;
        if framed && state.mux.readable(id).0 > 0 {
            return Poll::Ready(ConnectionReady::Data);
        }
        // The end of a pipe alone says nothing: it comes with the death of the agent as well. The agent's word decides.
        let end = match &state.exit {
            Some(ExitStatus::Code(0)) if drained => ConnectionReady::End,
            Some(_) if drained => ConnectionReady::Lost(GuestError::Reset),
            None if drained && state.mux.peer_eof(id) => ConnectionReady::End,
            None if state.lost.is_some() => {
                ConnectionReady::Lost(state.lost.clone().unwrap_or(GuestError::LinkLost))
            }
            _ => {
                park(&mut state.output_waker, cx);
                return Poll::Pending;
            }
        };
        let is_over = state.exit.is_some();
        drop(state);
        if is_over {
            handle.shared.close(CloseReason::Done);
        }
        self.end = Some(end.clone());
        Poll::Ready(end)
    }

    /// Reads after [`Self::poll_ready`] has said that there is data. `WouldBlock` means: ask `poll_ready` again (also at the end).
    /// Never `Ok(0)`, unless there is no room in `bufs`, which are filled in order as by `readv(2)`.
    pub fn try_read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let room = bufs.iter().any(|buf| !buf.is_empty());
        match &mut self.kind {
            OutputKind::Socket(socket, _) => {
                let end = match socket.try_read_vectored(bufs) {
                    Ok(0) if room => ConnectionReady::End,
                    Err(e) if !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                        ConnectionReady::Lost(GuestError::Reset)
                    }
                    other => return other.map_err(|_| io::ErrorKind::WouldBlock.into()),
                };
                self.end = Some(end);
                Err(io::ErrorKind::WouldBlock.into())
            }
            OutputKind::Pipe(pipe, _) => {
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
            OutputKind::Framed(handle) => match handle.shared.read_frames(Kind::Stdout, bufs) {
                0 if room => Err(io::ErrorKind::WouldBlock.into()),
                n => Ok(n),
            },
        }
    }

    /// As [`Self::try_read_vectored`], into one buffer.
    pub fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.try_read_vectored(&mut [IoSliceMut::new(buf)])
    }

    /// See [`Self::poll_ready`].
    pub async fn ready(&mut self) -> ConnectionReady {
        poll_fn(|cx| self.poll_ready(cx)).await
    }

    /// Waits, after [`Self::poll_ready`] has said [`ConnectionReady::End`], until the other direction is over as well: the other side
    /// has taken all that was written to it, or is gone and takes no more.
    pub fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let handle = match &mut self.kind {
            OutputKind::Socket(socket, over) => {
                if over.is_none() {
                    *over = socket.over().ok();
                }
                // Without a descriptor to spare nobody waits.
                return over.as_ref().map_or(Poll::Ready(()), |over| over.poll(cx));
            }
            OutputKind::Pipe(_, handle) | OutputKind::Framed(handle) => handle,
        };
        let mut state = handle.shared.lock();
        if state.exit.is_none() && state.lost.is_none() {
            park(&mut state.output_waker, cx);
            return Poll::Pending;
        }
        drop(state);
        handle.shared.close(CloseReason::Done);
        Poll::Ready(())
    }

    /// Whether data comes over passed pipes or a socket and not in frames; for logs and measurements.
    pub fn is_passed(&self) -> bool {
        !matches!(self.kind, OutputKind::Framed(_))
    }
}
