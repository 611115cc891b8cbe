//! Connections that wait for the client to take them, each over a link of its own: to its listeners in the sandbox, and to its agent.
//!
//! A client offers its agent by listening "on an agent socket". What it gets is the name of the offer in the place of a path; a session whose
//! `SSH_AUTH_SOCK` is that name gets a socket of its own inside (see `sandgate_gateway::agent_forward`), and its connections come
//! out here.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use sandgate_gateway::agent_forward::{AgentStream, OpenError, UserAgent};
use sandgate_guest::{GuestError, Incoming, Listener, Peer};
use sandgate_wire::message;
use sandgate_wire::message::Reason;
use sandgate_wire::mux::Event;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

use super::io::{Gone, Link};

/// Connections of one listener that wait; as many as its client keeps. When there is one more, the oldest is given up.
const MAX_WAITING: usize = 64;
/// How long a client may take to connect to its agent, which is a local socket.
const AGENT_TIME: Duration = Duration::from_secs(30);

/// Somebody who waits for the client.
pub(super) enum Call {
    /// Somebody in the sandbox, at a listener.
    Inside(Incoming),
    /// A session that wants the user's agent.
    Agent(oneshot::Sender<AgentStream>),
}

/// All calls that wait, and all agents on offer.
#[derive(Default)]
pub(crate) struct Waiting {
    next: AtomicU64,
    /// By number. As many as [`MAX_WAITING`] for each open listener and offer.
    calls: Mutex<BTreeMap<u64, Call>>,
    /// By name; one for each client that offers one.
    offers: Mutex<HashMap<Vec<u8>, OfferedAgent>>,
}

impl Waiting {
    /// Takes one out.
    pub(super) fn take(&self, id: u64) -> Option<Call> {
        lock(&self.calls).remove(&id)
    }

    /// The agent behind the name of an offer.
    pub(super) fn agent(&self, name: &[u8]) -> Option<OfferedAgent> {
        lock(&self.offers).get(name).cloned()
    }

    /// Offers an agent under this name.
    pub(super) fn offer(self: &Arc<Self>, name: Vec<u8>) -> Offer {
        let (asks, asked) = mpsc::channel(MAX_WAITING);
        lock(&self.offers).insert(name.clone(), OfferedAgent(asks));
        Offer { waiting: self.clone(), name, asked }
    }

    fn add(&self, call: Call) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.calls).insert(id, call);
        id
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An agent that a client offers, for the sessions that want it.
#[derive(Clone)]
pub(super) struct OfferedAgent(mpsc::Sender<oneshot::Sender<AgentStream>>);

impl UserAgent for OfferedAgent {
    async fn open(&self) -> Result<AgentStream, OpenError> {
        let (give, given) = oneshot::channel();
        let opened = async {
            self.0.send(give).await.map_err(|_| OpenError::Refused("the client has gone".to_owned()))?;
            given.await.map_err(|_| OpenError::Unreachable("the client cannot reach its agent".to_owned()))
        };
        let late = || OpenError::Refused(format!("the client did not answer within {AGENT_TIME:?}"));
        tokio::time::timeout(AGENT_TIME, opened).await.unwrap_or_else(|_| Err(late()))
    }
}

/// The client's end of an offer, which lasts as long as it.
pub(super) struct Offer {
    waiting: Arc<Waiting>,
    name: Vec<u8>,
    asked: mpsc::Receiver<oneshot::Sender<AgentStream>>,
}

impl Drop for Offer {
    fn drop(&mut self) {
        lock(&self.waiting.offers).remove(&self.name);
    }
}

/// Where calls come from.
pub(super) trait Calls {
    fn poll_call(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Call, Peer), GuestError>>;
}

impl Calls for Listener {
    fn poll_call(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Call, Peer), GuestError>> {
        self.poll_accept(cx).map_ok(|incoming| {
            let peer = incoming.peer.clone();
            (Call::Inside(incoming), peer)
        })
    }
}

impl Calls for Offer {
    fn poll_call(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Call, Peer), GuestError>> {
        match self.asked.poll_recv(cx) {
            Poll::Ready(Some(give)) => Poll::Ready(Ok((Call::Agent(give), Peer::Unix))),
            // The other end is in the list of offers as long as this one lives.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

/// How a listener ended.
pub(super) enum ListenEnd {
    Gone(Gone),
    Lost(GuestError),
}

/// Those of one listener; what is left goes with it.
struct Own<'a> {
    waiting: &'a Waiting,
    ids: Vec<u64>,
}

impl Own<'_> {
    fn add(&mut self, call: Call) -> u64 {
        if self.ids.len() >= MAX_WAITING {
            // Those that were taken are no longer there.
            let calls = lock(&self.waiting.calls);
            self.ids.retain(|id| calls.contains_key(id));
        }
        if self.ids.len() >= MAX_WAITING {
            drop(self.waiting.take(self.ids.remove(0)));
        }
        let id = self.waiting.add(call);
        self.ids.push(id);
        id
    }
}

impl Drop for Own<'_> {
    fn drop(&mut self) {
        for id in &self.ids {
            drop(self.waiting.take(*id));
        }
    }
}

/// Tells the client of every call until it or the source of calls has gone.
pub(super) async fn announce<S: AsyncRead + AsyncWrite + Unpin>(
    link: &mut Link<S>,
    stream: u32,
    mut calls: impl Calls,
    waiting: &Waiting,
) -> ListenEnd {
    let mut own = Own { waiting, ids: Vec::new() };
    poll_fn(|cx| {
        loop {
            let mut moved = match link.poll_io(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(gone)) => return Poll::Ready(ListenEnd::Gone(gone)),
                Poll::Pending => false,
            };
            while let Some(event) = link.mux.poll_event() {
                match event {
                    Event::Closed(id, _) if id == stream => {
                        return Poll::Ready(ListenEnd::Gone(Gone::Closed));
                    }
                    Event::Unwanted(_, id) if own.ids.contains(&id) => drop(own.waiting.take(id)),
                    Event::Open(other, _) => {
                        link.mux.refuse(other, Reason::TooMany, "a link serves one request");
                        moved = true;
                    }
                    _ => {}
                }
            }
            // A client that does not read is told of no more; the bounds of where calls come from hold meanwhile.
            if link.mux.has_output_room() {
                match calls.poll_call(cx) {
                    Poll::Ready(Ok((call, peer))) => {
                        let id = own.add(call);
                        link.mux.send_incoming(stream, &message::Incoming { id, peer });
                        moved = true;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(ListenEnd::Lost(error)),
                    Poll::Pending => {}
                }
            }
            if !moved {
                return Poll::Pending;
            }
        }
    })
    .await
}
