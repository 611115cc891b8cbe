//! The built-in runtime: libcontainer, in this process.

use std::error::Error;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use rustix::process::{Signal, set_parent_process_death_signal};

use super::message::Failure;

/// Descriptors 0, 1 and 2 of the container's init.
#[derive(Debug)]
pub(crate) struct Stdio {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// A created container.
pub(crate) struct Builtin {
    container: Container,
}

impl std::fmt::Debug for Builtin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builtin").field("id", &self.container.id()).finish()
    }
}

impl Builtin {
    /// Makes the container; its init waits for [`Builtin::start`].
    pub(crate) fn create(
        id: &str,
        bundle: &Path,
        state: &Path,
        stdio: Stdio,
    ) -> Result<(Self, i32), Failure> {
        let container = ContainerBuilder::new(id.to_owned(), SyscallType::default())
            .with_root_path(state)
            .map_err(describe)?
            .with_executor(Agent)
            .with_stdin(stdio.stdin)
            .with_stdout(stdio.stdout)
            .with_stderr(stdio.stderr)
            .as_init(bundle)
            .with_systemd(false)
            .build()
            .map_err(describe)?;
        let pid = container.pid().ok_or_else(|| Failure::runtime("the container has no process"))?.as_raw();
        Ok((Self { container }, pid))
    }

    /// Lets init execute the agent.
    pub(crate) fn start(&mut self) -> Result<(), Failure> {
        self.container.start().map_err(describe)
    }

    /// Removes the groups and the runtime's state after init has ended.
    pub(crate) fn delete(&mut self) -> Result<(), Failure> {
        self.container.delete(true).map_err(describe)
    }
}

/// The whole chain of causes in one line: the outermost says only that it failed.
fn describe(error: LibcontainerError) -> Failure {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    Failure::runtime(text)
}

/// Executes the agent so that it cannot outlive its shim.
#[derive(Debug, Clone, Copy)]
struct Agent;

impl Executor for Agent {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let args =
            spec.process().as_ref().and_then(|p| p.args().as_ref()).ok_or(ExecutorError::InvalidArg)?;
        let (program, rest) = args.split_first().ok_or(ExecutorError::InvalidArg)?;
        set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(|error| ExecutorError::Other(error.to_string()))?;
        let error = Command::new(program).args(rest).exec();
        Err(ExecutorError::Other(format!("cannot execute {program}: {error}")))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let has_args =
            spec.process().as_ref().and_then(|p| p.args().as_ref()).is_some_and(|args| !args.is_empty());
        if has_args {
            Ok(())
        } else {
            Err(ExecutorValidationError::ArgValidationError("no arguments".into()))
        }
    }
}
