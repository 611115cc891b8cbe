//! `shim vm-run`: from the record of a sandbox to a running machine, and on to its end.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode};
use std::time::SystemTime;

use rustix::stdio::dup2_stdout;

use super::super::message::{Failure, Report};
use super::super::run::{block_signals, listen};
use super::super::supervise::{Ending, Supervisor};
use super::super::{Target, cgroup, userns_is_initial};
use super::accel::{self, Ground};
use super::boot::{self, Plan, Stage, Started};
use super::jail::{Jail, Memory};
use super::kernel::{self, Choice};
use super::limits::{self, Wanted};
use super::machine::Machine;
use super::watch::DeviceWatch;
use super::{disks, initramfs, template, vsock};
use crate::qemu::{MachineSettings, StartMode};
use crate::state::lock::RunLock;
use crate::state::process::ProcessRef;
use crate::state::{Identity, Meta, Phase, Record, read_json, write_json};
use crate::{DEFAULT_VM_MEMORY_BYTES, SandboxSpec, StopCause};

/// Smallest memory in bytes that the kernel boots in.
pub(super) const MIN_MEMORY: u64 = 128 << 20;
/// Most processors of a machine.
const MAX_PROCESSORS: u32 = 64;

/// Runs the machine; returns when it has ended and is recorded as stopped.
pub(crate) fn run(target: &Target, mut report: Report) -> ExitCode {
    let _lock = match RunLock::acquire(&target.dir.run_lock()) {
        Ok(Some(lock)) => lock,
        Ok(None) => {
            report.failed(&Failure::other("another shim runs this sandbox already"));
            return ExitCode::FAILURE;
        }
        Err(error) => {
            report.failed(&Failure::other(format!("cannot lock the sandbox: {error}")));
            return ExitCode::FAILURE;
        }
    };
    let mut record = Record::new(Phase::Starting);
    record.shim = i32::try_from(std::process::id()).ok().and_then(ProcessRef::of);
    let mut supervisor = match start(target, &mut record, &mut report) {
        Ok(supervisor) => supervisor,
        Err(failure) => {
            clean(target, &record);
            let cause = StopCause::StartFailed { reason: failure.reason.clone() };
            record.phase = Phase::Stopped { cause, at: SystemTime::now() };
            let _ = write_json(&target.dir.state(), &record);
            report.failed(&failure);
            return ExitCode::FAILURE;
        }
    };
    report.done();
    // The gateway waits for the end of the report; what follows goes to the log.
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = dup2_stdout(&null);
    }
    let ending = supervisor.run();
    if let Some(mut machine) = supervisor.take_machine() {
        machine.end_device();
    }
    let out_of_memory =
        cgroup::Cgroups { dirs: record.cgroups.clone(), ..Default::default() }.out_of_memory();
    clean(target, &record);
    let cause = match ending {
        Ending::Requested => StopCause::Requested,
        Ending::Exited(code) => StopCause::Exited { code },
        Ending::Killed(signal) => StopCause::Killed { signal, out_of_memory },
    };
    eprintln!("stopped: {cause}");
    record.phase = Phase::Stopped { cause, at: SystemTime::now() };
    record.init = None;
    record.cgroups.clear();
    if let Err(error) = write_json(&target.dir.state(), &record) {
        eprintln!("cannot record the end: {error}");
    }
    supervisor.answer();
    ExitCode::SUCCESS
}

/// Removes what a machine leaves when its processes have ended.
fn clean(target: &Target, record: &Record) {
    cgroup::remove_leftovers(&record.cgroups);
    for path in target.dir.sockets() {
        let _ = fs::remove_file(path);
    }
}

