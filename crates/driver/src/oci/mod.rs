//! The OCI driver: one directory, one bundle and one shim process per sandbox.

mod agent;
mod shim;

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use sandgate_guest::{BoxFuture, Dial, Guest, Link};
use tokio::net::UnixStream;

use crate::state::lock::{OpLock, RunLock};
use crate::state::{DataDir, Meta, Phase, Record, SandboxDir, read_json, write_json};
use crate::{Driver, DriverError, Progress, SandboxId, SandboxSpec, State, StopCause};

/// How long an operation waits for another one on the same sandbox.
const BUSY_PATIENCE: Duration = Duration::from_secs(120);

/// How long a shim may take to clean up after the end of its sandbox.
const CLEANUP_PATIENCE: Duration = Duration::from_secs(15);

/// How often something that has no event is looked at again.
const RETRY: Duration = Duration::from_millis(10);

/// Longest path of a Unix socket in bytes (`sun_path` without its final zero).
const MAX_SOCKET_PATH: usize = 107;

/// Where the driver keeps things and which programs it starts.
#[derive(Debug, Clone)]
pub struct OciConfig {
    /// The data directory; `sandboxes`, `images` and `agents` below it belong to the driver.
    pub data_dir: PathBuf,
    /// The static agent binary.
    pub agent_path: PathBuf,
    /// The program that is the shim when its arguments begin with `shim`; `/proc/self/exe` in the gateway.
    pub shim_exe: PathBuf,
    /// How long a started container's agent may take to answer. Zero means not to ask it.
    pub ready_timeout: Duration,
}

impl OciConfig {
    /// A configuration whose shim is this very program and whose agent must answer within 30 seconds.
    pub fn new(data_dir: impl Into<PathBuf>, agent_path: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            agent_path: agent_path.into(),
            shim_exe: PathBuf::from("/proc/self/exe"),
            ready_timeout: Duration::from_secs(30),
        }
    }
}

/// Makes sandboxes as Linux containers.
#[derive(Debug, Clone)]
pub struct OciDriver {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    data: DataDir,
    /// The installed agent.
    agent: PathBuf,
    shim_exe: PathBuf,
    ready_timeout: Duration,
}

impl OciDriver {
    /// Prepares the data directory and installs the agent binary in it.
    ///
    /// # Errors
    /// [`DriverError::Io`] where the directory cannot be made or the agent cannot be read.
    pub fn new(config: OciConfig) -> Result<Self, DriverError> {
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
        let inner = Inner { data, agent, shim_exe: config.shim_exe, ready_timeout: config.ready_timeout };
        Ok(Self { inner: Arc::new(inner) })
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
        for socket in [dir.agent_socket(), dir.shim_socket()] {
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

    /// Waits until the agent answers, or until there is no more hope.
    async fn wait_ready(&self, id: &SandboxId) -> Result<(), DriverError> {
        if self.inner.ready_timeout.is_zero() {
            return Ok(());
        }
        let failed = |reason: String| DriverError::StartFailed { id: id.clone(), reason };
        let deadline = Instant::now() + self.inner.ready_timeout;
        let guest = Guest::new(self.link(id));
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let last = match tokio::time::timeout(left, guest.info()).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
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
            if matches!(record.phase, Phase::Running { .. } | Phase::Starting) {
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

    async fn start_locked(&self, id: &SandboxId, progress: &dyn Progress) -> Result<(), DriverError> {
        let began = Instant::now();
        let dir = self.existing(id)?;
        let (record, life) = self.look(id)?;
        match (life, &record.phase) {
            (Life::Held, Phase::Running { .. } | Phase::Starting) => return self.wait_ready(id).await,
            // It is about to let go.
            (Life::Held, _) if !self.wait_free(id, CLEANUP_PATIENCE).await? => {
                return Err(DriverError::Busy(id.clone()));
            }
            (Life::Free, Phase::Running { .. } | Phase::Starting) => {
                self.bury(id, &record).await?;
            }
            _ => {}
        }
        let made = read_json::<Meta>(&dir.meta()).is_ok_and(|meta| !meta.image.layers.is_empty());
        if !made {
            let reason = "its creation was interrupted; remove it and create it again".into();
            return Err(DriverError::StartFailed { id: id.clone(), reason });
        }
        progress.step("starting the sandbox");
        shim::call(&self.inner, id, "start", progress).await?;
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

/// Whether a shim holds the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Held,
    Free,
}

#[async_trait]
impl Driver for OciDriver {
    fn name(&self) -> &'static str {
        "oci"
    }

    async fn create(&self, spec: &SandboxSpec, progress: &dyn Progress) -> Result<(), DriverError> {
        spec.validate()?;
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
        write_json(&dir.spec(), spec).map_err(DriverError::io(format!("write {}", dir.spec().display())))?;
        let result = shim::call(&self.inner, id, "create", progress).await;
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
        shim::remove(&self.inner, id).await
    }

    async fn inspect(&self, id: &SandboxId) -> Result<State, DriverError> {
        let (mut record, life) = self.look(id)?;
        if life == Life::Free && matches!(record.phase, Phase::Running { .. } | Phase::Starting) {
            // Whoever has the lock is about to start, stop or remove it, and will see to what was left.
            let path = self.dir(id).op_lock();
            let lock = OpLock::acquire(&path, Duration::ZERO)
                .map_err(DriverError::io(format!("lock the sandbox {id}")))?;
            if lock.is_none() {
                return Ok(State::Starting);
            }
            let (again, life) = self.look(id)?;
            record = match (life, &again.phase) {
                (Life::Free, Phase::Running { .. } | Phase::Starting) => self.bury(id, &again).await?,
                _ => again,
            };
        }
        Ok(match record.phase {
            Phase::Created => State::Created,
            Phase::Starting => State::Starting,
            Phase::Running { started_at } => State::Running {
                pid: record.init.and_then(|init| u32::try_from(init.pid).ok()).unwrap_or_default(),
                started_at,
                warnings: record.warnings,
            },
            Phase::Stopped { cause, at } => State::Stopped { cause, at },
        })
    }

    async fn login_user(&self, id: &SandboxId) -> Result<Option<String>, DriverError> {
        let dir = self.existing(id)?;
        let read = |error| DriverError::io(format!("read the records of {id}"))(error);
        let spec: SandboxSpec = read_json(&dir.spec()).map_err(read)?;
        let meta: Meta = read_json(&dir.meta()).map_err(read)?;
        Ok(spec.user.or(meta.image.user))
    }

    fn link(&self, id: &SandboxId) -> Arc<dyn Dial> {
        Arc::new(SocketDial { dir: self.dir(id) })
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
}

/// Connects to a socket whose path may be longer than an address can hold.
async fn connect(path: &std::path::Path) -> io::Result<UnixStream> {
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
