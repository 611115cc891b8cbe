//! A TCP stream that acknowledges at once while a client logs in.
//!
//! Stock clients leave Nagle's algorithm on until they have a session, and send the messages of the handshake in several
//! small writes. Each second write then waits for our acknowledgement, and the kernel holds that back for 40 ms when we
//! have nothing to send: twice in every login with OpenSSH's client, three quarters of what `ssh host true` takes on a local
//! network. `TCP_QUICKACK` (tcp(7)) sends what is held back; it is not lasting, so it is set after each read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Reads that are acknowledged at once: a login with many keys and the start of a session take about 30. Past them a
/// connection carries data, and an acknowledgement for every read would only cost.
const QUICK_READS: u32 = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct QuickAck {
    stream: TcpStream,
    left: u32,
}

impl QuickAck {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, left: QUICK_READS }
    }
}

impl AsyncRead for QuickAck {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if self.left > 0 {
            self.left -= 1;
            // Where it cannot be set, logins are slower and nothing else.
            let _ = SockRef::from(&self.stream).set_tcp_quickack(true);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for QuickAck {
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
