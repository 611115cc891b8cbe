//! Short commands: over a new connection each, and over one multiplexed connection; the time of each and the servers' CPU.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::bulk::settle;
use crate::side::Side;
use crate::stats::Series;

/// Commands between two looks at the CPU account: what a server does after the client has gone still counts.
const BATCH: u32 = 10;

/// What one side needed for one command.
#[derive(Debug, Default)]
pub struct Latency {
    /// Milliseconds from the start of the client to its exit.
    pub wall: Series,
    /// Milliseconds of CPU of all server processes, each value the mean of [`BATCH`] commands.
    pub cpu: Series,
}

/// `ssh host true`, a new connection each, the sides in turn.
pub fn new_connections(sides: &[Side; 2], pairs: u32) -> Result<[Latency; 2]> {
    alternate(sides, pairs, |side| side.ssh(&[]))
}

/// `ssh host true` over a control master that is already connected, the sides in turn.
pub fn multiplexed(sides: &[Side; 2], pairs: u32) -> Result<[Latency; 2]> {
    let masters = [Master::start(&sides[0])?, Master::start(&sides[1])?];
    let result = alternate(sides, pairs, |side| side.ssh(&["-S", &side.control_path()]));
    drop(masters);
    result
}

fn alternate(sides: &[Side; 2], pairs: u32, client: impl Fn(&Side) -> Command) -> Result<[Latency; 2]> {
    let mut costs = [Latency::default(), Latency::default()];
    for _ in 0..pairs.div_ceil(BATCH) {
        let before = [sides[0].account.cpu_seconds()?, sides[1].account.cpu_seconds()?];
        for _ in 0..BATCH {
            for (side, cost) in sides.iter().zip(&mut costs) {
                let mut command = client(side);
                command.arg("true");
                let began = Instant::now();
                let status = command.status()?;
                if !status.success() {
                    bail!("{}: `true` ended with {status}", side.label);
                }
                cost.wall.push(began.elapsed().as_secs_f64() * 1000.0);
            }
        }
        for ((side, cost), before) in sides.iter().zip(&mut costs).zip(before) {
            settle(side)?;
            let cpu = side.account.cpu_seconds()? - before;
            cost.cpu.push(cpu * 1000.0 / f64::from(BATCH));
        }
    }
    Ok(costs)
}

/// A control master of the stock client.
#[derive(Debug)]
pub struct Master {
    child: Child,
    path: String,
}

impl Master {
    /// Connects a master and waits until its socket is there.
    pub fn start(side: &Side) -> Result<Self> {
        let path = side.control_path();
        let _ = std::fs::remove_file(&path);
        let child =
            side.ssh(&["-N", "-M", "-S", &path]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut master = Self { child, path };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !std::path::Path::new(&master.path).exists() {
            if Instant::now() > deadline || master.child.try_wait()?.is_some() {
                bail!("{}: no control master", side.label);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(master)
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.path);
    }
}