fn start(target: &Target, record: &mut Record, report: &mut Report) -> Result<Supervisor, Failure> {
    let began = SystemTime::now();
    let save =
        |record: &Record| write_json(&target.dir.state(), record).map_err(Failure::io("record the state"));
    save(record)?;
    let spec: SandboxSpec = read_json(&target.dir.spec()).map_err(Failure::io("read the specification"))?;
    let meta: Meta = read_json(&target.dir.meta()).map_err(Failure::io("read what was created"))?;
    let layers: Vec<PathBuf> =
        read_json(&target.dir.disks()).map_err(Failure::io("read what was created"))?;
    let settings: MachineSettings =
        read_json(&target.dir.machine()).map_err(Failure::io("read the settings"))?;
    let qemu = boot::find(&settings)?;
    let device = vsock::find(&settings)?;
    let chosen = spec.kernel.as_deref().map_or(Choice::Host(settings.kernel.as_deref()), Choice::Sandbox);
    let kernel = kernel::find(&target.data, chosen)?;

    let memory = spec.memory_bytes.unwrap_or(DEFAULT_VM_MEMORY_BYTES);
    if memory < MIN_MEMORY {
        return Err(Failure::other("a machine needs at least 128 MiB of memory"));
    }
    let control = listen(&target.dir.shim_socket())?;
    record.cgroups = limits::make(target, &Wanted { memory, cpus: spec.cpus }, report)?;
    save(record)?;

    let user = match meta.identity {
        Identity::Mapped { base, .. } if userns_is_initial() => Some(base),
        _ => {
            report.warn(
                "QEMU runs as the gateway's own user: only root can give each machine a user of its own.",
            );
            None
        }
    };
    let directory = target.dir.vm();
    let root = target.dir.root().join("jail");
    for (dir, owner) in [(&directory, user), (&root, None)] {
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Failure::io(format!("make {}", dir.display()))(error));
            }
            _ => {}
        }
        chown(dir, owner, owner).map_err(Failure::io("give the machine its directory"))?;
    }
    let config = disks::write_config(target, &spec, &meta)?;
    let data = target.dir.data_disk();
    for path in [&config, &data] {
        chown(path, user, user).map_err(Failure::io("give the machine its disks"))?;
    }
    let jail = Jail {
        root,
        reads: Vec::new(),
        writes: Vec::new(),
        devices: Vec::new(),
        directory,
        memory: None,
        user,
        cgroups: record.cgroups.clone(),
        program: PathBuf::new(),
        args: Vec::new(),
    };
    let ground =
        Ground { data: &target.data, kernel: &kernel, agent: &target.agent, qemu: &qemu, jail: &jail };
    let verdict = accel::decide(settings.accel, &ground, report)?;
    if let Some(warning) = verdict.warning() {
        report.warn(warning);
    }
    record.accel = Some(verdict.accelerator());
    let mut reads: Vec<(String, PathBuf)> =
        layers.into_iter().enumerate().map(|(n, path)| (format!("layer{n}"), path)).collect();
    reads.push(("config".into(), config));
    let plan = Plan {
        kernel: &kernel,
        initramfs: Path::new(""),
        accel: verdict.accelerator(),
        memory,
        processors: processors(spec.cpus),
        stage: Stage::Boot,
        reads,
        writes: vec![("data".into(), data)],
    };
    let parts = Parts { target, plan, jail, qemu, device };
    let warm = match settings.start {
        StartMode::Cold => None,
        StartMode::Warm => match parts.restore(report) {
            Ok(running) => Some(running),
            Err(failure) => {
                report.warn(format!(
                    "It boots, because no copy of a machine that has booted could be used: {}.",
                    failure.reason
                ));
                None
            }
        },
    };
    record.start = Some(if warm.is_some() { StartMode::Warm } else { StartMode::Cold });
    let Running { started, device } = match warm {
        Some(running) => running,
        None => parts.boot(report)?,
    };
    let (executed, up) = (started.at, SystemTime::now());
    let log_file = File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .open(target.dir.agent_log())
        .map_err(Failure::io("open the console's log"))?;
    let pid = i32::try_from(started.child.id()).map_err(Failure::io("number QEMU"))?;
    record.init = ProcessRef::of(pid);
    record.phase = Phase::Running { started_at: SystemTime::now() };
    record.warnings = meta.warnings.iter().chain(report.warnings()).cloned().collect();
    let mut supervisor = Supervisor::new(pid, started.console, log_file, control)?;
    supervisor.watch(block_signals()?);
    supervisor.control(Machine {
        qmp: started.qmp,
        hung_up: false,
        watch: DeviceWatch::new(device.id()),
        device,
        data: target.data.root().to_owned(),
        id: target.id.clone(),
        dir: target.dir.clone(),
        record: record.clone(),
    });
    if let Err(failure) = save(record) {
        supervisor.kill();
        return Err(failure);
    }
    // Read by bench/src/boot.rs.
    eprintln!("times: shim={} exec={} up={}", seconds(began), seconds(executed), seconds(up));
    Ok(supervisor)
}

