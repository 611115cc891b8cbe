//! What requests have in common that turn their connection into a session.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use crate::problem::Problem;

/// Whether the client asks for this protocol.
pub(crate) fn check(headers: &HeaderMap, protocol: &str) -> Result<(), Problem> {
    if headers.get(header::UPGRADE).is_some_and(|value| value == protocol) {
        return Ok(());
    }
    Err(Problem::new(StatusCode::UPGRADE_REQUIRED, format!("this needs an upgrade to {protocol}")))
}

/// The answer after which the protocol is spoken.
pub(crate) fn switching(protocol: &'static str) -> Response {
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(protocol));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response
}
