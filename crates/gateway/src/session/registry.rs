//! The live connections and sessions: who is in, since when, and the way to end them.
//!
//! A *connection* is one authenticated front-door connection (SSH, or a request on the control socket); a *session* is
//! one process that it runs in the sandbox. Both hold a guard; dropping the guard takes them off the register, so
//! nothing that ends in an unforeseen way stays listed.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use sandgate_policy::Principal;
use serde::Serialize;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};

use super::tee::Tee;
use crate::recording::{Direction, Recorder};

/// Sentences that wait for a client that does not read.
const MAX_NOTICES: usize = 4;

/// Why a session or connection is ended from our side. Its text is shown to the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndReason(Arc<str>);

impl EndReason {
    /// A reason with the sentence that the user reads.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The sentence that the user reads.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// What kind of process a session runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionKind {
    /// An interactive login shell.
    Shell,
    /// One command.
    Exec,
    /// The agent's SFTP server.
    Sftp,
    /// The agent's side of the old scp protocol.
    Scp,
}

impl SessionKind {
    /// The word used in listings and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::Exec => "exec",
            Self::Sftp => "sftp",
            Self::Scp => "scp",
        }
    }
}

/// One live session, as `session ls` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct SessionInfo {
    /// Identifier, for `session kill`.
    pub id: String,
    /// Name of the sandbox.
    pub sandbox: String,
    /// Identifier of the sandbox.
    pub sandbox_id: String,
    /// What kind of process it runs.
    pub kind: SessionKind,
    /// Whether it has a terminal.
    pub pty: bool,
    /// The credential, as a person would name it. Never a secret.
    pub credential: String,
    /// Address of the client; absent on the control socket.
    pub client: Option<SocketAddr>,
    /// When it started.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// Bytes from the client to the process so far.
    pub bytes_in: u64,
    /// Bytes from the process to the client so far.
    pub bytes_out: u64,
    /// Identifier of its recording, if it is recorded.
    pub recording: Option<String>,
}

/// Byte counts of one session, added to as data passes, and who is shown what passes.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Client to process.
    pub bytes_in: AtomicU64,
    /// Process to client.
    pub bytes_out: AtomicU64,
    recorder: Option<Recorder>,
    /// Of a session with a terminal.
    tee: Option<Tee>,
}

impl Traffic {
    /// Traffic that is recorded, if there is a recorder.
    pub fn recorded(recorder: Option<Recorder>) -> Traffic {
        Traffic { recorder, ..Traffic::default() }
    }

    /// What it is recorded by.
    pub fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_ref()
    }

    /// `count` bytes at the start of `bufs` have gone to the process.
    pub fn took<'a>(&self, bufs: impl IntoIterator<Item = &'a [u8]>, count: usize) {
        self.bytes_in.fetch_add(count as u64, Ordering::Relaxed);
        if let Some(recorder) = &self.recorder {
            recorder.passed(Direction::In, bufs, count);
        }
    }

    /// `count` bytes at the start of `bufs` were read for the client. Counted they are when they were sent.
    pub(super) fn gave<'a>(
        &self,
        direction: Direction,
        bufs: impl IntoIterator<Item = &'a [u8]> + Clone,
        count: usize,
    ) {
        if let Some(recorder) = &self.recorder {
            recorder.passed(direction, bufs.clone(), count);
        }
        if let Some(tee) = &self.tee {
            tee.passed(bufs, count);
        }
    }

    /// The terminal has another size.
    pub fn resized(&self, cols: u32, rows: u32) {
        if let Some(recorder) = &self.recorder {
            recorder.resized(cols, rows);
        }
        if let Some(tee) = &self.tee {
            tee.resized(cols, rows);
        }
    }

    /// Where the terminal is followed, if there is one.
    pub(super) fn tee(&self) -> Option<&Tee> {
        self.tee.as_ref()
    }
}

#[derive(Debug)]
struct LiveSession {
    info: SessionInfo,
    traffic: Arc<Traffic>,
    end: watch::Sender<Option<EndReason>>,
    notices: mpsc::Sender<String>,
}

impl LiveSession {
    fn info(&self) -> SessionInfo {
        SessionInfo {
            bytes_in: self.traffic.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.traffic.bytes_out.load(Ordering::Relaxed),
            recording: self.traffic.recorder().map(|recorder| recorder.id().to_owned()),
            ..self.info.clone()
        }
    }
}

#[derive(Debug)]
struct LiveConnection {
    principal: Principal,
    end: Arc<watch::Sender<Option<EndReason>>>,
}

/// The register. Bounded by the limits on connections and on channels per connection.
#[derive(Debug, Default)]
pub struct Registry {
    next_connection: AtomicU64,
    connections: Mutex<HashMap<u64, LiveConnection>>,
    sessions: Mutex<BTreeMap<String, LiveSession>>,
}

