//! `sandgate ssh`: a session for people on the gateway's own machine, over the control socket instead of SSH.
//!
//! It does what `ssh` does with the same words: a login shell, or the command given to the user's shell; a terminal where ssh would ask for
//! one; escape keys; forwards; the agent. Exit codes are ssh's as well: the command's own, and 255 when a signal ended it
//! or anything went wrong on the way.

mod agent;
mod bridge;
mod forward;
mod spec;

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sandgate_guest::{ExecSpec, ExitStatus, Guest, Keepalive, Program};
use sandgate_web::api::Status;
use sandgate_web::client::Client;

use crate::session::{self, End, Heard, Input, Notices, RawTerminal, Signals, View, escape, words};
use crate::values;
use forward::{Forwards, OnFailure};

/// What ssh gives when the command's own code cannot be had.
const FAILED: i32 = 255;
/// Variables of ours that the session gets, as Debian's ssh sends them.
const SENT: [&str; 2] = ["LANG", "LC_"];

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Forward the agent of SSH_AUTH_SOCK
    #[arg(short = 'A')]
    agent: bool,
    /// Listen here, connect inside: [BIND:]PORT:HOST:HOSTPORT, or a socket's path on either side; may be given several times
    #[arg(short = 'L', value_name = "FORWARD")]
    local: Vec<OsString>,
    /// Listen inside, connect here; written as for -L
    #[arg(short = 'R', value_name = "FORWARD")]
    remote: Vec<OsString>,
    /// Only forwards: no shell, no command
    #[arg(short = 'N')]
    no_command: bool,
    /// Without input: standard input is not read
    #[arg(short = 'n')]
    no_input: bool,
    /// With a terminal for a command too; twice: also when there is none here
    #[arg(short = 't', action = clap::ArgAction::Count)]
    pub tty: u8,
    /// Without a terminal
    #[arg(short = 'T', conflicts_with = "tty")]
    no_tty: bool,
    /// Key that begins an escape after a newline (~. ends the session, ~? lists the others): a character, ^ and a letter, or none
    #[arg(short = 'e', value_name = "KEY", default_value = "~")]
    escape: String,
    /// No lines of ours but errors
    #[arg(short, long)]
    quiet: bool,
    /// User inside
    #[arg(short = 'l', long, value_name = "USER")]
    user: Option<OsString>,
    /// Variable for the session; may be given several times
    #[arg(long, value_name = "K=V")]
    env: Vec<OsString>,
    /// End when a forward cannot be set up
    #[arg(long)]
    exit_on_forward_failure: bool,
    /// How often to ask whether the gateway is there; three missed answers end the session
    #[arg(long, value_name = "TIME", value_parser = values::interval, default_value = "30s")]
    keepalive: Duration,
    /// Name of the sandbox
    sandbox: String,
    /// Command for the user's shell; its words are joined by spaces
    #[arg(trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

pub async fn run(data_dir: &Path, args: Args) -> anyhow::Result<ExitCode> {
    let agent = std::env::var_os("SSH_AUTH_SOCK").filter(|_| args.agent).map(PathBuf::from);
    match serve(data_dir, args, agent).await {
        Ok(code) => session::leave(code),
        Err(error) => {
            Notices::default().say(&format!("{error:#}"));
            session::leave(FAILED)
        }
    }
}

async fn serve(data_dir: &Path, args: Args, agent: Option<PathBuf>) -> anyhow::Result<i32> {
    let escape =
        escape::parse(&args.escape).map_err(|error| anyhow::anyhow!("-e {}: {error}", args.escape))?;
    let locals = spec::parse_all("-L", &args.local)?;
    let remotes = spec::parse_all("-R", &args.remote)?;
    let keepalive = Keepalive { interval: args.keepalive, ..Keepalive::default() };
    let guest = session::reach(data_dir, &args.sandbox, keepalive).await?;
    let notices = Arc::new(Notices::default());
    let user = args.user.clone().map(values::into_bytes);

    let on_failure = if args.exit_on_forward_failure { OnFailure::End } else { OnFailure::GoOn };
    let mut forwards = Forwards::new(guest.clone(), user.clone(), notices.clone(), on_failure);
    for forward in &locals {
        forwards.local(forward).await?;
    }
    for forward in &remotes {
        forwards.remote(forward).await?;
    }
    if args.no_command {
        return only_forwards(&Client::new(data_dir), keepalive).await;
    }
    let mut exec = ExecSpec::new(program(&args.command));
    exec.user = user;
    exec.env = environment(&args.env)?;
    if args.agent {
        match &agent {
            Some(path) => match forwards.agent(path).await {
                Ok(inside) => exec.env.push((b"SSH_AUTH_SOCK".to_vec(), inside)),
                Err(error) => notices.say(&format!("the agent is not forwarded: {error:#}")),
            },
            None => notices.say("the agent is not forwarded: SSH_AUTH_SOCK is not set"),
        }
    }
    let has_pty = wants_pty(&args, &notices);
    exec.pty = has_pty.then(session::pty);
    converse(&guest, exec, &args, escape, notices, &forwards).await
}

