//! The driver for Docker and Podman, through the one API that both have, over a Unix socket.
//!
//! A sandbox is a container of the engine, with our agent put in by the archive API before it starts, so that an image needs nothing. The
//! container's first process is an agent that only holds it open; sessions come through another one, which is started by the exec API on first use and
//! carries all of them over its standard input and output ([`links`]). That one ends with the gateway; the container lives on.
//! What a container is doing is always asked of the engine. Ours is only what was asked for, in `<data-dir>/docker/<id>/`: `spec.json`,
//! `container.json` (which container it is), `state.json` (what we did last), `agent.log` (what the agent printed).

mod adopt;
mod engine;
mod events;
mod links;
mod make;
mod record;
mod stream;
mod usage;

use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{
    CreateContainerOptions, ListContainersOptions, RemoveContainerOptions, StartContainerOptions,
    StopContainerOptions, UploadToContainerOptions,
};
use bytes::Bytes;
use sandgate_guest::{Dial, Guest, Keepalive};
use tokio::task::JoinHandle;

pub use adopt::AdoptTarget;

use crate::state::{DataDir, Phase, Record, read_json, write_json};
use crate::{Driver, DriverError, Progress, SandboxId, SandboxSpec, State, StopCause, Usage};
use engine::{Engine, EngineError, SLOW, plain};
use links::{DockerDial, Live};
use record::{Made, Origin, ended, state};

const NAME: &str = "docker";
/// The labels of a container of ours: which sandbox it is, and of which data directory, since several gateways may use one engine.
const SANDBOX_LABEL: &str = "io.sandgate.sandbox";
const DATA_DIR_LABEL: &str = "io.sandgate.data-dir";
/// Beyond the grace of a stop, for the engine's own work.
const STOP_SLACK: Duration = Duration::from_secs(30);
/// Between two attempts of a start to reach the agent.
const RETRY: Duration = Duration::from_millis(50);
/// Largest agent in bytes, as for the driver `oci`.
const MAX_AGENT: u64 = 256 << 20;

/// Which engine, and where the driver keeps things.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// The data directory; `docker` below it belongs to the driver.
    pub data_dir: PathBuf,
    /// The static agent binary.
    pub agent_path: PathBuf,
    /// The socket of Docker or Podman.
    pub socket: PathBuf,
    /// How long the agent of a started container may take to answer.
    pub ready_timeout: Duration,
    /// When an agent that has fallen silent is given up.
    pub keepalive: Keepalive,
}

impl DockerConfig {
    /// Where Docker listens unless it was told otherwise.
    pub const DEFAULT_SOCKET: &str = "/run/docker.sock";

    /// A configuration for Docker's usual socket, whose agents must answer within 30 seconds.
    pub fn new(data_dir: impl Into<PathBuf>, agent_path: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            agent_path: agent_path.into(),
            socket: PathBuf::from(Self::DEFAULT_SOCKET),
            ready_timeout: Duration::from_secs(30),
            keepalive: Keepalive::default(),
        }
    }
}

/// Makes sandboxes as containers of Docker or Podman, and adopts containers that are there already.
#[derive(Clone)]
pub struct DockerDriver {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    /// Tells our containers from those of other data directories.
    tag: String,
    agent_path: PathBuf,
    /// The agent as the archive API takes it, once it was needed.
    archive: tokio::sync::OnceCell<Bytes>,
    engine: Engine,
    ready_timeout: Duration,
    keepalive: Keepalive,
    /// One entry per sandbox that was used since the gateway's start.
    live: Mutex<HashMap<SandboxId, Arc<Live>>>,
    /// The one task that follows the engine's events, once there was an engine.
    follower: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(follower) = self.follower.lock().unwrap_or_else(PoisonError::into_inner).take() {
            follower.abort();
        }
    }
}

