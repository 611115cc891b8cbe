//! The client itself: dialing, opening, asking.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use sandgate_wire::keepalive::Keepalive;
use sandgate_wire::message::{self, CloseReason, MachineRequest, Open, Opened};
use sandgate_wire::{CAP_FILES, CAP_PASS_STDIO, CAP_PASS_TERMINAL};

use tokio::net::UnixStream;

use crate::pipes::{self, GuestEnds};
use crate::shared::{Answer, Handle, Request, is_gone, park};
use crate::{ByteStream, Dial, ExecSpec, FileProtocol, GuestError, Link, Process, Program};

/// Attempts to dial for one request.
const DIAL_ATTEMPTS: u32 = 3;
/// Pause before the second attempt; doubled for each later one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// How long each step may take, and when an agent that has fallen silent is given up.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// One attempt to connect.
    pub dial: Duration,
    /// From the request to the agent's answer.
    pub open: Duration,
    /// How the agent is asked whether it is still there, on each link.
    pub keepalive: Keepalive,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { dial: Duration::from_secs(5), open: Duration::from_secs(15), keepalive: Keepalive::default() }
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
    /// The same for terminals.
    offer_terminals: Arc<AtomicBool>,
}

impl Guest {
    /// A client with the default timeouts. Does no I/O.
    pub fn new(dial: Arc<dyn Dial>) -> Self {
        Self::with_timeouts(dial, Timeouts::default())
    }

    /// A client with timeouts of the caller's choice. Does no I/O.
    pub fn with_timeouts(dial: Arc<dyn Dial>, timeouts: Timeouts) -> Self {
        let yes = || Arc::new(AtomicBool::new(true));
        Self { dial, timeouts, offer_pipes: yes(), offer_terminals: yes() }
    }

    /// A client that carries all data in frames even where pipes could be passed; for measurements and tests.
    pub fn framed_only(dial: Arc<dyn Dial>) -> Self {
        let guest = Self::new(dial);
        guest.offer_pipes.store(false, Ordering::Relaxed);
        guest.offer_terminals.store(false, Ordering::Relaxed);
        guest
    }

    /// How the agent is reached.
    pub(crate) fn way(&self) -> &dyn Dial {
        &*self.dial
    }

    /// Starts a process. Dialing is retried (3 attempts, the pauses doubling from 200 ms); the answer has a deadline.
    pub async fn exec(&self, spec: ExecSpec) -> Result<Process, GuestError> {
        let has_pty = spec.pty.is_some();
        let wants_files = matches!(spec.program, Program::Files(_));
        let mut exec = to_wire(spec)?;
        let terminal = if has_pty && self.offer_terminals.load(Ordering::Relaxed) {
            self.dial.terminal().await
        } else {
            None
        };
        let make = (terminal.is_some() || !has_pty)
            .then_some(|| terminal.map_or_else(pipes::make, pipes::of_terminal));
        let started = self.start(make, |passed_stdio| {
            exec.passed_stdio = passed_stdio;
            Open::Exec(Box::new(exec))
        });
        let (handle, host_ends) = started.await?;
        let answer = self.answer(&handle, self.timeouts.open).await;
        if wants_files && answer.is_err() && lacks(&handle, CAP_FILES) {
            return Err(GuestError::Limit("its agent is too old to serve files; restart the sandbox"));
        }
        match answer? {
            Opened::Exec { passed_stdio: true, own } if host_ends.is_some() => {
                Ok(Process::new(handle, host_ends, own))
            }
            Opened::Exec { passed_stdio: false, own } => {
                if has_pty {
                    self.terminal_was_not_taken(&handle);
                } else {
                    self.pipes_were_not_taken(&handle);
                }
                Ok(Process::new(handle, None, own))
            }
            _ => Err(wrong_answer()),
        }
    }

    /// Asks the agent who it is; also the readiness probe of a sandbox that is starting. One attempt, no retries.
    pub async fn info(&self) -> Result<AgentInfo, GuestError> {
        let (socket, stream) = parts(self.dial_once().await?);
        let request = Request::new(CAP_PASS_STDIO, &Open::Info)?;
        let handle = request.start(socket, stream, Arc::clone(&self.dial), self.timeouts.keepalive);
        let Opened::Info { pid, uid, sessions } = self.answer(&handle, self.timeouts.open).await? else {
            return Err(wrong_answer());
        };
        handle.shared.close(CloseReason::Done);
        let state = handle.shared.lock();
        let version = state.mux.peer().map(|p| p.software.clone()).unwrap_or_default();
        Ok(AgentInfo { version, protocol: state.mux.version(), pid, uid, sessions })
    }

    /// Switches off the machine whose init the agent is. Returns when that has begun. One attempt, no retries.
    pub async fn power_off(&self) -> Result<(), GuestError> {
        self.machine(MachineRequest::PowerOff).await
    }

