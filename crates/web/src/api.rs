//! What travels over the control API, as both sides see it.

use sandgate_policy::{KeyName, Label, Scopes, SourceNetworks};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

pub use sandgate_gateway::sandboxes::NewSandbox;

/// `GET /v1/status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
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

/// A sandbox, as `sandbox ls` and `sandbox inspect` show it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxView {
    /// Identifier.
    pub id: String,
    /// Name.
    pub name: String,
    /// `created`, `starting`, `running`, `stopped` or `unknown`.
    pub state: String,
    /// Why it is stopped or unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Process id of the agent on the host, while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// When it was started, or when it stopped.
    #[serde(with = "time::serde::rfc3339::option", default, skip_serializing_if = "Option::is_none")]
    pub since: Option<OffsetDateTime>,
    /// What this machine could not give it.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Live sessions in it.
    pub sessions: usize,
    /// The driver that made it.
    pub driver: String,
    /// Who makes the container.
    pub runtime: String,
    /// Where the root file system comes from.
    pub image: String,
    /// Login user inside, if one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Memory limit in bytes, if one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// CPU limit in cores, if one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Host paths that are shared, as `HOST:GUEST:ro` or `HOST:GUEST:rw`.
    #[serde(default)]
    pub mounts: Vec<String>,
    /// `none` or `host`.
    pub network: String,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// `POST /v1/tokens`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// Name of the sandbox.
    pub sandbox: String,
    /// How long it lives, in seconds.
    #[serde(default)]
    pub ttl_seconds: Option<u64>,
    /// What it is good for; all, if not said.
    #[serde(default)]
    pub scopes: Option<Scopes>,
    /// A text for people.
    #[serde(default)]
    pub label: Label,
    /// Networks it may be used from; empty means anywhere.
    #[serde(default)]
    pub sources: SourceNetworks,
}

/// The answer: the only time that the token is shown. Its `Debug` leaves the token out.
#[derive(Clone, Serialize, Deserialize)]
pub struct TokenCreated {
    /// Identifier, for `token revoke`.
    pub id: String,
    /// The secret.
    pub token: String,
    /// When it ends.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// What to type to use it.
    pub ssh_command: String,
}

impl std::fmt::Debug for TokenCreated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenCreated").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A token, as `token ls` shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TokenView {
    /// Identifier.
    pub id: String,
    /// The first 8 characters.
    pub prefix: String,
    /// A text for people.
    pub label: String,
    /// Name of the sandbox; its identifier when the sandbox is gone.
    pub sandbox: String,
    /// `active`, `expired` or `revoked`.
    pub state: String,
    /// What it is good for.
    pub scopes: Scopes,
    /// Where it may be used from; empty means anywhere.
    pub sources: SourceNetworks,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it ends.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// When it was revoked.
    #[serde(with = "time::serde::rfc3339::option", default)]
    pub revoked_at: Option<OffsetDateTime>,
    /// When it was last used.
    #[serde(with = "time::serde::rfc3339::option", default)]
    pub last_used_at: Option<OffsetDateTime>,
}

/// `POST /v1/keys`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddKey {
    /// Its name.
    pub name: KeyName,
    /// The content of an `id_*.pub` file.
    pub public_key: String,
    /// Names of the sandboxes that it opens; empty means every one.
    #[serde(default)]
    pub sandboxes: Vec<String>,
}

/// A key, as `key ls` shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyView {
    /// Identifier.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `SHA256:…`.
    pub fingerprint: String,
    /// The key in OpenSSH's one-line form.
    pub public_key: String,
    /// Names of the sandboxes that it opens; `None` means every one.
    pub sandboxes: Option<Vec<String>>,
    /// When it was added.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it was last used.
    #[serde(with = "time::serde::rfc3339::option", default)]
    pub last_used_at: Option<OffsetDateTime>,
}

/// A live session, as `session ls` shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionView {
    /// Identifier, for `session kill`.
    pub id: String,
    /// Name of the sandbox.
    pub sandbox: String,
    /// `shell` or `exec`.
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
}

/// How many connections a revocation has ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ended {
    /// Connections that were ended.
    pub connections: usize,
}

/// `POST /v1/sandboxes/{name}/exec`, with an upgrade to [`crate::frames::PROTOCOL`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments, as bytes.
    pub argv: Vec<Vec<u8>>,
    /// The terminal; `None` for pipes.
    #[serde(default)]
    pub tty: Option<Tty>,
    /// User inside.
    #[serde(default)]
    pub user: Option<Vec<u8>>,
    /// Variables, as bytes.
    #[serde(default)]
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A terminal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tty {
    /// TERM.
    pub term: String,
    /// Columns.
    pub cols: u32,
    /// Rows.
    pub rows: u32,
}

/// An error answer (RFC 9457).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProblemView {
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// One sentence for people.
    pub detail: String,
}
