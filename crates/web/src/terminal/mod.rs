//! Terminals for browsers: requests that make, list and end them, and the WebSocket that a page attaches by.

mod protocol;
mod socket;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Path, State};
use axum::http::{Extensions, HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Json, Router};
use sandgate_gateway::Gateway;
use sandgate_gateway::session::{EndReason, Peer};
use sandgate_gateway::terminal::{
    Grant, Mode, NewTerminal, TICKET_LIFE, Target, TerminalError, TerminalInfo, Ticket,
};
use sandgate_guest::WindowSize;
use sandgate_policy::Role;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::caller::{Caller, Via};
use crate::origin::origin_allowed;
use crate::places::Newcomers;
use crate::problem::{Problem, parse};
use crate::schema::Refusals;
use crate::websocket;
use protocol::ModeName;

/// The protocol that a page must ask for.
const PROTOCOL: &str = "sandgate.terminal.v1";
/// Largest message of a client, in bytes.
const MAX_MESSAGE: usize = 64 * 1024;
/// WebSockets that have not shown a ticket yet. With one more the oldest is closed.
const MAX_NEWCOMERS: usize = 256;
/// Those of one source; a further one is refused. A page opens one, and shows its ticket at once.
const MAX_NEWCOMERS_BY_SOURCE: usize = 32;

/// The WebSocket. It needs no key: whoever attaches shows a ticket.
pub(crate) fn socket() -> Router<Arc<Gateway>> {
    let newcomers = Newcomers::new(MAX_NEWCOMERS, MAX_NEWCOMERS_BY_SOURCE);
    Router::new().route("/terminal", get(attach)).layer(Extension(newcomers))
}

/// `POST /api/v1/sandboxes/{name}/terminals`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Create {
    /// Columns; cut to 1 to 1000.
    #[schema(value_type = u64, maximum = 4_294_967_295_u64)]
    cols: u32,
    /// Rows; likewise, and to 150,000 cells in all.
    #[schema(value_type = u64, maximum = 4_294_967_295_u64)]
    rows: u32,
    /// Width in pixels; 0 where nobody knows.
    #[schema(value_type = u64, maximum = 4_294_967_295_u64)]
    xpixel: u32,
    /// Height in pixels.
    #[schema(value_type = u64, maximum = 4_294_967_295_u64)]
    ypixel: u32,
    /// User inside; the sandbox's own if not said.
    user: Option<String>,
}

impl Default for Create {
    fn default() -> Create {
        Create { cols: 80, rows: 24, xpixel: 0, ypixel: 0, user: None }
    }
}

/// The answer. No `Debug`, since the ticket is a secret.
#[derive(Serialize, ToSchema)]
pub(crate) struct Created {
    terminal: String,
    ticket: String,
    /// In seconds.
    expires_in: u64,
}

/// `POST /terminals/{id}/tickets` and `/sessions/{id}/tickets`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ask {
    #[schema(value_type = crate::schema::ModeName)]
    mode: ModeName,
}

/// The answer. No `Debug`, since the ticket is a secret.
#[derive(Serialize, ToSchema)]
pub(crate) struct Issued {
    ticket: String,
    /// In seconds.
    expires_in: u64,
}

/// A terminal in the list.
#[derive(Serialize, ToSchema)]
pub(crate) struct TerminalView {
    id: String,
    sandbox: String,
    session: Option<String>,
    attached: bool,
    watchers: usize,
    cols: u32,
    rows: u32,
    #[serde(with = "time::serde::rfc3339")]
    started_at: OffsetDateTime,
}

