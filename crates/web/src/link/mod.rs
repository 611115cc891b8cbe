//! `POST /api/v1/sandboxes/{name}/link`: the gateway as a guest agent would be seen, over an upgraded connection.
//!
//! After the upgrade both sides speak the protocol of `docs/wire.md`, the client as the host. So the command line uses the client that the
//! gateway itself uses (`sandgate-guest`), with its credit, half-closes, keepalives and retries, and there is one protocol instead
//! of two. Each connection serves one request: a process (through the session core), a connection into the sandbox, a listener in it, or a
//! connection that a listener has announced.

mod client;
mod io;
mod listen;
mod pump;

use std::sync::Arc;

use axum::extract::{Extension, Path, Request, State};
use axum::response::Response;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use sandgate_driver::NoProgress;
use sandgate_gateway::Gateway;
use sandgate_gateway::agent_forward::{AgentForwarding, AgentRequest, AgentStream};
use sandgate_gateway::reach::{self, ReachError};
use sandgate_gateway::recording::{ForwardRecording, RecordingError};
use sandgate_gateway::session::{
    self, ConnectionGuard, EndSignal, Outcome, RunningSession, SessionError, SessionRequest, Traffic,
};
use sandgate_gateway::telemetry::Trace;
use sandgate_guest::{Connection, ExitStatus, GuestError, NetworkFailure, Program, PtySpec};
use sandgate_policy::{Principal, new_id};
use sandgate_wire::frame::Kind;
use sandgate_wire::message::{self, Address, Exec, Exit, Open, Opened, Reason};

use crate::caller::Caller;
use crate::problem::Problem;
use crate::upgrade;
use io::{Gone, Link};
pub(crate) use listen::Waiting;
use listen::{Call, Calls, OfferedAgent};
use pump::{PipeSource, Process, PumpEnd, Sink, Source, Stream, pump};

pub use client::LinkDial;

/// Names of offered agents begin with it. It is no path of anybody's: clients see it, sandboxes never do.
const OFFER: &str = "/offered-agent/";
/// Bytes that may be on their way to or from an agent, each way; the largest message of the agent protocol, so that a
/// whole one fits.
const AGENT_PIPE: usize = 256 * 1024;

/// The name in the `Upgrade` header.
pub(crate) const PROTOCOL: &str = "sandgate-link";

pub(crate) async fn start(
    State(gateway): State<Arc<Gateway>>,
    Extension(waiting): Extension<Arc<Waiting>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    mut request: Request,
) -> Result<Response, Problem> {
    upgrade::check(request.headers(), PROTOCOL)?;
    let principal = caller.principal(&gateway, name)?;
    let connection = gateway.registry.connect(principal.clone());
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(upgraded) => {
                let link = Link::new(TokioIo::new(upgraded), gateway.config.control_keepalive);
                Server { gateway, principal, connection, waiting, link }.serve().await;
            }
            Err(error) => tracing::debug!(%error, "the client of a link went away before it began"),
        }
    });
    Ok(upgrade::switching(PROTOCOL))
}

/// One link and what it needs to serve its request.
struct Server {
    gateway: Arc<Gateway>,
    principal: Principal,
    connection: ConnectionGuard,
    waiting: Arc<Waiting>,
    link: Link<TokioIo<Upgraded>>,
}

/// What a served request came to.
enum Served {
    /// All has been said.
    Done,
    /// The client's request could not be granted; it is told why.
    Refused(Reason, String),
    /// It was granted and has ended otherwise than by itself; the client is told why.
    Ended(String),
    /// The client has gone, or is silent, or breaks the protocol.
    Gone(Gone),
}

