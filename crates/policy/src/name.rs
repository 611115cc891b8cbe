//! Names that people give: sandboxes and keys. And identifiers that the gateway makes.
//!
//! A sandbox name is also an SSH user name, a `Host` alias in `ssh_config` and a host name inside the sandbox, so it
//! follows the rule for one DNS label (RFC 1123 §2.1), in lower case. It cannot look like a token (`sg_…` has an
//! underscore, which a label cannot) nor like an option (`-…`).

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::rand;
use serde::{Deserialize, Serialize};

use crate::NoRandomness;
use crate::token::ALPHABET;

/// Longest sandbox name: one DNS label.
pub const MAX_SANDBOX_NAME: usize = 63;
/// Longest key name.
pub const MAX_KEY_NAME: usize = 64;
/// Characters after the prefix of an identifier: 60 bits, far from a collision at any size a gateway can have.
const ID_RANDOM: usize = 12;

/// The checked name of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxName(String);

impl SandboxName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SandboxName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<SandboxName, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_SANDBOX_NAME {
            return Err(NameError::TooLong { limit: MAX_SANDBOX_NAME });
        }
        if !text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
            return Err(NameError::SandboxCharacters);
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(NameError::Dash);
        }
        Ok(SandboxName(text.to_owned()))
    }
}

/// The checked name of a public key: letters, digits and `. _ @ + -`, not beginning with `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyName(String);

impl KeyName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<KeyName, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_KEY_NAME {
            return Err(NameError::TooLong { limit: MAX_KEY_NAME });
        }
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._@+-".contains(&byte)) {
            return Err(NameError::KeyCharacters);
        }
        if text.starts_with('-') {
            return Err(NameError::Dash);
        }
        Ok(KeyName(text.to_owned()))
    }
}

macro_rules! text_conversions {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<$name, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

text_conversions!(SandboxName);
text_conversions!(KeyName);

/// Makes an identifier such as `tok-0f3k…`: `prefix`, a dash and 60 random bits. Not a secret.
///
/// # Errors
/// The system's random generator failed.
pub fn new_id(prefix: &str) -> Result<String, NoRandomness> {
    let mut random = [0u8; ID_RANDOM];
    rand::fill(&mut random).map_err(|_| NoRandomness)?;
    let mut id = String::with_capacity(prefix.len() + 1 + ID_RANDOM);
    id.push_str(prefix);
    id.push('-');
    id.extend(random.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])));
    Ok(id)
}

/// A name that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No character at all.
    #[error("the name is empty")]
    Empty,
    /// Over the limit.
    #[error("the name is longer than {limit} characters")]
    TooLong {
        /// The limit in characters.
        limit: usize,
    },
    /// Not a DNS label.
    #[error("a sandbox name consists of lower-case letters, digits and dashes")]
    SandboxCharacters,
    /// Not a key name.
    #[error("a key name consists of letters, digits and the characters . _ @ + -")]
    KeyCharacters,
    /// A dash where none may be.
    #[error("the name begins or ends with a dash")]
    Dash,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn good_and_bad_sandbox_names() {
        for good in ["demo", "a", "0", "x-1", "sg", "sg-demo", &"a".repeat(63)] {
            assert!(good.parse::<SandboxName>().is_ok(), "{good}");
        }
        let long = "a".repeat(64);
        for bad in
            ["", "-a", "a-", "Demo", "a_b", "sg_abc", "a.b", "a b", "ä", "a/b", "..", "a\n", long.as_str()]
        {
            assert!(bad.parse::<SandboxName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn good_and_bad_key_names() {
        for good in ["alice", "alice@laptop", "Bob.2", "_x"] {
            assert!(good.parse::<KeyName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a b", "a/b", "a\n", "ä"] {
            assert!(bad.parse::<KeyName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn identifiers_differ_and_look_like_names() {
        let (one, two) = (new_id("sb").expect("random"), new_id("sb").expect("random"));
        assert_ne!(one, two);
        assert!(one.parse::<SandboxName>().is_ok());
        assert_eq!(one.len(), 3 + ID_RANDOM);
    }

    proptest! {
        #[test]
        fn no_token_and_no_option_is_a_sandbox_name(tail in "\\PC{0,20}") {
            let (token, option) = (format!("sg_{tail}"), format!("-{tail}"));
            prop_assert!(token.parse::<SandboxName>().is_err());
            prop_assert!(option.parse::<SandboxName>().is_err());
        }
    }
}