impl DockerDriver {
    /// Prepares the directory. Does not look for the engine: a machine without one has other drivers.
    ///
    /// # Errors
    /// [`DriverError::Io`] where the directory cannot be made.
    pub fn new(config: DockerConfig) -> Result<Self, DriverError> {
        let root = config.data_dir.join(NAME);
        let failed = |error| DriverError::io(format!("make {}", root.display()))(error);
        DirBuilder::new().recursive(true).mode(0o700).create(&root).map_err(failed)?;
        // One directory has one name, however it was written.
        let data_dir = fs::canonicalize(&config.data_dir).map_err(failed)?;
        let inner = Inner {
            tag: DataDir::new(data_dir).tag(),
            root,
            agent_path: config.agent_path,
            archive: tokio::sync::OnceCell::new(),
            engine: Engine::new(config.socket),
            ready_timeout: config.ready_timeout,
            keepalive: config.keepalive,
            live: Mutex::default(),
            follower: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    async fn turn(&self, id: &SandboxId) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = self.inner.live(id).turn.clone();
        turn.lock_owned().await
    }

    async fn start_in_turn(&self, id: &SandboxId, progress: &dyn Progress) -> Result<(), DriverError> {
        let (inner, failed) = (&self.inner, |reason| DriverError::StartFailed { id: id.clone(), reason });
        let made = inner.made(id)?;
        let container = made.container.as_str();
        let seen = inner.look(&made).await?.ok_or_else(|| failed(REMOVED.to_owned()))?;
        let doing = seen.state.unwrap_or_default();
        if doing.paused == Some(true) {
            progress.step("unpausing the container");
            let resumed =
                inner.engine.ask(SLOW, async |docker| docker.unpause_container(container).await).await;
            resumed.map_err(inner.engine.error("unpause the container"))?;
        } else if doing.running != Some(true) {
            // Each time, so that a container gets the agent of this gateway, whatever became of the one that it had.
            inner.put_agent(container).await?;
            progress.step("starting the container");
            let options = None::<StartContainerOptions>;
            let started =
                inner.engine.ask(SLOW, async |docker| docker.start_container(container, options).await);
            match started.await {
                Ok(()) => {}
                Err(error @ EngineError::Silent(_)) => {
                    return Err(inner.engine.error("start the container")(error));
                }
                Err(error) => {
                    inner.record_failure(id, &error.to_string())?;
                    return Err(failed(error.to_string()));
                }
            }
        }
        inner.record(id, Phase::Running { started_at: SystemTime::now() })?;
        inner.follow();
        let Err(reason) = self.wait_ready(id, &made).await else { return Ok(()) };
        // Somebody else's container goes on with what it is there for.
        if made.origin == Origin::Made {
            let options = StopContainerOptions { t: Some(0), signal: None };
            let stop = async |docker: bollard::Docker| docker.stop_container(container, Some(options)).await;
            if let Err(error) = inner.engine.ask(SLOW, stop).await {
                tracing::warn!(sandbox = %id, %error, "a container whose agent does not answer could not be stopped");
            }
            inner.record_failure(id, &reason)?;
        }
        Err(failed(reason))
    }

    /// Waits until the agent answers, or until there is no more hope.
    async fn wait_ready(&self, id: &SandboxId, made: &Made) -> Result<(), String> {
        let deadline = Instant::now() + self.inner.ready_timeout;
        let guest = Guest::new(self.link(id));
        let mut put_again = made.origin == Origin::Adopted;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let attempt = async {
                match links::open(&self.inner, id).await {
                    Ok(_) => {
                        guest.info().await.map(drop).map_err(|error| (error.to_string(), ErrorKind::Other))
                    }
                    Err(error) => Err((error.to_string(), error.kind())),
                }
            };
            let (last, kind) = match tokio::time::timeout(left, attempt).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(failure)) => failure,
                Err(_) => ("no answer".to_owned(), ErrorKind::TimedOut),
            };
            match kind {
                // An adopted container may have been running without our agent: it was made anew from its image, or its files were removed.
                ErrorKind::InvalidData if put_again => {
                    put_again = false;
                    self.inner.put_agent(&made.container).await.map_err(|error| error.to_string())?;
                    continue;
                }
                ErrorKind::InvalidData => return Err(last),
                ErrorKind::ConnectionRefused => {
                    let why = match self.inspect(id).await {
                        Ok(State::Stopped { cause: StopCause::Ended { reason }, .. }) => reason,
                        _ => last,
                    };
                    return Err(why);
                }
                _ => {}
            }
            if Instant::now() >= deadline {
                return Err(format!(
                    "its agent did not answer within {} s: {last}",
                    self.inner.ready_timeout.as_secs()
                ));
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

const REMOVED: &str = "its container was removed";

impl Inner {
    fn dir(&self, id: &SandboxId) -> PathBuf {
        self.root.join(id.as_str())
    }

    fn log(&self, id: &SandboxId) -> PathBuf {
        self.dir(id).join("agent.log")
    }

    fn live(&self, id: &SandboxId) -> Arc<Live> {
        // Every step under the lock is whole by itself.
        self.live.lock().unwrap_or_else(PoisonError::into_inner).entry(id.clone()).or_default().clone()
    }

    /// The sandbox whose agent runs in this container, and did so at that time.
    fn find(&self, container: &str, at: SystemTime) -> Option<(SandboxId, Arc<Live>)> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let found = live.iter().find(|(_, live)| live.leads_to(container, at));
        found.map(|(id, live)| (id.clone(), live.clone()))
    }

    /// Begins to follow the engine's events, if that was not begun.
    fn follow(self: &Arc<Self>) {
        let mut follower = self.follower.lock().unwrap_or_else(PoisonError::into_inner);
        if follower.is_none() {
            *follower = Some(tokio::spawn(events::follow(Arc::downgrade(self))));
        }
    }

    fn read<T: serde::de::DeserializeOwned>(&self, id: &SandboxId, file: &str) -> Result<T, DriverError> {
        let path = self.dir(id).join(file);
        read_json(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => DriverError::NotFound(id.clone()),
            _ => DriverError::io(format!("read {}", path.display()))(error),
        })
    }