/// The session itself. Gives the exit code.
async fn converse(
    guest: &Guest,
    exec: ExecSpec,
    args: &Args,
    escape: Option<u8>,
    notices: Arc<Notices>,
    forwards: &Forwards,
) -> anyhow::Result<i32> {
    let has_pty = exec.pty.is_some();
    let process = guest.exec(exec).await.map_err(|error| anyhow::Error::msg(words(&error)))?;
    let mut heard = Heard::new().context("signals cannot be handled")?;
    let input = if args.no_input { Input::Nothing } else { Input::Ours };
    // Nobody types into a terminal that is not read.
    let typed = has_pty && input == Input::Ours;
    let raw = if typed { RawTerminal::enter(notices.clone())? } else { None };
    let mut view = View {
        input,
        raw,
        has_pty,
        escape: escape.filter(|_| typed),
        signals: Signals::End,
        notices: notices.clone(),
        forwards: forwards.lines(),
    };
    let end = session::talk(process, &mut view, &mut heard).await;
    drop(view);
    let end = match end? {
        // What is forwarded may outlive the session, as with ssh.
        End::Exited(status) => tokio::select! {
            biased;
            () = forwards.idle() => End::Exited(status),
            signal = heard.next_end() => End::Killed(signal),
        },
        end => end,
    };
    let code = match end {
        End::Exited(ExitStatus::Code(code)) => i32::try_from(code & 0xff).unwrap_or(FAILED),
        End::Exited(ExitStatus::Signal { name, .. }) => {
            if !args.quiet {
                notices.say(&format!("ended by signal {name}"));
            }
            return Ok(FAILED);
        }
        End::Lost(error) => anyhow::bail!("{}", words(&error)),
        End::Disconnected => FAILED,
        End::Killed(signal) => {
            notices.say(&format!("killed by signal {signal}"));
            return Ok(FAILED);
        }
    };
    if has_pty && !args.quiet {
        notices.plain(&format!("Connection to {} closed.", args.sandbox));
    }
    Ok(code)
}

/// Serves forwards until a signal comes, or the gateway is gone.
async fn only_forwards(client: &Client, keepalive: Keepalive) -> anyhow::Result<i32> {
    let mut heard = Heard::new().context("signals cannot be handled")?;
    let lost = async {
        let mut missed = 0;
        while missed < keepalive.max_missed {
            tokio::time::sleep(keepalive.interval).await;
            match tokio::time::timeout(keepalive.interval, client.get::<Status>("/api/v1/status")).await {
                Ok(Ok(_)) => missed = 0,
                Ok(Err(_)) | Err(_) => missed += 1,
            }
        }
    };
    tokio::select! {
        () = lost => anyhow::bail!("the gateway is not responding"),
        _ = heard.next_end() => Ok(FAILED),
    }
}

fn program(words: &[OsString]) -> Program {
    if words.is_empty() {
        return Program::Shell;
    }
    let words: Vec<Vec<u8>> = words.iter().cloned().map(values::into_bytes).collect();
    Program::Command(words.join(&b' '))
}

/// As ssh decides it.
fn wants_pty(args: &Args, notices: &Notices) -> bool {
    let asked = args.command.is_empty() || args.tty > 0;
    if args.no_tty || !asked {
        return false;
    }
    if std::io::stdin().is_terminal() && !args.no_input || args.tty > 1 {
        return true;
    }
    if !args.quiet {
        notices.plain("Pseudo-terminal will not be allocated because stdin is not a terminal.");
    }
    false
}

fn environment(given: &[OsString]) -> anyhow::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let sent =
        |name: &OsString| name.to_str().is_some_and(|name| name == SENT[0] || name.starts_with(SENT[1]));
    let mut list: Vec<(Vec<u8>, Vec<u8>)> = std::env::vars_os()
        .filter(|(name, _)| sent(name))
        .map(|(name, value)| (values::into_bytes(name), values::into_bytes(value)))
        .collect();
    list.extend(values::variables(given)?);
    Ok(list)
}
