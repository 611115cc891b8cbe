//! The SSH front door: turns connections of the SSH core into logins and sessions.
//!
//! It knows SSH and nothing about sandboxes: what a principal may do, how a sandbox is woken and what runs in it is the
//! business of [`crate::access`], [`crate::sandboxes`] and [`crate::session`].

mod agent_channel;
mod client_stream;
mod config;
mod connection;
mod forward;
mod gather;
mod keepalive;
mod login;
mod pump;
mod quick_ack;
mod session_channel;
mod setup;
mod waiting;
mod x11;

pub use config::server_config;
pub use connection::{Origin, serve};
pub use keepalive::Keepalive;
