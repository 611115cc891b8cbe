//! One session channel from its opening to its close.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sandgate_driver::Progress;
use sandgate_guest::{ExitStatus, ProcessControl, WindowSize};
use sandgate_policy::Principal;
use sandgate_ssh::driver::{Channel, ChannelWriter, Request, RequestQuestion, Requests};
use sandgate_ssh::event::{ChannelRequest, CoreDump, ExitSignal, StreamKind, X11Request};
use tokio::sync::{Notify, mpsc};

use super::agent_channel::ClientAgent;
use super::forward::{ForSession, Settled};
use super::pump::{self, OutputEnd};
use super::setup::{self, Setup};
use super::waiting::{End, TICK, WaitLine};
use super::x11::Display;
use crate::agent_forward::AgentForwarding;
use crate::gateway::Gateway;
use crate::metrics::ChannelKind;
use crate::session::{self, EndSignal, Outcome, Peer, RunningSession, SessionRequest, Traffic};
use crate::telemetry::Trace;

/// Exit status of a session that we could not start or had to end: what `ssh` itself uses for its own errors.
const FAILED: u32 = 255;
/// How long a last line may take to reach a client whose window is full.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Steps of a start kept for a client that does not read them; later ones are dropped, the reason of a failure never is.
const MAX_STEPS: usize = 16;

/// Whether the session has a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Terminal {
    Yes,
    No,
}

impl Terminal {
    /// How a line of ours ends: a client's own terminal is raw while it shows a remote one.
    fn eol(self) -> &'static str {
        match self {
            Self::Yes => "\r\n",
            Self::No => "\n",
        }
    }
}

/// What a session has of its connection.
pub(super) struct Standing {
    pub(super) principal: Principal,
    pub(super) peer: Peer,
    pub(super) trace: Trace,
    /// Resolves when the connection is to end.
    pub(super) end: EndSignal,
}

/// Runs the channel. Dropping the future hangs up the process.
pub(super) async fn run(
    gateway: Arc<Gateway>,
    standing: Standing,
    channel: Channel,
    user_agent: ClientAgent,
    listeners: ForSession,
) {
    let _counted = gateway.metrics.channels.enter(ChannelKind::Session);
    let Standing { principal, peer, trace, end: mut connection_end } = standing;
    let Channel { mut requests, reader, mut writer } = channel;
    let ForSession { arrivals, settled } = listeners;
    let Some(Setup { program, pty, terminal_withheld, env, agent, x11 }) =
        setup::collect(&mut requests, &gateway.config.session.accept_env, &principal).await
    else {
        return;
    };
    let terminal = if pty.is_some() { Terminal::Yes } else { Terminal::No };
    let eol = terminal.eol();
    if terminal_withheld {
        say(&mut writer, session::NO_TERMINAL, eol).await;
    }
    let mut wait = WaitLine::new(pty.as_ref().map(|pty| pty.cols), eol);
    let request = SessionRequest { program, pty, env, agent, user: None, peer: Some(peer), trace };

    let started = tokio::select! {
        started = start(&gateway, &principal, request, x11, settled, &mut writer, &mut wait) => started,
        reason = connection_end.ended() => {
            write(&mut writer, wait.end(End::Failed, Instant::now())).await;
            return say_and_close(writer, reason.text(), eol).await;
        }
    };
    let (session, display) = match started {
        Ok(started) => started,
        Err(error) => {
            tracing::warn!(sandbox = principal.sandbox_name, %error, "session not started");
            return say_and_close(writer, &error.to_string(), eol).await;
        }
    };
    let RunningSession { mut input, mut output, control, agent, mut record } = session;
    if let AgentForwarding::Refused(reason) = &agent {
        record.said(&line(reason, eol));
        say(&mut writer, reason, eol).await;
    }
    let traffic = record.traffic().clone();
    let mut session_end = record.end_signal();

    let unwanted = Notify::new();
    // The requests end when the client closes the channel, which it may do (a ControlMaster client that was killed) while the
    // process is silent and the connection lives on.
    let closed_by_client = async {
        tokio::select! {
            () = follow_requests(&mut requests, &control, terminal, &unwanted, &traffic) => {}
            () = async {
                pump::input(reader, &mut input, &traffic).await;
                std::future::pending().await
            } => {}
        }
    };
    // With the session end all connections to the agent, and the socket.
    let forward_agent = async {
        match agent {
            AgentForwarding::On(agent) => agent.run(&user_agent).await,
            AgentForwarding::Off | AgentForwarding::Refused(_) => std::future::pending().await,
        }
    };
    // The listener and the cookie end with the session; what is connected lives on.
    let serve_display = async {
        match display {
            Some(display) => display.serve(&arrivals).await,
            None => std::future::pending().await,
        }
    };
    let end = tokio::select! {
        end = pump::output(&mut writer, &mut output, &traffic, &unwanted) => Ok(end),
        reason = connection_end.ended() => Err(reason),
        reason = session_end.ended() => Err(reason),
        () = closed_by_client => return,
        () = forward_agent => return,
        () = serve_display => return,
    };
    match end {
        Ok(OutputEnd::Exit(status)) => {
            send_exit(&mut writer, &status);
            record.finish(Outcome::Exited(status));
            writer.eof();
            writer.close();
        }
        Ok(OutputEnd::LinkLost(error)) => {
            tracing::warn!(session = record.id(), sandbox = principal.sandbox_name, %error, "link to the guest lost");
            record.finish(Outcome::LinkLost);
            let text = format!("The session ended: {error}.");
            record.said(&line(&text, eol));
            say_and_close(writer, &text, eol).await;
        }
        Ok(OutputEnd::ChannelClosed) => {}
        Err(reason) => {
            control.hangup();
            record.finish(Outcome::Ended(reason.text().to_owned()));
            record.said(&line(reason.text(), eol));
            say_and_close(writer, reason.text(), eol).await;
        }
    }
}

