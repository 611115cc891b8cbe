//! One link with one stream on it, shared by the halves of a process and a task that does the I/O.
//!
//! The protocol state sits behind a lock that is held for short, never-waiting steps. On a Unix socket a half writes to the link
//! itself when the socket has room, so a key press does not wait for another task to be scheduled; everything else is the driver's work.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use sandgate_wire::CAP_PING;
use sandgate_wire::frame::Kind;
use sandgate_wire::keepalive::{Keepalive, Tick, Watch};
use sandgate_wire::message::{CloseReason, Exit, Hello, Incoming, Open, Opened, Reason, Refused, Size};
use sandgate_wire::mux::{Event, Mux, MuxError, Role};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::{ByteStream, Dial, ExitStatus, GuestError, Link};

/// Name and version in the hello.
pub(crate) const SOFTWARE: &str = concat!("sandgate ", env!("CARGO_PKG_VERSION"));
/// Size of the scratch buffer for reading, one per thread, in bytes.
const SCRATCH: usize = 64 * 1024;
/// Reads in one turn of the driver, so that a guest which sends without end cannot keep a thread.
const READS_PER_TURN: usize = 16;
/// Control messages are refused while more than this many bytes wait for a guest that does not read its link.
const CONTROL_LIMIT: usize = 192 * 1024;
/// A new size is remembered instead of queued while more than this many bytes wait.
const RESIZE_LIMIT: usize = 16 * 1024;
/// How long the check may take whether a sandbox has gone, after its link was lost.
const PROBE: Duration = Duration::from_millis(500);
/// Between two attempts of that check.
const PROBE_PAUSE: Duration = Duration::from_millis(50);

/// Announced connections that are kept for one listener. The agent has no more than this that wait, so when there is one more the
/// oldest is none of them: it was given up.
const MAX_INCOMING: usize = 64;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with this thread's scratch buffer.
pub(crate) fn with_scratch<T>(f: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with(|cell| match cell.try_borrow_mut() {
        Ok(mut buffer) => {
            if buffer.is_empty() {
                buffer.resize(SCRATCH, 0);
            }
            f(&mut buffer)
        }
        Err(_) => f(&mut vec![0; SCRATCH]),
    })
}

/// What the agent said to the request.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Opened(Opened),
    Refused(Refused),
}

/// The protocol state and who waits for it.
pub(crate) struct State {
    pub(crate) mux: Mux,
    pub(crate) stream: u32,
    pub(crate) answer: Option<Answer>,
    pub(crate) exit: Option<ExitStatus>,
    pub(crate) reader_gone: bool,
    /// Connections that a listening stream has announced and nobody has taken yet, at most [`MAX_INCOMING`]; `None` on other streams.
    pub(crate) incoming: Option<VecDeque<Incoming>>,
    /// The newest of them; their numbers only grow.
    last_incoming: Option<u64>,
    pub(crate) lost: Option<GuestError>,
    pub(crate) input_waker: Option<Waker>,
    pub(crate) output_waker: Option<Waker>,
    driver_waker: Option<Waker>,
    /// We have closed the stream; the link ends when everything is written.
    closed: bool,
    /// A size that waits for room in the output; a newer one replaces it.
    resize: Option<Size>,
    /// Bytes that were read but not taken yet: at most one read.
    backlog: Vec<u8>,
}

/// A link in use.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// The socket, when the link is one: read by the driver only, written by whoever holds the lock.
    socket: Option<UnixStream>,
}

impl Shared {
    /// The state. A panic elsewhere while the lock was held leaves nothing half done that could hurt.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets what is in the output on its way.
    pub(crate) fn flush(&self, state: &mut State) {
        if let Some(socket) = &self.socket {
            while !state.mux.output().is_empty() {
                match socket.try_write(state.mux.output()) {
                    Ok(n) => state.mux.consume_output(n),
                    Err(_) => break,
                }
            }
            if state.mux.output().is_empty() && !state.closed {
                return;
            }
        }
        wake(&mut state.driver_waker);
    }

    /// Closes the stream and thereby, once all is written, the link.
    pub(crate) fn close(&self, reason: CloseReason) {
        let mut state = self.lock();
        if !state.closed {
            let id = state.stream;
            state.mux.close(id, reason);
            state.closed = true;
            if state.lost.is_none() {
                state.lost = Some(GuestError::LinkLost);
            }
            self.flush(&mut state);
            wake(&mut state.output_waker);
            wake(&mut state.input_waker);
        }
    }

