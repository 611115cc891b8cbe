//! The driver for what is there already: an agent in a virtual machine or container that somebody else has made.
//!
//! Nothing is created or ended but the connection: `start` waits until the agent answers, `stop` means that it is not used until it is
//! started again. Only the program of an `exec:` link is ours, and runs from start to stop. What is known of a sandbox is in
//! `<data-dir>/external/<id>/`: `spec.json`, `state.json`, and `agent.log` for what such a program printed.

mod exec;
mod link;
mod tls;
mod vsock;

use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use sandgate_guest::{BoxFuture, Dial, Guest, Link};
use tokio::net::UnixStream;

pub use link::{External, ExternalLink, TlsFiles};

use crate::hybrid;
use crate::state::{Phase, Record, read_json, write_json};
use crate::{Driver, DriverError, InvalidSpec, Network, Progress, SandboxId, SandboxSpec, State, StopCause};
use exec::Running;

const NAME: &str = "external";
/// How long one attempt to connect may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// How long the agent may take to say that it is there when somebody asks for the state.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);
/// For this long after it was there, an agent is taken to be there.
const PROBE_AGAIN: Duration = Duration::from_secs(1);
/// Between two attempts of a start.
const RETRY: Duration = Duration::from_millis(100);

/// Where the driver keeps things.
#[derive(Debug, Clone)]
pub struct ExternalConfig {
    /// The data directory; `external` below it belongs to the driver.
    pub data_dir: PathBuf,
    /// How long a start waits for the agent.
    pub ready_timeout: Duration,
}

impl ExternalConfig {
    /// A configuration in which an agent must answer within 30 seconds.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), ready_timeout: Duration::from_secs(30) }
    }
}

/// Reaches agents that run already.
#[derive(Clone)]
pub struct ExternalDriver {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    ready_timeout: Duration,
    /// One entry per sandbox that was used since the gateway's start.
    live: Mutex<HashMap<SandboxId, Live>>,
}

#[derive(Default)]
struct Live {
    /// One operation at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The program of an `exec:` link.
    program: Option<Arc<Running>>,
    /// When the agent last answered.
    answered: Option<Instant>,
}

impl ExternalDriver {
    /// Prepares the directory.
    ///
    /// # Errors
    /// [`DriverError::Io`] where it cannot be made.
    pub fn new(config: ExternalConfig) -> Result<Self, DriverError> {
        let root = config.data_dir.join(NAME);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&root)
            .map_err(DriverError::io(format!("make {}", root.display())))?;
        let inner = Inner { root, ready_timeout: config.ready_timeout, live: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    async fn turn(&self, id: &SandboxId) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = self.inner.live().entry(id.clone()).or_default().turn.clone();
        turn.lock_owned().await
    }

    async fn start_in_turn(
        &self,
        id: &SandboxId,
        spec: &SandboxSpec,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let external = self.inner.way(spec)?;
        if let ExternalLink::Exec(command) = &external.link
            && self.inner.program(id).is_none()
        {
            progress.step("starting the program that leads to the agent");
            let words = ExternalLink::words(command).unwrap_or_default();
            let program = match Running::start(&words, &self.inner.log(id)) {
                Ok(program) => program,
                Err(error) => {
                    let program = words.first().map_or("", String::as_str);
                    let reason = format!("{program} cannot be run: {error}");
                    let cause = StopCause::StartFailed { reason: reason.clone() };
                    self.inner.record(id, Phase::Stopped { cause, at: SystemTime::now() })?;
                    return Err(DriverError::StartFailed { id: id.clone(), reason });
                }
            };
            self.inner.live().entry(id.clone()).or_default().program = Some(Arc::new(program));
        }
        self.inner.record(id, Phase::Running { started_at: SystemTime::now() })?;
        match self.wait_ready(id).await {
            Ok(()) => Ok(()),
            Err(reason) => {
                let cause = StopCause::Unreachable { reason: reason.clone() };
                self.inner.end_program(id, Duration::ZERO).await;
                self.inner.record(id, Phase::Stopped { cause, at: SystemTime::now() })?;
                Err(DriverError::StartFailed { id: id.clone(), reason })
            }
        }
    }

