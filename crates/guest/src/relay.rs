//! Many links over one byte pipe: the I/O around [`sandgate_wire::relay::Relay`].

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use sandgate_wire::keepalive::{Tick, Watch};
use sandgate_wire::relay::{ConnId, Relay};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::shared::{SOFTWARE, park, wake, with_scratch};
use crate::{ByteStream, Keepalive};

/// Reads in one turn of a task.
const READS_PER_TURN: usize = 16;

struct Inner {
    relay: Relay,
    trunk_waker: Option<Waker>,
    /// One per client at most.
    conn_wakers: HashMap<ConnId, Waker>,
    /// Clients whose input waits for room in the trunk; one entry per client at most.
    waiting: Vec<ConnId>,
    closed: bool,
}

/// A relay, shared by the trunk's task and one task per client.
#[derive(Clone)]
pub(crate) struct SharedRelay(Arc<Mutex<Inner>>);

impl SharedRelay {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            relay: Relay::new(SOFTWARE),
            trunk_waker: None,
            conn_wakers: HashMap::new(),
            waiting: Vec::new(),
            closed: false,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new client; `None` when there are too many or the trunk has ended.
    pub(crate) fn accept(&self) -> Option<ConnId> {
        let mut inner = self.lock();
        if inner.closed { None } else { inner.relay.accept() }
    }

