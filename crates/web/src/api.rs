//! What travels over the control API, as both sides see it.

use std::path::PathBuf;

use sandgate_driver::{AdoptTarget, ImageEvent};
use sandgate_policy::Role;
use sandgate_policy::{
    CertAuthority, FileAccess, ForwardRules, KeyName, Label, RecordMode, SandboxName, Scopes, SourceNetworks,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

pub use sandgate_gateway::sandboxes::{DEFAULT_DRIVER, NewSandbox};

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

/// A sandbox, as `sandbox ls` and `sandbox inspect` show it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SandboxView {
    /// Identifier.
    pub id: String,
    /// Name.
    pub name: String,
    /// `created`, `starting`, `running`, `paused`, `stopped` or `unknown`.
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
    /// Who runs a virtual machine's processors, while it runs: `kvm`, or `tcg` for QEMU in software.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accel: Option<String>,
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
    /// Size of a virtual machine's disk in bytes, if one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// The kernel of a virtual machine, if one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Host paths that are shared, as `HOST:GUEST:ro` or `HOST:GUEST:rw`.
    #[serde(default)]
    pub mounts: Vec<String>,
    /// `none` or `host`.
    pub network: String,
    /// The container that it was before it was adopted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<String>,
    /// The container engine that runs it, and its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// The way to its agent, of the driver `external`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// What may be forwarded into it and out of it, whoever comes; empty restricts nothing.
    #[serde(default)]
    #[schema(value_type = crate::schema::Forward)]
    pub forward: ForwardRules,
    /// What of its sessions is recorded at least.
    #[serde(default)]
    #[schema(value_type = crate::schema::RecordName)]
    pub record: RecordMode,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// `POST /api/v1/adopt`: makes a sandbox of a container that is there already.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Adopt {
    /// Which one.
    #[schema(value_type = String)]
    pub target: AdoptTarget,
    /// What it is to be called; the container's name if not said.
    #[serde(default)]
    #[schema(value_type = Option<crate::schema::Name>)]
    pub name: Option<SandboxName>,
    /// Login user inside; the container's if not said.
    #[serde(default)]
    pub user: Option<String>,
    /// What may be forwarded into it and out of it, whoever comes.
    #[serde(default)]
    #[schema(value_type = crate::schema::Forward)]
    pub forward: ForwardRules,
}

/// `POST /api/v1/tokens`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// Name of the sandbox.
    pub sandbox: String,
    /// How long it lives, in seconds.
    #[serde(default)]
    pub ttl_seconds: Option<u64>,
    /// What it is good for; all, if not said, or `sftp` alone if `files` has a restriction.
    #[serde(default)]
    #[schema(value_type = Option<crate::schema::ScopeNames>)]
    pub scopes: Option<Scopes>,
    /// A text for people.
    #[serde(default)]
    #[schema(value_type = crate::schema::LabelText)]
    pub label: Label,
    /// Networks it may be used from; empty means anywhere.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub sources: SourceNetworks,
    /// What the file servers do for it.
    #[serde(default)]
    #[schema(value_type = crate::schema::Files)]
    pub files: FileAccess,
    /// What may be forwarded for it; empty restricts nothing.
    #[serde(default)]
    #[schema(value_type = crate::schema::Forward)]
    pub forward: ForwardRules,
    /// What of its sessions is recorded at least.
    #[serde(default)]
    #[schema(value_type = crate::schema::RecordName)]
    pub record: RecordMode,
}

/// The answer: the only time that the token is shown. Its `Debug` leaves the token out.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
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
    #[schema(value_type = Vec<crate::schema::ScopeName>)]
    pub scopes: Scopes,
    /// Where it may be used from; empty means anywhere.
    #[schema(value_type = Vec<String>)]
    pub sources: SourceNetworks,
    /// What the file servers do for it.
    #[schema(value_type = crate::schema::Files)]
    pub files: FileAccess,
    /// What may be forwarded for it; empty restricts nothing.
    #[serde(default)]
    #[schema(value_type = crate::schema::Forward)]
    pub forward: ForwardRules,
    /// What of its sessions is recorded at least.
    #[serde(default)]
    #[schema(value_type = crate::schema::RecordName)]
    pub record: RecordMode,
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

/// `POST /api/v1/keys`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddKey {
    /// Its name.
    #[schema(value_type = crate::schema::Name)]
    pub name: KeyName,
    /// The content of an `id_*.pub` file.
    pub public_key: String,
    /// Names of the sandboxes that it opens; empty means every one.
    #[serde(default)]
    pub sandboxes: Vec<String>,
    /// Makes it an authority: its certificates log in, and it does not itself.
    #[serde(default)]
    #[schema(value_type = Option<crate::schema::Authority>)]
    pub cert_authority: Option<CertAuthority>,
}

