//! Questions of the authentication phase (RFC 4252, RFC 4256, OpenSSH PROTOCOL.certkeys and PROTOCOL.u2f).

use std::fmt;

use zeroize::Zeroizing;

/// A public key as it came over the wire.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    /// The name of the key type inside the blob, as `ssh-ed25519` or `ssh-rsa`. For a certificate this is the plain
    /// type of the certified key.
    pub key_type: String,
    /// The name of the signature algorithm the client offers or used, as `rsa-sha2-512`.
    pub algorithm: String,
    /// The public key blob (RFC 4253 §6.6), without any certificate around it.
    pub blob: Vec<u8>,
}

impl PublicKey {
    /// The fingerprint in OpenSSH's form: `SHA256:` and unpadded base64.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        crate::auth::fingerprint(&self.blob)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublicKey")
            .field("algorithm", &self.algorithm)
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

/// An OpenSSH *user* certificate. The core has checked its form, its type and the CA's signature over it. **Not**
/// checked, because only the application knows them: whether [`ca`](Self::ca) is trusted, the principals, the validity
/// period and the critical options. A certificate with a critical option that the application does not know must be
/// rejected (PROTOCOL.certkeys); [`check`](Self::check) does that together with time and principals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Serial number given by the CA; 0 if unused.
    pub serial: u64,
    /// The CA's free-text identifier, for logs.
    pub key_id: Vec<u8>,
    /// The user names it is for. Empty means any; OpenSSH refuses that for users, and so does [`check`](Self::check).
    pub principals: Vec<Vec<u8>>,
    /// Seconds since 1970 from which it is valid.
    pub valid_after: u64,
    /// Seconds since 1970 from which it is no longer valid; `u64::MAX` for ever.
    pub valid_before: u64,
    /// Critical options with their data (already unwrapped from the inner string where there is one), in wire order.
    pub critical_options: Vec<(Vec<u8>, Vec<u8>)>,
    /// Extensions with their data, in wire order.
    pub extensions: Vec<(Vec<u8>, Vec<u8>)>,
    /// The key that signed it; `algorithm` is that of the CA's signature.
    pub ca: PublicKey,
}

/// Why [`Certificate::check`] said no. Fit for a log, not for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateRefused {
    /// The present time is outside of the validity period.
    #[error("The certificate is not valid at this time.")]
    Time,
    /// The name is not among the principals, or there are none.
    #[error("The certificate is not for this user name.")]
    Principal,
    /// A critical option is not known to the application.
    #[error("The certificate has an unknown critical option.")]
    CriticalOption,
}

impl Certificate {
    /// Checks the validity period at `unix_seconds`, that `principal` is named, and that every critical option is
    /// in `known_options`.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn check(
        &self,
        unix_seconds: u64,
        principal: &[u8],
        known_options: &[&str],
    ) -> Result<(), CertificateRefused> {
        if unix_seconds < self.valid_after || unix_seconds >= self.valid_before {
            return Err(CertificateRefused::Time);
        }
        if !self.principals.iter().any(|p| p == principal) {
            return Err(CertificateRefused::Principal);
        }
        let known = |name: &[u8]| known_options.iter().any(|k| k.as_bytes() == name);
        if !self.critical_options.iter().all(|(name, _)| known(name)) {
            return Err(CertificateRefused::CriticalOption);
        }
        Ok(())
    }
}

/// What a FIDO security key said when it signed (PROTOCOL.u2f).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecurityKeyUse {
    /// The user was verified by PIN or fingerprint, not only present. (Presence is required by the core.)
    pub user_verified: bool,
    /// The key's signature counter.
    pub counter: u32,
}

/// How the client wants to log in. Secrets are wiped when dropped and never shown by `Debug`.
#[non_exhaustive]
pub enum AuthMethod {
    /// Method `none`: the client asks what is possible; a token used as user name is accepted here.
    None,
    /// The client asks whether a key *would* do. Accepting sends `SSH_MSG_USERAUTH_PK_OK`; rejecting is not counted as a
    /// failed attempt. Nothing has been signed yet.
    PublicKeyProbe {
        /// The key offered.
        key: PublicKey,
        /// The certificate around it, if it was offered as one.
        certificate: Option<Box<Certificate>>,
    },
    /// The client has proved that it holds the key: the signature has been verified by the core.
    PublicKey {
        /// The key that signed.
        key: PublicKey,
        /// The certificate around it, if it was used as one.
        certificate: Option<Box<Certificate>>,
        /// What a FIDO key said, if it is one.
        security_key: Option<SecurityKeyUse>,
        /// True when the signature also covers our host key (`publickey-hostbound-v00@openssh.com`).
        host_bound: bool,
    },
    /// A password.
    Password(Zeroizing<Vec<u8>>),
    /// Keyboard-interactive: use `AuthQuestion::prompt` to ask, any number of times, then accept or reject.
    KeyboardInteractive {
        /// Hints by the client as to which submethods it wants; usually empty.
        submethods: Vec<u8>,
    },
}

impl AuthMethod {
    /// The method's name on the wire (RFC 4252), without distinguishing a probe.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::PublicKeyProbe { .. } | Self::PublicKey { .. } => "publickey",
            Self::Password(_) => "password",
            Self::KeyboardInteractive { .. } => "keyboard-interactive",
        }
    }
}

impl fmt::Debug for AuthMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PublicKeyProbe { key, .. } => f.debug_tuple("PublicKeyProbe").field(key).finish(),
            Self::PublicKey { key, .. } => f.debug_tuple("PublicKey").field(key).finish(),
            other => f.write_str(other.name()),
        }
    }
}

/// One question of keyboard-interactive (RFC 4256 §3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The text shown.
    pub text: String,
    /// Whether the answer is shown while it is typed.
    pub echo: Echo,
}

/// Whether typed characters are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Echo {
    /// Shown.
    On,
    /// Hidden, for secrets.
    Off,
}
