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

use sandgate_guest::{
    ExecSpec, ExitStatus, Guest, Process, ProcessInput, ProcessOutput, Program, PtySpec, Ready, UnixDial,
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
