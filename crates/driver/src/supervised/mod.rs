//! What the drivers that make sandboxes of their own have in common: one directory and one shim process per sandbox.
//!
//! They differ in what the shim does ([`Kind`]) and in how its agent is dialled.

mod agent;
mod ask;
mod network;
mod shim;
mod terminal;
mod usage;

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use sandgate_guest::{BoxFuture, ByteStream, Dial, Guest, GuestError, IpFamily, Link, Terminal, Timeouts};
use tokio::net::UnixStream;

use crate::qemu::MachineSettings;
use crate::state::lock::{OpLock, RunLock};
use crate::state::{DataDir, Meta, Phase, Record, SandboxDir, read_json, write_json};
use crate::{Driver, DriverError, InvalidSpec, Progress, SandboxId, SandboxSpec, State, StopCause, Usage};

/// How long an operation waits for another one on the same sandbox.
const BUSY_PATIENCE: Duration = Duration::from_secs(120);

/// How long a shim may take to clean up after the end of its sandbox.
const CLEANUP_PATIENCE: Duration = Duration::from_secs(15);

/// How often something that has no event is looked at again.
const RETRY: Duration = Duration::from_millis(10);

/// How long an agent may take for its answer when it is first asked whether it is there; doubled whenever that was not enough, so that one
/// lost answer does not cost a start the whole of the usual time.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);

/// How long a supervisor may take to halt its sandbox or to let it go on.
const CHANGE_PATIENCE: Duration = Duration::from_secs(10);

/// Longest path of a Unix socket in bytes (`sun_path` without its final zero).
const MAX_SOCKET_PATH: usize = 107;

/// What kind of sandbox it is.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// A container.
    Container,
    /// A virtual machine, made as these settings say.
    Machine(MachineSettings),
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::Container => "oci",
            Self::Machine(_) => "qemu",
        }
    }

    /// The part of the shim that does this for it.
    fn word(&self, what: Part) -> &'static str {
        match (self, what) {
            (Self::Container, Part::Create) => "create",
            (Self::Container, Part::Start) => "start",
            (Self::Machine(_), Part::Create) => "vm-create",
            (Self::Machine(_), Part::Start) => "vm-start",
            (_, Part::Remove) => "remove",
        }
    }
}

/// What a shim is started for.
#[derive(Debug, Clone, Copy)]
enum Part {
    Create,
    Start,
    Remove,
}

/// Where things are kept and which programs are started.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) data_dir: PathBuf,
    pub(crate) agent_path: PathBuf,
    pub(crate) shim_exe: PathBuf,
    pub(crate) ready_timeout: Duration,
    pub(crate) kind: Kind,
}

/// A driver's work, but for what its kind does otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Supervised {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    data: DataDir,
    /// The installed agent.
    agent: PathBuf,
    shim_exe: PathBuf,
    ready_timeout: Duration,
    kind: Kind,
}