/// Makes a terminal: a shell that starts when the ticket is used, and outlives the page.
#[utoipa::path(
    post, path = "/sandboxes/{name}/terminals", tag = "terminals",
    params(("name" = String, Path)),
    request_body = Create,
    responses((status = 201, body = Created), Refusals)
)]
pub(crate) async fn create(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<(StatusCode, Json<Created>), Problem> {
    let Create { cols, rows, xpixel, ypixel, user } = parse(&body)?;
    let principal = caller.principal(&gateway, name)?;
    let sandbox_id = principal.sandbox_id.clone();
    let new = NewTerminal {
        principal,
        size: WindowSize { cols, rows, xpixel, ypixel },
        user: user.map(String::into_bytes),
    };
    let (terminal, ticket) = gateway.terminals.create(&gateway, new)?;
    gateway.audit.owner_did("terminal.create", Some(&sandbox_id), terminal.clone()).await;
    let Issued { ticket, expires_in } = issued(&ticket);
    Ok((StatusCode::CREATED, Json(Created { terminal, ticket, expires_in })))
}

/// Gives a ticket for a terminal: to come back to it, or to watch.
#[utoipa::path(
    post, path = "/terminals/{id}/tickets", tag = "terminals",
    params(("id" = String, Path)),
    request_body = Ask,
    responses((status = 201, body = Issued), Refusals)
)]
pub(crate) async fn ticket(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<(StatusCode, Json<Issued>), Problem> {
    let mode = asked(&caller, &body)?;
    let info = gateway.terminals.get(&id).ok_or(TerminalError::NotFound)?;
    let principal = caller.principal(&gateway, info.sandbox)?;
    let detail = format!("{id}, {}", purpose(mode));
    give(&gateway, Grant { target: Target::Terminal(id), mode, principal }, "terminal.ticket", detail).await
}

/// What a caller asks for, who may have it.
pub(crate) fn asked(caller: &Caller, body: &Bytes) -> Result<Mode, Problem> {
    let Ask { mode } = parse(body)?;
    let mode = Mode::from(mode);
    caller.needs(match mode {
        Mode::Write => Role::User,
        Mode::Watch => Role::Viewer,
    })?;
    Ok(mode)
}

/// Gives a ticket, and writes down that it did.
pub(crate) async fn give(
    gateway: &Gateway,
    grant: Grant,
    action: &'static str,
    detail: String,
) -> Result<(StatusCode, Json<Issued>), Problem> {
    let sandbox_id = grant.principal.sandbox_id.clone();
    let ticket = gateway.terminals.ticket(grant)?;
    gateway.audit.owner_did(action, Some(&sandbox_id), detail).await;
    Ok((StatusCode::CREATED, Json(issued(&ticket))))
}

/// For the audit trail.
pub(crate) fn purpose(mode: Mode) -> &'static str {
    match mode {
        Mode::Write => "to write",
        Mode::Watch => "to watch",
    }
}

fn issued(ticket: &Ticket) -> Issued {
    Issued { ticket: ticket.reveal().to_owned(), expires_in: TICKET_LIFE.as_secs() }
}

/// Every terminal.
#[utoipa::path(
    get, path = "/terminals", tag = "terminals",
    responses((status = 200, body = Vec<TerminalView>), Refusals)
)]
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>) -> Json<Vec<TerminalView>> {
    Json(gateway.terminals.list().into_iter().map(view).collect())
}

/// Ends a terminal and its shell.
#[utoipa::path(
    delete, path = "/terminals/{id}", tag = "terminals",
    params(("id" = String, Path)),
    responses((status = 204), Refusals)
)]
pub(crate) async fn end(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let sandbox_id = gateway.terminals.get(&id).and_then(|info| gateway.sandboxes.id_of(&info.sandbox));
    let reason = EndReason::new(format!("The terminal was ended by {}.", caller.credential));
    if !gateway.terminals.end(&id, reason).await {
        return Err(TerminalError::NotFound.into());
    }
    gateway.audit.owner_did("terminal.end", sandbox_id.as_deref(), id).await;
    Ok(StatusCode::NO_CONTENT)
}

async fn attach(
    State(gateway): State<Arc<Gateway>>,
    Extension(newcomers): Extension<Newcomers>,
    headers: HeaderMap,
    extensions: Extensions,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let via = extensions.get::<Caller>().map(|caller| caller.via);
    if via != Some(Via::ControlSocket) && !origin_allowed(&headers, &gateway.config.http) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "this page may not attach to terminals here"));
    }
    let upgrade = websocket::accept(upgrade, PROTOCOL, MAX_MESSAGE)?;
    let peer = extensions.get::<Peer>().copied();
    let Some(place) = newcomers.enter(peer.map(|peer| peer.client.ip())) else {
        let text = "too many connections from your address that have not shown a ticket";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, text));
    };
    Ok(upgrade.on_upgrade(move |socket| socket::serve(gateway, socket, peer, place)))
}

fn view(info: TerminalInfo) -> TerminalView {
    let TerminalInfo { id, sandbox, session, attached, watchers, cols, rows, started_at } = info;
    TerminalView { id, sandbox, session, attached, watchers, cols, rows, started_at }
}

impl From<TerminalError> for Problem {
    fn from(error: TerminalError) -> Problem {
        let status = match &error {
            TerminalError::TooMany
            | TerminalError::TooManyWatched
            | TerminalError::TooManyWatchedByOne
            | TerminalError::Draining
            | TerminalError::Busy => StatusCode::SERVICE_UNAVAILABLE,
            TerminalError::Ended(_) | TerminalError::Ticket => StatusCode::FORBIDDEN,
            TerminalError::NotFound | TerminalError::NoSession => StatusCode::NOT_FOUND,
            TerminalError::NoScreen | TerminalError::OnlyWatched => StatusCode::UNPROCESSABLE_ENTITY,
            TerminalError::NoTicket(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem::new(status, error.to_string())
    }
}
