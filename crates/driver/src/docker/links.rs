//! The way into a container: one agent with `--stdio` by the exec API, which carries every session, for as long as it and the gateway live.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bollard::models::ExecConfig;
use sandgate_guest::mux::MuxDial;
use sandgate_guest::{BoxFuture, Dial, Link};

use super::Inner;
use super::engine::{EngineError, QUICK};
use super::make::AGENT;
use super::record::{Made, state};
use super::stream::ExecStream;
use crate::state::Phase;
use crate::{SandboxId, State};

/// How long an agent may take from the request to its first byte. Goes on when the session that wanted it has given up.
const EXEC_PATIENCE: Duration = Duration::from_secs(20);
/// After an agent could not be started: how often and at what distance to look whether the container is ending.
const DYING_LOOKS: u32 = 20;
const DYING_PAUSE: Duration = Duration::from_millis(50);

/// What exists only while the gateway runs, for a sandbox that was used since its start.
#[derive(Default)]
pub(super) struct Live {
    /// One operation at a time.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    /// One agent at a time is being started.
    making: Arc<tokio::sync::Mutex<()>>,
    /// Once somebody has dialled.
    trunk: Mutex<Option<Trunk>>,
}

/// An agent in a container, and the way to it.
struct Trunk {
    container: String,
    since: SystemTime,
    dial: Arc<MuxDial>,
}

impl Live {
    /// The way in that works as far as is known.
    fn open(&self) -> Option<Arc<MuxDial>> {
        let trunk = self.trunk.lock().unwrap_or_else(PoisonError::into_inner);
        trunk.as_ref().map(|trunk| &trunk.dial).filter(|dial| !dial.is_closed()).cloned()
    }

    /// Ends the agent and all sessions over it.
    pub(super) fn close(&self) {
        if let Some(trunk) = self.trunk.lock().unwrap_or_else(PoisonError::into_inner).take() {
            trunk.dial.close();
        }
    }

    /// Whether the way leads into this container, and did so at that time already.
    pub(super) fn leads_to(&self, container: &str, at: SystemTime) -> bool {
        let trunk = self.trunk.lock().unwrap_or_else(PoisonError::into_inner);
        trunk.as_ref().is_some_and(|trunk| trunk.container == container && trunk.since <= at)
    }
}

/// Dials by whatever agent the container has then.
pub(super) struct DockerDial {
    pub(super) inner: Arc<Inner>,
    pub(super) id: SandboxId,
}

impl Dial for DockerDial {
    fn dial(&self) -> BoxFuture<'_, io::Result<Link>> {
        Box::pin(async { open(&self.inner, &self.id).await?.dial().await })
    }
}

/// The way in: the one that is there, or a new one.
pub(super) async fn open(inner: &Arc<Inner>, id: &SandboxId) -> io::Result<Arc<MuxDial>> {
    let live = inner.live(id);
    if let Some(dial) = live.open() {
        return Ok(dial);
    }
    let (inner, id) = (inner.clone(), id.clone());
    // A task of its own: on a busy machine a session may give up before the agent speaks, and the next one finds it.
    let made = tokio::spawn(async move {
        let _making = live.making.clone().lock_owned().await;
        if let Some(dial) = live.open() {
            return Ok(dial);
        }
        let since = SystemTime::now();
        let (container, stream) = match tokio::time::timeout(EXEC_PATIENCE, start(&inner, &id)).await {
            Ok(result) => result?,
            Err(_) => return Err(io::Error::new(ErrorKind::TimedOut, "the engine does not start the agent")),
        };
        let dial = Arc::new(MuxDial::with_keepalive(stream, inner.keepalive));
        *live.trunk.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Trunk { container, since, dial: dial.clone() });
        Ok(dial)
    });
    made.await.map_err(io::Error::other)?
}

/// These kinds of errors mean to the caller that the sandbox is gone and need not be tried again.
fn gone(text: &str) -> io::Error {
    io::Error::new(ErrorKind::ConnectionRefused, text.to_owned())
}

async fn start(inner: &Arc<Inner>, id: &SandboxId) -> io::Result<(String, ExecStream)> {
    let made: Made = inner.made(id).map_err(|_| gone("the sandbox is gone"))?;
    if !runs(inner, &made).await? {
        return Err(gone("its container does not run"));
    }
    inner.follow();
    match start_agent(inner, id, &made.container).await {
        Ok(stream) => Ok((made.container, stream)),
        Err(error) => {
            // A container that is dying is called running for a little longer; nothing can be started in it any more.
            for _ in 0..DYING_LOOKS {
                if !runs(inner, &made).await? {
                    return Err(gone("its container does not run any more"));
                }
                tokio::time::sleep(DYING_PAUSE).await;
            }
            Err(error)
        }
    }
}

async fn runs(inner: &Inner, made: &Made) -> io::Result<bool> {
    match inner.engine.inspect(&made.container).await {
        Ok(seen) => {
            let doing = state(made, Phase::Created, &seen.state.unwrap_or_default());
            Ok(matches!(doing, State::Running { .. }))
        }
        Err(EngineError::NotFound(_)) => Ok(false),
        Err(error) => Err(io::Error::other(inner.engine.error("look at the container")(error))),
    }
}

async fn start_agent(inner: &Inner, id: &SandboxId, container: &str) -> io::Result<ExecStream> {
    let config = ExecConfig {
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(false),
        cmd: Some(vec![AGENT.to_owned(), "--stdio".to_owned()]),
        // Root inside, whatever the container's own user: the agent becomes the login user of each session.
        user: Some("0:0".to_owned()),
        privileged: Some(false),
        // The image's own may have been removed by now.
        working_dir: Some("/".to_owned()),
        ..ExecConfig::default()
    };
    let exec = inner.engine.ask(QUICK, async |docker| docker.create_exec(container, config).await).await;
    let exec = exec.map_err(|error| io::Error::other(inner.engine.error("run the agent")(error)))?;
    let log = File::create(inner.log(id))?;
    ExecStream::start(inner.engine.socket(), &exec.id, log).await
}
