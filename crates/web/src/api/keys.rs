//! Public keys.

use sandgate_policy::{CertAuthority, KeyName};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

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
