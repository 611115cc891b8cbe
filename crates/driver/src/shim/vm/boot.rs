//! From a description of a machine to a QEMU that runs it.

use std::fs;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::io::{FdFlags, fcntl_setfd};
use serde_json::{Value, json};

use super::super::find_program;
use super::super::message::Failure;
use super::jail::Jail;
use super::kernel::Kernel;
use super::qmp::Qmp;
use super::{accel, counter};
use crate::qemu::{Accelerator, MachineSettings};
use crate::state::VHOST_SOCKET;

const PROGRAM: &str = "qemu-system-x86_64";

/// Parameters of the guest's kernel. Without a network and with one tenant there is nobody to mitigate against inside but the tenant
/// itself; self-tests and audit cost start time alone. After a pause its clock has jumped, which is nothing to complain of.
const KERNEL_LINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off cryptomgr.notests selinux=0 audit=0 nokaslr \
                           random.trust_cpu=off random.trust_bootloader=off i8042.noaux i8042.nokbd pcie_ports=compat \
                           nowatchdog rcupdate.rcu_cpu_stall_suppress=1";

/// Room for translated code, in MiB. By itself QEMU takes up to 1 GiB, which programs that come and go do fill: then the kernel
/// kills it at the limit of its control group (`limits::OVERHEAD`).
const TRANSLATED: u32 = 128;

/// Errors of the host's disk are the guest's. By itself QEMU halts the machine without a word when that disk is full.
const DISK_ERRORS: &str = "werror=report,rerror=report";

/// System calls that QEMU does without.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// Where the vsock device of a copy is plugged in; empty when the machine is saved.
const VSOCK_PORT: &str =
    "pcie-root-port,id=vsock-port,bus=pcie.0,chassis=1,slot=1,power_controller_present=off";

/// How long QEMU may take to restore a machine.
const RESTORE_PATIENCE: Duration = Duration::from_secs(10);

/// How to wait until the guest's driver has set up the vsock device.
struct VsockWait {
    /// Where QEMU shows the device.
    path: &'static str,
    /// How long it may take.
    patience: Duration,
    /// Between two looks.
    pause: Duration,
    /// From QEMU's last word to the device until the device has read it, on a busy host.
    settles: Duration,
}

/// In a copy. Its kernel runs already and has a bus to look at; a start waits for every millisecond of this.
const COPY: VsockWait = VsockWait {
    path: "/machine/peripheral/vsock0/virtio-backend",
    patience: Duration::from_secs(20),
    pause: Duration::from_millis(3),
    settles: Duration::from_millis(20),
};

/// In a machine that boots, which takes seconds.
const BOOT: VsockWait = VsockWait {
    path: "/machine/peripheral/vsock0",
    patience: Duration::from_secs(60),
    pause: Duration::from_millis(20),
    settles: Duration::from_millis(50),
};

/// How it comes to life.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    /// It boots with its disks.
    Boot,
    /// It boots without any and waits, to be saved; its memory is this file.
    Save {
        /// In the machine's directory.
        memory: PathBuf,
    },
    /// It boots as far as our init, to see whether it can; its console is QEMU's standard output.
    Probe,
    /// It goes on where a saved one has stopped, with this memory.
    Restore {
        /// A copy that is its own.
        memory: PathBuf,
    },
}

/// A machine to be.
#[derive(Debug, Clone)]
pub(super) struct Plan<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) initramfs: &'a Path,
    pub(super) accel: Accelerator,
    pub(super) memory: u64,
    pub(super) processors: u32,
    pub(super) stage: Stage,
    /// Serial number and file of each disk.
    pub(super) reads: Vec<(String, PathBuf)>,
    pub(super) writes: Vec<(String, PathBuf)>,
}

/// A QEMU that has been started.
pub(super) struct Started {
    pub(super) child: Child,
    /// When it was.
    pub(super) at: SystemTime,
    pub(super) qmp: Qmp,
    /// Our end of the serial port: what the machine prints.
    pub(super) console: OwnedFd,
    /// Our end of what a restored machine's state comes through, and the number of QEMU's.
    state: UnixStream,
    state_fd: i32,
}

/// QEMU's program.
pub(super) fn find(settings: &MachineSettings) -> Result<PathBuf, Failure> {
    match &settings.qemu {
        Some(path) if path.is_file() => Ok(path.clone()),
        Some(path) => Err(Failure::machine(format!("there is no QEMU at {}", path.display()))),
        None => find_program(PROGRAM).ok_or_else(|| {
            Failure::machine(format!("{PROGRAM} is not there; install the package qemu-system-x86"))
        }),
    }
}

