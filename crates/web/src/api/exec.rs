//! Commands that one request runs to their end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// `POST /api/v1/sandboxes/{name}/exec`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// A line for the user's shell. Either this or `argv`.
    #[serde(default)]
    pub command: Option<String>,
    /// The words of a command, without a shell.
    #[serde(default)]
    pub argv: Option<Vec<String>>,
    /// Its standard input; empty if not said.
    #[serde(default)]
    pub stdin: Option<String>,
    /// The same in base64, for what is not text.
    #[serde(default)]
    pub stdin_base64: Option<String>,
    /// Variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// User inside; the sandbox's own if not said.
    #[serde(default)]
    pub user: Option<String>,
    /// How long it may run, in seconds; 60 if not said.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 3600)]
    pub timeout_seconds: Option<u64>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExecEnd {
    /// By itself; see `exit_code`.
    Exited,
    /// By a signal; see `signal`.
    Signaled,
    /// Its time was over.
    TimedOut,
    /// It said more than an answer can hold.
    OutputLimit,
    /// Somebody ended it; see `detail`.
    Ended,
    /// The sandbox was lost.
    LinkLost,
}

/// Bytes as JSON: text as it is, all else in base64. Text has no control characters but tab, line feed, carriage return and escape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "encoding", content = "data", rename_all = "kebab-case")]
pub enum Output {
    /// UTF-8.
    #[serde(rename = "utf-8")]
    Text(String),
    /// RFC 4648 section 4.
    Base64(String),
}

impl Output {
    /// The bytes, exactly.
    #[must_use]
    pub fn of(bytes: Vec<u8>) -> Output {
        use base64::Engine as _;
        // JSON writes a control character in six bytes: what is full of them, such as zeros, would be six times as long.
        let is_binary =
            bytes.iter().any(|byte| *byte < b' ' && !matches!(byte, b'\t' | b'\n' | b'\r' | 0x1b));
        let encoded = |bytes: &[u8]| Output::Base64(base64::engine::general_purpose::STANDARD.encode(bytes));
        if is_binary {
            return encoded(&bytes);
        }
        match String::from_utf8(bytes) {
            Ok(text) => Output::Text(text),
            Err(error) => encoded(error.as_bytes()),
        }
    }
}

/// What a command came to.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ExecResult {
    /// Identifier of the session, as the audit trail and recordings name it.
    pub session: String,
    /// How it ended.
    pub end: ExecEnd,
    /// Its exit code; for one that a signal ended, what a shell gives (128 and the signal's number).
    pub exit_code: Option<u32>,
    /// The signal, without `SIG`.
    pub signal: Option<String>,
    /// Whether it left a core dump.
    pub core_dumped: bool,
    /// The rest, for people.
    pub detail: Option<String>,
    /// Its standard output.
    pub stdout: Output,
    /// Its standard error.
    pub stderr: Output,
    /// When it was started.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// How long it ran.
    pub seconds: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_text_as_long_as_json_writes_it_as_it_is() {
        for text in ["", "a\tb\r\n", "\x1b[31mgr\u{fc}n\x1b[0m \u{1f600}\n", "\x7f\u{85}\"\\"] {
            assert_eq!(Output::of(text.as_bytes().to_vec()), Output::Text(text.to_owned()));
        }
        assert_eq!(Output::of(b"a\0b".to_vec()), Output::Base64("YQBi".to_owned()));
        assert_eq!(Output::of(b"a\xff".to_vec()), Output::Base64("Yf8=".to_owned()));
        for control in (0..b' ').filter(|byte| !b"\t\n\r\x1b".contains(byte)) {
            assert!(matches!(Output::of(vec![b'a', control]), Output::Base64(_)), "{control}");
        }
        let zeros = serde_json::to_string(&Output::of(vec![0; 3000])).expect("JSON");
        assert!(zeros.len() < 4100, "{}", zeros.len());
    }
}
