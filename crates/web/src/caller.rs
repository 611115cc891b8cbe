//! Who is behind a request, and what they may do.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use sandgate_gateway::Gateway;
use sandgate_gateway::api_keys::{Caller as Known, NotKnown};
use sandgate_gateway::audit::{Actor, acting_as};
use sandgate_gateway::limits::Offence;
use sandgate_gateway::metrics::HttpLogin;
use sandgate_policy::{
    Credential, FileAccess, ForwardAccess, ForwardRules, Principal, Role, Scopes, SessionAccess,
};
use time::OffsetDateTime;

use crate::origin::origin_allowed;
use crate::problem::Problem;

/// The cookie of a browser that is logged in.
pub(crate) const COOKIE: &str = "sandgate_session";

/// How a caller came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// By the socket in the data directory: the owner.
    ControlSocket,
    /// By an API key with the request.
    Key,
    /// By a browser's cookie.
    Cookie,
}

/// Somebody whose request is served.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// What proved the right. Never a secret.
    pub(crate) credential: Credential,
    /// What they may do.
    pub(crate) role: Role,
    /// When the right ends.
    pub(crate) expires_at: Option<OffsetDateTime>,
    /// How they came in.
    pub(crate) via: Via,
    /// From where; `None` on the control socket.
    pub(crate) client: Option<SocketAddr>,
}

impl Caller {
    /// Whoever gets through to the control socket.
    pub(crate) fn owner() -> Caller {
        Caller {
            credential: Credential::Local,
            role: Role::Admin,
            expires_at: None,
            via: Via::ControlSocket,
            client: None,
        }
    }

    fn known(known: Known, via: Via, client: SocketAddr) -> Caller {
        Caller {
            credential: known.credential,
            role: known.role,
            expires_at: known.expires_at,
            via,
            client: Some(client),
        }
    }

    fn actor(&self) -> Actor {
        Actor { name: self.credential.to_string(), client: self.client }
    }

    /// Refuses those who have less than `least`.
    pub(crate) fn needs(&self, least: Role) -> Result<(), Problem> {
        if self.role >= least {
            return Ok(());
        }
        let detail = format!("this needs the role {least}; yours is {}", self.role);
        Err(Problem::new(StatusCode::FORBIDDEN, detail))
    }

    /// The caller as somebody who comes into a sandbox.
    pub(crate) fn principal(&self, gateway: &Gateway, sandbox: String) -> Result<Principal, Problem> {
        let Some(sandbox_id) = gateway.sandboxes.id_of(&sandbox) else {
            return Err(Problem::new(
                StatusCode::NOT_FOUND,
                format!("there is no sandbox \"{}\"", sandbox.escape_debug()),
            ));
        };
        let sandbox_rules = gateway.sandboxes.forward_rules(&sandbox_id);
        Ok(Principal {
            sandbox_id,
            sandbox_name: sandbox,
            credential: self.credential.clone(),
            scopes: Scopes::all(),
            expires_at: self.expires_at,
            login_user: None,
            files: FileAccess::default(),
            forward: ForwardAccess { credential: ForwardRules::default(), sandbox: sandbox_rules },
            session: SessionAccess::default(),
        })
    }
}

/// Serves a request of the control socket: it is the owner's.
pub(crate) async fn as_owner(mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Caller::owner());
    next.run(request).await
}

/// Finds out who is behind a request that came by TCP, and answers it if that is nobody.
pub(crate) async fn identify(
    State(gateway): State<Arc<Gateway>>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let caller = known(&gateway, request.headers(), client).await?;
    // A page elsewhere can make a browser send our cookie; it cannot make it hide where the request comes from.
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    if caller.via == Via::Cookie && changes && !origin_allowed(request.headers(), &gateway.config.http) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "this request comes from a page of another origin"));
    }
    let actor = caller.actor();
    request.extensions_mut().insert(caller);
    Ok(acting_as(actor, next.run(request)).await)
}

