//! A filter between a program in a hostile guest and the SSH agent of the user who forwarded it, without I/O.
//!
//! Primer: the agent protocol (RFC 9987) is requests one way and answers the other, each a `uint32` length, a type byte and fields;
//! answers carry no number, they come in the order of the requests. A forwarded agent signs whatever the far side asks for, and OpenSSH
//! also lets the far side add, remove and lock keys. This filter passes on what a login or a signature needs (list, sign, and the
//! extension `session-bind@openssh.com`), answers everything else itself, can hold the guest to certain keys, and tells who signed what.
//!
//! * [`Filter`]: bytes of both sides in, bytes for both sides out, [`Event`]s for the audit trail.
//! * [`Fingerprint`]: how keys are named in the allow-list and in events.
//! * [`Purpose`]: what a signature was for, read from the data that was signed.
//!
//! Neither side is trusted. The guest's messages reach the agent only when they have been read to their last byte and are of an allowed
//! kind; the agent's answers reach the guest only when they are of the kind that was asked for.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

mod answer;
mod bindings;
mod codec;
mod event;
mod filter;
mod fingerprint;
mod frame;
mod key;
mod pipe;
mod purpose;
mod request;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod text;
mod verify;

pub use event::{Bound, Event, Outcome, Refused, Signed, Warning};
pub use filter::{Config, Filter, FilterError};
pub use fingerprint::{Fingerprint, FingerprintError};
pub use key::KeyId;
pub use purpose::{Binding, Login, Purpose, SessionId};
pub use text::Text;

/// The largest message in either direction, its length field not counted: OpenSSH's own limit for agent and client.
pub const MAX_MESSAGE: usize = 256 * 1024;
/// Requests that may wait for their answers. The clients we know send one at a time; more only lets a guest fill memory.
pub const MAX_OUTSTANDING: usize = 16;
/// Bytes of answers that may wait for the guest before more is taken from either side.
const ANSWERS_WAITING: usize = 1024;
/// The most bytes that [`Filter::to_agent`] ever holds: one message.
pub const MAX_TO_AGENT: usize = MAX_MESSAGE + 4;
/// The most bytes that [`Filter::to_guest`] ever holds: what may wait, one message, and an answer of ours for each outstanding request.
pub const MAX_TO_GUEST: usize = ANSWERS_WAITING + MAX_MESSAGE + 4 + MAX_OUTSTANDING * 64;
/// Events that may wait to be polled before more is taken from either side. A few more can come of what was taken already.
const EVENTS_WAITING: usize = 64;
/// The most events that ever wait: each message makes two at most, and an end one per outstanding request and one of its own.
pub const MAX_EVENTS: usize = EVENTS_WAITING + MAX_OUTSTANDING + 4;
