//! A process in a sandbox with this terminal or these pipes: what `exec` and `ssh` have in common.

pub mod escape;
mod exit;
mod modes;
mod notices;
mod signals;
mod stdio;
mod terminal;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Signal, getpid, kill_process};
use rustix::stdio::{stderr, stdout};
use sandgate_guest::{
    ExitStatus, Guest, GuestError, Keepalive, Process, ProcessControl, ProcessInput, ProcessOutput, Ready,
    Timeouts,
};
use sandgate_web::LinkDial;
use sandgate_web::client::Client;
use tokio::sync::mpsc;

use escape::{Action, Escape, Piece};
pub use exit::shell_code;
pub use notices::Notices;
pub use signals::Heard;
use stdio::CHUNK;
pub use terminal::{RawTerminal, pty};

/// Time for the gateway's answer to a request: it may have to start the sandbox first. A gateway that hangs is found by keepalives.
const START_TIME: Duration = Duration::from_secs(300);
/// Keys that wait for their action; whoever types faster waits.
const ACTIONS: usize = 4;

/// The way to a sandbox through the gateway of `data_dir`; fails at once and plainly when one of them is not there.
pub async fn reach(data_dir: &Path, sandbox: &str, keepalive: Keepalive) -> anyhow::Result<Guest> {
    let dial = LinkDial::new(Client::new(data_dir), sandbox).await?;
    let timeouts = Timeouts { open: START_TIME, keepalive, ..Timeouts::default() };
    Ok(Guest::with_timeouts(Arc::new(dial), timeouts))
}

/// An error as the user reads it: on this side of the gateway, "the agent" of the library is the gateway.
pub fn words(error: &GuestError) -> String {
    match error {
        GuestError::Refused { text, .. } | GuestError::Network { text, .. } | GuestError::Dial(text) => {
            text.clone()
        }
        GuestError::NotResponding { missed, interval } => {
            format!("the gateway is not responding: {missed} keepalives of {interval:?} went unanswered")
        }
        GuestError::LinkLost | GuestError::SandboxGone => "the gateway ended the connection".to_owned(),
        GuestError::Timeout { .. } => "the gateway did not answer in time".to_owned(),
        other => other.to_string(),
    }
}

/// What signals to this program do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signals {
    /// They are for the process inside.
    PassOn,
    /// They end this program, as with ssh.
    End,
}

/// What the process reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Our standard input.
    Ours,
    /// Nothing: ours is left to others, as with `ssh -n`.
    Nothing,
}

/// How the user sees the process.
pub struct View {
    pub input: Input,
    /// The terminal here, when it is raw.
    pub raw: Option<RawTerminal>,
    /// Whether the process has a terminal.
    pub has_pty: bool,
    /// The key that begins an escape at the start of a line.
    pub escape: Option<u8>,
    pub signals: Signals,
    /// Lines of ours.
    pub notices: Arc<Notices>,
    /// Lines for `~#`.
    pub forwards: Vec<String>,
}

/// How it came to an end.
#[derive(Debug)]
pub enum End {
    Exited(ExitStatus),
    /// The way to the process was lost, or it was ended from the other side.
    Lost(GuestError),
    /// By the escape key.
    Disconnected,
    /// By a signal to this program, for [`Signals::End`].
    Killed(i32),
}

/// Passes everything in both directions until the process has ended.
pub async fn talk(process: Process, view: &mut View, heard: &mut Heard) -> anyhow::Result<End> {
    let (input, output, control) = process.split();
    let (send_action, mut actions) = mpsc::channel(ACTIONS);
    let escape = view.escape.map(Escape::new);
    let typing = tokio::spawn(send_input(input, view.input, escape, send_action));
    // One future for all of it: what was taken from the process is not lost when something else happens, and a reader that stops holds up
    // nothing else.
    let mut showing = std::pin::pin!(show(output));
    let end = loop {
        tokio::select! {
            end = &mut showing => break end,
            Some(action) = actions.recv() => {
                if let Some(end) = act(action, view, &control)? {
                    break end;
                }
            }
            signal = heard.next() => match (signal, view.signals) {
                (Heard::RESIZED, _) => {
                    if view.has_pty {
                        // A process that has ended meanwhile needs no size.
                        let _ = control.resize(terminal::size());
                    }
                }
                (signal, Signals::PassOn) => {
                    // As above.
                    let _ = control.signal(exit::signal_name(signal));
                }
                (signal, Signals::End) => break End::Killed(signal),
            },
        }
    };
    typing.abort();
    Ok(end)
}

