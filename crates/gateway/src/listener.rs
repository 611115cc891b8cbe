//! The SSH listener: accepts, decides who may knock at all, and gives each connection its task.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use crate::drain::{Drain, DrainStage};
use crate::gateway::Gateway;
use crate::session::Peer;
use crate::ssh::{self, Origin};
use crate::tcp;
use crate::workers::Workers;

/// Pause after a failed accept (out of descriptors, mostly), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What a source with a penalty is told before the socket closes, as OpenSSH words it.
const NOT_ALLOWED: &[u8] = b"Not allowed at this time\r\n";

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

    /// Accepts until the gateway drains. Connections run on threads of their own and are tracked by `connections`, which the
    /// caller waits for; the threads end with the last of them.
    ///
    /// # Errors
    /// The threads could not be started.
    pub async fn run(
        self,
        gateway: Arc<Gateway>,
        config: Arc<sandgate_ssh::Config>,
        connections: TaskTracker,
    ) -> io::Result<()> {
        let workers = Arc::new(Workers::start()?);
        let mut drain = gateway.drainer.watch();
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                stage = drain.changed() => match stage {
                    DrainStage::Running => continue,
                    DrainStage::Draining(_) | DrainStage::Cut(_) => return Ok(()),
                },
            };
            match accepted {
                Ok((stream, client)) => {
                    let admitted = admit(&gateway, &config, &workers, &connections, &drain, stream, client);
                    if let Err(error) = admitted {
                        tracing::debug!(%client, %error, "connection lost right after it was accepted");
                    }
                }
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
    workers: &Arc<Workers>,
    connections: &TaskTracker,
    drain: &Drain,
    stream: TcpStream,
    client: SocketAddr,
) -> io::Result<()> {
    gateway.metrics.doors.ssh_connections.increment();
    let server = stream.local_addr()?;
    let origin = Origin { peer: Peer { client, server } };
    let limits = &gateway.config.limits;
    if limits.source_penalties
        && let Some(left) = gateway.penalties.refused_for(origin.source(), Instant::now())
    {
        gateway.metrics.doors.ssh_turned_away.increment();
        tracing::info!(%client, seconds = left.as_secs(), "refused for earlier failures");
        refuse(stream);
        return Ok(());
    }
    if let Err(error) = tcp::tune(&stream) {
        tracing::debug!(%client, %error, "socket options not set");
    }
    let waiting = gateway.unauthenticated.enter(limits.max_unauthenticated);
    let Some(place) = workers.least_busy() else { return Err(io::ErrorKind::OutOfMemory.into()) };
    let runtime = place.runtime().clone();
    // Out of this runtime, to be watched by that of the connection's thread.
    let stream = stream.into_std()?;
    let (gateway, config, drain) = (gateway.clone(), config.clone(), drain.clone());
    let workers = workers.clone();
    let serve = async move {
        match TcpStream::from_std(stream) {
            Ok(stream) => ssh::serve(gateway, stream, origin, waiting, config, drain).await,
            Err(error) => tracing::warn!(%client, %error, "a connection could not be served"),
        }
        drop(place);
        // The last connection lets the threads go.
        drop(workers);
    };
    connections.spawn_on(serve, &runtime);
    Ok(())
}

/// Tells a refused source why, if its receive buffer takes the line at once, and closes.
fn refuse(mut stream: TcpStream) {
    let mut line = std::pin::pin!(stream.write_all(NOT_ALLOWED));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let _ = std::future::Future::poll(line.as_mut(), &mut context);
}
