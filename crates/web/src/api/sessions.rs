//! Live sessions, and how those of file servers are asked for.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// A live session, as `session ls` shows it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SessionView {
    /// Identifier, for `session kill`.
    pub id: String,
    /// Name of the sandbox.
    pub sandbox: String,
    /// `shell`, `exec`, `sftp` or `scp`.
    pub kind: String,
    /// Whether it has a terminal.
    pub pty: bool,
    /// The credential, as a person would name it.
    pub credential: String,
    /// Address of the client; `None` on the control socket.
    pub client: Option<String>,
    /// When it started.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// Bytes from the client to the process.
    pub bytes_in: u64,
    /// Bytes from the process to the client.
    pub bytes_out: u64,
    /// Identifier of its recording, if it is recorded.
    #[serde(default)]
    pub recording: Option<String>,
    /// Identifier of its terminal, if it is one of a browser.
    #[serde(default)]
    pub terminal: Option<String>,
}

/// `POST /api/v1/sandboxes/{name}/sftp`, with an upgrade to `sandgate-sftp`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SftpRequest {
    /// User inside.
    #[serde(default)]
    pub user: Option<Vec<u8>>,
}
