//! Rules for forwarding, in OpenSSH's own terms: what may be connected to, what may be listened on, which keys of a forwarded
//! agent may be used.
//!
//! They compare text, as sshd does: no name is looked up and no link is followed. `localhost` and `127.0.0.1` are different hosts.
//!
//! * `PermitOpen`: `HOST:PORT`, `[V6]:PORT`, with `*` for either. No other wildcards: what looks like one is refused.
//! * `PermitListen`: `PORT` or `HOST:PORT`; in the host `*` and `?` are wildcards. A client that names no host asks for `localhost`.
//! * sockets: an absolute path, or `DIR/*` for every socket directly in that directory.
//!
//! Each list may instead be the one word `any` or `none`. A direction (connect, listen) in which anything was said permits only
//! what was said: rules for TCP alone permit no sockets, and the other way round. sshd does so for connecting.

mod rule;

use std::fmt;

use crate::principal::Decision;
use crate::scope::{Scope, Scopes};
use rule::{AgentKey, Listen, Open, Rule, Socket, is_plain};
use serde::{Deserialize, Serialize};

/// Most rules of one token or sandbox, in all lists together; each open looks at them in turn.
pub const MAX_RULES: usize = 128;
/// Rules that a denial names; the rest is counted.
const SHOWN: usize = 8;

/// A list of rules as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
enum List<T> {
    /// Nothing was said.
    Unsaid,
    /// `any`.
    Any,
    /// These, which may be none.
    Only(Vec<T>),
}

impl<T: Rule> List<T> {
    fn read(kind: Kind, words: Option<&Vec<String>>) -> Result<List<T>, ForwardRulesError> {
        let Some(words) = words else { return Ok(List::Unsaid) };
        match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["any"] => return Ok(List::Any),
            ["none"] => return Ok(List::Only(Vec::new())),
            _ => {}
        }
        let read = |word: &String| {
            T::parse(word)
                .ok_or_else(|| ForwardRulesError::Bad { kind, text: word.chars().take(64).collect() })
        };
        words.iter().map(read).collect::<Result<_, _>>().map(List::Only)
    }

    fn words(&self) -> Option<Vec<String>> {
        match self {
            List::Unsaid => None,
            List::Any => Some(vec!["any".to_owned()]),
            List::Only(rules) if rules.is_empty() => Some(vec!["none".to_owned()]),
            List::Only(rules) => Some(rules.iter().map(|rule| rule.text().to_owned()).collect()),
        }
    }

    fn len(&self) -> usize {
        match self {
            List::Unsaid | List::Any => 0,
            List::Only(rules) => rules.len(),
        }
    }

    /// Whether it permits something of which `permits` knows; `other_is_said`: there are rules for the other kind of this direction.
    fn permits(&self, other_is_said: Said, permits: impl Fn(&T) -> bool) -> bool {
        match self {
            List::Unsaid => other_is_said == Said::Nothing,
            List::Any => true,
            List::Only(rules) => rules.iter().any(permits),
        }
    }

    fn said(&self) -> Said {
        match self {
            List::Unsaid | List::Any => Said::Nothing,
            List::Only(_) => Said::Rules,
        }
    }

    /// What a denial says of it.
    fn shown(&self) -> String {
        let rules = match self {
            List::Unsaid | List::Any => return "nothing".to_owned(),
            List::Only(rules) => rules,
        };
        let mut shown = rules.iter().take(SHOWN).map(Rule::text).collect::<Vec<_>>().join(", ");
        match rules.len() {
            0 => return "nothing".to_owned(),
            count if count > SHOWN => shown.push_str(&format!(" and {} more", count - SHOWN)),
            _ => {}
        }
        format!("{shown} only")
    }
}

/// Whether a list restricts anything.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Rules,
}

/// The rules of one token or one sandbox. The default restricts nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenRules", into = "WrittenRules")]
pub struct ForwardRules {
    open: List<Open>,
    listen: List<Listen>,
    socket_open: List<Socket>,
    socket_listen: List<Socket>,
    agent_keys: List<AgentKey>,
}

