//! The name of a sandbox's directory, cgroup and container.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest id in bytes. The agent socket's path has to fit into `sun_path` (108 bytes) together with the data directory.
const MAX_LEN: usize = 32;

/// Identifies a sandbox for its whole life: 1 to 32 of `a-z`, `0-9` and `-`, beginning with a letter or digit, so that it is
/// safe as a file name, a cgroup name and a word on a command line.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxId(String);

/// The text is not a sandbox id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("A sandbox id is 1 to 32 of a-z, 0-9 and '-', beginning with a letter or digit.")]
pub struct InvalidSandboxId;

impl SandboxId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SandboxId {
    type Err = InvalidSandboxId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let begins_well = text.bytes().next().is_some_and(|b| b != b'-');
        if begins_well && text.len() <= MAX_LEN && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidSandboxId)
        }
    }
}

impl TryFrom<String> for SandboxId {
    type Error = InvalidSandboxId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SandboxId> for String {
    fn from(id: SandboxId) -> Self {
        id.0
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_safe_names_are_ids() {
        for good in ["a", "demo", "box-1", "0", &"x".repeat(32)] {
            assert!(good.parse::<SandboxId>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "A", "a/b", "..", "a b", "a.b", "ä", &"x".repeat(33)] {
            assert!(bad.parse::<SandboxId>().is_err(), "{bad}");
        }
    }
}
