//! A user with an SSH agent: the stock `ssh-agent`, or a small one in Python that misbehaves; and a shell in the sandbox that is asked
//! one thing after another.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::client::DEADLINE;
use crate::process::{Feed, Guard, Output, run};
use crate::target::Target;
use crate::wait::until;

/// See [`Agent::of_python`]. The socket gets its name when it listens.
const PRELUDE: &str = r"
import os, socket, struct, sys, threading, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1] + '.new')
listener.listen(100)
os.rename(sys.argv[1] + '.new', sys.argv[1])
def accept():
    connection, _ = listener.accept()
    length = struct.unpack('>I', connection.recv(4, socket.MSG_WAITALL))[0]
    bind = connection.recv(length, socket.MSG_WAITALL)
    assert bind[0] == 27, bind
    connection.sendall(b'\0\0\0\1\5')
    return connection
";
/// An agent at a socket on the user's side.
pub struct Agent {
    dir: PathBuf,
    socket: PathBuf,
    process: Option<Guard>,
    /// Beside one in Python: the agent that `ssh` uses for itself. Without any it would not ask for forwarding.
    own: Option<Box<Agent>>,
}

impl Agent {
    /// `ssh-agent` without a key.
    pub fn start(target: &Target) -> Self {
        let mut agent = Self::stopped(target);
        agent.start_again();
        agent
    }

    /// A Python program as agent, which takes connections with `accept()`. That answers the first request of each by a refusal: stock
    /// `ssh` binds every connection to its own session and waits for the answer.
    pub fn of_python(target: &Target, program: &str) -> Self {
        let mut agent = Self::stopped(target);
        agent.own = Some(Box::new(Self::start(target)));
        agent.start_python(program);
        agent
    }

    /// Starts a program as for [`Agent::of_python`] at the same socket, for one that was killed.
    pub fn start_python(&mut self, program: &str) {
        let mut command = Command::new("/usr/bin/python3");
        command.arg("-c").arg(format!("{PRELUDE}{program}")).arg(&self.socket);
        self.spawn(&mut command);
    }

    /// No agent yet; [`Agent::start_again`] starts `ssh-agent`.
    pub fn stopped(target: &Target) -> Self {
        let socket = target.dir().join(format!("a{}", crate::wait::free_port()));
        Self { dir: target.dir().to_owned(), socket, process: None, own: None }
    }

    /// Starts `ssh-agent`, without any key, at the same socket.
    ///
    /// # Panics
    /// When it does not listen within a few seconds.
    pub fn start_again(&mut self) {
        let mut command = Command::new("ssh-agent");
        command.arg("-D").arg("-a").arg(&self.socket);
        self.spawn(&mut command);
    }

    fn spawn(&mut self, command: &mut Command) {
        self.process = None;
        let _ = std::fs::remove_file(&self.socket);
        self.process = Some(Guard::spawn(command.stdin(Stdio::null()).stdout(Stdio::null())));
        let socket = self.socket.clone();
        assert!(until(Duration::from_secs(10), || socket.exists()), "the agent does not listen");
    }

    /// `kill -9`; its socket stays, as a crash leaves it.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Sends a signal to the agent's process.
    ///
    /// # Panics
    /// When it is not running.
    pub fn signal(&self, signal: rustix::process::Signal) {
        self.process.as_ref().expect("the agent runs").signal(signal);
    }

    /// The agent's process.
    ///
    /// # Panics
    /// When it is not running.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the agent runs").pid().as_raw_nonzero().get() as u32
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs a program that uses it, in the test's directory.
    #[track_caller]
    pub fn ask(&self, program: &str, args: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(args).current_dir(&self.dir).env("SSH_AUTH_SOCK", &self.socket);
        run(&mut command, Feed::Null, DEADLINE)
    }

    /// Makes a key of this name in the test's directory, adds it, and returns its fingerprint.
    pub fn add_new_key(&self, name: &str) -> String {
        crate::client::make_key(&self.dir.join(name));
        self.ask("ssh-add", &["-q", name]).ok();
        fingerprint(&self.dir.join(name))
    }

    /// What it holds, as `ssh-add -l` prints it.
    #[track_caller]
    pub fn keys(&self) -> String {
        self.ask("ssh-add", &["-l"]).text()
    }

    /// The client with this agent, to which more is to be added; `-A` is not yet there.
    pub fn ssh(&self, target: &Target, args: &[&str]) -> Command {
        let mut command = target.ssh(&[]);
        let own = self.own.as_deref().unwrap_or(self);
        command.arg("-o").arg(format!("IdentityAgent={}", own.socket.display()));
        if self.own.is_some() {
            command.arg("-o").arg(format!("ForwardAgent={}", self.socket.display()));
        }
        command.args(args);
        command
    }

    /// `ssh -A box COMMAND </dev/null`, to its end.
    #[track_caller]
    pub fn exec(&self, target: &Target, command: &str) -> Output {
        run(&mut self.ssh(target, &["-A", "box", command]), Feed::Null, DEADLINE)
    }

    /// A session with this agent that is asked one thing after another.
    pub fn shell(&self, target: &Target) -> Shell {
        Shell::spawn(&mut self.ssh(target, &["-A", "box", "sh"]))
    }
}

/// As `ssh-keygen -l` prints it.
pub fn fingerprint(key: &Path) -> String {
    let line = run(Command::new("ssh-keygen").arg("-lf").arg(key), Feed::Null, DEADLINE).ok();
    line.split(' ').nth(1).unwrap_or_default().to_owned()
}

/// A shell that reads commands from a pipe. Killed with its client when dropped.
pub struct Shell {
    /// The client.
    pub process: Guard,
    stdin: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Shell {
    /// Starts it; the command's last words must be a `sh`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(command: &mut Command) -> Self {
        let mut process = Guard::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let (stdin, stdout) = (process.child().stdin.take().unwrap(), process.child().stdout.take().unwrap());
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).all(|line| send.send(line).is_ok())
        });
        Self { process, stdin, lines }
    }

    /// Starts a command and does not wait for it.
    ///
    /// # Panics
    /// When the client is gone.
    pub fn tell(&mut self, command: &str) {
        self.stdin.write_all(format!("{command}\n").as_bytes()).unwrap();
    }

    /// The next line that the session writes.
    ///
    /// # Panics
    /// When none comes in time.
    #[track_caller]
    pub fn line(&self) -> String {
        self.lines.recv_timeout(DEADLINE).expect("a line in time")
    }

    /// The next line, if there is one already.
    pub fn try_line(&self) -> Option<String> {
        self.lines.try_recv().ok()
    }

    /// Runs a command and returns its exit code and what it wrote, both streams together.
    ///
    /// # Panics
    /// When it is not done in time.
    #[track_caller]
    pub fn ask(&mut self, command: &str) -> (i32, String) {
        self.tell(&format!("({command}) 2>&1 </dev/null; echo \"@done $?\""));
        let mut text = String::new();
        loop {
            let line = self.line();
            if let Some(code) = line.strip_prefix("@done ") {
                return (code.parse().unwrap(), text);
            }
            text.push_str(&line);
            text.push('\n');
        }
    }
}
