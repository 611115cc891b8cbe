//! The sandboxes that this gateway knows: making, waking, stopping and removing them through their drivers.
//!
//! The store says what was asked for, the driver says what is. Only one gateway works on a data directory, so the list
//! of sandboxes is kept in memory beside the store; whether one runs is always asked of the driver.

mod start;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use parking_lot::{Mutex, RwLock};
use sandgate_driver::{
    AdoptTarget, BindMount, Driver, DriverError, External, ImageRef, ImageSource, InvalidSpec, Network,
    Progress, Runtime, SandboxId, SandboxSpec, State, Usage,
};
use sandgate_guest::{Guest, Keepalive, Timeouts};
use sandgate_policy::{ForwardRules, Principal, RecordMode, SandboxName, new_id};
use sandgate_store::{Phase, SandboxRow, Store, StoreError};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::access::{Access, Revoked};
use crate::audit::Audit;
use crate::session::Registry;

pub use start::StartError;
use start::Starts;

/// The driver that is used when none is named.
pub const DEFAULT_DRIVER: &str = "oci";

/// What the users of its sessions read.
const PAUSED: &str = "The sandbox was paused.";
/// As above.
const RESUMED: &str = "The sandbox goes on.";

/// Drivers that are asked at once for a list. Some ask a program or another machine, and the slowest would be waited for once for each sandbox.
const ASKED_AT_ONCE: usize = 16;

/// What a new sandbox is to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSandbox {
    /// Its name, unique in this gateway.
    pub name: SandboxName,
    /// The driver that makes it.
    #[serde(default = "default_driver")]
    pub driver: String,
    /// Who makes the container.
    #[serde(default)]
    pub runtime: Runtime,
    /// Where the root file system comes from. A path must be absolute.
    #[serde(default)]
    pub image: ImageSource,
    /// Login user inside.
    #[serde(default)]
    pub user: Option<String>,
    /// Memory limit in bytes.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// CPU limit in cores.
    #[serde(default)]
    pub cpus: Option<f64>,
    /// Limit of processes and threads.
    #[serde(default)]
    pub pids: Option<u64>,
    /// Size of a virtual machine's disk in bytes.
    #[serde(default)]
    pub disk_bytes: Option<u64>,
    /// The kernel of a virtual machine, by its absolute path on the gateway's host.
    #[serde(default)]
    pub kernel: Option<PathBuf>,
    /// Environment of every session.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Host directories and files to share.
    #[serde(default)]
    pub mounts: Vec<BindMount>,
    /// What of the network it sees.
    #[serde(default)]
    pub network: Network,
    /// The way to an agent that runs already, for the driver `external`.
    #[serde(default)]
    pub external: Option<External>,
    /// A container that is there already, for the driver `docker`.
    #[serde(default)]
    pub adopt: Option<AdoptTarget>,
    /// What may be forwarded into it and out of it, whoever comes.
    #[serde(default)]
    pub forward: ForwardRules,
    /// What of its sessions is recorded at least.
    #[serde(default)]
    pub record: RecordMode,
}

fn default_driver() -> String {
    DEFAULT_DRIVER.to_owned()
}

impl NewSandbox {
    /// One with every default.
    pub fn new(name: SandboxName) -> NewSandbox {
        NewSandbox {
            name,
            driver: default_driver(),
            runtime: Runtime::default(),
            image: ImageSource::default(),
            user: None,
            memory_bytes: None,
            cpus: None,
            pids: None,
            disk_bytes: None,
            kernel: None,
            env: Vec::new(),
            mounts: Vec::new(),
            network: Network::default(),
            external: None,
            adopt: None,
            forward: ForwardRules::default(),
            record: RecordMode::Off,
        }
    }
}