    /// Takes data that has arrived in frames. `bufs` are filled in order.
    pub(crate) fn read_frames(&self, kind: Kind, bufs: &mut [IoSliceMut<'_>]) -> usize {
        let mut state = self.lock();
        let id = state.stream;
        let mut n = 0usize;
        for buf in bufs {
            let len = state.mux.read(id, kind, buf);
            n = n.saturating_add(len);
            if len < buf.len() {
                break;
            }
        }
        // Taking data may have made credit for the agent.
        if !state.mux.output().is_empty() {
            self.flush(&mut state);
        }
        n
    }

    /// Runs a control message if there is room for it.
    pub(crate) fn control(&self, act: impl FnOnce(&mut State)) -> Result<(), GuestError> {
        let mut state = self.lock();
        if let Some(error) = &state.lost {
            return Err(error.clone());
        }
        if state.mux.output().len() > CONTROL_LIMIT {
            return Err(GuestError::Limit("the guest agent does not take control messages fast enough"));
        }
        act(&mut state);
        self.flush(&mut state);
        Ok(())
    }

    /// A new terminal size; only the newest one counts.
    pub(crate) fn resize(&self, size: Size) -> Result<(), GuestError> {
        self.control(|state| {
            if state.mux.output().len() > RESIZE_LIMIT {
                state.resize = Some(size);
            } else {
                state.resize = None;
                let id = state.stream;
                state.mux.send_resize(id, size);
            }
        })
    }
}

pub(crate) fn wake(slot: &mut Option<Waker>) {
    if let Some(waker) = slot.take() {
        waker.wake();
    }
}

/// Registers the waker of `cx`.
pub(crate) fn park(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        slot => *slot = Some(cx.waker().clone()),
    }
}

/// Closes the stream when the last half of a process (or the asker of a question) is dropped.
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close(CloseReason::Gone);
    }
}

/// A link whose request has been put into its output.
pub(crate) struct Request {
    mux: Mux,
    stream: u32,
    incoming: Option<VecDeque<Incoming>>,
}

impl Request {
    pub(crate) fn new(capabilities: u64, open: &Open) -> Result<Self, GuestError> {
        let mut mux = Mux::new(Role::Host, Hello::new(SOFTWARE, capabilities | CAP_PING));
        let stream =
            mux.open(open).map_err(|_| GuestError::Limit("the request does not fit into one message"))?;
        let incoming = matches!(open, Open::Listen(_)).then(VecDeque::new);
        Ok(Self { mux, stream, incoming })
    }

    /// The first bytes: hello and request in one piece.
    pub(crate) fn first_bytes(&self) -> &[u8] {
        self.mux.output()
    }

    pub(crate) fn consume(&mut self, n: usize) {
        self.mux.consume_output(n);
    }

    /// Starts the I/O. `stream` is given for links that are no sockets.
    pub(crate) fn start(
        self,
        socket: Option<UnixStream>,
        stream: Option<Box<dyn ByteStream>>,
        dial: Arc<dyn Dial>,
        keepalive: Keepalive,
    ) -> Handle {
        let state = State {
            mux: self.mux,
            stream: self.stream,
            answer: None,
            exit: None,
            reader_gone: false,
            incoming: self.incoming,
            last_incoming: None,
            lost: None,
            input_waker: None,
            output_waker: None,
            driver_waker: None,
            closed: false,
            resize: None,
            backlog: Vec::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), socket });
        tokio::spawn(drive(Arc::clone(&shared), stream, dial, keepalive));
        Handle { shared }
    }
}

/// Why the driver stopped.
enum End {
    /// We closed the stream and everything is written.
    Closed,
    /// The other side ended the link.
    Eof,
    /// The other side broke the rules or refused.
    Fatal(GuestError),
}

