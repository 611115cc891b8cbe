//! A running machine, as its supervisor holds it.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::super::message::Failure;
use super::super::own_command;
use super::qmp::{Drained, Qmp};
use super::watch::DeviceWatch;
use crate::SandboxId;
use crate::state::{Phase, Record, SandboxDir, write_json};

/// Slots are eight: one each for what the machine is told and what it writes, one for vsock where it boots.
pub(crate) const MAX_LAYERS: usize = 5;

/// How long QEMU's threads may take to halt. One that waits for the host's disk halts when it has its answer.
const HALT_PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks.
const HALT_PAUSE: Duration = Duration::from_millis(1);

/// A machine's controls.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(super) qmp: Qmp,
    /// QEMU has closed its side of that, which it does before its end or when it is taken over.
    pub(super) hung_up: bool,
    /// The vsock device, without which nobody can reach it.
    pub(super) device: Child,
    pub(super) watch: DeviceWatch,
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

    /// Halts it, by halting QEMU. Its own way to halt a machine would take the queues from the vsock device, which does not survive the next
    /// byte on any of its connections then (`vhost-device-vsock` 0.3). So the device goes on, and its connections wait. QEMU answers nothing meanwhile.
    pub(crate) fn pause(&mut self) -> Result<(), Failure> {
        let Phase::Running { started_at } = self.record.phase else { return Ok(()) };
        // First, so that nobody dials what cannot answer any more.
        self.note(Phase::Paused { started_at })?;
        let halted = self.signal(Signal::STOP).map(wait_until_halted);
        if halted.is_err() {
            self.note(Phase::Running { started_at })?;
        }
        halted
    }

    /// Lets it go on.
    pub(crate) fn resume(&mut self) -> Result<(), Failure> {
        let Phase::Paused { started_at } = self.record.phase else { return Ok(()) };
        self.signal(Signal::CONT)?;
        self.note(Phase::Running { started_at })
    }

    /// Signals QEMU, which is ours to reap: until that is done its number is nobody else's.
    fn signal(&self, signal: Signal) -> Result<Pid, Failure> {
        let pid = self.record.init.as_ref().and_then(|init| Pid::from_raw(init.pid));
        let pid = pid.ok_or_else(|| Failure::other("its QEMU is not known"))?;
        kill_process(pid, signal).map_err(Failure::io("signal QEMU"))?;
        Ok(pid)
    }

    fn note(&mut self, phase: Phase) -> Result<(), Failure> {
        let record = Record { phase, ..self.record.clone() };
        write_json(&self.dir.state(), &record).map_err(Failure::io("record the state"))?;
        self.record = record;
        Ok(())
    }

    /// Whether this process is the vsock device.
    pub(crate) fn is_device(&self, pid: Pid) -> bool {
        i32::try_from(self.device.id()).is_ok_and(|device| device == pid.as_raw_nonzero().get())
    }

    /// Whether the vsock device is there but serves nobody any more. To be asked by the time of [`Self::next_look`].
    pub(crate) fn has_lost_its_device(&mut self) -> bool {
        self.watch.is_lost(Instant::now())
    }

    /// When the vsock device is to be looked at again.
    pub(crate) fn next_look(&self) -> Instant {
        self.watch.next
    }

    /// To wait for what QEMU says unasked, while there may be something.
    pub(crate) fn qmp_fd(&self) -> Option<BorrowedFd<'_>> {
        (!self.hung_up).then(|| self.qmp.output.as_fd())
    }

    /// Reads what QEMU has said unasked. Whether there is more of it.
    pub(crate) fn drain(&mut self) -> bool {
        let drained = if self.hung_up { Drained::HungUp } else { self.qmp.drain() };
        self.hung_up = drained == Drained::HungUp;
        drained == Drained::Part
    }

    /// Ends the vsock device with its machine.
    pub(crate) fn end_device(&mut self) {
        let _ = self.device.kill();
        let _ = self.device.wait();
    }
}

/// Waits until all threads of a process that was sent SIGSTOP have stopped.
fn wait_until_halted(pid: Pid) {
    let deadline = Instant::now() + HALT_PATIENCE;
    while Instant::now() < deadline {
        // Of ends nothing is taken here: those are the supervisor's.
        match waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED | WaitIdOptions::NOHANG) {
            Ok(None) | Err(Errno::INTR) => std::thread::sleep(HALT_PAUSE),
            Ok(Some(_)) | Err(_) => return,
        }
    }
}
