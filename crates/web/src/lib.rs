//! HTTP: the API, its client, and the pages for operations.
//!
//! One router serves the API below `/api/v1`, on TCP to holders of API keys and on a Unix socket to the owner: that socket lies in the data
//! directory (0700), has mode 0600, and every connection's user is checked. Errors are `application/problem+json` (RFC 9457) whose
//! `detail` is one sentence for people. `/healthz`, `/readyz` and `/metrics` need no key, and can have a listener of their own.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod api;
mod api_keys;
mod audit;
mod caller;
pub mod client;
mod control;
mod exec;
mod exec_stream;
mod health;
mod http;
mod images;
mod keys;
mod link;
mod login;
mod origin;
mod pages;
mod places;
mod problem;
mod recordings;
mod routes;
mod sandboxes;
mod schema;
mod server;
mod sessions;
mod sftp;
mod ssh_config;
mod status;
mod terminal;
mod tls;
mod tokens;
mod upgrade;
mod websocket;

pub use control::{ControlError, ControlSocket, SOCKET_NAME, socket_path};
pub use health::Operations;
pub use http::{HttpServer, TlsError};
pub use link::LinkDial;