impl Supervised {
    /// Prepares the data directory and installs the agent binary in it.
    pub(crate) fn new(config: Config) -> Result<Self, DriverError> {
        let fail = |path: &PathBuf| DriverError::io(format!("make {}", path.display()));
        let private =
            |path: &PathBuf| DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail(path));
        private(&config.data_dir)?;
        // Absolute, since shims run in the root directory; resolved, so that it has one name.
        let root = fs::canonicalize(&config.data_dir).map_err(fail(&config.data_dir))?;
        let data = DataDir::new(root);
        for dir in [data.sandboxes(), data.images(), data.agents()] {
            private(&dir)?;
        }
        let agent = agent::install(&data, &config.agent_path)?;
        let Config { shim_exe, ready_timeout, kind, .. } = config;
        Ok(Self { inner: Arc::new(Inner { data, agent, shim_exe, ready_timeout, kind }) })
    }

    /// Halts the sandbox, or lets it go on. Its supervisor does it and answers.
    pub(crate) async fn change(&self, id: &SandboxId, change: Change) -> Result<(), DriverError> {
        self.existing(id)?;
        let _lock = self.lock(id).await?;
        let (record, life) = self.look(id)?;
        let failed =
            |reason: String| DriverError::ChangeFailed { id: id.clone(), what: change.verb(), reason };
        match (life, &record.phase, change) {
            (Life::Held, Phase::Running { .. }, Change::Resume)
            | (Life::Held, Phase::Paused { .. }, Change::Pause) => {
                return Ok(());
            }
            (Life::Held, Phase::Running { .. }, Change::Pause)
            | (Life::Held, Phase::Paused { .. }, Change::Resume) => {}
            _ => return Err(failed("it is not running".into())),
        }
        let asked = tokio::time::timeout(CHANGE_PATIENCE, shim::ask(&self.dir(id), change.verb())).await;
        match asked {
            Ok(Ok(answer)) if answer == "done" => {}
            Ok(Ok(answer)) => return Err(failed(answer)),
            Ok(Err(error)) => return Err(failed(format!("its supervisor does not answer: {error}"))),
            Err(_) => return Err(failed("its supervisor does not answer".into())),
        }
        if matches!(change, Change::Resume) {
            // It has seen a long moment and nothing of what happened in it; how well its clock took that is its kernel's matter.
            self.set_clock(id).await;
        }
        Ok(())
    }

    /// Gives a machine the host's time. What its configuration says is of the moment when the start began, which may be a whole boot ago.
    async fn set_clock(&self, id: &SandboxId) {
        if let Kind::Machine(_) = self.inner.kind
            && let Err(error) = Guest::new(self.link(id)).set_clock().await
        {
            tracing::warn!(sandbox = %id, %error, "the clock of a sandbox could not be set");
        }
    }

    fn dir(&self, id: &SandboxId) -> SandboxDir {
        self.inner.data.sandbox(id)
    }

    fn existing(&self, id: &SandboxId) -> Result<SandboxDir, DriverError> {
        let dir = self.dir(id);
        if dir.spec().exists() { Ok(dir) } else { Err(DriverError::NotFound(id.clone())) }
    }

    /// Waits for the sandbox's operation lock without blocking the runtime.
    async fn lock(&self, id: &SandboxId) -> Result<OpLock, DriverError> {
        let path = self.dir(id).op_lock();
        let taken = tokio::task::spawn_blocking(move || OpLock::acquire(&path, BUSY_PATIENCE)).await;
        match taken.map_err(io::Error::other).and_then(|result| result) {
            Ok(Some(lock)) => Ok(lock),
            Ok(None) => Err(DriverError::Busy(id.clone())),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(DriverError::NotFound(id.clone())),
            Err(error) => Err(DriverError::io(format!("lock the sandbox {id}"))(error)),
        }
    }

    /// The record, and whether a shim stands behind it.
    fn look(&self, id: &SandboxId) -> Result<(Record, Life), DriverError> {
        let dir = self.existing(id)?;
        let held = || {
            RunLock::is_held(&dir.run_lock()).map_err(DriverError::io(format!("ask for the shim of {id}")))
        };
        // Asked first: a shim that ends in between has recorded its end before it lets go.
        let life = if held()? { Life::Held } else { Life::Free };
        let record = match read_json::<Record>(&dir.state()) {
            Ok(record) => record,
            Err(error) if error.kind() == ErrorKind::NotFound => Record::new(Phase::Created),
            Err(error) => return Err(DriverError::io(format!("read {}", dir.state().display()))(error)),
        };
        Ok((record, life))
    }

    /// Ends what a killed shim has left, and records that. The caller holds the operation lock.
    async fn bury(&self, id: &SandboxId, record: &Record) -> Result<Record, DriverError> {
        let (driver, id, record) = (self.clone(), id.clone(), record.clone());
        // Emptying a group takes until its processes are gone.
        let buried = tokio::task::spawn_blocking(move || driver.bury_now(&id, &record)).await;
        buried.map_err(io::Error::other).map_err(DriverError::io("remove the leftovers of a sandbox"))?
    }

    fn bury_now(&self, id: &SandboxId, record: &Record) -> Result<Record, DriverError> {
        let dir = self.dir(id);
        if let Some(init) = &record.init {
            init.kill();
        }
        crate::shim::remove_leftovers(&record.cgroups);
        for socket in dir.sockets() {
            let _ = fs::remove_file(socket);
        }
        let mut after = record.clone();
        after.phase = Phase::Stopped { cause: StopCause::Lost, at: SystemTime::now() };
        after.init = None;
        after.cgroups.clear();
        write_json(&dir.state(), &after).map_err(DriverError::io(format!("record the end of {id}")))?;
        tracing::warn!(sandbox = %id, "the sandbox's shim was gone; its leftovers are removed");
        Ok(after)
    }

    /// Waits until the agent answers, or until there is no more hope. What answers has the host's time.
    async fn wait_ready(&self, id: &SandboxId) -> Result<(), DriverError> {
        if self.inner.ready_timeout.is_zero() {
            return Ok(());
        }
        let failed = |reason: String| DriverError::StartFailed { id: id.clone(), reason };
        let deadline = Instant::now() + self.inner.ready_timeout;
        let (link, usual, mut patience) = (self.link(id), Timeouts::default(), FIRST_PATIENCE);
        loop {
            let timeouts =
                Timeouts { dial: patience.min(usual.dial), open: patience.min(usual.open), ..usual };
            let guest = Guest::with_timeouts(Arc::clone(&link), timeouts);
            let left = deadline.saturating_duration_since(Instant::now());
            let last = match tokio::time::timeout(left, guest.info()).await {
                Ok(Ok(_)) => {
                    self.set_clock(id).await;
                    return Ok(());
                }
                Ok(Err(error)) => {
                    if matches!(error, GuestError::Timeout { .. }) {
                        patience = patience.saturating_mul(2);
                    }
                    error.to_string()
                }
                Err(_) => String::new(),
            };
            let (record, life) = self.look(id)?;
            if life == Life::Free {
                let why = match record.phase {
                    Phase::Stopped { cause, .. } => cause.to_string(),
                    _ => StopCause::Lost.to_string(),
                };
                return Err(failed(format!("{why}{}", self.last_words(id))));
            }
            if Instant::now() >= deadline {
                let seconds = self.inner.ready_timeout.as_secs();
                return Err(failed(format!(
                    "its agent did not answer within {seconds} s {last}{}",
                    self.last_words(id)
                )));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// The end of what the agent printed, for an error message. Guest-controlled: cut short and made printable.
    fn last_words(&self, id: &SandboxId) -> String {
        let text = fs::read(self.dir(id).agent_log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(400)..]).into_owned();
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if text.trim().is_empty() { String::new() } else { format!("; its agent said: {}", text.trim()) }
    }

    /// Waits until the shim has let go of its lock.
    async fn wait_free(&self, id: &SandboxId, patience: Duration) -> Result<bool, DriverError> {
        let deadline = Instant::now() + patience;
        loop {
            if self.look(id)?.1 == Life::Free {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn stop_locked(&self, id: &SandboxId, grace: Duration) -> Result<(), DriverError> {
        let (record, life) = self.look(id)?;
        if life == Life::Free {
            if matches!(record.phase, Phase::Running { .. } | Phase::Paused { .. } | Phase::Starting) {
                self.bury(id, &record).await?;
            }
            return Ok(());
        }
        let patience = grace.saturating_add(CLEANUP_PATIENCE);
        let asked = tokio::time::timeout(patience, shim::ask_to_stop(&self.dir(id), grace)).await;
        if !matches!(asked, Ok(Ok(()))) {
            tracing::warn!(sandbox = %id, "the shim does not answer and is killed");
            let (record, _) = self.look(id)?;
            if let Some(shim) = &record.shim {
                shim.kill();
            }
        }
        if !self.wait_free(id, CLEANUP_PATIENCE).await? {
            return Err(DriverError::StopFailed {
                id: id.clone(),
                reason: "its shim cannot be killed".into(),
            });
        }
        let (record, _) = self.look(id)?;
        if !matches!(record.phase, Phase::Stopped { .. } | Phase::Created) {
            self.bury(id, &record).await?;
        }
        Ok(())
    }

    /// Removes disks that no machine has any more. What cannot be removed now is removed later.
    async fn collect_disks(&self) {
        let data = self.inner.data.clone();
        match tokio::task::spawn_blocking(move || crate::images::collect_disks(&data)).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => {
                tracing::warn!(reason = failure.reason, "disks that no machine has could not be removed");
            }
            Err(error) => tracing::warn!(%error, "disks that no machine has could not be removed"),
        }
    }

    async fn start_locked(&self, id: &SandboxId, progress: &dyn Progress) -> Result<(), DriverError> {
        let began = Instant::now();
        let dir = self.existing(id)?;
        let (record, life) = self.look(id)?;
        match (life, &record.phase) {
            (Life::Held, Phase::Running { .. } | Phase::Starting) => return self.wait_ready(id).await,
            (Life::Held, Phase::Paused { .. }) => {
                let reason = "it is paused; resume it".into();
                return Err(DriverError::StartFailed { id: id.clone(), reason });
            }
            // It is about to let go.
            (Life::Held, _) if !self.wait_free(id, CLEANUP_PATIENCE).await? => {
                return Err(DriverError::Busy(id.clone()));
            }
            (Life::Free, Phase::Running { .. } | Phase::Paused { .. } | Phase::Starting) => {
                self.bury(id, &record).await?;
            }
            _ => {}
        }
        let made = read_json::<Meta>(&dir.meta()).is_ok_and(|meta| !meta.image.layers.is_empty());
        if !made {
            let reason = "its creation was interrupted; remove it and create it again".into();
            return Err(DriverError::StartFailed { id: id.clone(), reason });
        }
        if let Kind::Machine(settings) = &self.inner.kind {
            // What the operator says now, not what was said when it was made.
            let path = dir.machine();
            write_json(&path, settings).map_err(DriverError::io(format!("write {}", path.display())))?;
        }
        shim::call(&self.inner, id, Part::Start, progress).await?;
        let created = began.elapsed();
        match self.wait_ready(id).await {
            Ok(()) => {
                tracing::info!(sandbox = %id, container = ?created, ready = ?began.elapsed(), "the sandbox has started");
                Ok(())
            }
            Err(error) => {
                if let Err(stop) = self.stop_locked(id, Duration::ZERO).await {
                    tracing::warn!(sandbox = %id, %stop, "a sandbox that did not start could not be stopped");
                }
                Err(error)
            }
        }
    }
}

/// A change of a running sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Pause,
    Resume,
}

impl Change {
    fn verb(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }
}

/// Whether a shim holds the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Held,
    Free,
}

#[async_trait]
impl Driver for Supervised {
    fn name(&self) -> &'static str {
        self.inner.kind.name()
    }

    async fn create(&self, spec: &SandboxSpec, progress: &dyn Progress) -> Result<(), DriverError> {
        spec.validate()?;
        if spec.external.is_some() {
            return Err(InvalidSpec::Pointless {
                driver: self.name(),
                what: "a link: its sandboxes are its own",
            }
            .into());
        }
        if spec.adopt.is_some() {
            let what = "somebody else's container";
            return Err(InvalidSpec::Pointless { driver: self.name(), what }.into());
        }
        if spec.kernel.is_some() && matches!(self.inner.kind, Kind::Container) {
            let what = "a kernel: its containers run on the host's";
            return Err(InvalidSpec::Pointless { driver: self.name(), what }.into());
        }
        let id = &spec.id;
        let dir = self.dir(id);
        match DirBuilder::new().mode(0o700).create(dir.root()) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(DriverError::AlreadyExists(id.clone()));
            }
            Err(error) => return Err(DriverError::io(format!("make {}", dir.root().display()))(error)),
        }
        let _lock = self.lock(id).await?;
        if let Kind::Machine(settings) = &self.inner.kind {
            let path = dir.machine();
            write_json(&path, settings).map_err(DriverError::io(format!("write {}", path.display())))?;
        }
        write_json(&dir.spec(), spec).map_err(DriverError::io(format!("write {}", dir.spec().display())))?;
        let result = shim::call(&self.inner, id, Part::Create, progress).await;
        if result.is_err()
            && let Err(error) = shim::remove(&self.inner, id).await
        {
            tracing::warn!(sandbox = %id, %error, "a half-made sandbox could not be removed");
        }
        result
    }

    async fn start(&self, id: &SandboxId, progress: &dyn Progress) -> Result<(), DriverError> {
        self.existing(id)?;
        let _lock = self.lock(id).await?;
        self.start_locked(id, progress).await
    }

    async fn stop(&self, id: &SandboxId, grace: Duration) -> Result<(), DriverError> {
        self.existing(id)?;
        let _lock = self.lock(id).await?;
        self.stop_locked(id, grace).await
    }

    async fn remove(&self, id: &SandboxId) -> Result<(), DriverError> {
        // A directory without a specification is a creation that was cut off at its very start.
        if !self.dir(id).root().exists() {
            return Err(DriverError::NotFound(id.clone()));
        }
        let _lock = self.lock(id).await?;
        match self.stop_locked(id, Duration::ZERO).await {
            Ok(()) | Err(DriverError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        shim::remove(&self.inner, id).await?;
        if matches!(self.inner.kind, Kind::Machine(_)) {
            self.collect_disks().await;
        }
        Ok(())
    }

    async fn inspect(&self, id: &SandboxId) -> Result<State, DriverError> {
        let (mut record, life) = self.look(id)?;
        if life == Life::Free
            && matches!(record.phase, Phase::Running { .. } | Phase::Paused { .. } | Phase::Starting)
        {
            // Whoever has the lock is about to start, stop or remove it, and will see to what was left.
            let path = self.dir(id).op_lock();
            let lock = OpLock::acquire(&path, Duration::ZERO)
                .map_err(DriverError::io(format!("lock the sandbox {id}")))?;
            if lock.is_none() {
                return Ok(State::Starting);
            }
            let (again, life) = self.look(id)?;
            record = match (life, &again.phase) {
                (Life::Free, Phase::Running { .. } | Phase::Paused { .. } | Phase::Starting) => {
                    self.bury(id, &again).await?
                }
                _ => again,
            };
        }
        Ok(match record.phase {
            Phase::Created => State::Created,
            Phase::Starting => State::Starting,
            Phase::Running { started_at } => State::Running {
                pid: record.init.and_then(|init| u32::try_from(init.pid).ok()).unwrap_or_default(),
                started_at,
                accel: record.accel,
                start: record.start,
                warnings: record.warnings,
            },
            Phase::Paused { started_at } => State::Paused { started_at },
            Phase::Stopped { cause, at } => State::Stopped { cause, at },
        })
    }

    async fn usage(&self, id: &SandboxId) -> Option<Usage> {
        let (record, _) = self.look(id).ok()?;
        // The kernel may have to add up what its processors have counted.
        let mut usage = tokio::task::spawn_blocking(move || usage::of_groups(&record.cgroups)).await.ok()?;
        if let Kind::Machine(_) = self.inner.kind {
            // What its group has are the threads of QEMU; how many processes run inside its own kernel knows.
            (usage.processes, usage.processes_limit) = (None, None);
        }
        usage.known()
    }

    async fn login_user(&self, id: &SandboxId) -> Result<Option<String>, DriverError> {
        let dir = self.existing(id)?;
        let read = |error| DriverError::io(format!("read the records of {id}"))(error);
        let spec: SandboxSpec = read_json(&dir.spec()).map_err(read)?;
        let meta: Meta = read_json(&dir.meta()).map_err(read)?;
        Ok(spec.user.or(meta.image.user))
    }

    fn link(&self, id: &SandboxId) -> Arc<dyn Dial> {
        match &self.inner.kind {
            Kind::Container => Arc::new(SocketDial { dir: self.dir(id) }),
            Kind::Machine(_) => Arc::new(crate::qemu::MachineDial::new(self.dir(id))),
        }
    }
}

/// Dials the socket that the shim made in a directory that the sandbox cannot see.
#[derive(Debug)]
struct SocketDial {
    dir: SandboxDir,
}

impl Dial for SocketDial {
    fn dial(&self) -> BoxFuture<'_, io::Result<Link>> {
        Box::pin(async { connect(&self.dir.agent_socket()).await.map(Link::Unix) })
    }

    fn terminal(&self) -> BoxFuture<'_, Option<Terminal>> {
        Box::pin(terminal::make(&self.dir))
    }

    fn tcp_socket(&self, family: IpFamily) -> BoxFuture<'_, Option<OwnedFd>> {
        Box::pin(network::socket(&self.dir, family))
    }

    fn presence(&self) -> BoxFuture<'_, Option<Box<dyn ByteStream>>> {
        Box::pin(network::presence(&self.dir))
    }
}

/// Connects to a socket whose path may be longer than an address can hold.
pub(crate) async fn connect(path: &std::path::Path) -> io::Result<UnixStream> {
    use std::os::fd::AsRawFd;

    use rustix::fs::{Mode, OFlags, open};

    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        return UnixStream::connect(path).await;
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    let dir = open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
    UnixStream::connect(short).await
}