/// A sandbox and what it does now.
#[derive(Debug, Clone)]
pub struct SandboxInfo {
    /// What was asked for.
    pub spec: SandboxSpec,
    /// What may be forwarded into it and out of it.
    pub forward: ForwardRules,
    /// What of its sessions is recorded at least.
    pub record: RecordMode,
    /// The driver that made it.
    pub driver: String,
    /// The container engine behind the driver, and its version, where there is one and it has answered.
    pub engine: Option<String>,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// What it does, or why nobody can say.
    pub state: Result<State, String>,
    /// What it uses while it runs, as far as that is known.
    pub usage: Option<Usage>,
    /// Live sessions in it.
    pub sessions: usize,
}

/// A known sandbox.
#[derive(Clone)]
struct Known {
    spec: SandboxSpec,
    forward: ForwardRules,
    record: RecordMode,
    driver: Arc<dyn Driver>,
    created_at: OffsetDateTime,
    guest: Guest,
}

/// What the services of this module share; outlives the request that began something.
struct Shared {
    store: Arc<Store>,
    access: Arc<Access>,
    registry: Arc<Registry>,
    audit: Arc<Audit>,
    drivers: BTreeMap<&'static str, Arc<dyn Driver>>,
    /// By identifier. As many as the owner made.
    known: RwLock<BTreeMap<String, Known>>,
    starts: Mutex<Starts>,
    stop_grace: Duration,
    keepalive: Keepalive,
}

/// The owner's and the sessions' hand on sandboxes. What it has begun it finishes, also when the caller goes away.
pub struct Sandboxes {
    shared: Arc<Shared>,
}

impl Sandboxes {
    pub(crate) async fn load(
        store: Arc<Store>,
        access: Arc<Access>,
        registry: Arc<Registry>,
        audit: Arc<Audit>,
        drivers: Vec<Arc<dyn Driver>>,
        stop_grace: Duration,
        keepalive: Keepalive,
    ) -> Result<Sandboxes, SandboxError> {
        let drivers: BTreeMap<&'static str, Arc<dyn Driver>> =
            drivers.into_iter().map(|driver| (driver.name(), driver)).collect();
        let mut known = BTreeMap::new();
        let mut unfinished = Vec::new();
        for row in store.sandboxes().await? {
            let Some(driver) = drivers.get(row.driver.as_str()) else {
                tracing::warn!(
                    sandbox = row.name,
                    driver = row.driver,
                    "a sandbox's driver is not there; it cannot be used"
                );
                continue;
            };
            let spec: SandboxSpec = serde_json::from_str(&row.spec).map_err(|error| {
                SandboxError::Malformed { name: row.name.clone(), error: error.to_string() }
            })?;
            match row.phase {
                Phase::Ready => {
                    let made =
                        remember(spec, (row.forward, row.record), driver.clone(), row.created_at, keepalive);
                    known.insert(row.id.clone(), made);
                }
                Phase::Creating | Phase::Removing => unfinished.push((spec, driver.clone())),
            }
        }
        let shared = Arc::new(Shared {
            store,
            access,
            registry,
            audit,
            drivers,
            known: RwLock::new(known),
            starts: Mutex::default(),
            stop_grace,
            keepalive,
        });
        // In the background: the door need not stay closed meanwhile.
        tokio::spawn(reconcile(shared.clone(), unfinished));
        Ok(Sandboxes { shared })
    }

    /// The identifier of the sandbox of that name.
    pub fn id_of(&self, name: &str) -> Option<String> {
        let known = self.shared.known.read();
        known.values().find(|known| known.spec.name == name).map(|known| known.spec.id.to_string())
    }

    /// The name of the sandbox with that identifier.
    pub fn name_of(&self, id: &str) -> Option<String> {
        self.shared.known.read().get(id).map(|known| known.spec.name.clone())
    }

    /// What the sandbox with that identifier allows to be forwarded. Without a sandbox there is nothing to forward to.
    pub fn forward_rules(&self, id: &str) -> ForwardRules {
        self.shared.known.read().get(id).map(|known| known.forward.clone()).unwrap_or_default()
    }

