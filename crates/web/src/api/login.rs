//! Logins to the API.

use sandgate_policy::Role;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