/// Opens the session's display and answers the request for it. Without one the session starts all the same; stock `ssh` says that the request
/// failed, and our log why.
async fn display(
    gateway: &Gateway,
    principal: &Principal,
    asked: &X11Request,
    question: RequestQuestion,
    progress: &dyn Progress,
) -> Option<Display> {
    match Display::open(gateway, principal, asked, progress).await {
        Ok(display) => {
            question.accept();
            Some(display)
        }
        Err(error) => {
            tracing::warn!(
                sandbox = principal.sandbox_name,
                credential = %principal.credential,
                %error,
                "X11 not forwarded"
            );
            question.refuse();
            None
        }
    }
}

/// Starts the session, with the display if one was asked for, while the channel's stderr says that it waits for the sandbox.
async fn start(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    mut request: SessionRequest,
    x11: Option<(X11Request, RequestQuestion)>,
    listeners: Settled,
    writer: &mut ChannelWriter,
    wait: &mut WaitLine,
) -> Result<(RunningSession, Option<Display>), session::SessionError> {
    let (steps, mut waiting) = mpsc::channel(MAX_STEPS);
    let progress = Steps(steps);
    let mut starting = std::pin::pin!(async {
        let display = match x11 {
            Some((asked, question)) => display(gateway, principal, &asked, question, &progress).await,
            None => None,
        };
        request.env.extend(display.iter().flat_map(Display::env));
        let session = session::start_after(gateway, principal, request, &progress, listeners.wait()).await?;
        Ok((session, display))
    });
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + TICK, TICK);
    loop {
        let text = tokio::select! {
            biased;
            started = &mut starting => {
                while let Ok(step) = waiting.try_recv() {
                    write(writer, wait.step(&step, Instant::now())).await;
                }
                let end = match &started {
                    Err(session::SessionError::Sandbox(_)) => End::Failed,
                    _ => End::Up,
                };
                write(writer, wait.end(end, Instant::now())).await;
                return started;
            }
            Some(step) = waiting.recv() => wait.step(&step, Instant::now()),
            _ = ticks.tick(), if wait.ticks() => wait.tick(Instant::now()),
        };
        write(writer, text).await;
    }
}

struct Steps(mpsc::Sender<String>);

impl Progress for Steps {
    fn step(&self, text: &str) {
        // Full: the client is not reading, and the line is a courtesy.
        let _ = self.0.try_send(text.to_owned());
    }

    /// For the sandbox's owner, who finds it in `sandbox inspect` and in the log.
    fn warn(&self, _text: &str) {}
}

/// Window changes, signals and breaks, for as long as the client sends them.
async fn follow_requests(
    requests: &mut Requests,
    control: &ProcessControl,
    terminal: Terminal,
    unwanted: &Notify,
    traffic: &Traffic,
) {
    while let Some(Request { request, question }) = requests.next().await {
        let done = match request {
            ChannelRequest::WindowChange(size) => {
                traffic.resized(size.columns, size.rows);
                control.resize(WindowSize {
                    cols: size.columns,
                    rows: size.rows,
                    xpixel: size.x_pixels,
                    ypixel: size.y_pixels,
                })
            }
            ChannelRequest::Signal { name } => match std::str::from_utf8(&name) {
                Ok(name) => control.signal(name),
                Err(_) => continue,
            },
            ChannelRequest::EndOfWrite => {
                unwanted.notify_one();
                Ok(())
            }
            // Without a terminal there is nothing to break: refused, as by sshd.
            ChannelRequest::Break { milliseconds } if terminal == Terminal::Yes => {
                control.send_break(milliseconds)
            }
            _ => continue,
        };
        match done {
            Ok(()) => question.accept(),
            Err(error) => tracing::debug!(%error, "request not passed on"),
        }
    }
}

fn send_exit(writer: &mut ChannelWriter, status: &ExitStatus) {
    match status {
        ExitStatus::Code(code) => writer.exit_status(*code),
        ExitStatus::Signal { name, core_dumped, message } => writer.exit_signal(&ExitSignal {
            name: name.clone(),
            core: if *core_dumped { CoreDump::Dumped } else { CoreDump::None },
            message: message.clone(),
        }),
    }
}

fn line(text: &str, eol: &str) -> String {
    format!("sandgate: {text}{eol}")
}

/// One line on stderr, as far as the client takes it in time.
async fn say(writer: &mut ChannelWriter, text: &str, eol: &str) {
    write(writer, Some(line(text, eol))).await;
}

/// On stderr, as far as the client takes it in time.
async fn write(writer: &mut ChannelWriter, text: Option<String>) {
    if let Some(text) = text {
        let _ = tokio::time::timeout(LAST_WORDS, writer.write_all(StreamKind::Stderr, text.as_bytes())).await;
    }
}

async fn say_and_close(mut writer: ChannelWriter, text: &str, eol: &str) {
    say(&mut writer, text, eol).await;
    writer.exit_status(FAILED);
    writer.eof();
    writer.close();
}
