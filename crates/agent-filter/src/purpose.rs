//! What a signature was for, read from the data that was to be signed.
//!
//! Primer: an SSH agent signs bytes and knows nothing of their meaning, but the two usual kinds can be told by their form. A login signs
//! the session id and the whole authentication request (RFC 4252 §7; with `publickey-hostbound-v00@openssh.com` the server's host key
//! too). `ssh-keygen -Y sign`, and so git, signs a blob that begins with `SSHSIG` and names a namespace (OpenSSH PROTOCOL.sshsig).
//! Neither form can be taken for the other, and what a server accepts as a login has exactly the form that is read here.

use std::fmt;

use crate::codec::{Malformed, Reader};
use crate::fingerprint::Fingerprint;
use crate::key::KeyId;
use crate::text::Text;

/// The longest session id, in bytes. It is a hash, 64 bytes at most today; 128 is where OpenSSH's agent stops.
pub(crate) const MAX_SESSION_ID: usize = 128;
/// `SSH_MSG_USERAUTH_REQUEST`.
const USERAUTH_REQUEST: u8 = 50;

/// What was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// A login on an SSH server.
    Login(Box<Login>),
    /// A file, commit or other message in the SSHSIG format.
    SshSig {
        /// What the signature is good for: `git`, `file` or another word that signer and verifier share.
        namespace: Text,
        /// The hash of the message that was signed: `sha256` or `sha512`.
        hash: Text,
    },
    /// Anything else.
    Opaque {
        /// Bytes of it.
        len: usize,
    },
}

/// A login on an SSH server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The user name on that server.
    pub user: Text,
    /// The service asked for, `ssh-connection` as a rule.
    pub service: Text,
    /// The connection this login is good for, and no other.
    pub session_id: SessionId,
    /// The server's host key, when it is part of what was signed (`publickey-hostbound-v00@openssh.com`).
    pub host_key: Option<Fingerprint>,
    /// The key that the login names, when that is another one than was asked to sign. No honest client does this.
    pub other_key: Option<Fingerprint>,
    /// What a session bind on this connection said about the session.
    pub binding: Option<Binding>,
}

/// What `session-bind@openssh.com` said about a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The server's host key.
    pub host_key: Fingerprint,
    /// The client's word that it only forwards the agent to this server.
    pub forwarding: bool,
    /// Whether the host key's signature over the session id was found good. Nothing else of a bind can be believed without it.
    pub verified: bool,
    /// Whether the agent took the bind. One that does not know the extension refuses it.
    pub accepted: bool,
}

/// Identifies an SSH connection; shown in hexadecimal.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionId(Box<[u8]>);

impl Purpose {
    /// Reads the data of a sign request for `key`. Bindings are filled in later.
    pub(crate) fn of(data: &[u8], key: &KeyId) -> Self {
        login(data, key)
            .map(|login| Self::Login(Box::new(login)))
            .or_else(|_| sshsig(data))
            .unwrap_or(Self::Opaque { len: data.len() })
    }
}

fn login(data: &[u8], key: &KeyId) -> Result<Login, Malformed> {
    let mut reader = Reader::new(data);
    let session_id = SessionId::new(reader.string()?).ok_or(Malformed)?;
    let request = reader.byte()?;
    let (user, service, method) = (reader.string()?, reader.string()?, reader.string()?);
    let signed = reader.byte()?;
    let _algorithm = reader.string()?;
    let named = KeyId::of(reader.string()?).fingerprint;
    let host_key = match method {
        b"publickey" => None,
        b"publickey-hostbound-v00@openssh.com" => Some(KeyId::of(reader.string()?).fingerprint),
        _ => return Err(Malformed),
    };
    reader.finish()?;
    if (request, signed) != (USERAUTH_REQUEST, 1) {
        return Err(Malformed);
    }
    Ok(Login {
        user: Text::new(user),
        service: Text::new(service),
        session_id,
        host_key,
        other_key: (named != key.fingerprint).then_some(named),
        binding: None,
    })
}

fn sshsig(data: &[u8]) -> Result<Purpose, Malformed> {
    let mut reader = Reader::new(data);
    if reader.bytes(6)? != b"SSHSIG" {
        return Err(Malformed);
    }
    let (namespace, _reserved, hash, _digest) =
        (reader.string()?, reader.string()?, reader.string()?, reader.string()?);
    reader.finish()?;
    Ok(Purpose::SshSig { namespace: Text::new(namespace), hash: Text::new(hash) })
}

impl SessionId {
    /// Nothing when it is empty or longer than [`MAX_SESSION_ID`].
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        (1..=MAX_SESSION_ID).contains(&bytes.len()).then(|| Self(bytes.into()))
    }

    /// The bytes, between 1 and 128.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Login(login) => fmt::Display::fmt(login, f),
            Self::SshSig { namespace, hash } => write!(f, "SSHSIG namespace {namespace} hash {hash}"),
            Self::Opaque { len } => write!(f, "opaque, {len} bytes"),
        }
    }
}

impl fmt::Display for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "login as {} service {} session {}", self.user, self.service, self.session_id)?;
        if let Some(host_key) = self.host_key {
            write!(f, " host key {host_key}")?;
        }
        if let Some(other) = self.other_key {
            write!(f, " naming another key {other}")?;
        }
        match &self.binding {
            Some(binding) => write!(f, " {binding}"),
            None => f.write_str(" not bound"),
        }
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.forwarding { "forwarding" } else { "login" };
        let verified = if self.verified { "verified" } else { "NOT verified" };
        let accepted = if self.accepted { "accepted by the agent" } else { "refused by the agent" };
        write!(f, "bound for {what} to host key {} ({verified}, {accepted})", self.host_key)
    }
}
