//! The two servers under measurement, started in the same way and reached with the same client options.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::account::Account;

/// The host and key exchange algorithms are pinned so that both servers do the same mathematics.
const PINNED: [&str; 2] = ["KexAlgorithms=curve25519-sha256", "HostKeyAlgorithms=ssh-ed25519"];
/// What every client is told: this key and no other, no questions, nothing of the machine's own.
const OPTIONS: [&str; 10] = [
    "IdentitiesOnly=yes",
    "IdentityAgent=none",
    "BatchMode=yes",
    "StrictHostKeyChecking=no",
    "UserKnownHostsFile=/dev/null",
    "GlobalKnownHostsFile=/dev/null",
    "LogLevel=ERROR",
    "PreferredAuthentications=publickey",
    // Newer clients hide the timing of keys by sending them at fixed intervals; that is not the server's delay.
    "IgnoreUnknown=ObscureKeystrokeTiming",
    "ObscureKeystrokeTiming=no",
];
/// Where the sandbox has the shared directory.
const SHARED: &str = "/srv/bench";
/// A server that has not said its version after this long will not.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// Which server a side runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The gateway with one sandbox of `--image host`.
    Sandgate,
    /// Debian's sshd.
    Sshd,
}

/// One running server, with its files and its CPU account.
#[derive(Debug)]
pub struct Side {
    /// What it is called in the report.
    pub label: String,
    /// What it runs.
    pub kind: Kind,
    /// Its CPU account.
    pub account: Account,
    directory: PathBuf,
    /// A directory of the host that the sandbox has at [`SHARED`].
    shared: PathBuf,
    binary: PathBuf,
    port: u16,
    process: Option<Child>,
    /// Instead of a container: an agent of the host, as `--link` takes it.
    link: Option<String>,
}

impl Side {
    /// Prepares the directory, keys and configuration of a side; nothing runs yet.
    pub fn prepare(label: &str, kind: Kind, work: &Path, shared: &Path, binary: &Path) -> Result<Self> {
        let directory = work.join(label);
        fs::create_dir_all(directory.join("home"))?;
        let key = directory.join("id");
        keygen(&key)?;
        let side = Self {
            label: label.to_owned(),
            kind,
            account: Account::open(&format!("sandgate-bench-{}-{label}", std::process::id())),
            shared: shared.to_owned(),
            binary: binary.to_owned(),
            port: free_port()?,
            directory,
            process: None,
            link: None,
        };
        match kind {
            Kind::Sandgate => side.write("config.toml", SANDGATE_CONFIG)?,
            Kind::Sshd => {
                keygen(&side.path("host"))?;
                fs::copy(side.path("id.pub"), side.path("authorized_keys"))?;
                side.write("sshd_config", &side.sshd_config())?;
                // Debian's sshd asks for its privilege separation directory even when it is not a service.
                let _ = fs::create_dir_all("/run/sshd");
            }
        }
        Ok(side)
    }

    /// The sandbox is an agent that this link leads to; its CPU account is the caller's to follow, unless the gateway starts it.
    pub fn with_link(mut self, link: &str) -> Self {
        self.link = Some(link.to_owned());
        self
    }

    fn sshd_config(&self) -> String {
        let dir = self.directory.display();
        format!(
            "Port {}\nListenAddress 127.0.0.1\nHostKey {dir}/host\nPidFile {dir}/pid\n\
             AuthorizedKeysFile {dir}/authorized_keys\nStrictModes no\nUsePAM no\nUseDNS no\nPrintMotd no\n\
             PrintLastLog no\nPermitRootLogin yes\nMaxStartups 1000\nMaxSessions 1000\nSetEnv HOME={dir}/home\n\
             Subsystem sftp /usr/lib/openssh/sftp-server\n",
            self.port
        )
    }