impl Server {
    async fn serve(mut self) {
        let (stream, open) = match self.link.request().await {
            Ok(request) => request,
            Err(gone) => return tracing::debug!(?gone, "a link ended before it was used"),
        };
        let served = match open {
            Open::Exec(exec) => self.exec(stream, *exec).await,
            Open::Dial(dial) => self.dial(stream, dial.user, dial.address).await,
            Open::Listen(asked) => self.listen(stream, asked.user, asked.address).await,
            Open::Accept(accept) => self.accept(stream, accept.id).await,
            Open::Info | Open::Machine(_) | Open::Unsupported(_) => {
                Served::Refused(Reason::Unsupported, "this gateway does not serve such requests".to_owned())
            }
        };
        let served = match served {
            Served::Done => self.deliver().await,
            other => other,
        };
        match served {
            Served::Done => {}
            Served::Refused(reason, text) => self.link.mux.refuse(stream, reason, &text),
            Served::Ended(text) => self.link.mux.refuse(0, Reason::ShuttingDown, &text),
            Served::Gone(gone @ Gone::Closed) => {
                return tracing::debug!(?gone, "the client of a link has gone");
            }
            Served::Gone(Gone::Broken(error)) => {
                return tracing::warn!(%error, "the client of a link broke the protocol");
            }
            Served::Gone(Gone::Silent) => {
                tracing::warn!(
                    sandbox = self.principal.sandbox_name,
                    missed = self.gateway.config.control_keepalive.max_missed,
                    interval = ?self.gateway.config.control_keepalive.interval,
                    "client of the control socket is not responding, link ended"
                );
                // One that was only stopped reads it when it goes on.
                self.link.mux.refuse(0, Reason::ShuttingDown, "Timeout, client not responding.");
            }
        }
        let Server { link, connection, .. } = self;
        drop(connection);
        link.finish().await;
    }

    /// Waits until the client has taken what a request has come to.
    async fn deliver(&mut self) -> Served {
        let mut cut = self.connection.end_signal();
        tokio::select! {
            delivered = self.link.deliver() => delivered.map_or_else(Served::Gone, |()| Served::Done),
            // All has been said, so the reason would be no news.
            _ = cut.ended() => Served::Done,
        }
    }

    async fn exec(&mut self, stream: u32, mut exec: Exec) -> Served {
        let exec_has_pty = exec.pty.is_some();
        let offered = take_offer(&mut exec, &self.waiting);
        let request = match session_request(exec, offered.as_ref()) {
            Ok(request) => request,
            Err(text) => return Served::Refused(Reason::BadRequest, text.to_owned()),
        };
        let eol = if exec_has_pty { "\r\n" } else { "\n" };
        let mut cut = self.connection.end_signal();
        let started = tokio::select! {
            started = session::start(&self.gateway, &self.principal, request, &NoProgress) => started,
            gone = self.link.idle() => return Served::Gone(gone),
            reason = cut.ended() => return Served::Ended(reason.text().to_owned()),
        };
        let session = match started {
            Ok(session) => session,
            Err(error) => {
                tracing::warn!(sandbox = self.principal.sandbox_name, %error, "session not started");
                return Served::Refused(session_reason(&error), error.to_string());
            }
        };
        self.link.mux.opened(stream, &Opened::Exec { passed_stdio: false, own: false });
        let RunningSession { input, output, control, agent, mut record } = session;
        if let AgentForwarding::Refused(reason) = &agent {
            let line = format!("sandgate: {reason}{eol}");
            record.said(&line);
            // It fits: nothing else was sent yet.
            self.link.mux.send_data(stream, Kind::Stderr, line.as_bytes());
        }
        let forward_agent = async {
            if let (AgentForwarding::On(forward), Some(offered)) = (agent, &offered) {
                forward.run(offered).await;
            }
            std::future::pending::<()>().await;
        };
        let traffic = record.traffic().clone();
        let mut killed = record.end_signal();
        let mut process = Process { output, control };
        let end = tokio::select! {
            end = pump(&mut self.link, stream, input, &mut process, &traffic) => end,
            reason = killed.ended() => PumpEnd::Cut(reason.text().to_owned()),
            reason = cut.ended() => PumpEnd::Cut(reason.text().to_owned()),
            () = forward_agent => PumpEnd::Gone(Gone::Closed),
        };
        match end {
            PumpEnd::Exited(exit) => {
                record.finish(Outcome::Exited(exit));
                Served::Done
            }
            PumpEnd::Lost(error) => {
                tracing::warn!(session = record.id(), sandbox = self.principal.sandbox_name, %error, "link to the guest lost");
                let text = format!("The session ended: {error}.");
                record.said(&format!("sandgate: {text}{eol}"));
                record.finish(Outcome::LinkLost);
                Served::Ended(text)
            }
            PumpEnd::Cut(text) => {
                process.control.hangup();
                record.said(&format!("sandgate: {text}{eol}"));
                record.finish(Outcome::Ended(text.clone()));
                Served::Ended(text)
            }
            PumpEnd::Gone(gone) => Served::Gone(gone),
        }
    }

