//! An OCI runtime's command line: runc, crun, gVisor's runsc, or any program that is used the same way.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::container::Stdio;
use super::message::Failure;
use crate::{Network, SandboxSpec};

/// How much of a runtime's complaint is passed on, in bytes.
const MAX_COMPLAINT: usize = 600;
/// How much of its standard error is looked at, in bytes: a pipe's default size.
const MAX_LAST_WORDS: u64 = 64 * 1024;

/// Stands where a runtime wrote nothing into the log it was told to write.
const NO_REASON: &str = "no reason given";

/// Puts the last line that a failed runtime wrote to its standard error where its log held no reason. `errors` must not block.
pub(crate) fn with_last_words(mut failure: Failure, errors: impl Read) -> Failure {
    let mut text = Vec::new();
    // Up to what is there: the pipe holds no more than the kernel's limit, and reading it ends at EOF or when it would block.
    let _ = errors.take(MAX_LAST_WORDS).read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    if let Some(last) = text.lines().rev().find(|line| !line.trim().is_empty())
        && let Some(start) = failure.reason.strip_suffix(NO_REASON)
    {
        let last: String = last.chars().filter(|c| !c.is_control()).take(MAX_COMPLAINT).collect();
        failure.reason = format!("{start}{last}");
    }
    failure
}

/// A container made by another program.
#[derive(Debug, Clone)]
pub(crate) struct External {
    program: PathBuf,
    options: Vec<String>,
    name: String,
    complaints: PathBuf,
}

impl External {
    /// `create`: the container exists and its init waits.
    pub(crate) fn create(
        program: &Path,
        spec: &SandboxSpec,
        name: &str,
        bundle: &Path,
        state: &Path,
        stdio: Stdio,
    ) -> Result<(Self, i32), Failure> {
        let program = if program.components().count() > 1 {
            program.to_owned()
        } else {
            super::find_program(&program.to_string_lossy())
                .ok_or_else(|| Failure::runtime(format!("{} is not installed", program.display())))?
        };
        let complaints = state.join("complaints");
        let mut options = vec![
            format!("--root={}", state.join("containers").display()),
            format!("--log={}", complaints.display()),
        ];
        if spec.runtime.is_gvisor() {
            let network = match spec.network {
                // gVisor's own stack, which has no way out of a network namespace with nothing but loopback.
                Network::None => "none",
                Network::Host => "host",
            };
            options.push(format!("--network={network}"));
        }
        let external = Self { program, options, name: name.to_owned(), complaints };
        let pid_file = state.join("pid");
        let mut command = external.command();
        command
            .arg("create")
            .arg("--bundle")
            .arg(bundle)
            .arg("--pid-file")
            .arg(&pid_file)
            .arg(&external.name);
        command.stdin(stdio.stdin).stdout(stdio.stdout).stderr(stdio.stderr);
        external.finish(command, "create")?;
        let pid = fs::read_to_string(&pid_file).map_err(Failure::io("read the runtime's pid file"))?;
        let pid = pid.trim().parse().map_err(Failure::io("understand the runtime's pid file"))?;
        Ok((external, pid))
    }

    /// `start`: init executes the agent.
    pub(crate) fn start(&self) -> Result<(), Failure> {
        self.call("start", &[])
    }

    /// `kill`: asks the agent to end where its process is not one of the host's.
    pub(crate) fn terminate(&self) -> Result<(), Failure> {
        let mut command = self.command();
        command.arg("kill").arg(&self.name).arg("TERM");
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        self.finish(command, "kill")
    }

    /// `delete --force`, after init has ended.
    pub(crate) fn delete(&self) -> Result<(), Failure> {
        self.call("delete", &["--force"])
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.options);
        command
    }

    fn call(&self, what: &str, options: &[&str]) -> Result<(), Failure> {
        let mut command = self.command();
        command.arg(what).args(options).arg(&self.name);
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        self.finish(command, what)
    }

    fn finish(&self, mut command: Command, what: &str) -> Result<(), Failure> {
        // Made anew, so that what is in it afterwards is about this call.
        File::create(&self.complaints).map_err(Failure::io("make the runtime's log"))?;
        let status = command.status().map_err(|error| {
            Failure::runtime(format!("{} cannot be started: {error}", self.program.display()))
        })?;
        if status.success() {
            return Ok(());
        }
        let text = fs::read_to_string(&self.complaints).unwrap_or_default();
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or(NO_REASON);
        let last: String = last.chars().take(MAX_COMPLAINT).collect();
        Err(Failure::runtime(format!("{} {what} ended with {status}: {last}", self.program.display())))
    }
}
