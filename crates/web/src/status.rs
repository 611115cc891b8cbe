//! `GET /api/v1/status`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use sandgate_gateway::Gateway;

use crate::api::Status;
use crate::problem::Problem;
use crate::schema::Refusals;

/// What the gateway is and where it is reached.
#[utoipa::path(
    get, path = "/status", tag = "gateway",
    responses((status = 200, body = Status), Refusals)
)]
pub(crate) async fn show(State(gateway): State<Arc<Gateway>>) -> Result<Json<Status>, Problem> {
    let (ssh_host, ssh_port) = gateway.advertised();
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started_at: gateway.started_at,
        ssh_listen: gateway.ssh_address().to_string(),
        ssh_host,
        ssh_port,
        host_keys: host_key_lines(&gateway)?,
        connections: gateway.registry.connection_count(),
        sessions: gateway.registry.list().len(),
    }))
}

/// The public host keys as lines `type base64`, without comments.
pub(crate) fn host_key_lines(gateway: &Gateway) -> Result<Vec<String>, Problem> {
    let lines = gateway.host_keys.iter().map(|key| {
        let line = key
            .public_line()
            .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        Ok(line.split(' ').take(2).collect::<Vec<_>>().join(" "))
    });
    lines.collect()
}
