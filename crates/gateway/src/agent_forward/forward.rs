//! The socket of one session, and the connections made to it.

use std::future::poll_fn;
use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use sandgate_agent_filter::Config;
use sandgate_guest::{ConnectionOutput, ConnectionReady, GuestError, Incoming, Listener};

use super::trail::Trail;
use super::{UserAgent, open, relay};

/// Connections of one session that are served at once. More wait in the sandbox: 64 announced by the guest agent and what the kernel
/// queues behind them; a program that connects when those are full waits in `connect`.
const MOST_AT_ONCE: usize = 64;

/// The agent of a user in one session.
pub struct AgentForward {
    listener: Listener,
    config: Config,
    trail: Trail,
}

impl AgentForward {
    pub(super) fn new(listener: Listener, config: Config, trail: Trail) -> Self {
        Self { listener, config, trail }
    }

    /// The path of the socket inside the sandbox, for `SSH_AUTH_SOCK`.
    pub fn path(&self) -> &[u8] {
        self.listener.path()
    }

    /// Serves connections for as long as it is polled, and never ends. Dropping the future closes them all, and removes the socket.
    pub async fn run(mut self, agent: &impl UserAgent) {
        let (trail, config) = (&self.trail, &self.config);
        let _gauge = trail.metrics().listeners.enter();
        let mut live = FuturesUnordered::new();
        loop {
            tokio::select! {
                incoming = self.listener.accept(), if live.len() < MOST_AT_ONCE => match incoming {
                    Ok(incoming) => live.push(serve(incoming, config, agent, trail)),
                    Err(error) => {
                        trail.failed(&format_args!("the socket in the sandbox is lost: {error}"));
                        break;
                    }
                },
                Some(()) = live.next() => {}
            }
        }
        // Connections that are there already do not need the listener.
        while live.next().await.is_some() {}
        std::future::pending().await
    }
}

/// One connection, from its announcement to its end.
async fn serve(incoming: Incoming, config: &Config, agent: &impl UserAgent, trail: &Trail) {
    let metrics = trail.metrics();
    let _gauge = metrics.connections.enter();
    let started = Instant::now();
    connect(incoming, config, agent, trail).await;
    metrics.connection_time.add(started.elapsed());
}

async fn connect(incoming: Incoming, config: &Config, agent: &impl UserAgent, trail: &Trail) {
    let mut guest = match incoming.accept().await {
        Ok(guest) => guest,
        Err(error) => {
            return trail.failed(&format_args!("a connection in the sandbox was not taken: {error}"));
        }
    };
    let stream = tokio::select! {
        stream = open::open(agent, trail) => stream,
        () = gone(&mut guest.output) => return,
    };
    let Some(stream) = stream else { return };
    match relay::relay(guest, stream, config.clone(), trail).await {
        Ok(()) | Err(relay::RelayError::Guest(GuestError::Reset)) => {}
        Err(error) => trail.failed(&error),
    }
}

/// Resolves when the program in the sandbox has gone away without a question.
async fn gone(output: &mut ConnectionOutput) {
    match poll_fn(|cx| output.poll_ready(cx)).await {
        ConnectionReady::End | ConnectionReady::Lost(_) => {}
        ConnectionReady::Data => std::future::pending().await,
    }
}