    /// What is recorded at least of the sandbox with that identifier.
    pub fn record_mode(&self, id: &str) -> RecordMode {
        self.shared.known.read().get(id).map(|known| known.record).unwrap_or_default()
    }

    /// The name of a sandbox that is made of this image of ours, if there is one.
    pub fn made_of(&self, image: &ImageRef) -> Option<String> {
        let is_of = |known: &&Known| match &known.spec.image {
            // The driver of a container engine takes its images from the engine.
            ImageSource::Named(name) if known.driver.name() != "docker" => {
                name.as_str().parse::<ImageRef>().is_ok_and(|name| name == *image)
            }
            _ => false,
        };
        self.shared.known.read().values().find(is_of).map(|known| known.spec.name.clone())
    }

    /// Every sandbox and what it does, by name.
    pub async fn list(&self) -> Vec<SandboxInfo> {
        let mut known: Vec<Known> = self.shared.known.read().values().cloned().collect();
        known.sort_by(|one, other| one.spec.name.cmp(&other.spec.name));
        stream::iter(known).map(|known| self.shared.info(known)).buffered(ASKED_AT_ONCE).collect().await
    }

    /// One sandbox and what it does.
    ///
    /// # Errors
    /// No such sandbox.
    pub async fn inspect(&self, name: &str) -> Result<SandboxInfo, SandboxError> {
        let known = self.shared.by_name(name)?;
        Ok(self.shared.info(known).await)
    }

    /// Makes a sandbox; does not start it.
    ///
    /// # Errors
    /// The name is taken, there is no such driver, or the driver's reason.
    pub async fn create(&self, new: NewSandbox) -> Result<SandboxInfo, SandboxError> {
        let shared = self.shared.clone();
        finish(tokio::spawn(async move { shared.create(new).await })).await
    }

    /// Starts a sandbox; one that runs stays as it is.
    ///
    /// # Errors
    /// No such sandbox, or why it did not start.
    pub async fn start(&self, name: &str, progress: &dyn Progress) -> Result<SandboxInfo, SandboxError> {
        let known = self.shared.by_name(name)?;
        self.ensure_running(known.spec.id.as_str(), progress).await?;
        self.inspect(name).await
    }

    /// Stops a sandbox; one that is stopped stays as it is. Live sessions in it are told and end.
    ///
    /// # Errors
    /// No such sandbox, or why it did not stop.
    pub async fn stop(&self, name: &str) -> Result<SandboxInfo, SandboxError> {
        let (shared, known) = (self.shared.clone(), self.shared.by_name(name)?);
        finish(tokio::spawn(async move { shared.stop(known).await })).await
    }

    /// Halts a running sandbox, whose sessions stand still with it, or lets a paused one go on.
    ///
    /// # Errors
    /// No such sandbox, its driver cannot, or why it did not work.
    pub async fn change(&self, name: &str, change: Change) -> Result<SandboxInfo, SandboxError> {
        let (shared, known) = (self.shared.clone(), self.shared.by_name(name)?);
        finish(tokio::spawn(async move { shared.change(known, change).await })).await
    }

    /// Removes a sandbox with all its files, and revokes its tokens.
    ///
    /// # Errors
    /// No such sandbox; [`SandboxError::StillRunning`] when it runs and `how` is [`Removal::IfStopped`]; or the driver's reason.
    pub async fn remove(&self, name: &str, how: Removal) -> Result<(), SandboxError> {
        let (shared, known) = (self.shared.clone(), self.shared.by_name(name)?);
        finish(tokio::spawn(async move { shared.remove(known, how).await })).await
    }

    /// The user that sessions of that sandbox run as: the one it was made with, else its image's. `None` is root inside.
    ///
    /// # Errors
    /// The sandbox is gone, or what is known of it cannot be read: nobody becomes root by that.
    pub async fn login_user(&self, id: &str) -> Result<Option<String>, StartError> {
        let known = self.shared.known.read().get(id).cloned().ok_or_else(StartError::gone)?;
        known.driver.login_user(&known.spec.id).await.map_err(StartError::from)
    }

