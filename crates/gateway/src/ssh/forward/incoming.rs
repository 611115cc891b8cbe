//! forwarded-tcpip, forwarded-streamlocal and x11: somebody in the sandbox has connected to a listener of the client.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sandgate_guest::{Incoming, Peer};
use sandgate_policy::Principal;
use sandgate_ssh::driver::ConnectionHandle;
use sandgate_ssh::event::ServerOpen;
use tokio::sync::OwnedSemaphorePermit;

use super::arrivals::Pace;
use super::relay::relay_recorded;
use crate::forward::Place;
use crate::gateway::Gateway;
use crate::metrics::ChannelKind;
use crate::session::Traffic;

/// Bytes of a client's refusal that the log shows.
const SHOWN: usize = 200;

/// What was connected to, as the client asked for it.
#[derive(Debug, Clone)]
pub(in crate::ssh) enum Source {
    /// A TCP port.
    Tcp {
        /// The address in the client's request, by which it knows its own forward.
        address: Vec<u8>,
        /// The bound port.
        port: u16,
    },
    /// A Unix socket.
    Unix {
        /// The path in the client's request.
        path: Vec<u8>,
    },
    /// The display of a session.
    X11,
}

/// Somebody has connected.
pub(in crate::ssh) struct Arrived {
    pub(super) incoming: Incoming,
    pub(super) source: Source,
    /// Held until the client has answered.
    pub(super) pending: OwnedSemaphorePermit,
    /// Held for the life of the channel.
    pub(super) place: OwnedSemaphorePermit,
    /// How often a failure is worth a warning.
    pub(super) warnings: Arc<Pace>,
}

impl Source {
    /// For a recording.
    fn words(&self) -> String {
        match self {
            Source::Tcp { address, port } => Place::Tcp { host: address.clone(), port: *port }.to_string(),
            Source::Unix { path } => Place::Unix { path: path.clone() }.to_string(),
            Source::X11 => "X11".to_owned(),
        }
    }

    fn kind(&self) -> ChannelKind {
        match self {
            Source::Tcp { .. } => ChannelKind::ForwardedTcpip,
            Source::Unix { .. } => ChannelKind::ForwardedStreamlocal,
            Source::X11 => ChannelKind::X11,
        }
    }

    fn open(self, peer: &Peer) -> ServerOpen {
        match self {
            Source::Tcp { address, port } => {
                let (originator, originator_port) = originator(peer);
                ServerOpen::ForwardedTcpip { address, port: port.into(), originator, originator_port }
            }
            Source::Unix { path } => ServerOpen::ForwardedStreamlocal { path },
            Source::X11 => {
                let (originator, originator_port) = originator(peer);
                ServerOpen::X11 { originator, originator_port }
            }
        }
    }
}

/// Who connected, as the guest says.
fn originator(peer: &Peer) -> (Vec<u8>, u32) {
    match peer {
        Peer::Tcp { host, port } => (host.clone().into_bytes(), (*port).into()),
        // sshd names it so, too.
        Peer::Unix => (b"UNKNOWN".to_vec(), 65535),
    }
}

/// Opens a channel to the client for one connection and relays until its end. If the client does not want it, it is closed in the
/// guest.
pub(in crate::ssh) async fn serve(
    gateway: Arc<Gateway>,
    handle: ConnectionHandle,
    principal: Principal,
    arrived: Arrived,
) {
    let Arrived { incoming, source, pending, place: _place, warnings } = arrived;
    let sandbox = principal.sandbox_name.clone();
    let (to, kind) = (source.words(), source.kind());
    let open = source.open(&incoming.peer);
    // Taken first: a client may take longer to answer than the guest keeps what nobody takes.
    let connection = match incoming.accept().await {
        Ok(connection) => connection,
        Err(error) => {
            return failed(&gateway, &warnings, &sandbox, &format!("lost in the sandbox: {error}"));
        }
    };
    let mode = principal.session.record.max(gateway.sandboxes.record_mode(&principal.sandbox_id));
    let id = crate::ids::random_id("fwd");
    let recording = match gateway.recordings.begin_forward(mode, &principal, &id, to).await {
        Ok(recording) => recording,
        Err(error) => return failed(&gateway, &warnings, &sandbox, &error.to_string()),
    };
    let channel = match handle.open(open).await {
        Ok(channel) => channel,
        Err(failure) => {
            let text: String = failure.text.escape_debug().take(SHOWN).collect();
            return failed(
                &gateway,
                &warnings,
                &sandbox,
                &format!("not taken by the client: {:?} {text}", failure.reason),
            );
        }
    };
    drop(pending);
    let _counted = gateway.metrics.channels.enter(kind);
    let traffic = Traffic::recorded(recording.as_ref().map(|recording| recording.recorder().clone()));
    gateway.metrics.doors.forwards.increment();
    let end = relay_recorded(channel, connection, &traffic, recording.as_ref()).await;
    gateway.metrics.doors.forward_ended(&traffic);
    tracing::debug!(
        sandbox,
        end = end.text(),
        bytes_in = traffic.bytes_in.load(Ordering::Relaxed),
        bytes_out = traffic.bytes_out.load(Ordering::Relaxed),
        "forwarded connection closed"
    );
}

fn failed(gateway: &Gateway, warnings: &Pace, sandbox: &str, reason: &str) {
    gateway.metrics.doors.forwards_failed.increment();
    if warnings.may_warn() {
        tracing::warn!(sandbox, reason, "a connection from the sandbox was not forwarded");
    } else {
        tracing::debug!(sandbox, reason, "a connection from the sandbox was not forwarded");
    }
}
