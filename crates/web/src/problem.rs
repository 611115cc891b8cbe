//! Errors as `application/problem+json` (RFC 9457).

use axum::Json;
use axum::body::Bytes;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sandgate_gateway::keys::KeyError;
use sandgate_gateway::recording::RecordingError;
use sandgate_gateway::sandboxes::SandboxError;
use sandgate_gateway::session::SessionError;
use sandgate_gateway::tokens::TokenError;
use serde::de::DeserializeOwned;

use crate::api::ProblemView;

/// An error answer.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem { status, detail: detail.into() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(status = self.status.as_u16(), detail = self.detail, "a control request failed");
        }
        let view = ProblemView {
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
        };
        let mut response = (self.status, Json(view)).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

/// Reads a JSON body.
pub(crate) fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))
}

impl From<SandboxError> for Problem {
    fn from(error: SandboxError) -> Problem {
        use sandgate_driver::DriverError;
        let status = match &error {
            SandboxError::NotFound(_) | SandboxError::Driver(DriverError::NotFound(_)) => {
                StatusCode::NOT_FOUND
            }
            SandboxError::Exists(_)
            | SandboxError::StillRunning(_)
            | SandboxError::Driver(DriverError::CannotPause(_) | DriverError::ChangeFailed { .. }) => {
                StatusCode::CONFLICT
            }
            SandboxError::Spec(_)
            | SandboxError::NoDriver(_)
            | SandboxError::Driver(
                DriverError::Spec(_)
                | DriverError::Image { .. }
                | DriverError::Runtime { .. }
                | DriverError::Adopt { .. },
            ) => StatusCode::UNPROCESSABLE_ENTITY,
            SandboxError::Start(_)
            | SandboxError::Driver(DriverError::Busy(_) | DriverError::NoEngine { .. }) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem::new(status, error.to_string())
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Problem {
        let status = match &error {
            TokenError::NoSandbox(_) | TokenError::NoToken => StatusCode::NOT_FOUND,
            TokenError::Ttl(_) | TokenError::Files(_) | TokenError::Forward(_) => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            TokenError::Random(_) | TokenError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem::new(status, error.to_string())
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Problem {
        let status = match &error {
            KeyError::NoKey(_) | KeyError::NoSandbox(_) => StatusCode::NOT_FOUND,
            KeyError::Exists(_) => StatusCode::CONFLICT,
            KeyError::NotAKey | KeyError::Private | KeyError::ShortRsa | KeyError::Unsupported(_) => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            KeyError::Random(_) | KeyError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem::new(status, error.to_string())
    }
}

impl From<SessionError> for Problem {
    fn from(error: SessionError) -> Problem {
        let status = match &error {
            SessionError::Denied(_) => StatusCode::FORBIDDEN,
            SessionError::Sandbox(_) => StatusCode::SERVICE_UNAVAILABLE,
            SessionError::Guest(_) => StatusCode::BAD_GATEWAY,
            SessionError::Recording(_) => StatusCode::INSUFFICIENT_STORAGE,
        };
        Problem::new(status, error.to_string())
    }
}

impl From<RecordingError> for Problem {
    fn from(error: RecordingError) -> Problem {
        let status = match &error {
            RecordingError::NotFound => StatusCode::NOT_FOUND,
            RecordingError::File(source) if source.kind() == std::io::ErrorKind::NotFound => StatusCode::GONE,
            RecordingError::Live => StatusCode::CONFLICT,
            RecordingError::Required => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem::new(status, error.to_string())
    }
}
