//! Where things are: the data directory and the agent.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// Name of the agent's binary.
const AGENT: &str = "sandgate-agent";

/// The data directory, absolute: the one that was asked for, else the usual one of this user.
pub fn data_dir(asked: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let directory = match asked {
        Some(directory) => directory,
        None if rustix::process::geteuid().is_root() => PathBuf::from("/var/lib/sandgate"),
        None => match std::env::home_dir() {
            Some(home) if !home.as_os_str().is_empty() => home.join(".local/share/sandgate"),
            _ => bail!("this user has no home directory; say where to keep data with --data-dir"),
        },
    };
    std::path::absolute(&directory)
        .with_context(|| format!("the path {} cannot be used", directory.display()))
}

/// The agent: the one that was asked for, else beside this program, else where packages put it.
pub fn agent(asked: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(path) = asked {
        let path = std::path::absolute(path)?;
        if path.is_file() {
            return Ok(path);
        }
        bail!("there is no agent at {}", path.display());
    }
    let program = std::env::current_exe().context("this program's own path cannot be found")?;
    let beside = program.parent().unwrap_or(Path::new("/"));
    let candidates = [
        beside.join(AGENT),
        beside.join("../lib/sandgate").join(AGENT),
        beside.join("../agent/x86_64-unknown-linux-gnu/agent").join(AGENT),
    ];
    match candidates.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => bail!(
            "the guest agent {AGENT} is not beside {}; build it with `make build` or name it with --agent",
            program.display()
        ),
    }
}
