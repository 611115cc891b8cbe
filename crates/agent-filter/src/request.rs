//! Reads the guest's requests (RFC 9987 §5) and sorts them. What is to be passed on is read to its last byte.

use crate::codec::{Malformed, Reader};
use crate::event::Refused;
use crate::filter::FilterError;
use crate::purpose::SessionId;
use crate::text::Text;

const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
const EXTENSION: u8 = 27;

/// The one extension that is passed on (OpenSSH PROTOCOL.agent §1).
pub(crate) const SESSION_BIND: &[u8] = b"session-bind@openssh.com";
/// The extension that lists extensions; answered by us.
pub(crate) const QUERY: &[u8] = b"query";

/// A request of the guest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    /// List the keys.
    List,
    /// Sign `data`. The flags choose RSA's hash and are the agent's business.
    Sign { key: &'a [u8], data: &'a [u8] },
    /// Bind the connection to a session.
    Bind {
        host_key: &'a [u8],
        session_id: SessionId,
        raw_id: &'a [u8],
        signature: &'a [u8],
        forwarding: bool,
    },
    /// List the extensions.
    Query,
    /// Not for the agent.
    Forbidden(Refused),
}

impl<'a> Request<'a> {
    /// Reads a message without its length field.
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, FilterError> {
        let mut reader = Reader::new(body);
        let number = reader.byte().map_err(|_| FilterError::Malformed { request: "A request" })?;
        match number {
            REQUEST_IDENTITIES => {
                reader
                    .finish()
                    .map_err(|_| FilterError::Malformed { request: "A request for the list of keys" })?;
                Ok(Self::List)
            }
            SIGN_REQUEST => sign(reader).map_err(|_| FilterError::Malformed { request: "A sign request" }),
            EXTENSION => extension(reader),
            number => Ok(Self::Forbidden(Refused::Message { number })),
        }
    }
}

fn sign(mut reader: Reader<'_>) -> Result<Request<'_>, Malformed> {
    let (key, data) = (reader.string()?, reader.string()?);
    let _flags = reader.u32()?;
    reader.finish()?;
    Ok(Request::Sign { key, data })
}

fn extension(mut reader: Reader<'_>) -> Result<Request<'_>, FilterError> {
    match reader.string().map_err(|_| FilterError::Malformed { request: "An extension request" })? {
        SESSION_BIND => bind(reader).map_err(|_| FilterError::Malformed { request: "A session bind" }),
        QUERY => Ok(Request::Query),
        name => Ok(Request::Forbidden(Refused::Extension { name: Text::new(name) })),
    }
}

fn bind(mut reader: Reader<'_>) -> Result<Request<'_>, Malformed> {
    let (host_key, raw_id, signature) = (reader.string()?, reader.string()?, reader.string()?);
    let forwarding = reader.byte()? != 0;
    reader.finish()?;
    let session_id = SessionId::new(raw_id).ok_or(Malformed)?;
    Ok(Request::Bind { host_key, session_id, raw_id, signature, forwarding })
}