/// Who sent these headers.
pub(crate) async fn known(
    gateway: &Gateway,
    headers: &HeaderMap,
    client: SocketAddr,
) -> Result<Caller, Problem> {
    let (known, via) = if let Some(key) = bearer(headers) {
        (gateway.api_keys.by_key(key).await, Via::Key)
    } else if let Some(cookie) = cookie(headers) {
        (gateway.api_keys.by_cookie(cookie).await, Via::Cookie)
    } else {
        return Err(Problem::unauthorized("this needs an API key: Authorization: Bearer sgk_…"));
    };
    known.map(|known| Caller::known(known, via, client)).map_err(|reason| refused(gateway, client, &reason))
}

/// The answer to somebody who is not known. An unknown key counts against its source, as a login by SSH does; a source that has failed too often
/// is told to wait.
///
/// It comes after the look at what was presented, which is always served when it is right: behind a proxy all callers have one address, and
/// one of them must not lock the others out. Nothing is lost by it, since a key has 160 random bits and is not found by guessing.
pub(crate) fn refused(gateway: &Gateway, client: SocketAddr, reason: &NotKnown) -> Problem {
    gateway.metrics.doors.http_login(HttpLogin::Refused);
    match reason {
        NotKnown::Unknown | NotKnown::UsedCode => {
            if gateway.config.limits.source_penalties {
                let now = std::time::Instant::now();
                if let Some(left) = gateway.penalties.refused_for(client.ip(), now) {
                    let seconds = left.as_secs() + 1;
                    let text = format!("too many failed logins from your address; come back in {seconds} s");
                    return Problem::new(StatusCode::TOO_MANY_REQUESTS, text);
                }
                gateway.penalties.charge(client.ip(), Offence::AuthenticationFailed, now);
            }
            tracing::info!(%client, %reason, "a login to the API was refused");
            Problem::unauthorized(reason.to_string())
        }
        NotKnown::Ended(_) | NotKnown::LoginOver => Problem::unauthorized(reason.to_string()),
        NotKnown::NotNow => Problem::new(StatusCode::SERVICE_UNAVAILABLE, reason.to_string()),
    }
}

/// Lets a request pass whose caller has at least `least`.
pub(crate) async fn require(
    State(least): State<Role>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    caller.needs(least)?;
    Ok(next.run(request).await)
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

/// The value of our cookie (RFC 6265 §5.4).
pub(crate) fn cookie(headers: &HeaderMap) -> Option<&[u8]> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
        .find_map(|pair| pair.trim_ascii().strip_prefix(COOKIE.as_bytes())?.strip_prefix(b"="))
}

/// The header that gives a browser its cookie, or with an empty value takes it away.
pub(crate) fn set_cookie(value: &str, life: time::Duration, https: bool) -> Option<HeaderValue> {
    let secure = if https { "; Secure" } else { "" };
    let text = format!(
        "{COOKIE}={value}; Path=/; Max-Age={}; HttpOnly; SameSite=Strict{secure}",
        life.whole_seconds()
    );
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, value.parse().expect("a value"));
        }
        headers
    }

    #[test]
    fn a_key_is_taken_from_its_header_alone() {
        let of = |value| bearer(&headers(header::AUTHORIZATION, &[value])).map(<[u8]>::to_vec);
        assert_eq!(of("Bearer sgk_x"), Some(b"sgk_x".to_vec()));
        assert_eq!(of("bearer  sgk_x "), Some(b"sgk_x".to_vec()));
        for other in ["Basic sgk_x", "Bearer", "sgk_x", ""] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn our_cookie_is_found_among_others() {
        let of = |values: &[&str]| cookie(&headers(header::COOKIE, values)).map(<[u8]>::to_vec);
        assert_eq!(of(&["a=b; sandgate_session=x; c=d"]), Some(b"x".to_vec()));
        assert_eq!(of(&["a=b", "sandgate_session=y"]), Some(b"y".to_vec()));
        assert_eq!(of(&["sandgate_sessions=x", "xsandgate_session=y"]), None);
    }

    #[test]
    fn the_cookie_is_out_of_reach_of_scripts_and_other_sites() {
        let value = set_cookie("v", time::Duration::HOUR, true).expect("a value");
        let text = value.to_str().expect("text");
        for part in ["HttpOnly", "SameSite=Strict", "Secure", "Max-Age=3600"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!format!("{value:?}").contains("=v;"), "it does not show in Debug");
    }
}
