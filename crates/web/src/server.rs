//! Serving HTTP on TCP, with or without TLS, to whoever connects.
//!
//! A stranger may cost little: connections are counted, also by where they come from, and each has deadlines. None of them is on an answer as a whole: a sandbox may take
//! long to start, a recording long to be fetched.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use sandgate_gateway::session::Peer;
use sandgate_gateway::tcp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutWriter;

use crate::places::Sources;
use crate::tls::Tls;

/// Connections at once, besides WebSockets. More wait in the kernel: the descriptors are needed for SSH.
const MAX_CONNECTIONS: usize = 128;
/// Those of one source, so that no stranger can hold all places; a further one is closed at once. A browser makes six. This machine itself has no
/// such bound: a proxy on it brings everybody's.
const MAX_BY_SOURCE: usize = 32;
/// For a TLS handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// For the head of a request, from the moment that the connection is made or the answer before it was sent.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// For a client that takes nothing of what is sent to it. Longer than a browser in the background sleeps between two looks.
const WRITE_DEADLINE: Duration = Duration::from_secs(180);
/// For answers that are under way when the gateway ends.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Pause after a failed accept (out of descriptors, mostly), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound listener.
pub(crate) struct Bound {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl Bound {
    /// Binds `address`; port 0 takes any.
    pub(crate) async fn new(address: SocketAddr) -> io::Result<Bound> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Bound { listener, address })
    }

    /// Serves until `stop` resolves.
    pub(crate) async fn serve(self, router: Router, tls: Option<Tls>, stop: impl Future<Output = ()>) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let sources = Arc::<Sources>::default();
        // Bounded by the places.
        let mut connections = JoinSet::new();
        let mut stop = pin!(stop);
        loop {
            let accepted = tokio::select! {
                accepted = self.accept(&places) => accepted,
                Some(_) = connections.join_next() => continue,
                () = &mut stop => break,
            };
            match accepted {
                Ok((stream, peer, place)) => {
                    let Some(share) = sources.enter(peer.ip(), MAX_BY_SOURCE) else {
                        tracing::debug!(%peer, "too many connections to the HTTP listener from there");
                        continue;
                    };
                    let router = router.clone().layer(Extension(ConnectInfo(peer)));
                    let router = match stream.local_addr() {
                        Ok(server) => router.layer(Extension(Peer { client: peer, server })),
                        Err(_) => router,
                    };
                    let tls = tls.clone();
                    connections.spawn(async move {
                        match tls {
                            None => answer(stream, router).await,
                            Some(tls) => {
                                let handshake =
                                    tokio::time::timeout(HANDSHAKE_DEADLINE, tls.acceptor().accept(stream));
                                match handshake.await {
                                    Ok(Ok(stream)) => answer(stream, router).await,
                                    Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS"),
                                    Err(_) => tracing::debug!(%peer, "the TLS handshake took too long"),
                                }
                            }
                        }
                        drop((place, share));
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
    }

    /// The next connection, once there is a place for it.
    async fn accept(
        &self,
        places: &Arc<Semaphore>,
    ) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (stream, peer) = self.listener.accept().await?;
        if let Err(error) = tcp::tune(&stream) {
            tracing::debug!(%error, "socket options not set");
        }
        Ok((stream, peer, place))
    }
}

/// Answers what is asked on one connection. It is over for us when it becomes a WebSocket.
async fn answer(stream: impl AsyncRead + AsyncWrite + Send + 'static, router: Router) {
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(WRITE_DEADLINE));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router))
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to the HTTP listener failed");
    }
}
