//! What an idle connection with an open shell costs in memory, and how fast a server comes up.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::account::{command_name, pss_bytes};
use crate::side::Side;
use crate::stats::Series;

/// Memory per idle session, KiB of proportional set size.
#[derive(Debug, Default, Clone, Copy)]
pub struct PerSession {
    /// The processes outside the sandbox: gateway, or sshd and its children.
    pub server: f64,
    /// The agent's processes inside the sandbox; nothing for sshd.
    pub agent: f64,
    /// The user's own shell, the same on both sides; for comparison only.
    pub shell: f64,
}

/// Opens `count` connections with a shell each and compares before and after.
pub fn memory(side: &Side, count: u32) -> Result<PerSession> {
    // Ten sessions come and go first: what a server allocates once is not the price of one session.
    drop(open(side, 10)?);
    std::thread::sleep(Duration::from_secs(2));
    let before = totals(side)?;
    let sessions = open(side, count)?;
    std::thread::sleep(Duration::from_secs(2));
    let after = totals(side)?;
    drop(sessions);
    let per = |a: u64, b: u64| (b as f64 - a as f64) / 1024.0 / f64::from(count);
    Ok(PerSession {
        server: per(before.0, after.0),
        agent: per(before.1, after.1),
        shell: per(before.2, after.2),
    })
}

/// Bytes of (server, agent, everything else that runs for users).
pub(crate) fn totals(side: &Side) -> Result<(u64, u64, u64)> {
    let mut sums = (0, 0, 0);
    for pid in side.account.pids()? {
        let pss = pss_bytes(pid);
        match command_name(pid).as_str() {
            // The agent is executed inside the sandbox under the name of its mount.
            "agent" | "sandgate-agent" => sums.1 += pss,
            name if name.starts_with("sandgate") || name.starts_with("sshd") => sums.0 += pss,
            _ => sums.2 += pss,
        }
    }
    Ok(sums)
}

struct Session(Child);

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn open(side: &Side, count: u32) -> Result<Vec<Session>> {
    let mut sessions = Vec::new();
    for _ in 0..count {
        // Standard input stays open for as long as the child is held; the prompt is not read by anybody.
        let mut session = Session(
            side.ssh(&["-tt"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?,
        );
        // Both servers limit how many may be in the handshake at once.
        std::thread::sleep(Duration::from_millis(40));
        if let Some(status) = session.0.try_wait()? {
            bail!("{}: session {} ended with {status}", side.label, sessions.len() + 1);
        }
        sessions.push(session);
    }
    std::thread::sleep(Duration::from_secs(1));
    for (index, session) in sessions.iter_mut().enumerate() {
        if let Some(status) = session.0.try_wait()? {
            bail!("{}: session {} of {count} ended with {status}", side.label, index + 1);
        }
    }
    Ok(sessions)
}

/// Milliseconds from the start of the server process to the first byte of its version line.
pub fn start_times(sides: &mut [Side; 2], rounds: u32) -> Result<[Series; 2]> {
    let mut series = [Series::default(), Series::default()];
    for _ in 0..rounds {
        for (side, series) in sides.iter_mut().zip(&mut series) {
            side.stop();
            series.push(side.start()?.as_secs_f64() * 1000.0);
        }
    }
    Ok(series)
}
