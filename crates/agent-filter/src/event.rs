//! What the filter has to tell. Each event shows as one line of printable ASCII of a few kilobytes at most.

use std::fmt;

use crate::key::KeyId;
use crate::purpose::{Binding, Purpose, SessionId};
use crate::text::Text;

/// Something for the audit trail or the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A signature was asked for; said once its outcome is known.
    Signed(Box<Signed>),
    /// A session was bound to a host key; said once the agent has answered.
    Bound(Box<Bound>),
    /// A request was refused without asking the agent.
    Refused(Refused),
    /// The agent did something that it should not; for the log.
    Warning(Warning),
}

/// A signature that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The key.
    pub key: KeyId,
    /// The key's comment, when the agent listed it on this connection before.
    pub comment: Option<Text>,
    /// What came of it.
    pub outcome: Outcome,
    /// What was to be signed.
    pub purpose: Purpose,
}

/// What came of a sign request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The agent signed.
    Signed,
    /// The agent refused: no such key, or its user said no.
    Failed,
    /// The key is not among the allowed ones; the agent was not asked.
    NotAllowed,
    /// The agent's answer was not one to a sign request; the guest was told of a failure.
    BadAnswer,
    /// The connection or the agent was gone before an answer came. The agent may have signed, but the guest did not get it.
    Unanswered,
}

/// A session bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// The session.
    pub session_id: SessionId,
    /// What was said about it, and what that is worth.
    pub binding: Binding,
}

/// A request that was refused without asking the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// A message that changes the agent, or one that we do not know.
    Message {
        /// Its type.
        number: u8,
    },
    /// An extension.
    Extension {
        /// Its name.
        name: Text,
    },
}

/// Something wrong with the agent's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// An answer of a type that no such request has.
    #[error("The agent answered {request} with a message of type {number}.")]
    WrongAnswer {
        /// What was asked.
        request: &'static str,
        /// What it answered.
        number: u8,
    },
    /// An answer of the right type whose fields are not right.
    #[error("The agent's answer to {request} is malformed.")]
    MalformedAnswer {
        /// What was asked.
        request: &'static str,
    },
    /// The agent's stream ended in the middle of an answer.
    #[error("The agent closed the connection in the middle of an answer.")]
    CutAnswer,
}

impl Event {
    /// A word for the kind of event, for audit rows.
    pub const fn action(&self) -> &'static str {
        match self {
            Self::Signed(_) => "agent.sign",
            Self::Bound(_) => "agent.bind",
            Self::Refused(_) => "agent.refused",
            Self::Warning(_) => "agent.warning",
        }
    }
}

impl Outcome {
    /// For the audit line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Signed => "signed",
            Self::Failed => "refused by the agent",
            Self::NotAllowed => "refused, key not allowed",
            Self::BadAnswer => "failed, bad answer of the agent",
            Self::Unanswered => "failed, no answer of the agent",
        }
    }
}

/// What the refusable messages do (RFC 9987 §7.1 and OpenSSH's old ones).
const fn message_name(number: u8) -> &'static str {
    match number {
        1 | 3 | 7 | 8 | 9 | 24 => "a request of SSH protocol 1",
        17 => "add a key",
        18 => "remove a key",
        19 => "remove all keys",
        20 => "add a smartcard key",
        21 => "remove a smartcard key",
        22 => "lock the agent",
        23 => "unlock the agent",
        25 => "add a key with constraints",
        26 => "add a smartcard key with constraints",
        _ => "an unknown request",
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signed(signed) => fmt::Display::fmt(signed, f),
            Self::Bound(bound) => write!(f, "session {} {}", bound.session_id, bound.binding),
            Self::Refused(refused) => fmt::Display::fmt(refused, f),
            Self::Warning(warning) => fmt::Display::fmt(warning, f),
        }
    }
}

impl fmt::Display for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.outcome.as_str(), self.key)?;
        if let Some(comment) = &self.comment {
            write!(f, " comment {comment}")?;
        }
        write!(f, ": {}", self.purpose)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message { number } => write!(f, "refused: {} (type {number})", message_name(*number)),
            Self::Extension { name } => write!(f, "refused: extension {name}"),
        }
    }
}
