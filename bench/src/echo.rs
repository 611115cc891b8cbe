//! From a key press to its echo: a byte is written to the client, and the time is taken until the pty on the server
//! side has echoed it back. Once idle, once while another channel of the same connection is flooded by `yes`, and once beside a forward that
//! nobody reads.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::forward::{Client, Peer, connect};
use crate::latency::Master;
use crate::peer::Role;
use crate::side::{Side, free_port};
use crate::stats::Series;

/// An echo that has not come after this long counts as lost.
const LOST: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// Keys pressed on one side before it is the other's turn.
const BATCH: u32 = 50;
/// Pause between two keys: each one finds everything asleep, as a typist's does.
const PAUSE: Duration = Duration::from_millis(4);
/// Until a load has filled what it can fill.
const SETTLE: Duration = Duration::from_millis(500);

/// What else the connection does while keys are pressed.
#[derive(Clone, Copy)]
pub enum Load<'a> {
    /// Nothing.
    Idle,
    /// Another session of the same connection runs `yes`.
    Yes,
    /// Another channel of the same connection is a forwarded connection (`-L`) that is full, because nobody reads it.
    StalledForward(&'a Peer),
}

/// What one side needed for one key.
#[derive(Debug, Default)]
pub struct Keys {
    /// Microseconds from the key to its echo.
    pub echo: Series,
    /// Microseconds of CPU of all server processes, each value the mean of a batch; measured only while nothing else runs.
    pub cpu: Series,
}

/// Presses `samples` keys on each side, in alternating batches.
pub fn measure(sides: &[Side; 2], load: Load<'_>, samples: u32) -> Result<[Keys; 2]> {
    let mut costs = [Keys::default(), Keys::default()];
    match load {
        Load::Idle => {
            let mut keyboards = [Keyboard::open(&sides[0])?, Keyboard::open(&sides[1])?];
            for _ in 0..samples.div_ceil(BATCH) {
                for ((keyboard, side), cost) in keyboards.iter_mut().zip(sides).zip(&mut costs) {
                    let before = side.account.cpu_seconds()?;
                    keyboard.batch(&mut cost.echo)?;
                    cost.cpu.push((side.account.cpu_seconds()? - before) * 1e6 / f64::from(BATCH));
                }
            }
        }
        Load::Yes | Load::StalledForward(_) => {
            // Only one load at a time: each side is measured with the machine to itself, in several turns.
            const TURNS: u32 = 4;
            for _ in 0..TURNS {
                for (side, cost) in sides.iter().zip(&mut costs) {
                    let master = Master::start(side)?;
                    let mut beside = match load {
                        Load::StalledForward(peer) => Beside::stalled(side, peer)?,
                        Load::Yes | Load::Idle => Beside::flood(side)?,
                    };
                    let mut keyboard = Keyboard::open_on(side, &side.control_path())?;
                    for _ in 0..samples.div_ceil(BATCH * TURNS) {
                        keyboard.batch(&mut cost.echo)?;
                    }
                    beside.check()?;
                    drop((keyboard, beside, master));
                }
            }
        }
    }
    Ok(costs)
}

/// What another channel of the control master's connection does meanwhile.
struct Beside {
    session: Client,
    /// The near end of a forward, held and never read.
    _unread: Option<TcpStream>,
}

impl Beside {
    /// A session that runs `yes` into nothing.
    fn flood(side: &Side) -> Result<Self> {
        let mut yes = side.ssh(&["-S", &side.control_path()]);
        yes.arg("yes").stdout(Stdio::null());
        let session = Client::spawn(yes)?;
        std::thread::sleep(SETTLE);
        Ok(Self { session, _unread: None })
    }

    /// A forwarded connection whose far end sends more than all windows on the way hold.
    fn stalled(side: &Side, peer: &Peer) -> Result<Self> {
        const BYTES: u64 = 1 << 30;
        let (near, far) = (free_port()?, free_port()?);
        let option = format!("-L127.0.0.1:{near}:127.0.0.1:{far}");
        let mut command = side.ssh(&["-S", &side.control_path(), "-o", "ExitOnForwardFailure=yes", &option]);
        command.arg(peer.command(side, "listen", far, Role::Give, BYTES)).stdout(Stdio::piped());
        let mut session = Client::spawn(command)?;
        session.await_ready()?;
        let unread = connect(near)?;
        std::thread::sleep(SETTLE);
        Ok(Self { session, _unread: Some(unread) })
    }

    /// The figure means nothing if the load has ended in between.
    fn check(&mut self) -> Result<()> {
        match self.session.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the session beside the keys ended with {status}"),
        }
    }
}

/// A session with a pty whose terminal echoes every byte at once.
struct Keyboard {
    child: Child,
    keys: ChildStdin,
    screen: ChildStdout,
    label: String,
    next: u8,
}

impl Keyboard {
    fn open(side: &Side) -> Result<Self> {
        Self::start(side, &["-tt"])
    }

    fn open_on(side: &Side, master: &str) -> Result<Self> {
        Self::start(side, &["-tt", "-S", master])
    }

    fn start(side: &Side, options: &[&str]) -> Result<Self> {
        let mut child = side
            .ssh(options)
            .arg("stty -icanon echo; printf ready; exec cat >/dev/null")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let keys = child.stdin.take().context("no stdin")?;
        let screen = child.stdout.take().context("no stdout")?;
        let mut keyboard = Self { child, keys, screen, label: side.label.clone(), next: b'a' };
        let mut seen = Vec::new();
        while !seen.ends_with(b"ready") {
            seen.push(keyboard.read_byte()?);
        }
        Ok(keyboard)
    }

    fn batch(&mut self, series: &mut Series) -> Result<()> {
        for _ in 0..BATCH {
            std::thread::sleep(PAUSE);
            let key = self.next;
            self.next = if key == b'z' { b'a' } else { key + 1 };
            let began = Instant::now();
            self.keys.write_all(&[key]).context("the session has ended")?;
            let echo = self.read_byte()?;
            let took = began.elapsed();
            if echo != key {
                bail!("{}: key {key:#x} came back as {echo:#x}", self.label);
            }
            series.push(took.as_secs_f64() * 1e6);
        }
        Ok(())
    }

    fn read_byte(&mut self) -> Result<u8> {
        let ready = poll(&mut [PollFd::new(&self.screen, PollFlags::IN)], Some(&LOST))?;
        if ready == 0 {
            bail!("{}: no echo within {} s", self.label, LOST.tv_sec);
        }
        let mut byte = [0_u8];
        self.screen
            .read_exact(&mut byte)
            .with_context(|| format!("{}: the session has ended", self.label))?;
        Ok(byte[0])
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
