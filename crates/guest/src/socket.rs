//! A TCP connection whose other side is a program of the guest, with nothing in between.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::net::Shutdown;
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
        // As sshd. It works without.
        let _ = stream.set_nodelay(true);
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
