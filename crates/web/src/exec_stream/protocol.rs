//! What is said on the WebSocket of a command besides its bytes, as JSON.

use std::collections::BTreeMap;

use sandgate_gateway::agent_forward::AgentRequest;
use sandgate_gateway::session::{Peer, SessionRequest};
use sandgate_gateway::telemetry::Trace;
use sandgate_guest::{Program, PtySpec};
use serde::{Deserialize, Serialize};

use crate::websocket::Resize;

/// The first message: what to run.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Run {
    /// A line for the user's shell.
    command: Option<String>,
    /// The words of a command, without a shell.
    argv: Option<Vec<String>>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    user: Option<String>,
    /// A terminal for it; without `command` and `argv`, for the user's login shell.
    terminal: Option<Pty>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pty {
    term: String,
    cols: u32,
    rows: u32,
    #[serde(default)]
    xpixel: u32,
    #[serde(default)]
    ypixel: u32,
}

/// What a client says after that.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum FromClient {
    /// Nothing more comes for standard input.
    Eof {},
    /// A signal by its name without `SIG` (RFC 4254 section 6.9).
    Signal { name: String },
    /// The window has another size.
    Resize(Resize),
    /// Wants to be answered.
    Ping { id: u64 },
}

/// What a client is told besides the notices of every door.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum ToClient {
    /// The command runs.
    Started { session: String },
}

impl Run {
    /// What the session core is asked for.
    pub(super) fn request(self, peer: Option<Peer>) -> Result<SessionRequest, &'static str> {
        let program = match (self.command, self.argv) {
            (Some(command), None) => Program::Command(command.into_bytes()),
            (None, Some(words)) if !words.is_empty() => {
                Program::Argv(words.into_iter().map(String::into_bytes).collect())
            }
            (None, None) if self.terminal.is_some() => Program::Shell,
            _ => return Err("Give either a command or the words of one."),
        };
        let pty = self.terminal.map(|Pty { term, cols, rows, xpixel, ypixel }| PtySpec {
            term: term.into_bytes(),
            cols,
            rows,
            xpixel,
            ypixel,
            modes: Vec::new(),
        });
        let env = self.env.into_iter().map(|(name, value)| (name.into_bytes(), value.into_bytes())).collect();
        let user = self.user.map(String::into_bytes);
        let (agent, trace) = (AgentRequest::NotAsked, Trace::default());
        Ok(SessionRequest { program, pty, env, agent, user, peer, trace })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<SessionRequest, String> {
        let run: Run = serde_json::from_str(text).map_err(|error| error.to_string())?;
        run.request(None).map_err(str::to_owned)
    }

    #[test]
    fn what_to_run_is_said_in_one_of_three_ways() {
        let line = read(r#"{"command":"ls","env":{"A":"b"},"user":"me"}"#).expect("a line");
        assert!(matches!(&line.program, Program::Command(line) if line == b"ls"));
        assert_eq!((line.env, line.user), (vec![(b"A".to_vec(), b"b".to_vec())], Some(b"me".to_vec())));
        let words = read(r#"{"argv":["ls","-l"],"terminal":{"term":"xterm","cols":80,"rows":24}}"#);
        let words = words.expect("words");
        assert!(matches!(&words.program, Program::Argv(words) if words.len() == 2));
        assert_eq!(words.pty.map(|pty| (pty.term, pty.cols, pty.rows)), Some((b"xterm".to_vec(), 80, 24)));
        let shell = read(r#"{"terminal":{"term":"xterm","cols":80,"rows":24}}"#).expect("a shell");
        assert!(matches!(shell.program, Program::Shell));
        for bad in [
            "{}",
            r#"{"argv":[]}"#,
            r#"{"command":"ls","argv":["ls"]}"#,
            r#"{"command":"ls","stdin":"x"}"#,
            r#"{"terminal":{"cols":80,"rows":24}}"#,
            "[]",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn messages_are_read_strictly() {
        let read = |text: &str| serde_json::from_str::<FromClient>(text);
        assert!(matches!(read(r#"{"type":"eof"}"#), Ok(FromClient::Eof {})));
        assert!(matches!(read(r#"{"type":"signal","name":"INT"}"#), Ok(FromClient::Signal { .. })));
        assert!(matches!(
            read(r#"{"type":"resize","cols":1,"rows":2}"#),
            Ok(FromClient::Resize(Resize { cols: 1, rows: 2, xpixel: 0, ypixel: 0 }))
        ));
        for bad in [
            r#"{"type":"eof","more":1}"#,
            r#"{"type":"resize","cols":1}"#,
            r#"{"type":"resize","cols":1,"rows":2,"more":1}"#,
            r#"{"type":"kill"}"#,
            "",
            "[]",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_start_is_told_with_the_session() {
        let started = ToClient::Started { session: "ses_1".to_owned() };
        let written = serde_json::to_string(&started).expect("JSON");
        assert_eq!(written, r#"{"type":"started","session":"ses_1"}"#);
    }
}
