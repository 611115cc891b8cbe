//! `/api/v1/api-keys`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use sandgate_gateway::Gateway;
use sandgate_gateway::api_keys::NewApiKey;
use sandgate_store::ApiKeyRow;
use time::{Duration, OffsetDateTime};

use crate::api::{ApiKeyCreated, ApiKeyView, CreateApiKey, Ended};
use crate::problem::{Problem, parse};
use crate::schema::Refusals;

/// Makes an API key. The answer is the only time that it is shown.
#[utoipa::path(
    post, path = "/api-keys", tag = "api keys",
    request_body = CreateApiKey,
    responses((status = 201, body = ApiKeyCreated), Refusals)
)]
pub(crate) async fn create(
    State(gateway): State<Arc<Gateway>>,
    body: Bytes,
) -> Result<(StatusCode, Json<ApiKeyCreated>), Problem> {
    let asked: CreateApiKey = parse(&body)?;
    let ttl = asked.ttl_seconds.map(|seconds| Duration::seconds(i64::try_from(seconds).unwrap_or(i64::MAX)));
    let created = gateway.api_keys.create(NewApiKey { name: asked.name, role: asked.role, ttl }).await?;
    let answer = ApiKeyCreated {
        id: created.row.id,
        key: created.key.reveal().to_owned(),
        expires_at: created.row.expires_at,
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

/// Every API key, newest first.
#[utoipa::path(
    get, path = "/api-keys", tag = "api keys",
    responses((status = 200, body = Vec<ApiKeyView>), Refusals)
)]
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>) -> Result<Json<Vec<ApiKeyView>>, Problem> {
    let now = OffsetDateTime::now_utc();
    Ok(Json(gateway.api_keys.list().await?.into_iter().map(|row| view(row, now)).collect()))
}

/// Revokes an API key and ends the terminals and logins that rest on it.
#[utoipa::path(
    delete, path = "/api-keys/{id}", tag = "api keys",
    params(("id" = String, Path)),
    responses((status = 200, body = Ended), Refusals)
)]
pub(crate) async fn revoke(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
) -> Result<Json<Ended>, Problem> {
    Ok(Json(Ended { connections: gateway.api_keys.revoke(&id).await? }))
}

fn view(row: ApiKeyRow, now: OffsetDateTime) -> ApiKeyView {
    let state = match (row.revoked_at, row.expires_at) {
        (Some(_), _) => "revoked",
        (None, Some(end)) if end <= now => "expired",
        _ => "active",
    };
    ApiKeyView {
        id: row.id,
        prefix: row.prefix,
        name: row.name,
        role: row.role,
        state: state.to_owned(),
        created_at: row.created_at,
        expires_at: row.expires_at,
        revoked_at: row.revoked_at,
        last_used_at: row.last_used_at,
    }
}
