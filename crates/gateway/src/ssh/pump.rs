//! Moving bytes between a channel and a process, without buffers of our own.
//!
//! Output is read from the process straight into the packet that will be sent; input is written to the process straight from
//! the channel's receive queue. Each side waits for the other, so what is in flight is bounded by the channel's windows, the
//! connection's output mark and the process's pipes.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::Ordering;
use std::task::{Poll, ready};

use sandgate_guest::{ExitStatus, GuestError, ProcessInput, ProcessOutput, Ready};
use sandgate_ssh::driver::{ChannelReader, ChannelWriter};
use sandgate_ssh::event::StreamKind;

use crate::session::Traffic;

/// How the output of a process ended.
pub(super) enum OutputEnd {
    /// All output has been sent, and this is the exit.
    Exit(ExitStatus),
    /// The guest was lost.
    LinkLost(GuestError),
    /// The channel takes no more: the client closed it or is gone.
    ChannelClosed,
}

/// Sends everything that the process writes until it exits.
pub(super) async fn output(
    writer: &mut ChannelWriter,
    process: &mut ProcessOutput,
    traffic: &Traffic,
) -> OutputEnd {
    loop {
        let stream = match poll_fn(|cx| process.poll_ready(cx)).await {
            Ready::Stdout => StreamKind::Stdout,
            Ready::Stderr => StreamKind::Stderr,
            Ready::Exit(status) => return OutputEnd::Exit(status),
            Ready::LinkLost(error) => return OutputEnd::LinkLost(error),
        };
        let Ok(allowed) = poll_fn(|cx| writer.poll_ready(cx)).await else {
            return OutputEnd::ChannelClosed;
        };
        match writer.try_fill(stream, allowed, |packet| process.try_read(packet)) {
            Ok(sent) => {
                traffic.bytes_out.fetch_add(sent as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) if writer.is_closed() => return OutputEnd::ChannelClosed,
            Err(error) => return OutputEnd::LinkLost(GuestError::Io(error.to_string())),
        }
    }
}

/// Hands everything that the client sends to the process, then its EOF. Returns early when the process no longer reads;
/// dropping the reader then tells the client and discards the rest.
pub(super) async fn input(mut reader: ChannelReader, process: &mut ProcessInput, traffic: &Traffic) {
    loop {
        let moved = poll_fn(|cx| {
            let data = match ready!(reader.poll_peek(cx)) {
                Ok(data) => data,
                Err(_) => return Poll::Ready(None),
            };
            if data.is_empty() {
                return Poll::Ready(Some(0));
            }
            match ready!(process.poll_write(cx, data)) {
                Ok(taken) => Poll::Ready(Some(taken)),
                Err(_) => Poll::Ready(None),
            }
        })
        .await;
        match moved {
            Some(0) => break,
            Some(taken) => {
                reader.consume(taken);
                traffic.bytes_in.fetch_add(taken as u64, Ordering::Relaxed);
            }
            None => return,
        }
    }
    // A process that is gone has no use for an EOF.
    let _ = poll_fn(|cx| process.poll_shutdown(cx)).await;
}
