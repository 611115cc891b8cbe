//! The first line: what was recorded.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::chain::Form;

/// What was recorded. Nothing of it is secret: a credential is named, never shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The recording's random identifier, with which the chain begins.
    pub id: String,
    /// Name of the sandbox.
    pub sandbox: String,
    /// Identifier of the session or the forward.
    pub session: String,
    /// `terminal`, `exec`, `sftp`, `scp` or `forward`.
    pub kind: String,
    /// The credential, as a person would name it.
    pub credential: String,
    /// The command, or what was connected to.
    pub command: Option<String>,
    /// When it began.
    pub started_at: OffsetDateTime,
}

/// The terminal at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terminal {
    /// `TERM`.
    pub kind: String,
    /// Columns.
    pub cols: u32,
    /// Rows.
    pub rows: u32,
}

impl Header {
    fn own(&self) -> Value {
        json!({
            "recording": self.id, "sandbox": self.sandbox, "session": self.session, "kind": self.kind,
            "credential": self.credential,
        })
    }

    /// An asciicast's.
    pub(crate) fn cast(&self, terminal: &Terminal) -> String {
        let mut line = json!({
            "version": 3,
            "term": { "cols": terminal.cols, "rows": terminal.rows, "type": terminal.kind },
            "timestamp": self.started_at.unix_timestamp(),
            "title": format!("{} {}", self.sandbox, self.session),
            "env": { "TERM": terminal.kind },
            "sandgate": self.own(),
        });
        if let (Some(command), Some(line)) = (&self.command, line.as_object_mut()) {
            line.insert("command".to_owned(), command.as_str().into());
        }
        line.to_string()
    }

    /// A timeline's.
    pub(crate) fn timeline(&self) -> String {
        json!({
            "timeline": 1,
            "timestamp": self.started_at.unix_timestamp(),
            "command": self.command,
            "sandgate": self.own(),
        })
        .to_string()
    }
}

/// As much of a first line as a chain needs.
pub(crate) fn seed(line: &[u8]) -> Option<(Form, String)> {
    #[derive(Deserialize)]
    struct First {
        version: Option<u32>,
        timeline: Option<u32>,
        sandgate: Own,
    }
    #[derive(Deserialize)]
    struct Own {
        recording: String,
    }
    let first: First = serde_json::from_slice(line).ok()?;
    let form = match (first.version, first.timeline) {
        (Some(3), None) => Form::Cast,
        (None, Some(1)) => Form::Timeline,
        _ => return None,
    };
    Some((form, first.sandgate.recording))
}

/// An asciicast's first line as its readers want it.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct CastHeader {
    version: u32,
    pub(crate) term: CastTerm,
    pub(crate) timestamp: Option<i64>,
    pub(crate) title: Option<String>,
    pub(crate) command: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct CastTerm {
    pub(crate) cols: u32,
    pub(crate) rows: u32,
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
}

impl CastHeader {
    pub(crate) fn parse(line: &[u8]) -> Option<CastHeader> {
        serde_json::from_slice(line).ok().filter(|header: &CastHeader| header.version == 3)
    }

    /// The first line of version 2.
    pub(crate) fn v2(&self) -> String {
        let mut line = json!({ "version": 2, "width": self.term.cols, "height": self.term.rows });
        if let Some(line) = line.as_object_mut() {
            let mut more = |name: &str, value: Option<Value>| {
                if let Some(value) = value {
                    line.insert(name.to_owned(), value);
                }
            };
            more("timestamp", self.timestamp.map(Value::from));
            more("title", self.title.clone().map(Value::from));
            more("command", self.command.clone().map(Value::from));
            more("env", self.term.kind.as_ref().map(|kind| json!({ "TERM": kind })));
        }
        line.to_string()
    }
}
