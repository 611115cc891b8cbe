//! Starting a session: scope, sandbox, process, record.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use sandgate_driver::Progress;
use sandgate_guest::{
    ExecSpec, ExitStatus, FileProtocol, Files, GuestError, ProcessControl, ProcessInput, Program, PtySpec,
};
use sandgate_policy::{Action, Decision, Permission, Principal, Scope, decide};
use time::OffsetDateTime;

use super::file_audit::FileAudit;
use super::output::Surface;
use super::registry::{SessionGuard, SessionInfo, SessionKind};
use super::signals::signal_number;
use super::tee::Tee;
use super::{EndReason, EndSignal, SessionOutput, Traffic};
use crate::agent_forward::{self, AgentForwarding, AgentRequest};
use crate::gateway::Gateway;
use crate::recording::{Begun, Direction, Recorder, RecordingError, Subject};
use crate::sandboxes::StartError;
use crate::telemetry::{Step, Trace, guest_failure};

/// What whoever may not have a terminal reads.
pub const NO_TERMINAL: &str = "This certificate does not permit a terminal.";

/// Characters of a command that a recording names.
const MOST_COMMAND: usize = 4096;

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
    /// Whether the user's agent is wanted inside.
    pub agent: AgentRequest,
    /// User inside the sandbox; `None` for the principal's or the sandbox's own.
    pub user: Option<Vec<u8>>,
    /// Where the client sits; `None` on the control socket.
    pub peer: Option<Peer>,
    /// The trace of the connection; the default where the session begins its own.
    pub trace: Trace,
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
    /// It must be recorded and cannot be.
    #[error("{0}")]
    Recording(#[from] RecordingError),
}

impl SessionError {
    /// A word for traces.
    fn kind(&self) -> &'static str {
        match self {
            SessionError::Denied(_) => "denied",
            SessionError::Sandbox(_) => "sandbox_not_started",
            SessionError::Guest(error) => guest_failure(error),
            SessionError::Recording(_) => "not_recorded",
        }
    }
}

/// A process in a sandbox, with its place in the register.
pub struct RunningSession {
    /// The process's standard input.
    pub input: ProcessInput,
    /// Its output and exit.
    pub output: SessionOutput,
    /// Resize and signals.
    pub control: ProcessControl,
    /// The user's agent in it.
    pub agent: AgentForwarding,
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
    /// Ends with the session.
    step: Step,
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

    /// Notes that the front door has told the user this, beside what the process writes.
    pub fn said(&self, text: &str) {
        self.traffic().gave(Direction::Err, [text.as_bytes()], text.len());
    }

    /// Notes how the session ended. Without it, the record says that the client went away.
    pub fn finish(&mut self, outcome: Outcome) {
        self.outcome.get_or_insert(outcome);
    }
}