    async fn dial(&mut self, stream: u32, user: Option<Vec<u8>>, address: Address) -> Served {
        let mut cut = self.connection.end_signal();
        let to = words(&address);
        let dialed = tokio::select! {
            dialed = reach::dial(&self.gateway, &self.principal, user, address, &NoProgress) => dialed,
            gone = self.link.idle() => return Served::Gone(gone),
            reason = cut.ended() => return Served::Ended(reason.text().to_owned()),
        };
        match dialed {
            Ok(connection) => {
                tracing::info!(sandbox = self.principal.sandbox_name, to, "connection opened");
                let recording = match self.recording(to).await {
                    Ok(recording) => recording,
                    Err(error) => return Served::Refused(Reason::Resources, error.to_string()),
                };
                self.link.mux.opened(stream, &Opened::Dial { passed_stdio: false });
                self.carry(stream, connection, recording, cut).await
            }
            Err(error) => {
                tracing::warn!(sandbox = self.principal.sandbox_name, to, %error, "connection not opened");
                Served::Refused(reach_reason(&error), error.to_string())
            }
        }
    }

    async fn listen(
        &mut self,
        stream: u32,
        user: Option<Vec<u8>>,
        address: message::ListenAddress,
    ) -> Served {
        if matches!(address, message::ListenAddress::AgentSocket) {
            return self.offer(stream).await;
        }
        let mut cut = self.connection.end_signal();
        let listening = tokio::select! {
            listening = reach::listen(&self.gateway, &self.principal, user, address, &NoProgress) => listening,
            gone = self.link.idle() => return Served::Gone(gone),
            reason = cut.ended() => return Served::Ended(reason.text().to_owned()),
        };
        let listener = match listening {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(sandbox = self.principal.sandbox_name, %error, "listener not opened");
                return Served::Refused(reach_reason(&error), error.to_string());
            }
        };
        tracing::info!(sandbox = self.principal.sandbox_name, port = listener.port(), "listener opened");
        let at = message::Listening { port: listener.port(), path: listener.path().to_vec() };
        self.link.mux.opened(stream, &Opened::Listen(at));
        self.announce(stream, listener, cut).await
    }

    /// Offers the client's agent to its sessions.
    async fn offer(&mut self, stream: u32) -> Served {
        let cut = self.connection.end_signal();
        let name = match new_id("agent") {
            Ok(id) => format!("{OFFER}{id}").into_bytes(),
            Err(error) => return Served::Refused(Reason::Resources, error.to_string()),
        };
        let offer = self.waiting.offer(name.clone());
        self.link.mux.opened(stream, &Opened::Listen(message::Listening { port: 0, path: name }));
        self.announce(stream, offer, cut).await
    }

    async fn announce(&mut self, stream: u32, calls: impl Calls, mut cut: EndSignal) -> Served {
        tokio::select! {
            end = listen::announce(&mut self.link, stream, calls, &self.waiting) => match end {
                listen::ListenEnd::Gone(gone) => Served::Gone(gone),
                listen::ListenEnd::Lost(error) => {
                    tracing::warn!(sandbox = self.principal.sandbox_name, %error, "listener lost");
                    Served::Ended(format!("The listener ended: {error}."))
                }
            },
            reason = cut.ended() => Served::Ended(reason.text().to_owned()),
        }
    }

    async fn accept(&mut self, stream: u32, id: u64) -> Served {
        let cut = self.connection.end_signal();
        let incoming = match self.waiting.take(id) {
            Some(Call::Inside(incoming)) => incoming,
            Some(Call::Agent(give)) => {
                let (ours, theirs) = tokio::io::duplex(AGENT_PIPE);
                let (reader, writer) = tokio::io::split(theirs);
                if give.send(AgentStream { reader: Box::new(reader), writer: Box::new(writer) }).is_ok() {
                    self.link.mux.opened(stream, &Opened::Accept { passed_stdio: false });
                    let (half, sink) = tokio::io::split(ours);
                    let source = PipeSource { half, piece: Vec::new() };
                    return self.relay(stream, sink, source, Traffic::default(), cut).await;
                }
                return gone_meanwhile();
            }
            None => return gone_meanwhile(),
        };
        let accepted = tokio::select! {
            accepted = incoming.accept() => accepted,
            gone = self.link.idle() => return Served::Gone(gone),
        };
        match accepted {
            Ok(connection) => {
                let recording = match self.recording("a listener".to_owned()).await {
                    Ok(recording) => recording,
                    Err(error) => return Served::Refused(Reason::Resources, error.to_string()),
                };
                self.link.mux.opened(stream, &Opened::Accept { passed_stdio: false });
                self.carry(stream, connection, recording, cut).await
            }
            Err(error) => {
                tracing::warn!(sandbox = self.principal.sandbox_name, %error, "connection not taken");
                Served::Refused(guest_reason(&error), error.to_string())
            }
        }
    }

    /// What a connection is recorded by, if it is.
    async fn recording(&mut self, to: String) -> Result<Option<ForwardRecording>, RecordingError> {
        let id = new_id("fwd").map_err(|_| RecordingError::BrokenOff)?;
        let mode = self.gateway.sandboxes.record_mode(&self.principal.sandbox_id);
        let mode = mode.max(self.principal.session.record);
        self.gateway.recordings.begin_forward(mode, &self.principal, &id, to).await
    }

    async fn carry(
        &mut self,
        stream: u32,
        connection: Connection,
        recording: Option<ForwardRecording>,
        cut: EndSignal,
    ) -> Served {
        let (input, output) = connection.split();
        let Some(recording) = recording else {
            return self
                .relay(stream, input, Stream { output, recorder: None }, Traffic::default(), cut)
                .await;
        };
        let recorder = recording.recorder().clone();
        let source = Stream { output, recorder: Some(recorder.clone()) };
        let served = tokio::select! {
            served = self.relay(stream, input, source, Traffic::recorded(Some(recorder)), cut) => served,
            () = recording.must_end() => Served::Ended("The connection can no longer be recorded.".to_owned()),
        };
        recording.finish(match &served {
            Served::Done => "done",
            Served::Refused(_, text) | Served::Ended(text) => text,
            Served::Gone(_) => "client gone",
        });
        served
    }

    async fn relay(
        &mut self,
        stream: u32,
        input: impl Sink,
        mut source: impl Source,
        traffic: Traffic,
        mut cut: EndSignal,
    ) -> Served {
        let end = tokio::select! {
            end = pump(&mut self.link, stream, input, &mut source, &traffic) => end,
            reason = cut.ended() => PumpEnd::Cut(reason.text().to_owned()),
        };
        match end {
            PumpEnd::Exited(_) => Served::Done,
            // Neither says it in other words than a peer that resets its connection.
            PumpEnd::Lost(GuestError::Reset) => Served::Ended(GuestError::Reset.to_string()),
            PumpEnd::Lost(error) => {
                tracing::warn!(sandbox = self.principal.sandbox_name, %error, "forwarded connection lost");
                Served::Ended(error.to_string())
            }
            PumpEnd::Cut(text) => Served::Ended(text),
            PumpEnd::Gone(gone) => Served::Gone(gone),
        }
    }
}

