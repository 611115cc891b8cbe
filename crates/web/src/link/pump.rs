//! Moving bytes between a link and what its stream stands for.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use sandgate_gateway::recording::{Direction, Recorder};
use sandgate_gateway::session::{SessionOutput, Traffic};
use sandgate_guest::{
    ConnectionOutput, ConnectionReady, ExitStatus, GuestError, ProcessControl, ProcessInput, Ready,
    WindowSize,
};
use sandgate_wire::frame::Kind;
use sandgate_wire::message::Reason;
use sandgate_wire::mux::Event;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, ReadHalf, WriteHalf};

use super::io::{Gone, Link};
use super::wire_exit;

/// Steps in one turn, so that a process which floods cannot keep a thread.
const STEPS_PER_TURN: usize = 64;

/// How the moving ended.
pub(super) enum PumpEnd {
    /// All output was sent, and the exit.
    Exited(ExitStatus),
    /// The guest was lost.
    Lost(GuestError),
    /// Somebody ended it from our side.
    Cut(String),
    /// The client.
    Gone(Gone),
}

/// What a source of output has to give next.
pub(super) enum Next {
    Data(Kind),
    /// No more data; what goes the other way lives on.
    Eof,
    Exit(ExitStatus),
    Lost(GuestError),
}

/// What a stream stands for, as far as it gives something and is controlled.
pub(super) trait Source {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next>;
    fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize>;
    fn control(&mut self, _event: &Event) {}
    /// After [`Next::Eof`] and the end of the input: whether what was written has been taken.
    fn poll_over(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

/// What a stream stands for, as far as it takes something.
pub(super) trait Sink {
    /// An error means that it takes no more.
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>>;
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Ready once it takes no more although nothing is written.
    fn poll_ended(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl Sink for ProcessInput {
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ProcessInput::poll_write(self, cx, data)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ProcessInput::poll_shutdown(self, cx)
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ProcessInput::poll_ended(self, cx)
    }
}

/// A process of the session core.
pub(super) struct Process {
    pub(super) output: SessionOutput,
    pub(super) control: ProcessControl,
}

impl Source for Process {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        self.output.poll_ready(cx).map(|ready| match ready {
            Ready::Stdout => Next::Data(Kind::Stdout),
            Ready::Stderr => Next::Data(Kind::Stderr),
            Ready::Exit(status) => Next::Exit(status),
            Ready::LinkLost(error) => Next::Lost(error),
        })
    }

    fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.output.try_read(buf)
    }

    fn control(&mut self, event: &Event) {
        let done = match event {
            Event::Resize(_, size) => {
                self.output.resized(size.cols, size.rows);
                self.control.resize(WindowSize {
                    cols: size.cols,
                    rows: size.rows,
                    xpixel: size.xpixel,
                    ypixel: size.ypixel,
                })
            }
            Event::Signal(_, name) => self.control.signal(name),
            Event::Break(_, millis) => self.control.send_break(*millis),
            Event::ReaderGone(_) => self.output.close(),
            _ => return,
        };
        if let Err(error) = done {
            tracing::debug!(%error, "request not passed on");
        }
    }
}

/// A connection in the guest.
pub(super) struct Stream {
    pub(super) output: ConnectionOutput,
    /// What it is recorded by.
    pub(super) recorder: Option<Recorder>,
}

impl Source for Stream {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        self.output.poll_ready(cx).map(|ready| match ready {
            ConnectionReady::Data => Next::Data(Kind::Stdout),
            ConnectionReady::End => Next::Eof,
            ConnectionReady::Lost(error) => Next::Lost(error),
        })
    }

    fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.output.try_read(buf)?;
        if let Some(recorder) = &self.recorder {
            recorder.passed(Direction::Out, [&*buf], read);
        }
        Ok(read)
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.output.poll_over(cx)
    }
}

/// One half of a pipe inside this program.
pub(super) struct PipeSource {
    pub(super) half: ReadHalf<DuplexStream>,
    /// What was read and not given yet; at most [`PIECE`] bytes.
    pub(super) piece: Vec<u8>,
}

/// Bytes taken from a pipe at once: messages to and from an agent are small.
const PIECE: usize = 4 * 1024;

impl Source for PipeSource {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        if self.piece.is_empty() {
            let mut space = [0; PIECE];
            let mut room = ReadBuf::new(&mut space);
            match Pin::new(&mut self.half).poll_read(cx, &mut room) {
                Poll::Ready(Ok(())) if !room.filled().is_empty() => self.piece = room.filled().to_vec(),
                Poll::Ready(_) => return Poll::Ready(Next::Eof),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Next::Data(Kind::Stdout))
    }

    fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = buf.len().min(self.piece.len());
        buf[..count].copy_from_slice(&self.piece[..count]);
        self.piece.drain(..count);
        Ok(count)
    }
}

impl Sink for WriteHalf<DuplexStream> {
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(self), cx, data)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(self), cx)
    }
}

