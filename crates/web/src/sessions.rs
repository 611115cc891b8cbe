//! `/api/v1/sessions`: the live ones.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use sandgate_gateway::Gateway;
use sandgate_gateway::session::{EndReason, SessionInfo};
use sandgate_gateway::terminal::{Grant, TerminalError};

use crate::api::SessionView;
use crate::caller::Caller;
use crate::problem::Problem;
use crate::schema::Refusals;
use crate::terminal::{Ask, Issued, asked, give, purpose};

/// Every live session.
#[utoipa::path(
    get, path = "/sessions", tag = "sessions",
    responses((status = 200, body = Vec<SessionView>), Refusals)
)]
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>) -> Json<Vec<SessionView>> {
    let terminals: HashMap<String, String> = gateway
        .terminals
        .list()
        .into_iter()
        .filter_map(|terminal| Some((terminal.session?, terminal.id)))
        .collect();
    let sessions = gateway.registry.list().into_iter();
    Json(sessions.map(|info| view(terminals.get(&info.id).cloned(), info)).collect())
}

/// Ends a session.
#[utoipa::path(
    delete, path = "/sessions/{id}", tag = "sessions",
    params(("id" = String, Path)),
    responses((status = 204), Refusals)
)]
pub(crate) async fn kill(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    if !gateway.registry.kill(&id, EndReason::new("The session was ended by the owner of the sandbox.")) {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "there is no live session with that id; `sandgate session ls` lists them",
        ));
    }
    gateway.audit.owner_did("session.kill", None, id).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a ticket to watch a session that has a terminal.
#[utoipa::path(
    post, path = "/sessions/{id}/tickets", tag = "sessions",
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
    let session = gateway.registry.get(&id).ok_or(TerminalError::NoSession)?;
    let target = gateway.terminals.watchable(&session)?;
    let principal = caller.principal(&gateway, session.sandbox)?;
    // Who watches whom.
    let (what, kind) = (purpose(mode), session.kind.as_str());
    let detail = format!("{id}, {what} the {kind} of {}", session.credential);
    give(&gateway, Grant { target, mode, principal }, "session.ticket", detail).await
}

fn view(terminal: Option<String>, info: SessionInfo) -> SessionView {
    SessionView {
        id: info.id,
        sandbox: info.sandbox,
        kind: info.kind.as_str().to_owned(),
        pty: info.pty,
        credential: info.credential,
        client: info.client.map(|client| client.to_string()),
        started_at: info.started_at,
        bytes_in: info.bytes_in,
        bytes_out: info.bytes_out,
        recording: info.recording,
        terminal,
    }
}