/// A key, as `key ls` shows it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
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
    /// Set for an authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<crate::schema::Authority>)]
    pub cert_authority: Option<CertAuthority>,
    /// When it was added.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it was last used.
    #[serde(with = "time::serde::rfc3339::option", default)]
    pub last_used_at: Option<OffsetDateTime>,
}

/// An image, as `image ls` shows it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ImageView {
    /// Name.
    pub name: String,
    /// Digest of its manifest.
    pub digest: String,
    /// All its layers as they are stored, in bytes.
    pub size: u64,
    /// How many layers it has.
    pub layers: usize,
    /// What it is for, such as `linux/amd64`.
    pub platform: String,
    /// When it was pulled or imported.
    #[serde(with = "time::serde::rfc3339")]
    pub added_at: OffsetDateTime,
}

/// `POST /api/v1/images/pull`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PullImage {
    /// The image's name.
    pub name: String,
    /// What it is to run on; the gateway's machine, if not said.
    #[serde(default)]
    pub platform: Option<String>,
    /// The login; what the configuration says, if not said.
    #[serde(default)]
    pub login: Option<Login>,
}

/// A login at a registry. Its `Debug` leaves the password out.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The user.
    pub username: String,
    /// The password, or a token in its place.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}

/// A line of the answer to [`PullImage`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PullEvent {
    /// It goes on.
    Progress(ImageEvent),
    /// It is there. Nothing follows.
    Pulled {
        /// The image.
        image: ImageView,
    },
    /// It did not work. Nothing follows.
    Failed {
        /// Why, for people.
        detail: String,
    },
}

/// `POST /api/v1/images/import`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportImage {
    /// The file or directory; absolute.
    #[schema(value_type = String)]
    pub source: PathBuf,
    /// What to call it; what the file says, if not said.
    #[serde(default)]
    pub name: Option<String>,
}

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

/// `POST /api/v1/login`: one of the two. Its `Debug` shows neither.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// An API key.
    #[serde(default)]
    pub key: Option<String>,
    /// The code of a login link.
    #[serde(default)]
    pub code: Option<String>,
}

impl std::fmt::Debug for LoginRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoginRequest").finish_non_exhaustive()
    }
}

/// Who is asking.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    /// As the audit trail names them.
    pub name: String,
    /// What they may do.
    #[schema(value_type = crate::schema::RoleName)]
    pub role: Role,
}

/// A code for one login. Its `Debug` leaves it out.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct LoginLink {
    /// The code.
    pub code: String,
    /// The address that uses it, where HTTP is served.
    pub url: Option<String>,
}

impl std::fmt::Debug for LoginLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoginLink").finish_non_exhaustive()
    }
}

/// `POST /api/v1/api-keys`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateApiKey {
    /// Its name.
    #[schema(value_type = crate::schema::Name)]
    pub name: KeyName,
    /// What it is good for.
    #[schema(value_type = crate::schema::RoleName)]
    pub role: Role,
    /// How long it lives, in seconds; until it is revoked, if not said.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 3_153_600_000_u64)]
    pub ttl_seconds: Option<u64>,
}

/// The answer: the only time that the key is shown. Its `Debug` leaves it out.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct ApiKeyCreated {
    /// Identifier, for `api-key revoke`.
    pub id: String,
    /// The secret.
    pub key: String,
    /// When it ends.
    #[serde(with = "time::serde::rfc3339::option", default)]
    pub expires_at: Option<OffsetDateTime>,
}

impl std::fmt::Debug for ApiKeyCreated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiKeyCreated").field("id", &self.id).finish_non_exhaustive()
    }
}

/// An API key, as `api-key ls` shows it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ApiKeyView {
    /// Identifier.
    pub id: String,
    /// The first 8 characters.
    pub prefix: String,
    /// Its name.
    pub name: String,
    /// What it is good for.
    #[schema(value_type = crate::schema::RoleName)]
    pub role: Role,
    /// `active`, `expired` or `revoked`.
    pub state: String,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it ends.
    #[serde(with = "time::serde::rfc3339::option", default)]
    pub expires_at: Option<OffsetDateTime>,
    /// When it was revoked.
    #[serde(with = "time::serde::rfc3339::option", default)]
    pub revoked_at: Option<OffsetDateTime>,
    /// When it was last used.
    #[serde(with = "time::serde::rfc3339::option", default)]
    pub last_used_at: Option<OffsetDateTime>,
}

/// A page of the audit trail, the newest first.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    /// Its rows.
    pub entries: Vec<AuditView>,
    /// What to ask for as `before` to read on; `None` at the end.
    pub next: Option<i64>,
}

