//! The session core: everything between "this principal wants a shell" and a running process in the sandbox.
//!
//! All front doors use it. A front door translates its protocol into a [`SessionRequest`] and moves bytes between its client
//! and the [`RunningSession`]; whether the principal may do it, waking the sandbox, the audit and the register are here.

mod file_audit;
mod lines;
mod output;
mod registry;
mod signals;
mod start;
mod tee;

pub use output::SessionOutput;
pub use registry::{ConnectionGuard, EndReason, EndSignal, Registry, SessionInfo, SessionKind, Traffic};
pub use signals::signal_number;
pub use start::{
    NO_TERMINAL, Outcome, Peer, RunningSession, SessionError, SessionRecord, SessionRequest, start,
    start_after,
};
pub(crate) use tee::{Event, Follower, Tee};
