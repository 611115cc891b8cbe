//! The host-side client of the guest agent.
//!
//! A [`Dial`] knows how to reach the agent of one sandbox. A [`Guest`] is made from it and starts processes with
//! [`Guest::exec`]; what comes back is a [`Process`] whose three halves (input, output, control) are independent and can be
//! moved to different tasks. The protocol underneath is described in `docs/wire.md`.
//!
//! The guest is hostile: everything that it sends is bounded, parsed without panics and limited in time, and no file
//! descriptor is ever received from it (the host never reads with room for ancillary data, so the kernel drops them).
#![forbid(unsafe_code)]

pub mod bridge;
mod dial;
mod error;
mod guest;
pub mod mux;
mod pipes;
mod process;
mod relay;
mod shared;
mod spec;

pub use dial::{BoxFuture, ByteStream, Dial, Link, UnixDial};
pub use error::GuestError;
pub use guest::{AgentInfo, Guest, Timeouts};
pub use process::{Process, ProcessControl, ProcessInput, ProcessOutput, Ready};
pub use spec::{ExecSpec, ExitStatus, Program, PtySpec, WindowSize};
