//! Log lines on standard error.

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command, LogFormat};

/// Starts logging. `environment` is the value of RUST_LOG, which counts when no level is on the command line.
pub fn start(cli: &Cli, environment: Option<&str>) -> anyhow::Result<()> {
    let default = match cli.command {
        Command::Serve(_) => "info",
        _ => "warn",
    };
    let filter = cli.log_level.as_deref().or(environment).unwrap_or(default);
    let filter = EnvFilter::try_new(filter).with_context(|| format!("\"{filter}\" is not a log level"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match cli.log_format {
        LogFormat::Human => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