    /// Whether the trunk has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Ends the trunk: every client's task ends.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.relay.trunk_closed();
        wake(&mut inner.trunk_waker);
        for (_, waker) in inner.conn_wakers.drain() {
            waker.wake();
        }
    }

    /// Carries the trunk until it ends. The error says why it became useless.
    pub(crate) async fn run_trunk(
        &self,
        mut trunk: impl AsyncRead + AsyncWrite + Unpin,
        keepalive: Keepalive,
    ) -> io::Result<()> {
        let result = tokio::select! {
            result = std::future::poll_fn(|cx| self.poll_trunk(&mut trunk, cx)) => result,
            () = self.watch_agent(keepalive) => Ok(()),
        };
        self.close();
        result
    }

    /// Asks the agent in every interval whether it is there, and ends all clients when it has been silent for too long. Never resolves.
    async fn watch_agent(&self, keepalive: Keepalive) {
        if keepalive.interval.is_zero() {
            return std::future::pending().await;
        }
        let mut watch = Watch::new(keepalive);
        let mut ticks = interval_at(Instant::now() + keepalive.interval, keepalive.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut guard = self.lock();
            let inner = &mut *guard;
            if !inner.relay.answers_pings() {
                continue;
            }
            match watch.tick(inner.relay.heard()) {
                Tick::Ask => {
                    inner.relay.ping(keepalive.patience());
                    wake(&mut inner.trunk_waker);
                }
                Tick::Lost => {
                    let Keepalive { interval, max_missed: missed } = keepalive;
                    tracing::warn!(missed, ?interval, "a guest agent is not responding, its links are ended");
                    inner.relay.agent_is_silent("the guest agent is not responding");
                    wake(&mut inner.trunk_waker);
                    for (_, waker) in inner.conn_wakers.drain() {
                        waker.wake();
                    }
                }
                Tick::Silent => {}
            }
        }
    }

    fn poll_trunk(
        &self,
        trunk: &mut (impl AsyncRead + AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        for _ in 0..READS_PER_TURN {
            if inner.closed {
                return Poll::Ready(Ok(()));
            }
            while !inner.relay.trunk_output().is_empty() {
                match Pin::new(&mut *trunk).poll_write(cx, inner.relay.trunk_output())? {
                    Poll::Ready(0) => return Poll::Ready(Ok(())),
                    Poll::Ready(n) => inner.relay.consume_trunk_output(n),
                    Poll::Pending => break,
                }
            }
            if let Poll::Ready(Err(e)) = Pin::new(&mut *trunk).poll_flush(cx) {
                return Poll::Ready(Err(e));
            }
            if inner.relay.takes_conn_input() {
                for id in std::mem::take(&mut inner.waiting) {
                    if let Some(waker) = inner.conn_wakers.remove(&id) {
                        waker.wake();
                    }
                }
            }
            park(&mut inner.trunk_waker, cx);
            let n = with_scratch(|buffer| -> Poll<io::Result<usize>> {
                let mut room = ReadBuf::new(buffer);
                ready!(Pin::new(&mut *trunk).poll_read(cx, &mut room))?;
                let bytes = room.filled();
                inner.relay.trunk_input(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                Poll::Ready(Ok(bytes.len()))
            });
            while let Some(id) = inner.relay.poll_ready() {
                if let Some(waker) = inner.conn_wakers.remove(&id) {
                    waker.wake();
                }
            }
            if ready!(n)? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Carries one client until it or the trunk ends.
    pub(crate) async fn run_conn(self, id: ConnId, mut stream: Box<dyn ByteStream>) {
        let _guard = ConnGuard { relay: self.clone(), id };
        let mut backlog = Vec::new();
        std::future::poll_fn(|cx| self.poll_conn(id, &mut stream, &mut backlog, cx)).await;
    }

    /// `backlog` holds input that the relay did not take yet: at most one read.
    fn poll_conn(
        &self,
        id: ConnId,
        stream: &mut Box<dyn ByteStream>,
        backlog: &mut Vec<u8>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let mut inner = self.lock();
        for _ in 0..READS_PER_TURN {
            inner.conn_wakers.insert(id, cx.waker().clone());
            while !inner.relay.conn_output(id).is_empty() {
                match Pin::new(&mut *stream).poll_write(cx, inner.relay.conn_output(id)) {
                    Poll::Ready(Ok(n)) if n > 0 => inner.relay.consume_conn_output(id, n),
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            if inner.relay.conn_is_closing(id) {
                // What the client has not read by now it may keep waiting for: the socket buffer still delivers it.
                return Poll::Ready(());
            }
            if !inner.relay.takes_conn_input() {
                if !inner.waiting.contains(&id) {
                    inner.waiting.push(id);
                }
                return Poll::Pending;
            }
            if !backlog.is_empty() {
                let bytes = std::mem::take(backlog);
                if !self.take(&mut inner, id, &bytes, backlog) {
                    return Poll::Ready(());
                }
                continue;
            }
            let alive = with_scratch(|buffer| {
                let mut room = ReadBuf::new(buffer);
                match ready!(Pin::new(&mut *stream).poll_read(cx, &mut room)) {
                    Ok(()) if !room.filled().is_empty() => {
                        Poll::Ready(self.take(&mut inner, id, room.filled(), backlog))
                    }
                    _ => Poll::Ready(false),
                }
            });
            if !ready!(alive) {
                // A last refusal may be waiting.
                let out = inner.relay.conn_output(id).to_vec();
                let _ = Pin::new(&mut *stream).poll_write(cx, &out);
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn take(&self, inner: &mut Inner, id: ConnId, bytes: &[u8], backlog: &mut Vec<u8>) -> bool {
        let taken = inner.relay.conn_input(id, bytes);
        wake(&mut inner.trunk_waker);
        match taken {
            Ok(n) => {
                backlog.extend_from_slice(&bytes[n..]);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "a client of the agent relay broke the protocol");
                false
            }
        }
    }
}

/// Tells the agent when a client's task ends in whatever way.
struct ConnGuard {
    relay: SharedRelay,
    id: ConnId,
}

impl Drop for ConnGuard {
    fn drop(&mut self) {
        let mut inner = self.relay.lock();
        inner.relay.conn_closed(self.id);
        inner.conn_wakers.remove(&self.id);
        let id = self.id;
        inner.waiting.retain(|other| *other != id);
        wake(&mut inner.trunk_waker);
    }
}
