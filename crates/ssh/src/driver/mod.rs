//! The thin tokio driver: one future per connection that moves bytes between a socket and the sans-IO
//! [`Connection`](crate::connection::Connection), and cheap handles for the application.
//!
//! Nothing is spawned here. [`accept`] gives the [`Driver`] future, which must be polled for anything to happen, and a
//! [`ConnectionHandle`]. The driver and the futures of the application may run in one task or in many; they meet in a
//! mutex that is held briefly and never across an await.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use sandgate_ssh::{Config, driver, driver::Event};
//! # async fn serve(stream: tokio::net::TcpStream, config: Arc<Config>) {
//! let (driver, connection) = driver::accept(stream, config);
//! let application = async {
//!     while let Some(event) = connection.next_event().await {
//!         match event {
//!             Event::Auth(question) => question.accept(),
//!             Event::Open(question) => {
//!                 let _channel = question.accept();
//!             }
//!             Event::Global(question) => question.refuse(),
//!             Event::Ended(_) => break,
//!             _ => {}
//!         }
//!     }
//! };
//! let (_ended, ()) = tokio::join!(driver, application);
//! # }
//! ```
mod channel;
mod handle;
mod question;
mod shared;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

pub use channel::{Channel, ChannelReader, ChannelWriter, MOST_SLICES, Request, Requests};
pub use handle::{ConnectionHandle, Event, Traffic};
pub use question::{AuthAbandoned, AuthQuestion, ForwardQuestion, OpenQuestion, RequestQuestion};
use shared::{Shared, State};

use crate::connection::{Config, Connection};
use crate::event::{EndReason, Ended};

/// How long the last output (usually `SSH_MSG_DISCONNECT`) may take to leave, and the client to close its side then.
const LINGER: Duration = Duration::from_secs(2);
/// The same for a client that has not logged in: a flood of them must not hold many sockets for long.
const LINGER_UNKNOWN: Duration = Duration::from_millis(500);
/// Rounds of reading and writing before other tasks get a turn.
const ROUNDS: u32 = 16;

/// The connection's future: does all socket I/O and ends with the reason of the connection's end. Dropping it ends the
/// connection at once, without `SSH_MSG_DISCONNECT`.
#[must_use = "nothing happens unless the driver is polled"]
#[derive(Debug)]
pub struct Driver<S> {
    stream: S,
    shared: Arc<Shared>,
    /// Armed for no later than the connection's next deadline.
    timer: Option<(Pin<Box<Sleep>>, Instant)>,
    linger_until: Option<Instant>,
}

/// Takes a fresh connection. Nothing is read or written before the driver is polled, in a tokio runtime with time enabled.
pub fn accept<S>(stream: S, config: Arc<Config>) -> (Driver<S>, ConnectionHandle)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let now = now();
    let shared = Arc::new(Shared::new(Connection::new(config, now), now));
    let handle = ConnectionHandle::new(Arc::clone(&shared));
    (Driver { stream, shared, timer: None, linger_until: None }, handle)
}

