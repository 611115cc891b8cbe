//! A channel's three independent halves: requests, reader and writer.
//!
//! Each half is `Send` and may live in its own task. The channel is closed (`SSH_MSG_CHANNEL_CLOSE`, once) by
//! [`ChannelWriter::close`], when the client closes it, or when all three halves have been dropped. Dropping the writer
//! alone sends EOF; dropping the reader alone discards further input (and tells an OpenSSH client with
//! `eow@openssh.com`); dropping the requests refuses further ones.

use std::io;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::question::RequestQuestion;
use crate::event::{ChannelRequest, ExitSignal, StreamKind};

/// A channel. Take it apart with plain destructuring.
#[derive(Debug)]
pub struct Channel {
    /// What the client asks on the channel.
    pub requests: Requests,
    /// Data from the client.
    pub reader: ChannelReader,
    /// Data and status to the client.
    pub writer: ChannelWriter,
}

/// A request and the means to answer it.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub request: ChannelRequest,
    /// The answer; for notices without a reply (`window-change`, `signal`) it may simply be dropped.
    pub question: RequestQuestion,
}

/// The requests of the client on a channel.
#[derive(Debug)]
pub struct Requests {}

impl Requests {
    /// The next request; `None` when the channel has been closed by either side or the connection has ended.
    pub async fn next(&mut self) -> Option<Request> {
        todo!()
    }

    /// As [`next`](Self::next), for hand-written futures.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Request>> {
        todo!()
    }
}

/// Data from the client. Also `AsyncRead`. The window goes back to the client as data is taken.
///
/// What has arrived stays readable after the client's EOF or CLOSE. If the connection ends otherwise, reads fail with
/// [`io::ErrorKind::ConnectionReset`].
#[derive(Debug)]
pub struct ChannelReader {}

impl ChannelReader {
    /// Copies data into `buf`; `Ok(0)` means EOF (if `buf` has room).
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        todo!()
    }

    /// Waits for data and copies it into `buf`; `Ok(0)` means EOF.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        todo!()
    }

    /// Waits for data and lends the first contiguous part of it without copying; empty means EOF. Nothing is taken
    /// before [`consume`](Self::consume). No lock is held while the slice lives, so it may be given to `write(2)`.
    pub fn poll_peek(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        todo!()
    }

    /// Takes `len` bytes of what [`poll_peek`](Self::poll_peek) lent, at most all, and gives their window back.
    pub fn consume(&mut self, len: usize) {
        todo!()
    }
}

impl AsyncRead for ChannelReader {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        todo!()
    }
}

/// Data and status to the client. What is called first is sent first. Also `AsyncWrite` for stdout, where
/// `poll_shutdown` sends EOF.
#[derive(Debug)]
pub struct ChannelWriter {}

impl ChannelWriter {
    /// Waits until data may be sent and says how many bytes at most: the smallest of the window, the client's packet
    /// size and the room in the output. Fails with [`io::ErrorKind::BrokenPipe`] when the channel is closed or EOF was
    /// sent, and with [`io::ErrorKind::ConnectionReset`] when the connection has ended.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        todo!()
    }

    /// Sends one packet of at most `max` bytes that `fill` writes straight into the output, as with `read(2)`. `fill`
    /// gets a buffer of between 1 and `max` bytes, runs under the connection's lock (so it must not block, nor use any
    /// other handle of this connection), and says how much it wrote; with `Ok(0)` or an error nothing is sent.
    ///
    /// # Errors
    /// What `fill` returned; [`io::ErrorKind::WouldBlock`] when nothing may be sent now (see
    /// [`poll_ready`](Self::poll_ready)) and otherwise as there.
    pub fn try_fill(
        &mut self,
        stream: StreamKind,
        max: usize,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        todo!()
    }

    /// Sends as much of `data` as may be sent now; at least one byte unless `data` is empty.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamKind,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        todo!()
    }

    /// Sends all of `data`.
    ///
    /// # Errors
    /// The channel is closed or the connection has ended.
    pub async fn write_all(&mut self, stream: StreamKind, data: &[u8]) -> io::Result<()> {
        todo!()
    }

    /// Sends EOF, after all data. Later data fails. Harmless when repeated.
    pub fn eof(&mut self) {
        todo!()
    }

    /// Sends `exit-status` (sessions only).
    pub fn exit_status(&mut self, status: u32) {
        todo!()
    }

    /// Sends `exit-signal` (sessions only).
    pub fn exit_signal(&mut self, signal: &ExitSignal) {
        todo!()
    }

    /// Sends CLOSE after all that was sent before. The client's further data is discarded.
    pub fn close(&mut self) {
        todo!()
    }

    /// True when the channel can carry nothing more to the client: closed by either side, or the connection ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        todo!()
    }

    /// Waits until the client has closed the channel or the connection has ended.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        todo!()
    }

    /// As [`poll_closed`](Self::poll_closed).
    pub async fn closed(&mut self) {
        todo!()
    }
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        todo!()
    }

    fn poll_flush(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
