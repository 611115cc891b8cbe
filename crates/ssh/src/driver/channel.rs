//! A channel's three independent halves: requests, reader and writer.
//!
//! Each half is `Send` and may live in its own task. The channel is closed (`SSH_MSG_CHANNEL_CLOSE`, once) by
//! [`ChannelWriter::close`], when the client closes it, or when all three halves have been dropped. Dropping the writer
//! alone sends EOF; dropping the reader alone discards further input (and tells an OpenSSH client with
//! `eow@openssh.com`); dropping the requests refuses further ones.

use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::question::RequestQuestion;
use super::shared::{Awaited, Shared};
use crate::connection::{ChannelId, Half, NextRequest, Segment, Taken, Writable};
use crate::event::{ChannelRequest, ExitSignal, StreamKind};

/// The most pieces that [`ChannelReader::poll_peek_vectored`] names at once.
pub const MOST_SLICES: usize = crate::channel::MOST_PIECES;

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

impl Channel {
    pub(super) fn new(shared: &Arc<Shared>, id: ChannelId) -> Self {
        let part = |half| Part { shared: Arc::clone(shared), id, half };
        Self {
            requests: Requests { part: part(Half::Requests) },
            reader: ChannelReader { part: part(Half::Reader), segment: None, owed: 0 },
            writer: ChannelWriter { part: part(Half::Writer) },
        }
    }
}

/// A part of a channel; lets go of it when dropped.
#[derive(Debug)]
struct Part {
    shared: Arc<Shared>,
    id: ChannelId,
    half: Half,
}

impl Drop for Part {
    fn drop(&mut self) {
        self.shared.with(|state| state.connection.release(self.id, self.half));
    }
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
pub struct Requests {
    part: Part,
}

impl Requests {
    /// The next request; `None` when the channel has been closed by either side or the connection has ended.
    pub async fn next(&mut self) -> Option<Request> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`next`](Self::next), for hand-written futures.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Request>> {
        let Part { shared, id, .. } = &self.part;
        let next = shared.with(|state| {
            let next = state.connection.next_request(*id);
            if matches!(next, NextRequest::Pending) {
                state.register(*id, Awaited::Request, cx);
            }
            next
        });
        match next {
            NextRequest::Some(request, answer) => {
                let question = RequestQuestion::new(Arc::clone(shared), answer);
                Poll::Ready(Some(Request { request, question }))
            }
            NextRequest::Pending => Poll::Pending,
            NextRequest::End => Poll::Ready(None),
        }
    }
}

/// Data from the client. Also `AsyncRead`. The window goes back to the client as data is taken.
///
/// What has arrived stays readable after the client's EOF or CLOSE. If the connection ends otherwise, reads fail with
/// [`io::ErrorKind::ConnectionReset`] once everything that had arrived is taken.
#[derive(Debug)]
pub struct ChannelReader {
    part: Part,
    /// The data at hand, outside of the lock.
    segment: Option<Segment>,
    /// Bytes consumed whose window has not been given back yet: at most a segment's worth, since it is given back when the
    /// next segment is fetched.
    owed: usize,
}

impl Drop for ChannelReader {
    fn drop(&mut self) {
        let unread = self.segment.as_ref().map_or(0, Segment::len);
        let (len, segment) = (self.owed.saturating_add(unread), self.segment.take());
        self.part.shared.with(|state| state.connection.give_back(self.part.id, len, segment));
    }
}

impl ChannelReader {
    /// Makes sure that a segment with data is at hand; false at EOF.
    fn poll_fetch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.segment.as_ref().is_some_and(|segment| !segment.is_empty()) {
            return Poll::Ready(Ok(true));
        }
        let Part { shared, id, .. } = &self.part;
        let (owed, used) = (std::mem::take(&mut self.owed), self.segment.take());
        let taken = shared.with(|state| {
            state.connection.give_back(*id, owed, used);
            let taken = state.connection.take_data(*id);
            if matches!(taken, Taken::Pending) {
                state.register(*id, Awaited::Read, cx);
            }
            taken
        });
        match taken {
            Taken::Data(segment) => {
                self.segment = Some(segment);
                Poll::Ready(Ok(true))
            }
            Taken::Eof => Poll::Ready(Ok(false)),
            Taken::Pending => Poll::Pending,
            Taken::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }

    /// Copies data into `buf`; `Ok(0)` means EOF (if `buf` has room).
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let data = ready!(self.poll_peek(cx))?;
        let len = copy(data, buf);
        self.consume(len);
        Poll::Ready(Ok(len))
    }

    /// Waits for data and copies it into `buf`; `Ok(0)` means EOF.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_read(cx, buf)).await
    }

    /// Waits for data and lends the first contiguous part of it without copying; empty means EOF. Nothing is taken
    /// before [`consume`](Self::consume). No lock is held while the slice lives, so it may be given to `write(2)`.
    pub fn poll_peek(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        ready!(self.poll_fetch(cx))?;
        Poll::Ready(Ok(self.segment.as_ref().map(Segment::rest).unwrap_or_default()))
    }

    /// As [`poll_peek`](Self::poll_peek) for `writev(2)`: names what is at hand, as far as there are `slices` for it ([`MOST_SLICES`] are
    /// enough), and says how many it used; none at EOF.
    pub fn poll_peek_vectored<'a>(
        &'a mut self,
        cx: &mut Context<'_>,
        slices: &mut [IoSlice<'a>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_fetch(cx))?;
        Poll::Ready(Ok(self.segment.as_ref().map_or(0, |segment| segment.slices(slices))))
    }

    /// Takes `len` bytes of what [`poll_peek`](Self::poll_peek) lent, at most all. Their window goes back to the client when
    /// the next data is asked for.
    pub fn consume(&mut self, len: usize) {
        if let Some(segment) = &mut self.segment {
            self.owed = self.owed.saturating_add(segment.advance(len));
        }
    }
}

