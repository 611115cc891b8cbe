//! The HTTP listener on TCP: a health check, numbers for operators, and a page that says what this is.
//!
//! It asks nobody who they are, so a stranger may cost it little: connections are counted, and each has its deadlines.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use sandgate_gateway::tcp;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Connections at once. More wait in the kernel: the descriptors are needed for SSH.
const MAX_CONNECTIONS: usize = 128;
/// For the head of a request, from the moment that the connection is made or the answer before it was sent.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// For a whole connection: one that does not read its answers ends as well.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(60);
/// For answers that are under way when the gateway ends.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Pause after a failed accept (out of descriptors, mostly), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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

    /// Serves until `stop` resolves. To be called when the gateway is ready: from then on `/healthz` says so. `metrics` makes the page
    /// `/metrics`, in Prometheus' text format.
    ///
    /// # Errors
    /// None that can be foreseen.
    pub async fn serve(
        self,
        metrics: impl Fn() -> String + Clone + Send + Sync + 'static,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let metrics =
            async move || ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics());
        let router = Router::new()
            .route("/healthz", get(healthz))
            .route("/metrics", get(metrics))
            .route("/", get(index))
            .fallback(nothing);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        // Bounded by the places.
        let mut connections = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = tokio::select! {
                accepted = accept(&self.listener, &places) => accepted,
                Some(_) = connections.join_next() => continue,
                () = &mut stop => break,
            };
            match accepted {
                Ok((stream, place)) => {
                    let router = router.clone();
                    connections.spawn(async move {
                        answer(stream, router).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the HTTP listener could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        let rest = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_ANSWERS, rest).await.is_err() {
            tracing::debug!("connections to the HTTP listener were cut off");
        }
        Ok(())
    }
}

/// The next connection, once there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    if let Err(error) = tcp::tune(&stream) {
        tracing::debug!(%error, "socket options not set");
    }
    Ok((stream, place))
}

/// Answers what is asked on one connection.
async fn answer(stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(CONNECTION_DEADLINE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to the HTTP listener failed"),
        Err(_) => tracing::debug!("a connection to the HTTP listener was open for too long"),
    }
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn index() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
        "This is sandgate, an SSH front door for sandboxes. Connect with ssh; this port answers /healthz and /metrics.\n",
    )
}

async fn nothing() -> impl IntoResponse {
    (StatusCode::NOT_FOUND, "There is nothing here.\n")
}
