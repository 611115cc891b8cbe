//! A TCP connection whose other side is a program of the guest, with nothing in between.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::net::{Shutdown, sockopt};
use sandgate_wire::keepalive::TCP_IDLE;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;

/// Our side. Nobody else ever held it.
#[derive(Debug, Clone)]
pub(crate) struct Socket(Arc<TcpStream>);

/// Learns that a connection is over in both directions, by a registration of its own: the other one's tells readers and writers apart,
/// and not this.
#[derive(Debug)]
pub(crate) struct Over(AsyncFd<OwnedFd>);

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> Self {
        // It works without.
        let _ = tune(&stream);
        Self(Arc::new(stream))
    }

    /// Waits until there may be something to read, its end included.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read_ready(cx)
    }

    /// Reads what there is; 0 at the end of it.
    pub(crate) fn try_read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.0.try_read_vectored(bufs)
    }

    /// Writes some bytes, or waits for room.
    pub(crate) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write_vectored(slices) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Ends our direction. One that is gone has no use for it.
    pub(crate) fn shut_down(&self) {
        let _ = rustix::net::shutdown(&*self.0, Shutdown::Write);
    }

    /// To wait for the end of both directions.
    pub(crate) fn over(&self) -> io::Result<Over> {
        let twin = rustix::io::fcntl_dupfd_cloexec(&*self.0, 0)?;
        // The successor is unsafe because the number behind a file might change under it; that of an OwnedFd does not.
        #[allow(deprecated, reason = "the safe form, sound for an OwnedFd")]
        AsyncFd::with_interest(twin, Interest::WRITABLE).map(Over)
    }
}

/// Small writes go out at once, as with sshd; and, other than with sshd, a peer that has vanished is noticed, and its channel ends.
fn tune(stream: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_tcp_nodelay(stream, true)?;
    sockopt::set_tcp_keepidle(stream, TCP_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, TCP_IDLE)?;
    sockopt::set_socket_keepalive(stream, true)
}

impl Over {
    /// Ready when both sides have ended their direction, or one has reset the connection.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Ok(mut guard) = ready!(self.0.poll_write_ready(cx)) else { return Poll::Ready(()) };
            if guard.ready().is_write_closed() {
                return Poll::Ready(());
            }
            guard.clear_ready();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_has_keepalive_and_no_delay() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(!sockopt::socket_keepalive(&client).unwrap() && !client.nodelay().unwrap());
        let socket = Socket::new(client);
        assert!(sockopt::socket_keepalive(&*socket.0).unwrap() && socket.0.nodelay().unwrap());
        assert_eq!(sockopt::tcp_keepidle(&*socket.0).unwrap(), TCP_IDLE);
        assert_eq!(sockopt::tcp_keepintvl(&*socket.0).unwrap(), TCP_IDLE);
    }
}
