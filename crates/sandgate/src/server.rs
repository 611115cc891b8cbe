//! A running gateway: listeners, signals, the graceful end.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sandgate_gateway::listener::SshListener;
use sandgate_gateway::session::EndReason;
use sandgate_gateway::{Config, Gateway, ssh};
use sandgate_web::{ControlSocket, HttpServer, Operations};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long sessions that were cut off get to say so to their users.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How often an ending gateway looks whether sessions are left.
const LOOK: Duration = Duration::from_millis(50);

/// What to do when a port is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortTaken {
    /// Fail.
    Fail,
    /// Take a free one.
    TakeAnother,
}

/// Takes as many descriptors as this process may have: a forwarded connection needs three. Programs in a sandbox get their own limit.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of descriptors could not be raised");
    }
}

/// A gateway that accepts connections.
pub struct Server {
    gateway: Arc<Gateway>,
    connections: TaskTracker,
    /// Ends the control socket and the HTTP listener.
    stop: CancellationToken,
    services: TaskTracker,
    signals: Signals,
}

impl Server {
    /// Builds the gateway and opens its listeners.
    pub async fn start(
        config: Config,
        ssh_taken: PortTaken,
        http_taken: PortTaken,
    ) -> anyhow::Result<Server> {
        // From here on a signal ends us gracefully instead of at once.
        let signals = Signals::new().context("signals cannot be handled")?;
        raise_descriptor_limit();
        let gateway = Gateway::build(config).await?;
        let config = &gateway.config;
        let listener = bind(config.ssh_listen, ssh_taken).await?;
        gateway.set_ssh_address(listener.address());
        let control = ControlSocket::bind(&config.data_dir)?;
        let http = match config.http_listen {
            None => None,
            Some(address) => {
                let server = match HttpServer::bind(address).await {
                    Err(error)
                        if http_taken == PortTaken::TakeAnother
                            && error.kind() == std::io::ErrorKind::AddrInUse =>
                    {
                        HttpServer::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
                    }
                    result => result,
                };
                let server = server.with_context(|| format!("cannot serve HTTP on {address}"))?;
                gateway.set_http_address(server.address());
                Some(match &config.http.tls {
                    None => server,
                    Some(files) => server.with_tls(files)?,
                })
            }
        };
        let operations = match config.operations_listen {
            None => None,
            Some(address) => {
                let server = Operations::bind(address).await;
                Some(server.with_context(|| format!("cannot serve operations on {address}"))?)
            }
        };
        tracing::info!(
            ssh = %listener.address(),
            http = http.as_ref().map(|server| server.address().to_string()),
            operations = operations.as_ref().map(|server| server.address().to_string()),
            data_dir = %config.data_dir.display(),
            "the gateway is ready"
        );
        let (connections, services, stop) =
            (TaskTracker::new(), TaskTracker::new(), CancellationToken::new());
        let ssh_config = ssh::server_config(config, gateway.host_keys.clone());
        services
            .spawn(report("SSH listener", listener.run(gateway.clone(), ssh_config, connections.clone())));
        services
            .spawn(report("control socket", control.serve(gateway.clone(), stop.clone().cancelled_owned())));
        if let Some(server) = http {
            services.spawn(server.serve(gateway.clone(), stop.clone().cancelled_owned()));
        }
        if let Some(server) = operations {
            services.spawn(server.serve(gateway.clone(), stop.clone().cancelled_owned()));
        }
        Ok(Server { gateway, connections, stop, services, signals })
    }

    /// Where SSH is served.
    pub fn ssh_address(&self) -> SocketAddr {
        self.gateway.ssh_address()
    }

    /// Serves until a signal comes, then lets sessions finish up to the deadline. A second signal ends it at once, with 1.
    pub async fn run(mut self) -> ExitCode {
        self.signals.next().await;
        tracing::info!(deadline = ?self.gateway.config.drain_deadline, "ending: no new connections, sessions may finish");
        let graceful = async {
            let registry = self.gateway.registry.clone();
            self.connections.close();
            let idle = async || {
                self.connections.wait().await;
                // Sessions on the control socket are no connections of the listener.
                while registry.connection_count() > 0 {
                    tokio::time::sleep(LOOK).await;
                }
            };
            let deadline = self.gateway.config.drain_deadline;
            let cut = async {
                tokio::time::sleep(deadline).await;
                registry.end_connections(|_| true, &EndReason::new("The gateway is shutting down."));
                std::future::pending::<()>().await;
            };
            let all_ended = tokio::select! {
                all_ended = self.gateway.drainer.drain(deadline, LAST_WORDS, idle) => all_ended,
                () = cut => false,
            };
            self.stop.cancel();
            self.services.close();
            // A control request that takes longer than this is one that waits for a sandbox; those finish by themselves.
            let _ = tokio::time::timeout(LAST_WORDS, self.services.wait()).await;
            self.gateway.close().await;
            all_ended
        };
        tokio::select! {
            all_ended = graceful => {
                tracing::info!(all_ended, "ended");
                ExitCode::SUCCESS
            }
            () = self.signals.next() => {
                tracing::warn!("a second signal: ending at once");
                ExitCode::FAILURE
            }
        }
    }
}

async fn bind(address: SocketAddr, taken: PortTaken) -> anyhow::Result<SshListener> {
    match SshListener::bind(address).await {
        Err(error) if taken == PortTaken::TakeAnother && error.kind() == std::io::ErrorKind::AddrInUse => {
            let listener = SshListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
            eprintln!(
                "sandgate: port {} is taken, so this uses port {}",
                address.port(),
                listener.address().port()
            );
            Ok(listener)
        }
        result => result.with_context(|| format!("cannot serve SSH on {address}")),
    }
}

async fn report(what: &'static str, service: impl Future<Output = std::io::Result<()>>) {
    if let Err(error) = service.await {
        tracing::error!(%error, "the {what} has ended");
    }
}

/// The signals that end a gateway.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
