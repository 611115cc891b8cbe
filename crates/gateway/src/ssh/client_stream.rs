//! The TCP stream of a client: acknowledged at once while it logs in ([`QuickAck`]), read in large pieces while it sends in bulk ([`Gather`]).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::gather::Gather;
use super::quick_ack::QuickAck;

/// See the module.
#[derive(Debug)]
pub(super) struct ClientStream {
    stream: TcpStream,
    quick_ack: QuickAck,
    gather: Gather,
}

impl ClientStream {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, quick_ack: QuickAck::new(), gather: Gather::new() }
    }

    /// Whether the kernel has kept input back until the time was over.
    #[cfg(test)]
    pub(super) fn has_waited_in_vain(&self) -> bool {
        self.gather.has_waited_in_vain()
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        match &read {
            Poll::Ready(Ok(())) => {
                this.gather.came(buf.filled().len().saturating_sub(before));
                this.quick_ack.after_read(&this.stream);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => this.gather.nothing(&this.stream, cx),
        }
        read
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
