//! Who has come in, what they may do, and why somebody may not.

use std::fmt;

use time::OffsetDateTime;

use crate::certificate::SessionAccess;
use crate::files::FileAccess;
use crate::forward::ForwardAccess;
use crate::scope::{Scope, Scopes};
use crate::token::clock;

/// What proved the right to come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A token used as user name or password.
    Token {
        /// Its identifier, not the secret.
        id: String,
        /// The label its maker gave it; may be empty.
        label: String,
        /// The first 8 characters.
        prefix: String,
    },
    /// A registered public key.
    Key {
        /// Its identifier.
        id: String,
        /// The name it was registered under.
        name: String,
    },
    /// A certificate of a registered authority.
    Certificate {
        /// Identifier of the authority's key.
        authority_id: String,
        /// The name the authority was registered under.
        authority: String,
        /// The authority's text for the certificate, as [`certificate_label`] gives it.
        label: String,
        /// The authority's number for it; 0 where it does not count.
        serial: u64,
        /// `SHA256:…` of the certified key.
        fingerprint: String,
    },
    /// A key of the HTTP API, or a browser that has logged in with one.
    ApiKey {
        /// Its identifier, not the secret.
        id: String,
        /// The name it was made under.
        name: String,
    },
    /// The owner of the data directory, through the control socket.
    Local,
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credential::Token { id, label, .. } if label.is_empty() => write!(f, "token {id}"),
            Credential::Token { id, label, .. } => write!(f, "token {id} ({label})"),
            Credential::Key { name, .. } => write!(f, "key {name}"),
            Credential::Certificate { authority, label, serial, .. } => {
                write!(f, "certificate \"{label}\" serial {serial} of {authority}")
            }
            Credential::ApiKey { name, .. } => write!(f, "api key {name}"),
            Credential::Local => f.write_str("local owner"),
        }
    }
}

/// Somebody who has proved a right to one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Identifier of the sandbox that this opens. Never another.
    pub sandbox_id: String,
    /// Name of that sandbox at login.
    pub sandbox_name: String,
    /// What proved the right.
    pub credential: Credential,
    /// What it is good for.
    pub scopes: Scopes,
    /// When the right ends, and live sessions with it. `None`: never by itself.
    pub expires_at: Option<OffsetDateTime>,
    /// User inside the sandbox; `None` is the one the sandbox was made with.
    pub login_user: Option<String>,
    /// What the file servers do for it, if its scopes allow them at all.
    pub files: FileAccess,
    /// What may be forwarded for it, if its scopes allow that at all.
    pub forward: ForwardAccess,
    /// What its sessions are held to.
    pub session: SessionAccess,
}

/// Something that needs a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// An interactive shell.
    Shell,
    /// One command.
    Exec,
    /// The `sftp` subsystem.
    Sftp,
    /// A forwarded TCP connection, socket or listener.
    Forward,
    /// Forwarding of the client's agent.
    Agent,
}

impl Action {
    /// The scope that allows it.
    #[must_use]
    pub fn scope(self) -> Scope {
        match self {
            Action::Shell => Scope::Shell,
            Action::Exec => Scope::Exec,
            Action::Sftp => Scope::Sftp,
            Action::Forward => Scope::Forward,
            Action::Agent => Scope::Agent,
        }
    }
}

/// The answer of [`decide`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Allow,
    /// No, with one sentence for the user.
    Deny(String),
}

/// Whether `principal` may do `action` at `now`.
#[must_use]
pub fn decide(principal: &Principal, action: Action, now: OffsetDateTime) -> Decision {
    if let Some(end) = principal.expires_at.filter(|end| now >= *end) {
        return Decision::Deny(format!("Your access expired at {}.", clock(end)));
    }
    let scope = action.scope();
    if !principal.scopes.contains(scope) {
        let holder = match principal.credential {
            Credential::Token { .. } => "token",
            Credential::Key { .. } => "key",
            Credential::Certificate { .. } => "certificate",
            Credential::ApiKey { .. } | Credential::Local => "access",
        };
        return Decision::Deny(format!(
            "This {holder} does not have the scope \"{scope}\"; it has: {}.",
            principal.scopes
        ));
    }
    Decision::Allow
}

/// An authority's text for a certificate (its key id), fit for logs and tables: cut, with whatever is not plain text escaped.
#[must_use]
pub fn certificate_label(key_id: &[u8]) -> String {
    const LONGEST_CHARS: usize = 64;
    String::from_utf8_lossy(key_id).chars().take(LONGEST_CHARS).flat_map(char::escape_debug).collect()
}

/// A refused login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// Said to the user in a banner. Only ever set for the holder of a credential that was valid once, so that a
    /// stranger learns nothing.
    pub public: Option<String>,
    /// Why, for the log and the audit.
    pub log: DenyReason,
}

impl Denied {
    /// A refusal that tells the user nothing but "Permission denied".
    #[must_use]
    pub fn silent(log: DenyReason) -> Denied {
        Denied { public: None, log }
    }

