//! `sandgate serve` as a child process, and the command line that manages it.

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Feed, Guard, Output, run};
use crate::target::Options;

/// Time for a command of the command line; making a sandbox is the longest.
const COMMAND_DEADLINE: Duration = Duration::from_secs(60);

/// A running gateway with a data directory of its own.
pub struct Gateway {
    process: Option<Guard>,
    data_dir: PathBuf,
    /// Another guest agent than the usual one; takes effect with [`Gateway::start_again`], for sandboxes that are started then.
    pub agent: Option<PathBuf>,
    /// Another level of the log than the usual one; takes effect with [`Gateway::start_again`].
    pub log_level: Option<&'static str>,
    /// Another form of the log than the usual one; takes effect with [`Gateway::start_again`].
    pub log_format: Option<&'static str>,
    /// SSH port on 127.0.0.1.
    pub port: u16,
    /// HTTP port on 127.0.0.1.
    pub http_port: u16,
    starts: u32,
    sandboxes: Mutex<Vec<String>>,
}

/// What `token create --json` prints.
#[derive(Clone, Debug)]
pub struct Token {
    /// The id for `token revoke`.
    pub id: String,
    /// The secret itself: the user name to log in with.
    pub token: String,
}

impl Gateway {
    /// Starts it on free ports with its data in `data_dir`.
    ///
    /// # Panics
    /// When it does not accept connections within 15 s; the panic carries its log.
    pub fn start(data_dir: &Path, options: &Options) -> Self {
        std::fs::create_dir_all(data_dir).unwrap();
        std::fs::write(config_file(data_dir), config(options)).unwrap();
        let (port, http_port) = (crate::wait::free_port(), crate::wait::free_port());
        let mut gateway = Self {
            process: None,
            data_dir: data_dir.to_owned(),
            agent: None,
            log_level: None,
            log_format: None,
            port,
            http_port,
            starts: 0,
            sandboxes: Mutex::default(),
        };
        gateway.start_again();
        gateway
    }

    /// Starts it again after [`Gateway::kill`] or [`Gateway::terminate`], on the same ports and data.
    ///
    /// # Panics
    /// When it does not accept connections within 15 s.
    pub fn start_again(&mut self) {
        self.starts += 1;
        let log = File::create(self.log_file(self.starts)).unwrap();
        let mut command = Command::new(crate::paths::sandgate());
        command
            .args(["serve", "--data-dir"])
            .arg(&self.data_dir)
            .args(["--ssh-listen", &format!("127.0.0.1:{}", self.port)])
            .args(["--http-listen", &format!("127.0.0.1:{}", self.http_port)])
            .arg("--config")
            .arg(config_file(&self.data_dir))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        if let Some(agent) = &self.agent {
            command.arg("--agent").arg(agent);
        }
        if let Some(level) = self.log_level {
            command.args(["--log-level", level]);
        }
        if let Some(format) = self.log_format {
            command.args(["--log-format", format]);
        }
        self.process = Some(Guard::spawn(&mut command));
        let port = self.port;
        // The control socket comes a moment after the port.
        let control = self.data_dir.join("control.sock");
        let listens = || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
                && std::os::unix::net::UnixStream::connect(&control).is_ok()
        };
        assert!(
            crate::wait::until(Duration::from_secs(15), listens),
            "the gateway does not listen: {}",
            self.log()
        );
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// SIGTERM, and the exit code once it is gone, if it goes in time.
    pub fn terminate(&mut self, deadline: Duration) -> Option<i32> {
        let mut process = self.process.take()?;
        process.signal(Signal::TERM);
        process.wait(deadline)
    }