/// The rules as they are written down: in requests, in the store, on the command line. `None`: nothing is said. An unknown field is an
/// error, so that rules of a later version are never taken for fewer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WrittenRules {
    /// Hosts and ports to connect to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permit_open: Option<Vec<String>>,
    /// Hosts and ports to listen on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permit_listen: Option<Vec<String>>,
    /// Sockets to connect to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permit_socket_open: Option<Vec<String>>,
    /// Sockets to listen on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permit_socket_listen: Option<Vec<String>>,
    /// Fingerprints of the keys of a forwarded agent that may be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_keys: Option<Vec<String>>,
}

impl Default for ForwardRules {
    fn default() -> ForwardRules {
        ForwardRules {
            open: List::Unsaid,
            listen: List::Unsaid,
            socket_open: List::Unsaid,
            socket_listen: List::Unsaid,
            agent_keys: List::Unsaid,
        }
    }
}

impl TryFrom<WrittenRules> for ForwardRules {
    type Error = ForwardRulesError;

    fn try_from(written: WrittenRules) -> Result<ForwardRules, ForwardRulesError> {
        let rules = ForwardRules {
            open: List::read(Kind::PermitOpen, written.permit_open.as_ref())?,
            listen: List::read(Kind::PermitListen, written.permit_listen.as_ref())?,
            socket_open: List::read(Kind::SocketOpen, written.permit_socket_open.as_ref())?,
            socket_listen: List::read(Kind::SocketListen, written.permit_socket_listen.as_ref())?,
            agent_keys: List::read(Kind::AgentKeys, written.agent_keys.as_ref())?,
        };
        let count = rules.open.len()
            + rules.listen.len()
            + rules.socket_open.len()
            + rules.socket_listen.len()
            + rules.agent_keys.len();
        if count > MAX_RULES { Err(ForwardRulesError::TooMany) } else { Ok(rules) }
    }
}

impl From<ForwardRules> for WrittenRules {
    fn from(rules: ForwardRules) -> WrittenRules {
        WrittenRules {
            permit_open: rules.open.words(),
            permit_listen: rules.listen.words(),
            permit_socket_open: rules.socket_open.words(),
            permit_socket_listen: rules.socket_listen.words(),
            agent_keys: rules.agent_keys.words(),
        }
    }
}

impl ForwardRules {
    /// Whether anything at all is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == ForwardRules::default()
    }

    /// Whether a credential with these scopes can use what these rules are about.
    ///
    /// # Errors
    /// Rules for something that the scopes do not allow: most likely one of the two is a mistake.
    pub fn check(&self, scopes: Scopes) -> Result<(), ForwardRulesError> {
        let forwards = ForwardRules { agent_keys: List::Unsaid, ..self.clone() };
        if !forwards.is_empty() && !scopes.contains(Scope::Forward) {
            return Err(ForwardRulesError::NoScope { kind: "forwarding", scope: Scope::Forward });
        }
        if self.agent_keys != List::Unsaid && !scopes.contains(Scope::Agent) {
            return Err(ForwardRulesError::NoScope { kind: "the agent's keys", scope: Scope::Agent });
        }
        Ok(())
    }

    fn connect_tcp(&self, host: &[u8], port: u16) -> Result<(), (Kind, String)> {
        let permitted = self.open.permits(self.socket_open.said(), |rule| rule.permits(host, port));
        refuse_unless(permitted, Kind::PermitOpen, &self.open)
    }

    fn listen_tcp(&self, host: &[u8], port: u16) -> Result<(), (Kind, String)> {
        let permitted = self.listen.permits(self.socket_listen.said(), |rule| rule.permits(host, port));
        refuse_unless(permitted, Kind::PermitListen, &self.listen)
    }

    fn connect_socket(&self, path: &[u8]) -> Result<(), (Kind, String)> {
        let permitted =
            self.socket_open.permits(self.open.said(), |rule| is_plain(path) && rule.permits(path));
        refuse_unless(permitted, Kind::SocketOpen, &self.socket_open)
    }

    fn listen_socket(&self, path: &[u8]) -> Result<(), (Kind, String)> {
        let permitted =
            self.socket_listen.permits(self.listen.said(), |rule| is_plain(path) && rule.permits(path));
        refuse_unless(permitted, Kind::SocketListen, &self.socket_listen)
    }
}

fn refuse_unless<T: Rule>(permitted: bool, kind: Kind, list: &List<T>) -> Result<(), (Kind, String)> {
    if permitted { Ok(()) } else { Err((kind, list.shown())) }
}

