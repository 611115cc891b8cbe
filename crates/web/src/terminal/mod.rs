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
use axum::routing::{delete, get, post};
use axum::{Extension, Json, Router};
use sandgate_gateway::Gateway;
use sandgate_gateway::session::{EndReason, Peer};
use sandgate_gateway::terminal::{
    Grant, Mode, NewTerminal, TICKET_LIFE, TerminalError, TerminalInfo, Ticket, TicketError,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use crate::caller::{Caller, Role, Via};
use crate::origin::{AllowedOrigins, origin_allowed};
use crate::problem::{Problem, parse};
use protocol::ModeName;

/// The protocol that a page must ask for.
const PROTOCOL: &str = "sandgate.terminal.v1";
/// Largest message of a client, in bytes.
const MAX_MESSAGE: usize = 64 * 1024;
/// WebSockets that have not shown a ticket yet.
const MAX_NEWCOMERS: usize = 256;

/// The routes, below `/v1`. The caller is an extension of each request, but for the WebSocket, which has its ticket.
pub(crate) fn router() -> Router<Arc<Gateway>> {
    Router::new()
        .route("/sandboxes/{name}/terminals", post(create))
        .route("/terminals", get(list))
        .route("/terminals/{id}", delete(end))
        .route("/terminals/{id}/tickets", post(ticket))
        .route("/terminal", get(attach))
        .layer(Extension(Newcomers(Arc::new(Semaphore::new(MAX_NEWCOMERS)))))
}

/// Places for those who have not shown a ticket.
#[derive(Clone)]
struct Newcomers(Arc<Semaphore>);

/// `POST /sandboxes/{name}/terminals`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Create {
    cols: u32,
    rows: u32,
    xpixel: u32,
    ypixel: u32,
    user: Option<String>,
}

impl Default for Create {
    fn default() -> Create {
        Create { cols: 80, rows: 24, xpixel: 0, ypixel: 0, user: None }
    }
}

/// The answer. No `Debug`, since the ticket is a secret.
#[derive(Serialize)]
struct Created {
    terminal: String,
    ticket: String,
    /// In seconds.
    expires_in: u64,
}

/// `POST /terminals/{id}/tickets`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    mode: ModeName,
}

/// The answer. No `Debug`, since the ticket is a secret.
#[derive(Serialize)]
struct Issued {
    ticket: String,
    /// In seconds.
    expires_in: u64,
}

/// A terminal in the list.
#[derive(Serialize)]
struct TerminalView {
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

async fn create(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<(StatusCode, Json<Created>), Problem> {
    caller.needs(Role::User)?;
    let Create { cols, rows, xpixel, ypixel, user } = parse(&body)?;
    let new = NewTerminal {
        principal: caller.principal(&gateway, name)?,
        size: protocol::size(cols, rows, xpixel, ypixel),
        user: user.map(String::into_bytes),
    };
    let (terminal, ticket) = gateway.terminals.create(&gateway, new)?;
    let Issued { ticket, expires_in } = issued(&ticket);
    Ok((StatusCode::CREATED, Json(Created { terminal, ticket, expires_in })))
}

async fn ticket(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<(StatusCode, Json<Issued>), Problem> {
    let Ask { mode } = parse(&body)?;
    let mode = Mode::from(mode);
    caller.needs(match mode {
        Mode::Write => Role::User,
        Mode::Watch => Role::Viewer,
    })?;
    let info = gateway.terminals.get(&id).ok_or(TerminalError::NotFound)?;
    let principal = caller.principal(&gateway, info.sandbox)?;
    let ticket = gateway.terminals.ticket(Grant { terminal: id, mode, principal })?;
    Ok((StatusCode::CREATED, Json(issued(&ticket))))
}

fn issued(ticket: &Ticket) -> Issued {
    Issued { ticket: ticket.reveal().to_owned(), expires_in: TICKET_LIFE.as_secs() }
}

async fn list(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Vec<TerminalView>>, Problem> {
    caller.needs(Role::Viewer)?;
    Ok(Json(gateway.terminals.list().into_iter().map(view).collect()))
}

async fn end(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    caller.needs(Role::User)?;
    let reason = EndReason::new(format!("The terminal was ended by {}.", caller.name));
    if !gateway.terminals.end(&id, reason).await {
        return Err(TerminalError::NotFound.into());
    }
    tracing::info!(terminal = id, caller = caller.name, "terminal ended");
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
    let allowed = extensions.get::<AllowedOrigins>().cloned().unwrap_or_default();
    if via != Some(Via::ControlSocket) && !origin_allowed(&headers, &allowed.0) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "this page may not attach to terminals here"));
    }
    let upgrade = upgrade.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    let mut upgrade = upgrade.protocols([PROTOCOL]);
    if upgrade.selected_protocol().is_none() {
        let detail = format!("this needs the WebSocket protocol {PROTOCOL}");
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    let Ok(place) = newcomers.0.try_acquire_owned() else {
        let detail = "too many connections that have not shown a ticket";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
    };
    upgrade = upgrade.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE);
    let peer = extensions.get::<Peer>().copied();
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
            | TerminalError::Draining
            | TerminalError::Busy
            | TerminalError::NoTicket(TicketError::TooMany) => StatusCode::SERVICE_UNAVAILABLE,
            TerminalError::Ended(_) | TerminalError::Ticket => StatusCode::FORBIDDEN,
            TerminalError::NotFound => StatusCode::NOT_FOUND,
            TerminalError::NoTicket(TicketError::Random(_)) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem::new(status, error.to_string())
    }
}
