//! The stream of lines of a file server, read in gulps.
//!
//! A file server writes a line for each change before it answers the client, and so loses none when it is killed: the line is in the pipe by
//! then. But a reader that sleeps on the pipe is woken by each of them. So the first line wakes us, and from then on the pipe is left
//! alone and looked into every [`GATHER`], until it is found empty; only then we sleep on it again. The pipe is the buffer: nothing is held
//! back in the file server, and its bound is the pipe's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, Sleep, sleep};

/// How long lines gather in the pipe. Far below what a person notices, and some hundred lines on the busiest session.
const GATHER: Duration = Duration::from_millis(20);
/// The same after a read that found the pipe half full: 64 KiB in 20 ms would make a file server wait that works on very long names.
const HURRY: Duration = Duration::from_millis(1);
/// Half of what the pipe holds, in bytes.
const HALF: usize = PIECE / 2;
/// Read at once, in bytes: all that the pipe holds, as the kernel makes it.
const PIECE: usize = 64 * 1024;

/// Our end of the pipe.
pub(super) struct Lines {
    state: State,
}

enum State {
    /// Nothing there: the kernel wakes us.
    Watching(Receiver),
    /// Lines gather until the time is over.
    Gathering(OwnedFd, Pin<Box<Sleep>>),
    /// The file server has closed it.
    Ended,
}

impl Lines {
    /// Takes the reading end, which is non-blocking.
    pub(super) fn new(pipe: OwnedFd) -> Self {
        // Whatever is there already is found at the first look.
        Self { state: State::Gathering(pipe, Box::pin(sleep(GATHER))) }
    }

    /// Waits for lines. Empty is the end, told once; then there is nothing to wait for.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Vec<u8>> {
        loop {
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Ended => return Poll::Pending,
                State::Watching(pipe) => {
                    if pipe.poll_read_ready(cx).is_pending() {
                        self.state = State::Watching(pipe);
                        return Poll::Pending;
                    }
                    match pipe.into_nonblocking_fd() {
                        Ok(pipe) => self.state = State::Gathering(pipe, Box::pin(sleep(GATHER))),
                        Err(error) => return given_up(&error),
                    }
                }
                State::Gathering(pipe, mut timer) => {
                    if timer.as_mut().poll(cx).is_pending() {
                        self.state = State::Gathering(pipe, timer);
                        return Poll::Pending;
                    }
                    match read(&pipe) {
                        Ok(lines) => {
                            if !lines.is_empty() {
                                let pause = if lines.len() < HALF { GATHER } else { HURRY };
                                timer.as_mut().reset(Instant::now() + pause);
                                self.state = State::Gathering(pipe, timer);
                            }
                            return Poll::Ready(lines);
                        }
                        Err(Errno::AGAIN) => match Receiver::from_owned_fd_unchecked(pipe) {
                            Ok(pipe) => self.state = State::Watching(pipe),
                            Err(error) => return given_up(&error),
                        },
                        Err(error) => return given_up(&error.into()),
                    }
                }
            }
        }
    }

    /// What is there now, without waiting; empty when that is nothing.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        let pipe = match &self.state {
            State::Watching(pipe) => pipe.as_fd(),
            State::Gathering(pipe, _) => pipe.as_fd(),
            State::Ended => return Vec::new(),
        };
        // An error says as much as an empty pipe: nothing more will come of it.
        read(pipe).unwrap_or_default()
    }
}

fn read(pipe: impl AsFd) -> Result<Vec<u8>, Errno> {
    let mut lines = vec![0; PIECE];
    let read = rustix::io::retry_on_intr(|| rustix::io::read(&pipe, &mut *lines))?;
    lines.truncate(read);
    Ok(lines)
}

/// The end, for a reason of our own. The file server cannot write its next line then, and ends rather than change what nobody hears of.
fn given_up(error: &io::Error) -> Poll<Vec<u8>> {
    tracing::warn!(%error, "the lines of a file server cannot be read");
    Poll::Ready(Vec::new())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::future::poll_fn;

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    fn make() -> (Lines, OwnedFd) {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        (Lines::new(ours), theirs)
    }

    #[tokio::test]
    async fn lines_written_one_by_one_come_together_and_in_time() {
        let (mut lines, pipe) = make();
        // Found empty at first: from here on it is the kernel that wakes.
        assert!(tokio::time::timeout(2 * GATHER, poll_fn(|cx| lines.poll_read(cx))).await.is_err());
        assert!(matches!(lines.state, State::Watching(_)));
        let writer = async {
            for _ in 0..10 {
                rustix::io::write(&pipe, b"x\n").unwrap();
                tokio::task::yield_now().await;
            }
        };
        let began = Instant::now();
        let (all, ()) = tokio::join!(poll_fn(|cx| lines.poll_read(cx)), writer);
        assert_eq!(all, b"x\n".repeat(10), "one read brings all");
        assert!(began.elapsed() >= GATHER);
        // And once more while it is being looked into.
        rustix::io::write(&pipe, b"y\n").unwrap();
        assert_eq!(poll_fn(|cx| lines.poll_read(cx)).await, b"y\n");
    }

    #[tokio::test]
    async fn what_was_written_before_the_writer_died_is_there() {
        let (mut lines, pipe) = make();
        rustix::io::write(&pipe, b"opened 0 /a\n").unwrap();
        drop(pipe);
        assert_eq!(poll_fn(|cx| lines.poll_read(cx)).await, b"opened 0 /a\n");
        assert_eq!(poll_fn(|cx| lines.poll_read(cx)).await, b"");
        assert_eq!(lines.rest(), b"");
    }

    #[tokio::test]
    async fn the_rest_is_there_at_once() {
        let (mut lines, pipe) = make();
        assert_eq!(lines.rest(), b"");
        rustix::io::write(&pipe, b"wrote 1 /a\n").unwrap();
        assert_eq!(lines.rest(), b"wrote 1 /a\n");
    }
}
