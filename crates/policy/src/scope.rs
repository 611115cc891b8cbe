//! Scopes: what a credential opens. A small set, written `shell,exec,sftp,forward,agent`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One thing a credential can be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// An interactive login shell.
    Shell,
    /// Single commands (`ssh host cmd`), which includes `scp -O`, `rsync` and `git`.
    Exec,
    /// The `sftp` subsystem, which `scp` uses too.
    Sftp,
    /// TCP and Unix socket forwarding, in both directions.
    Forward,
    /// Forwarding of the client's SSH agent.
    Agent,
}

impl Scope {
    /// Every scope, in the order they are written.
    pub const ALL: [Scope; 5] = [Scope::Shell, Scope::Exec, Scope::Sftp, Scope::Forward, Scope::Agent];

    /// The word used on the command line, in the store and in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Shell => "shell",
            Scope::Exec => "exec",
            Scope::Sftp => "sftp",
            Scope::Forward => "forward",
            Scope::Agent => "agent",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Scope::Shell => 1,
            Scope::Exec => 2,
            Scope::Sftp => 4,
            Scope::Forward => 8,
            Scope::Agent => 16,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Scope, ScopeError> {
        Scope::ALL
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| ScopeError::Unknown(text.chars().take(32).collect()))
    }
}

/// A set of scopes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scopes(u8);

impl Scopes {
    /// No scope at all. A credential never has this; it is the start of a fold.
    pub const NONE: Scopes = Scopes(0);

    /// Every scope.
    #[must_use]
    pub fn all() -> Scopes {
        Scope::ALL.into_iter().collect()
    }

    /// Whether `scope` is in the set.
    #[must_use]
    pub fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// The set with `scope` added.
    #[must_use]
    pub fn with(self, scope: Scope) -> Scopes {
        Scopes(self.0 | scope.bit())
    }

    /// The scopes of the set, in the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.contains(*scope))
    }
}

impl Default for Scopes {
    /// Every scope: what a token gets when none are named.
    fn default() -> Scopes {
        Scopes::all()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Scopes {
        scopes.into_iter().fold(Scopes::NONE, Scopes::with)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, scope) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            f.write_str(scope.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scopes({self})")
    }
}

impl FromStr for Scopes {
    type Err = ScopeError;

    /// Parses a comma-separated list. Spaces around a word are allowed, an empty list is not.
    fn from_str(text: &str) -> Result<Scopes, ScopeError> {
        let mut scopes = Scopes::NONE;
        for word in text.split(',') {
            let word = word.trim();
            if word.is_empty() {
                return Err(ScopeError::Empty);
            }
            scopes = scopes.with(word.parse()?);
        }
        Ok(scopes)
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Scope::as_str))
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scopes, D::Error> {
        let words = Vec::<String>::deserialize(deserializer)?;
        let mut scopes = Scopes::NONE;
        for word in &words {
            scopes = scopes.with(word.parse().map_err(serde::de::Error::custom)?);
        }
        if scopes == Scopes::NONE {
            return Err(serde::de::Error::custom(ScopeError::Empty));
        }
        Ok(scopes)
    }
}

/// A list of scopes that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// A word that is no scope.
    #[error("\"{0}\" is not a scope; the scopes are shell, exec, sftp, forward and agent")]
    Unknown(String),
    /// An empty list or an empty word in it.
    #[error("the list of scopes has an empty entry; write for example shell,exec,sftp")]
    Empty,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_lists() {
        let scopes: Scopes = "sftp, shell".parse().expect("a list");
        assert!(
            scopes.contains(Scope::Shell) && scopes.contains(Scope::Sftp) && !scopes.contains(Scope::Exec)
        );
        assert_eq!(scopes.to_string(), "shell,sftp");
        assert_eq!(Scopes::all().to_string(), "shell,exec,sftp,forward,agent");
    }

    #[test]
    fn refuses_what_is_no_scope() {
        assert_eq!("shell,root".parse::<Scopes>(), Err(ScopeError::Unknown("root".into())));
        assert_eq!("".parse::<Scopes>(), Err(ScopeError::Empty));
        assert_eq!("shell,,exec".parse::<Scopes>(), Err(ScopeError::Empty));
        assert!("Shell".parse::<Scopes>().is_err());
    }

    #[test]
    fn every_subset_survives_a_round_trip() {
        for bits in 1u8..32 {
            let scopes: Scopes = Scope::ALL.into_iter().filter(|scope| bits & scope.bit() != 0).collect();
            assert_eq!(scopes.to_string().parse(), Ok(scopes));
        }
    }
}