    fn write<T: serde::Serialize>(&self, id: &SandboxId, file: &str, value: &T) -> Result<(), DriverError> {
        let path = self.dir(id).join(file);
        write_json(&path, value).map_err(DriverError::io(format!("write {}", path.display())))
    }

    fn made(&self, id: &SandboxId) -> Result<Made, DriverError> {
        self.read(id, "container.json")
    }

    fn phase(&self, id: &SandboxId) -> Result<Phase, DriverError> {
        match self.read::<Record>(id, "state.json") {
            Ok(record) => Ok(record.phase),
            Err(DriverError::NotFound(_)) => Ok(Phase::Created),
            Err(error) => Err(error),
        }
    }

    fn record(&self, id: &SandboxId, phase: Phase) -> Result<(), DriverError> {
        self.write(id, "state.json", &Record::new(phase))
    }

    fn record_failure(&self, id: &SandboxId, reason: &str) -> Result<(), DriverError> {
        let cause = StopCause::StartFailed { reason: reason.to_owned() };
        self.record(id, Phase::Stopped { cause, at: SystemTime::now() })
    }

    /// What the engine says of the container; `None` when it has no such container.
    async fn look(&self, made: &Made) -> Result<Option<ContainerInspectResponse>, DriverError> {
        match self.engine.inspect(&made.container).await {
            Ok(seen) => Ok(Some(seen)),
            Err(EngineError::NotFound(_)) => Ok(None),
            Err(error) => Err(self.engine.error("look at the container")(error)),
        }
    }

