//! A container engine of our own, as the acceptance tests start it: Debian's dockerd with all its files in a temporary directory.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::boot::which;

/// Time for the engine to listen. On a busy machine it gives up on its containerd, and finds it the next time.
const START: Duration = Duration::from_secs(60);
const ATTEMPTS: u32 = 3;
/// Time for its end.
const END: Duration = Duration::from_secs(20);
/// The image that it is given.
const IMAGE: &str = "bench";

/// A running engine. It ends when this is dropped.
pub struct Engine {
    process: Option<Child>,
    dir: tempfile::TempDir,
}

impl Engine {
    /// Starts one, with an image of a directory. An error says why this machine cannot.
    pub fn start(image: &Path) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("only root can start dockerd");
        }
        for program in ["dockerd", "docker"] {
            if which(program).is_none() {
                bail!("{program} is not installed");
            }
        }
        let dir = tempfile::Builder::new().prefix("sgb-").tempdir_in("/tmp")?;
        let mut engine = Self { process: None, dir };
        let up = (0..ATTEMPTS).any(|_| engine.spawn().is_ok());
        if !up {
            bail!("dockerd does not start here: {}", engine.last_words());
        }
        let tar = engine.dir.path().join("image.tar");
        succeeds(Command::new("tar").arg("-C").arg(image).arg("-cf").arg(&tar).arg("."))?;
        succeeds(engine.docker().arg("import").arg(&tar).arg(IMAGE))?;
        Ok(engine)
    }

    /// `docker run --rm IMAGE true`.
    pub fn run_true(&self) -> Result<()> {
        succeeds(self.docker().args(["run", "--rm", "--network", "none", IMAGE, "true"]))
    }

    /// Starts the daemon and waits until it answers.
    fn spawn(&mut self) -> Result<()> {
        self.end();
        let at = |name: &str| self.dir.path().join(name);
        let log = fs::File::create(at("log"))?;
        let mut child = Command::new("dockerd")
            .args(["--bridge=none", "--iptables=false", "--ip-masq=false", "-H", &self.host(), "--data-root"])
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting dockerd")?;
        let deadline = Instant::now() + START;
        let answer = loop {
            if succeeds(self.docker().arg("version")).is_ok() {
                break Ok(());
            }
            if let Some(status) = child.try_wait()? {
                break Err(anyhow::anyhow!("it ended with {status}"));
            }
            if Instant::now() >= deadline {
                break Err(anyhow::anyhow!("it does not answer"));
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        self.process = Some(child);
        answer
    }

    fn host(&self) -> String {
        format!("unix://{}", self.dir.path().join("s").display())
    }

    fn docker(&self) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", self.host()).env("DOCKER_CONFIG", self.dir.path());
        command
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        text.lines().next_back().unwrap_or_default().to_owned()
    }

    fn end(&mut self) {
        let Some(mut child) = self.process.take() else { return };
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let deadline = Instant::now() + END;
        while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end();
        // What it has left mounted would keep the directory.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let below = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for path in below.filter(|path| Path::new(path).starts_with(self.dir.path())) {
            let _ = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

fn succeeds(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let name = command.get_program().to_string_lossy().into_owned();
        bail!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
