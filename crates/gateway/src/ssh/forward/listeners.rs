//! tcpip-forward and streamlocal-forward (`ssh -R`): listeners inside the sandbox, one for each request of the client.
//!
//! Nothing listens on the host. A listener that ends by itself (the guest restarts) is tried again for as long as the client is there.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sandgate_policy::Principal;
use sandgate_ssh::driver::{ConnectionHandle, ForwardQuestion};
use sandgate_ssh::event::ForwardRequest;
use tokio::sync::{mpsc, oneshot};

use super::arrivals::Arrivals;
use super::incoming::{Arrived, Source};
use super::settling::{Settled, Settling, Unsettled};
use crate::forward::{self, Listening, Place, bind_host};
use crate::gateway::Gateway;
use crate::session::Peer;

/// Most listeners of one connection: each is a socket and a link in the guest, of which one sandbox has 256.
const MAX_LISTENERS: usize = 64;
/// Pause before a listener that ended is tried again; doubled for each further try.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The listeners of one SSH connection.
pub(in crate::ssh) struct Listeners {
    table: Arc<Table>,
    /// Who has connected to any of them.
    arrived: mpsc::Receiver<Arrived>,
    arrivals: Arrivals,
    settling: Settling,
}

/// What a session has to do with the connection's listeners.
pub(in crate::ssh) struct ForSession {
    /// The way for listeners of its own.
    pub(in crate::ssh) arrivals: Arrivals,
    /// Those that were asked for before it.
    pub(in crate::ssh) settled: Settled,
}

/// What can be cancelled. At most [`MAX_LISTENERS`] entries.
#[derive(Default)]
struct Table(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    next: u64,
    list: Vec<Entry>,
}

struct Entry {
    id: u64,
    /// Where it listens, with the bound address and port in place of those asked for.
    bound: Place,
    /// Dropped to end the listener.
    _alive: oneshot::Sender<()>,
}

/// A listener's place in the table, given up when dropped.
struct Registration {
    table: Arc<Table>,
    id: u64,
    /// Resolves when the entry is gone.
    cancelled: oneshot::Receiver<()>,
}

impl Listeners {
    /// For a connection that may have so many channels.
    pub(in crate::ssh) fn new(max_channels: usize) -> Self {
        let (arrivals, arrived) = Arrivals::new(max_channels);
        Self { table: Arc::default(), arrived, arrivals, settling: Settling::new() }
    }

    /// For a session that begins.
    pub(in crate::ssh) fn for_session(&self) -> ForSession {
        ForSession { arrivals: self.arrivals.for_listener(), settled: self.settling.settled() }
    }

    /// The next connection to any of the listeners.
    pub(in crate::ssh) async fn arrived(&mut self) -> Arrived {
        match self.arrived.recv().await {
            Some(arrived) => arrived,
            // Cannot be, since we hold a sender.
            None => std::future::pending().await,
        }
    }

    /// Ends all of them; connections that were accepted live on.
    pub(in crate::ssh) fn close(&mut self) {
        self.table.0.lock().list.clear();
    }

    /// Answers a global request. What comes back for a new listener is its life; it ends when it is cancelled.
    pub(in crate::ssh) fn ask(
        &mut self,
        gateway: &Arc<Gateway>,
        principal: &Principal,
        peer: Peer,
        handle: &ConnectionHandle,
        question: ForwardQuestion,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let place = match question.request() {
            ForwardRequest::Tcpip { address, port } => Place::Tcp { host: address.clone(), port: *port },
            ForwardRequest::Streamlocal { path } => Place::Unix { path: path.clone() },
            ForwardRequest::CancelTcpip { address, port } => {
                let place = Place::Tcp { host: address.clone(), port: *port };
                self.cancel(&place, question);
                return None;
            }
            ForwardRequest::CancelStreamlocal { path } => {
                let place = Place::Unix { path: path.clone() };
                self.cancel(&place, question);
                return None;
            }
            _ => {
                question.refuse();
                return None;
            }
        };
        let listen = Listen {
            gateway: gateway.clone(),
            principal: principal.clone(),
            peer,
            place,
            arrivals: self.arrivals.for_listener(),
        };
        match self.table.register(bound(&listen.place)) {
            Some(registration) => {
                Some(listen.run(handle.clone(), question, registration, self.settling.begin()))
            }
            None => {
                listen.refused(
                    handle,
                    &format!(
                        "this connection has {MAX_LISTENERS} listeners already, the most that is allowed"
                    ),
                );
                question.refuse();
                None
            }
        }
    }

