//! `GET /api/v1/sandboxes/{name}/exec/stream`: one command over a WebSocket, for programs that want its output as it comes.
//!
//! The first message of the client says what to run. Then binary messages are standard input, and of ours the first byte says which output the
//! rest is of. Everything else is JSON. A client that does not read holds up the command and nothing else.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Extension, Path, State};
use axum::http::{Extensions, HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use sandgate_driver::Progress;
use sandgate_gateway::Gateway;
use sandgate_gateway::agent_forward::AgentRequest;
use sandgate_gateway::drain::{Drain, DrainStage};
use sandgate_gateway::expiry::expired;
use sandgate_gateway::session::{
    self, Outcome, Peer, RunningSession, SessionOutput, SessionRequest, Traffic, signal_number,
};
use sandgate_guest::{ExitStatus, ProcessControl, ProcessInput, Program, PtySpec, Ready, WindowSize};
use sandgate_policy::Principal;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use crate::caller::{Caller, Via};
use crate::origin::origin_allowed;
use crate::problem::Problem;

/// The protocol that a client must ask for.
const PROTOCOL: &str = "sandgate.exec.v1";
/// Largest message of a client, in bytes.
const MAX_MESSAGE: usize = 256 * 1024;
/// Read from the process at once, in bytes.
const PIECE: usize = 32 * 1024;
/// How long the first message may take.
const FIRST: Duration = Duration::from_secs(10);
/// Time between our pings; also how long each may take to be answered.
const PING: Duration = Duration::from_secs(30);
/// Unanswered pings that end the command.
const MAX_MISSED: u32 = 3;
/// How long the last words may take to reach the client.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Answers, and lines of progress, that wait to be sent.
const MAX_REPLIES: usize = 16;
/// Before what is of standard output, or of the terminal.
const STDOUT: u8 = 1;
/// Before what is of standard error.
const STDERR: u8 = 2;

/// The first message: what to run.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    /// A line for the user's shell.
    command: Option<String>,
    /// The words of a command, without a shell.
    argv: Option<Vec<String>>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    user: Option<String>,
    /// A terminal for it; without `command` and `argv`, for the user's login shell.
    terminal: Option<Pty>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pty {
    term: String,
    cols: u32,
    rows: u32,
    #[serde(default)]
    xpixel: u32,
    #[serde(default)]
    ypixel: u32,
}

/// What a client says after that.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum FromClient {
    /// Nothing more comes for standard input.
    Eof {},
    /// A signal by its name without `SIG` (RFC 4254 section 6.9).
    Signal { name: String },
    /// The window has another size.
    Resize {
        cols: u32,
        rows: u32,
        #[serde(default)]
        xpixel: u32,
        #[serde(default)]
        ypixel: u32,
    },
    /// Wants to be answered.
    Ping { id: u64 },
}

/// What a client is told.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum ToClient {
    Progress {
        text: String,
    },
    Started {
        session: String,
    },
    Exit {
        code: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
    },
    Error {
        text: String,
    },
    Pong {
        id: u64,
    },
}

/// Why a connection is closed (RFC 6455 section 7.4; from 4000 on they are our own, and those of terminals).
#[derive(Clone, Copy)]
#[repr(u16)]
enum CloseCode {
    Done = 1000,
    Protocol = 4002,
    Ended = 4004,
    Silent = 4008,
}

/// Why it ends.
enum End {
    /// The client has gone.
    Gone,
    /// The command has.
    Exit(ExitStatus),
    /// The link to the guest is lost.
    Lost(String),
    /// From our side.
    Ours(CloseCode, String),
}

impl End {
    fn protocol(text: impl Into<String>) -> End {
        End::Ours(CloseCode::Protocol, text.into())
    }

    fn ended(text: impl Into<String>) -> End {
        End::Ours(CloseCode::Ended, text.into())
    }
}

