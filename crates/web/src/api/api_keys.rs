//! Keys of the API.

use sandgate_policy::{KeyName, Role};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

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