    /// Puts the agent into a container, running or not, in place of whatever is at its path.
    async fn put_agent(&self, container: &str) -> Result<(), DriverError> {
        let archive = self.archive.get_or_try_init(|| archive(self.agent_path.clone())).await?.clone();
        let options =
            UploadToContainerOptions { path: "/".to_owned(), ..UploadToContainerOptions::default() };
        let put = async |docker: bollard::Docker| {
            docker.upload_to_container(container, Some(options), bollard::body_full(archive)).await
        };
        self.engine.ask(SLOW, put).await.map_err(self.engine.error("put the agent into the container"))
    }

    /// Makes the container of a sandbox. The agent comes in when it is started.
    async fn make(&self, spec: &SandboxSpec, progress: &dyn Progress) -> Result<Made, DriverError> {
        let image = make::check(spec)?;
        let found = self.engine.ask(SLOW, async |docker| docker.inspect_image(image).await).await;
        let found = found.map_err(|error| match error {
            EngineError::NotFound(reason) => DriverError::Image {
                image: image.to_owned(),
                reason: format!("{reason}; get it with `docker pull {image}` (or `podman pull`)"),
            },
            other => self.engine.error("look at the image")(other),
        })?;
        // Podman's form of this API ignores the runtime: whoever asks for a stronger one must not get the usual one.
        if spec.runtime.program().is_some()
            && self.engine.name().is_some_and(|name| name.starts_with("Podman"))
        {
            let reason =
                "Podman takes no runtime over its API; make it the default in its containers.conf".to_owned();
            return Err(DriverError::Runtime { runtime: spec.runtime.to_string(), reason });
        }
        progress.step("making the container");
        let options = CreateContainerOptions {
            name: Some(format!("sandgate-{}-{}", spec.name, spec.id)),
            ..CreateContainerOptions::default()
        };
        let body = make::container(spec, image, &self.tag);
        let made =
            self.engine.ask(SLOW, async |docker| docker.create_container(Some(options), body).await).await;
        let made = made.map_err(|error| match error {
            EngineError::Refused(reason) if reason.to_lowercase().contains("runtime") => {
                DriverError::Runtime { runtime: spec.runtime.to_string(), reason }
            }
            other => self.engine.error("make the container")(other),
        })?;
        let user = found.config.and_then(|config| config.user).filter(|user| !user.is_empty());
        let warnings = made.warnings.iter().map(|warning| plain(warning)).collect();
        Ok(Made { container: made.id, origin: Origin::Made, user, warnings })
    }

    /// Finds a container of somebody else and puts the agent into it.
    async fn adopt(&self, spec: &SandboxSpec, target: &AdoptTarget) -> Result<Made, DriverError> {
        make::check_adopted(spec)?;
        let refuse = |reason: String| DriverError::Adopt { target: target.to_string(), reason };
        let key = match target {
            AdoptTarget::Container(name) => name.clone(),
            AdoptTarget::Label(label) => {
                let mut found = self.list(std::slice::from_ref(label)).await?;
                match (found.pop(), found.len()) {
                    (Some(only), 0) => only,
                    (None, _) => return Err(refuse("no container has this label".into())),
                    (Some(_), others) => {
                        return Err(refuse(format!(
                            "{} containers have this label; name the one",
                            others + 1
                        )));
                    }
                }
            }
        };
        let seen = self.engine.inspect(&key).await.map_err(|error| match error {
            EngineError::NotFound(reason) => refuse(reason),
            other => self.engine.error("look at the container")(other),
        })?;
        let config = seen.config.unwrap_or_default();
        if config.labels.as_ref().is_some_and(|labels| labels.contains_key(SANDBOX_LABEL)) {
            return Err(refuse("it is a sandbox of sandgate already".into()));
        }
        let container = seen.id.ok_or_else(|| refuse("the engine does not say its identifier".into()))?;
        if self.is_known(&container) {
            return Err(refuse("it was adopted before".into()));
        }
        self.put_agent(&container).await?;
        let user = config.user.filter(|user| !user.is_empty());
        Ok(Made { container, origin: Origin::Adopted, user, warnings: Vec::new() })
    }