    /// Sets the clock of the machine whose init the agent is to what this host's clock shows. One attempt, no retries.
    pub async fn set_clock(&self) -> Result<(), GuestError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.machine(MachineRequest::SetClock { seconds: now.as_secs(), nanos: now.subsec_nanos() }).await
    }

    async fn machine(&self, request: MachineRequest) -> Result<(), GuestError> {
        let (socket, stream) = parts(self.dial_once().await?);
        let request = Request::new(0, &Open::Machine(request))?;
        let handle = request.start(socket, stream, Arc::clone(&self.dial), self.timeouts.keepalive);
        let Opened::Machine = self.answer(&handle, self.timeouts.open).await? else {
            return Err(wrong_answer());
        };
        handle.shared.close(CloseReason::Done);
        Ok(())
    }

    /// Dials and sends a request, with pipes for its data where they can be passed. `open` is told whether they are.
    pub(crate) async fn start<H>(
        &self,
        make_pipes: Option<impl FnOnce() -> std::io::Result<(H, GuestEnds)>>,
        open: impl FnOnce(bool) -> Open,
    ) -> Result<(Handle, Option<H>), GuestError> {
        let (socket, stream) = parts(self.dial_with_retries().await?);
        let mut host_ends = None;
        let mut guest_ends = None;
        if let Some(make) = make_pipes
            && socket.is_some()
            && self.offer_pipes.load(Ordering::Relaxed)
        {
            // Without descriptors to spare, frames still work: they need none here.
            if let Ok((host, guest)) = make() {
                host_ends = Some(host);
                guest_ends = Some(guest);
            }
        }
        let mut request = Request::new(CAP_PASS_STDIO | CAP_PASS_TERMINAL, &open(host_ends.is_some()))?;
        if let (Some(socket), Some(ends)) = (&socket, guest_ends) {
            let send = pipes::send(socket, request.first_bytes(), ends);
            let sent = tokio::time::timeout(self.timeouts.open, send).await;
            let sent = sent.map_err(|_| open_timeout("sending the request", self.timeouts.open))?;
            request.consume(sent.map_err(|_| GuestError::LinkLost)?);
        }
        let handle = request.start(socket, stream, Arc::clone(&self.dial), self.timeouts.keepalive);
        Ok((handle, host_ends))
    }

    /// Pipes were offered or not, and are not in use. A relay stands between; an agent that was out of descriptors for once is asked again.
    pub(crate) fn pipes_were_not_taken(&self, handle: &Handle) {
        if lacks(handle, CAP_PASS_STDIO) {
            self.offer_pipes.store(false, Ordering::Relaxed);
        }
    }

    /// As for pipes.
    fn terminal_was_not_taken(&self, handle: &Handle) {
        if lacks(handle, CAP_PASS_TERMINAL) {
            self.offer_terminals.store(false, Ordering::Relaxed);
        }
    }

    /// How long the agent may take for an answer that depends on nothing but itself.
    pub(crate) fn open_deadline(&self) -> Duration {
        self.timeouts.open
    }

    /// Waits for the agent's answer.
    pub(crate) async fn answer(&self, handle: &Handle, deadline: Duration) -> Result<Opened, GuestError> {
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
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(Answer::Opened(opened))) => Ok(opened),
            Ok(Ok(Answer::Refused(refused))) => Err(refused.into()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(open_timeout("answering a request", deadline)),
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

/// Makes pipes: our ends and the guest's.
pub(crate) type MakePipes<H> = fn() -> std::io::Result<(H, GuestEnds)>;

/// Whether the agent has said that it does not do something. False while it has said nothing.
pub(crate) fn lacks(handle: &Handle, capability: u64) -> bool {
    handle.shared.lock().mux.peer().is_some_and(|peer| peer.capabilities & capability == 0)
}

pub(crate) fn wrong_answer() -> GuestError {
    GuestError::Protocol("the answer does not fit the request".to_owned())
}

fn open_timeout(what: &'static str, deadline: Duration) -> GuestError {
    GuestError::Timeout { what, millis: millis(deadline) }
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
        Program::Files(files) => {
            files.root.as_deref().is_some_and(has_nul)
                || matches!(&files.protocol, FileProtocol::Scp(line) if has_nul(line))
        }
    };
    let options = [&spec.user, &spec.cwd, &spec.ssh_connection, &spec.ssh_client];
    let bad_option = options.iter().any(|o| o.as_deref().is_some_and(has_nul))
        || spec.pty.as_ref().is_some_and(|p| has_nul(&p.term));
    if bad_env || bad_program || bad_option {
        return Err(GuestError::Limit("a variable, argument or name cannot be passed to a program"));
    }
    let pty = spec.pty.map(|p| message::Pty {
        term: p.term,
        size: message::Size { cols: p.cols, rows: p.rows, xpixel: p.xpixel, ypixel: p.ypixel },
        modes: p.modes,
    });
    Ok(message::Exec {
        passed_stdio: false,
        user: spec.user,
        program: spec.program,
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