    /// The user that everything of this principal runs as inside: its own, or that of the sandbox. `None` is root inside.
    ///
    /// # Errors
    /// As [`Sandboxes::login_user`].
    pub async fn user_of(&self, principal: &Principal) -> Result<Option<Vec<u8>>, StartError> {
        match &principal.login_user {
            Some(user) => Ok(Some(user.clone().into_bytes())),
            None => Ok(self.login_user(&principal.sandbox_id).await?.map(String::into_bytes)),
        }
    }

    /// The way to the agent of the sandbox with that identifier, after starting it if it does not run. Callers that come
    /// while it starts wait for the same start; `progress` is told why.
    ///
    /// # Errors
    /// The sandbox is gone or did not start; the message is for the user.
    pub async fn ensure_running(&self, id: &str, progress: &dyn Progress) -> Result<Guest, StartError> {
        let known = self.shared.known.read().get(id).cloned().ok_or_else(StartError::gone)?;
        match known.driver.inspect(&known.spec.id).await {
            Ok(State::Running { .. }) => return Ok(known.guest),
            Ok(State::Paused { .. }) => {
                progress.step(&format!("resuming {}", known.spec.name));
                known.driver.resume(&known.spec.id).await?;
                self.shared.registry.tell(id, RESUMED);
                return Ok(known.guest);
            }
            _ => {}
        }
        progress.step(&format!("starting {}", known.spec.name));
        start::join_or_begin(&self.shared, &known, progress).await?;
        Ok(known.guest)
    }
}

/// A change of a running sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Halt it.
    Pause,
    /// Let it go on.
    Resume,
}

/// What to do with a sandbox that runs when it is to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Refuse.
    IfStopped,
    /// Stop it.
    Force,
}

impl Shared {
    fn by_name(&self, name: &str) -> Result<Known, SandboxError> {
        let known = self.known.read();
        let found = known.values().find(|known| known.spec.name == name);
        found.cloned().ok_or_else(|| SandboxError::NotFound(name.chars().take(64).collect()))
    }

    async fn info(&self, known: Known) -> SandboxInfo {
        let state = known.driver.inspect(&known.spec.id).await.map_err(|error| error.to_string());
        let usage = match state {
            Ok(State::Running { .. } | State::Paused { .. }) => known.driver.usage(&known.spec.id).await,
            _ => None,
        };
        SandboxInfo {
            state,
            usage,
            forward: known.forward,
            record: known.record,
            driver: known.driver.name().to_owned(),
            engine: known.driver.engine(),
            created_at: known.created_at,
            sessions: self.registry.sessions_of(known.spec.id.as_str()),
            spec: known.spec,
        }
    }

