//! Which container of somebody else is meant, as the owner writes it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::InvalidSpec;

/// Longest target in bytes: a label's key and value of usual length fit.
const MAX_TARGET: usize = 512;

/// A container that is there already. As text: `docker:NAME`, `docker:ID`, or `docker:KEY=VALUE` for the one that has this label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AdoptTarget {
    /// By its name or identifier.
    Container(String),
    /// By a label, which exactly one container must have.
    Label(String),
}

impl AdoptTarget {
    /// The driver that adopts it.
    pub fn driver(&self) -> &'static str {
        super::NAME
    }

    /// What people call it: the container's name. A label names nothing.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Container(name) => Some(name),
            Self::Label(_) => None,
        }
    }
}

impl FromStr for AdoptTarget {
    type Err = InvalidSpec;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |reason| InvalidSpec::Adopt { target: text.chars().take(128).collect(), reason };
        let rest = text
            .strip_prefix("docker:")
            .ok_or_else(|| refuse("it is neither docker:NAME nor docker:LABEL=VALUE"))?;
        if text.len() > MAX_TARGET || rest.chars().any(char::is_control) {
            return Err(refuse("it is too long or holds control characters"));
        }
        if let Some((key, _)) = rest.split_once('=') {
            return if key.is_empty() {
                Err(refuse("the label has no key"))
            } else {
                Ok(Self::Label(rest.to_owned()))
            };
        }
        // The alphabet of container names; it goes into the path of a request.
        let first = rest.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if first && rest.bytes().all(plain) {
            Ok(Self::Container(rest.to_owned()))
        } else {
            Err(refuse("this cannot be the name of a container"))
        }
    }
}

impl fmt::Display for AdoptTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Container(text) | Self::Label(text)) = self;
        write!(f, "{}:{text}", super::NAME)
    }
}

impl TryFrom<String> for AdoptTarget {
    type Error = InvalidSpec;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<AdoptTarget> for String {
    fn from(target: AdoptTarget) -> Self {
        target.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_and_labels_are_told_apart() {
        for text in ["docker:web", "docker:0a1b", "docker:com.example/role=web=1", "docker:a="] {
            assert_eq!(text.parse::<AdoptTarget>().unwrap().to_string(), text);
        }
        assert_eq!("docker:web".parse::<AdoptTarget>().unwrap().name(), Some("web"));
        assert_eq!("docker:a=b".parse::<AdoptTarget>().unwrap().name(), None);
    }

    #[test]
    fn what_could_lead_elsewhere_is_refused() {
        for text in [
            "",
            "web",
            "podman:web",
            "docker:",
            "docker:../x",
            "docker:a/b",
            "docker:a?b",
            "docker:=b",
            "docker:a b",
            "docker:a=\n",
        ] {
            assert!(text.parse::<AdoptTarget>().is_err(), "{text:?}");
        }
    }
}