    /// Waits until the agent answers, or until there is no more hope.
    async fn wait_ready(&self, id: &SandboxId) -> Result<(), String> {
        let deadline = Instant::now() + self.inner.ready_timeout;
        let guest = Guest::new(self.link(id));
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let last = match tokio::time::timeout(left, guest.info()).await {
                Ok(Ok(_)) => {
                    self.inner.live().entry(id.clone()).or_default().answered = Some(Instant::now());
                    return Ok(());
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if let Some(cause) = self.inner.program_end(id) {
                return Err(format!(
                    "the program of the link has ended: {cause}{}",
                    self.inner.last_words(id)
                ));
            }
            if Instant::now() >= deadline {
                let seconds = self.inner.ready_timeout.as_secs();
                return Err(format!(
                    "its agent did not answer within {seconds} s: {last}{}",
                    self.inner.last_words(id)
                ));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Whether the agent answers now.
    async fn probe(&self, id: &SandboxId) -> Result<(), String> {
        let fresh = |live: &Live| live.answered.is_some_and(|at| at.elapsed() < PROBE_AGAIN);
        if self.inner.live().get(id).is_some_and(fresh) {
            return Ok(());
        }
        let answer = tokio::time::timeout(PROBE_PATIENCE, Guest::new(self.link(id)).info()).await;
        let result = match answer {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", PROBE_PATIENCE.as_secs())),
        };
        self.inner.live().entry(id.clone()).or_default().answered = result.is_ok().then(Instant::now);
        result
    }
}

impl Inner {
    fn live(&self) -> MutexGuard<'_, HashMap<SandboxId, Live>> {
        // Every step under the lock is whole by itself.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dir(&self, id: &SandboxId) -> PathBuf {
        self.root.join(id.as_str())
    }

    fn log(&self, id: &SandboxId) -> PathBuf {
        self.dir(id).join("agent.log")
    }

    fn spec(&self, id: &SandboxId) -> Result<SandboxSpec, DriverError> {
        let path = self.dir(id).join("spec.json");
        match read_json(&path) {
            Ok(spec) => Ok(spec),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(DriverError::NotFound(id.clone())),
            Err(error) => Err(DriverError::io(format!("read {}", path.display()))(error)),
        }
    }

    fn way<'a>(&self, spec: &'a SandboxSpec) -> Result<&'a External, DriverError> {
        spec.external
            .as_ref()
            .ok_or(DriverError::Spec(InvalidSpec::Missing { driver: NAME, what: "a link to the agent" }))
    }

    fn phase(&self, id: &SandboxId) -> Result<Phase, DriverError> {
        let path = self.dir(id).join("state.json");
        match read_json::<Record>(&path) {
            Ok(record) => Ok(record.phase),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Phase::Created),
            Err(error) => Err(DriverError::io(format!("read {}", path.display()))(error)),
        }
    }

    fn record(&self, id: &SandboxId, phase: Phase) -> Result<(), DriverError> {
        let path = self.dir(id).join("state.json");
        write_json(&path, &Record::new(phase)).map_err(DriverError::io(format!("write {}", path.display())))
    }

    /// The program of an `exec:` link, while it runs.
    fn program(&self, id: &SandboxId) -> Option<Arc<Running>> {
        let live = self.live();
        live.get(id)?.program.as_ref().filter(|program| program.ended().is_none()).cloned()
    }

    fn program_end(&self, id: &SandboxId) -> Option<StopCause> {
        self.live().get(id)?.program.as_ref()?.ended()
    }

    async fn end_program(&self, id: &SandboxId, grace: Duration) {
        let program = self.live().get_mut(id).and_then(|live| live.program.take());
        if let Some(program) = program {
            program.stop(grace).await;
        }
    }

    /// The end of what the program printed. Guest-controlled: cut short and made printable.
    fn last_words(&self, id: &SandboxId) -> String {
        let text = fs::read(self.log(id)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(400)..]).into_owned();
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if text.trim().is_empty() { String::new() } else { format!("; it said: {}", text.trim()) }
    }

    async fn connect(&self, id: &SandboxId) -> io::Result<Link> {
        let refused = |text: &str| io::Error::new(ErrorKind::ConnectionRefused, text.to_owned());
        let spec = self.spec(id).map_err(|_| refused("the sandbox is gone"))?;
        if !matches!(self.phase(id), Ok(Phase::Running { .. })) {
            return Err(refused("the sandbox is stopped"));
        }
        let Some(external) = spec.external else { return Err(refused("the sandbox has no link")) };
        match &external.link {
            ExternalLink::Unix(path) => UnixStream::connect(path).await.map(Link::Unix),
            ExternalLink::Hybrid { socket, port } => hybrid::connect(socket, *port).await,
            ExternalLink::Vsock { cid, port } => vsock::connect(*cid, *port).await,
            ExternalLink::Tcp { host, port } => match &external.tls {
                Some(files) => tls::connect(host, *port, files).await,
                None => Err(io::Error::new(ErrorKind::InvalidInput, "a TCP link needs mutual TLS")),
            },
            ExternalLink::Exec(_) => match self.program(id) {
                Some(program) => program.dial.dial().await,
                None => Err(refused("the program of the link has ended")),
            },
        }
    }
}

