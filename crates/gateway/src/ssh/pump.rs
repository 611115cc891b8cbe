//! Moving bytes between a channel and a process, without buffers of our own.
//!
//! Output is read from the process straight into the packet that will be sent; input is written to the process straight from
//! the channel's receive queue. Each side waits for the other, so what is in flight is bounded by the channel's windows, the
//! connection's output mark and the process's pipes.

use std::future::{Future as _, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use sandgate_guest::{ExitStatus, GuestError, ProcessInput, Ready};
use sandgate_ssh::driver::{ChannelReader, ChannelWriter, MOST_SLICES};
use sandgate_ssh::event::StreamKind;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::session::{SessionOutput, Traffic};

/// Bytes of standard error that are thrown away at once.
const SCRAP: usize = 4096;

/// How the output of a process ended.
pub(super) enum OutputEnd {
    /// All output has been sent, and this is the exit.
    Exit(ExitStatus),
    /// The guest was lost.
    LinkLost(GuestError),
    /// The channel takes no more: the client closed it or is gone.
    ChannelClosed,
}

/// Sends everything that the process writes until it exits. When `unwanted` says so (`eow@openssh.com`: the client's
/// consumer is gone), the process's standard output is closed, so that it gets SIGPIPE as it would from sshd. Standard error is taken to its end.
pub(super) async fn output(
    writer: &mut ChannelWriter,
    process: &mut SessionOutput,
    traffic: &Traffic,
    unwanted: &Notify,
) -> OutputEnd {
    let mut unwanted = std::pin::pin!(unwanted.notified());
    let mut open = true;
    // Room for standard error that is thrown away.
    let mut scrap = Vec::new();
    loop {
        let ready = poll_fn(|cx| or_unwanted(|cx| process.poll_ready(cx), open, unwanted.as_mut(), cx)).await;
        let stream = match ready {
            Some(Ready::Stdout) => StreamKind::Stdout,
            Some(Ready::Stderr) if !open => {
                // Stock clients show no more of it either, and might never have the room that waiting for its end would take.
                scrap.resize(SCRAP, 0);
                let _ = process.try_read(&mut scrap);
                continue;
            }
            Some(Ready::Stderr) => StreamKind::Stderr,
            Some(Ready::Exit(status)) => return OutputEnd::Exit(status),
            Some(Ready::LinkLost(error)) => return OutputEnd::LinkLost(error),
            None => {
                open = close(process);
                continue;
            }
        };
        let allowed =
            poll_fn(|cx| or_unwanted(|cx| writer.poll_ready(cx), open, unwanted.as_mut(), cx)).await;
        let allowed = match allowed {
            Some(Ok(allowed)) => allowed,
            Some(Err(_)) => return OutputEnd::ChannelClosed,
            None => {
                open = close(process);
                continue;
            }
        };
        match writer.try_fill(stream, allowed, |packets| process.try_read_vectored(packets)) {
            Ok(sent) => {
                traffic.bytes_out.fetch_add(sent as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) if writer.is_closed() => return OutputEnd::ChannelClosed,
            Err(error) => return OutputEnd::LinkLost(GuestError::Io(error.to_string())),
        }
    }
}

/// What was waited for, or `None` when the output turns out to be unwanted. That is asked first: a process that floods is
/// always ready.
fn or_unwanted<T>(
    wait: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    open: bool,
    unwanted: Pin<&mut Notified<'_>>,
    cx: &mut Context<'_>,
) -> Poll<Option<T>> {
    if open && unwanted.poll(cx).is_ready() {
        return Poll::Ready(None);
    }
    wait(cx).map(Some)
}

/// Closes the process's output; always `false`, for "no longer open".
fn close(process: &mut SessionOutput) -> bool {
    if let Err(error) = process.close() {
        tracing::debug!(%error, "output not closed");
    }
    false
}

/// How the input from a client ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InputEnd {
    /// The client has said that there is no more, and the guest was told.
    Eof,
    /// One of the two is gone, or takes no more.
    Cut,
}

/// Hands everything that the client sends to the process, then its EOF. Returns early when the process no longer reads;
/// dropping the reader then tells the client and discards the rest.
pub(super) async fn input(
    mut reader: ChannelReader,
    process: &mut ProcessInput,
    traffic: &Traffic,
) -> InputEnd {
    loop {
        let moved = poll_fn(|cx| {
            if process.poll_ended(cx).is_ready() {
                return Poll::Ready(None);
            }
            let mut slices = [IoSlice::new(&[]); MOST_SLICES];
            let slices = match ready!(reader.poll_peek_vectored(cx, &mut slices)) {
                Ok(used) => slices.get(..used).unwrap_or_default(),
                Err(_) => return Poll::Ready(None),
            };
            if slices.is_empty() {
                return Poll::Ready(Some(0));
            }
            match ready!(process.poll_write_vectored(cx, slices)) {
                Ok(taken) => {
                    traffic.took(slices.iter().map(|slice| &**slice), taken);
                    Poll::Ready(Some(taken))
                }
                Err(_) => Poll::Ready(None),
            }
        })
        .await;
        match moved {
            Some(0) => break,
            Some(taken) => reader.consume(taken),
            None => return InputEnd::Cut,
        }
    }
    // A process that is gone has no use for an EOF.
    let _ = poll_fn(|cx| process.poll_shutdown(cx)).await;
    InputEnd::Eof
}
