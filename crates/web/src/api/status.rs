//! The gateway itself.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// `GET /api/v1/status`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of the gateway.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it was started.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// Where SSH is served.
    pub ssh_listen: String,
    /// Host that clients are told to use.
    pub ssh_host: String,
    /// Port that clients are told to use.
    pub ssh_port: u16,
    /// Public host keys, one line each.
    pub host_keys: Vec<String>,
    /// Live authenticated connections.
    pub connections: usize,
    /// Live sessions.
    pub sessions: usize,
}