    async fn create(&self, new: NewSandbox) -> Result<SandboxInfo, SandboxError> {
        let Some(driver) = self.drivers.get(new.driver.as_str()) else {
            return Err(SandboxError::NoDriver(new.driver));
        };
        let id = new_id("sb")?;
        let id: SandboxId = id.parse().map_err(|_| SandboxError::BadId(id))?;
        let spec = SandboxSpec {
            id: id.clone(),
            name: new.name.as_str().to_owned(),
            runtime: new.runtime,
            image: new.image,
            user: new.user,
            memory_bytes: new.memory_bytes,
            cpus: new.cpus,
            pids: new.pids,
            disk_bytes: new.disk_bytes,
            kernel: new.kernel,
            env: new.env,
            mounts: new.mounts,
            network: new.network,
            external: new.external,
            adopt: new.adopt,
        };
        spec.validate()?;
        let row = SandboxRow {
            id: id.to_string(),
            name: spec.name.clone(),
            driver: driver.name().to_owned(),
            spec: serde_json::to_string(&spec).map_err(|error| SandboxError::Malformed {
                name: spec.name.clone(),
                error: error.to_string(),
            })?,
            forward: new.forward,
            record: new.record,
            phase: Phase::Creating,
            created_at: OffsetDateTime::now_utc(),
        };
        // The row comes first: it holds the name, and tells a later start what to clean up if we are killed now.
        match self.store.insert_sandbox(&row).await {
            Ok(()) => {}
            Err(StoreError::Exists) => return Err(SandboxError::Exists(spec.name)),
            Err(error) => return Err(error.into()),
        }
        if let Err(error) = driver.create(&spec, &LogProgress(spec.name.clone())).await {
            discard(&self.store, driver.as_ref(), &id).await;
            return Err(error.into());
        }
        self.store.set_sandbox_phase(id.as_str(), Phase::Ready).await?;
        let known = remember(spec, (row.forward, row.record), driver.clone(), row.created_at, self.keepalive);
        self.known.write().insert(id.to_string(), known.clone());
        let detail = match (&known.spec.external, &known.spec.adopt) {
            (Some(external), _) => format!("{} ({})", known.spec.name, external.link),
            (None, Some(target)) => format!("{} (adopted, {target})", known.spec.name),
            (None, None) => {
                format!("{} ({}, image {})", known.spec.name, known.spec.runtime, known.spec.image)
            }
        };
        self.audit.owner_did("sandbox.create", Some(id.as_str()), detail).await;
        Ok(self.info(known).await)
    }

    async fn stop(&self, known: Known) -> Result<SandboxInfo, SandboxError> {
        let id = &known.spec.id;
        self.access.interrupt_sandbox(id.as_str(), "The sandbox was stopped.");
        known.driver.stop(id, self.stop_grace).await?;
        self.audit.owner_did("sandbox.stop", Some(id.as_str()), known.spec.name.clone()).await;
        Ok(self.info(known).await)
    }

    async fn change(&self, known: Known, change: Change) -> Result<SandboxInfo, SandboxError> {
        let id = &known.spec.id;
        let was_paused = matches!(known.driver.inspect(id).await, Ok(State::Paused { .. }));
        let action = match change {
            Change::Pause => {
                known.driver.pause(id).await?;
                if !was_paused {
                    self.registry.tell(id.as_str(), PAUSED);
                }
                "sandbox.pause"
            }
            Change::Resume => {
                known.driver.resume(id).await?;
                if was_paused {
                    self.registry.tell(id.as_str(), RESUMED);
                }
                "sandbox.resume"
            }
        };
        self.audit.owner_did(action, Some(id.as_str()), known.spec.name.clone()).await;
        Ok(self.info(known).await)
    }

    async fn remove(&self, known: Known, how: Removal) -> Result<(), SandboxError> {
        let id = &known.spec.id;
        if how == Removal::IfStopped
            && let Ok(State::Running { .. } | State::Paused { .. } | State::Starting) =
                known.driver.inspect(id).await
        {
            return Err(SandboxError::StillRunning(known.spec.name));
        }
        self.store.set_sandbox_phase(id.as_str(), Phase::Removing).await?;
        let reason = "The sandbox was removed.";
        self.access.end(Revoked::Sandbox(id.to_string()), reason);
        match known.driver.remove(id).await {
            // Gone already is what was asked for.
            Ok(()) | Err(DriverError::NotFound(_)) => {}
            // The row stays in its phase: the name is still known here, so that it can be tried again, now or after a restart.
            Err(error) => return Err(error.into()),
        }
        self.store.delete_sandbox(id.as_str(), OffsetDateTime::now_utc()).await?;
        self.known.write().remove(id.as_str());
        self.audit.owner_did("sandbox.remove", Some(id.as_str()), known.spec.name.clone()).await;
        Ok(())
    }
}

