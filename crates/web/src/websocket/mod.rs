//! Sessions over WebSockets: what the doors of terminals and of commands have in common.
//!
//! Binary messages are the bytes of a process, text messages are JSON with a `type`. The first message of a client says what it wants. After
//! that reading, writing and the keepalive are three futures, so that a client which does not read is noticed, and one whose input waits
//! for the process still gets output.

mod end;
mod io;
mod keepalive;
mod message;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::StatusCode;

use crate::problem::Problem;

pub(crate) use end::{CloseCode, End};
pub(crate) use io::{FirstWords, Received, Sink, Stream, finish, first, next, parse, ping, say};
pub(crate) use keepalive::Keepalive;
pub(crate) use message::{Notice, Resize};

/// Answers, and lines of progress, that wait to be sent.
pub(crate) const MAX_REPLIES: usize = 16;

/// The upgrade of a client that asks for `protocol`, and whose messages have at most `max_message` bytes.
pub(crate) fn accept(
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    protocol: &'static str,
    max_message: usize,
) -> Result<WebSocketUpgrade, Problem> {
    let upgrade = upgrade.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    let upgrade = upgrade.protocols([protocol]);
    if upgrade.selected_protocol().is_none() {
        let detail = format!("this needs the WebSocket protocol {protocol}");
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    Ok(upgrade.max_message_size(max_message).max_frame_size(max_message))
}
