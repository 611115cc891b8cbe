//! What can go wrong in the transport, and what the peer is told about it (RFC 4253 §11.1).

use crate::codec::DecodeError;

/// The reason codes of `SSH_MSG_DISCONNECT` (RFC 4253 §11.1, RFC 4250 §4.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum DisconnectReason {
    /// The host may not connect.
    HostNotAllowed = 1,
    /// A message broke the protocol.
    ProtocolError = 2,
    /// Key exchange failed, or no common algorithm.
    KeyExchangeFailed = 3,
    /// A packet failed its integrity check.
    MacError = 5,
    /// The service asked for does not exist.
    ServiceNotAvailable = 7,
    /// The peer's protocol version is not 2.0.
    ProtocolVersionNotSupported = 8,
    /// The connection was lost.
    ConnectionLost = 10,
    /// An ordinary end, decided by one side.
    ByApplication = 11,
    /// The server has too many connections.
    TooManyConnections = 12,
    /// Authentication was given up by the user.
    AuthCancelledByUser = 13,
    /// No authentication method is left to try.
    NoMoreAuthMethods = 14,
    /// The user name cannot be accepted.
    IllegalUserName = 15,
}

impl DisconnectReason {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }
}

/// An error that ends the connection. The message is a sentence fit to be sent to the peer.
///
/// By the time one is returned the transport has already put a matching `SSH_MSG_DISCONNECT` into the output where
/// the protocol allows one: write out what [`output`](super::Transport::output) holds, then close.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The first line of the client is not an SSH 2.0 identification (RFC 4253 §4.2).
    #[error("Invalid SSH identification string.")]
    BadIdentification,
    /// The identification line is longer than 255 bytes.
    #[error("The SSH identification string is too long.")]
    IdentificationTooLong,
    /// The client speaks a version other than 2.0.
    #[error("Protocol major versions differ.")]
    VersionNotSupported,
    /// The length field of a packet is out of bounds, or not a multiple of the block size.
    #[error("Bad packet length {0}.")]
    BadPacketLength(u32),
    /// The padding of a packet is too short or longer than the packet.
    #[error("Bad packet padding.")]
    BadPadding,
    /// A packet failed its integrity check.
    #[error("Message authentication code incorrect.")]
    BadMac,
    /// There is no common algorithm of the named kind.
    #[error("No matching {0} found.")]
    NoCommonAlgorithm(&'static str),
    /// The peer's key exchange value is unusable.
    #[error("The key exchange value is invalid.")]
    BadKeyExchangeValue,
    /// The library refused a cryptographic operation that should not fail.
    #[error("A cryptographic operation failed.")]
    Crypto,
    /// A message that the protocol does not allow at this point, by number.
    #[error("Unexpected message {0} in this phase.")]
    UnexpectedMessage(u8),
    /// Strict key exchange was agreed and something other than key exchange came in between.
    #[error("Strict key exchange was violated by message {0}.")]
    StrictKexViolation(u8),
    /// A message could not be decoded.
    #[error("A message is malformed: {0}")]
    Malformed(#[from] DecodeError),
    /// A sequence number would be used twice with one key.
    #[error("The packet sequence number wrapped without a new key exchange.")]
    SequenceWrapped,
    /// The peer went on sending far beyond the life of its key without answering our key exchange.
    #[error("The key exchange was not answered in time.")]
    RekeyOverdue,
    /// Too much was queued while a key exchange held messages back.
    #[error("Too many messages are waiting for the key exchange to end.")]
    PendingOverflow,
    /// A message is too large for one packet. Only a caller inside this program can cause it.
    #[error("A message is larger than one packet.")]
    MessageTooLarge,
    /// `send_data` was called while a key exchange holds data back; ask `can_send_data` first.
    #[error("Data cannot be sent during a key exchange.")]
    Rekeying,
    /// The handshake took longer than the configured limit.
    #[error("Timed out before the key exchange was complete.")]
    HandshakeTimeout,
    /// The peer sent `SSH_MSG_DISCONNECT`; the text is its own, with control characters removed.
    #[error("The peer disconnected (reason {reason}): {text}")]
    Disconnected {
        /// The reason code as sent.
        reason: u32,
        /// The description as sent, made printable and at most 255 characters long.
        text: String,
    },
    /// The connection has already been ended from our side.
    #[error("The connection is closed.")]
    Closed,
}

impl Error {
    /// The reason code for `SSH_MSG_DISCONNECT`; `None` when the peer must or need not be told.
    #[must_use]
    pub const fn disconnect_reason(&self) -> Option<DisconnectReason> {
        Some(match self {
            Self::VersionNotSupported => DisconnectReason::ProtocolVersionNotSupported,
            Self::BadMac => DisconnectReason::MacError,
            Self::NoCommonAlgorithm(_)
            | Self::BadKeyExchangeValue
            | Self::Crypto
            | Self::StrictKexViolation(_)
            | Self::SequenceWrapped
            | Self::RekeyOverdue => DisconnectReason::KeyExchangeFailed,
            Self::BadPacketLength(_)
            | Self::BadPadding
            | Self::UnexpectedMessage(_)
            | Self::Malformed(_)
            | Self::PendingOverflow
            | Self::MessageTooLarge
            | Self::Rekeying => DisconnectReason::ProtocolError,
            Self::HandshakeTimeout => DisconnectReason::ByApplication,
            Self::BadIdentification | Self::IdentificationTooLong => DisconnectReason::ProtocolError,
            Self::Disconnected { .. } | Self::Closed => return None,
        })
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}
