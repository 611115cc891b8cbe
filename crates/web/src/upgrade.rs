//! What requests have in common that turn their connection into a session.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use sandgate_gateway::Gateway;
use sandgate_policy::{
    Credential, FileAccess, ForwardAccess, ForwardRules, Principal, Scopes, SessionAccess,
};

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

/// Who is behind the control socket: the owner, who may do everything in this sandbox.
pub(crate) fn owner(gateway: &Gateway, sandbox: String) -> Result<Principal, Problem> {
    let Some(sandbox_id) = gateway.sandboxes.id_of(&sandbox) else {
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("there is no sandbox \"{sandbox}\"")));
    };
    let sandbox_rules = gateway.sandboxes.forward_rules(&sandbox_id);
    Ok(Principal {
        sandbox_id,
        sandbox_name: sandbox,
        credential: Credential::Local,
        scopes: Scopes::all(),
        expires_at: None,
        login_user: None,
        files: FileAccess::default(),
        forward: ForwardAccess { credential: ForwardRules::default(), sandbox: sandbox_rules },
        session: SessionAccess::default(),
    })
}
