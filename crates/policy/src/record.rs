//! What of somebody's sessions is recorded.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What is recorded. The later one records more, and where several are set (by the configuration, the sandbox, the token) the greatest counts:
/// nobody takes a recording away from whoever asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordMode {
    /// Nothing.
    #[default]
    Off,
    /// Sessions with a terminal.
    Terminal,
    /// Those, and how much passes in all others and in forwards.
    All,
}

impl RecordMode {
    /// The word used on the command line, in the store and in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RecordMode::Off => "off",
            RecordMode::Terminal => "terminal",
            RecordMode::All => "all",
        }
    }
}

impl fmt::Display for RecordMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is none of the modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what is recorded is one of: off, terminal, all")]
pub struct RecordModeError;

impl FromStr for RecordMode {
    type Err = RecordModeError;

    fn from_str(text: &str) -> Result<RecordMode, RecordModeError> {
        [RecordMode::Off, RecordMode::Terminal, RecordMode::All]
            .into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or(RecordModeError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_and_more_is_greater() {
        for mode in [RecordMode::Off, RecordMode::Terminal, RecordMode::All] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert_eq!("ALL".parse::<RecordMode>(), Err(RecordModeError));
        assert_eq!(RecordMode::Off.max(RecordMode::All).max(RecordMode::Terminal), RecordMode::All);
    }
}