fn remember(
    spec: SandboxSpec,
    (forward, record): (ForwardRules, RecordMode),
    driver: Arc<dyn Driver>,
    created_at: OffsetDateTime,
    keepalive: Keepalive,
) -> Known {
    let timeouts = Timeouts { keepalive, ..Timeouts::default() };
    let guest = Guest::with_timeouts(driver.link(&spec.id), timeouts);
    Known { spec, forward, record, driver, created_at, guest }
}

/// Removes what a failed or interrupted creation or removal has left.
async fn discard(store: &Store, driver: &dyn Driver, id: &SandboxId) {
    match driver.remove(id).await {
        Ok(()) | Err(DriverError::NotFound(_)) => {
            if let Err(error) = store.delete_sandbox(id.as_str(), OffsetDateTime::now_utc()).await {
                tracing::error!(sandbox = %id, %error, "the row of a sandbox that was never made stays");
            }
        }
        Err(error) => tracing::error!(sandbox = %id, %error, "the rest of a sandbox could not be removed"),
    }
}

/// After a start: finishes what a killed gateway has left half done, and says which sandboxes are still alive.
async fn reconcile(shared: Arc<Shared>, unfinished: Vec<(SandboxSpec, Arc<dyn Driver>)>) {
    for (spec, driver) in unfinished {
        tracing::info!(
            sandbox = spec.name,
            "removing what is left of a sandbox that was being made or removed"
        );
        discard(&shared.store, driver.as_ref(), &spec.id).await;
    }
    let known: Vec<Known> = shared.known.read().values().cloned().collect();
    for known in known {
        match known.driver.inspect(&known.spec.id).await {
            Ok(State::Running { pid, .. }) => tracing::info!(sandbox = known.spec.name, pid, "found running"),
            Ok(State::Stopped { cause, .. }) => {
                tracing::info!(sandbox = known.spec.name, %cause, "found stopped")
            }
            Ok(State::Paused { .. }) => tracing::info!(sandbox = known.spec.name, "found paused"),
            Ok(State::Created | State::Starting) => {}
            Err(error) => tracing::warn!(sandbox = known.spec.name, %error, "cannot be inspected"),
        }
    }
}

/// Waits for a task that must not end with its caller.
async fn finish<T>(task: tokio::task::JoinHandle<Result<T, SandboxError>>) -> Result<T, SandboxError> {
    match task.await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(%error, "a sandbox operation broke off");
            Err(SandboxError::BrokenOff)
        }
    }
}

/// Progress that only the log sees.
struct LogProgress(String);

impl Progress for LogProgress {
    fn step(&self, text: &str) {
        tracing::info!(sandbox = self.0, "{text}");
    }

    fn warn(&self, text: &str) {
        tracing::warn!(sandbox = self.0, "{text}");
    }
}

/// What can go wrong with sandboxes.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Not there.
    #[error("there is no sandbox \"{0}\"")]
    NotFound(String),
    /// The name is taken.
    #[error("there is already a sandbox \"{0}\"")]
    Exists(String),
    /// It runs.
    #[error("the sandbox \"{0}\" is running; stop it first, or remove it with --force")]
    StillRunning(String),
    /// No such driver.
    #[error("there is no driver \"{0}\"; the drivers are oci, qemu, external and docker")]
    NoDriver(String),
    /// An identifier that the driver does not take.
    #[error("the identifier {0} cannot be used")]
    BadId(String),
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// What was asked for cannot be.
    #[error(transparent)]
    Spec(#[from] InvalidSpec),
    /// The driver's reason.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// What the store holds about it cannot be read.
    #[error("what is stored about the sandbox \"{name}\" cannot be read: {error}")]
    Malformed {
        /// Its name.
        name: String,
        /// Why.
        error: String,
    },
    /// A defect on our side.
    #[error("the operation broke off; the gateway's log says why")]
    BrokenOff,
    /// No randomness.
    #[error(transparent)]
    Random(#[from] sandgate_policy::NoRandomness),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}
