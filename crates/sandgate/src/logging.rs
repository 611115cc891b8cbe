//! Log lines on standard error.

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command, LogFormat};

/// Writes whole messages of WebSockets at its level `trace`: tickets, and what is typed into terminals.
const TELLTALE: &str = "tungstenite=off";

/// Starts logging. `environment` is the value of RUST_LOG, which counts when no level is on the command line.
pub fn start(cli: &Cli, environment: Option<&str>) -> anyhow::Result<()> {
    let default = match cli.command {
        Command::Serve(_) => "info",
        _ => "warn",
    };
    let filter = cli.log_level.as_deref().or(environment).unwrap_or(default);
    let filter = discreet(filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match cli.log_format {
        LogFormat::Human => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// The filter that was asked for, without the library that would tell secrets, whatever was asked for.
fn discreet(filter: &str) -> anyhow::Result<EnvFilter> {
    let asked = EnvFilter::try_new(filter).with_context(|| format!("\"{filter}\" is not a log level"))?;
    Ok(asked.add_directive(TELLTALE.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_filter_shows_messages_of_websockets() {
        for filter in ["trace", "tungstenite=trace", "info,tungstenite=debug"] {
            let filter = discreet(filter).expect("a filter").to_string();
            assert!(filter.contains(TELLTALE) && !filter.contains("tungstenite=trace"), "{filter}");
        }
        assert!(discreet("no=such=level").is_err());
    }
}