/// Copies what fits and says how much that was.
fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let len = from.len().min(to.len());
    if let (Some(to), Some(from)) = (to.get_mut(..len), from.get(..len)) {
        to.copy_from_slice(from);
    }
    len
}

impl AsyncRead for ChannelReader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let data = ready!(this.poll_peek(cx))?;
        let len = data.len().min(buf.remaining());
        buf.put_slice(data.get(..len).unwrap_or_default());
        this.consume(len);
        Poll::Ready(Ok(()))
    }
}

/// Data and status to the client. What is called first is sent first. Also `AsyncWrite` for stdout, where
/// `poll_shutdown` sends EOF.
#[derive(Debug)]
pub struct ChannelWriter {
    part: Part,
}

impl ChannelWriter {
    /// Waits until data may be sent and says how many bytes at most: the smaller of the window and the room in the
    /// output. Fails with [`io::ErrorKind::BrokenPipe`] when the channel is closed or EOF was
    /// sent, and with [`io::ErrorKind::ConnectionReset`] when the connection has ended.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Part { shared, id, .. } = &self.part;
        shared.with(|state| match state.connection.writable(*id) {
            Writable::Ready(len) => Poll::Ready(Ok(len)),
            Writable::Pending => {
                state.register(*id, Awaited::Write, cx);
                Poll::Pending
            }
            Writable::Closed => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Writable::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        })
    }

    /// Sends at most `max` bytes that `fill` writes straight into the output, as with `readv(2)`. `fill` gets one slice for each
    /// packet, of between 1 and `max` bytes together, fills them in order, runs under the connection's lock (so it must not block, nor use any
    /// other handle of this connection), and says how much it wrote; with `Ok(0)` or an error nothing is sent.
    ///
    /// # Errors
    /// What `fill` returned; [`io::ErrorKind::WouldBlock`] when nothing may be sent now (see
    /// [`poll_ready`](Self::poll_ready)) and otherwise as there.
    pub fn try_fill(
        &mut self,
        stream: StreamKind,
        max: usize,
        fill: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let Part { shared, id, .. } = &self.part;
        shared.with(|state| state.connection.fill(*id, stream, max, fill))
    }

    /// Sends as much of `data` as may be sent now; at least one byte unless `data` is empty.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamKind,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.poll_ready(cx))?;
        let Part { shared, id, .. } = &self.part;
        let mut rest = data;
        let result = shared.with(|state| {
            while !rest.is_empty() {
                let len = state.connection.fill(*id, stream, rest.len(), |packets| {
                    let before = rest.len();
                    for packet in packets {
                        let len = copy(rest, packet);
                        rest = rest.get(len..).unwrap_or_default();
                    }
                    Ok(before.saturating_sub(rest.len()))
                })?;
                if len == 0 {
                    break;
                }
            }
            Ok(())
        });
        let sent = data.len().saturating_sub(rest.len());
        match result {
            Err(error) if sent == 0 => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(sent)),
        }
    }

    /// Sends all of `data`.
    ///
    /// # Errors
    /// The channel is closed or the connection has ended.
    pub async fn write_all(&mut self, stream: StreamKind, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let sent = std::future::poll_fn(|cx| self.poll_write(cx, stream, data)).await?;
            data = data.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// Sends EOF, after all data. Later data fails. Harmless when repeated.
    pub fn eof(&mut self) {
        self.part.shared.with(|state| state.connection.eof(self.part.id));
    }

    /// Sends `exit-status` (sessions only).
    pub fn exit_status(&mut self, status: u32) {
        self.part.shared.with(|state| state.connection.exit_status(self.part.id, status));
    }

    /// Sends `exit-signal` (sessions only).
    pub fn exit_signal(&mut self, signal: &ExitSignal) {
        self.part.shared.with(|state| state.connection.exit_signal(self.part.id, signal));
    }

    /// Sends EOF if that has not been sent, and CLOSE, after all that was sent before. The client's further data is
    /// discarded.
    pub fn close(&mut self) {
        self.part.shared.with(|state| state.connection.close(self.part.id));
    }

    /// True when the channel can carry nothing more to the client: closed by either side, or the connection ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.part.shared.with(|state| state.connection.is_closed(self.part.id))
    }

    /// Waits until the client has closed the channel or the connection has ended.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Part { shared, id, .. } = &self.part;
        shared.with(|state| {
            if state.connection.is_closed_by_peer(*id) {
                return Poll::Ready(());
            }
            state.register(*id, Awaited::Closed, cx);
            Poll::Pending
        })
    }

    /// As [`poll_closed`](Self::poll_closed).
    pub async fn closed(&mut self) {
        std::future::poll_fn(|cx| self.poll_closed(cx)).await;
    }
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Self::poll_write(self.get_mut(), cx, StreamKind::Stdout, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().eof();
        Poll::Ready(Ok(()))
    }
}
