//! The client itself: dialing, opening, asking.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use sandgate_wire::CAP_PASS_STDIO;
use sandgate_wire::message::{self, CloseReason, Open, Opened};

use tokio::net::UnixStream;

use crate::pipes::{self, HostEnds};
use crate::shared::{Answer, Handle, Request, is_gone, park, refused_error};
use crate::{ByteStream, Dial, ExecSpec, GuestError, Link, Process, Program};

/// Attempts to dial for one request.
const DIAL_ATTEMPTS: u32 = 3;
/// Pause before the second attempt; doubled for each later one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// How long each step may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// One attempt to connect.
    pub dial: Duration,
    /// From the request to the agent's answer.
    pub open: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { dial: Duration::from_secs(5), open: Duration::from_secs(15) }
    }
}

/// What an agent says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentInfo {
    /// The agent's name and version, as `sandgate-agent 0.1.0`; printable and bounded.
    pub version: String,
    /// The protocol version in use.
    pub protocol: u16,
    /// The agent's process id in its own namespace (1 in a sandbox).
    pub pid: u32,
    /// The agent's user id in its own namespace.
    pub uid: u32,
    /// Sessions that run at this moment.
    pub sessions: u32,
}

/// The agent of one sandbox. Cheap to clone.
#[derive(Clone)]
pub struct Guest {
    dial: Arc<dyn Dial>,
    timeouts: Timeouts,
    /// Pipes are offered until the other side (an agent or a relay in front of it) turns out not to know them.
    offer_pipes: Arc<AtomicBool>,
}

impl Guest {
    /// A client with the default timeouts. Does no I/O.
    pub fn new(dial: Arc<dyn Dial>) -> Self {
        Self::with_timeouts(dial, Timeouts::default())
    }

    /// A client with timeouts of the caller's choice. Does no I/O.
    pub fn with_timeouts(dial: Arc<dyn Dial>, timeouts: Timeouts) -> Self {
        Self { dial, timeouts, offer_pipes: Arc::new(AtomicBool::new(true)) }
    }

    /// A client that carries all data in frames even where pipes could be passed; for measurements and tests.
    pub fn framed_only(dial: Arc<dyn Dial>) -> Self {
        let guest = Self::new(dial);
        guest.offer_pipes.store(false, Ordering::Relaxed);
        guest
    }

    /// Starts a process. Dialing is retried (3 attempts, the pauses doubling from 200 ms); the answer has a deadline.
    pub async fn exec(&self, spec: ExecSpec) -> Result<Process, GuestError> {
        let has_pty = spec.pty.is_some();
        let mut exec = to_wire(spec)?;
        let (socket, stream) = parts(self.dial_with_retries().await?);
        let mut host_ends = None;
        let mut guest_ends = None;
        if socket.is_some() && !has_pty && self.offer_pipes.load(Ordering::Relaxed) {
            // Without descriptors to spare, frames still work: they need none here.
            if let Ok((host, guest)) = pipes::make() {
                exec.passed_stdio = true;
                host_ends = Some(host);
                guest_ends = Some(guest);
            }
        }
        let mut request = Request::new(CAP_PASS_STDIO, &Open::Exec(Box::new(exec)))?;
        if let (Some(socket), Some(ends)) = (&socket, guest_ends) {
            let send = pipes::send(socket, request.first_bytes(), ends);
            let sent = tokio::time::timeout(self.timeouts.open, send).await;
            let sent = sent.map_err(|_| self.open_timeout("sending the request"))?;
            request.consume(sent.map_err(|_| GuestError::LinkLost)?);
        }
        let handle = request.start(socket, stream, Arc::clone(&self.dial));
        match self.answer(&handle).await? {
            Opened::Exec { passed_stdio: true } if host_ends.is_some() => Ok(Process::new(handle, host_ends)),
            Opened::Exec { passed_stdio: false } => {
                // A relay stands between; an agent that was out of descriptors for once is asked again.
                let capable =
                    handle.shared.lock().mux.peer().is_some_and(|p| p.capabilities & CAP_PASS_STDIO != 0);
                if !capable {
                    self.offer_pipes.store(false, Ordering::Relaxed);
                }
                Ok(Process::new(handle, None::<HostEnds>))
            }
            _ => Err(GuestError::Protocol("the answer does not fit the request".to_owned())),
        }
    }