    /// Sends the signal and leaves it running.
    ///
    /// # Panics
    /// When the gateway is not running.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().unwrap().signal(signal);
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self, deadline: Duration) -> Option<i32> {
        self.process.as_mut()?.wait(deadline)
    }

    /// Process id.
    ///
    /// # Panics
    /// When the gateway is not running.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the gateway runs").pid().as_raw_nonzero().get() as u32
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Everything that all its runs have printed or logged.
    pub fn log(&self) -> String {
        (1..=self.starts).filter_map(|it| std::fs::read_to_string(self.log_file(it)).ok()).collect()
    }

    fn log_file(&self, start: u32) -> PathBuf {
        self.data_dir.with_extension(format!("log{start}"))
    }

    /// `sandgate --data-dir DIR ARGS…`, ready to run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(crate::paths::sandgate());
        command.arg("--data-dir").arg(&self.data_dir).args(args);
        command
    }

    /// A bash script in which `$SANDGATE` is `sandgate --data-dir DIR`.
    pub fn script(&self, text: &str) -> Command {
        let ours = format!("{} --data-dir {}", crate::paths::sandgate().display(), self.data_dir.display());
        let mut command = Command::new("bash");
        command.args(["-c", text]).env("SANDGATE", ours).env_remove("SSH_AUTH_SOCK");
        command
    }

    /// Runs a command of the command line to its end.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> Output {
        run(&mut self.command(args), Feed::Null, COMMAND_DEADLINE)
    }

    /// Runs a command with `--json` and parses what it prints.
    ///
    /// # Panics
    /// When it fails or does not print JSON.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let text = self.cli(&[args, &["--json"]].concat()).ok();
        serde_json::from_str(&text).unwrap_or_else(|err| panic!("{args:?} printed no JSON ({err}): {text}"))
    }

    /// `sandbox create NAME ARGS…`.
    #[track_caller]
    pub fn create_sandbox(&self, name: &str, args: &[&str]) {
        self.sandboxes.lock().unwrap().push(name.to_owned());
        self.cli(&[&["sandbox", "create", name], args].concat()).ok();
    }

    /// `sandbox start NAME`; one that runs already is fine.
    #[track_caller]
    pub fn start_sandbox(&self, name: &str) {
        let output = self.cli(&["sandbox", "start", name]);
        assert!(
            output.code == 0 || output.errors().contains("already"),
            "sandbox {name} does not start: {}\n{}",
            output.errors(),
            self.log()
        );
    }

    /// `token create SANDBOX ARGS… --json`.
    ///
    /// # Panics
    /// When there is no token in the answer.
    #[track_caller]
    pub fn token(&self, sandbox: &str, args: &[&str]) -> Token {
        let answer = self.json(&[&["token", "create", sandbox], args].concat());
        let field = |name: &str| match &answer[name] {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => panic!("no {name} in {answer}"),
        };
        Token { id: field("id"), token: field("token") }
    }

    /// One number of the page of metrics.
    ///
    /// # Panics
    /// When the page cannot be read, or has no such number.
    #[track_caller]
    pub fn metric(&self, name: &str) -> u64 {
        let mut command = Command::new("curl");
        command.args(["-sf", &format!("http://127.0.0.1:{}/metrics", self.http_port)]);
        let page = run(&mut command, Feed::Null, COMMAND_DEADLINE).ok();
        let line = page.lines().find(|line| line.split(' ').next() == Some(name));
        line.and_then(|line| line.split(' ').nth(1)?.parse().ok())
            .unwrap_or_else(|| panic!("no {name} in {page}"))
    }

    /// Process id of a sandbox's agent, on the host.
    ///
    /// # Panics
    /// When the sandbox does not run.
    #[track_caller]
    pub fn agent_pid(&self, name: &str) -> u32 {
        let pid = self.json(&["sandbox", "inspect", name])["pid"].as_u64().expect("a process id");
        u32::try_from(pid).expect("a process id")
    }

    /// Whether `sandbox inspect` calls it running.
    #[track_caller]
    pub fn is_running(&self, name: &str) -> bool {
        self.json(&["sandbox", "inspect", name])["state"] == "running"
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.process.is_some() {
            let names = std::mem::take(&mut *self.sandboxes.lock().unwrap());
            for name in names {
                let mut command = self.command(&["sandbox", "rm", "--force", &name]);
                let _ = crate::process::try_run(&mut command, Feed::Null, Duration::from_secs(15));
            }
            if std::thread::panicking() {
                let log = self.log();
                let tail = log.char_indices().rev().nth(6000).map_or(0, |(at, _)| at);
                eprintln!("--- the gateway's log ends ---\n{}", &log[tail..]);
            }
            self.terminate(Duration::from_secs(5));
        }
        kill_leftovers(&self.data_dir);
    }
}

/// Kills what still runs with this data directory on its command line: shims outlive a killed gateway on purpose.
fn kill_leftovers(data_dir: &Path) {
    let needle = data_dir.as_os_str().as_encoded_bytes();
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    for entry in processes.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let ours = line.windows(needle.len()).any(|window| window == needle);
        let program = line.windows(8).any(|it| it == b"sandgate");
        if ours
            && program
            && pid != std::process::id() as i32
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

fn config_file(data_dir: &Path) -> PathBuf {
    data_dir.with_extension("toml")
}

fn config(options: &Options) -> String {
    let mut text = String::new();
    writeln!(text, "[session]\naccept_env = {:?}", options.accept_env).unwrap();
    writeln!(text, "[ssh]\ncompat = false").unwrap();
    writeln!(text, "stream_local_bind_unlink = {}", options.stream_local_bind_unlink).unwrap();
    if let Some(bytes) = options.rekey_bytes {
        writeln!(text, "rekey_bytes = {bytes}").unwrap();
    }
    if let Some(seconds) = options.keepalive_seconds {
        writeln!(text, "keepalive = \"{seconds}s\"").unwrap();
    }
    writeln!(text, "[limits]\nsource_penalties = {}", options.source_penalties).unwrap();
    if let Some(seconds) = options.login_grace_seconds {
        writeln!(text, "login_deadline = \"{seconds}s\"\nhandshake_deadline = \"{seconds}s\"").unwrap();
    }
    text.push_str(&options.extra_toml);
    text
}
