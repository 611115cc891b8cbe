//! Reads the agent's answers (RFC 9987 §5) as answers to what was asked, and writes those that we give ourselves.

use crate::codec::{Malformed, Reader, put_string};
use crate::event::Warning;
use crate::frame::HEADER;
use crate::request::{QUERY, SESSION_BIND};

const FAILURE: u8 = 5;
const SUCCESS: u8 = 6;
const IDENTITIES: u8 = 12;
const SIGNATURE: u8 = 14;
const EXTENSION_FAILURE: u8 = 28;
const EXTENSION_RESPONSE: u8 = 29;

/// The most keys of a list: where OpenSSH's client stops.
const MAX_KEYS: usize = 2048;

/// What was asked of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    List,
    Sign,
    Bind,
}

/// An answer that fits.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    /// A failure of either kind.
    Failure,
    /// The bind was taken.
    Success,
    /// Contents of an extension.
    Extension,
    /// A signature.
    Signature,
    /// Keys, each with its comment.
    Keys(Vec<Key<'a>>),
}

/// A key of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key<'a> {
    pub(crate) blob: &'a [u8],
    pub(crate) comment: &'a [u8],
}

impl Asked {
    const fn name(self) -> &'static str {
        match self {
            Self::List => "a request for the list of keys",
            Self::Sign => "a sign request",
            Self::Bind => "a session bind",
        }
    }
}

impl<'a> Answer<'a> {
    /// Reads a message without its length field.
    pub(crate) fn parse(asked: Asked, body: &'a [u8]) -> Result<Self, Warning> {
        let mut reader = Reader::new(body);
        let malformed = |_| Warning::MalformedAnswer { request: asked.name() };
        let number = reader.byte().map_err(malformed)?;
        let done = |reader: Reader<'_>, answer| reader.finish().map(|()| answer).map_err(malformed);
        match (asked, number) {
            (_, FAILURE) | (Asked::Bind, EXTENSION_FAILURE) => done(reader, Self::Failure),
            (Asked::Bind, SUCCESS) => done(reader, Self::Success),
            (Asked::Bind, EXTENSION_RESPONSE) => match reader.string() {
                Ok(SESSION_BIND) => Ok(Self::Extension),
                _ => Err(malformed(Malformed)),
            },
            (Asked::Sign, SIGNATURE) => {
                reader.string().map_err(malformed)?;
                done(reader, Self::Signature)
            }
            (Asked::List, IDENTITIES) => keys(reader).map(Self::Keys).map_err(malformed),
            _ => Err(Warning::WrongAnswer { request: asked.name(), number }),
        }
    }
}

fn keys(mut reader: Reader<'_>) -> Result<Vec<Key<'_>>, Malformed> {
    let count = usize::try_from(reader.u32()?).map_err(|_| Malformed)?;
    if count > MAX_KEYS {
        return Err(Malformed);
    }
    let keys = (0..count).map(|_| Ok(Key { blob: reader.string()?, comment: reader.string()? })).collect();
    reader.finish().and(keys)
}

/// `SSH_AGENT_FAILURE`, which is also the answer to an extension that is not supported.
pub(crate) fn failure() -> Vec<u8> {
    vec![0, 0, 0, 1, FAILURE]
}

/// A list of keys.
pub(crate) fn identities(keys: &[Key<'_>]) -> Vec<u8> {
    let mut body = vec![IDENTITIES];
    body.extend_from_slice(&u32::try_from(keys.len()).unwrap_or(u32::MAX).to_be_bytes());
    for key in keys {
        put_string(&mut body, key.blob);
        put_string(&mut body, key.comment);
    }
    message(&body)
}

/// The answer to `query`: the extensions that we pass on. Like OpenSSH's agent it does not count `query` itself.
pub(crate) fn extensions() -> Vec<u8> {
    let mut body = vec![EXTENSION_RESPONSE];
    put_string(&mut body, QUERY);
    put_string(&mut body, SESSION_BIND);
    message(&body)
}

fn message(body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(body.len().saturating_add(HEADER));
    put_string(&mut message, body);
    message
}
