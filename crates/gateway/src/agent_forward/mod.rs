//! Forwarding of the user's SSH agent into a session.
//!
//! A session that asks for it gets a socket in the sandbox, in a directory that only the login user can enter, and its path as
//! `SSH_AUTH_SOCK`. Every connection to that socket becomes one connection to the agent of the user, through the
//! [filter](sandgate_agent_filter) that lets lists and signatures pass and nothing that changes the agent.
//!
//! How the agent is reached is the front door's business: it brings a [`UserAgent`]. All else is here and is one future,
//! [`AgentForward::run`], of the session's own task: whatever ends the session ends the socket, the connections and all that they hold.

mod forward;
mod metrics;
mod open;
mod relay;
mod trail;

use std::future::Future;
use std::sync::Arc;

use sandgate_agent_filter::{Config, Fingerprint};
use sandgate_guest::{Guest, ListenSpec};
use sandgate_policy::{Action, Decision, Principal, decide};
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncWrite};

pub use forward::AgentForward;
pub use metrics::AgentMetrics;
use trail::Trail;

use crate::gateway::Gateway;
use crate::session::SessionInfo;

/// The way to the agent of the user behind a front door.
pub trait UserAgent: Sync {
    /// Makes one connection to it. Brings its own deadline; dropping the future gives the attempt up.
    fn open(&self) -> impl Future<Output = Result<AgentStream, OpenError>> + Send;
}

/// A connection to the user's agent. Dropping both halves closes it.
pub struct AgentStream {
    /// What the agent answers; its end is the end of the answers, or of the connection.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// What it is asked; `shutdown` must leave the reading half alone.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
}

/// Why the user's agent could not be reached. The text is for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It may be there in a moment: tried again.
    #[error("{0}")]
    Unreachable(String),
    /// Trying again would not help.
    #[error("{0}")]
    Refused(String),
}

/// Whether a session is to have the user's agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AgentRequest {
    /// Nobody asked for it.
    #[default]
    NotAsked,
    /// The client offers it.
    Asked,
}

/// What came of an [`AgentRequest`].
pub enum AgentForwarding {
    /// None was asked for, or the session has no use for one.
    Off,
    /// Not available, with the sentence that the user reads. The session works without.
    Refused(String),
    /// The socket is there; [`AgentForward::run`] must be polled beside the session.
    On(Box<AgentForward>),
}

/// Whether `principal` may forward an agent; the error is the sentence that the user reads.
pub fn permitted(principal: &Principal) -> Result<(), String> {
    match decide(principal, Action::Agent, OffsetDateTime::now_utc()) {
        Decision::Allow => Ok(()),
        Decision::Deny(reason) => Err(format!("The agent is not forwarded: {reason}")),
    }
}

/// The keys that this principal's programs may see and use, by the rules of credential and sandbox; `None` means all. The rules hold
/// fingerprints only; one that could not be read would allow nothing.
fn allowed_keys(principal: &Principal) -> Option<Vec<Fingerprint>> {
    let keys = principal.forward.agent_keys()?;
    Some(keys.into_iter().filter_map(|key| key.parse().ok()).collect())
}

/// Makes the socket for the session `info` of `user` in the guest.
pub(crate) async fn listen(
    gateway: &Arc<Gateway>,
    guest: &Guest,
    principal: &Principal,
    info: &SessionInfo,
    user: Option<Vec<u8>>,
) -> AgentForwarding {
    let trail = Trail::new(gateway.clone(), info);
    if let Err(reason) = permitted(principal) {
        // No warning: it is what the operator wanted.
        tracing::info!(session = info.id, sandbox = info.sandbox, reason, "agent forwarding refused");
        return AgentForwarding::Refused(reason);
    }
    let config =
        Config { allowed_keys: allowed_keys(principal).map(|keys| Arc::new(keys.into_iter().collect())) };
    match guest.listen(ListenSpec { user, ..ListenSpec::agent_socket() }).await {
        Ok(listener) => AgentForwarding::On(Box::new(AgentForward::new(listener, config, trail))),
        Err(error) => {
            trail.failed(&format_args!("no socket in the sandbox: {error}"));
            AgentForwarding::Refused(format!("The agent is not forwarded: {error}."))
        }
    }
}
