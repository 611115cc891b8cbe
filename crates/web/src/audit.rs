//! `/api/v1/audit`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use sandgate_gateway::Gateway;
use sandgate_store::{AuditEntry, AuditQuery};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::api::{AuditPage, AuditView};
use crate::problem::Problem;
use crate::schema::Refusals;

/// Rows of a page, if nobody says.
const USUAL: u32 = 100;
/// Rows of a page at most.
const MOST: u32 = 1000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Rows at most.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Only rows with a lower number.
    before: Option<i64>,
    /// Only rows of the sandbox with this name or identifier.
    sandbox: Option<String>,
    /// Only rows whose action begins so.
    action: Option<String>,
}

/// The audit trail, newest first.
#[utoipa::path(
    get, path = "/audit", tag = "audit",
    params(Filter),
    responses((status = 200, body = AuditPage), Refusals)
)]
pub(crate) async fn list(
    State(gateway): State<Arc<Gateway>>,
    Query(filter): Query<Filter>,
) -> Result<Json<AuditPage>, Problem> {
    let limit = filter.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(Problem::new(
            axum::http::StatusCode::BAD_REQUEST,
            format!("the limit must be from 1 to {MOST}"),
        ));
    }
    let sandbox_id = filter.sandbox.map(|name| gateway.sandboxes.id_of(&name).unwrap_or(name));
    // What was done just now is to be seen now.
    gateway.store.flush().await;
    let query = AuditQuery { limit, before: filter.before, sandbox_id, action: filter.action };
    let entries: Vec<AuditView> =
        gateway.store.audit(&query).await?.into_iter().map(|entry| view(&gateway, entry)).collect();
    let whole = u32::try_from(entries.len()).is_ok_and(|count| count == limit);
    let next = if whole { entries.last().map(|last| last.id) } else { None };
    Ok(Json(AuditPage { entries, next }))
}

fn view(gateway: &Gateway, AuditEntry { seq, row }: AuditEntry) -> AuditView {
    AuditView {
        id: seq,
        at: row.at,
        action: row.action,
        sandbox: row.sandbox_id.map(|id| gateway.sandboxes.name_of(&id).unwrap_or(id)),
        actor: row.actor,
        client: row.client,
        detail: row.detail,
    }
}