impl Drop for SessionRecord {
    fn drop(&mut self) {
        let code = match &self.outcome {
            Some(Outcome::Exited(ExitStatus::Code(code))) => Some(*code),
            Some(Outcome::Exited(ExitStatus::Signal { name, .. })) => {
                // As a shell has it.
                Some(128 + signal_number(name))
            }
            _ => None,
        };
        let lost = self.outcome == Some(Outcome::LinkLost);
        let word = match &self.outcome {
            Some(Outcome::Exited(ExitStatus::Code(_))) => "exited",
            Some(Outcome::Exited(ExitStatus::Signal { .. })) => "signalled",
            Some(Outcome::LinkLost) => "link_lost",
            Some(Outcome::Ended(_)) => "ended",
            None => "client_gone",
        };
        if let Some(tee) = self.guard.traffic().tee() {
            let gone = || Outcome::Ended("The client has gone.".to_owned());
            tee.finish(self.outcome.clone().unwrap_or_else(gone));
        }
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
        if let Some(recorder) = traffic.recorder() {
            recorder.finish(code, &exit);
        }
        tracing::info!(session = self.id(), exit, bytes_in, bytes_out, "session ended");
        let doors = &self.gateway.metrics.doors;
        doors.session_ended(traffic);
        self.step.ended(word, code, traffic);
        if lost {
            doors.link_errors.increment();
            self.step.failed(word);
        }
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
    start_after(gateway, principal, request, progress, std::future::ready(())).await
}

/// As [`start`]; the program starts only after what `before` waits for.
///
/// # Errors
/// See [`SessionError`].
pub async fn start_after(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    request: SessionRequest,
    progress: &dyn Progress,
    before: impl Future<Output = ()>,
) -> Result<RunningSession, SessionError> {
    let began = Instant::now();
    let doors = &gateway.metrics.doors;
    let mut step = gateway.telemetry.session(&request.trace, request.peer.as_ref(), &principal.sandbox_name);
    match begin(gateway, principal, request, progress, before, &mut step).await {
        Ok((mut session, kind)) => {
            doors.start_time.observe(began.elapsed());
            doors.started(kind);
            session.output.time(step.first_byte());
            session.record.step = step;
            Ok(session)
        }
        Err(error) => {
            doors.not_started.increment();
            step.failed(error.kind());
            if matches!(error, SessionError::Guest(_)) {
                doors.link_errors.increment();
            }
            Err(error)
        }
    }
}

async fn begin(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    mut request: SessionRequest,
    progress: &dyn Progress,
    before: impl Future<Output = ()>,
    step: &mut Step,
) -> Result<(RunningSession, SessionKind), SessionError> {
    if request.pty.is_some() && principal.session.terminal == Permission::Withheld {
        return Err(SessionError::Denied(NO_TERMINAL.to_owned()));
    }
    let (program, original) = forced(principal, request.program);
    let program = restricted(principal, program);
    if matches!(program, Program::Files(_)) {
        // What it changes is told on its standard error, and a terminal has none.
        request.pty = None;
    }
    let (kind, action) = match &program {
        Program::Shell => (SessionKind::Shell, Action::Shell),
        Program::Command(_) | Program::Argv(_) => (SessionKind::Exec, Action::Exec),
        Program::Files(Files { protocol: FileProtocol::Sftp, .. }) => (SessionKind::Sftp, Action::Sftp),
        Program::Files(Files { protocol: FileProtocol::Scp(_), .. }) => (SessionKind::Scp, Action::Sftp),
    };
    if let Decision::Deny(reason) = decide(principal, action, OffsetDateTime::now_utc()) {
        return Err(SessionError::Denied(reason));
    }
    let waking = step.waking(progress);
    let guest = gateway.sandboxes.ensure_running(&principal.sandbox_id, &waking).await;
    let guest = waking.ended(guest)?;

    let info = SessionInfo {
        id: crate::ids::random_id("ses"),
        sandbox: principal.sandbox_name.clone(),
        sandbox_id: principal.sandbox_id.clone(),
        kind,
        pty: request.pty.is_some(),
        credential: principal.credential.to_string(),
        client: request.peer.map(|peer| peer.client),
        started_at: OffsetDateTime::now_utc(),
        bytes_in: 0,
        bytes_out: 0,
        recording: None,
    };
    step.started(&info);
    let user = match request.user {
        Some(user) => Some(user),
        None => gateway.sandboxes.user_of(principal).await?,
    };
    let mut spec = ExecSpec::new(program);
    spec.pty = request.pty;
    spec.env = request.env;
    // The last one counts, as below.
    spec.env.extend(original.map(|command| (b"SSH_ORIGINAL_COMMAND".to_vec(), command)));
    spec.user = user.clone();
    if let Some(Peer { client, server }) = request.peer {
        let (from, to) = (client.ip().to_canonical(), server.ip().to_canonical());
        spec.ssh_connection = Some(format!("{from} {} {to} {}", client.port(), server.port()).into_bytes());
        spec.ssh_client = Some(format!("{from} {} {}", client.port(), server.port()).into_bytes());
    }
    let agent = match (request.agent, kind) {
        // The agent's own file servers start no programs.
        (AgentRequest::NotAsked, _) | (_, SessionKind::Sftp | SessionKind::Scp) => AgentForwarding::Off,
        (AgentRequest::Asked, _) => {
            agent_forward::listen(gateway, &guest, principal, &info, user.clone()).await
        }
    };
    if let AgentForwarding::On(agent) = &agent {
        // The last one counts, as with sshd, should the client have sent such a variable too.
        spec.env.push((b"SSH_AUTH_SOCK".to_vec(), agent.path().to_vec()));
    }
    let root = match &spec.program {
        Program::Files(files) => files.root.clone(),
        _ => None,
    };
    let recorder = Begun::new(recorder(gateway, principal, &info, &spec).await?);
    let tee = spec.pty.as_ref().map(|pty| Tee::new(pty.cols, pty.rows));
    gateway.audit.room().await;
    before.await;
    let mut link = step.link();
    let process = guest.exec(spec).await.inspect_err(|error| link.failed(guest_failure(error)))?;
    drop(link);
    let recorder = recorder.started();

    tracing::info!(
        session = info.id,
        sandbox = info.sandbox,
        kind = kind.as_str(),
        pty = info.pty,
        credential = info.credential,
        "session started"
    );
    gateway.audit.session_started(&info);
    let (input, output, control) = process.split();
    let mut output = if output.is_file_server() {
        let audit = FileAudit::new(gateway.clone(), &info, user.as_deref(), root);
        SessionOutput::file_server(output, Box::new(audit))
    } else {
        SessionOutput::program(output)
    };
    let surface = if info.pty { Surface::Terminal } else { Surface::Pipes };
    let (guard, notices) = gateway.registry.open(info, recorder, tee);
    output.show_to(guard.traffic().clone());
    output.tell_of(notices, surface);
    let record = SessionRecord { gateway: gateway.clone(), guard, outcome: None, step: Step::default() };
    Ok((RunningSession { input, output, control, agent, record }, kind))
}

/// What the session is recorded by, if it is.
async fn recorder(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    info: &SessionInfo,
    spec: &ExecSpec,
) -> Result<Option<Recorder>, RecordingError> {
    let command = match &spec.program {
        Program::Shell => None,
        Program::Command(line) => Some(String::from_utf8_lossy(line).into_owned()),
        Program::Argv(words) => Some(String::from_utf8_lossy(&words.join(&b' ')).into_owned()),
        Program::Files(_) => None,
    };
    let terminal = spec.pty.as_ref().map(|pty| sandgate_record::Terminal {
        kind: String::from_utf8_lossy(&pty.term).into_owned(),
        cols: pty.cols,
        rows: pty.rows,
    });
    let (registry, session) = (gateway.registry.clone(), info.id.clone());
    let subject = Subject {
        sandbox_id: info.sandbox_id.clone(),
        sandbox_name: info.sandbox.clone(),
        session_id: info.id.clone(),
        kind: if info.pty { "terminal" } else { info.kind.as_str() },
        credential: info.credential.clone(),
        command: command.map(|command| command.chars().take(MOST_COMMAND).collect()),
        terminal,
        end: Box::new(move || {
            registry.kill(&session, EndReason::new("The session ended: it can no longer be recorded."));
        }),
    };
    let mode = principal.session.record.max(gateway.sandboxes.record_mode(&principal.sandbox_id));
    gateway.recordings.begin(mode, subject).await
}

/// What runs, and what was asked for in its place where the credential forces a command. `internal-sftp` is our own file server, as it is
/// sshd's.
fn forced(principal: &Principal, asked: Program) -> (Program, Option<Vec<u8>>) {
    let Some(command) = &principal.session.forced_command else { return (asked, None) };
    let program = if command == b"internal-sftp" {
        Program::Files(Files { protocol: FileProtocol::Sftp, root: None, read_only: false })
    } else {
        Program::Command(command.clone())
    };
    let original = match asked {
        Program::Shell => None,
        Program::Command(line) => Some(line),
        Program::Argv(words) => Some(words.join(&b' ')),
        Program::Files(Files { protocol: FileProtocol::Sftp, .. }) => Some(b"sftp".to_vec()),
        Program::Files(Files { protocol: FileProtocol::Scp(line), .. }) => Some(line),
    };
    (program, original)
}

/// What is run for this principal. A file server keeps to the credential's restrictions. A credential for files alone gets the
/// agent's own scp instead of a command, so that `scp -O` works with it and nothing else does.
fn restricted(principal: &Principal, program: Program) -> Program {
    let scopes = principal.scopes;
    let protocol = match program {
        Program::Files(files) => files.protocol,
        Program::Command(line)
            if is_scp(&line) && !scopes.contains(Scope::Exec) && scopes.contains(Scope::Sftp) =>
        {
            FileProtocol::Scp(line)
        }
        other => return other,
    };
    let restriction = principal.files.clone();
    Program::Files(Files {
        protocol,
        root: restriction.root.map(String::into_bytes),
        read_only: restriction.read_only,
    })
}

/// Whether a command's first word is `scp`, by that name or by a path as some clients have it (`/usr/bin/scp`). The agent, which runs its own
/// whatever the path, looks at the rest and refuses what needs a shell.
fn is_scp(line: &[u8]) -> bool {
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let program = words.next().unwrap_or_default();
    program == b"scp" || (program.starts_with(b"/") && program.ends_with(b"/bin/scp"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scp_is_known_by_its_name_and_by_its_path() {
        for line in [
            "scp -t x",
            "/usr/bin/scp -qrt \"x\"",
            "/bin/scp -f x",
            "/usr/local/bin/scp -t x",
            "  scp   -t x",
            "scp\t-t x",
        ] {
            assert!(is_scp(line.as_bytes()), "{line}");
        }
        for line in [
            "",
            " ",
            "scpx -t x",
            "./scp -t x",
            "bin/scp -t x",
            "/tmp/scp -t x",
            "sh -c scp",
            "/usr/bin/sh /bin/scp",
        ] {
            assert!(!is_scp(line.as_bytes()), "{line}");
        }
    }
}
