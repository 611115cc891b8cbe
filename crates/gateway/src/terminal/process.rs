//! What a terminal needs of the session core, as traits, so that its rules are tested with a process that does what the test says.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use sandgate_driver::Progress;
use sandgate_guest::{Program, PtySpec, Ready, WindowSize};
use sandgate_policy::Principal;

use crate::agent_forward::AgentRequest;
use crate::gateway::Gateway;
use crate::session::{self, EndSignal, Outcome, Peer, RunningSession, SessionRequest, Traffic};
use crate::telemetry::Trace;

/// The terminal that pages emulate.
const TERM: &[u8] = b"xterm-256color";
/// What emulators in browsers can do and `TERM` does not say.
const COLORTERM: (&[u8], &[u8]) = (b"COLORTERM", b"truecolor");
/// Encoded modes (RFC 4254 section 8): IUTF8 on, since a page sends nothing else; the rest is as the kernel makes it, which is what a client's
/// own terminal has.
const MODES: [u8; 6] = [42, 0, 0, 0, 1, 0];

/// Starts the shell, once.
pub(super) trait Start: Send {
    /// What it gives.
    type Process: Process;

    /// Starts it on a terminal of this size. The error is a sentence for the user.
    fn start(
        &self,
        size: WindowSize,
        peer: Option<Peer>,
        progress: &dyn Progress,
    ) -> impl Future<Output = Result<Self::Process, String>> + Send;
}

/// A shell that runs. Dropping it hangs it up, as when a client is lost.
pub(super) trait Process: Send {
    /// The session's identifier.
    fn id(&self) -> &str;
    /// See [`session::SessionOutput::poll_ready`].
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Ready>;
    /// See [`session::SessionOutput::try_read`].
    fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize>;
    /// See [`sandgate_guest::ProcessInput::poll_write`].
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>>;
    /// Another size.
    fn resize(&self, size: WindowSize);
    /// Ends it although it is still held.
    fn hangup(&self);
    /// Notes how it ended.
    fn finish(&mut self, outcome: Outcome);
    /// Resolves when somebody ends the session.
    fn end_signal(&self) -> EndSignal;
}

/// Starts a shell of the session core.
pub(super) struct Shell {
    pub(super) gateway: Arc<Gateway>,
    pub(super) principal: Principal,
    pub(super) user: Option<Vec<u8>>,
}

impl Start for Shell {
    type Process = Running;

    async fn start(
        &self,
        size: WindowSize,
        peer: Option<Peer>,
        progress: &dyn Progress,
    ) -> Result<Running, String> {
        let WindowSize { cols, rows, xpixel, ypixel } = size;
        let pty = PtySpec { term: TERM.to_vec(), cols, rows, xpixel, ypixel, modes: MODES.to_vec() };
        let request = SessionRequest {
            program: Program::Shell,
            pty: Some(pty),
            env: vec![(COLORTERM.0.to_vec(), COLORTERM.1.to_vec())],
            agent: AgentRequest::NotAsked,
            user: self.user.clone(),
            peer,
            trace: Trace::default(),
        };
        match session::start(&self.gateway, &self.principal, request, progress).await {
            Ok(session) => {
                let traffic = session.record.traffic().clone();
                Ok(Running { session, traffic })
            }
            Err(error) => {
                tracing::warn!(sandbox = self.principal.sandbox_name, %error, "session not started");
                Err(error.to_string())
            }
        }
    }
}

/// A session of the core.
pub(super) struct Running {
    session: RunningSession,
    traffic: Arc<Traffic>,
}

impl Process for Running {
    fn id(&self) -> &str {
        self.session.record.id()
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Ready> {
        self.session.output.poll_ready(cx)
    }

    fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.session.output.try_read(buf)?;
        self.traffic.bytes_out.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.session.input.poll_write(cx, data);
        if let Poll::Ready(Ok(written)) = &written {
            self.traffic.took([data], *written);
        }
        written
    }

    fn resize(&self, size: WindowSize) {
        self.session.output.resized(size.cols, size.rows);
        if let Err(error) = self.session.control.resize(size) {
            tracing::debug!(%error, "size not passed on");
        }
    }

    fn hangup(&self) {
        self.session.control.hangup();
    }

    fn finish(&mut self, outcome: Outcome) {
        self.session.record.finish(outcome);
    }

    fn end_signal(&self) -> EndSignal {
        self.session.record.end_signal()
    }
}