impl Registry {
    /// Enters an authenticated connection.
    pub fn connect(self: &Arc<Self>, principal: Principal) -> ConnectionGuard {
        let id = self.next_connection.fetch_add(1, Ordering::Relaxed);
        let end = Arc::new(watch::Sender::new(None));
        self.connections.lock().insert(id, LiveConnection { principal, end: end.clone() });
        ConnectionGuard { registry: self.clone(), id, end }
    }

    /// Enters a session; the guard gives its identifier and says when it is to end. Beside it, sentences that the user is to read
    /// while it goes on.
    pub(crate) fn open(
        self: &Arc<Self>,
        info: SessionInfo,
        recorder: Option<Recorder>,
        tee: Option<Tee>,
    ) -> (SessionGuard, mpsc::Receiver<String>) {
        let (end, ended) = watch::channel(None);
        let (notices, read) = mpsc::channel(MAX_NOTICES);
        let traffic = Arc::new(Traffic { recorder, tee, ..Traffic::default() });
        let id = info.id.clone();
        self.sessions.lock().insert(id.clone(), LiveSession { info, traffic: traffic.clone(), end, notices });
        (SessionGuard { registry: self.clone(), id, traffic, ended }, read)
    }

    /// All live sessions, in the order of their identifiers.
    pub fn list(&self) -> Vec<SessionInfo> {
        self.sessions.lock().values().map(LiveSession::info).collect()
    }

    /// One live session.
    pub fn get(&self, id: &str) -> Option<SessionInfo> {
        self.sessions.lock().get(id).map(LiveSession::info)
    }

    /// Where a session's terminal is followed; `None` when there is none of that identifier, or it has no terminal.
    pub(crate) fn tee(&self, id: &str) -> Option<Tee> {
        self.sessions.lock().get(id).and_then(|live| live.traffic.tee().cloned())
    }

    /// Has the users of one sandbox's sessions read a sentence.
    pub fn tell(&self, sandbox_id: &str, text: &str) {
        for live in self.sessions.lock().values().filter(|live| live.info.sandbox_id == sandbox_id) {
            // Full: the client does not read, and has older ones before it.
            let _ = live.notices.try_send(text.to_owned());
        }
    }

    /// Ends one session; `false` when there is none of that identifier.
    pub fn kill(&self, id: &str, reason: EndReason) -> bool {
        match self.sessions.lock().get(id) {
            Some(live) => {
                live.end.send_replace(Some(reason));
                true
            }
            None => false,
        }
    }

    /// Ends every connection, with all its sessions, whose principal matches.
    pub fn end_connections(&self, matches: impl Fn(&Principal) -> bool, reason: &EndReason) -> usize {
        let connections = self.connections.lock();
        let mut ended = 0;
        for live in connections.values().filter(|live| matches(&live.principal)) {
            live.end.send_replace(Some(reason.clone()));
            ended += 1;
        }
        ended
    }

    /// Live authenticated connections.
    pub fn connection_count(&self) -> usize {
        self.connections.lock().len()
    }

    /// Live sessions of one sandbox.
    pub fn sessions_of(&self, sandbox_id: &str) -> usize {
        self.sessions.lock().values().filter(|live| live.info.sandbox_id == sandbox_id).count()
    }
}

/// Held by an authenticated connection.
#[derive(Debug)]
pub struct ConnectionGuard {
    registry: Arc<Registry>,
    id: u64,
    end: Arc<watch::Sender<Option<EndReason>>>,
}

impl ConnectionGuard {
    /// A way to learn that the connection is to end; each clone resolves.
    pub fn end_signal(&self) -> EndSignal {
        EndSignal(self.end.subscribe())
    }

    /// Tells all holders of an end signal that the connection is to end. The first reason stays.
    pub fn end(&self, reason: &EndReason) {
        self.end.send_if_modified(|current| current.is_none() && current.replace(reason.clone()).is_none());
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.registry.connections.lock().remove(&self.id);
    }
}

/// Held by a running session.
#[derive(Debug)]
pub struct SessionGuard {
    registry: Arc<Registry>,
    id: String,
    traffic: Arc<Traffic>,
    ended: watch::Receiver<Option<EndReason>>,
}

impl SessionGuard {
    /// The session's identifier.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The byte counts to add to.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Resolves when somebody ends this session.
    pub fn end_signal(&self) -> EndSignal {
        EndSignal(self.ended.clone())
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.registry.sessions.lock().remove(&self.id);
    }
}

/// Says once that something is to end, and why.
#[derive(Debug, Clone)]
pub struct EndSignal(watch::Receiver<Option<EndReason>>);

impl EndSignal {
    /// Resolves with the reason; never, when nobody ends it.
    pub async fn ended(&mut self) -> EndReason {
        match self.0.wait_for(Option::is_some).await.map(|reason| reason.clone()) {
            Ok(Some(reason)) => reason,
            // The register has let go of it first: nobody is left who could end it.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}
