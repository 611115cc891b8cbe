//! `GET /api/v1/sandboxes/{name}/exec/stream`: one command over a WebSocket, for programs that want its output as it comes.
//!
//! The first message of the client says what to run. Then binary messages are standard input, and of ours the first byte says which output the
//! rest is of. Everything else is JSON. A client that does not read holds up the command and nothing else.

mod protocol;
mod pump;

use std::pin::pin;
use std::sync::Arc;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{Extension, Path, State};
use axum::http::{Extensions, HeaderMap, StatusCode};
use axum::response::Response;
use futures_util::StreamExt as _;
use sandgate_driver::Progress;
use sandgate_gateway::Gateway;
use sandgate_gateway::drain::{Drain, DrainStage};
use sandgate_gateway::expiry::expired;
use sandgate_gateway::session::{self, Outcome, Peer, RunningSession};
use sandgate_policy::Principal;
use tokio::sync::mpsc;

use crate::caller::{Caller, Via};
use crate::origin::origin_allowed;
use crate::places::Places;
use crate::problem::Problem;
use crate::websocket::{self, End, FirstWords, Keepalive, MAX_REPLIES, Notice, Sink, Stream};
use protocol::{Run, ToClient};
use pump::Pump;

/// The protocol that a client must ask for.
const PROTOCOL: &str = "sandgate.exec.v1";
/// Largest message of a client, in bytes.
const MAX_MESSAGE: usize = 256 * 1024;
/// What the client reads that finds no place.
const TOO_MANY: &str = "too many commands run over WebSockets at the moment; try again later";
/// What the client reads that does not say what to run.
const FIRST: FirstWords = FirstWords {
    late: "What to run was not said in time.",
    binary: "The first message must say what to run.",
};

pub(crate) async fn stream(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    headers: HeaderMap,
    extensions: Extensions,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    // It is a GET, and runs commands all the same.
    if caller.via == Via::Cookie && !origin_allowed(&headers, &gateway.config.http) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "this request comes from a page of another origin"));
    }
    let upgrade = websocket::accept(upgrade, PROTOCOL, MAX_MESSAGE)?;
    let principal = caller.principal(&gateway, name)?;
    // Of all listeners together.
    let place = Places::shared(gateway.streams.clone(), TOO_MANY).take()?;
    let peer = extensions.get::<Peer>().copied();
    Ok(upgrade.on_upgrade(async move |socket| {
        serve(gateway, principal, socket, peer).await;
        drop(place);
    }))
}

async fn serve(gateway: Arc<Gateway>, principal: Principal, socket: WebSocket, peer: Option<Peer>) {
    let (mut sink, mut stream) = socket.split();
    let connection = gateway.registry.connect(principal.clone());
    let mut cut = connection.end_signal();
    let mut drain = gateway.drainer.watch();
    let end = match gateway.access.revoked_meanwhile(&principal) {
        Some(reason) => End::ended(reason.text()),
        None => tokio::select! {
            end = run(&gateway, &principal, peer, &mut sink, &mut stream) => end,
            reason = cut.ended() => End::ended(reason.text()),
            reason = expired(&principal) => End::ended(reason.text()),
            text = cut_off(&mut drain) => End::ended(text),
        },
    };
    websocket::finish(&mut sink, &mut stream, end).await;
}

/// Resolves when the gateway no longer waits for sessions to finish.
async fn cut_off(drain: &mut Drain) -> String {
    loop {
        if let DrainStage::Cut(reason) = drain.changed().await {
            return reason.text().to_owned();
        }
    }
}

async fn run(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    peer: Option<Peer>,
    sink: &mut Sink,
    stream: &mut Stream,
) -> End {
    match start(gateway, principal, peer, sink, stream).await {
        Ok(session) => attend(session, sink, stream).await,
        Err(end) => end,
    }
}

/// Starts what the client wants to run, and tells it how that goes.
async fn start(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    peer: Option<Peer>,
    sink: &mut Sink,
    stream: &mut Stream,
) -> Result<RunningSession, End> {
    let text = websocket::first(stream, &FIRST).await?;
    let run: Run = serde_json::from_str(&text)
        .map_err(|error| End::protocol(format!("That does not say what to run: {error}.")))?;
    let request = run.request(peer).map_err(End::protocol)?;
    let (lines, mut waiting) = mpsc::channel(MAX_REPLIES);
    let progress = Lines(lines);
    let mut starting = pin!(session::start(gateway, principal, request, &progress));
    let started = loop {
        tokio::select! {
            started = &mut starting => break started,
            Some(text) = waiting.recv() => {
                if websocket::say(sink, &Notice::Progress { text }).await.is_err() {
                    return Err(End::Gone);
                }
            }
        }
    };
    started.map_err(|error| {
        tracing::warn!(sandbox = principal.sandbox_name, %error, "session not started");
        End::ended(error.to_string())
    })
}

/// Serves a command that runs, to its end.
async fn attend(session: RunningSession, sink: &mut Sink, stream: &mut Stream) -> End {
    let RunningSession { input, output, control, agent: _, mut record } = session;
    let mut killed = record.end_signal();
    let traffic = record.traffic().clone();
    let (replies, waiting) = mpsc::channel(MAX_REPLIES);
    let pump = Pump { control: &control, traffic: &traffic, keepalive: Keepalive::default(), replies };
    let started = ToClient::Started { session: record.id().to_owned() };
    let end = match websocket::say(sink, &started).await {
        Err(_) => End::Gone,
        Ok(()) => tokio::select! {
            end = pump.read(stream, input) => end,
            end = pump.write(sink, output, waiting) => end,
            end = pump.keepalive.silence() => end,
            reason = killed.ended() => End::ended(reason.text()),
        },
    };
    match &end {
        End::Exit(status) => record.finish(Outcome::Exited(status.clone())),
        End::Lost(_) => record.finish(Outcome::LinkLost),
        End::Ours(_, Some(text)) => record.finish(Outcome::Ended(text.clone())),
        End::Ours(_, None) | End::Gone => {}
    }
    if !matches!(end, End::Exit(_)) {
        control.hangup();
    }
    end
}

/// Lines of progress on their way to the client.
struct Lines(mpsc::Sender<String>);

impl Progress for Lines {
    fn step(&self, text: &str) {
        // Full: the client is not reading, and the line is a courtesy.
        let _ = self.0.try_send(text.to_owned());
    }

    fn warn(&self, text: &str) {
        self.step(text);
    }
}
