//! The host-side client of the guest agent.
//!
//! A [`Dial`] knows how to reach the agent of one sandbox. A [`Guest`] is made from it and starts processes with
//! [`Guest::exec`]; what comes back is a [`Process`] whose three halves (input, output, control) are independent and can be
//! moved to different tasks. [`Guest::dial`] and [`Guest::listen`] connect and listen inside the guest. The protocol underneath is described in `docs/wire.md`.
//!
//! The guest is hostile: everything that it sends is bounded, parsed without panics and limited in time, and no file
//! descriptor is ever received from it (the host never reads with room for ancillary data, so the kernel drops them).
#![forbid(unsafe_code)]

pub mod bridge;
mod connection;
mod dial;
mod direct;
mod error;
mod forward;
mod guest;
mod listener;
pub mod mux;
mod pipes;
mod process;
mod relay;
mod shared;
mod socket;
mod spec;
mod terminal;

pub use connection::{Connection, ConnectionOutput, ConnectionReady};
pub use dial::{BoxFuture, ByteStream, Dial, IpFamily, Link, UnixDial};
pub use error::{GuestError, NetworkFailure, OpenFailure};
pub use forward::{Address, DialSpec, ListenAddress, ListenSpec, Peer};
pub use guest::{AgentInfo, Guest, Timeouts};
pub use listener::{Incoming, Listener};
pub use process::{Process, ProcessControl, ProcessInput, ProcessOutput, Ready};
pub use sandgate_wire::keepalive::{Keepalive, TCP_IDLE};
pub use sandgate_wire::message::{FileProtocol, Files, Program};
pub use spec::{ExecSpec, ExitStatus, PtySpec, WindowSize};
pub use terminal::Terminal;
