//! API keys: who may use the HTTP API and the dashboard, and for what.
//!
//! Form: `sgk_` and 32 characters of the alphabet of tokens: 160 random bits, of which 140 remain unknown to somebody who has seen the 8
//! characters that lists and logs show. Kept as plain SHA-256, as tokens are, and for the same reason.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::rand;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::NoRandomness;
use crate::token::{ALPHABET, TokenHash, hash_presented};

/// What every API key begins with.
pub const PREFIX: &str = "sgk_";
/// Random characters: 5 bits each.
const RANDOM: usize = 32;
/// Length of a key in characters.
pub const API_KEY_LEN: usize = PREFIX.len() + RANDOM;
/// How much of a key may be shown: `sgk_` and four characters.
pub const SHOWN: usize = 8;

/// A whole API key, or another secret of the same strength, as shown once to the person who made it. `Debug` shows the first 8
/// characters only; [`ApiKey::reveal`] gives the text.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// Makes a new key from the system's random generator.
    ///
    /// # Errors
    /// The system's random generator failed.
    pub fn generate() -> Result<ApiKey, NoRandomness> {
        ApiKey::generate_other(PREFIX)
    }

    /// Makes another secret of the same strength; `prefix` has as many characters as that of a key.
    ///
    /// # Errors
    /// The system's random generator failed.
    pub fn generate_other(prefix: &str) -> Result<ApiKey, NoRandomness> {
        let mut random = [0u8; RANDOM];
        rand::fill(&mut random).map_err(|_| NoRandomness)?;
        // 256 is a multiple of 32, so the low five bits of a random byte are even.
        let body = random.map(|byte| char::from(ALPHABET[usize::from(byte & 31)]));
        Ok(ApiKey(prefix.chars().chain(body).collect()))
    }

    /// The secret text. For the one answer that shows it; never for a log.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The first 8 characters, which lists and logs may show.
    #[must_use]
    pub fn shown(&self) -> &str {
        self.0.get(..SHOWN).unwrap_or_default()
    }

    /// What is stored in place of the key.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        hash_presented(self.0.as_bytes())
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({}…)", self.shown())
    }
}

/// What the holder of an API key may do. Each role may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look: lists, the audit trail, recordings, and terminals of others without typing.
    Viewer,
    /// Use: commands and terminals, tokens, the end of sessions, and sandboxes started and stopped.
    User,
    /// Everything: sandboxes made and removed, keys, images and API keys too.
    Admin,
}

impl Role {
    /// The word used on the command line, in the API and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::User => "user",
            Role::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Role, RoleError> {
        match text {
            "viewer" => Ok(Role::Viewer),
            "user" => Ok(Role::User),
            "admin" => Ok(Role::Admin),
            _ => Err(RoleError),
        }
    }
}

/// A word that is no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a role is one of: admin, user, viewer")]
pub struct RoleError;

/// Whether an API key that exists may be used now.
///
/// # Errors
/// Revoked or expired; its holder is told which.
pub fn check_api_key(
    expires_at: Option<OffsetDateTime>,
    revoked_at: Option<OffsetDateTime>,
    now: OffsetDateTime,
) -> Result<(), String> {
    use crate::token::clock;
    if let Some(at) = revoked_at {
        return Err(format!("This API key was revoked at {}.", clock(at)));
    }
    match expires_at {
        Some(end) if now >= end => Err(format!("This API key expired at {}.", clock(end))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::Duration;

    #[test]
    fn a_key_has_its_form_and_no_two_are_alike() {
        let (one, other) = (ApiKey::generate().expect("a key"), ApiKey::generate().expect("a key"));
        assert_eq!(one.reveal().len(), API_KEY_LEN);
        assert!(one.reveal().starts_with("sgk_"));
        assert_ne!(one, other);
        assert_ne!(one.hash(), other.hash());
    }

    #[test]
    fn debug_does_not_show_it() {
        let key = ApiKey::generate().expect("a key");
        let shown = format!("{key:?}");
        assert!(!shown.contains(&key.reveal()[..SHOWN + 1]), "{shown}");
    }

    #[test]
    fn roles_are_ordered_and_read_back() {
        assert!(Role::Viewer < Role::User && Role::User < Role::Admin);
        for role in [Role::Viewer, Role::User, Role::Admin] {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert_eq!("root".parse::<Role>(), Err(RoleError));
    }

    #[test]
    fn the_end_of_a_key_is_told() {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::DAY;
        assert_eq!(check_api_key(None, None, now), Ok(()));
        assert_eq!(check_api_key(Some(now + Duration::SECOND), None, now), Ok(()));
        assert_eq!(
            check_api_key(Some(now), None, now),
            Err("This API key expired at 1970-01-02 00:00 UTC.".to_owned())
        );
        assert_eq!(
            check_api_key(None, Some(now), now),
            Err("This API key was revoked at 1970-01-02 00:00 UTC.".to_owned())
        );
    }
}