/// The time, by tokio's clock so that tests can hold it still.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// What a round of work came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    /// Something moved.
    Moved,
    /// Nothing moved; the socket will wake us.
    Idle,
    /// The connection has ended.
    Ended,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let this = self.get_mut();
        for _ in 0..ROUNDS {
            let (stream, shared) = (&mut this.stream, &this.shared);
            let round = shared.with(|state| {
                state.driver = None;
                let round = one_round(stream, state, cx, now());
                if round == Round::Idle {
                    state.driver = Some(cx.waker().clone());
                }
                round
            });
            match round {
                Round::Moved => {}
                Round::Ended => return this.poll_end(cx),
                Round::Idle => {
                    if this.poll_timer(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Times out, reads, works and writes, each as far as it goes without waiting.
fn one_round<S>(stream: &mut S, state: &mut State, cx: &mut Context<'_>, now: Instant) -> Round
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut round = Round::Idle;
    if state.connection.poll_timeout().is_some_and(|at| at <= now) {
        state.connection.handle_timeout(now);
    }
    if state.connection.wants_input() {
        let mut buf = ReadBuf::new(state.connection.input_space());
        match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) => match buf.filled().len() {
                0 => state.connection.input_ended(now),
                len => {
                    state.traffic.bytes_in = state.traffic.bytes_in.saturating_add(len as u64);
                    state.last_received = now;
                    state.connection.commit_input(len, now);
                    round = Round::Moved;
                }
            },
            Poll::Ready(Err(error)) => end_with(state, error),
            Poll::Pending => {}
        }
    }
    state.connection.process(now);
    if state.connection.take_activity() {
        state.last_activity = now;
    }
    match write(stream, state, cx) {
        Ok(Round::Moved) => round = Round::Moved,
        Ok(_) => {}
        Err(error) => end_with(state, error),
    }
    if state.connection.ended().is_some() { Round::Ended } else { round }
}

fn write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    state: &mut State,
    cx: &mut Context<'_>,
) -> io::Result<Round> {
    let mut round = Round::Idle;
    state.write_blocked = false;
    while state.connection.output_len() > 0 {
        match Pin::new(&mut *stream).poll_write(cx, state.connection.output()) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(len)) => {
                state.traffic.bytes_out = state.traffic.bytes_out.saturating_add(len as u64);
                state.connection.consume_output(len);
                round = Round::Moved;
            }
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => {
                state.write_blocked = true;
                return Ok(round);
            }
        }
    }
    // TCP has nothing to flush, but a stream with a buffer of its own may.
    match Pin::new(stream).poll_flush(cx) {
        Poll::Ready(Err(error)) => Err(error),
        _ => Ok(round),
    }
}

fn end_with(state: &mut State, error: io::Error) {
    state.connection.end(EndReason::Io(Arc::new(error)));
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Ready when a deadline has passed.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = match self.linger_until {
            Some(at) => Some(at),
            None => self.shared.with(|state| state.connection.poll_timeout()),
        };
        let Some(deadline) = deadline else { return Poll::Pending };
        let at = tokio::time::Instant::from_std(deadline);
        match &mut self.timer {
            // An armed timer that fires too early costs one look; one that is reset costs more, and often.
            Some((_, armed)) if *armed <= deadline && *armed > now() => {}
            Some((timer, armed)) => {
                timer.as_mut().reset(at);
                *armed = deadline;
            }
            none => *none = Some((Box::pin(tokio::time::sleep_until(at)), deadline)),
        }
        match &mut self.timer {
            Some((timer, _)) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// Writes what is left, closes our direction, waits a moment for the client to close its own, and gives the reason.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let ended = self.shared.with(|state| state.connection.ended().cloned());
        let ended = ended.unwrap_or(Ended { reason: EndReason::Abandoned, authenticated: false });
        if self.linger_until.is_none() {
            let patience = if ended.authenticated { LINGER } else { LINGER_UNKNOWN };
            self.linger_until = now().checked_add(patience);
        }
        let stream = &mut self.stream;
        let write_more = matches!(
            ended.reason,
            EndReason::DisconnectedByUs { .. }
                | EndReason::LoginTimeout
                | EndReason::TooManyAuthFailures
                | EndReason::Transport(_)
                | EndReason::Protocol(_)
        );
        if write_more {
            let left = self.shared.with(|state| match write(stream, state, cx) {
                Ok(_) => state.connection.output_len(),
                Err(_) => 0,
            });
            if left > 0 {
                // A client that writes before it reads would never come to our last words.
                let _ = self.poll_discard(cx);
                ready!(self.poll_timer(cx));
            }
        }
        let closed = Pin::new(&mut self.stream).poll_shutdown(cx);
        // A socket that is closed with input unread resets its connection, and a reset takes away what the client has not read yet.
        if closed.is_pending() || (write_more && self.poll_discard(cx).is_pending()) {
            ready!(self.poll_timer(cx));
        }
        Poll::Ready(ended)
    }

    /// Reads and forgets what still arrives; ready when the client has closed its side.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 8 * 1024];
        for _ in 0..ROUNDS {
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        self.shared.with(|state| state.connection.end(EndReason::Abandoned));
    }
}
