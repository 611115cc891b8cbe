//! A shell that does what the test says.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use sandgate_driver::Progress;
use sandgate_guest::{ExitStatus, Ready, WindowSize};
use sandgate_policy::{Credential, FileAccess, ForwardAccess, Principal, Scopes, SessionAccess};

use super::process::{Process, Start};
use crate::session::{ConnectionGuard, EndReason, EndSignal, Outcome, Peer, Registry};

pub(super) fn principal() -> Principal {
    Principal {
        sandbox_id: "sb-1".to_owned(),
        sandbox_name: "box".to_owned(),
        credential: Credential::ApiKey { id: "key-1".to_owned(), name: "me".to_owned() },
        scopes: Scopes::all(),
        expires_at: None,
        login_user: None,
        files: FileAccess::default(),
        forward: ForwardAccess::default(),
        session: SessionAccess::default(),
    }
}

/// The test's side.
#[derive(Clone, Default)]
pub(super) struct Fake(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    output: VecDeque<u8>,
    exit: Option<ExitStatus>,
    typed: Vec<u8>,
    /// Whether it does not read what is typed.
    deaf: bool,
    waker: Option<Waker>,
    sizes: Vec<WindowSize>,
    outcome: Option<Outcome>,
    /// Bytes that were read of its output.
    read: usize,
    hung_up: bool,
    gone: bool,
    killed: Option<ConnectionGuard>,
    /// Why it does not start.
    refuses: Option<String>,
    progress: Vec<String>,
}

impl Fake {
    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.0.lock();
        let result = change(&mut inner);
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
        result
    }

    pub(super) fn refuses(&self, text: &str) {
        self.with(|inner| inner.refuses = Some(text.to_owned()));
    }

    pub(super) fn reports(&self, line: &str) {
        self.with(|inner| inner.progress.push(line.to_owned()));
    }

    pub(super) fn prints(&self, bytes: &[u8]) {
        self.with(|inner| inner.output.extend(bytes));
    }

    pub(super) fn exits(&self, code: u32) {
        self.with(|inner| inner.exit = Some(ExitStatus::Code(code)));
    }

    pub(super) fn is_deaf(&self, deaf: bool) {
        self.with(|inner| inner.deaf = deaf);
    }

    pub(super) fn typed(&self) -> Vec<u8> {
        self.with(|inner| inner.typed.clone())
    }

    pub(super) fn read(&self) -> usize {
        self.with(|inner| inner.read)
    }

    pub(super) fn sizes(&self) -> Vec<(u32, u32)> {
        self.with(|inner| inner.sizes.iter().map(|size| (size.cols, size.rows)).collect())
    }

    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.with(|inner| inner.outcome.clone())
    }

    pub(super) fn is_gone(&self) -> bool {
        self.with(|inner| inner.gone)
    }

    pub(super) fn was_hung_up(&self) -> bool {
        self.with(|inner| inner.hung_up)
    }

    pub(super) fn kill(&self, reason: &str) {
        self.with(|inner| inner.killed.as_ref().expect("it runs").end(&EndReason::new(reason)));
    }
}

impl Start for Fake {
    type Process = Running;

    async fn start(
        &self,
        size: WindowSize,
        _peer: Option<Peer>,
        progress: &dyn Progress,
    ) -> Result<Running, String> {
        for line in self.with(|inner| std::mem::take(&mut inner.progress)) {
            progress.step(&line);
        }
        tokio::task::yield_now().await;
        let registry = Arc::new(Registry::default());
        self.with(|inner| {
            inner.sizes.push(size);
            inner.killed = Some(registry.connect(principal()));
            inner.refuses.clone().map_or(Ok(()), Err)
        })?;
        Ok(Running(self.clone()))
    }
}

/// The task's side.
pub(super) struct Running(Fake);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.with(|inner| inner.gone = true);
    }
}

impl Process for Running {
    fn id(&self) -> &str {
        "ses-1"
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Ready> {
        let mut inner = self.0.0.lock();
        if !inner.output.is_empty() {
            return Poll::Ready(Ready::Stdout);
        }
        if let Some(exit) = &inner.exit {
            return Poll::Ready(Ready::Exit(exit.clone()));
        }
        inner.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut inner = self.0.0.lock();
        let count = buf.len().min(inner.output.len());
        for (place, byte) in buf.iter_mut().zip(inner.output.drain(..count)) {
            *place = byte;
        }
        inner.read += count;
        Ok(count)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.0.lock();
        if inner.deaf {
            inner.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        inner.typed.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn resize(&self, size: WindowSize) {
        self.0.with(|inner| inner.sizes.push(size));
    }

    fn hangup(&self) {
        self.0.with(|inner| inner.hung_up = true);
    }

    fn finish(&mut self, outcome: Outcome) {
        self.0.with(|inner| inner.outcome.get_or_insert(outcome).clone());
    }

    fn end_signal(&self) -> EndSignal {
        self.0.with(|inner| inner.killed.as_ref().expect("it runs").end_signal())
    }
}
