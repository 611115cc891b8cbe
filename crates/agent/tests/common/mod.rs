//! Starts the real agent and talks to it through the real client.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "test code; not every test uses every helper"
)]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandgate_guest::mux::MuxDial;
use sandgate_guest::{
    ConnectionOutput, ConnectionReady, ExecSpec, ExitStatus, Guest, GuestError, Process, ProcessInput,
    ProcessOutput, Program, PtySpec, Ready, UnixDial,
};

/// A running agent on a socket of its own.
pub struct Agent {
    pub child: Child,
    pub socket: PathBuf,
    pub dir: tempfile::TempDir,
}

impl Agent {
    pub fn start() -> Self {
        Self::start_with(|_| {})
    }

    pub fn start_with(adjust: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("a.sock");
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandgate-agent"));
        command.arg("--listen").arg(format!("unix:{}", socket.display())).args(["--hangup-grace", "300"]);
        command.stdin(Stdio::null()).env("IMAGE_VAR", "from image");
        adjust(&mut command);
        Self::spawn(command, dir, socket)
    }

    /// With no network but loopback, a file of its own in the place of /etc/hosts, and no servers of names. Needs root.
    pub fn start_in_a_box(hosts: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("a.sock");
        std::fs::write(dir.path().join("hosts"), hosts).unwrap();
        std::fs::write(dir.path().join("resolv.conf"), "nameserver 10.0.0.1\n").unwrap();
        let mut command = Command::new("unshare");
        let line =
            "mount --bind hosts /etc/hosts && mount --bind resolv.conf /etc/resolv.conf && exec \"$@\"";
        command.args(["-n", "-m", "sh", "-c", line, "sh", env!("CARGO_BIN_EXE_sandgate-agent")]);
        command.args(["--init", "--listen"]).arg(format!("unix:{}", socket.display()));
        command.current_dir(dir.path()).stdin(Stdio::null());
        Self::spawn(command, dir, socket)
    }

    fn spawn(mut command: Command, dir: tempfile::TempDir, socket: PathBuf) -> Self {
        let child = command.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < deadline, "the agent does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { child, socket, dir }
    }

    pub fn guest(&self) -> Guest {
        Guest::new(Arc::new(UnixDial::new(&self.socket)))
    }

    pub fn framed(&self) -> Guest {
        Guest::framed_only(Arc::new(UnixDial::new(&self.socket)))
    }

    pub fn open_fds(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Children in any state, zombies too.
    pub fn children(&self) -> usize {
        let id = self.child.id();
        let text = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        text.split_ascii_whitespace().count()
    }

    /// Resident memory in KiB.
    pub fn rss(&self) -> u64 {
        status_kib(self.child.id(), "VmRSS:")
    }
}

/// An agent on its standard input and output.
pub fn stdio_agent() -> (tokio::process::Child, Guest) {
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_sandgate-agent"))
        .args(["--stdio", "--hangup-grace", "300"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let trunk = tokio::io::join(child.stdout.take().unwrap(), child.stdin.take().unwrap());
    (child, Guest::new(Arc::new(MuxDial::new(trunk))))
}

/// Runs a check over each of the three ways.
#[allow(unused_macros, reason = "not every test uses it")]
macro_rules! each_way {
    ($name:ident, $check:expr) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let agent = Agent::start();
            let check = $check;
            check(agent.guest()).await;
            check(agent.framed()).await;
            let (_child, guest) = stdio_agent();
            check(guest).await;
        }
    };
}

pub fn status_kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(field)).unwrap().to_owned();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn command(line: &str) -> ExecSpec {
    ExecSpec::new(Program::Command(line.as_bytes().to_vec()))
}

pub fn with_pty(mut spec: ExecSpec) -> ExecSpec {
    spec.pty = Some(PtySpec { term: b"xterm".to_vec(), cols: 80, rows: 24, ..PtySpec::default() });
    spec
}

#[derive(Debug, Default)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit: Option<ExitStatus>,
}

impl Output {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
    pub fn code(&self) -> u32 {
        match self.exit {
            Some(ExitStatus::Code(code)) => code,
            _ => panic!("no exit code: {self:?}"),
        }
    }
}

/// Reads everything to the exit, within half a minute.
pub async fn drain(output: &mut ProcessOutput) -> Output {
    let mut all = Output::default();
    let work = async {
        let mut buf = vec![0; 64 * 1024];
        loop {
            let to = match output.ready().await {
                Ready::Stdout => &mut all.stdout,
                Ready::Stderr => &mut all.stderr,
                Ready::Exit(exit) => {
                    all.exit = Some(exit);
                    return;
                }
                Ready::LinkLost(e) => panic!("link lost: {e}"),
            };
            match output.try_read(&mut buf) {
                Ok(n) => to.extend_from_slice(&buf[..n]),
                Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), work).await.expect("no exit within 30 s");
    all
}

/// Runs to the end with empty input.
pub async fn run(guest: &Guest, spec: ExecSpec) -> Output {
    let (mut input, mut output, _control) = guest.exec(spec).await.unwrap().split();
    input.shutdown().await.unwrap();
    drain(&mut output).await
}

/// Runs to the end with this input.
pub async fn run_with_input(guest: &Guest, spec: ExecSpec, data: Vec<u8>) -> Output {
    let (input, mut output, _control) = guest.exec(spec).await.unwrap().split();
    let writer = tokio::spawn(feed(input, data));
    let all = drain(&mut output).await;
    writer.await.unwrap();
    all
}

pub async fn feed(mut input: ProcessInput, data: Vec<u8>) {
    let _ = input.write_all(&data).await;
    let _ = input.shutdown().await;
}

/// Reads a connection to its end, within a minute.
pub async fn read_all(output: &mut ConnectionOutput) -> Result<Vec<u8>, GuestError> {
    let mut all = Vec::new();
    read_with(output, |chunk| all.extend_from_slice(chunk)).await?;
    Ok(all)
}

/// As [`read_all`], piece by piece.
pub async fn read_with(output: &mut ConnectionOutput, mut take: impl FnMut(&[u8])) -> Result<(), GuestError> {
    let work = async {
        let mut buf = vec![0; 256 * 1024];
        loop {
            match output.ready().await {
                ConnectionReady::Data => match output.try_read(&mut buf) {
                    Ok(n) => take(&buf[..n]),
                    Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock),
                },
                ConnectionReady::End => return Ok(()),
                ConnectionReady::Lost(e) => return Err(e),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("no end within a minute")
}

/// Whether tests that need root can run.
pub fn is_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: {what} needs root");
    }
    root
}

/// Waits until `done`, at most ten seconds.
pub async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

pub fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
}

/// The name of the program that a process runs.
pub fn name(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// The first line of output, as a number.
pub async fn first_number(process: &mut Process) -> i32 {
    let mut text = Vec::new();
    let mut buf = [0; 64];
    while !text.contains(&b'\n') {
        match process.output.ready().await {
            Ready::Stdout => {
                if let Ok(n) = process.output.try_read(&mut buf) {
                    text.extend_from_slice(&buf[..n]);
                }
            }
            other => panic!("{other:?}"),
        }
    }
    String::from_utf8_lossy(&text).trim().parse().unwrap()
}

/// Bytes that do not repeat with any power of two.
pub fn pattern(n: usize) -> Vec<u8> {
    (0..n as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}
