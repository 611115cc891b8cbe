//! The HTTP listener on TCP: a health check and a page that says what this is.

use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

/// A bound HTTP listener.
pub struct HealthServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl HealthServer {
    /// Binds `address`; port 0 takes any.
    ///
    /// # Errors
    /// The address is in use or not ours.
    pub async fn bind(address: SocketAddr) -> io::Result<HealthServer> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(HealthServer { listener, address })
    }

    /// The bound address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` resolves. To be called when the gateway is ready: from then on `/healthz` says so.
    ///
    /// # Errors
    /// None that can be foreseen; the type is axum's.
    pub async fn serve(self, stop: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        let router = Router::new().route("/healthz", get(healthz)).route("/", get(index)).fallback(nothing);
        axum::serve(self.listener, router).with_graceful_shutdown(stop).await
    }
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn index() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
        "This is sandgate, an SSH front door for sandboxes. Connect with ssh; this port answers /healthz.\n",
    )
}

async fn nothing() -> impl IntoResponse {
    (StatusCode::NOT_FOUND, "There is nothing here.\n")
}