/// Moves bytes both ways until the process has ended, both directions of the connection have, or the client has gone. The exit is in the link's
/// output then, and not flushed.
pub(super) async fn pump<S: AsyncRead + AsyncWrite + Unpin>(
    link: &mut Link<S>,
    stream: u32,
    input: impl Sink,
    source: &mut impl Source,
    traffic: &Traffic,
) -> PumpEnd {
    let mut input = Some(input);
    let mut output_ended = false;
    poll_fn(|cx| {
        for _ in 0..STEPS_PER_TURN {
            let mut moved = match link.poll_io(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(gone)) => return Poll::Ready(PumpEnd::Gone(gone)),
                Poll::Pending => false,
            };
            while let Some(event) = link.mux.poll_event() {
                match event {
                    Event::Closed(id, _) if id == stream => return Poll::Ready(PumpEnd::Gone(Gone::Closed)),
                    Event::Open(other, _) => {
                        link.mux.refuse(other, Reason::TooMany, "a link serves one request");
                        moved = true;
                    }
                    event => source.control(&event),
                }
            }
            if let Some(open) = &mut input {
                match take_input(link, stream, open, traffic, cx) {
                    Poll::Ready(Input::Taken) => moved = true,
                    Poll::Ready(Input::Ended) => {
                        input = None;
                        moved = true;
                    }
                    Poll::Pending => {}
                }
            }
            if !output_ended {
                match give_output(link, stream, source, traffic, cx) {
                    Poll::Ready(Output::Given) => moved = true,
                    Poll::Ready(Output::Eof) => {
                        link.mux.send_eof(stream);
                        output_ended = true;
                        moved = true;
                    }
                    Poll::Ready(Output::Exit(status)) => {
                        link.mux.send_exit(stream, &wire_exit(&status));
                        return Poll::Ready(PumpEnd::Exited(status));
                    }
                    Poll::Ready(Output::Lost(error)) => return Poll::Ready(PumpEnd::Lost(error)),
                    Poll::Pending => {}
                }
            }
            // Ending earlier would throw away what is still on its way inside.
            if output_ended && input.is_none() && source.poll_over(cx).is_ready() {
                let status = ExitStatus::Code(0);
                link.mux.send_exit(stream, &wire_exit(&status));
                return Poll::Ready(PumpEnd::Exited(status));
            }
            if !moved {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

enum Input {
    Taken,
    Ended,
}

fn take_input<S: AsyncRead + AsyncWrite + Unpin>(
    link: &mut Link<S>,
    stream: u32,
    input: &mut impl Sink,
    traffic: &Traffic,
    cx: &mut Context<'_>,
) -> Poll<Input> {
    if input.poll_ended(cx).is_ready() {
        link.mux.reader_gone(stream);
        return Poll::Ready(Input::Ended);
    }
    let data = link.mux.peek(stream, Kind::Stdin);
    if data.is_empty() {
        if !link.mux.peer_eof(stream) {
            return Poll::Pending;
        }
        // A process that is gone has no use for an EOF.
        return input.poll_shutdown(cx).map(|_| Input::Ended);
    }
    match input.poll_write(cx, data) {
        Poll::Ready(Ok(taken)) => {
            traffic.took([data], taken);
            link.mux.take(stream, Kind::Stdin, taken);
            Poll::Ready(Input::Taken)
        }
        Poll::Ready(Err(_)) => {
            // The client stops sending; what is under way is thrown away with credit.
            link.mux.reader_gone(stream);
            Poll::Ready(Input::Ended)
        }
        Poll::Pending => Poll::Pending,
    }
}

enum Output {
    Given,
    Eof,
    Exit(ExitStatus),
    Lost(GuestError),
}

fn give_output<S: AsyncRead + AsyncWrite + Unpin>(
    link: &mut Link<S>,
    stream: u32,
    source: &mut impl Source,
    traffic: &Traffic,
    cx: &mut Context<'_>,
) -> Poll<Output> {
    if link.mux.send_capacity(stream) == 0 {
        // Credit or room comes by way of the link, which wakes us.
        return Poll::Pending;
    }
    let kind = match source.poll_next(cx) {
        Poll::Ready(Next::Data(kind)) => kind,
        Poll::Ready(Next::Eof) => return Poll::Ready(Output::Eof),
        Poll::Ready(Next::Exit(status)) => return Poll::Ready(Output::Exit(status)),
        Poll::Ready(Next::Lost(error)) => return Poll::Ready(Output::Lost(error)),
        Poll::Pending => return Poll::Pending,
    };
    match link.mux.send_with(stream, kind, |room| source.try_read(room)) {
        Ok(given) => {
            traffic.bytes_out.fetch_add(given as u64, Ordering::Relaxed);
            Poll::Ready(Output::Given)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Ready(Output::Given),
        Err(error) => Poll::Ready(Output::Lost(GuestError::Io(error.to_string()))),
    }
}
