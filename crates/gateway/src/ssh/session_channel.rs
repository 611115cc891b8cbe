//! One session channel from its opening to its close.

use std::sync::Arc;
use std::time::Duration;

use sandgate_driver::Progress;
use sandgate_guest::{ExitStatus, ProcessControl, WindowSize};
use sandgate_policy::Principal;
use sandgate_ssh::driver::{Channel, ChannelWriter, Request, Requests};
use sandgate_ssh::event::{ChannelRequest, CoreDump, ExitSignal, StreamKind};
use tokio::sync::{Notify, mpsc};

use super::pump::{self, OutputEnd};
use super::setup::{self, Setup};
use crate::gateway::Gateway;
use crate::session::{self, EndSignal, Outcome, Peer, RunningSession, SessionRequest};

/// Exit status of a session that we could not start or had to end: what `ssh` itself uses for its own errors.
const FAILED: u32 = 255;
/// How long a last line may take to reach a client whose window is full.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Lines of progress kept for a client that does not read them; later ones are dropped, the reason of a failure never is.
const MAX_PROGRESS_LINES: usize = 16;

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

/// Runs the channel. Dropping the future hangs up the process.
pub(super) async fn run(
    gateway: Arc<Gateway>,
    principal: Principal,
    peer: Peer,
    channel: Channel,
    mut connection_end: EndSignal,
) {
    let Channel { mut requests, reader, mut writer } = channel;
    let Some(Setup { program, pty, env }) =
        setup::collect(&mut requests, &gateway.config.session.accept_env).await
    else {
        return;
    };
    let terminal = if pty.is_some() { Terminal::Yes } else { Terminal::No };
    let eol = terminal.eol();
    let request = SessionRequest { program, pty, env, user: None, peer: Some(peer) };

    let started = tokio::select! {
        started = start(&gateway, &principal, request, &mut writer, eol) => started,
        reason = connection_end.ended() => return say_and_close(writer, reason.text(), eol).await,
    };
    let session = match started {
        Ok(session) => session,
        Err(error) => {
            tracing::warn!(sandbox = principal.sandbox_name, %error, "session not started");
            return say_and_close(writer, &error.to_string(), eol).await;
        }
    };
    let RunningSession { mut input, mut output, control, mut record } = session;
    let traffic = record.traffic().clone();
    let mut session_end = record.end_signal();

    let unwanted = Notify::new();
    // The requests end when the client closes the channel, which it may do (a ControlMaster client that was killed) while the
    // process is silent and the connection lives on.
    let closed_by_client = async {
        tokio::select! {
            () = follow_requests(&mut requests, &control, terminal, &unwanted) => {}
            () = async {
                pump::input(reader, &mut input, &traffic).await;
                std::future::pending().await
            } => {}
        }
    };
    let end = tokio::select! {
        end = pump::output(&mut writer, &mut output, &traffic, &unwanted) => Ok(end),
        reason = connection_end.ended() => Err(reason),
        reason = session_end.ended() => Err(reason),
        () = closed_by_client => return,
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
            say_and_close(writer, &format!("The session ended: {error}."), eol).await;
        }
        Ok(OutputEnd::ChannelClosed) => {}
        Err(reason) => {
            control.hangup();
            record.finish(Outcome::Ended(reason.text().to_owned()));
            say_and_close(writer, reason.text(), eol).await;
        }
    }
}

/// Starts the session while what it waits for is shown on the channel's stderr.
async fn start(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    request: SessionRequest,
    writer: &mut ChannelWriter,
    eol: &str,
) -> Result<RunningSession, session::SessionError> {
    let (lines, mut waiting) = mpsc::channel(MAX_PROGRESS_LINES);
    let progress = ProgressLines(lines);
    let mut starting = std::pin::pin!(session::start(gateway, principal, request, &progress));
    loop {
        let line: String = tokio::select! {
            biased;
            started = &mut starting => {
                while let Ok(line) = waiting.try_recv() {
                    say(writer, &line, eol).await;
                }
                return started;
            }
            Some(line) = waiting.recv() => line,
        };
        say(writer, &line, eol).await;
    }
}

struct ProgressLines(mpsc::Sender<String>);

impl Progress for ProgressLines {
    fn step(&self, text: &str) {
        // Full: the client is not reading, and the line is a courtesy.
        let _ = self.0.try_send(text.to_owned());
    }

    fn warn(&self, text: &str) {
        self.step(text);
    }
}

/// Window changes, signals and breaks, for as long as the client sends them.
async fn follow_requests(
    requests: &mut Requests,
    control: &ProcessControl,
    terminal: Terminal,
    unwanted: &Notify,
) {
    while let Some(Request { request, question }) = requests.next().await {
        let done = match request {
            ChannelRequest::WindowChange(size) => control.resize(WindowSize {
                cols: size.columns,
                rows: size.rows,
                xpixel: size.x_pixels,
                ypixel: size.y_pixels,
            }),
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

/// One line on stderr, as far as the client takes it in time.
async fn say(writer: &mut ChannelWriter, text: &str, eol: &str) {
    let line = format!("sandgate: {text}{eol}");
    let _ = tokio::time::timeout(LAST_WORDS, writer.write_all(StreamKind::Stderr, line.as_bytes())).await;
}

async fn say_and_close(mut writer: ChannelWriter, text: &str, eol: &str) {
    say(&mut writer, text, eol).await;
    writer.exit_status(FAILED);
    writer.eof();
    writer.close();
}
