//! `/api/v1/tokens`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use sandgate_gateway::Gateway;
use sandgate_gateway::tokens::NewToken;
use sandgate_store::TokenLookup;
use time::{Duration, OffsetDateTime};

use crate::api::{CreateToken, Ended, TokenCreated, TokenView};
use crate::problem::{Problem, parse};
use crate::schema::Refusals;

/// Makes a token. The answer is the only time that it is shown.
#[utoipa::path(
    post, path = "/tokens", tag = "tokens",
    request_body = CreateToken,
    responses((status = 201, body = TokenCreated), Refusals)
)]
pub(crate) async fn create(
    State(gateway): State<Arc<Gateway>>,
    body: Bytes,
) -> Result<(StatusCode, Json<TokenCreated>), Problem> {
    let asked: CreateToken = parse(&body)?;
    let ttl = asked.ttl_seconds.map(|seconds| Duration::seconds(i64::try_from(seconds).unwrap_or(i64::MAX)));
    let created = gateway
        .tokens
        .create(NewToken {
            sandbox: asked.sandbox,
            ttl,
            scopes: asked.scopes,
            files: asked.files,
            forward: asked.forward,
            record: asked.record,
            label: asked.label,
            sources: asked.sources,
        })
        .await?;
    let (host, port) = gateway.advertised();
    let token = created.token.reveal().to_owned();
    let answer = TokenCreated {
        id: created.row.id,
        ssh_command: format!("ssh -p {port} {token}@{host}"),
        token,
        expires_at: created.row.expires_at,
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

/// Every token, newest first.
#[utoipa::path(
    get, path = "/tokens", tag = "tokens",
    responses((status = 200, body = Vec<TokenView>), Refusals)
)]
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>) -> Result<Json<Vec<TokenView>>, Problem> {
    let now = OffsetDateTime::now_utc();
    Ok(Json(gateway.tokens.list().await?.into_iter().map(|found| view(found, now)).collect()))
}

/// Revokes a token and ends what rests on it.
#[utoipa::path(
    delete, path = "/tokens/{id}", tag = "tokens",
    params(("id" = String, Path)),
    responses((status = 200, body = Ended), Refusals)
)]
pub(crate) async fn revoke(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
) -> Result<Json<Ended>, Problem> {
    Ok(Json(Ended { connections: gateway.tokens.revoke(&id).await? }))
}

fn view(found: TokenLookup, now: OffsetDateTime) -> TokenView {
    let token = found.token;
    let state = match token.revoked_at {
        Some(_) => "revoked",
        None if token.expires_at <= now => "expired",
        None => "active",
    };
    TokenView {
        state: state.to_owned(),
        sandbox: found.sandbox_name.unwrap_or(token.sandbox_id),
        id: token.id,
        prefix: token.prefix,
        label: token.label,
        scopes: token.scopes,
        sources: token.sources,
        files: token.files,
        forward: token.forward,
        record: token.record,
        created_at: token.created_at,
        expires_at: token.expires_at,
        revoked_at: token.revoked_at,
        last_used_at: token.last_used_at,
    }
}
