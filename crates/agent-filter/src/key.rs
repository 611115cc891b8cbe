//! Public keys as they stand in messages: their type, and the fingerprint by which people know them.

use std::fmt;

use crate::codec::{Malformed, Reader, put_string};
use crate::fingerprint::Fingerprint;
use crate::text::Text;

/// Certificate types (OpenSSH PROTOCOL.certkeys) with the type of the key inside and the number of that key's fields, each a `string`
/// or an `mpint`.
const CERTIFICATES: &[(&str, &str, usize)] = &[
    ("ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519", 1),
    ("ssh-rsa-cert-v01@openssh.com", "ssh-rsa", 2),
    ("ssh-dss-cert-v01@openssh.com", "ssh-dss", 4),
    ("ecdsa-sha2-nistp256-cert-v01@openssh.com", "ecdsa-sha2-nistp256", 2),
    ("ecdsa-sha2-nistp384-cert-v01@openssh.com", "ecdsa-sha2-nistp384", 2),
    ("ecdsa-sha2-nistp521-cert-v01@openssh.com", "ecdsa-sha2-nistp521", 2),
    ("sk-ssh-ed25519-cert-v01@openssh.com", "sk-ssh-ed25519@openssh.com", 2),
    ("sk-ecdsa-sha2-nistp256-cert-v01@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com", 3),
];

/// Which key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyId {
    /// Of the key, or of the key that a certificate certifies.
    pub fingerprint: Fingerprint,
    /// The type the blob names, `ssh-ed25519` or `ssh-ed25519-cert-v01@openssh.com` for example.
    pub key_type: Text,
}

impl KeyId {
    /// Of a key blob. One that names no type has an empty type; it still has a fingerprint.
    pub(crate) fn of(blob: &[u8]) -> Self {
        let key_type = Reader::new(blob).string().unwrap_or_default();
        let fingerprint = match plain(blob) {
            Some(key) => Fingerprint::of(&key),
            None => Fingerprint::of(blob),
        };
        Self { fingerprint, key_type: Text::new(key_type) }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} type {}", self.fingerprint, self.key_type)
    }
}

/// The plain key of a certificate; nothing when the blob is no certificate.
pub(crate) fn plain(blob: &[u8]) -> Option<Vec<u8>> {
    certified(blob).ok()
}

fn certified(blob: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut reader = Reader::new(blob);
    let name = reader.string()?;
    let (_, plain, fields) =
        CERTIFICATES.iter().find(|(certificate, ..)| certificate.as_bytes() == name).ok_or(Malformed)?;
    let _nonce = reader.string()?;
    let mut key = Vec::with_capacity(blob.len());
    put_string(&mut key, plain.as_bytes());
    for _ in 0..*fields {
        put_string(&mut key, reader.string()?);
    }
    Ok(key)
}
