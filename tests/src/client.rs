//! The stock OpenSSH client.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::process::{Feed, Guard, Output, run};
use crate::target::Target;

/// Long enough for a busy two-core machine, short enough to notice a hang.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Makes an ed25519 key pair without a passphrase at `path` and `path.pub`.
///
/// # Panics
/// When `ssh-keygen` fails.
pub fn make_key(path: &Path) {
    let mut command = Command::new("ssh-keygen");
    run(command.args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"]).arg(path), Feed::Null, DEADLINE)
        .ok();
}

/// Writes a client configuration in which `box` is `login` on the local port.
///
/// Nothing of the machine's own configuration, agent or known hosts is used.
pub fn write_config(file: &Path, port: u16, login: &str, identity: &Path) {
    let known_hosts = file.with_file_name("known_hosts");
    let text = format!(
        "Host *\n HostName 127.0.0.1\n Port {port}\n User {login}\n IdentityFile {}\n IdentitiesOnly yes\n \
         IdentityAgent none\n UserKnownHostsFile {}\n GlobalKnownHostsFile /dev/null\n \
         StrictHostKeyChecking accept-new\n BatchMode yes\n LogLevel ERROR\n ConnectTimeout 30\n",
        identity.display(),
        known_hosts.display()
    );
    std::fs::write(file, text).unwrap();
}

/// `ssh -F config`, without the variables of the machine that would change what it does.
pub fn ssh(config: &Path) -> Command {
    let mut command = Command::new("ssh");
    command.arg("-F").arg(config);
    quiet_environment(&mut command);
    command
}

fn quiet_environment(command: &mut Command) {
    for name in ["SSH_AUTH_SOCK", "SSH_ASKPASS", "DISPLAY", "LANG", "LC_ALL", "LC_CTYPE"] {
        command.env_remove(name);
    }
}

impl Target {
    /// `ssh -F config ARGS…`; the arguments name the host, which is `box`.
    pub fn ssh(&self, args: &[&str]) -> Command {
        let mut command = ssh(&self.config());
        command.args(args);
        command
    }

    /// `ssh box COMMAND </dev/null`, to its end.
    #[track_caller]
    pub fn exec(&self, command: &str) -> Output {
        run(&mut self.ssh(&["box", command]), Feed::Null, DEADLINE)
    }

    /// `ssh ARGS… </dev/null`, to its end.
    #[track_caller]
    pub fn run_ssh(&self, args: &[&str]) -> Output {
        run(&mut self.ssh(args), Feed::Null, DEADLINE)
    }

    /// `ssh box COMMAND` with this input, to its end.
    #[track_caller]
    pub fn exec_with(&self, command: &str, input: Vec<u8>) -> Output {
        run(&mut self.ssh(&["box", command]), Feed::Bytes(input), DEADLINE)
    }

    /// A local bash script in which `$SSH` is the client with its configuration and `$DIR` the scratch directory.
    pub fn script(&self, text: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-c", &format!("set -o pipefail; {text}")]);
        command.env("SSH", format!("ssh -F {}", self.config().display())).env("DIR", self.dir());
        quiet_environment(&mut command);
        command
    }

    /// Starts a master connection that others share.
    ///
    /// # Panics
    /// When it is not up within the deadline.
    pub fn master(&self) -> Master {
        self.master_with(&[])
    }

    /// As [`Target::master`], with more client options.
    ///
    /// # Panics
    /// When it is not up within the deadline.
    pub fn master_with(&self, options: &[&str]) -> Master {
        let socket = self.dir().join(format!("c{}", crate::wait::free_port()));
        let log = socket.with_extension("log");
        let mut command = self.ssh(&["-M", "-N", "-S"]);
        command.arg(&socket).args(options).arg("box").stdin(Stdio::null()).stdout(Stdio::null());
        let process = Guard::spawn(command.stderr(std::fs::File::create(&log).unwrap()));
        let master = Master { process, socket, config: self.config() };
        let up = || {
            let mut check = master.ssh(&["-O", "check", "box"]);
            check.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|it| it.success())
        };
        assert!(
            crate::wait::until(Duration::from_secs(30), up),
            "the master connection did not come up: {}",
            std::fs::read_to_string(&log).unwrap_or_default()
        );
        master
    }
}

/// A ControlMaster connection.
pub struct Master {
    /// The master process.
    pub process: Guard,
    socket: PathBuf,
    config: PathBuf,
}

impl Master {
    /// `ssh` over this connection; it fails rather than make one of its own.
    pub fn ssh(&self, args: &[&str]) -> Command {
        let mut command = ssh(&self.config);
        command
            .arg("-S")
            .arg(&self.socket)
            .args(["-o", "ControlMaster=no", "-o", "ProxyCommand=false"])
            .args(args);
        command
    }

    /// The option by which another program of the client uses this connection.
    pub fn option(&self) -> String {
        format!("-oControlPath={}", self.socket.display())
    }

    /// `ssh box COMMAND </dev/null` over this connection.
    #[track_caller]
    pub fn exec(&self, command: &str) -> Output {
        run(&mut self.ssh(&["box", command]), Feed::Null, DEADLINE)
    }
}
