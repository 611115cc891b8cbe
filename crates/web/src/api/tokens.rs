//! Access tokens.

use sandgate_policy::{FileAccess, ForwardRules, Label, RecordMode, Scopes, SourceNetworks};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

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
