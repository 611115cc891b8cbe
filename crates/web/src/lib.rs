//! HTTP: the control API on a Unix socket, its client, and the health check.
//!
//! The control API is for the owner alone: the socket lies in the data directory (0700), has mode 0600, and every
//! connection's user is checked. JSON under `/v1`; errors are `application/problem+json` (RFC 9457) whose `detail` is one
//! sentence for people. The TCP listener serves `/healthz`, `/metrics` and a page that says what this is, and nothing else.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod api;
pub mod client;
mod control;
mod health;
mod images;
mod keys;
mod link;
mod problem;
mod recordings;
mod sandboxes;
mod sessions;
mod sftp;
mod ssh_config;
mod status;
mod tokens;
mod upgrade;

pub use control::{ControlError, ControlSocket, SOCKET_NAME, socket_path};
pub use health::HealthServer;
pub use link::LinkDial;
