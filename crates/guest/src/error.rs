//! What can go wrong between the gateway and an agent.

use std::io;

/// Why a request to the guest failed or a running process was lost.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// Nobody listens where the agent should be: the sandbox has stopped.
    #[error("the sandbox is gone")]
    SandboxGone,
    /// The agent could not be reached, after all retries.
    #[error("the guest agent cannot be reached: {0}")]
    Dial(String),
    /// The agent did not answer in time.
    #[error("the guest agent did not answer within {millis} ms while {what}")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// The deadline that passed, in milliseconds.
        millis: u64,
    },
    /// The agent declined; `text` is its explanation, bounded and with control characters removed.
    #[error("the guest agent refused: {text}")]
    Refused {
        /// The reason code of the protocol (see `docs/wire.md`).
        reason: u16,
        /// A sentence for people.
        text: String,
    },
    /// Gateway and agent have no protocol version in common.
    #[error("{0}")]
    Version(String),
    /// The agent broke the protocol; the link was dropped.
    #[error("the guest agent broke the protocol: {0}")]
    Protocol(String),
    /// The link ended before the process did, while the sandbox can still be reached.
    #[error("the link to the guest agent was lost")]
    LinkLost,
    /// The request cannot be put on the wire (too long), or the process takes no more control messages.
    #[error("{0}")]
    Limit(&'static str),
    /// A host-side system call failed.
    #[error("host side input/output failed: {0}")]
    Io(String),
}

impl From<GuestError> for io::Error {
    fn from(error: GuestError) -> Self {
        let kind = match &error {
            GuestError::SandboxGone | GuestError::LinkLost => io::ErrorKind::ConnectionReset,
            GuestError::Dial(_) => io::ErrorKind::NotConnected,
            GuestError::Timeout { .. } => io::ErrorKind::TimedOut,
            GuestError::Refused { .. } => io::ErrorKind::ConnectionRefused,
            GuestError::Version(_) => io::ErrorKind::Unsupported,
            GuestError::Protocol(_) => io::ErrorKind::InvalidData,
            GuestError::Limit(_) => io::ErrorKind::InvalidInput,
            GuestError::Io(_) => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
