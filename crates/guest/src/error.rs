//! What can go wrong between the gateway and an agent.

use std::io;
use std::time::Duration;

use sandgate_wire::message::{Reason, Refused};

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
    /// Connecting or listening failed inside the guest; `text` is what its kernel or resolver said, as sshd would word it.
    #[error("{text}")]
    Network {
        /// What kind of failure it was.
        kind: NetworkFailure,
        /// A few words for people, as `Connection refused`; bounded, without control characters.
        text: String,
    },
    /// A connection in the guest ended by an error and not by its end of data.
    #[error("the connection in the sandbox was reset")]
    Reset,
    /// Gateway and agent have no protocol version in common.
    #[error("{0}")]
    Version(String),
    /// The agent broke the protocol; the link was dropped.
    #[error("the guest agent broke the protocol: {0}")]
    Protocol(String),
    /// The link is there, but nothing comes over it any more, not even answers to keepalives.
    #[error("the guest agent is not responding: {missed} keepalives of {interval:?} went unanswered")]
    NotResponding {
        /// Unanswered keepalives.
        missed: u32,
        /// The time that each had.
        interval: Duration,
    },
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

/// Why connecting or listening in the guest failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetworkFailure {
    /// Nobody listens there.
    Refused,
    /// There is no way to the host or network.
    NoRoute,
    /// No answer in time.
    TimedOut,
    /// The name cannot be resolved inside the guest.
    NameNotFound,
    /// There is no socket at the path.
    NotFound,
    /// Somebody listens there already, or the address is not one of the guest's.
    AddressInUse,
    /// The connection to be accepted does not wait any more.
    NotWaiting,
    /// The login user may not do this.
    AccessDenied,
}

/// The classes of failure that RFC 4254 section 5.1 knows for a channel that is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenFailure {
    /// `SSH_OPEN_ADMINISTRATIVELY_PROHIBITED`: the agent may not or will not do this.
    Prohibited,
    /// `SSH_OPEN_CONNECT_FAILED`: it was tried and failed, or the guest could not be asked.
    ConnectFailed,
    /// `SSH_OPEN_RESOURCE_SHORTAGE`: a limit of the agent or of its system was reached.
    Shortage,
}

impl GuestError {
    /// As what a forward that failed this way is to be reported. The error itself is the text.
    pub fn open_failure(&self) -> OpenFailure {
        let GuestError::Refused { reason, .. } = self else { return OpenFailure::ConnectFailed };
        match Reason::from_code(*reason) {
            Reason::TooMany | Reason::Resources => OpenFailure::Shortage,
            Reason::Unsupported | Reason::NoSuchUser | Reason::BadRequest | Reason::NotPermitted => {
                OpenFailure::Prohibited
            }
            _ => OpenFailure::ConnectFailed,
        }
    }
}

impl From<Refused> for GuestError {
    fn from(refused: Refused) -> Self {
        let kind = match refused.reason {
            Reason::ConnectRefused => NetworkFailure::Refused,
            Reason::NoRoute => NetworkFailure::NoRoute,
            Reason::ConnectTimeout => NetworkFailure::TimedOut,
            Reason::NameNotFound => NetworkFailure::NameNotFound,
            Reason::NotFound => NetworkFailure::NotFound,
            Reason::AddressInUse => NetworkFailure::AddressInUse,
            Reason::NotWaiting => NetworkFailure::NotWaiting,
            Reason::AccessDenied => NetworkFailure::AccessDenied,
            reason => return GuestError::Refused { reason: reason.code(), text: refused.text },
        };
        GuestError::Network { kind, text: refused.text }
    }
}

impl From<GuestError> for io::Error {
    fn from(error: GuestError) -> Self {
        let kind = match &error {
            GuestError::SandboxGone | GuestError::LinkLost | GuestError::Reset => {
                io::ErrorKind::ConnectionReset
            }
            GuestError::Dial(_) => io::ErrorKind::NotConnected,
            GuestError::Timeout { .. } | GuestError::NotResponding { .. } => io::ErrorKind::TimedOut,
            GuestError::Refused { .. } | GuestError::Network { .. } => io::ErrorKind::ConnectionRefused,
            GuestError::Version(_) => io::ErrorKind::Unsupported,
            GuestError::Protocol(_) => io::ErrorKind::InvalidData,
            GuestError::Limit(_) => io::ErrorKind::InvalidInput,
            GuestError::Io(_) => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