    /// Whether a sandbox of this gateway is this container.
    fn is_known(&self, container: &str) -> bool {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let made = entries.filter_map(|entry| read_json::<Made>(&entry.path().join("container.json")).ok());
        made.into_iter().any(|made| made.container == container)
    }

    /// The identifiers of all containers, running or not, that have all of these labels.
    async fn list(&self, labels: &[String]) -> Result<Vec<String>, DriverError> {
        let options = ListContainersOptions {
            all: true,
            filters: Some([("label".to_owned(), labels.to_vec())].into()),
            ..ListContainersOptions::default()
        };
        let found = self.engine.ask(SLOW, async |docker| docker.list_containers(Some(options)).await).await;
        let found = found.map_err(self.engine.error("list containers"))?;
        Ok(found.into_iter().filter_map(|container| container.id).collect())
    }

    /// Removes every container of a sandbox: the one that we know of, and one whose making was interrupted.
    async fn remove_containers(&self, id: &SandboxId) -> Result<(), DriverError> {
        let labels = [format!("{SANDBOX_LABEL}={id}"), format!("{DATA_DIR_LABEL}={}", self.tag)];
        for container in self.list(&labels).await? {
            let options = RemoveContainerOptions { force: true, v: true, link: false };
            let gone =
                async |docker: bollard::Docker| docker.remove_container(&container, Some(options)).await;
            match self.engine.ask(SLOW, gone).await {
                Ok(()) | Err(EngineError::NotFound(_)) => {}
                Err(error) => return Err(self.engine.error("remove the container")(error)),
            }
        }
        Ok(())
    }

    fn remove_dir(&self, id: &SandboxId) -> Result<(), DriverError> {
        let dir = self.dir(id);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(DriverError::io(format!("remove {}", dir.display()))(error))
            }
            _ => {
                self.live.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
                Ok(())
            }
        }
    }
}

/// The agent as a tar file: `.sandgate/agent`, owned by root inside and not writable for others.
async fn archive(agent: PathBuf) -> Result<Bytes, DriverError> {
    let read = |path: &PathBuf| DriverError::io(format!("read the agent {}", path.display()));
    let size = tokio::fs::metadata(&agent).await.map_err(read(&agent))?.len();
    if size == 0 || size > MAX_AGENT {
        return Err(DriverError::Unsupported(format!("{} is not an agent binary", agent.display())));
    }
    let bytes = tokio::fs::read(&agent).await.map_err(read(&agent))?;
    pack(&bytes).map(Bytes::from).map_err(read(&agent))
}

fn pack(agent: &[u8]) -> io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::with_capacity(agent.len() + (4 << 10)));
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    header.set_size(0);
    builder.append_data(&mut header, ".sandgate/", io::empty())?;
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o555);
    header.set_size(agent.len() as u64);
    builder.append_data(&mut header, ".sandgate/agent", agent)?;
    builder.into_inner()
}

