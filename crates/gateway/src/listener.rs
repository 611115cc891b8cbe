//! The SSH listener: accepts, decides who may knock at all, and gives each connection its task.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use crate::drain::{Drain, DrainStage};
use crate::gateway::Gateway;
use crate::session::Peer;
use crate::ssh::{self, Origin};

/// Pause after a failed accept (out of descriptors, mostly), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What a source with a penalty is told before the socket closes, as OpenSSH words it.
const NOT_ALLOWED: &[u8] = b"Not allowed at this time\r\n";
/// First probe of an idle TCP connection, and the pause between probes. The SSH keepalive finds dead clients sooner; this is
/// for connections that have not logged in and for middleboxes that forget.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// An open SSH listener.
#[derive(Debug)]
pub struct SshListener {
    socket: TcpListener,
    address: SocketAddr,
}

impl SshListener {
    /// Binds `address`; port 0 takes any.
    ///
    /// # Errors
    /// The address is in use or not ours.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until the gateway drains. Connections are spawned on `connections`, which the caller waits for.
    pub async fn run(
        self,
        gateway: Arc<Gateway>,
        config: Arc<sandgate_ssh::Config>,
        connections: TaskTracker,
    ) {
        let mut drain = gateway.drainer.watch();
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                stage = drain.changed() => match stage {
                    DrainStage::Running => continue,
                    DrainStage::Draining(_) | DrainStage::Cut(_) => return,
                },
            };
            match accepted {
                Ok((stream, client)) => admit(&gateway, &config, &connections, &drain, stream, client),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn admit(
    gateway: &Arc<Gateway>,
    config: &Arc<sandgate_ssh::Config>,
    connections: &TaskTracker,
    drain: &Drain,
    stream: TcpStream,
    client: SocketAddr,
) {
    // The peer may be gone already; then there is nothing to serve.
    let Ok(server) = stream.local_addr() else { return };
    let origin = Origin { peer: Peer { client, server } };
    let limits = &gateway.config.limits;
    if limits.source_penalties
        && let Some(left) = gateway.penalties.refused_for(origin.source(), Instant::now())
    {
        tracing::info!(%client, seconds = left.as_secs(), "refused for earlier failures");
        refuse(stream);
        return;
    }
    if let Err(error) = tune(&stream) {
        tracing::debug!(%client, %error, "socket options not set");
    }
    let waiting = gateway.unauthenticated.enter(limits.max_unauthenticated);
    connections.spawn(ssh::serve(gateway.clone(), stream, origin, waiting, config.clone(), drain.clone()));
}

/// Tells a refused source why, if its receive buffer takes the line at once, and closes.
fn refuse(mut stream: TcpStream) {
    let mut line = std::pin::pin!(stream.write_all(NOT_ALLOWED));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let _ = std::future::Future::poll(line.as_mut(), &mut context);
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(TCP_KEEPALIVE).with_interval(TCP_KEEPALIVE);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