type Sink = SplitSink<WebSocket, Message>;
type Stream = SplitStream<WebSocket>;

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
    let upgrade = upgrade.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    let mut upgrade = upgrade.protocols([PROTOCOL]);
    if upgrade.selected_protocol().is_none() {
        let detail = format!("this needs the WebSocket protocol {PROTOCOL}");
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    let principal = caller.principal(&gateway, name)?;
    let Ok(place) = gateway.streams.clone().try_acquire_owned() else {
        let detail = "too many commands run over WebSockets at the moment; try again later";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
    };
    upgrade = upgrade.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE);
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
    // A client that does not read is not waited for.
    let _ = timeout(LAST_WORDS, close(&mut sink, &mut stream, end)).await;
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
    let request = match timeout(FIRST, first(stream)).await {
        Err(_) => return End::protocol("What to run was not said in time."),
        Ok(Err(end)) => return end,
        Ok(Ok(run)) => match request(run, peer) {
            Ok(request) => request,
            Err(text) => return End::protocol(text),
        },
    };
    let (lines, mut waiting) = mpsc::channel(MAX_REPLIES);
    let progress = Lines(lines);
    let mut starting = std::pin::pin!(session::start(gateway, principal, request, &progress));
    let started = loop {
        tokio::select! {
            started = &mut starting => break started,
            Some(text) = waiting.recv() => if say(sink, &ToClient::Progress { text }).await.is_err() {
                return End::Gone;
            },
        }
    };
    let session = match started {
        Ok(session) => session,
        Err(error) => {
            tracing::warn!(sandbox = principal.sandbox_name, %error, "session not started");
            return End::ended(error.to_string());
        }
    };
    let RunningSession { input, output, control, agent: _, mut record } = session;
    let mut killed = record.end_signal();
    let (replies, waiting) = mpsc::channel(MAX_REPLIES);
    let connection = Connection {
        heard: AtomicBool::new(true),
        busy: AtomicBool::new(false),
        ping: Notify::new(),
        replies,
    };
    let traffic = record.traffic().clone();
    let end = match say(sink, &ToClient::Started { session: record.id().to_owned() }).await {
        Err(_) => End::Gone,
        Ok(()) => tokio::select! {
            end = connection.read(stream, input, &control, &traffic) => end,
            end = connection.write(sink, output, &traffic, waiting) => end,
            end = connection.keep_alive() => end,
            reason = killed.ended() => End::ended(reason.text()),
        },
    };
    match &end {
        End::Exit(status) => record.finish(Outcome::Exited(status.clone())),
        End::Lost(_) => record.finish(Outcome::LinkLost),
        End::Ours(_, text) => record.finish(Outcome::Ended(text.clone())),
        End::Gone => {}
    }
    if !matches!(end, End::Exit(_)) {
        control.hangup();
    }
    end
}

/// What to run.
async fn first(stream: &mut Stream) -> Result<Run, End> {
    loop {
        match stream.next().await {
            Some(Ok(Message::Text(text))) => {
                return serde_json::from_str(&text)
                    .map_err(|error| End::protocol(format!("That does not say what to run: {error}.")));
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Binary(_))) => {
                return Err(End::protocol("The first message must say what to run."));
            }
            Some(Err(_)) => return Err(End::protocol("That is no message of this protocol.")),
            Some(Ok(Message::Close(_))) | None => return Err(End::Gone),
        }
    }
}

fn request(run: Run, peer: Option<Peer>) -> Result<SessionRequest, &'static str> {
    let program = match (run.command, run.argv) {
        (Some(command), None) => Program::Command(command.into_bytes()),
        (None, Some(words)) if !words.is_empty() => {
            Program::Argv(words.into_iter().map(String::into_bytes).collect())
        }
        (None, None) if run.terminal.is_some() => Program::Shell,
        _ => return Err("Give either a command or the words of one."),
    };
    let pty = run.terminal.map(|Pty { term, cols, rows, xpixel, ypixel }| PtySpec {
        term: term.into_bytes(),
        cols,
        rows,
        xpixel,
        ypixel,
        modes: Vec::new(),
    });
    let env = run.env.into_iter().map(|(name, value)| (name.into_bytes(), value.into_bytes())).collect();
    let user = run.user.map(String::into_bytes);
    Ok(SessionRequest { program, pty, env, agent: AgentRequest::NotAsked, user, peer })
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

