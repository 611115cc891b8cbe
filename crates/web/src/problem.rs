//! Errors as `application/problem+json` (RFC 9457).

use axum::Json;
use axum::body::Bytes;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sandgate_gateway::api_keys::ApiKeyError;
use sandgate_gateway::keys::KeyError;
use sandgate_gateway::recording::RecordingError;
use sandgate_gateway::sandboxes::SandboxError;
use sandgate_gateway::session::SessionError;
use sandgate_gateway::tokens::TokenError;
use sandgate_guest::GuestError;
use sandgate_store::StoreError;
use serde::de::DeserializeOwned;

use crate::api::ProblemView;

/// The media type of problems.
const PROBLEM_JSON: &str = "application/problem+json";
/// Longest plain error of the framework that is passed on, in bytes.
const MAX_FRAMEWORK_TEXT: usize = 4096;

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

    /// An answer to somebody who is not known, and how to become known (RFC 6750 §3).
    pub(crate) fn unauthorized(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNAUTHORIZED, detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(status = self.status.as_u16(), detail = self.detail, "a control request failed");
        }
        let view = ProblemView {
            kind: "about:blank".to_owned(),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
        };
        let mut response = (self.status, Json(view)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if response.status() == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Makes problems of the errors that the framework answers by itself in plain text: a path or query that cannot be read, a method that
/// a resource does not have, a body that is too long.
pub(crate) async fn of_framework(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let kind = response.headers().get(header::CONTENT_TYPE);
    if !is_error || kind.is_some_and(|kind| kind == PROBLEM_JSON) {
        return response;
    }
    let allow = response.headers().get(header::ALLOW).cloned();
    let text = axum::body::to_bytes(response.into_body(), MAX_FRAMEWORK_TEXT).await.unwrap_or_default();
    let detail = match String::from_utf8(text.to_vec()) {
        Ok(text) if !text.is_empty() => text,
        _ => status.canonical_reason().unwrap_or("this cannot be served").to_owned(),
    };
    let mut problem = Problem::new(status, detail).into_response();
    if let Some(allow) = allow {
        problem.headers_mut().insert(header::ALLOW, allow);
    }
    problem
}

/// Reads a JSON body. What is no JSON is malformed; what is JSON and not what is asked for here cannot be used.
pub(crate) fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let status = if error.is_data() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::BAD_REQUEST };
        Problem::new(status, error.to_string())
    })
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
            | SandboxError::Start(_)
            | SandboxError::Driver(DriverError::CannotPause(_) | DriverError::ChangeFailed { .. }) => {
                StatusCode::CONFLICT
            }
            SandboxError::Spec(_)
            | SandboxError::NoDriver(_)
            | SandboxError::Driver(
                DriverError::Spec(_)
                | DriverError::Image { .. }
                | DriverError::Runtime { .. }
                | DriverError::Kernel(_)
                | DriverError::Adopt { .. },
            ) => StatusCode::UNPROCESSABLE_ENTITY,
            SandboxError::Driver(DriverError::Busy(_) | DriverError::NoEngine { .. }) => {
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

impl From<ApiKeyError> for Problem {
    fn from(error: ApiKeyError) -> Problem {
        let status = match &error {
            ApiKeyError::NoKey => StatusCode::NOT_FOUND,
            ApiKeyError::Exists(_) => StatusCode::CONFLICT,
            ApiKeyError::Ttl => StatusCode::UNPROCESSABLE_ENTITY,
            ApiKeyError::Random(_) | ApiKeyError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem::new(status, error.to_string())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl From<SessionError> for Problem {
    fn from(error: SessionError) -> Problem {
        let status = match &error {
            SessionError::Denied(_) => StatusCode::FORBIDDEN,
            SessionError::Sandbox(_) => StatusCode::CONFLICT,
            SessionError::Guest(GuestError::Refused { .. }) => StatusCode::UNPROCESSABLE_ENTITY,
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
