//! `shim run`: from the record of a sandbox to a running one, and on to its end.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::dup;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, getrlimit, set_child_subreaper};
use rustix::stdio::dup2_stdout;

use super::container::{Builtin, Stdio};
use super::external::{External, with_last_words};
use super::message::{Failure, Report};
use super::network::GuestNetwork;
use super::supervise::{Ending, Supervisor};
use super::terminals::Terminals;
use super::{Target, cgroup, rootfs, userns};
use crate::bundle::{self, Limits, MaskOrder, Situation};
use crate::state::lock::RunLock;
use crate::state::process::ProcessRef;
use crate::state::{Identity, Meta, Phase, Record, read_json, write_json};
use crate::{Network, Runtime, SandboxSpec, StopCause};

/// Longest path of a Unix socket in bytes (`sun_path` without its final zero).
const MAX_SOCKET_PATH: usize = 107;

/// Runs the sandbox; returns when it has ended and is recorded as stopped.
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
    let mut session = match start(target, &mut record, &mut report) {
        Ok(session) => session,
        Err(failure) => {
            cgroup::remove_leftovers(&record.cgroups);
            let cause = StopCause::StartFailed { reason: failure.reason.clone() };
            record.phase = Phase::Stopped { cause, at: SystemTime::now() };
            let _ = write_json(&target.dir.state(), &record);
            let _ = fs::remove_file(target.dir.agent_socket());
            report.failed(&failure);
            return ExitCode::FAILURE;
        }
    };
    report.done();
    // The gateway waits for the end of the report; what follows goes to the log.
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = dup2_stdout(&null);
    }

    let ending = session.supervisor.run();
    // Nobody can dial from here on, and whoever is asking for the stop is answered when everything is gone.
    let _ = fs::remove_file(target.dir.agent_socket());
    let _ = fs::remove_file(target.dir.shim_socket());
    let out_of_memory = session.cgroups.out_of_memory();
    session.runtime.delete(&session.cgroups);
    cgroup::remove_leftovers(&record.cgroups);
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
    session.supervisor.answer();
    ExitCode::SUCCESS
}

/// A started sandbox.
struct Session {
    supervisor: Supervisor,
    runtime: Made,
    cgroups: cgroup::Cgroups,
}

/// By whom the container was made.
enum Made {
    Builtin(Box<Builtin>),
    External(External),
}

impl Made {
    fn delete(&mut self, cgroups: &cgroup::Cgroups) {
        let result = match self {
            // Its groups are all that libcontainer leaves outside of our mounts.
            Self::Builtin(_) if !cgroups.any() => Ok(()),
            Self::Builtin(builtin) => builtin.delete(),
            Self::External(external) => external.delete(),
        };
        if let Err(failure) = result {
            eprintln!("cannot delete the container: {}", failure.reason);
        }
    }
}

