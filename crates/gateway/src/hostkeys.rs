//! The gateway's host keys: made on first start, kept 0600, never replaced.
//!
//! A new RSA key takes some tenths of a second, so the very first start is slower than all others.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sandgate_ssh::hostkey::{HostKey, HostKeyError, HostKeyKind};

/// Largest key file that is read; an RSA key of 16384 bits is below it.
const MAX_FILE: u64 = 64 * 1024;

/// Which host keys are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKeySet {
    /// ed25519 and RSA.
    Modern,
    /// Those and ECDSA over P-256, for clients that know nothing newer.
    Compat,
}

impl HostKeySet {
    fn files(self) -> &'static [(HostKeyKind, &'static str)] {
        const ALL: [(HostKeyKind, &str); 3] = [
            (HostKeyKind::Ed25519, "ssh_host_ed25519_key"),
            (HostKeyKind::Rsa3072, "ssh_host_rsa_key"),
            (HostKeyKind::EcdsaP256, "ssh_host_ecdsa_key"),
        ];
        match self {
            HostKeySet::Modern => &ALL[..2],
            HostKeySet::Compat => &ALL,
        }
    }
}

/// Loads the keys in `directory`, making those that are missing. Blocks, for the time that an RSA key takes on first start.
///
/// # Errors
/// A file that others can read, that is not a host key, or that cannot be read or written.
pub fn load_or_generate(directory: &Path, set: HostKeySet) -> Result<Vec<Arc<HostKey>>, HostKeysError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| HostKeysError::File { path, source }
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at(directory))?;
    let mut keys = Vec::new();
    for (kind, name) in set.files() {
        let path = directory.join(name);
        let key = match load(&path)? {
            Some(key) => key,
            None => {
                tracing::info!(file = %path.display(), "making a host key; this happens once");
                let key = HostKey::generate(*kind, "sandgate")
                    .map_err(|error| HostKeysError::Key { path: path.clone(), error })?;
                save(&key, &path)?;
                key
            }
        };
        keys.push(Arc::new(key));
    }
    Ok(keys)
}

fn load(path: &Path) -> Result<Option<HostKey>, HostKeysError> {
    let at = |source| HostKeysError::File { path: path.to_owned(), source };
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(error)),
    };
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(HostKeysError::TooOpen { path: path.to_owned() });
    }
    if metadata.len() > MAX_FILE {
        return Err(at(io::Error::new(io::ErrorKind::InvalidData, "the file is too large for a key")));
    }
    let text = fs::read(path).map_err(at)?;
    HostKey::parse(text).map(Some).map_err(|error| HostKeysError::Key { path: path.to_owned(), error })
}

/// Writes beside the place and renames, so that a crash leaves no half of a key.
fn save(key: &HostKey, path: &Path) -> Result<(), HostKeysError> {
    let wrong = |error| HostKeysError::Key { path: path.to_owned(), error };
    let at = |source| HostKeysError::File { path: path.to_owned(), source };
    let private = key.encode().map_err(wrong)?;
    let public = key.public_line().map_err(wrong)?;
    replace(path, private.as_bytes(), 0o600).map_err(at)?;
    replace(&path.with_extension("pub"), format!("{public}\n").as_bytes(), 0o644).map_err(at)
}

fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// Host keys that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HostKeysError {
    /// A file or directory.
    #[error("the host key {path} cannot be read or written: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could have read it.
    #[error("the host key {path} can be read by others; it must have mode 0600")]
    TooOpen {
        /// Which.
        path: PathBuf,
    },
    /// Its content.
    #[error("the host key {path} cannot be used: {error}")]
    Key {
        /// Which.
        path: PathBuf,
        /// Why.
        error: HostKeyError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_kept_to_the_owner() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = load_or_generate(directory.path(), HostKeySet::Compat).expect("keys");
        let again = load_or_generate(directory.path(), HostKeySet::Compat).expect("keys");
        let prints = |keys: &[Arc<HostKey>]| keys.iter().map(|key| key.fingerprint()).collect::<Vec<_>>();
        assert_eq!(prints(&first), prints(&again));
        assert_eq!(first.len(), 3);
        assert_eq!(load_or_generate(directory.path(), HostKeySet::Modern).expect("keys").len(), 2);
        for entry in fs::read_dir(directory.path()).expect("files") {
            let entry = entry.expect("a file");
            let mode = entry.metadata().expect("metadata").permissions().mode() & 0o777;
            let public = entry.file_name().to_string_lossy().ends_with(".pub");
            assert_eq!(mode, if public { 0o644 } else { 0o600 }, "{:?}", entry.file_name());
        }
    }

    #[test]
    fn an_open_or_broken_key_is_refused_and_not_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ssh_host_ed25519_key");
        fs::write(&path, "no key").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("mode");
        let error = load_or_generate(directory.path(), HostKeySet::Modern).expect_err("too open");
        assert!(matches!(error, HostKeysError::TooOpen { .. }));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mode");
        let error = load_or_generate(directory.path(), HostKeySet::Modern).expect_err("no key");
        assert!(matches!(error, HostKeysError::Key { .. }));
        assert_eq!(fs::read(&path).expect("still there"), b"no key");
    }
}
