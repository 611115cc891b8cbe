//! The audit trail.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

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
