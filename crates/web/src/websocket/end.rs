//! How a session ends, and what its client is told of that.

use sandgate_guest::ExitStatus;

use super::message::Notice;

/// Why a connection is closed (RFC 6455 section 7.4; from 4000 on they are our own).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum CloseCode {
    /// After the exit.
    Done = 1000,
    /// The ticket is unknown, used, or too old.
    Ticket = 4001,
    /// The client breaks the protocol.
    Protocol = 4002,
    /// Somebody else has taken the client's place.
    Detached = 4003,
    /// The session could not start, or was ended.
    Ended = 4004,
    /// The client does not answer, or does not read.
    Silent = 4008,
}

/// Why a session ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client has gone.
    Gone,
    /// The process has.
    Exit(ExitStatus),
    /// The link to the guest is lost.
    Lost(String),
    /// From our side, with a sentence for the client or without a word.
    Ours(CloseCode, Option<String>),
}

impl End {
    /// The client breaks the protocol.
    pub(crate) fn protocol(text: impl Into<String>) -> End {
        End::Ours(CloseCode::Protocol, Some(text.into()))
    }

    /// It could not start, or somebody ended it.
    pub(crate) fn ended(text: impl Into<String>) -> End {
        End::Ours(CloseCode::Ended, Some(text.into()))
    }

    /// The code to close with and the last thing to say; `None` where nobody is there any more.
    pub(super) fn last_words(self) -> Option<(CloseCode, Option<Notice>)> {
        match self {
            End::Gone => None,
            End::Exit(status) => Some((CloseCode::Done, Some(Notice::exit(status)))),
            End::Lost(error) => End::ended(format!("The session ended: {error}.")).last_words(),
            // That is no failure.
            End::Ours(code @ CloseCode::Detached, text) => {
                Some((code, text.map(|text| Notice::Detached { text })))
            }
            End::Ours(code, text) => Some((code, text.map(|text| Notice::Error { text }))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_code_and_its_words() {
        let text = || "Why.".to_owned();
        assert_eq!(End::Gone.last_words(), None);
        for (end, code, last) in [
            (End::Exit(ExitStatus::Code(7)), 1000, Some(Notice::Exit { code: 7, signal: None })),
            (
                End::Lost("it broke".to_owned()),
                4004,
                Some(Notice::Error { text: "The session ended: it broke.".to_owned() }),
            ),
            (End::protocol("Why."), 4002, Some(Notice::Error { text: text() })),
            (End::ended("Why."), 4004, Some(Notice::Error { text: text() })),
            (End::Ours(CloseCode::Ticket, Some(text())), 4001, Some(Notice::Error { text: text() })),
            (End::Ours(CloseCode::Detached, Some(text())), 4003, Some(Notice::Detached { text: text() })),
            (End::Ours(CloseCode::Silent, None), 4008, None),
        ] {
            let (closed, said) = end.last_words().expect("somebody is there");
            assert_eq!((closed as u16, said), (code, last));
        }
    }
}
