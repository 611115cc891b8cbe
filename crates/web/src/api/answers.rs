//! Answers of several requests.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How many connections a revocation has ended.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Ended {
    /// Connections that were ended.
    pub connections: usize,
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
