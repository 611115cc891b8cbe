//! User certificates: which names an authority vouches for, and what a certificate holds its sessions to.

use serde::{Deserialize, Serialize};

/// Principals that one authority may have, as many as OpenSSH reads of a certificate.
const MAX_PRINCIPALS: usize = 256;
/// Longest principal, in bytes.
const MAX_PRINCIPAL: usize = 255;

/// What makes a registered key an authority: it signs certificates, and logs nobody in itself (`cert-authority` of
/// authorized_keys).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertAuthority {
    /// A certificate has to name one of these; without any, it has to name the sandbox.
    #[serde(default)]
    pub principals: Principals,
}

impl CertAuthority {
    /// Whether a certificate with these principals opens the sandbox of that name, as far as names go. One without
    /// principals opens nothing, as with sshd.
    #[must_use]
    pub fn vouches(&self, named: &[Vec<u8>], sandbox: &str) -> bool {
        let is_named = |principal: &str| named.iter().any(|it| it == principal.as_bytes());
        if self.principals.0.is_empty() {
            is_named(sandbox)
        } else {
            self.principals.0.iter().any(|it| is_named(it))
        }
    }
}

/// Names that a certificate may carry. Written with commas between them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Principals(Vec<String>);

impl Principals {
    /// Reads what `Display` writes; the empty text is no principal at all.
    ///
    /// # Errors
    /// See [`PrincipalsError`].
    pub fn parse(text: &str) -> Result<Principals, PrincipalsError> {
        if text.is_empty() {
            return Ok(Principals::default());
        }
        Principals::try_from(text.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Display for Principals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

impl TryFrom<Vec<String>> for Principals {
    type Error = PrincipalsError;

    fn try_from(names: Vec<String>) -> Result<Principals, PrincipalsError> {
        if names.len() > MAX_PRINCIPALS {
            return Err(PrincipalsError::TooMany);
        }
        let is_name = |name: &String| {
            !name.is_empty()
                && name.len() <= MAX_PRINCIPAL
                && !name.chars().any(|it| it == ',' || it.is_control() || it.is_whitespace())
        };
        if !names.iter().all(is_name) {
            return Err(PrincipalsError::BadName);
        }
        Ok(Principals(names))
    }
}

impl From<Principals> for Vec<String> {
    fn from(principals: Principals) -> Vec<String> {
        principals.0
    }
}

/// A list of principals that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalsError {
    /// One of them.
    #[error(
        "a principal has 1 to {MAX_PRINCIPAL} bytes, and neither commas, spaces nor control characters in it"
    )]
    BadName,
    /// All of them.
    #[error("an authority can have at most {MAX_PRINCIPALS} principals")]
    TooMany,
}

/// What the sessions of a credential are held to, beyond its scopes. The default restricts nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionAccess {
    /// Whether a session may have a terminal (`permit-pty`).
    pub terminal: Permission,
    /// Whether a session may reach the user's display (`permit-X11-forwarding`).
    pub x11: Permission,
    /// What runs in place of whatever the client asks for (`force-command`).
    pub forced_command: Option<Vec<u8>>,
    /// What of its sessions is recorded at least; the sandbox and the configuration may ask for more.
    pub record: crate::record::RecordMode,
}

/// Whether something is permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Permission {
    /// It is.
    #[default]
    Granted,
    /// It is not.
    Withheld,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> Vec<Vec<u8>> {
        all.iter().map(|it| it.as_bytes().to_vec()).collect()
    }

    #[test]
    fn an_authority_vouches_for_its_principals_or_the_sandbox() {
        let plain = CertAuthority::default();
        assert!(plain.vouches(&names(&["other", "box"]), "box"));
        assert!(!plain.vouches(&names(&["other"]), "box"));
        assert!(!plain.vouches(&[], "box"));
        let named = CertAuthority { principals: Principals::parse("dev,ops").expect("a list") };
        assert!(named.vouches(&names(&["ops"]), "box"));
        assert!(!named.vouches(&names(&["box"]), "box"));
        assert!(!named.vouches(&[], "box"));
    }

    #[test]
    fn principals_are_read_and_written() {
        assert_eq!(Principals::parse("dev,ops").expect("a list").to_string(), "dev,ops");
        assert!(Principals::parse("").expect("a list").is_empty());
        for bad in [",", "dev,", "a b", "a\n", &"x".repeat(256)] {
            assert_eq!(Principals::parse(bad), Err(PrincipalsError::BadName), "{bad}");
        }
        assert_eq!(Principals::try_from(vec!["a".to_owned(); 257]), Err(PrincipalsError::TooMany));
    }
}
