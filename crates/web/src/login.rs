//! Logging a browser in and out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{ConnectInfo, Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use sandgate_gateway::Gateway;
use sandgate_gateway::api_keys::LOGIN_LIFE;
use sandgate_gateway::metrics::HttpLogin;

use crate::api::{LoginLink, LoginRequest, WhoAmI};
use crate::caller::{self, Caller, Via};
use crate::origin::{is_by_https, origin_allowed};
use crate::problem::{Problem, parse};
use crate::schema::Refusals;

/// For the body of a login: whoever sends it is not known yet.
const BODY_DEADLINE: Duration = Duration::from_secs(10);
/// Longest such body, in bytes.
const MAX_BODY: usize = 4096;

/// Hands in an API key, or a login code, for a cookie.
#[utoipa::path(
    post, path = "/login", tag = "login", request_body = LoginRequest, security(()),
    responses(
        (status = 200, description = "Logged in; the cookie is set", body = WhoAmI),
        Refusals,
    )
)]
pub(crate) async fn login(
    State(gateway): State<Arc<Gateway>>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: axum::body::Body,
) -> Result<Response, Problem> {
    // A page elsewhere must not log a browser in as somebody else.
    if headers.contains_key(header::ORIGIN) && !origin_allowed(&headers, &gateway.config.http) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "this request comes from a page of another origin"));
    }
    let read = tokio::time::timeout(BODY_DEADLINE, axum::body::to_bytes(body, MAX_BODY)).await;
    let Ok(Ok(body)) = read else {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "the body is too long, or was not sent in time"));
    };
    let (way, logged_in) = match parse::<LoginRequest>(&body)? {
        LoginRequest { key: Some(key), code: None } => {
            (HttpLogin::Key, gateway.api_keys.login(key.as_bytes()).await)
        }
        LoginRequest { key: None, code: Some(code) } => {
            (HttpLogin::Link, gateway.api_keys.login_by_code(code.as_bytes()))
        }
        _ => {
            let text = "a login has either a key or a code";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text));
        }
    };
    let (cookie, known) = logged_in.map_err(|reason| caller::refused(&gateway, client, &reason))?;
    gateway.metrics.doors.http_login(way);
    tracing::info!(%client, caller = %known.credential, "a browser has logged in");
    let answer = WhoAmI { name: known.credential.to_string(), role: known.role };
    let https = is_by_https(&headers, &gateway.config.http);
    with_cookie(Json(answer).into_response(), cookie.reveal(), LOGIN_LIFE, https)
}

/// Ends the login that came with the request.
#[utoipa::path(
    post, path = "/logout", tag = "login",
    responses(
        (status = 204, description = "The cookie is of no use any more"),
        Refusals,
    )
)]
pub(crate) async fn logout(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if let Some(cookie) = caller::cookie(&headers) {
        gateway.api_keys.logout(cookie);
    }
    let https = is_by_https(&headers, &gateway.config.http);
    with_cookie(StatusCode::NO_CONTENT.into_response(), "", time::Duration::ZERO, https)
}

/// Who is asking.
#[utoipa::path(
    get, path = "/whoami", tag = "login",
    responses(
        (status = 200, body = WhoAmI),
        Refusals,
    )
)]
pub(crate) async fn whoami(Extension(caller): Extension<Caller>) -> Json<WhoAmI> {
    Json(WhoAmI { name: caller.credential.to_string(), role: caller.role })
}

/// Makes a code with which one browser can log in as the owner, once, within a quarter of an hour. Only by the control socket: such a login
/// does not end with any key, so whoever holds a key must not be able to make one of it.
#[utoipa::path(
    post, path = "/login-codes", tag = "login",
    responses(
        (status = 201, body = LoginLink),
        Refusals,
    )
)]
pub(crate) async fn code(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
) -> Result<(StatusCode, Json<LoginLink>), Problem> {
    if caller.via != Via::ControlSocket {
        let text = "login codes are made on the gateway's own machine, by `sandgate login-link`";
        return Err(Problem::new(StatusCode::FORBIDDEN, text));
    }
    let code = gateway
        .api_keys
        .login_code()
        .await
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let url = gateway.http_url().map(|base| format!("{base}/#login={}", code.reveal()));
    Ok((StatusCode::CREATED, Json(LoginLink { code: code.reveal().to_owned(), url })))
}

fn with_cookie(
    mut response: Response,
    value: &str,
    life: time::Duration,
    https: bool,
) -> Result<Response, Problem> {
    let Some(cookie) = caller::set_cookie(value, life, https) else {
        return Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the cookie cannot be written"));
    };
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(response)
}