fn gone_meanwhile() -> Served {
    Served::Refused(Reason::NotWaiting, "the connection does not wait any more".to_owned())
}

/// The agent that the client has offered for this session. Its name means nothing inside.
fn take_offer(exec: &mut Exec, waiting: &Waiting) -> Option<OfferedAgent> {
    let is_offer =
        |(name, value): &(Vec<u8>, Vec<u8>)| name == b"SSH_AUTH_SOCK" && value.starts_with(OFFER.as_bytes());
    let at = exec.env.iter().position(is_offer)?;
    let (_, name) = exec.env.remove(at);
    waiting.agent(&name)
}

fn session_request(exec: Exec, offered: Option<&OfferedAgent>) -> Result<SessionRequest, &'static str> {
    let program = match exec.program {
        message::Program::Shell => Program::Shell,
        message::Program::Command(line) => Program::Command(line),
        message::Program::Argv(argv) if argv.first().is_none_or(Vec::is_empty) => {
            return Err("there is no command to run");
        }
        message::Program::Argv(argv) => Program::Argv(argv),
        message::Program::Files(_) => return Err("file servers are not reached this way"),
    };
    let pty = exec.pty.map(|pty| PtySpec {
        term: pty.term,
        cols: pty.size.cols,
        rows: pty.size.rows,
        xpixel: pty.size.xpixel,
        ypixel: pty.size.ypixel,
        modes: pty.modes,
    });
    let agent = offered.map_or(AgentRequest::NotAsked, |_| AgentRequest::Asked);
    let trace = Trace::default();
    Ok(SessionRequest { program, pty, env: exec.env, agent, user: exec.user, peer: None, trace })
}

