//! What is said at every door, as JSON.

use sandgate_gateway::session::signal_number;
use sandgate_guest::{ExitStatus, WindowSize};
use serde::{Deserialize, Serialize};

/// What a client says when its window has another size. Any numbers of 32 bits are taken here; whoever sets a terminal's size cuts them to
/// what a terminal can have.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Resize {
    pub(crate) cols: u32,
    pub(crate) rows: u32,
    #[serde(default)]
    pub(crate) xpixel: u32,
    #[serde(default)]
    pub(crate) ypixel: u32,
}

impl From<Resize> for WindowSize {
    fn from(Resize { cols, rows, xpixel, ypixel }: Resize) -> WindowSize {
        WindowSize { cols, rows, xpixel, ypixel }
    }
}

/// What a client is told. Each door has more of its own.
#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum Notice {
    /// The session is being started.
    Progress { text: String },
    /// The process has ended, and all of its output was sent.
    Exit {
        code: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
    },
    /// A sentence for people.
    Error { text: String },
    /// Somebody else has taken the client's place.
    Detached { text: String },
    /// The answer to a ping.
    Pong { id: u64 },
}

impl Notice {
    /// How the process ended, with the code that a shell would give.
    pub(super) fn exit(status: ExitStatus) -> Notice {
        match status {
            ExitStatus::Code(code) => Notice::Exit { code, signal: None },
            ExitStatus::Signal { name, .. } => {
                Notice::Exit { code: 128 + signal_number(&name), signal: Some(name) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_four_numbers_and_pixels_may_be_left_out() {
        let read = |text: &str| serde_json::from_str::<Resize>(text).map(WindowSize::from);
        let size = WindowSize { cols: 80, rows: 24, xpixel: 0, ypixel: 0 };
        assert_eq!(read(r#"{"cols":80,"rows":24}"#).expect("a size"), size);
        let most = WindowSize { cols: u32::MAX, rows: 0, xpixel: 9, ypixel: 7 };
        assert_eq!(read(r#"{"cols":4294967295,"rows":0,"xpixel":9,"ypixel":7}"#).expect("a size"), most);
        for bad in [
            r#"{"cols":80}"#,
            r#"{"cols":-1,"rows":24}"#,
            r#"{"cols":4294967296,"rows":24}"#,
            r#"{"cols":80,"rows":24,"depth":3}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn notices_are_written_as_the_protocols_have_them() {
        let text = || "x".to_owned();
        for (notice, written) in [
            (Notice::Progress { text: text() }, r#"{"type":"progress","text":"x"}"#),
            (Notice::Error { text: text() }, r#"{"type":"error","text":"x"}"#),
            (Notice::Detached { text: text() }, r#"{"type":"detached","text":"x"}"#),
            (Notice::Pong { id: 5 }, r#"{"type":"pong","id":5}"#),
        ] {
            assert_eq!(serde_json::to_string(&notice).expect("JSON"), written);
        }
    }

    #[test]
    fn exits_have_a_code_and_perhaps_a_signal() {
        let written = |status| serde_json::to_string(&Notice::exit(status)).expect("JSON");
        assert_eq!(written(ExitStatus::Code(3)), r#"{"type":"exit","code":3}"#);
        let signal =
            ExitStatus::Signal { name: "KILL".to_owned(), core_dumped: false, message: String::new() };
        assert_eq!(written(signal), r#"{"type":"exit","code":137,"signal":"KILL"}"#);
    }
}
