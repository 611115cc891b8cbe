//! How a connection ended.

use std::fmt;
use std::sync::Arc;

/// Why a connection is over. Cheap to clone; given to every waiter.
#[derive(Debug, Clone)]
pub struct Ended {
    /// What happened.
    pub reason: EndReason,
    /// True when the client had logged in.
    pub authenticated: bool,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

/// The cause of the end of a connection.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EndReason {
    /// The client closed the socket without `SSH_MSG_DISCONNECT`.
    #[error("The client closed the connection.")]
    ClosedByPeer,
    /// The client sent `SSH_MSG_DISCONNECT`. The text is its own, made printable.
    #[error("The client disconnected (reason {code}): {text}")]
    DisconnectedByPeer {
        /// The reason code as sent (RFC 4253 §11.1).
        code: u32,
        /// The description as sent, made printable.
        text: String,
    },
    /// The application asked for it through `disconnect`.
    #[error("Disconnected: {text}")]
    DisconnectedByUs {
        /// What the client was told.
        text: String,
    },
    /// The client did not log in before the deadline.
    #[error("The client did not log in within the time allowed.")]
    LoginTimeout,
    /// Too many failed attempts to log in.
    #[error("Too many authentication failures.")]
    TooManyAuthFailures,
    /// The transport failed: bad packets, no common algorithm, handshake timeout and so on.
    #[error("{0}")]
    Transport(crate::transport::Error),
    /// The client broke the rules of authentication or of the connection protocol. The message was sent to it.
    #[error("Protocol error: {0}")]
    Protocol(Arc<str>),
    /// The socket failed.
    #[error("The socket failed: {0}")]
    Io(Arc<std::io::Error>),
    /// The driver future, or every handle, was dropped.
    #[error("The connection was abandoned by the server.")]
    Abandoned,
}
