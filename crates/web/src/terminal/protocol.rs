//! What is said on a terminal's WebSocket besides the bytes themselves, as JSON. Binary messages are data and nothing else.

use sandgate_gateway::session::signal_number;
use sandgate_gateway::terminal::Mode;
use sandgate_guest::{ExitStatus, WindowSize};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

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
    Resize {
        cols: u32,
        rows: u32,
        #[serde(default)]
        xpixel: u32,
        #[serde(default)]
        ypixel: u32,
    },
    /// So many more bytes of output are on the screen.
    Ack { bytes: u64 },
    /// Wants to be answered.
    Ping { id: u64 },
}

/// What a client is told.
#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum ToClient {
    Progress {
        text: String,
    },
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
    Resize {
        cols: u32,
        rows: u32,
    },
    Exit {
        code: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
    },
    Error {
        text: String,
    },
    Detached {
        text: String,
    },
    Pong {
        id: u64,
    },
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

/// Why a connection is closed (RFC 6455 section 7.4; from 4000 on they are our own).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum CloseCode {
    /// After the exit.
    Done = 1000,
    /// The ticket is unknown, used, or too old.
    Ticket = 4001,
    /// The client breaks the protocol.
    Protocol = 4002,
    /// Another page has taken over.
    Detached = 4003,
    /// The session could not start, or was ended.
    Ended = 4004,
    /// The client does not answer, or does not read.
    Silent = 4008,
}

pub(super) fn size(cols: u32, rows: u32, xpixel: u32, ypixel: u32) -> WindowSize {
    WindowSize { cols, rows, xpixel, ypixel }
}

/// How the process ended, with the code that a shell would give.
pub(super) fn exit(status: ExitStatus) -> ToClient {
    match status {
        ExitStatus::Code(code) => ToClient::Exit { code, signal: None },
        ExitStatus::Signal { name, .. } => {
            ToClient::Exit { code: 128 + signal_number(&name), signal: Some(name) }
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
        assert!(matches!(read(r#"{"type":"ack","bytes":5}"#), Ok(FromClient::Ack { bytes: 5 })));
        assert!(matches!(read(r#"{"type":"ping","id":5}"#), Ok(FromClient::Ping { id: 5 })));
        for bad in [
            r#"{"type":"ack","bytes":5,"more":1}"#,
            r#"{"type":"ack","bytes":-5}"#,
            r#"{"type":"signal","name":"KILL"}"#,
            r#"{"bytes":5}"#,
            r#"{"type":"resize","cols":80}"#,
            "[]",
            "",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
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

    #[test]
    fn exits_have_a_code_and_perhaps_a_signal() {
        let written = |status| serde_json::to_string(&exit(status)).expect("JSON");
        assert_eq!(written(ExitStatus::Code(3)), r#"{"type":"exit","code":3}"#);
        let signal =
            ExitStatus::Signal { name: "KILL".to_owned(), core_dumped: false, message: String::new() };
        assert_eq!(written(signal), r#"{"type":"exit","code":137,"signal":"KILL"}"#);
    }
}