async fn drive(
    shared: Arc<Shared>,
    mut stream: Option<Box<dyn ByteStream>>,
    dial: Arc<dyn Dial>,
    keepalive: Keepalive,
) {
    let Keepalive { interval, max_missed: missed } = keepalive;
    let end = tokio::select! {
        end = std::future::poll_fn(|cx| poll_link(&shared, &mut stream, cx)) => end,
        () = silent(&shared, dial.as_ref(), keepalive) => End::Fatal(GuestError::NotResponding { missed, interval }),
    };
    let finished = {
        let state = shared.lock();
        state.closed || state.exit.is_some()
    };
    let error = match end {
        End::Closed => return,
        End::Fatal(error) => error,
        End::Eof if finished => GuestError::LinkLost,
        End::Eof => probe(dial.as_ref()).await,
    };
    let mut state = shared.lock();
    if state.lost.is_none() {
        state.lost = Some(error);
    }
    wake(&mut state.input_waker);
    wake(&mut state.output_waker);
}

/// Asks the agent in every interval whether it is there; resolves when it has not been heard for too many of them.
async fn silent(shared: &Shared, dial: &dyn Dial, keepalive: Keepalive) {
    if keepalive.interval.is_zero() {
        return std::future::pending().await;
    }
    let mut watch = Watch::new(keepalive);
    let mut ticks = interval_at(Instant::now() + keepalive.interval, keepalive.interval);
    // After a sleep of the whole machine the agent gets its time again.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if dial.is_paused() {
            // It cannot answer, and gets its time again when it goes on.
            watch = Watch::new(keepalive);
            continue;
        }
        let mut state = shared.lock();
        if !state.mux.answers_pings() {
            continue;
        }
        match watch.tick(state.mux.heard()) {
            Tick::Ask => {
                state.mux.ping(keepalive.patience());
                shared.flush(&mut state);
            }
            Tick::Lost => return,
            Tick::Silent => {}
        }
    }
}

/// Whether the sandbox has gone or only this link. A dying agent may still have a listener for a moment, which takes connections
/// and never serves them.
async fn probe(dial: &dyn Dial) -> GuestError {
    let ask = async {
        loop {
            match dial.dial().await {
                Err(e) if is_gone(&e) => return GuestError::SandboxGone,
                Err(_) => return GuestError::LinkLost,
                Ok(link) => {
                    if answers(link).await {
                        return GuestError::LinkLost;
                    }
                    tokio::time::sleep(PROBE_PAUSE).await;
                }
            }
        }
    };
    tokio::time::timeout(PROBE, ask).await.unwrap_or(GuestError::LinkLost)
}

/// Whether anything at all comes back on a new link.
async fn answers(link: Link) -> bool {
    let mut stream: Box<dyn ByteStream> = match link {
        Link::Unix(socket) => Box::new(socket),
        Link::Stream(stream) => stream,
    };
    let Ok(request) = Request::new(0, &Open::Info) else { return false };
    let asked = stream.write_all(request.first_bytes()).await;
    asked.is_ok() && stream.read_u8().await.is_ok()
}

