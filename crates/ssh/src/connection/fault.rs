//! What ends a connection from our side.

use std::sync::Arc;

use crate::codec::DecodeError;
use crate::event::EndReason;
use crate::transport::{self, DisconnectReason};

/// A reason to end the connection.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The transport has failed, and has told the client already where it could.
    Transport(transport::Error),
    /// The client broke a rule; the text is a sentence for it.
    Protocol(String),
    /// The client asked for a service that does not exist.
    NoService,
    /// See [`EndReason::TooManyAuthFailures`].
    TooManyAuthFailures,
    /// See [`EndReason::LoginTimeout`].
    LoginTimeout,
}

impl Fault {
    pub(crate) fn protocol(text: impl Into<String>) -> Self {
        Self::Protocol(text.into())
    }

    /// What the client is told, if that is left to us.
    pub(crate) fn disconnect(&self) -> Option<(DisconnectReason, String)> {
        Some(match self {
            Self::Transport(_) => return None,
            Self::Protocol(text) => (DisconnectReason::ProtocolError, text.clone()),
            Self::NoService => {
                (DisconnectReason::ServiceNotAvailable, "This service is not available.".to_owned())
            }
            // OpenSSH's code and words, which clients look for.
            Self::TooManyAuthFailures => {
                (DisconnectReason::ProtocolError, "Too many authentication failures".to_owned())
            }
            Self::LoginTimeout => {
                (DisconnectReason::ByApplication, "The login took longer than the time allowed.".to_owned())
            }
        })
    }
}

impl From<Fault> for EndReason {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Transport(transport::Error::Disconnected { reason, text }) => {
                Self::DisconnectedByPeer { code: reason, text }
            }
            Fault::Transport(error) => Self::Transport(error),
            Fault::Protocol(text) => Self::Protocol(text.into()),
            Fault::NoService => Self::Protocol(Arc::from("The client asked for an unknown service.")),
            Fault::TooManyAuthFailures => Self::TooManyAuthFailures,
            Fault::LoginTimeout => Self::LoginTimeout,
        }
    }
}

impl From<transport::Error> for Fault {
    fn from(error: transport::Error) -> Self {
        Self::Transport(error)
    }
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Self {
        Self::Protocol(format!("A message is malformed: {error}"))
    }
}
