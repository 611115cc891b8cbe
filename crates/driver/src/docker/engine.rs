//! The engine behind the socket: one place that gives every question a deadline and every failure a sentence.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, SystemVersion};
use bollard::query_parameters::InspectContainerOptions;
use bollard::{API_DEFAULT_VERSION, Docker};

use crate::DriverError;

/// For questions that an engine answers from memory. Podman runs other programs to say its version, and a machine may be busy.
pub(super) const QUICK: Duration = Duration::from_secs(15);
/// For work: making, starting and removing a container on a busy machine.
pub(super) const SLOW: Duration = Duration::from_secs(90);
/// After a question that went unanswered the next ones fail at once for this long, so that a list of many sandboxes does not wait for each.
const KNOWN_SILENT: Duration = Duration::from_secs(2);
/// Longest text of an engine that is passed on, in characters.
const MAX_TEXT: usize = 400;

/// A socket at which Docker or Podman is expected.
pub(super) struct Engine {
    socket: PathBuf,
    state: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// The client, once the engine has said what it is. Every request is a connection of its own, so it outlives the engine's restart.
    client: Option<Client>,
    silent_since: Option<Instant>,
}

/// A client of an engine that has answered once.
#[derive(Clone)]
struct Client {
    docker: Docker,
    name: String,
}

/// What came of a question, other than its answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum EngineError {
    /// Nobody is there, or it does not answer.
    #[error("{0}")]
    Silent(String),
    /// It has no such thing.
    #[error("{0}")]
    NotFound(String),
    /// It will not do it.
    #[error("{0}")]
    Refused(String),
}

impl Engine {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket, state: Mutex::default() }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// What the engine calls itself and its version, as `Docker Engine 20.10.24`, if it has answered since the gateway's start.
    pub(super) fn name(&self) -> Option<String> {
        self.seen(|seen| seen.client.as_ref().map(|client| client.name.clone()))
    }

    /// A client that has agreed with the engine on a version of the API.
    pub(super) async fn client(&self) -> Result<Docker, EngineError> {
        if let Some(client) = self.seen(|seen| seen.client.clone()) {
            return Ok(client.docker);
        }
        let path = self.socket.to_str().ok_or_else(|| EngineError::Silent("its path is not UTF-8".into()))?;
        let connect = async {
            let docker = Docker::connect_with_unix(path, SLOW.as_secs(), API_DEFAULT_VERSION)?;
            let version = docker.version().await?;
            Ok::<_, Error>((docker.negotiate_version().await?, version))
        };
        let (docker, version) = self.within(QUICK, connect).await?;
        let name = engine_name(&version);
        tracing::info!(engine = name, socket = %self.socket.display(), "found a container engine");
        self.seen(|seen| seen.client = Some(Client { docker: docker.clone(), name }));
        Ok(docker)
    }

    /// Asks a question and waits for its answer no longer than `patience`.
    pub(super) async fn ask<T, F>(
        &self,
        patience: Duration,
        question: impl FnOnce(Docker) -> F,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        if patience <= QUICK
            && self.seen(|seen| seen.silent_since.is_some_and(|at| at.elapsed() < KNOWN_SILENT))
        {
            return Err(EngineError::Silent("it has not answered the last question".into()));
        }
        let docker = self.client().await?;
        self.within(patience, question(docker)).await
    }

    /// What the engine knows about a container now.
    pub(super) async fn inspect(&self, container: &str) -> Result<ContainerInspectResponse, EngineError> {
        self.ask(QUICK, async |docker| {
            docker.inspect_container(container, None::<InspectContainerOptions>).await
        })
        .await
    }

    /// The error for the owner. `action` completes "the engine refused to".
    pub(super) fn error(&self, action: &'static str) -> impl Fn(EngineError) -> DriverError {
        let socket = self.socket.clone();
        move |error| match error {
            EngineError::Silent(reason) => DriverError::NoEngine { socket: socket.clone(), reason },
            EngineError::NotFound(reason) | EngineError::Refused(reason) => {
                DriverError::Engine { action, reason }
            }
        }
    }

    async fn within<T>(
        &self,
        patience: Duration,
        question: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, EngineError> {
        let answer = tokio::time::timeout(patience, question).await;
        let error = match answer {
            Ok(Ok(value)) => {
                self.seen(|seen| seen.silent_since = None);
                return Ok(value);
            }
            Ok(Err(error)) => self.classify(&error),
            Err(_) => EngineError::Silent(format!("no answer within {} s", patience.as_secs())),
        };
        let silent = matches!(error, EngineError::Silent(_));
        // A refused connection costs no time, and the engine may be back at once.
        let waited = answer_was_waited_for(&error);
        self.seen(|seen| seen.silent_since = (silent && waited).then(Instant::now));
        Err(error)
    }

    fn classify(&self, error: &Error) -> EngineError {
        match error {
            Error::DockerResponseServerError { status_code: 404, message } => {
                EngineError::NotFound(plain(message))
            }
            Error::DockerResponseServerError { message, .. } => EngineError::Refused(plain(message)),
            Error::JsonDataError { message, .. } => {
                EngineError::Refused(format!("its answer cannot be understood: {}", plain(message)))
            }
            Error::SocketNotFoundError(_) => EngineError::Silent(NO_SOCKET.into()),
            Error::RequestTimeoutError => EngineError::Silent("the request took too long".into()),
            other => EngineError::Silent(match cause(other) {
                Some(kind) if kind.kind() == std::io::ErrorKind::NotFound => NO_SOCKET.into(),
                Some(kind) => plain(&kind.to_string()),
                None => plain(&other.to_string()),
            }),
        }
    }

    fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

const NO_SOCKET: &str =
    "there is no such socket; [docker] socket in the configuration says where the engine listens";
const NO_ANSWER: &str = "no answer within";

fn answer_was_waited_for(error: &EngineError) -> bool {
    matches!(error, EngineError::Silent(reason) if reason.starts_with(NO_ANSWER))
}

/// The system's error at the bottom, which says more than those above it.
fn cause(error: &Error) -> Option<&std::io::Error> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io);
        }
        next = error.source();
    }
    None
}

/// What the engine says, on one line, cut short, without a final full stop. A container may have a part in it.
pub(super) fn plain(text: &str) -> String {
    let line: String = text.chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.trim().trim_end_matches('.').to_owned()
}

fn engine_name(version: &SystemVersion) -> String {
    let component = version.components.iter().flatten().next();
    let (name, number) = match component {
        Some(component) => (component.name.as_str(), component.version.as_str()),
        None => ("Engine", version.version.as_deref().unwrap_or("of unknown version")),
    };
    // Docker calls itself "Engine".
    let maker = if name == "Engine" { "Docker " } else { "" };
    plain(&format!("{maker}{name} {number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_an_engine_the_error_says_what_to_do() {
        let engine = Engine::new("/no/such/docker.sock".into());
        let error = engine.error("look")(engine.inspect("x").await.unwrap_err());
        let text = error.to_string();
        assert!(text.contains("/no/such/docker.sock") && text.contains("[docker] socket"), "{text}");
        assert_eq!(engine.name(), None);
    }

    #[tokio::test]
    async fn an_engine_that_hangs_is_waited_for_once() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let _listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let engine = Engine::new(socket);
        let began = Instant::now();
        for _ in 0..5 {
            let EngineError::Silent(_) = engine.inspect("x").await.unwrap_err() else { panic!("an answer") };
        }
        assert!(began.elapsed() < QUICK + KNOWN_SILENT, "{:?}", began.elapsed());
    }
}