fn start(target: &Target, record: &mut Record, report: &mut Report) -> Result<Session, Failure> {
    let save =
        |record: &Record| write_json(&target.dir.state(), record).map_err(Failure::io("record the state"));
    save(record)?;
    let spec: SandboxSpec = read_json(&target.dir.spec()).map_err(Failure::io("read the specification"))?;
    let meta: Meta = read_json(&target.dir.meta()).map_err(Failure::io("read what was created"))?;

    // Before the namespaces, so that the sockets belong to this user and lie in the data directory itself.
    let listener = listen(&target.dir.root().join("agent.sock"))?;
    let control = listen(&target.dir.root().join("shim.sock"))?;
    set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(Failure::io("become the parent of orphans"))?;

    userns::enter(&meta.identity)?;
    let own_network = spec.network == Network::None;
    if own_network && !matches!(meta.identity, Identity::Mapped { .. }) {
        // The container stays in our user namespace and takes our network over.
        userns::leave_network()?;
    }
    let staged = rootfs::stage(target, &spec, &meta, report)?;
    let cgroups = cgroup::prepare(target, report)?;
    let limits = if cgroups.any() {
        let cgroup::Cgroups { memory, swap, pids, cpu, .. } = cgroups;
        Limits::Cgroup { path: &cgroups.path, memory, swap, pids, cpu }
    } else {
        Limits::Process { path: &cgroups.path }
    };
    record.cgroups.clone_from(&cgroups.dirs);
    if spec.network == Network::Host {
        report.warn("This sandbox uses the host's network: it reaches whatever the host reaches, its local services too.");
    }

    let gvisor = spec.runtime.is_gvisor();
    let agent_args: &[&str] = if gvisor { &["--stdio"] } else { &["--listen-fd", "0"] };
    let bundle = bundle::build(&Situation {
        spec: &spec,
        meta: &meta,
        root: &staged.root,
        merged: &staged.merged,
        agent: &staged.agent,
        agent_args,
        mounts: &staged.mounts,
        limits,
        mask_order: if spec.runtime == Runtime::Builtin {
            MaskOrder::MaskSecond
        } else {
            MaskOrder::MaskFirst
        },
        open_files: getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
    })
    .map_err(Failure::io("describe the container"))?;
    fs::create_dir_all(target.dir.bundle()).map_err(Failure::io("make the bundle directory"))?;
    bundle.save(target.dir.bundle().join("config.json")).map_err(Failure::io("write the bundle"))?;
    // What a kill of this process would leave must be known before it exists.
    record.warnings = meta.warnings.iter().chain(report.warnings()).cloned().collect();
    save(record)?;

    let (log, log_input) = pipe_with(PipeFlags::CLOEXEC).map_err(Failure::io("make a pipe"))?;
    let log_file = File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .open(target.dir.agent_log())
        .map_err(Failure::io("open the agent's log"))?;
    let name = format!("{}-{}", target.data.tag(), target.id);
    let copy = |fd: &OwnedFd| dup(fd).map_err(Failure::io("copy a descriptor"));
    report.step("making the container");
    let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    let (mut made, pid, bridge) = match spec.runtime.program() {
        None => {
            let stdio = Stdio { stdin: listener.into(), stdout: copy(&log_input)?, stderr: log_input };
            let (builtin, pid) = Builtin::create(&name, &target.dir.bundle(), &staged.state, stdio)?;
            (Made::Builtin(Box::new(builtin)), pid, None)
        }
        Some(program) if gvisor => {
            let (agent_in, to_agent) = pipe_with(PipeFlags::CLOEXEC).map_err(Failure::io("make a pipe"))?;
            let (from_agent, agent_out) =
                pipe_with(PipeFlags::CLOEXEC).map_err(Failure::io("make a pipe"))?;
            let stdio = Stdio { stdin: agent_in, stdout: agent_out, stderr: log_input };
            let (external, pid) =
                External::create(program, &spec, &name, &target.dir.bundle(), &staged.state, stdio)
                    .map_err(|failure| last_words(failure, &log))?;
            (Made::External(external), pid, Some((listener, to_agent, from_agent)))
        }
        Some(program) => {
            let stdio = Stdio { stdin: listener.into(), stdout: copy(&log_input)?, stderr: log_input };
            let (external, pid) =
                External::create(program, &spec, &name, &target.dir.bundle(), &staged.state, stdio)
                    .map_err(|failure| last_words(failure, &log))?;
            (Made::External(external), pid, None)
        }
    };
    // libcontainer lends its own score to the container; the shim keeps what it had.
    let _ = fs::write("/proc/self/oom_score_adj", score.trim());
    record.init = ProcessRef::of(pid);
    save(record)?;
    let mut supervisor = Supervisor::new(pid, log, log_file, control)?;
    // gVisor's terminals and its network are its own kernel's.
    if !gvisor {
        supervisor.lend(Terminals::find(pid, &meta.identity), GuestNetwork::find(pid));
    }

    let result = (|| {
        if own_network && !gvisor && matches!(meta.identity, Identity::Mapped { .. }) {
            loopback(pid)?;
        }
        report.step("starting the agent");
        match &mut made {
            Made::Builtin(builtin) => builtin.start(),
            Made::External(external) => external.start(),
        }
    })();
    if let Err(failure) = result {
        supervisor.kill();
        made.delete(&cgroups);
        return Err(failure);
    }
    // Not earlier: the mask would be inherited by the agent and everything it starts.
    supervisor.watch(block_signals()?);
    if let (true, Made::External(external)) = (gvisor, &made) {
        supervisor.terminate_by(external.clone());
    }
    if let Some((listener, to_agent, from_agent)) = bridge {
        super::gvisor::bridge(listener, to_agent, from_agent)?;
    }
    record.phase = Phase::Running { started_at: SystemTime::now() };
    record.warnings = meta.warnings.iter().chain(report.warnings()).cloned().collect();
    save(record)?;
    Ok(Session { supervisor, runtime: made, cgroups })
}

/// Adds what a failed runtime said on its standard error.
fn last_words(failure: Failure, log: &OwnedFd) -> Failure {
    if rustix::io::ioctl_fionbio(log, true).is_err() {
        return failure;
    }
    match log.try_clone() {
        Ok(log) => with_last_words(failure, File::from(log)),
        Err(_) => failure,
    }
}

/// A listening socket at a path of any length, open to its owner only.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, Failure> {
    let _ = fs::remove_file(path);
    let fail = |error: std::io::Error| Failure::io(format!("listen on {}", path.display()))(error);
    let listener = if path.as_os_str().len() <= MAX_SOCKET_PATH {
        UnixListener::bind(path).map_err(fail)?
    } else {
        use std::os::fd::AsRawFd;
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(fail(std::io::ErrorKind::InvalidInput.into()));
        };
        let dir = open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| fail(error.into()))?;
        let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
        UnixListener::bind(short).map_err(fail)?
    };
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(fail)?;
    Ok(listener)
}

/// From here on signals arrive as something to read, so that none ends the shim before the sandbox.
pub(crate) fn block_signals() -> Result<SignalFd, Failure> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD] {
        set.add(signal);
    }
    set.thread_block().map_err(Failure::io("block the signals"))?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(Failure::io("watch for signals"))
}

fn loopback(pid: i32) -> Result<(), Failure> {
    let status = super::own_command()
        .args(["loopback", &pid.to_string()])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .status()
        .map_err(Failure::io("start the loopback helper"))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::other("the loopback interface could not be brought up"))
    }
}