fn wire_exit(status: &ExitStatus) -> Exit {
    match status {
        ExitStatus::Code(code) => Exit::Code(*code),
        ExitStatus::Signal { name, core_dumped, message } => {
            Exit::Signal { name: name.clone(), core_dumped: *core_dumped, message: message.clone() }
        }
    }
}

fn session_reason(error: &SessionError) -> Reason {
    match error {
        SessionError::Denied(_) => Reason::NotPermitted,
        SessionError::Sandbox(_) => Reason::Unreachable,
        SessionError::Guest(error) => guest_reason(error),
        SessionError::Recording(_) => Reason::Resources,
    }
}

fn reach_reason(error: &ReachError) -> Reason {
    match error {
        ReachError::Denied(_) => Reason::NotPermitted,
        ReachError::Sandbox(_) => Reason::Unreachable,
        ReachError::Guest(error) => guest_reason(error),
    }
}

/// The reason that the guest gave, where it was one.
fn guest_reason(error: &GuestError) -> Reason {
    match error {
        GuestError::Refused { reason, .. } => Reason::from_code(*reason),
        GuestError::Network { kind, .. } => match kind {
            NetworkFailure::Refused => Reason::ConnectRefused,
            NetworkFailure::NoRoute => Reason::NoRoute,
            NetworkFailure::TimedOut => Reason::ConnectTimeout,
            NetworkFailure::NameNotFound => Reason::NameNotFound,
            NetworkFailure::NotFound => Reason::NotFound,
            NetworkFailure::AddressInUse => Reason::AddressInUse,
            NetworkFailure::NotWaiting => Reason::NotWaiting,
            NetworkFailure::AccessDenied => Reason::AccessDenied,
            _ => Reason::Unreachable,
        },
        _ => Reason::Unreachable,
    }
}

/// An address for logs.
fn words(address: &Address) -> String {
    match address {
        Address::Tcp { host, port } => format!("{}:{port}", host.escape_ascii()),
        Address::Unix { path } => path.escape_ascii().to_string(),
    }
}
