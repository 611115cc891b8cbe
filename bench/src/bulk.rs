//! Bulk transfer over one exec channel, each way, with each of the two ciphers that clients pick.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::side::Side;
use crate::stats::Series;

/// Which way the bytes go, seen from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the server's command to the client.
    Download,
    /// From the client to the server's command.
    Upload,
}

impl Direction {
    /// The word for the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Download => "download",
            Self::Upload => "upload",
        }
    }
}

/// The ciphers of the budget.
pub const CIPHERS: [&str; 2] = ["aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"];

/// What one side needed for one GiB, or another amount that the caller names.
#[derive(Debug, Default)]
pub struct Cost {
    /// CPU seconds of all server processes.
    pub cpu: Series,
    /// Throughput: MiB, or the caller's unit, per second of wall time.
    pub rate: Series,
}

/// Moves `mib` MiB `rounds` times on each side in turn.
pub fn measure(
    sides: &[Side; 2],
    cipher: &str,
    direction: Direction,
    mib: u32,
    rounds: u32,
) -> Result<[Cost; 2]> {
    let mut costs = [Cost::default(), Cost::default()];
    for _ in 0..rounds {
        for (side, cost) in sides.iter().zip(&mut costs) {
            let before = side.account.cpu_seconds()?;
            let wall = transfer(side, cipher, direction, mib)?;
            settle(side)?;
            let cpu = side.account.cpu_seconds()? - before;
            cost.cpu.push(cpu * 1024.0 / f64::from(mib));
            cost.rate.push(f64::from(mib) / wall.as_secs_f64());
        }
    }
    Ok(costs)
}

/// Waits until the server has finished with the connection, so that its last work is counted in this run.
pub fn settle(side: &Side) -> Result<()> {
    let mut last = side.account.cpu_seconds()?;
    for _ in 0..40 {
        std::thread::sleep(Duration::from_millis(50));
        let now = side.account.cpu_seconds()?;
        // Under a millisecond in fifty is the idle noise of either server.
        if now - last < 0.001 {
            break;
        }
        last = now;
    }
    Ok(())
}

fn transfer(side: &Side, cipher: &str, direction: Direction, mib: u32) -> Result<Duration> {
    let mut command = side.ssh(&["-c", cipher]);
    let mut source = None;
    match direction {
        Direction::Download => {
            // `dd` with large blocks costs least, and its cost counts for both servers.
            command.arg(format!("dd if=/dev/zero bs=1M count={mib} status=none")).stdout(Stdio::null());
        }
        Direction::Upload => {
            let mut zeros = Command::new("dd")
                .args(["if=/dev/zero", "bs=1M", &format!("count={mib}"), "status=none"])
                .stdout(Stdio::piped())
                .spawn()
                .context("starting dd")?;
            command.arg("cat >/dev/null").stdin(zeros.stdout.take().context("dd has no stdout")?);
            source = Some(zeros);
        }
    }
    let began = Instant::now();
    let status = command.status().context("starting ssh")?;
    let took = began.elapsed();
    if let Some(mut zeros) = source {
        let fed = zeros.wait()?;
        if !fed.success() {
            bail!("{}: the upload was not taken in full", side.label);
        }
    }
    if !status.success() {
        bail!("{}: {} with {cipher} ended with {status}", side.label, direction.name());
    }
    Ok(took)
}
