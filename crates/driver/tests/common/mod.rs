//! A driver over a data directory of its own, and a way to run a command inside through the real agent.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sandgate_driver::{Driver, NoProgress, OciConfig, OciDriver, SandboxId, SandboxSpec, State};
use sandgate_guest::{ExecSpec, ExitStatus, Guest, Program, Ready};
use tempfile::TempDir;

/// Says why a test did nothing, and notes it where `make test` looks for skips.
pub fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    let Some(notes) = target_profile().parent().map(|target| target.join("test-skips.txt")) else { return };
    if let Ok(mut file) = File::options().create(true).append(true).open(notes) {
        // One write, so that lines of parallel tests do not mix.
        let _ = file.write_all(format!("{name}: {reason}\n").as_bytes());
    }
}

/// `target/<profile>`, where this test program's directory is.
fn target_profile() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.parent().and_then(Path::parent).unwrap().to_owned()
}

/// The example program, which Cargo builds with the tests and which is a shim when told so.
pub fn shim_exe() -> PathBuf {
    let path = target_profile().join("examples").join("driver_cli");
    assert!(path.exists(), "{} is missing: build the examples", path.display());
    path
}

/// The static agent, if it was built.
pub fn agent() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("SANDGATE_AGENT") {
        return Some(path.into());
    }
    let path = target_profile().parent()?.join("agent/x86_64-unknown-linux-gnu/agent/sandgate-agent");
    path.exists().then_some(path)
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Most of these tests are about what the machine's root can promise.
pub fn rig() -> Option<Rig> {
    if !is_root() {
        skip("not root");
        return None;
    }
    let Some(agent) = agent() else {
        skip("the static agent is not built (make agent)");
        return None;
    };
    Some(Rig::new(agent))
}

/// A driver and its data directory. Dropping it removes the sandboxes that are left.
pub struct Rig {
    pub home: TempDir,
    pub driver: OciDriver,
    agent: PathBuf,
}

/// What a command inside did.
#[derive(Debug)]
pub struct Output {
    pub code: u32,
    pub stdout: String,
    pub stderr: String,
}

impl Rig {
    pub fn new(agent: PathBuf) -> Self {
        let home = tempfile::tempdir().unwrap();
        let driver = Self::driver(home.path(), &agent);
        Self { home, driver, agent }
    }

    fn driver(home: &Path, agent: &Path) -> OciDriver {
        let mut config = OciConfig::new(home.join("data"), agent);
        config.shim_exe = shim_exe();
        OciDriver::new(config).unwrap()
    }

    /// What a gateway that was just started would have.
    pub fn fresh_driver(&self) -> OciDriver {
        Self::driver(self.home.path(), &self.agent)
    }

    pub fn spec(&self, id: &str) -> SandboxSpec {
        SandboxSpec::new(id.parse().unwrap(), id)
    }

    pub async fn up(&self, spec: &SandboxSpec) {
        self.driver.create(spec, &NoProgress).await.unwrap();
        self.driver.start(&spec.id, &NoProgress).await.unwrap();
    }

    pub fn dir(&self, id: &SandboxId) -> PathBuf {
        self.home.path().join("data/sandboxes").join(id.as_str())
    }

    /// The number in state.json under `who`.
    pub fn pid(&self, id: &SandboxId, who: &str) -> i32 {
        let text = std::fs::read(self.dir(id).join("state.json")).unwrap();
        let state: serde_json::Value = serde_json::from_slice(&text).unwrap();
        i32::try_from(state[who]["pid"].as_i64().unwrap()).unwrap()
    }

    pub async fn is_running(&self, id: &SandboxId) -> bool {
        matches!(self.driver.inspect(id).await.unwrap(), State::Running { .. })
    }

    /// Runs a shell command inside as root.
    pub async fn sh(&self, id: &SandboxId, command: &str) -> Output {
        run(&self.driver, id, command, Duration::from_secs(60)).await
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // A failed test leaves sandboxes; their shims would live on.
        for entry in
            std::fs::read_dir(self.home.path().join("data/sandboxes")).into_iter().flatten().flatten()
        {
            let _ = std::process::Command::new(shim_exe())
                .arg("--data-dir")
                .arg(self.home.path().join("data"))
                .arg("--agent")
                .arg(&self.agent)
                .arg("rm")
                .arg(entry.file_name())
                .output();
        }
    }
}

pub async fn run(driver: &OciDriver, id: &SandboxId, command: &str, patience: Duration) -> Output {
    tokio::time::timeout(patience, run_now(driver, id, command))
        .await
        .unwrap_or_else(|_| panic!("{command}: too slow"))
}

async fn run_now(driver: &OciDriver, id: &SandboxId, command: &str) -> Output {
    let argv = ["/bin/sh", "-c", command].map(|word| word.as_bytes().to_vec()).to_vec();
    let process = Guest::new(driver.link(id)).exec(ExecSpec::new(Program::Argv(argv))).await.unwrap();
    let (mut input, mut output, _control) = process.split();
    input.shutdown().await.unwrap();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut buffer = vec![0u8; 64 << 10];
    let code = loop {
        let stream = output.ready().await;
        let sink = match stream {
            Ready::Stdout => &mut stdout,
            Ready::Stderr => &mut stderr,
            Ready::Exit(ExitStatus::Code(code)) => break code,
            Ready::Exit(ExitStatus::Signal { .. }) => break 128,
            Ready::LinkLost(error) => panic!("{command}: {error}"),
        };
        match output.try_read(&mut buffer) {
            Ok(n) => sink.extend_from_slice(&buffer[..n]),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}"),
        }
    };
    Output {
        code,
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// Groups of this gateway's sandboxes that exist.
pub fn cgroups_of(id: &SandboxId) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|e| e.path());
    for place in hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]) {
        for entry in std::fs::read_dir(place.join("sandgate")).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().ends_with(&format!("-{id}")) {
                found.push(entry.path());
            }
        }
    }
    found
}

/// Processes whose command line contains all of these words.
pub fn processes(words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if !line.is_empty() && words.iter().all(|word| line.contains(word)) {
            found.push(line);
        }
    }
    found
}