    /// A refusal whose reason the user may know.
    #[must_use]
    pub fn told(public: String, log: DenyReason) -> Denied {
        Denied { public: Some(public), log }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "login refused: {}", self.log)
    }
}

impl std::error::Error for Denied {}

/// Why a login was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DenyReason {
    /// The user name does not look like a token.
    #[error("the name presented is not a token")]
    NotAToken,
    /// It looks like a token but its check characters are wrong.
    #[error("the token was mistyped or cut short")]
    Mistyped,
    /// A well-formed token that the store does not know.
    #[error("unknown token")]
    UnknownToken,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Somebody took it back.
    #[error("the token was revoked")]
    Revoked,
    /// Used from a network it is not meant for.
    #[error("the token was used from a network it does not allow")]
    SourceNotAllowed,
    /// The sandbox it opened is gone.
    #[error("the sandbox no longer exists")]
    SandboxGone,
    /// No such public key.
    #[error("unknown public key")]
    UnknownKey,
    /// The key is known but not for that sandbox, or there is no such sandbox.
    #[error("the key does not open that sandbox")]
    KeyNotForSandbox,
    /// Before or after its time.
    #[error("the certificate is not valid at this time")]
    CertificateTime,
    /// For other names.
    #[error("the certificate does not name the sandbox or a principal of its authority")]
    CertificatePrincipal,
    /// A critical option that does not hold, or that is not known here.
    #[error("a critical option of the certificate is not met")]
    CertificateOption,
    /// It has as many connections as one credential may have.
    #[error("the credential has too many connections")]
    TooManyConnections,
    /// A way to log in that no credential here can be used with.
    #[error("the method is not supported")]
    UnsupportedMethod,
    /// The store did not answer.
    #[error("the store could not be asked")]
    StoreFailed,
}

impl DenyReason {
    /// A short word for logs and counters.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            DenyReason::NotAToken => "not_a_token",
            DenyReason::Mistyped => "mistyped",
            DenyReason::UnknownToken => "unknown_token",
            DenyReason::Expired => "expired",
            DenyReason::Revoked => "revoked",
            DenyReason::SourceNotAllowed => "source_not_allowed",
            DenyReason::SandboxGone => "sandbox_gone",
            DenyReason::UnknownKey => "unknown_key",
            DenyReason::KeyNotForSandbox => "key_not_for_sandbox",
            DenyReason::CertificateTime => "certificate_time",
            DenyReason::CertificatePrincipal => "certificate_principal",
            DenyReason::CertificateOption => "certificate_option",
            DenyReason::TooManyConnections => "too_many_connections",
            DenyReason::UnsupportedMethod => "unsupported_method",
            DenyReason::StoreFailed => "store_failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn principal(scopes: Scopes, expires_at: Option<OffsetDateTime>) -> Principal {
        Principal {
            sandbox_id: "sb-1".into(),
            sandbox_name: "demo".into(),
            credential: Credential::Token {
                id: "tok-1".into(),
                label: "ci".into(),
                prefix: "sg_01234".into(),
            },
            scopes,
            expires_at,
            login_user: None,
            files: FileAccess::default(),
            forward: ForwardAccess::default(),
            session: SessionAccess::default(),
        }
    }

    #[test]
    fn the_text_of_a_certificate_is_escaped_and_cut() {
        assert_eq!(certificate_label(b"alice@laptop"), "alice@laptop");
        assert_eq!(certificate_label(b"a\"\x1b[2J\n\xe2\x80\xae"), "a\\\"\\u{1b}[2J\\n\\u{202e}");
        assert_eq!(certificate_label(&[b'x'; 1000]).len(), 64);
    }

    const ACTIONS: [Action; 5] = [Action::Shell, Action::Exec, Action::Sftp, Action::Forward, Action::Agent];

    #[test]
    fn a_missing_scope_is_named() {
        let someone = principal("exec,sftp".parse().expect("scopes"), None);
        let Decision::Deny(text) = decide(&someone, Action::Shell, OffsetDateTime::UNIX_EPOCH) else {
            panic!("allowed")
        };
        assert_eq!(text, "This token does not have the scope \"shell\"; it has: exec,sftp.");
    }

    #[test]
    fn expiry_ends_everything() {
        let end = OffsetDateTime::UNIX_EPOCH + time::Duration::HOUR;
        let someone = principal(Scopes::all(), Some(end));
        for action in ACTIONS {
            assert_eq!(decide(&someone, action, end - time::Duration::NANOSECOND), Decision::Allow);
            assert!(matches!(decide(&someone, action, end), Decision::Deny(_)));
        }
    }

    proptest! {
        #[test]
        fn allowed_exactly_when_the_scope_is_there(chosen in proptest::sample::subsequence(Scope::ALL.to_vec(), 1..=5)) {
            let someone = principal(chosen.iter().copied().collect(), None);
            for action in ACTIONS {
                let allowed = decide(&someone, action, OffsetDateTime::UNIX_EPOCH) == Decision::Allow;
                prop_assert_eq!(allowed, chosen.contains(&action.scope()));
            }
        }
    }
}
