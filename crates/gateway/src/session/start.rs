//! Starting a session: scope, sandbox, process, record.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sandgate_driver::Progress;
use sandgate_guest::{
    ExecSpec, ExitStatus, GuestError, ProcessControl, ProcessInput, ProcessOutput, Program, PtySpec,
};
use sandgate_policy::{Action, Decision, Principal, decide};
use time::OffsetDateTime;

use super::registry::{SessionGuard, SessionInfo, SessionKind};
use super::{EndSignal, Traffic};
use crate::gateway::Gateway;
use crate::sandboxes::StartError;

/// Where a client sits, for SSH_CONNECTION and the records.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// The client's address.
    pub client: SocketAddr,
    /// Our own address on that connection.
    pub server: SocketAddr,
}

/// What a front door asks for on behalf of its client.
#[derive(Debug)]
pub struct SessionRequest {
    /// What to run.
    pub program: Program,
    /// The terminal; `None` for pipes.
    pub pty: Option<PtySpec>,
    /// Variables of the client that the configuration accepts.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// User inside the sandbox; `None` for the principal's or the sandbox's own.
    pub user: Option<Vec<u8>>,
    /// Where the client sits; `None` on the control socket.
    pub peer: Option<Peer>,
}

/// Why a session did not start. Every message is a sentence that the user may read.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The principal may not do this.
    #[error("{0}")]
    Denied(String),
    /// The sandbox does not run and could not be started.
    #[error("{0}")]
    Sandbox(#[from] StartError),
    /// The agent did not start the process.
    #[error("The command could not be started: {0}.")]
    Guest(#[from] GuestError),
}

/// A process in a sandbox, with its place in the register.
pub struct RunningSession {
    /// The process's standard input.
    pub input: ProcessInput,
    /// Its output and exit.
    pub output: ProcessOutput,
    /// Resize and signals.
    pub control: ProcessControl,
    /// Its entry in the register and its row in the store.
    pub record: SessionRecord,
}

/// How a session ended, as far as its front door saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The process ended.
    Exited(ExitStatus),
    /// The link to the guest was lost.
    LinkLost,
    /// Ended from our side.
    Ended(String),
}

/// The session's entry in the register; closes the session's row in the store when dropped.
pub struct SessionRecord {
    gateway: Arc<Gateway>,
    guard: SessionGuard,
    outcome: Option<Outcome>,
}

impl SessionRecord {
    /// The session's identifier.
    pub fn id(&self) -> &str {
        self.guard.id()
    }

    /// Byte counts to add to.
    pub fn traffic(&self) -> &Arc<Traffic> {
        self.guard.traffic()
    }

    /// Resolves when somebody ends this session.
    pub fn end_signal(&self) -> EndSignal {
        self.guard.end_signal()
    }

    /// Notes how the session ended. Without it, the record says that the client went away.
    pub fn finish(&mut self, outcome: Outcome) {
        self.outcome.get_or_insert(outcome);
    }
}

impl Drop for SessionRecord {
    fn drop(&mut self) {
        let exit = match self.outcome.take() {
            Some(Outcome::Exited(ExitStatus::Code(code))) => format!("exit {code}"),
            Some(Outcome::Exited(ExitStatus::Signal { name, .. })) => format!("signal {name}"),
            Some(Outcome::LinkLost) => "link lost".to_owned(),
            Some(Outcome::Ended(reason)) => format!("ended: {reason}"),
            None => "client gone".to_owned(),
        };
        let traffic = self.guard.traffic();
        let bytes_in = traffic.bytes_in.load(Ordering::Relaxed);
        let bytes_out = traffic.bytes_out.load(Ordering::Relaxed);
        tracing::info!(session = self.id(), exit, bytes_in, bytes_out, "session ended");
        self.gateway.audit.session_finished(self.id(), &exit, bytes_in, bytes_out);
    }
}

/// Starts a session for `principal`: checks its scope, wakes the sandbox (telling `progress` why the user waits), starts the
/// process and enters it in the register and the store.
///
/// # Errors
/// See [`SessionError`].
pub async fn start(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    request: SessionRequest,
    progress: &dyn Progress,
) -> Result<RunningSession, SessionError> {
    let (kind, action) = match request.program {
        Program::Shell => (SessionKind::Shell, Action::Shell),
        Program::Command(_) | Program::Argv(_) => (SessionKind::Exec, Action::Exec),
    };
    if let Decision::Deny(reason) = decide(principal, action, OffsetDateTime::now_utc()) {
        return Err(SessionError::Denied(reason));
    }
    let guest = gateway.sandboxes.ensure_running(&principal.sandbox_id, progress).await?;

    let info = SessionInfo {
        id: crate::ids::random_id(),
        sandbox: principal.sandbox_name.clone(),
        sandbox_id: principal.sandbox_id.clone(),
        kind,
        pty: request.pty.is_some(),
        credential: principal.credential.to_string(),
        client: request.peer.map(|peer| peer.client),
        started_at: OffsetDateTime::now_utc(),
        bytes_in: 0,
        bytes_out: 0,
    };
    let user = match request.user.or_else(|| principal.login_user.clone().map(String::into_bytes)) {
        Some(user) => Some(user),
        None => gateway.sandboxes.login_user(&principal.sandbox_id).await?.map(String::into_bytes),
    };
    let mut spec = ExecSpec::new(request.program);
    spec.pty = request.pty;
    spec.env = request.env;
    spec.user = user;
    if let Some(Peer { client, server }) = request.peer {
        let (from, to) = (client.ip().to_canonical(), server.ip().to_canonical());
        spec.ssh_connection = Some(format!("{from} {} {to} {}", client.port(), server.port()).into_bytes());
        spec.ssh_client = Some(format!("{from} {} {}", client.port(), server.port()).into_bytes());
    }
    let process = guest.exec(spec).await?;

    tracing::info!(
        session = info.id,
        sandbox = info.sandbox,
        kind = kind.as_str(),
        pty = info.pty,
        credential = info.credential,
        "session started"
    );
    gateway.audit.session_started(&info);
    let guard = gateway.registry.open(info);
    let (input, output, control) = process.split();
    let record = SessionRecord { gateway: gateway.clone(), guard, outcome: None };
    Ok(RunningSession { input, output, control, record })
}
