//! The gateway: who gets in, what runs for whom, and the SSH front door.
//!
//! [`Gateway::build`] opens the store, loads the host keys and finds the sandboxes; a front door (the SSH listener here,
//! the control API in `sandgate-web`) then serves connections with it. Front doors know their protocol and nothing about
//! sandboxes; [`session`] is what they share.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod access;
pub mod agent_forward;
pub mod api_keys;
pub mod audit;
pub mod certificate;
pub mod config;
pub mod drain;
pub mod expiry;
mod forget;
pub mod forward;
mod gateway;
pub mod hostkeys;
mod ids;
pub mod images;
pub mod keys;
pub mod limits;
pub mod listener;
pub mod metrics;
pub mod reach;
pub mod recording;
pub mod sandboxes;
pub mod session;
pub mod ssh;
pub mod tcp;
pub mod telemetry;
pub mod terminal;
pub mod tokens;
mod workers;

pub use config::Config;
pub use gateway::{BuildError, Gateway};