/// Which program it is: the same text for the same version in the same place.
pub(super) fn identity(qemu: &Path) -> Result<String, Failure> {
    let program = fs::metadata(qemu).map_err(Failure::io("look at QEMU"))?;
    let changed = program.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    Ok(format!("{} {} {}", qemu.display(), program.len(), changed.unwrap_or_default().as_nanos()))
}

/// The command that becomes it. `jail` says everything but the program and its files.
pub(super) fn command(plan: &Plan<'_>, jail: Jail, program: PathBuf) -> Result<Command, Failure> {
    command_with(plan, jail, program, Console::Output)
}

fn command_with(
    plan: &Plan<'_>,
    mut jail: Jail,
    program: PathBuf,
    console: Console,
) -> Result<Command, Failure> {
    jail.program = program;
    jail.reads.extend([plan.kernel.image.clone(), plan.initramfs.to_owned()]);
    jail.reads.extend(plan.reads.iter().map(|(_, path)| path.clone()));
    jail.writes.extend(plan.writes.iter().map(|(_, path)| path.clone()));
    if plan.accel == Accelerator::Kvm {
        jail.devices.push(PathBuf::from(accel::DEVICE));
    }
    jail.args = arguments(plan, console);
    jail.command()
}

/// Starts it with a control channel.
pub(super) fn start(plan: &Plan<'_>, jail: Jail, program: PathBuf) -> Result<Started, Failure> {
    let (console, theirs) = UnixStream::pair().map_err(Failure::io("make a console"))?;
    let (state, their_state) = UnixStream::pair().map_err(Failure::io("make a channel for the state"))?;
    // What QEMU inherits beside its standard descriptors.
    for fd in [&theirs, &their_state] {
        fcntl_setfd(fd, FdFlags::empty()).map_err(Failure::io("hand over a descriptor"))?;
    }
    let at = SystemTime::now();
    let mut child = command_with(plan, jail, program, Console::Socket(theirs.as_raw_fd()))?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Failure::io("start QEMU"))?;
    let state_fd = their_state.as_raw_fd();
    drop((theirs, their_state));
    let pipes = child.stdin.take().zip(child.stdout.take());
    let greeted = pipes
        .ok_or_else(|| Failure::other("QEMU has no control channel"))
        .and_then(|(input, output)| Qmp::new(input, output));
    match greeted {
        Ok(qmp) => Ok(Started { child, at, qmp, console: console.into(), state, state_fd }),
        Err(failure) => {
            let _ = child.kill();
            let status = child.wait().map_err(Failure::io("wait for QEMU"))?;
            Err(Failure::machine(format!(
                "QEMU did not start ({}, {status}); the shim's log says more",
                failure.reason
            )))
        }
    }
}

/// Where a machine prints.
#[derive(Debug, Clone, Copy)]
enum Console {
    /// To an inherited socket of this number; QEMU's standard input and output are its control channel.
    Socket(i32),
    /// To QEMU's standard output; nothing controls it.
    Output,
}