/// What a machine is made of.
struct Parts<'a> {
    target: &'a Target,
    /// Boots, from an initramfs that is yet to be named.
    plan: Plan<'a>,
    jail: Jail,
    qemu: PathBuf,
    device: PathBuf,
}

/// The processes of a machine.
struct Running {
    started: Started,
    device: Child,
}

impl Parts<'_> {
    fn initramfs(&self, purpose: initramfs::Use, report: &mut Report) -> Result<PathBuf, Failure> {
        initramfs::prepare(&self.target.data, self.plan.kernel, &self.target.agent, purpose, report)
    }

    /// By booting.
    fn boot(&self, report: &mut Report) -> Result<Running, Failure> {
        let initramfs = self.initramfs(initramfs::Use::Boot, report)?;
        report.step("booting the kernel");
        let mut device = vsock::start(self.jail.clone(), self.device.clone())?;
        let plan = Plan { initramfs: &initramfs, ..self.plan.clone() };
        match boot::start(&plan, self.jail.clone(), self.qemu.clone()) {
            Ok(mut started) => {
                // Recorded as running it may be dialled, which it has to be ready for. One that takes too long goes on nonetheless: whoever waits
                // for its agent says that it did not answer.
                if let Err(failure) = started.wait_for_boot() {
                    eprintln!("{}", failure.reason);
                }
                Ok(Running { started, device })
            }
            Err(failure) => {
                end(&mut device);
                Err(failure)
            }
        }
    }

    /// As a copy of a machine that has booted, which is made when it is missing.
    fn restore(&self, report: &mut Report) -> Result<Running, Failure> {
        let initramfs = self.initramfs(initramfs::Use::Template, report)?;
        let model = Plan {
            initramfs: &initramfs,
            stage: Stage::Save { memory: PathBuf::new() },
            reads: Vec::new(),
            writes: Vec::new(),
            ..self.plan.clone()
        };
        let template = template::prepare(&self.target.data, &model, &self.jail, &self.qemu, report)?;
        let mut jail = self.jail.clone();
        let directory = jail.directory.join("memory");
        let plan = Plan {
            initramfs: &initramfs,
            stage: Stage::Restore { memory: directory.join("memory") },
            ..self.plan.clone()
        };
        jail.memory = Some(Memory { directory, copy_of: template.memory() });
        report.step("starting QEMU");
        let mut device = vsock::start(self.jail.clone(), self.device.clone())?;
        let restored = boot::start(&plan, jail, self.qemu.clone()).and_then(|mut started| {
            match started.restore(&template.state()) {
                Ok(()) => Ok(started),
                Err(failure) => {
                    end(&mut started.child);
                    Err(failure)
                }
            }
        });
        match restored {
            Ok(started) => Ok(Running { started, device }),
            Err(failure) => {
                // The next start makes a new one.
                template.discard();
                end(&mut device);
                Err(failure)
            }
        }
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// A time for the log, in seconds since 1970.
fn seconds(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:03}", since.as_secs(), since.subsec_millis())
}

/// Whole processors that hold so many.
fn processors(cpus: Option<f64>) -> u32 {
    let wanted = cpus.unwrap_or(1.0).ceil();
    (1..=MAX_PROCESSORS).find(|n| f64::from(*n) >= wanted).unwrap_or(MAX_PROCESSORS)
}
