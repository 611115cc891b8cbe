//! `sandgate exec`: a command in a sandbox, with this terminal or these pipes.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use sandgate_guest::{ExecSpec, Keepalive, Program};

use crate::session::{self, End, Heard, Input, Notices, RawTerminal, Signals, View, shell_code, words};
use crate::values;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the sandbox
    sandbox: String,
    /// With a terminal
    #[arg(short = 't', long)]
    pub tty: bool,
    /// User inside
    #[arg(short, long, value_name = "USER")]
    user: Option<OsString>,
    /// Variable for the command; may be given several times
    #[arg(short, long, value_name = "K=V")]
    env: Vec<OsString>,
    /// How often to ask whether the gateway is there; three missed answers end the session
    #[arg(long, value_name = "TIME", value_parser = values::interval, default_value = "30s")]
    keepalive: std::time::Duration,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

pub async fn run(data_dir: &Path, args: Args) -> anyhow::Result<ExitCode> {
    let argv = args.command.into_iter().map(values::into_bytes).collect();
    let mut spec = ExecSpec::new(Program::Argv(argv));
    spec.env = values::variables(&args.env)?;
    spec.user = args.user.map(values::into_bytes);
    spec.pty = args.tty.then(session::pty);
    let keepalive = Keepalive { interval: args.keepalive, ..Keepalive::default() };
    let guest = session::reach(data_dir, &args.sandbox, keepalive).await?;
    let process = guest.exec(spec).await.map_err(|error| anyhow::Error::msg(words(&error)))?;
    let mut heard = Heard::new().context("signals cannot be handled")?;
    let notices = Arc::new(Notices::default());
    let raw = if args.tty { RawTerminal::enter(notices.clone())? } else { None };
    let mut view = View {
        input: Input::Ours,
        raw,
        has_pty: args.tty,
        escape: None,
        signals: Signals::PassOn,
        notices,
        forwards: Vec::new(),
    };
    let end = session::talk(process, &mut view, &mut heard).await;
    drop(view);
    match end? {
        End::Exited(status) => session::leave(shell_code(&status)),
        End::Lost(error) => bail!("{}", words(&error)),
        End::Disconnected => session::leave(1),
        End::Killed(signal) => session::leave(128 + signal),
    }
}