/// Nobody listens.
pub(crate) fn is_gone(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

fn poll_link(shared: &Shared, stream: &mut Option<Box<dyn ByteStream>>, cx: &mut Context<'_>) -> Poll<End> {
    let mut guard = shared.lock();
    let state = &mut *guard;
    for _ in 0..READS_PER_TURN {
        if poll_flush(shared, stream, state, cx).is_err() && state.closed {
            return Poll::Ready(End::Closed);
        }
        if state.closed && state.mux.output().is_empty() {
            return Poll::Ready(End::Closed);
        }
        if state.mux.has_output_room() {
            wake(&mut state.input_waker);
        }
        park(&mut state.driver_waker, cx);
        if !state.mux.wants_input() {
            return Poll::Pending;
        }
        if !state.backlog.is_empty() {
            let bytes = std::mem::take(&mut state.backlog);
            if let Err(error) = feed(state, &bytes) {
                return Poll::Ready(End::Fatal(error));
            }
            continue;
        }
        let read = with_scratch(|buffer| -> Poll<io::Result<Result<usize, GuestError>>> {
            let n = match (&shared.socket, stream.as_mut()) {
                (Some(socket), _) => loop {
                    ready!(socket.poll_read_ready(cx))?;
                    match socket.try_read(buffer) {
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                        other => break other?,
                    }
                },
                (None, Some(stream)) => {
                    let mut room = ReadBuf::new(buffer);
                    ready!(Pin::new(stream).poll_read(cx, &mut room))?;
                    room.filled().len()
                }
                (None, None) => 0,
            };
            Poll::Ready(Ok(feed(state, &buffer[..n]).map(|()| n)))
        });
        match ready!(read) {
            Ok(Ok(0)) | Err(_) => return Poll::Ready(End::Eof),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Poll::Ready(End::Fatal(error)),
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Writes what can be written. An error means that nobody reads any more; the reading side then sees the end.
fn poll_flush(
    shared: &Shared,
    stream: &mut Option<Box<dyn ByteStream>>,
    state: &mut State,
    cx: &mut Context<'_>,
) -> Result<(), ()> {
    if let Some(size) = state.resize.take_if(|_| state.mux.output().len() <= RESIZE_LIMIT) {
        let id = state.stream;
        state.mux.send_resize(id, size);
    }
    while !state.mux.output().is_empty() {
        let written = match (&shared.socket, stream.as_mut()) {
            (Some(socket), _) => match socket.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => match socket.try_write(state.mux.output()) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                    other => other,
                },
                Poll::Ready(Err(e)) => Err(e),
                Poll::Pending => return Ok(()),
            },
            (None, Some(stream)) => match Pin::new(stream).poll_write(cx, state.mux.output()) {
                Poll::Ready(result) => result,
                Poll::Pending => return Ok(()),
            },
            (None, None) => Err(io::ErrorKind::BrokenPipe.into()),
        };
        match written {
            Ok(n) if n > 0 => state.mux.consume_output(n),
            _ => return Err(()),
        }
    }
    if let Some(stream) = stream {
        // Some streams buffer; a pending flush goes on by itself at the next turn.
        let _ = Pin::new(stream).poll_flush(cx);
    }
    Ok(())
}

fn feed(state: &mut State, bytes: &[u8]) -> Result<(), GuestError> {
    let taken = state.mux.input(bytes).map_err(link_error);
    while let Some(event) = state.mux.poll_event() {
        on_event(state, event);
    }
    state.backlog.extend_from_slice(&bytes[taken?..]);
    Ok(())
}

fn on_event(state: &mut State, event: Event) {
    match event {
        Event::Opened(_, opened) => state.answer = Some(Answer::Opened(opened)),
        Event::Refused(_, refused) => state.answer = Some(Answer::Refused(refused)),
        Event::Exit(_, exit) => {
            state.exit = Some(match exit {
                Exit::Code(code) => ExitStatus::Code(code),
                Exit::Signal { name, core_dumped, message } => {
                    ExitStatus::Signal { name, core_dumped, message }
                }
            });
            wake(&mut state.input_waker);
        }
        Event::ReaderGone(_) => {
            state.reader_gone = true;
            wake(&mut state.input_waker);
        }
        Event::Writable(_) => {
            wake(&mut state.input_waker);
            return;
        }
        Event::Closed(..) if state.exit.is_none() => {
            state.lost = Some(GuestError::LinkLost);
            wake(&mut state.input_waker);
        }
        Event::Incoming(_, incoming) => on_incoming(state, incoming),
        Event::Readable(_) | Event::Eof(_) => {}
        _ => return,
    }
    wake(&mut state.output_waker);
}

fn on_incoming(state: &mut State, incoming: Incoming) {
    let Some(queue) = &mut state.incoming else {
        state.lost = Some(GuestError::Protocol("a connection was announced where nobody listens".to_owned()));
        return;
    };
    if state.last_incoming.is_some_and(|last| incoming.id <= last) {
        state.lost = Some(GuestError::Protocol("a connection was announced twice".to_owned()));
        return;
    }
    state.last_incoming = Some(incoming.id);
    if queue.len() >= MAX_INCOMING {
        queue.pop_front();
    }
    queue.push_back(incoming);
}

fn link_error(error: MuxError) -> GuestError {
    match error {
        MuxError::Version { .. } => {
            GuestError::Version(format!("gateway and guest agent cannot work together: {error}"))
        }
        MuxError::LinkRefused(refused) if refused.reason == Reason::Version => {
            GuestError::Version(format!("gateway and guest agent cannot work together: {}", refused.text))
        }
        MuxError::LinkRefused(refused) => refused.into(),
        other => GuestError::Protocol(other.to_string()),
    }
}
