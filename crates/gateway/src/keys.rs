//! Adding, listing and removing public keys.

use std::sync::Arc;

use sandgate_policy::{CertAuthority, KeyName, new_id};
use sandgate_store::{KeyRow, KeySandboxes, Store, StoreError};
use ssh_key::{Algorithm, HashAlg, PublicKey};
use time::OffsetDateTime;

use crate::access::{Access, Revoked};
use crate::audit::Audit;
use crate::sandboxes::Sandboxes;

/// Longest key file that is looked at, in bytes.
const MAX_KEY_TEXT: usize = 16 * 1024;
/// Shortest RSA key that is accepted, in bits.
const MIN_RSA_BITS: usize = 2048;

/// The owner's hand on public keys.
pub struct Keys {
    store: Arc<Store>,
    access: Arc<Access>,
    sandboxes: Arc<Sandboxes>,
    audit: Arc<Audit>,
}

impl Keys {
    pub(crate) fn new(
        store: Arc<Store>,
        access: Arc<Access>,
        sandboxes: Arc<Sandboxes>,
        audit: Arc<Audit>,
    ) -> Keys {
        Keys { store, access, sandboxes, audit }
    }

    /// Adds the key in `text` (one line, as in an `id_*.pub` file) for the sandboxes of those names, or for every one
    /// when no name is given. With an authority, it is its certificates that open them.
    ///
    /// # Errors
    /// Not a usable public key, a name or key that is there already, an unknown sandbox, or a failure of the store.
    pub async fn add(
        &self,
        name: KeyName,
        text: &str,
        sandboxes: &[String],
        authority: Option<CertAuthority>,
    ) -> Result<KeyRow, KeyError> {
        let mut key = parse(text)?;
        key.set_comment("");
        let allowed = if sandboxes.is_empty() {
            KeySandboxes::Every
        } else {
            let mut ids = Vec::new();
            for sandbox in sandboxes {
                let id = self.sandboxes.id_of(sandbox).ok_or_else(|| KeyError::NoSandbox(sandbox.clone()))?;
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
            KeySandboxes::Only(ids)
        };
        let row = KeyRow {
            id: new_id("key")?,
            name: name.as_str().to_owned(),
            fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
            public_key: key.to_openssh().map_err(|_| KeyError::NotAKey)?,
            sandboxes: allowed,
            authority,
            created_at: OffsetDateTime::now_utc(),
            last_used_at: None,
        };
        match self.store.insert_key(&row).await {
            Ok(()) => {}
            Err(StoreError::Exists) => return Err(KeyError::Exists(name)),
            Err(error) => return Err(error.into()),
        }
        let detail = match &row.authority {
            None => format!("{name} {}", row.fingerprint),
            Some(CertAuthority { principals }) => {
                format!("{name} {} cert-authority principals \"{principals}\"", row.fingerprint)
            }
        };
        self.audit.owner_did("key.add", None, detail).await;
        Ok(row)
    }

    /// Every key, by name.
    ///
    /// # Errors
    /// A failure of the store.
    pub async fn list(&self) -> Result<Vec<KeyRow>, KeyError> {
        Ok(self.store.keys().await?)
    }

    /// Removes a key and ends the connections that rest on it. Returns how many those were.
    ///
    /// # Errors
    /// No such key, or a failure of the store.
    pub async fn remove(&self, name: &str) -> Result<usize, KeyError> {
        let Some(id) = self.store.delete_key(name).await? else {
            return Err(KeyError::NoKey(name.chars().take(64).collect()));
        };
        let ended =
            self.access.end(Revoked::Key(id), "Your key, or the authority of your certificate, was removed.");
        self.audit.owner_did("key.remove", None, format!("{name}, {ended} connections ended")).await;
        Ok(ended)
    }
}

fn parse(text: &str) -> Result<PublicKey, KeyError> {
    if text.len() > MAX_KEY_TEXT {
        return Err(KeyError::NotAKey);
    }
    if text.contains("PRIVATE KEY") {
        return Err(KeyError::Private);
    }
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return Err(KeyError::NotAKey);
    };
    let key = PublicKey::from_openssh(line).map_err(|_| KeyError::NotAKey)?;
    match key.algorithm() {
        Algorithm::Ed25519
        | Algorithm::Ecdsa { .. }
        | Algorithm::SkEd25519
        | Algorithm::SkEcdsaSha2NistP256 => {}
        Algorithm::Rsa { .. } => {
            let modulus = key.key_data().rsa().and_then(|rsa| rsa.n.as_positive_bytes()).unwrap_or_default();
            if modulus.len() * 8 < MIN_RSA_BITS {
                return Err(KeyError::ShortRsa);
            }
        }
        other => return Err(KeyError::Unsupported(other.to_string())),
    }
    Ok(key)
}

/// What can go wrong with keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The text.
    #[error("that is not one public key in OpenSSH's format (the content of a file such as id_ed25519.pub)")]
    NotAKey,
    /// The wrong half.
    #[error("that is a private key; give the file that ends in .pub")]
    Private,
    /// Too weak.
    #[error("an RSA key must have at least {MIN_RSA_BITS} bits")]
    ShortRsa,
    /// DSA and others.
    #[error("keys of the type {0} are not accepted")]
    Unsupported(String),
    /// The name or the key is taken.
    #[error("there is already a key \"{0}\", or the same key under another name")]
    Exists(KeyName),
    /// Not there.
    #[error("there is no key \"{0}\"")]
    NoKey(String),
    /// The sandbox is not there.
    #[error("there is no sandbox \"{0}\"")]
    NoSandbox(String),
    /// No randomness.
    #[error(transparent)]
    Random(#[from] sandgate_policy::NoRandomness),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti user@example";

    #[test]
    fn a_file_with_one_key_is_read() {
        assert!(parse(ED25519).is_ok());
        assert!(parse(&format!("# my key\n\n{ED25519}\n")).is_ok());
    }

    #[test]
    fn anything_else_is_refused() {
        assert!(matches!(parse(""), Err(KeyError::NotAKey)));
        assert!(matches!(parse(&format!("{ED25519}\n{ED25519}")), Err(KeyError::NotAKey)));
        assert!(matches!(parse("-----BEGIN OPENSSH PRIVATE KEY-----"), Err(KeyError::Private)));
        assert!(matches!(parse(&"x".repeat(MAX_KEY_TEXT + 1)), Err(KeyError::NotAKey)));
    }
}
