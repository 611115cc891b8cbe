//! Images.

use std::path::PathBuf;

use sandgate_driver::ImageEvent;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

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