    /// Asks the agent who it is; also the readiness probe of a sandbox that is starting. One attempt, no retries.
    pub async fn info(&self) -> Result<AgentInfo, GuestError> {
        let (socket, stream) = parts(self.dial_once().await?);
        let request = Request::new(CAP_PASS_STDIO, &Open::Info)?;
        let handle = request.start(socket, stream, Arc::clone(&self.dial));
        let Opened::Info { pid, uid, sessions } = self.answer(&handle).await? else {
            return Err(GuestError::Protocol("the answer does not fit the request".to_owned()));
        };
        handle.shared.close(CloseReason::Done);
        let state = handle.shared.lock();
        let version = state.mux.peer().map(|p| p.software.clone()).unwrap_or_default();
        Ok(AgentInfo { version, protocol: state.mux.version(), pid, uid, sessions })
    }

    fn open_timeout(&self, what: &'static str) -> GuestError {
        GuestError::Timeout { what, millis: millis(self.timeouts.open) }
    }

    async fn answer(&self, handle: &Handle) -> Result<Opened, GuestError> {
        let answer = poll_fn(|cx| {
            let mut state = handle.shared.lock();
            if let Some(answer) = state.answer.take() {
                return Poll::Ready(Ok(answer));
            }
            if let Some(error) = &state.lost {
                return Poll::Ready(Err(error.clone()));
            }
            park(&mut state.output_waker, cx);
            Poll::Pending
        });
        match tokio::time::timeout(self.timeouts.open, answer).await {
            Ok(Ok(Answer::Opened(opened))) => Ok(opened),
            Ok(Ok(Answer::Refused(refused))) => Err(refused_error(refused)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(self.open_timeout("answering a request")),
        }
    }

    async fn dial_once(&self) -> Result<Link, GuestError> {
        match tokio::time::timeout(self.timeouts.dial, self.dial.dial()).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(e)) if is_gone(&e) => Err(GuestError::SandboxGone),
            Ok(Err(e)) => Err(GuestError::Dial(e.to_string())),
            Err(_) => {
                Err(GuestError::Timeout { what: "taking a connection", millis: millis(self.timeouts.dial) })
            }
        }
    }

    async fn dial_with_retries(&self) -> Result<Link, GuestError> {
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        loop {
            match self.dial_once().await {
                Ok(link) => return Ok(link),
                Err(error) if attempt >= DIAL_ATTEMPTS => return Err(error),
                Err(error) => tracing::warn!(%error, attempt, "dialing the guest agent failed; trying again"),
            }
            attempt += 1;
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}

/// A socket or another stream.
fn parts(link: Link) -> (Option<UnixStream>, Option<Box<dyn ByteStream>>) {
    match link {
        Link::Unix(socket) => (Some(socket), None),
        Link::Stream(stream) => (None, Some(stream)),
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn to_wire(spec: ExecSpec) -> Result<message::Exec, GuestError> {
    if spec.env.len() > message::MAX_ENV {
        return Err(GuestError::Limit("too many environment variables"));
    }
    let has_nul = |bytes: &[u8]| bytes.contains(&0);
    let bad_env = spec.env.iter().any(|(n, v)| n.is_empty() || n.contains(&b'=') || has_nul(n) || has_nul(v));
    let bad_program = match &spec.program {
        Program::Shell => false,
        Program::Command(line) => has_nul(line),
        Program::Argv(argv) => argv.len() > message::MAX_ARGS || argv.iter().any(|a| has_nul(a)),
    };
    let options = [&spec.user, &spec.cwd, &spec.ssh_connection, &spec.ssh_client];
    let bad_option = options.iter().any(|o| o.as_deref().is_some_and(has_nul))
        || spec.pty.as_ref().is_some_and(|p| has_nul(&p.term));
    if bad_env || bad_program || bad_option {
        return Err(GuestError::Limit("a variable, argument or name cannot be passed to a program"));
    }
    let program = match spec.program {
        Program::Shell => message::Program::Shell,
        Program::Command(line) => message::Program::Command(line),
        Program::Argv(argv) => message::Program::Argv(argv),
    };
    let pty = spec.pty.map(|p| message::Pty {
        term: p.term,
        size: message::Size { cols: p.cols, rows: p.rows, xpixel: p.xpixel, ypixel: p.ypixel },
        modes: p.modes,
    });
    Ok(message::Exec {
        passed_stdio: false,
        user: spec.user,
        program,
        pty,
        env: spec.env,
        cwd: spec.cwd,
        ssh_connection: spec.ssh_connection,
        ssh_client: spec.ssh_client,
    })
}

// Callers spawn these futures on a multi-threaded runtime.
const _: fn(&Guest, ExecSpec) = |guest, spec| {
    fn is_send<T: Send>(_: T) {}
    is_send(guest.exec(spec));
    is_send(guest.info());
};
