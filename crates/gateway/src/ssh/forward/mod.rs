//! Forwards of SSH clients (RFC 4254 §7, OpenSSH PROTOCOL §2.4): connections into the sandbox, and listeners inside it.
//!
//! Everything here is a future of the connection's own task: when that is dropped nothing is left on either side.

mod arrivals;
mod connect;
mod incoming;
mod listeners;
mod relay;
mod settling;

pub(super) use arrivals::Arrivals;
pub(super) use connect::connect;
pub(super) use incoming::{Arrived, Source, serve};
pub(super) use listeners::{ForSession, Listeners};
pub(super) use settling::Settled;
