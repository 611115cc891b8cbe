//! Restrictions of the file servers: a root directory, and reading alone.

use serde::{Deserialize, Serialize};

use crate::scope::{Scope, Scopes};

/// The longest root directory, in bytes: Linux's `PATH_MAX` without its NUL.
const MOST_ROOT: usize = 4095;

/// What a credential with the scope `sftp` may do through the file servers. The default is everything that the login user may.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileAccess {
    /// The directory in the sandbox that the client sees as `/`; a relative one starts at the login user's home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Nothing may be changed.
    #[serde(default)]
    pub read_only: bool,
}

/// Why a restriction cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileAccessError {
    /// The root is no path.
    #[error("The SFTP root has to be a path of 1 to {MOST_ROOT} bytes without control characters.")]
    BadRoot,
    /// The restriction would hold nobody.
    #[error(
        "A credential with the scope \"{0}\" is not held by an SFTP restriction: give it \"sftp\" without it."
    )]
    Pointless(Scope),
}

impl FileAccess {
    /// Whether there is any restriction.
    #[must_use]
    pub fn is_restricted(&self) -> bool {
        self.root.is_some() || self.read_only
    }

    /// The scopes of a credential for which none were named: all of them, or `sftp` alone under a restriction.
    #[must_use]
    pub fn default_scopes(&self) -> Scopes {
        if self.is_restricted() { Scopes::NONE.with(Scope::Sftp) } else { Scopes::all() }
    }

    /// Whether a credential with these scopes can have this restriction. A shell or a command reaches what a file server
    /// refuses; so does a forwarded socket of something that runs inside.
    ///
    /// # Errors
    /// See [`FileAccessError`].
    pub fn check(&self, scopes: Scopes) -> Result<(), FileAccessError> {
        let is_path = |root: &String| {
            !root.is_empty() && root.len() <= MOST_ROOT && !root.chars().any(char::is_control)
        };
        if !self.root.as_ref().is_none_or(is_path) {
            return Err(FileAccessError::BadRoot);
        }
        let around = [Scope::Shell, Scope::Exec, Scope::Forward];
        match around.into_iter().find(|scope| scopes.contains(*scope)) {
            Some(scope) if self.is_restricted() => Err(FileAccessError::Pointless(scope)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restriction_that_can_be_walked_around_is_refused() {
        let held = FileAccess { root: Some("drop".into()), read_only: false };
        assert_eq!(held.check(Scopes::all()), Err(FileAccessError::Pointless(Scope::Shell)));
        assert_eq!(held.default_scopes().to_string(), "sftp");
        assert_eq!(held.check(held.default_scopes()), Ok(()));
        assert_eq!(FileAccess::default().check(Scopes::all()), Ok(()));
        assert_eq!(FileAccess::default().default_scopes(), Scopes::all());
    }

    #[test]
    fn a_root_is_a_path() {
        for bad in [String::new(), "a\nb".to_owned(), "x".repeat(MOST_ROOT + 1)] {
            let access = FileAccess { root: Some(bad), read_only: true };
            assert_eq!(access.check(access.default_scopes()), Err(FileAccessError::BadRoot));
        }
    }
}
