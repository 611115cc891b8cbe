//! `sandgate serve`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sandgate_gateway::Config;

use crate::paths;
use crate::server::{PortTaken, Server};

#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// Where to serve SSH; port 0 takes a free one [default: 127.0.0.1:2222]
    #[arg(long, value_name = "ADDR:PORT")]
    pub ssh_listen: Option<SocketAddr>,
    /// Where to serve the HTTP API; not at all, if not said
    #[arg(long, value_name = "ADDR:PORT")]
    pub http_listen: Option<SocketAddr>,
    /// Configuration file; flags win over it
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// The guest agent's binary [default: beside this program]
    #[arg(long, value_name = "FILE")]
    pub agent: Option<PathBuf>,
}

impl ServeArgs {
    /// Defaults, the file over them, the flags over that.
    pub fn config(self, data_dir: &Path) -> anyhow::Result<Config> {
        let mut config = Config::new(data_dir, paths::agent(self.agent)?);
        if let Some(file) = &self.config {
            config.apply_file(file)?;
        }
        if let Some(address) = self.ssh_listen {
            config.ssh_listen = address;
        }
        if let Some(address) = self.http_listen {
            config.http_listen = Some(address);
        }
        Ok(config)
    }
}

pub async fn run(data_dir: &Path, args: ServeArgs) -> anyhow::Result<ExitCode> {
    let server = Server::start(args.config(data_dir)?, PortTaken::Fail, PortTaken::Fail).await?;
    Ok(server.run().await)
}
