//! What operators and their programs ask for: whether the gateway lives, whether it takes connections, and its numbers.
//!
//! Nobody is asked who they are. It is served on a listener of its own (`[operations] listen`), or, where there is none, beside the API.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use sandgate_gateway::Gateway;

use crate::server::Bound;

/// A bound listener for operations.
pub struct Operations(Bound);

impl Operations {
    /// Binds `address`; port 0 takes any.
    ///
    /// # Errors
    /// The address is in use or not ours.
    pub async fn bind(address: SocketAddr) -> io::Result<Operations> {
        Bound::new(address).await.map(Operations)
    }

    /// The bound address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Serves until `stop` resolves. To be called when the gateway is ready.
    pub async fn serve(self, gateway: Arc<Gateway>, stop: impl Future<Output = ()>) {
        self.0.serve(routes().fallback(nothing).with_state(gateway), None, stop).await;
    }
}

/// The pages.
pub(crate) fn routes() -> Router<Arc<Gateway>> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
}

async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether new connections are taken and the database answers.
async fn readyz(State(gateway): State<Arc<Gateway>>) -> (StatusCode, &'static str) {
    if gateway.drainer.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the gateway is shutting down\n");
    }
    match gateway.store.api_key("").await {
        Ok(_) => (StatusCode::OK, "ok\n"),
        Err(error) => {
            tracing::warn!(%error, "not ready: the database does not answer");
            (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n")
        }
    }
}

/// In Prometheus' text format.
async fn metrics(State(gateway): State<Arc<Gateway>>) -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, sandgate_gateway::metrics::render(&gateway))
}

async fn nothing() -> impl IntoResponse {
    (StatusCode::NOT_FOUND, "There is nothing here.\n")
}
