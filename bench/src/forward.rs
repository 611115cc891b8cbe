//! One forwarded TCP connection, `-L` and `-R`, each way.

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::bulk::{Cost, settle};
use crate::floor;
use crate::peer::{self, Role};
use crate::report::{Budget, Report};
use crate::side::{Side, free_port};
use crate::stats::Series;

/// How long a listener on the client's side may take to be there.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which option of the client is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `-L`: the server connects.
    Local,
    /// `-R`: the server listens.
    Remote,
}

/// This program in the directory that both servers' sessions see.
pub struct Peer(PathBuf);

impl Peer {
    /// Puts it there.
    pub fn install(ground: &Path) -> Result<Self> {
        let path = ground.join("peer");
        std::fs::copy("/proc/self/exe", &path).context("copying the bench into the shared directory")?;
        Ok(Self(path))
    }

    /// The command line of one end in a session of `side`.
    pub fn command(&self, side: &Side, way: &str, port: u16, role: Role, bytes: u64) -> String {
        format!("{} peer {way} {port} {} {bytes}", side.sees(&self.0).display(), role.name())
    }
}

/// Measures all of it and adds its lines.
pub fn lines(sides: &[Side; 2], peer: &Peer, mib: u32, rounds: u32, report: &mut Report) -> Result<()> {
    for (way, option) in [(Way::Local, "-L"), (Way::Remote, "-R")] {
        for (role, direction) in [(Role::Give, "from"), (Role::Take, "to")] {
            let mut costs = [Cost::default(), Cost::default()];
            let mut bare = Series::default();
            for _ in 0..rounds {
                bare.push(floor::once(role, mib)? * 1024.0 / f64::from(mib));
                for (side, cost) in sides.iter().zip(&mut costs) {
                    once(side, peer, way, role, mib, cost)?;
                }
            }
            let [ours, theirs] = costs;
            let what = format!("`{option}`, one connection, {direction} the server's side");
            report.ratio(
                &format!("{what}: server CPU per GiB"),
                [&ours.cpu, &theirs.cpu],
                "s",
                2,
                Budget::AtMost(0.5),
            );
            report.ratio(
                &format!("{what}: wall throughput"),
                [&ours.rate, &theirs.rate],
                "MiB/s",
                0,
                Budget::None,
            );
            if way == Way::Local {
                report.ratio(
                    &format!("a bare relay (left) {direction} the server's side: CPU per GiB"),
                    [&bare, &theirs.cpu],
                    "s",
                    2,
                    Budget::None,
                );
            }
        }
    }
    report.note(format!(
        "forwards: {mib} MiB over one connection, aes256-gcm, {rounds} times each; the far end is a program in the session, whose own CPU time \
         is taken off on both sides, the near end a thread of the bench; the bare relay is one thread that reads, opens or seals, and writes, \
         without SSH: what no server can go below"
    ));
    Ok(())
}

/// One transfer; `role` is that of the server's end.
fn once(side: &Side, peer: &Peer, way: Way, role: Role, mib: u32, cost: &mut Cost) -> Result<()> {
    let bytes = u64::from(mib) << 20;
    let (near, far) = (free_port()?, free_port()?);
    let (option, command, listener) = match way {
        Way::Local => (format!("-L127.0.0.1:{near}:127.0.0.1:{far}"), "listen", None),
        Way::Remote => (
            format!("-R127.0.0.1:{far}:127.0.0.1:{near}"),
            "connect",
            Some(TcpListener::bind(("127.0.0.1", near))?),
        ),
    };
    let before = side.account.cpu_seconds()?;
    let mut client = side.ssh(&["-c", "aes256-gcm@openssh.com", "-o", "ExitOnForwardFailure=yes", &option]);
    client.arg(peer.command(side, command, far, role, bytes)).stdout(Stdio::piped());
    let mut client = Client::spawn(client)?;
    let stream = match listener {
        Some(listener) => listener.accept()?.0,
        None => {
            client.await_ready()?;
            connect(near)?
        }
    };
    let began = Instant::now();
    peer::serve(stream, role.other(), bytes)?;
    let took = began.elapsed();
    let far = client.last_words()?;
    let status = client.child.wait()?;
    if !status.success() {
        bail!("{}: the session with the far end ended with {status}", side.label);
    }
    settle(side)?;
    cost.cpu.push((side.account.cpu_seconds()? - before - far) * 1024.0 / f64::from(mib));
    cost.rate.push(f64::from(mib) / took.as_secs_f64());
    Ok(())
}

/// A client whose session runs the far end.
pub struct Client {
    /// The stock client.
    pub child: Child,
    output: Option<BufReader<ChildStdout>>,
}

impl Client {
    /// Starts it. What its session says is read if its standard output is a pipe.
    pub fn spawn(mut command: Command) -> Result<Self> {
        let mut child = command.spawn().context("starting ssh")?;
        let output = child.stdout.take().map(BufReader::new);
        Ok(Self { child, output })
    }

    /// Waits until the session's program says that it listens.
    pub fn await_ready(&mut self) -> Result<()> {
        let line = self.line()?;
        if line.trim() == "ready" { Ok(()) } else { bail!("the far end said {line:?}") }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.as_mut().context("no stdout")?.read_line(&mut line)?;
        Ok(line)
    }

    /// The CPU seconds of the session's program, which it says at its end.
    fn last_words(&mut self) -> Result<f64> {
        let line = self.line()?;
        let seconds = line.trim().strip_prefix("cpu ").and_then(|text| text.parse().ok());
        seconds.with_context(|| format!("the far end said {line:?}"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Connects to a listener of the client, which may be there a moment later.
pub fn connect(port: u16) -> Result<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => {
                return Err(error).context("the client does not listen");
            }
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}
