//! What is said on a terminal's WebSocket besides the bytes themselves, as JSON. Binary messages are data and nothing else.

use sandgate_gateway::terminal::Mode;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::websocket::Resize;

/// What a client says.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum FromClient {
    /// The first message.
    Attach {
        ticket: String,
        cols: u32,
        rows: u32,
        #[serde(default)]
        xpixel: u32,
        #[serde(default)]
        ypixel: u32,
    },
    /// The window has another size.
    Resize(Resize),
    /// So many more bytes of output are on the screen.
    Ack { bytes: u64 },
    /// Wants to be answered.
    Ping { id: u64 },
}

/// What a client is told besides the notices of every door.
#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum ToClient {
    /// The client is attached; the screen follows.
    Ready {
        /// Not there where a session is watched that is no browser's.
        #[serde(skip_serializing_if = "Option::is_none")]
        terminal: Option<String>,
        session: String,
        mode: ModeName,
        resumed: bool,
        cols: u32,
        rows: u32,
        /// What is known of the screen began then; not there where all of it is known.
        #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
        since: Option<OffsetDateTime>,
    },
    /// The terminal has another size.
    Resize { cols: u32, rows: u32 },
}

/// A mode as it is written.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum ModeName {
    Write,
    Watch,
}

impl From<Mode> for ModeName {
    fn from(mode: Mode) -> ModeName {
        match mode {
            Mode::Write => ModeName::Write,
            Mode::Watch => ModeName::Watch,
        }
    }
}

impl From<ModeName> for Mode {
    fn from(mode: ModeName) -> Mode {
        match mode {
            ModeName::Write => Mode::Write,
            ModeName::Watch => Mode::Watch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_strictly() {
        let read = |text: &str| serde_json::from_str::<FromClient>(text);
        assert!(matches!(
            read(r#"{"type":"attach","ticket":"x","cols":80,"rows":24,"xpixel":0,"ypixel":0}"#),
            Ok(FromClient::Attach { cols: 80, rows: 24, .. })
        ));
        assert!(matches!(
            read(r#"{"type":"resize","cols":80,"rows":24}"#),
            Ok(FromClient::Resize(Resize { cols: 80, rows: 24, xpixel: 0, ypixel: 0 }))
        ));
        assert!(matches!(read(r#"{"type":"ack","bytes":5}"#), Ok(FromClient::Ack { bytes: 5 })));
        assert!(matches!(read(r#"{"type":"ping","id":5}"#), Ok(FromClient::Ping { id: 5 })));
        for bad in [
            r#"{"type":"ack","bytes":5,"more":1}"#,
            r#"{"type":"ack","bytes":-5}"#,
            r#"{"type":"signal","name":"KILL"}"#,
            r#"{"bytes":5}"#,
            r#"{"type":"resize","cols":80}"#,
            r#"{"type":"resize","cols":80,"rows":24,"more":1}"#,
            "[]",
            "",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_only_pages_are_told_is_written_as_the_protocol_has_it() {
        let written = |message: &ToClient| serde_json::to_string(message).expect("JSON");
        assert_eq!(
            written(&ToClient::Resize { cols: 80, rows: 24 }),
            r#"{"type":"resize","cols":80,"rows":24}"#
        );
        let ready = ToClient::Ready {
            terminal: Some("trm_1".to_owned()),
            session: "ses_1".to_owned(),
            mode: ModeName::Watch,
            resumed: true,
            cols: 80,
            rows: 24,
            since: None,
        };
        assert_eq!(
            written(&ready),
            r#"{"type":"ready","terminal":"trm_1","session":"ses_1","mode":"watch","resumed":true,"cols":80,"rows":24}"#
        );
    }

    #[test]
    fn what_is_not_known_of_a_screen_is_said() {
        let ready = |terminal, since| {
            let (session, mode) = ("ses-1".to_owned(), ModeName::Watch);
            let ready = ToClient::Ready { terminal, session, mode, resumed: true, cols: 80, rows: 24, since };
            serde_json::to_value(&ready).expect("JSON")
        };
        let whole = ready(Some("trm-1".to_owned()), None);
        assert_eq!((&whole["terminal"], whole.get("since")), (&"trm-1".into(), None));
        let part = ready(None, Some(OffsetDateTime::UNIX_EPOCH));
        assert_eq!((part.get("terminal"), &part["since"]), (None, &"1970-01-01T00:00:00Z".into()));
    }
}