#[async_trait]
impl Driver for DockerDriver {
    fn name(&self) -> &'static str {
        NAME
    }

    fn engine(&self) -> Option<String> {
        self.inner.engine.name()
    }

    async fn create(&self, spec: &SandboxSpec, progress: &dyn Progress) -> Result<(), DriverError> {
        let (inner, id) = (&self.inner, &spec.id);
        match DirBuilder::new().mode(0o700).create(inner.dir(id)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(DriverError::AlreadyExists(id.clone()));
            }
            Err(error) => return Err(DriverError::io(format!("make {}", inner.dir(id).display()))(error)),
        }
        let _turn = self.turn(id).await;
        let make = async {
            inner.write(id, "spec.json", spec)?;
            let made = match &spec.adopt {
                Some(target) => inner.adopt(spec, target).await?,
                None => inner.make(spec, progress).await?,
            };
            inner.write(id, "container.json", &made)
        };
        let Err(error) = make.await else { return Ok(()) };
        let refused =
            matches!(error, DriverError::Spec(_) | DriverError::Image { .. } | DriverError::Adopt { .. });
        // An engine that broke off may have made it. If it cannot be asked now, the directory stays, and with it the knowledge.
        let left = if refused || spec.adopt.is_some() { Ok(()) } else { inner.remove_containers(id).await };
        match left {
            Ok(()) => inner.remove_dir(id)?,
            // Without an engine nothing can have been made, unless it went away just now.
            Err(DriverError::NoEngine { .. }) if matches!(error, DriverError::NoEngine { .. }) => {
                inner.remove_dir(id)?
            }
            Err(left) => {
                tracing::warn!(sandbox = %id, error = %left, "a half-made container could not be removed")
            }
        }
        Err(error)
    }

    async fn start(&self, id: &SandboxId, progress: &dyn Progress) -> Result<(), DriverError> {
        self.inner.made(id)?;
        let _turn = self.turn(id).await;
        self.start_in_turn(id, progress).await
    }

    async fn stop(&self, id: &SandboxId, grace: Duration) -> Result<(), DriverError> {
        let inner = &self.inner;
        let made = inner.made(id)?;
        let _turn = self.turn(id).await;
        let Some(seen) = inner.look(&made).await? else { return Ok(()) };
        let doing = seen.state.unwrap_or_default();
        if !matches!(state(&made, Phase::Created, &doing), State::Running { .. } | State::Starting)
            && doing.paused != Some(true)
        {
            return Ok(());
        }
        let failed = |reason: String| DriverError::StopFailed { id: id.clone(), reason };
        let container = made.container.as_str();
        inner.live(id).close();
        if doing.paused == Some(true) {
            let resumed =
                inner.engine.ask(SLOW, async |docker| docker.unpause_container(container).await).await;
            resumed.map_err(inner.engine.error("unpause the container"))?;
        }
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptions { t: Some(seconds), signal: None };
        let stop = async |docker: bollard::Docker| docker.stop_container(container, Some(options)).await;
        match inner.engine.ask(grace.saturating_add(STOP_SLACK), stop).await {
            Ok(()) | Err(EngineError::NotFound(_)) => {}
            Err(EngineError::Refused(reason)) => return Err(failed(reason)),
            Err(error) => return Err(inner.engine.error("stop the container")(error)),
        }
        inner.record(id, Phase::Stopped { cause: StopCause::Requested, at: SystemTime::now() })
    }

    async fn remove(&self, id: &SandboxId) -> Result<(), DriverError> {
        let inner = &self.inner;
        if !inner.dir(id).exists() {
            return Err(DriverError::NotFound(id.clone()));
        }
        let _turn = self.turn(id).await;
        inner.live(id).close();
        let adopted = inner.made(id).is_ok_and(|made| made.origin == Origin::Adopted)
            || inner.read::<SandboxSpec>(id, "spec.json").is_ok_and(|spec| spec.adopt.is_some());
        if !adopted {
            inner.remove_containers(id).await?;
        }
        inner.remove_dir(id)
    }

    async fn inspect(&self, id: &SandboxId) -> Result<State, DriverError> {
        let made = self.inner.made(id)?;
        let seen = self.inner.look(&made).await?;
        let written = self.inner.phase(id)?;
        Ok(match seen {
            Some(seen) => {
                self.inner.follow();
                state(&made, written, &seen.state.unwrap_or_default())
            }
            None => ended(REMOVED.to_owned(), SystemTime::now()),
        })
    }

    async fn usage(&self, id: &SandboxId) -> Option<Usage> {
        usage::ask(&self.inner.engine, &self.inner.made(id).ok()?.container).await
    }

    async fn login_user(&self, id: &SandboxId) -> Result<Option<String>, DriverError> {
        let spec: SandboxSpec = self.inner.read(id, "spec.json")?;
        Ok(spec.user.or(self.inner.made(id)?.user))
    }

    fn link(&self, id: &SandboxId) -> Arc<dyn Dial> {
        Arc::new(DockerDial { inner: self.inner.clone(), id: id.clone() })
    }
}
