//! Short commands: over a new connection each, and over one multiplexed connection.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::side::Side;
use crate::stats::Series;

/// Milliseconds of `ssh host true` from start to exit, a new connection each, the sides in turn.
pub fn new_connections(sides: &[Side; 2], pairs: u32) -> Result<[Series; 2]> {
    alternate(sides, pairs, |side| side.ssh(&[]))
}

/// Milliseconds of `ssh host true` over a control master that is already connected, the sides in turn.
pub fn multiplexed(sides: &[Side; 2], pairs: u32) -> Result<[Series; 2]> {
    let masters = [Master::start(&sides[0])?, Master::start(&sides[1])?];
    let result = alternate(sides, pairs, |side| side.ssh(&["-S", &side.control_path()]));
    drop(masters);
    result
}

fn alternate(sides: &[Side; 2], pairs: u32, client: impl Fn(&Side) -> Command) -> Result<[Series; 2]> {
    let mut series = [Series::default(), Series::default()];
    for _ in 0..pairs {
        for (side, series) in sides.iter().zip(&mut series) {
            let mut command = client(side);
            command.arg("true");
            let began = Instant::now();
            let status = command.status()?;
            if !status.success() {
                bail!("{}: `true` ended with {status}", side.label);
            }
            series.push(began.elapsed().as_secs_f64() * 1000.0);
        }
    }
    Ok(series)
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
