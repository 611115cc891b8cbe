//! direct-tcpip and direct-streamlocal (`ssh -L`, `-D`, `-W`, `-J`): connections from the client into the sandbox.
//!
//! The open is answered when the dial inside the guest has succeeded or failed, never before: stock `ssh` shows the reason.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sandgate_guest::OpenFailure as GuestFailure;
use sandgate_policy::Principal;
use sandgate_ssh::driver::OpenQuestion;
use sandgate_ssh::event::{ChannelOpen, OpenFailure};

use super::relay::relay_recorded;
use crate::forward::{self, ForwardError, Place};
use crate::gateway::Gateway;
use crate::metrics::ChannelKind;
use crate::session::{Peer, Traffic};

/// Dials, answers, and relays until the end. Dropping the future refuses the open, or closes the channel and the connection.
pub(in crate::ssh) async fn connect(
    gateway: Arc<Gateway>,
    principal: Principal,
    peer: Peer,
    question: OpenQuestion,
) {
    let (kind, place) = match question.kind() {
        ChannelOpen::DirectTcpip { host, port, .. } => {
            (ChannelKind::DirectTcpip, Place::Tcp { host: host.clone(), port: *port })
        }
        ChannelOpen::DirectStreamlocal { path } => {
            (ChannelKind::DirectStreamlocal, Place::Unix { path: path.clone() })
        }
        _ => return question.refuse(OpenFailure::prohibited("This kind of channel is not supported.")),
    };
    let connection = match forward::dial(&gateway, &principal, &place).await {
        Ok(connection) => connection,
        Err(error) => {
            gateway.metrics.doors.forwards_failed.increment();
            tracing::warn!(
                sandbox = principal.sandbox_name,
                credential = %principal.credential,
                client = %peer.client,
                to = %place,
                %error,
                "forward not opened"
            );
            return question.refuse(open_failure(&error));
        }
    };
    let id = crate::ids::random_id("fwd");
    tracing::info!(
        forward = id,
        sandbox = principal.sandbox_name,
        credential = %principal.credential,
        client = %peer.client,
        to = %place,
        "forward opened"
    );
    let mode = principal.session.record.max(gateway.sandboxes.record_mode(&principal.sandbox_id));
    let recording = gateway.recordings.begin_forward(mode, &principal, &id, place.to_string()).await;
    let recording = match recording {
        Ok(recording) => recording,
        Err(error) => return question.refuse(OpenFailure::connect_failed(error.to_string())),
    };
    let channel = question.accept();
    let _counted = gateway.metrics.channels.enter(kind);
    let traffic = Traffic::recorded(recording.as_ref().map(|recording| recording.recorder().clone()));
    gateway.metrics.doors.forwards.increment();
    let end = relay_recorded(channel, connection, &traffic, recording.as_ref()).await;
    gateway.metrics.doors.forward_ended(&traffic);
    tracing::info!(
        forward = id,
        end = end.text(),
        bytes_in = traffic.bytes_in.load(Ordering::Relaxed),
        bytes_out = traffic.bytes_out.load(Ordering::Relaxed),
        "forward closed"
    );
}

fn open_failure(error: &ForwardError) -> OpenFailure {
    let text = error.to_string();
    match error.open_failure() {
        GuestFailure::Prohibited => OpenFailure::prohibited(text),
        GuestFailure::ConnectFailed => OpenFailure::connect_failed(text),
        GuestFailure::Shortage => OpenFailure::shortage(text),
    }
}