/// What the futures of a connection share.
struct Connection {
    /// Something came since the last ping.
    heard: AtomicBool,
    /// What the client sent waits for the command, so we do not listen.
    busy: AtomicBool,
    /// A ping is to be sent.
    ping: Notify,
    replies: mpsc::Sender<ToClient>,
}

impl Connection {
    async fn read(
        &self,
        stream: &mut Stream,
        input: ProcessInput,
        control: &ProcessControl,
        traffic: &Traffic,
    ) -> End {
        // `None` once it was shut down, or is read no more: what comes then goes nowhere.
        let mut input = Some(input);
        loop {
            let message = match stream.next().await {
                None | Some(Ok(Message::Close(_))) => return End::Gone,
                Some(Err(_)) => return End::protocol("That is no message of this protocol."),
                Some(Ok(message)) => message,
            };
            self.heard.store(true, Ordering::Relaxed);
            match message {
                Message::Binary(data) => {
                    self.busy.store(true, Ordering::Relaxed);
                    if let Some(process) = &mut input
                        && feed(process, &data, traffic).await.is_err()
                    {
                        input = None;
                    }
                    self.busy.store(false, Ordering::Relaxed);
                }
                Message::Text(text) => match serde_json::from_str(&text) {
                    Ok(FromClient::Eof {}) => {
                        if let Some(mut process) = input.take() {
                            // A process that is gone has no use for it.
                            let _ = process.shutdown().await;
                        }
                    }
                    Ok(said) => {
                        if let Err(end) = self.said(said, control, traffic) {
                            return end;
                        }
                    }
                    Err(error) => {
                        return End::protocol(format!("That is no message of this protocol: {error}."));
                    }
                },
                Message::Ping(_) | Message::Pong(_) | Message::Close(_) => {}
            }
        }
    }

    fn said(&self, message: FromClient, control: &ProcessControl, traffic: &Traffic) -> Result<(), End> {
        match message {
            FromClient::Eof {} => Ok(()),
            FromClient::Signal { name } => match control.signal(&name) {
                Ok(()) => Ok(()),
                Err(error) => self.reply(ToClient::Error { text: format!("No signal was sent: {error}.") }),
            },
            FromClient::Resize { cols, rows, xpixel, ypixel } => {
                traffic.resized(cols, rows);
                if let Err(error) = control.resize(WindowSize { cols, rows, xpixel, ypixel }) {
                    tracing::debug!(%error, "size not passed on");
                }
                Ok(())
            }
            FromClient::Ping { id } => self.reply(ToClient::Pong { id }),
        }
    }

    /// A client that asks and does not read is taken for silent.
    fn reply(&self, message: ToClient) -> Result<(), End> {
        let full = |_| End::Ours(CloseCode::Silent, "Answers are not read.".to_owned());
        self.replies.try_send(message).map_err(full)
    }