/// A row of the audit trail.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditView {
    /// Its number, which grows.
    pub id: i64,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// What was done, such as `token.create`.
    pub action: String,
    /// The sandbox, by name; by identifier when it is gone.
    pub sandbox: Option<String>,
    /// Who, as a person would name it.
    pub actor: String,
    /// From which address.
    pub client: Option<String>,
    /// The rest, for people.
    pub detail: String,
}

/// How many connections a revocation has ended.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Ended {
    /// Connections that were ended.
    pub connections: usize,
}

/// `POST /api/v1/sandboxes/{name}/sftp`, with an upgrade to `sandgate-sftp`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SftpRequest {
    /// User inside.
    #[serde(default)]
    pub user: Option<Vec<u8>>,
}

fn about_blank() -> String {
    "about:blank".to_owned()
}

/// An error answer (RFC 9457).
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProblemView {
    /// A URI for the kind of problem; `about:blank` where the status says it all.
    #[serde(rename = "type", default = "about_blank")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// One sentence for people.
    pub detail: String,
}

/// `POST /api/v1/sandboxes/{name}/exec`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// A line for the user's shell. Either this or `argv`.
    #[serde(default)]
    pub command: Option<String>,
    /// The words of a command, without a shell.
    #[serde(default)]
    pub argv: Option<Vec<String>>,
    /// Its standard input; empty if not said.
    #[serde(default)]
    pub stdin: Option<String>,
    /// The same in base64, for what is not text.
    #[serde(default)]
    pub stdin_base64: Option<String>,
    /// Variables.
    #[serde(default)]
    pub env: std::collections::BTreeMap<String, String>,
    /// User inside; the sandbox's own if not said.
    #[serde(default)]
    pub user: Option<String>,
    /// How long it may run, in seconds; 60 if not said.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 3600)]
    pub timeout_seconds: Option<u64>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExecEnd {
    /// By itself; see `exit_code`.
    Exited,
    /// By a signal; see `signal`.
    Signaled,
    /// Its time was over.
    TimedOut,
    /// It said more than an answer can hold.
    OutputLimit,
    /// Somebody ended it; see `detail`.
    Ended,
    /// The sandbox was lost.
    LinkLost,
}

/// Bytes as JSON: text as it is, all else in base64. Text has no control characters but tab, line feed, carriage return and escape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "encoding", content = "data", rename_all = "kebab-case")]
pub enum Output {
    /// UTF-8.
    #[serde(rename = "utf-8")]
    Text(String),
    /// RFC 4648 section 4.
    Base64(String),
}

impl Output {
    /// The bytes, exactly.
    #[must_use]
    pub fn of(bytes: Vec<u8>) -> Output {
        use base64::Engine as _;
        // JSON writes a control character in six bytes: what is full of them, such as zeros, would be six times as long.
        let is_binary =
            bytes.iter().any(|byte| *byte < b' ' && !matches!(byte, b'\t' | b'\n' | b'\r' | 0x1b));
        let encoded = |bytes: &[u8]| Output::Base64(base64::engine::general_purpose::STANDARD.encode(bytes));
        if is_binary {
            return encoded(&bytes);
        }
        match String::from_utf8(bytes) {
            Ok(text) => Output::Text(text),
            Err(error) => encoded(error.as_bytes()),
        }
    }
}

/// What a command came to.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ExecResult {
    /// Identifier of the session, as the audit trail and recordings name it.
    pub session: String,
    /// How it ended.
    pub end: ExecEnd,
    /// Its exit code; for one that a signal ended, what a shell gives (128 and the signal's number).
    pub exit_code: Option<u32>,
    /// The signal, without `SIG`.
    pub signal: Option<String>,
    /// Whether it left a core dump.
    pub core_dumped: bool,
    /// The rest, for people.
    pub detail: Option<String>,
    /// Its standard output.
    pub stdout: Output,
    /// Its standard error.
    pub stderr: Output,
    /// When it was started.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// How long it ran.
    pub seconds: f64,
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_text_as_long_as_json_writes_it_as_it_is() {
        for text in ["", "a\tb\r\n", "\x1b[31mgr\u{fc}n\x1b[0m \u{1f600}\n", "\x7f\u{85}\"\\"] {
            assert_eq!(Output::of(text.as_bytes().to_vec()), Output::Text(text.to_owned()));
        }
        assert_eq!(Output::of(b"a\0b".to_vec()), Output::Base64("YQBi".to_owned()));
        assert_eq!(Output::of(b"a\xff".to_vec()), Output::Base64("Yf8=".to_owned()));
        for control in (0..b' ').filter(|byte| !b"\t\n\r\x1b".contains(byte)) {
            assert!(matches!(Output::of(vec![b'a', control]), Output::Base64(_)), "{control}");
        }
        let zeros = serde_json::to_string(&Output::of(vec![0; 3000])).expect("JSON");
        assert!(zeros.len() < 4100, "{}", zeros.len());
    }
}
