//! A running machine, as its supervisor holds it.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use rustix::process::Pid;
use serde_json::Value;

use super::super::message::Failure;
use super::super::own_command;
use super::qmp::Qmp;
use crate::SandboxId;
use crate::state::{Phase, Record, SandboxDir, write_json};

/// Slots are eight: one each for what the machine is told and what it writes, one for vsock where it boots.
pub(crate) const MAX_LAYERS: usize = 5;

/// A machine's controls.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(super) qmp: Qmp,
    /// The vsock device, without which nobody can reach it.
    pub(super) device: Child,
    pub(super) data: PathBuf,
    pub(super) id: SandboxId,
    pub(super) dir: SandboxDir,
    /// What is written down about it.
    pub(super) record: Record,
}

impl Machine {
    /// Asks the agent to end everything and switch it off. A helper does it: we go on watching.
    pub(crate) fn power_off(&mut self) {
        if matches!(self.record.phase, Phase::Paused { .. })
            && let Err(failure) = self.resume()
        {
            eprintln!("cannot resume it for its end: {}", failure.reason);
        }
        let helper = own_command()
            .arg("vm-power-off")
            .arg(&self.data)
            .arg(self.id.as_str())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        if let Err(error) = helper {
            eprintln!("cannot ask the agent to end: {error}");
        }
    }

    /// Halts it.
    pub(crate) fn pause(&mut self) -> Result<(), Failure> {
        let Phase::Running { started_at } = self.record.phase else { return Ok(()) };
        self.qmp.ask("stop", Value::Null)?;
        self.note(Phase::Paused { started_at })
    }

    /// Lets it go on.
    pub(crate) fn resume(&mut self) -> Result<(), Failure> {
        let Phase::Paused { started_at } = self.record.phase else { return Ok(()) };
        self.qmp.ask("cont", Value::Null)?;
        self.note(Phase::Running { started_at })
    }

    fn note(&mut self, phase: Phase) -> Result<(), Failure> {
        self.record.phase = phase;
        write_json(&self.dir.state(), &self.record).map_err(Failure::io("record the state"))
    }

    /// Whether this process is the vsock device.
    pub(crate) fn is_device(&self, pid: Pid) -> bool {
        i32::try_from(self.device.id()).is_ok_and(|device| device == pid.as_raw_nonzero().get())
    }

    /// To wait for what QEMU says unasked.
    pub(crate) fn qmp_fd(&self) -> BorrowedFd<'_> {
        self.qmp.output.as_fd()
    }

    /// Reads what QEMU has said unasked.
    pub(crate) fn drain(&mut self) {
        self.qmp.drain();
    }

    /// Ends the vsock device with its machine.
    pub(crate) fn end_device(&mut self) {
        let _ = self.device.kill();
        let _ = self.device.wait();
    }
}
