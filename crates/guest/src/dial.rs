//! How the agent of one sandbox is reached.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

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

/// Connects to the agent of one sandbox; each call makes a new connection.
pub trait Dial: Send + Sync {
    /// Opens one connection. An error of kind `NotFound` or `ConnectionRefused` is taken to mean that nobody listens, thus that the
    /// sandbox is gone.
    fn dial(&self) -> BoxFuture<'_, io::Result<Link>>;
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