    /// More tables of the gateway's configuration, from its next start on.
    pub fn configure(&self, more: &str) -> Result<()> {
        self.write("config.toml", &format!("{SANDGATE_CONFIG}{more}"))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.path(name), text).with_context(|| format!("writing {name}"))
    }

    /// A file of this side.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The server's own command line, without the account.
    fn command_line(&self) -> String {
        let dir = self.directory.display();
        match self.kind {
            Kind::Sandgate => format!(
                "exec {} serve --data-dir {dir}/data --ssh-listen 127.0.0.1:{} --http-listen 127.0.0.1:0 --config {dir}/config.toml",
                self.binary.display(),
                self.port
            ),
            Kind::Sshd => format!("exec /usr/sbin/sshd -D -e -f {dir}/sshd_config"),
        }
    }

    /// Starts the server process and waits until it answers; returns the time from the start to its first byte.
    pub fn start(&mut self) -> Result<Duration> {
        let log = fs::File::options().create(true).append(true).open(self.path("log"))?;
        let began = Instant::now();
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("{}{}", self.account.enter(), self.command_line())])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting the server")?;
        loop {
            if answers(self.port) {
                break;
            }
            if let Some(status) = child.try_wait()? {
                bail!("{} ended with {status}: {}", self.label, self.log_tail());
            }
            if began.elapsed() > START_DEADLINE {
                let _ = child.kill();
                bail!("{} does not answer: {}", self.label, self.log_tail());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        let took = began.elapsed();
        self.account.follow(child.id())?;
        self.process = Some(child);
        Ok(took)
    }

    /// Makes what a login needs (sandbox and key); call once after the first start.
    pub fn provision(&mut self) -> Result<()> {
        if self.kind == Kind::Sandgate {
            let mount = format!("{}:{SHARED}", self.shared.display());
            let made: &[&str] = match &self.link {
                Some(link) => &["--link", link],
                None => &["--image", "host", "--memory", "8G", "--mount", &mount],
            };
            self.admin(&[&["sandbox", "create", "bench"], made].concat())?;
            self.admin(&["sandbox", "start", "bench"])?;
            let key = self.path("id.pub").display().to_string();
            self.admin(&["key", "add", "bench", &key, "--sandbox", "bench"])?;
        }
        let ready = self.ssh(&[]).arg("true").status()?;
        if !ready.success() {
            bail!("the first login to {} failed: {}", self.label, self.log_tail());
        }
        self.follow_sandbox()
    }

    /// Counts the sandbox's processes as well; its runtime may have put them into another cgroup.
    pub fn follow_sandbox(&mut self) -> Result<()> {
        if self.kind != Kind::Sandgate {
            return Ok(());
        }
        let text = self.admin(&["sandbox", "inspect", "bench", "--json"])?;
        let value: serde_json::Value = serde_json::from_str(&text).context("sandbox inspect --json")?;
        match find_pid(&value) {
            Some(pid) => self.account.follow(pid),
            // Somebody else's process.
            None if self.link.is_some() => Ok(()),
            None => bail!("sandbox inspect names no process: {text}"),
        }
    }

    /// Runs `sandgate` on this side's data directory, and gives what it printed.
    pub fn admin(&self, args: &[&str]) -> Result<String> {
        let out = Command::new(&self.binary)
            .arg("--data-dir")
            .arg(self.path("data"))
            .args(args)
            .stdin(Stdio::null())
            .output()
            .context("running sandgate")?;
        if !out.status.success() {
            bail!("sandgate {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// The stock client, ready for this side; add options, then the command.
    pub fn ssh(&self, options: &[&str]) -> Command {
        let mut command = self.client("ssh", "-p");
        command.args(options).arg(self.destination());
        command.stdin(Stdio::null());
        command
    }

    /// Another program of the stock client with the options for this side; the port's letter differs among them.
    pub fn client(&self, program: &str, port: &str) -> Command {
        let mut command = Command::new(program);
        command.args(["-F", "none", port, &self.port.to_string(), "-i"]).arg(self.path("id"));
        for option in OPTIONS.iter().chain(&PINNED) {
            command.args(["-o", option]);
        }
        command
    }

    /// A program that is `ssh` with the options for this side, for those that start it themselves.
    pub fn ssh_program(&self) -> Result<PathBuf> {
        let command = self.client("ssh", "-p");
        let words = command.get_args().map(|word| format!(" '{}'", word.to_string_lossy()));
        self.write("ssh", &format!("#!/bin/sh\nexec ssh{} \"$@\"\n", words.collect::<String>()))?;
        fs::set_permissions(self.path("ssh"), fs::Permissions::from_mode(0o755))?;
        Ok(self.path("ssh"))
    }

    /// A path in the shared directory as this side's server sees it.
    pub fn sees(&self, path: &Path) -> PathBuf {
        match (self.kind, path.strip_prefix(&self.shared)) {
            (Kind::Sandgate, Ok(inside)) => Path::new(SHARED).join(inside),
            _ => path.to_owned(),
        }
    }

    /// The account and the host.
    pub fn destination(&self) -> String {
        format!("{}@127.0.0.1", self.login())
    }

    fn login(&self) -> String {
        match self.kind {
            Kind::Sandgate => "bench".to_owned(),
            Kind::Sshd => whoami(),
        }
    }

    /// A path for a control socket of this side.
    pub fn control_path(&self) -> String {
        self.path("mux").display().to_string()
    }

    /// Ends the server; the sandbox is removed first.
    pub fn shut_down(&mut self) {
        if self.process.is_some()
            && self.kind == Kind::Sandgate
            && let Err(error) = self.admin(&["sandbox", "rm", "--force", "bench"])
        {
            eprintln!("bench: {error:#}");
        }
        self.stop();
    }

    /// Ends the server process only, with SIGTERM and, ten seconds later, SIGKILL.
    pub fn stop(&mut self) {
        let Some(mut child) = self.process.take() else { return };
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// Limits are lifted where the measurement itself would meet them: hundreds of logins a minute from one address.
const SANDGATE_CONFIG: &str =
    "[limits]\nsource_penalties = false\nmax_connections_per_credential = 1000\nmax_unauthenticated = 1000\n";

/// The login name of the user who runs the bench.
pub fn whoami() -> String {
    let out = Command::new("id").arg("-un").output();
    out.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_else(|_| "root".to_owned())
}

fn find_pid(value: &serde_json::Value) -> Option<u32> {
    match value {
        serde_json::Value::Object(map) => map
            .iter()
            .find_map(|(key, v)| (key == "pid").then(|| v.as_u64()).flatten())
            .and_then(|pid| u32::try_from(pid).ok())
            .or_else(|| map.values().find_map(find_pid)),
        serde_json::Value::Array(items) => items.iter().find_map(find_pid),
        _ => None,
    }
}

fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let mut start = [0_u8; 4];
    stream.read_exact(&mut start).is_ok() && &start == b"SSH-"
}

/// A TCP port of loopback that nobody uses now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn keygen(path: &Path) -> Result<()> {
    let status =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status()?;
    if !status.success() {
        bail!("ssh-keygen failed");
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}
