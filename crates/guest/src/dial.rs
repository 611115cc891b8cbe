//! How the agent of one sandbox is reached.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

use crate::Terminal;

/// A boxed future, as `futures_util::future::BoxFuture`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Any two-way byte stream to an agent.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// One connection to an agent.
pub enum Link {
    /// A Unix socket: stdio pipes may be passed over it.
    Unix(UnixStream),
    /// Any other stream; every byte travels in frames.
    Stream(Box<dyn ByteStream>),
}

/// Of a TCP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpFamily {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`.
    V6,
}

impl IpFamily {
    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// Connects to the agent of one sandbox; each call makes a new connection.
pub trait Dial: Send + Sync {
    /// Opens one connection. An error of kind `NotFound` or `ConnectionRefused` is taken to mean that nobody listens, thus that the
    /// sandbox is gone.
    fn dial(&self) -> BoxFuture<'_, io::Result<Link>>;

    /// Makes a terminal that is one of the sandbox's own (its process finds it under `/dev/pts`), where that can be done from here. With `None` the agent
    /// makes it, and what is typed and shown travels in frames. Must not take long: a user waits.
    fn terminal(&self) -> BoxFuture<'_, Option<Terminal>> {
        Box::pin(std::future::ready(None))
    }

    /// Makes a TCP socket that belongs to the sandbox's own network, where that can be done from here: not blocking, and held by nobody else. With
    /// `None` the agent connects and listens, and data passes through it. Must not take long: a user waits.
    fn tcp_socket(&self, _family: IpFamily) -> BoxFuture<'_, Option<OwnedFd>> {
        Box::pin(std::future::ready(None))
    }

    /// A stream that says nothing and ends with the sandbox. Wanted where [`Self::tcp_socket`] gives something.
    fn presence(&self) -> BoxFuture<'_, Option<Box<dyn ByteStream>>> {
        Box::pin(std::future::ready(None))
    }

    /// Whether the sandbox is halted on purpose: then its silence means nothing, and it is not given up for it.
    fn is_paused(&self) -> bool {
        false
    }
}

/// Reaches an agent by a Unix socket at a path on the host side.
#[derive(Debug, Clone)]
pub struct UnixDial {
    path: PathBuf,
}

impl UnixDial {
    /// `path` must be made by the host: the guest must not be able to replace it.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl Dial for UnixDial {
    fn dial(&self) -> BoxFuture<'_, io::Result<Link>> {
        Box::pin(async move { UnixStream::connect(&self.path).await.map(Link::Unix) })
    }
}