/// What the driver cannot give to a machine that it did not make.
fn check(spec: &SandboxSpec) -> Result<(), InvalidSpec> {
    spec.validate()?;
    if spec.external.is_none() {
        return Err(InvalidSpec::Missing { driver: NAME, what: "a link to the agent" });
    }
    let pointless = [
        (spec.memory_bytes.is_some(), "a memory limit"),
        (spec.cpus.is_some(), "a cpu limit"),
        (spec.pids.is_some(), "a process limit"),
        (spec.kernel.is_some(), "a kernel"),
        (!spec.env.is_empty(), "variables: the agent was started by somebody else"),
        (!spec.mounts.is_empty(), "mounts"),
        (spec.network != Network::default(), "a network"),
        (spec.adopt.is_some(), "a container to adopt: that is for the driver docker"),
        (spec.image != crate::ImageSource::default(), "an image"),
        (spec.runtime != crate::Runtime::default(), "a runtime"),
    ];
    match pointless.into_iter().find(|(asked, _)| *asked) {
        Some((_, what)) => Err(InvalidSpec::Pointless { driver: NAME, what }),
        None => Ok(()),
    }
}

#[async_trait]
impl Driver for ExternalDriver {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn create(&self, spec: &SandboxSpec, _progress: &dyn Progress) -> Result<(), DriverError> {
        check(spec)?;
        let dir = self.inner.dir(&spec.id);
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(DriverError::AlreadyExists(spec.id.clone()));
            }
            Err(error) => return Err(DriverError::io(format!("make {}", dir.display()))(error)),
        }
        let path = dir.join("spec.json");
        write_json(&path, spec).map_err(DriverError::io(format!("write {}", path.display())))
    }

    async fn start(&self, id: &SandboxId, progress: &dyn Progress) -> Result<(), DriverError> {
        let spec = self.inner.spec(id)?;
        let _turn = self.turn(id).await;
        if matches!(self.inspect(id).await?, State::Running { .. }) {
            return Ok(());
        }
        self.start_in_turn(id, &spec, progress).await
    }

    async fn stop(&self, id: &SandboxId, grace: Duration) -> Result<(), DriverError> {
        self.inner.spec(id)?;
        let _turn = self.turn(id).await;
        self.inner.end_program(id, grace).await;
        if matches!(self.inner.phase(id)?, Phase::Running { .. } | Phase::Starting) {
            let cause = StopCause::Requested;
            self.inner.record(id, Phase::Stopped { cause, at: SystemTime::now() })?;
        }
        Ok(())
    }

    async fn remove(&self, id: &SandboxId) -> Result<(), DriverError> {
        let dir = self.inner.dir(id);
        if !dir.exists() {
            return Err(DriverError::NotFound(id.clone()));
        }
        let _turn = self.turn(id).await;
        self.inner.end_program(id, Duration::ZERO).await;
        remove_dir(&dir).map_err(DriverError::io(format!("remove {}", dir.display())))?;
        self.inner.live().remove(id);
        Ok(())
    }

    async fn inspect(&self, id: &SandboxId) -> Result<State, DriverError> {
        let spec = self.inner.spec(id)?;
        let started_at = match self.inner.phase(id)? {
            Phase::Created => return Ok(State::Created),
            Phase::Starting => return Ok(State::Starting),
            Phase::Stopped { cause, at } => return Ok(State::Stopped { cause, at }),
            // Never written here: nothing that is external can be paused.
            Phase::Running { started_at } | Phase::Paused { started_at } => started_at,
        };
        if let ExternalLink::Exec(_) = self.inner.way(&spec)?.link {
            return Ok(match (self.inner.program(id), self.inner.program_end(id)) {
                (Some(program), _) => State::Running {
                    pid: program.pid,
                    started_at: program.started_at,
                    accel: None,
                    start: None,
                    warnings: Vec::new(),
                },
                // Without either it was the child of an earlier gateway.
                (None, cause) => {
                    State::Stopped { cause: cause.unwrap_or(StopCause::Lost), at: SystemTime::now() }
                }
            });
        }
        Ok(match self.probe(id).await {
            Ok(()) => State::Running { pid: 0, started_at, accel: None, start: None, warnings: Vec::new() },
            Err(reason) => State::Stopped { cause: StopCause::Unreachable { reason }, at: SystemTime::now() },
        })
    }

    async fn login_user(&self, id: &SandboxId) -> Result<Option<String>, DriverError> {
        Ok(self.inner.spec(id)?.user)
    }

    fn link(&self, id: &SandboxId) -> Arc<dyn Dial> {
        Arc::new(ExternalDial { inner: self.inner.clone(), id: id.clone() })
    }
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Connects anew each time, by what the sandbox is then.
struct ExternalDial {
    inner: Arc<Inner>,
    id: SandboxId,
}

impl Dial for ExternalDial {
    fn dial(&self) -> BoxFuture<'_, io::Result<Link>> {
        Box::pin(async {
            match tokio::time::timeout(CONNECT_PATIENCE, self.inner.connect(&self.id)).await {
                Ok(result) => result,
                Err(_) => Err(ErrorKind::TimedOut.into()),
            }
        })
    }
}
