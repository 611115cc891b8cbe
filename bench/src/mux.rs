//! Many channels over one pipe (`exec:`) beside a connection for each channel (`unix:`): the same gateway, client and agent.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::bulk::{self, CIPHERS, Direction};
use crate::echo::{self, Load};
use crate::report::{Budget, Report};
use crate::side::{Kind, Side};
use crate::stats::{Series, ratio};

/// Beside a flood a key has to wait for at most what the flood has in flight, not for its end: a tenth of a second would be felt.
const BUSY_P99_MICROSECONDS: f64 = 100_000.0;

/// Measures it with servers of its own, so that nothing of the other parts is in the figures.
pub fn lines(
    work: &Path,
    binary: &Path,
    mib: u32,
    rounds: u32,
    keys: u32,
    report: &mut Report,
) -> Result<()> {
    let agent = binary.with_file_name("sandgate-agent");
    let socket = work.join("mux-agent.sock");
    let listening = Agent::start(&agent, &socket)?;
    let links = [format!("exec:'{}' --stdio", agent.display()), format!("unix:{}", socket.display())];
    let mut sides = [side("mux", work, binary, &links[0])?, side("links", work, binary, &links[1])?];
    for side in &mut sides {
        side.start()?;
        side.provision()?;
    }
    sides[1].account.follow(listening.0.id())?;
    for direction in [Direction::Download, Direction::Upload] {
        let [mux, links] = bulk::measure(&sides, CIPHERS[0], direction, mib, rounds)?;
        let name = direction.name();
        report.ratio(
            &format!("{name} over one shared pipe (`exec:`, left) and over passed pipes (`unix:`, right): CPU per GiB"),
            [&mux.cpu, &links.cpu],
            "s",
            2,
            Budget::None,
        );
        report.ratio(
            &format!("the same, {name}: wall throughput"),
            [&mux.rate, &links.rate],
            "MiB/s",
            0,
            Budget::None,
        );
    }
    let show =
        |s: &Series| format!("p50 {:.0} µs, p99 {:.0} µs (n={})", s.median(), s.percentile(99.0), s.len());
    let [mux, links] = echo::measure(&sides, Load::Idle, keys)?.map(|cost| cost.echo);
    let idle = ratio(mux.percentile(99.0), links.percentile(99.0));
    report.figure(
        "key press to echo, `exec:` and `unix:`, idle: p99",
        show(&mux),
        show(&links),
        (idle, " ×"),
        Budget::None,
    );
    let [mux, links] = echo::measure(&sides, Load::Yes, keys)?.map(|cost| cost.echo);
    report.figure(
        "key press to echo, `exec:` and `unix:`, `yes` in another channel: p99",
        show(&mux),
        show(&links),
        (mux.percentile(99.0), " µs"),
        Budget::AtMost(BUSY_P99_MICROSECONDS),
    );
    for side in &mut sides {
        side.shut_down();
    }
    Ok(())
}

fn side(label: &str, work: &Path, binary: &Path, link: &str) -> Result<Side> {
    Ok(Side::prepare(label, Kind::Sandgate, work, work, binary)?.with_link(link))
}

/// An agent on the host that listens on a socket.
struct Agent(Child, PathBuf);

impl Agent {
    fn start(program: &Path, socket: &Path) -> Result<Self> {
        let child = Command::new(program)
            .arg("--listen")
            .arg(format!("unix:{}", socket.display()))
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let agent = Self(child, socket.to_owned());
        let began = Instant::now();
        while !socket.exists() {
            if began.elapsed() > Duration::from_secs(5) {
                bail!("the agent does not listen");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(agent)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_file(&self.1);
    }
}
