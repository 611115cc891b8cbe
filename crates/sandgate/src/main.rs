//! The one binary: gateway, command line and (internally) the supervisor of each sandbox.
//!
//! Exit codes: 0 done; 1 failed, with one line on standard error; 2 wrong usage. `exec` gives the command's own code,
//! and 128 plus the signal's number when a signal ended it. `ssh` gives the command's own code, and 255 for everything else, as ssh does.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking"))]

mod cli;
mod cmd;
mod logging;
mod output;
mod paths;
mod server;
mod session;
mod values;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command};

fn main() -> ExitCode {
    // The shim forks, so it must run before there is a thread or a runtime, and it parses its own arguments.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|word| word == "shim") {
        return sandgate_driver::shim::shim_main(arguments);
    }
    let cli = Cli::parse();
    let filter = std::env::var("RUST_LOG").ok();
    if let Err(error) = logging::start(&cli, filter.as_deref()) {
        return fail(&error);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let result = runtime.block_on(run(cli));
    // A read of the terminal that nobody will finish must not hold up the end.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let data_dir = paths::data_dir(cli.data_dir)?;
    match cli.command {
        Command::Up(args) => cmd::up::run(&data_dir, args).await,
        Command::Serve(args) => cmd::serve::run(&data_dir, args).await,
        Command::Sandbox(command) => cmd::sandbox::run(&data_dir, command).await,
        Command::Image(command) => cmd::image::run(&data_dir, command).await,
        Command::Token(command) => cmd::token::run(&data_dir, command).await,
        Command::Key(command) => cmd::key::run(&data_dir, command).await,
        Command::ApiKey(command) => cmd::api_key::run(&data_dir, command).await,
        Command::LoginLink(args) => cmd::api_key::login_link(&data_dir, &args).await,
        Command::Audit(args) => cmd::audit::run(&data_dir, args).await,
        Command::Session(command) => cmd::session::run(&data_dir, command).await,
        Command::Recording(command) => cmd::recording::run(&data_dir, command).await,
        Command::SshConfig(args) => cmd::ssh_config::run(&data_dir, args).await,
        Command::Ssh(args) => cmd::ssh::run(&data_dir, args).await,
        Command::Exec(args) => cmd::exec::run(&data_dir, args).await,
        Command::Cp(args) => cmd::cp::run(&data_dir, args).await,
        Command::AgentInstall(args) => cmd::agent_install::run(args),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("sandgate: {error:#}");
    ExitCode::FAILURE
}