fn arguments(plan: &Plan<'_>, console: Console) -> Vec<String> {
    let mebibytes = plan.memory >> 20;
    let pcie = if matches!(plan.stage, Stage::Boot | Stage::Probe) { "off" } else { "on" };
    let (accel, processor) = match plan.accel {
        Accelerator::Kvm => ("kvm".to_owned(), "host"),
        Accelerator::Tcg => (format!("tcg,tb-size={TRANSLATED}"), "qemu64"),
    };
    let (console, control): (_, &[&str]) = match console {
        Console::Socket(fd) => (format!("socket,id=console,fd={fd}"), &["-qmp", "stdio"]),
        Console::Output => ("stdio,id=console,signal=off".to_owned(), &[]),
    };
    let memory = match &plan.stage {
        Stage::Boot | Stage::Probe => format!("memory-backend-memfd,id=memory,size={mebibytes}M,share=on"),
        // As JSON, whose strings may hold commas.
        Stage::Save { memory } | Stage::Restore { memory } => json!({
            "qom-type": "memory-backend-file", "id": "memory", "size": plan.memory >> 20 << 20, "mem-path": memory, "share": true,
        })
        .to_string(),
    };
    let mut args: Vec<String> = [
        "-machine",
        // With a second interrupt controller, which QEMU adds by itself, a restored machine gets no interrupts.
        &format!("microvm,acpi=on,pcie={pcie},ioapic2=off,pit=off,pic=off,rtc=off,memory-backend=memory"),
        "-accel",
        &accel,
        "-cpu",
        processor,
        "-smp",
        &plan.processors.to_string(),
        "-m",
        &mebibytes.to_string(),
        "-object",
        &memory,
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-sandbox",
        SANDBOX,
        "-global",
        "virtio-mmio.force-legacy=false",
        "-kernel",
        &plan.kernel.image.display().to_string(),
        "-initrd",
        &plan.initramfs.display().to_string(),
        "-append",
        &kernel_line(plan),
        "-chardev",
        &console,
        "-serial",
        "chardev:console",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut add = |list: &[&str]| args.extend(list.iter().map(|&word| word.to_owned()));
    add(control);
    let vsock = format!("socket,id=vsock,path={VHOST_SOCKET}");
    match plan.stage {
        Stage::Boot => add(&[
            "-chardev",
            &vsock,
            "-device",
            "vhost-user-vsock-device,id=vsock0,bus=virtio-mmio-bus.7,chardev=vsock",
        ]),
        Stage::Probe => {}
        Stage::Save { .. } => add(&["-device", VSOCK_PORT]),
        Stage::Restore { .. } => add(&["-device", VSOCK_PORT, "-chardev", &vsock, "-incoming", "defer"]),
    }
    let reads = plan.reads.iter().map(|disk| (disk, "on"));
    let writes = plan.writes.iter().map(|disk| (disk, "off"));
    for (slot, ((serial, path), read_only)) in reads.chain(writes).enumerate() {
        // A disk of one machine is written by no second QEMU, whatever has become of the first; nobody writes those that many machines read.
        let locking = if read_only == "on" { "off" } else { "on" };
        // Two nodes rather than one -drive: their options are not split at the commas of a file name.
        let file = serde_json::json!({
            "driver": "raw", "node-name": serial, "read-only": read_only == "on",
            "file": { "driver": "file", "filename": path, "locking": locking },
        });
        args.extend(["-blockdev".to_owned(), file.to_string()]);
        args.extend([
            "-device".to_owned(),
            format!(
                "virtio-blk-device,bus=virtio-mmio-bus.{slot},drive={serial},serial={serial},{DISK_ERRORS}"
            ),
        ]);
    }
    args
}

/// What the kernel is told.
pub(super) fn kernel_line(plan: &Plan<'_>) -> String {
    let mode = match plan.stage {
        Stage::Boot => "run",
        Stage::Probe => "probe",
        Stage::Save { .. } | Stage::Restore { .. } => "template",
    };
    let mut line = format!("{KERNEL_LINE} sandgate.machine={mode}");
    if plan.accel == Accelerator::Kvm {
        // Which has a clock of its own for it.
        return line;
    }
    line.push_str(" tsc=reliable");
    if let Some(khz) = counter::khz() {
        // Without a timer to measure it by, the emulated machine would wait for one for ever.
        line.push_str(&format!(" tsc_early_khz={khz}"));
    }
    line
}

/// Leaves the memory out of what is saved and restored: it is a file of its own.
pub(super) fn share_memory(qmp: &mut Qmp) -> Result<(), Failure> {
    let capability = json!({ "capability": "x-ignore-shared", "state": true });
    qmp.ask("migrate-set-capabilities", json!({ "capabilities": [capability] })).map(|_| ())
}

impl Started {
    /// Gives a machine that was started to be restored its state and its vsock device, and lets it go on.
    pub(super) fn restore(&mut self, state: &Path) -> Result<(), Failure> {
        let bytes = fs::read(state).map_err(Failure::io("read the saved state"))?;
        share_memory(&mut self.qmp)?;
        self.qmp.ask("migrate-incoming", json!({ "uri": format!("fd:{}", self.state_fd) }))?;
        self.state.set_write_timeout(Some(RESTORE_PATIENCE)).map_err(Failure::io("give the saved state"))?;
        self.state.write_all(&bytes).map_err(Failure::io("give the saved state"))?;
        self.state.shutdown(std::net::Shutdown::Write).map_err(Failure::io("give the saved state"))?;
        let deadline = Instant::now() + RESTORE_PATIENCE;
        loop {
            let answer = self.qmp.ask("query-status", Value::Null)?;
            match answer.get("status").and_then(Value::as_str) {
                Some("paused" | "running" | "prelaunch") => break,
                _ if Instant::now() >= deadline => {
                    return Err(Failure::other("QEMU does not restore the machine"));
                }
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        self.qmp.ask(
            "device_add",
            json!({ "driver": "vhost-user-vsock-pci", "chardev": "vsock", "bus": "vsock-port", "id": "vsock0" }),
        )?;
        self.qmp.ask("cont", Value::Null)?;
        self.wait_for_vsock(&COPY)
    }

    /// Returns when a machine that boots has set up its vsock device.
    pub(super) fn wait_for_boot(&mut self) -> Result<(), Failure> {
        self.wait_for_vsock(&BOOT)
    }

    /// Returns when the guest's driver has set up the vsock device. A connection before that can end the device's worker for ever
    /// (`vhost-device-vsock` 0.3: its queues have memory but are not there yet), and then nobody ever gets in.
    fn wait_for_vsock(&mut self, how: &VsockWait) -> Result<(), Failure> {
        let device = json!({ "path": how.path });
        let deadline = Instant::now() + how.patience;
        loop {
            // Older than 7.2, QEMU does not know; then it is as it was. One that has ended says nothing either: its supervisor sees that.
            let Ok(answer) = self.qmp.ask("x-query-virtio-status", device.clone()) else { return Ok(()) };
            if answer.get("vhost-started").and_then(Value::as_bool) == Some(true) {
                std::thread::sleep(how.settles);
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Failure::other("the machine does not set up its vsock device"));
            }
            std::thread::sleep(how.pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan<'a>(kernel: &'a Kernel, accel: Accelerator, stage: Stage) -> Plan<'a> {
        Plan {
            kernel,
            initramfs: Path::new("/m/00.initramfs"),
            accel,
            memory: 256 << 20,
            processors: 2,
            stage,
            reads: vec![("layer0".into(), "/disks/a,b.erofs".into())],
            writes: vec![("data".into(), "/data.img".into())],
        }
    }

    /// What follows a word.
    fn value<'a>(args: &'a [String], word: &str) -> &'a str {
        let at = args.iter().position(|arg| arg == word).unwrap();
        &args[at + 1]
    }

    #[test]
    fn an_emulated_machine_is_told_how_fast_its_processor_is() {
        let kernel = Kernel::with_modules(Path::new("/k"));
        let args = arguments(&plan(&kernel, Accelerator::Tcg, Stage::Boot), Console::Socket(7));
        assert_eq!((value(&args, "-accel"), value(&args, "-cpu")), ("tcg,tb-size=128", "qemu64"));
        assert_eq!((value(&args, "-kernel"), value(&args, "-initrd")), ("/k/vmlinuz", "/m/00.initramfs"));
        assert_eq!((value(&args, "-smp"), value(&args, "-m")), ("2", "256"));
        assert_eq!((value(&args, "-chardev"), value(&args, "-qmp")), ("socket,id=console,fd=7", "stdio"));
        let line = value(&args, "-append");
        assert!(line.contains("sandgate.machine=run") && line.contains("tsc=reliable"), "{line}");
        assert_eq!(line.contains("tsc_early_khz="), counter::khz().is_some());
        assert!(args.iter().any(|arg| arg.contains("vhost-user-vsock-device")));
        assert!(args.iter().any(|arg| arg.contains(r#""filename":"/disks/a,b.erofs""#)));
    }

    #[test]
    fn a_machine_of_kvm_has_the_host_s_processor_and_its_clock() {
        let kernel = Kernel::with_modules(Path::new("/k"));
        for stage in [Stage::Boot, Stage::Save { memory: "/memory".into() }, Stage::Probe] {
            let args = arguments(&plan(&kernel, Accelerator::Kvm, stage), Console::Socket(7));
            assert_eq!((value(&args, "-accel"), value(&args, "-cpu")), ("kvm", "host"));
            assert!(!value(&args, "-append").contains("tsc"), "{args:?}");
        }
    }

    #[test]
    fn the_machine_that_tries_kvm_has_a_console_and_nothing_else() {
        let kernel = Kernel::with_modules(Path::new("/k"));
        let probe =
            Plan { reads: Vec::new(), writes: Vec::new(), ..plan(&kernel, Accelerator::Kvm, Stage::Probe) };
        let args = arguments(&probe, Console::Output);
        assert!(value(&args, "-append").contains("sandgate.machine=probe"));
        assert_eq!(value(&args, "-chardev"), "stdio,id=console,signal=off");
        let others = ["-device", "-blockdev", "-qmp"];
        assert!(!args.iter().any(|arg| others.contains(&arg.as_str())), "{args:?}");
    }
}