/// The rules that somebody who has come in is held by: those of the credential and those of the sandbox. Both must allow.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ForwardAccess {
    /// Those of the token. A key has none.
    pub credential: ForwardRules,
    /// Those of the sandbox.
    pub sandbox: ForwardRules,
}

impl ForwardAccess {
    /// Whether a connection to this host and port is permitted. `host` is the text that the client sent.
    #[must_use]
    pub fn connect_tcp(&self, host: &[u8], port: u16) -> Decision {
        self.decide(|rules| rules.connect_tcp(host, port))
    }

    /// Whether a connection to this Unix socket is permitted.
    #[must_use]
    pub fn connect_socket(&self, path: &[u8]) -> Decision {
        let path = absolute(path);
        self.decide(|rules| rules.connect_socket(&path))
    }

    /// Whether listening on this host and port is permitted. Port 0 (any free one) needs a rule for every port, as with sshd.
    #[must_use]
    pub fn listen_tcp(&self, host: &[u8], port: u16) -> Decision {
        self.decide(|rules| rules.listen_tcp(host, port))
    }

    /// Whether listening on this Unix socket is permitted.
    #[must_use]
    pub fn listen_socket(&self, path: &[u8]) -> Decision {
        let path = absolute(path);
        self.decide(|rules| rules.listen_socket(&path))
    }

    /// The fingerprints (`SHA256:…`) of the keys that may be used through a forwarded agent; `None` for every key.
    #[must_use]
    pub fn agent_keys(&self) -> Option<Vec<&str>> {
        let only = |rules| match rules {
            &List::Unsaid | &List::Any => None,
            List::Only(keys) => Some(keys.iter().map(AgentKey::text).collect::<Vec<_>>()),
        };
        match (only(&self.credential.agent_keys), only(&self.sandbox.agent_keys)) {
            (Some(one), Some(other)) => Some(one.into_iter().filter(|key| other.contains(key)).collect()),
            (one, other) => one.or(other),
        }
    }

    fn decide(&self, ask: impl Fn(&ForwardRules) -> Result<(), (Kind, String)>) -> Decision {
        for (rules, owner) in [(&self.credential, "token"), (&self.sandbox, "sandbox")] {
            if let Err((kind, shown)) = ask(rules) {
                return Decision::Deny(format!("{kind} of the {owner} allows {shown}."));
            }
        }
        Decision::Allow
    }
}

/// A path as the guest's agent takes it: a relative one counts from `/`.
fn absolute(path: &[u8]) -> Vec<u8> {
    if path.starts_with(b"/") { path.to_vec() } else { [b"/", path].concat() }
}

/// Which list a rule is in; shown as OpenSSH calls it, where it has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `PermitOpen`.
    PermitOpen,
    /// `PermitListen`.
    PermitListen,
    /// Sockets to connect to.
    SocketOpen,
    /// Sockets to listen on.
    SocketListen,
    /// Keys of a forwarded agent.
    AgentKeys,
}

impl Kind {
    fn wanted(self) -> &'static str {
        match self {
            Kind::PermitOpen => "HOST:PORT or [V6]:PORT, with * for the host or the port",
            Kind::PermitListen => "PORT, HOST:PORT or [V6]:PORT, with * for the port",
            Kind::SocketOpen | Kind::SocketListen => {
                "an absolute path, or DIRECTORY/* for all in a directory"
            }
            Kind::AgentKeys => "SHA256: and 43 characters, as ssh-add -l prints it",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::PermitOpen => "PermitOpen",
            Kind::PermitListen => "PermitListen",
            Kind::SocketOpen => "PermitSocketOpen",
            Kind::SocketListen => "PermitSocketListen",
            Kind::AgentKeys => "AgentKeys",
        })
    }
}

/// Rules that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForwardRulesError {
    /// One that cannot be read.
    #[error("{kind}: \"{text}\" is not {}, nor the one word any or none", .kind.wanted())]
    Bad {
        /// Of which list.
        kind: Kind,
        /// The rule, cut.
        text: String,
    },
    /// Over [`MAX_RULES`].
    #[error("a token or a sandbox can have at most {MAX_RULES} rules for forwarding")]
    TooMany,
    /// The scope is missing that the rules are about.
    #[error("rules for {kind} need the scope \"{scope}\", which this token would not have")]
    NoScope {
        /// What they are about.
        kind: &'static str,
        /// What is missing.
        scope: Scope,
    },
}

#[cfg(test)]
mod tests;