    async fn write(
        &self,
        sink: &mut Sink,
        mut output: SessionOutput,
        traffic: &Traffic,
        mut replies: mpsc::Receiver<ToClient>,
    ) -> End {
        loop {
            let sent = tokio::select! {
                ready = poll_fn(|cx| output.poll_ready(cx)) => {
                    let from = match ready {
                        Ready::Stdout => STDOUT,
                        Ready::Stderr => STDERR,
                        Ready::Exit(status) => return End::Exit(status),
                        Ready::LinkLost(error) => return End::Lost(error.to_string()),
                    };
                    let mut piece = vec![from; PIECE];
                    match output.try_read(piece.get_mut(1..).unwrap_or_default()) {
                        Ok(read) => {
                            traffic.bytes_out.fetch_add(read as u64, Ordering::Relaxed);
                            piece.truncate(1 + read);
                            sink.send(Message::Binary(piece.into())).await
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                        Err(error) => return End::Lost(error.to_string()),
                    }
                }
                Some(reply) = replies.recv() => say(sink, &reply).await,
                () = self.ping.notified() => sink.send(Message::Ping(Bytes::new())).await,
            };
            if sent.is_err() {
                return End::Gone;
            }
        }
    }

    /// Resolves when the client has not answered for long enough.
    async fn keep_alive(&self) -> End {
        let mut missed = 0;
        loop {
            tokio::time::sleep(PING).await;
            if self.heard.swap(false, Ordering::Relaxed) {
                missed = 0;
            } else if !self.busy.load(Ordering::Relaxed) {
                missed += 1;
            }
            if missed >= MAX_MISSED {
                return End::Ours(CloseCode::Silent, "Timeout, client not responding.".to_owned());
            }
            self.ping.notify_one();
        }
    }
}

async fn feed(process: &mut ProcessInput, mut data: &[u8], traffic: &Traffic) -> io::Result<()> {
    while !data.is_empty() {
        let taken = poll_fn(|cx| process.poll_write(cx, data)).await?;
        traffic.took([data], taken);
        data = data.get(taken..).unwrap_or_default();
    }
    Ok(())
}

async fn say(sink: &mut Sink, message: &ToClient) -> Result<(), axum::Error> {
    let text = serde_json::to_string(message).map_err(axum::Error::new)?;
    sink.send(Message::Text(text.into())).await
}

/// Says the last thing, and waits for the client to have read it.
async fn close(sink: &mut Sink, stream: &mut Stream, end: End) {
    let (code, last) = match end {
        End::Gone => return,
        End::Exit(ExitStatus::Code(code)) => (CloseCode::Done, ToClient::Exit { code, signal: None }),
        End::Exit(ExitStatus::Signal { name, .. }) => {
            // As a shell has it.
            let code = 128 + signal_number(&name);
            (CloseCode::Done, ToClient::Exit { code, signal: Some(name) })
        }
        End::Lost(error) => {
            (CloseCode::Ended, ToClient::Error { text: format!("The session ended: {error}.") })
        }
        End::Ours(code, text) => (code, ToClient::Error { text }),
    };
    if say(sink, &last).await.is_err() {
        return;
    }
    let frame = CloseFrame { code: code as u16, reason: "".into() };
    if sink.send(Message::Close(Some(frame))).await.is_ok() {
        while let Some(Ok(_)) = stream.next().await {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<SessionRequest, String> {
        let run = serde_json::from_str(text).map_err(|error| error.to_string())?;
        request(run, None).map_err(str::to_owned)
    }

    #[test]
    fn what_to_run_is_said_in_one_of_three_ways() {
        let line = read(r#"{"command":"ls","env":{"A":"b"},"user":"me"}"#).expect("a line");
        assert!(matches!(&line.program, Program::Command(line) if line == b"ls"));
        assert_eq!((line.env, line.user), (vec![(b"A".to_vec(), b"b".to_vec())], Some(b"me".to_vec())));
        let words = read(r#"{"argv":["ls","-l"],"terminal":{"term":"xterm","cols":80,"rows":24}}"#);
        let words = words.expect("words");
        assert!(matches!(&words.program, Program::Argv(words) if words.len() == 2));
        assert_eq!(words.pty.map(|pty| (pty.term, pty.cols, pty.rows)), Some((b"xterm".to_vec(), 80, 24)));
        let shell = read(r#"{"terminal":{"term":"xterm","cols":80,"rows":24}}"#).expect("a shell");
        assert!(matches!(shell.program, Program::Shell));
        for bad in [
            "{}",
            r#"{"argv":[]}"#,
            r#"{"command":"ls","argv":["ls"]}"#,
            r#"{"command":"ls","stdin":"x"}"#,
            r#"{"terminal":{"cols":80,"rows":24}}"#,
            "[]",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn messages_are_read_strictly() {
        let read = |text: &str| serde_json::from_str::<FromClient>(text);
        assert!(matches!(read(r#"{"type":"eof"}"#), Ok(FromClient::Eof {})));
        assert!(matches!(read(r#"{"type":"signal","name":"INT"}"#), Ok(FromClient::Signal { .. })));
        assert!(matches!(read(r#"{"type":"resize","cols":1,"rows":2}"#), Ok(FromClient::Resize { .. })));
        for bad in [r#"{"type":"eof","more":1}"#, r#"{"type":"kill"}"#, "", "[]"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
