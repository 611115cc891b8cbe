//! Recordings of sessions.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// A recording, as `recording ls` shows it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RecordingView {
    /// Identifier.
    pub id: String,
    /// Name of the sandbox.
    pub sandbox: String,
    /// The session or forward that was recorded.
    pub session: String,
    /// `terminal`, `exec`, `sftp`, `scp` or `forward`.
    pub kind: String,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// How long it went on, or has so far.
    pub seconds: f64,
    /// Whether it goes on.
    #[serde(default)]
    pub live: bool,
    /// Size of the file; 0 while it goes on.
    pub bytes: u64,
    /// Whether all of the session is in it.
    pub complete: bool,
    /// `asciicast-v3` or `timeline`.
    pub format: String,
}

/// `GET /api/v1/recordings`: some of them, the newest first.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RecordingsPage {
    /// Those.
    pub recordings: Vec<RecordingView>,
    /// What to ask for as `before` to get older ones; `None` when there are none.
    pub next: Option<String>,
}

/// `POST /api/v1/recordings/{id}/verify`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Verified {
    /// Whether nothing speaks against it.
    pub valid: bool,
    /// What was found.
    pub detail: String,
}
