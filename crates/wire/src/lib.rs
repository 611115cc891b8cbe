//! The protocol between the gateway and the guest agent, without I/O.
//!
//! Primer: a *link* is one ordered byte stream. Both sides begin with a [`message::Hello`]; after it, frames of an 8-byte header
//! (stream id, kind, length) and a payload travel both ways. The host opens *streams* (a process, a question); each stream has credit in both
//! directions, so that data nobody reads never delays anything else. `docs/wire.md` is the reference, field by field.
//!
//! * [`frame`]: header, kinds, incremental decoder, output buffer.
//! * [`message`]: the payloads.
//! * [`mux`]: the state machine of one end of a link.
//! * [`keepalive`]: when to ask whether the peer is there, and when to give it up.
//! * [`relay`]: carries many links over one, by renaming stream ids.
#![forbid(unsafe_code)]

mod codec;
pub mod frame;
pub mod keepalive;
pub mod message;
pub mod mux;
pub mod relay;

pub use codec::DecodeError;

/// The oldest protocol version that this code speaks.
pub const VERSION_MIN: u16 = 1;
/// The newest protocol version that this code speaks.
pub const VERSION_MAX: u16 = 1;

/// Capability: an exec without terminal can run on pipes passed along with its Open (Unix sockets only).
pub const CAP_PASS_STDIO: u64 = 1;
/// Capability: the agent has file servers of its own (SFTP, and the old protocol of scp).
pub const CAP_FILES: u64 = 1 << 1;
/// Capability: the agent dials TCP and Unix sockets in the guest.
pub const CAP_DIAL: u64 = 1 << 2;
/// Capability: the agent listens in the guest (listen, incoming, accept).
pub const CAP_LISTEN: u64 = 1 << 3;
/// Capability: this end answers Ping with Pong.
pub const CAP_PING: u64 = 1 << 4;
/// Capability: an exec with a terminal can run on one passed along with its Open (Unix sockets only).
pub const CAP_PASS_TERMINAL: u64 = 1 << 5;

/// Capability: the agent is the init of a machine of its own, and sets its clock and ends it when asked (Open type 7).
pub const CAP_MACHINE: u64 = 1 << 6;
/// Capability: the agent takes ReaderGone, and closes the standard output of the process.
pub const CAP_OUTPUT_GONE: u64 = 1 << 7;

/// Credit that each side grants to each direction of a stream when it opens, in bytes. Enough to keep a local link busy, small
/// enough that a thousand streams that nobody reads stay under half a gigabyte.
pub const STREAM_WINDOW: u32 = 256 * 1024;
