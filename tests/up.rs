//! `sandgate up`, which is `make run`: from nothing to a line that opens a shell, as root and as an ordinary user.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests report by panicking")]

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sandgate_tests::client::DEADLINE;
use sandgate_tests::process::Guard;
use sandgate_tests::terminal::Terminal;
use sandgate_tests::{Feed, paths, run, skip, target};

/// Nobody's account, so it has no subordinate ids either.
const ORDINARY: u32 = 61_235;

/// A user with a home directory and nothing else.
struct User {
    home: tempfile::TempDir,
    program: PathBuf,
    /// `None`: whoever runs the test.
    uid: Option<u32>,
}

impl User {
    fn myself() -> Self {
        Self { home: target::short_dir(), program: paths::sandgate(), uid: None }
    }

    /// With copies of the programs, as the build's own directory may be closed to others.
    fn ordinary(uid: u32) -> Self {
        let home = target::short_dir();
        let program = home.path().join("sandgate");
        std::fs::copy(paths::sandgate(), &program).unwrap();
        std::fs::copy(paths::agent().expect("the static agent"), home.path().join("sandgate-agent")).unwrap();
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        chown(home.path(), Some(uid), Some(uid)).unwrap();
        Self { home, program, uid: Some(uid) }
    }

    /// `sandgate ARGS…` as this user. The data are where they are by default; root's would be those of the machine.
    fn sandgate(&self, args: &[&str]) -> Command {
        let mut command = match self.uid {
            None => {
                let mut command = Command::new(&self.program);
                command.arg("--data-dir").arg(self.home.path().join("data"));
                command
            }
            Some(uid) => {
                let mut command = Command::new("setpriv");
                command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups"]);
                command.arg(&self.program);
                command
            }
        };
        command.args(args).env("HOME", self.home.path()).env_remove("RUST_LOG").current_dir("/");
        command
    }

    fn known_hosts(&self) -> PathBuf {
        self.home.path().join("known_hosts")
    }
}

/// What `up` printed until it had the line, or all of it if it ended before.
fn printed(up: &mut Guard) -> Result<String, String> {
    let output = BufReader::new(up.child().stdout.take().unwrap());
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let (end, mut said) = (Instant::now() + DEADLINE, String::new());
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) if line.trim_start().starts_with("ssh ") => return Ok(line.trim().to_owned()),
            Ok(line) => said = format!("{said}{line}\n"),
            Err(_) => return Err(said),
        }
    }
}

/// The printed line, with host keys kept away from those of whoever runs the test. Without words for the far side it opens a shell.
fn paste(line: &str, known_hosts: &Path, words: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!(
        "exec {line} -F none -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={} {words}",
        known_hosts.display()
    ));
    command.env_remove("SSH_AUTH_SOCK");
    command
}

fn from_nothing_to_a_shell(user: &User) {
    let errors = user.home.path().join("errors");
    let start = || {
        let mut command = user.sandgate(&["up", "--ssh-listen", "127.0.0.1:0"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Guard::spawn(command.stderr(std::fs::File::create(&errors).unwrap()))
    };
    let mut up = start();
    let line = match printed(&mut up) {
        Ok(line) => line,
        Err(said) => {
            let text = std::fs::read_to_string(&errors).unwrap();
            if user.uid.is_some() && text.contains("may not make user namespaces") {
                return skip::because("ordinary users may not make user namespaces");
            }
            panic!("no line to paste: {said}{text}");
        }
    };
    let mut shell = Terminal::spawn(&paste(&line, &user.known_hosts(), ""), 80, 24);
    shell.send("echo \"in=$PWD home=$HOME end.\"; echo kept >~/file\r");
    shell.expect("in=/");
    let text = shell.expect(" end.");
    let (directory, home) = text.split_once(" home=/").expect("both");
    assert_eq!(directory, home, "the shell is not at home");
    shell.send("exit 4\r");
    assert_eq!(shell.wait(), 4);
    // Ctrl-C ends the gateway and leaves the sandbox; the next one finds it.
    up.signal(Signal::INT);
    assert_eq!(up.wait(Duration::from_secs(20)), Some(0), "{}", std::fs::read_to_string(&errors).unwrap());
    let mut up = start();
    let line = printed(&mut up).expect("a line to paste");
    let mut again = paste(&line, &user.known_hosts(), "cat file");
    assert_eq!(run(&mut again, Feed::Null, DEADLINE).ok(), "kept");
    run(&mut user.sandgate(&["sandbox", "rm", "--force", "demo"]), Feed::Null, DEADLINE).ok();
    up.signal(Signal::TERM);
    assert_eq!(up.wait(Duration::from_secs(20)), Some(0));
}

#[test]
fn from_nothing_to_a_shell_at_home() {
    if !skip::oracle_lacks("command line") {
        from_nothing_to_a_shell(&User::myself());
    }
}

#[test]
fn an_ordinary_user_gets_as_far() {
    if skip::oracle_lacks("command line") {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        return skip::because("the test before this one has run as an ordinary user");
    }
    from_nothing_to_a_shell(&User::ordinary(ORDINARY));
}