    fn cancel(&mut self, asked: &Place, question: ForwardQuestion) {
        let asked = bound(asked);
        let mut entries = self.table.0.lock();
        match entries.list.iter().position(|entry| entry.bound == asked) {
            Some(at) => {
                entries.list.remove(at);
                drop(entries);
                question.accept();
            }
            None => question.refuse(),
        }
    }
}

/// A place as sshd compares it for a cancel: by the address that is really bound.
fn bound(asked: &Place) -> Place {
    match asked {
        Place::Tcp { host, port } => Place::Tcp { host: bind_host(host).to_vec(), port: *port },
        Place::Unix { path } => Place::Unix { path: path.clone() },
    }
}

impl Table {
    /// `None` when there are too many.
    fn register(self: &Arc<Self>, bound: Place) -> Option<Registration> {
        let mut entries = self.0.lock();
        if entries.list.len() >= MAX_LISTENERS {
            return None;
        }
        let id = entries.next;
        entries.next += 1;
        let (alive, cancelled) = oneshot::channel();
        entries.list.push(Entry { id, bound, _alive: alive });
        Some(Registration { table: self.clone(), id, cancelled })
    }
}

impl Registration {
    /// Notes the port that was chosen.
    fn set_port(&self, chosen: u16) {
        let mut entries = self.table.0.lock();
        if let Some(Entry { bound: Place::Tcp { port, .. }, .. }) =
            entries.list.iter_mut().find(|entry| entry.id == self.id)
        {
            *port = chosen;
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.table.0.lock().list.retain(|entry| entry.id != self.id);
    }
}

/// One listener.
struct Listen {
    gateway: Arc<Gateway>,
    principal: Principal,
    peer: Peer,
    /// As the client asked for it.
    place: Place,
    arrivals: Arrivals,
}

impl Listen {
    async fn run(
        self,
        handle: ConnectionHandle,
        question: ForwardQuestion,
        mut registration: Registration,
        unsettled: Unsettled,
    ) {
        let listening = tokio::select! {
            listening = forward::listen(&self.gateway, &self.principal, &self.place) => listening,
            _ = &mut registration.cancelled => return,
        };
        let mut listening = match listening {
            Ok(listening) => listening,
            Err(error) => {
                self.refused(&handle, &error.to_string());
                return question.refuse();
            }
        };
        drop(unsettled);
        let port = listening.listener.port();
        let source = match &self.place {
            Place::Tcp { host, .. } => {
                registration.set_port(port);
                question.accept_port(port);
                Source::Tcp { address: host.clone(), port }
            }
            Place::Unix { path } => {
                question.accept();
                Source::Unix { path: path.clone() }
            }
        };
        tracing::info!(
            sandbox = self.principal.sandbox_name,
            credential = %self.principal.credential,
            client = %self.peer.client,
            at = %self.place,
            port,
            "listening in the sandbox"
        );
        tokio::select! {
            () = self.serve(&mut listening, &source) => {}
            _ = &mut registration.cancelled => {
                tracing::info!(sandbox = self.principal.sandbox_name, at = %self.place, port, "listener cancelled");
            }
        }
    }

    /// Hands on who connects; never ends by itself.
    async fn serve(&self, listening: &mut Listening, source: &Source) {
        loop {
            let error = self.arrivals.hand_on(&mut listening.listener, source).await;
            tracing::warn!(
                sandbox = self.principal.sandbox_name,
                client = %self.peer.client,
                at = %self.place,
                %error,
                "a listener in the sandbox has ended; it is tried again"
            );
            let mut pause = FIRST_PAUSE;
            loop {
                tokio::time::sleep(pause).await;
                match listening.again().await {
                    Ok(()) => break,
                    Err(error) => {
                        pause = (pause * 2).min(LONGEST_PAUSE);
                        tracing::debug!(at = %self.place, %error, ?pause, "the listener is not back yet");
                    }
                }
            }
            tracing::info!(sandbox = self.principal.sandbox_name, at = %self.place, "the listener is back");
        }
    }

    /// The protocol has no text for this refusal: it is in our log, and stock `ssh -v` shows the debug message.
    fn refused(&self, handle: &ConnectionHandle, reason: &str) {
        tracing::warn!(
            sandbox = self.principal.sandbox_name,
            credential = %self.principal.credential,
            client = %self.peer.client,
            at = %self.place,
            reason,
            "listener refused"
        );
        handle.send_debug(&format!("sandgate: no listener on {}: {reason}", self.place));
    }
}
