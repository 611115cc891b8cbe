//! `/api/v1/keys`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use sandgate_gateway::Gateway;
use sandgate_store::{KeyRow, KeySandboxes};

use crate::api::{AddKey, Ended, KeyView};
use crate::problem::{Problem, parse};
use crate::schema::Refusals;

/// Adds a public key, or an authority of certificates.
#[utoipa::path(
    post, path = "/keys", tag = "keys",
    request_body = AddKey,
    responses((status = 201, body = KeyView), Refusals)
)]
pub(crate) async fn add(
    State(gateway): State<Arc<Gateway>>,
    body: Bytes,
) -> Result<(StatusCode, Json<KeyView>), Problem> {
    let asked: AddKey = parse(&body)?;
    let row = gateway.keys.add(asked.name, &asked.public_key, &asked.sandboxes, asked.cert_authority).await?;
    Ok((StatusCode::CREATED, Json(view(&gateway, row))))
}

/// Every public key, by name.
#[utoipa::path(
    get, path = "/keys", tag = "keys",
    responses((status = 200, body = Vec<KeyView>), Refusals)
)]
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>) -> Result<Json<Vec<KeyView>>, Problem> {
    Ok(Json(gateway.keys.list().await?.into_iter().map(|row| view(&gateway, row)).collect()))
}

/// Removes a public key and ends what rests on it.
#[utoipa::path(
    delete, path = "/keys/{name}", tag = "keys",
    params(("name" = String, Path)),
    responses((status = 200, body = Ended), Refusals)
)]
pub(crate) async fn remove(
    State(gateway): State<Arc<Gateway>>,
    Path(name): Path<String>,
) -> Result<Json<Ended>, Problem> {
    Ok(Json(Ended { connections: gateway.keys.remove(&name).await? }))
}

fn view(gateway: &Gateway, row: KeyRow) -> KeyView {
    let sandboxes = match row.sandboxes {
        KeySandboxes::Every => None,
        KeySandboxes::Only(ids) => {
            Some(ids.into_iter().map(|id| gateway.sandboxes.name_of(&id).unwrap_or(id)).collect())
        }
    };
    KeyView {
        id: row.id,
        name: row.name,
        fingerprint: row.fingerprint,
        public_key: row.public_key,
        sandboxes,
        cert_authority: row.authority,
        created_at: row.created_at,
        last_used_at: row.last_used_at,
    }
}