/// Writes what the process writes until it has ended.
async fn show(mut output: ProcessOutput) -> End {
    let mut stderr_open = true;
    let mut buffer = vec![0; CHUNK];
    loop {
        match output.ready().await {
            Ready::Stdout => {
                let Ok(read) = output.try_read(&mut buffer) else { continue };
                let taken;
                (buffer, taken) = stdio::write_all(stdout(), buffer, read).await;
                if !taken {
                    // Whoever read us has gone. The process learns it when it next writes, and may have more to do; if it cannot be told,
                    // what it writes is thrown away.
                    let _ = output.close();
                }
            }
            Ready::Stderr => {
                let Ok(read) = output.try_read(&mut buffer) else { continue };
                if stderr_open {
                    (buffer, stderr_open) = stdio::write_all(stderr(), buffer, read).await;
                }
            }
            Ready::Exit(status) => return End::Exited(status),
            Ready::LinkLost(error) => return End::Lost(error),
        }
    }
}

/// Ends this program. Not by way of main: a read of the terminal, or a write that nobody takes, may be waiting in a thread.
pub fn leave(code: i32) -> anyhow::Result<ExitCode> {
    std::process::exit(code)
}

/// Sends its input as far as the process takes it, then the end; what is typed after the escape key is not sent.
async fn send_input(
    mut input: ProcessInput,
    from: Input,
    escape: Option<Escape>,
    actions: mpsc::Sender<Action>,
) {
    if from == Input::Ours && !send_typed(&mut input, escape, actions).await {
        return;
    }
    // A process that is gone has no use for an EOF.
    let _ = input.shutdown().await;
    // The half stays: dropping it would be no loss, but there is nothing else to do either.
    std::future::pending().await
}

/// Sends standard input. False when nobody takes it any more, true at its end.
async fn send_typed(
    input: &mut ProcessInput,
    mut escape: Option<Escape>,
    actions: mpsc::Sender<Action>,
) -> bool {
    let mut buffer = vec![0; CHUNK];
    while let Some((filled, read)) = stdio::read_some(buffer).await {
        buffer = filled;
        let Some(escape) = &mut escape else {
            if input.write_all(&buffer[..read]).await.is_err() {
                return false;
            }
            continue;
        };
        for piece in escape.feed(&buffer[..read]) {
            let done = match piece {
                Piece::Data(bytes) => input.write_all(&bytes).await.is_ok(),
                Piece::Action(action) => actions.send(action).await.is_ok(),
            };
            if !done {
                return false;
            }
        }
    }
    true
}

fn act(action: Action, view: &mut View, control: &ProcessControl) -> anyhow::Result<Option<End>> {
    match action {
        Action::Disconnect => return Ok(Some(End::Disconnected)),
        Action::Help => {
            for line in escape::help(view.escape.unwrap_or(escape::DEFAULT)) {
                view.notices.plain(&line);
            }
        }
        Action::Forwards => {
            for line in &view.forwards {
                view.notices.plain(line);
            }
        }
        Action::Break => {
            // A process that has ended meanwhile needs no break.
            let _ = control.send_break(0);
        }
        Action::Suspend => {
            if let Some(raw) = &mut view.raw {
                raw.leave();
            }
            // Returns when the user lets us go on.
            kill_process(getpid(), Signal::TSTP).context("this program cannot be stopped")?;
            if let Some(raw) = &mut view.raw {
                raw.enter_again()?;
            }
            let _ = control.resize(terminal::size());
        }
    }
    Ok(None)
}
