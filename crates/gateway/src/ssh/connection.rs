//! One SSH connection, from accept to end, in one task.
//!
//! The driver (socket I/O), the events and all channels are futures of the same task: they never move between threads, and
//! dropping the task ends everything that belongs to the connection.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use sandgate_ssh::driver::{self, ConnectionHandle, Event, ForwardQuestion, OpenQuestion};
use sandgate_ssh::event::{ChannelOpen, EndReason as SshEnd, Ended, OpenFailure};
use sandgate_ssh::transport::DisconnectReason;
use tokio::net::TcpStream;

use super::agent_channel::ClientAgent;
use super::client_stream::ClientStream;
use super::forward::{self, Listeners};
use super::keepalive::client_lost;
use super::login::{self, Attempt, Login};
use super::session_channel::{self, Standing};
use crate::drain::{Drain, DrainStage};
use crate::gateway::Gateway;
use crate::limits::{Offence, UnauthenticatedGuard};
use crate::session::{EndReason, EndSignal, Peer};
use crate::telemetry::Step;

/// How long sessions have to show their last line before the connection is closed under them.
const LAST_WORDS: Duration = Duration::from_millis(700);
/// How long the driver may take to send what is left after we asked for the end.
const LINGER: Duration = Duration::from_secs(2);

/// Where a connection comes from.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// Both ends of the TCP connection.
    pub peer: Peer,
}

impl Origin {
    /// The client's address, IPv4 also where the socket is IPv6.
    pub fn source(&self) -> IpAddr {
        self.peer.client.ip().to_canonical()
    }
}

/// A future of this connection: a login attempt or a channel.
type Task = Pin<Box<dyn Future<Output = TaskEnd> + Send>>;

enum TaskEnd {
    Login(Attempt),
    Channel,
}

/// Serves one connection until it ends.
pub async fn serve(
    gateway: Arc<Gateway>,
    stream: TcpStream,
    origin: Origin,
    unauthenticated: UnauthenticatedGuard,
    config: Arc<sandgate_ssh::Config>,
    drain: Drain,
) {
    let (driver, handle) = driver::accept(ClientStream::new(stream), config);
    let listeners = Listeners::new(gateway.config.login.max_channels);
    let user_agent =
        ClientAgent::new(handle.clone(), gateway.config.login.max_channels, gateway.metrics.channels.clone());
    let step = gateway.telemetry.connection(&origin.peer);
    let mut application = Connection {
        gateway,
        user_agent,
        handle: handle.clone(),
        origin,
        unauthenticated: Some(unauthenticated),
        evicted: false,
        login: None,
        failures: 0,
        listeners,
        tasks: FuturesUnordered::new(),
        drain,
        draining: None,
        connect: step.connect(),
        step,
    };
    let mut driver = std::pin::pin!(driver);
    tokio::select! {
        biased;
        () = application.run() => {
            // Everything of ours has ended; the driver still has the last words to send. Until then the connection counts as one that has not
            // logged in, and has to make room as ever.
            let waiting = application.unauthenticated.take();
            let patience = if application.evicted { Duration::ZERO } else { LINGER };
            drop(application);
            drop(handle);
            tokio::select! {
                _ = tokio::time::timeout(patience, driver) => {}
                () = make_room(waiting.as_ref()) => {}
            }
        }
        // The driver's end is also an event, which `run` turns into its own.
        ended = &mut driver => {
            application.ended(&ended);
        }
    }
}

struct Connection {
    gateway: Arc<Gateway>,
    handle: ConnectionHandle,
    user_agent: ClientAgent,
    origin: Origin,
    unauthenticated: Option<UnauthenticatedGuard>,
    /// It has had to make room, and counts no more.
    evicted: bool,
    login: Option<Box<Login>>,
    /// Attempts in which a credential was offered and refused.
    failures: u32,
    /// Listeners in the sandbox, for the client.
    listeners: Listeners,
    /// Bounded by the channels per connection (the core refuses more), the listeners with what waits at them, and one login attempt
    /// (the core asks one at a time).
    tasks: FuturesUnordered<Task>,
    drain: Drain,
    /// Set once the gateway drains: the connection ends when its last channel does.
    draining: Option<EndReason>,
    /// Until the client asks to log in.
    connect: Step,
    /// The whole connection.
    step: Step,
}

impl Connection {
    async fn run(&mut self) {
        let reason = self.events().await;
        let Some(Goodbye { reason, code }) = reason else { return };
        // Sessions hear it first and say it to their users.
        if let Some(login) = &self.login {
            login.registered.end(&reason);
        }
        let _ = tokio::time::timeout(LAST_WORDS, async { while self.tasks.next().await.is_some() {} }).await;
        self.handle.disconnect(code, reason.text());
    }

    /// Handles events until the connection is over (`None`) or has to be ended from our side.
    async fn events(&mut self) -> Option<Goodbye> {
        let keepalive = self.gateway.config.ssh.keepalive();
        let handle = self.handle.clone();
        let mut lost = std::pin::pin!(client_lost(&handle, keepalive));
        let mut unused = std::pin::pin!(unused_for(self.gateway.config.login.unused_timeout, &handle));
        loop {
            tokio::select! {
                event = handle.next_event() => match event {
                    Some(Event::Auth(question)) => {
                        self.connect = Step::default();
                        let mut step = self.step.auth(question.method().name());
                        let attempt = login::attempt(self.gateway.clone(), self.origin, question);
                        self.tasks.push(Box::pin(async move {
                            let attempt = attempt.await;
                            step.decided(attempt.outcome());
                            TaskEnd::Login(attempt)
                        }));
                    }
                    Some(Event::Open(question)) => self.open(question),
                    Some(Event::Global(question)) => self.listen(question),
                    Some(Event::Ended(ended)) => {
                        self.ended(&ended);
                        return None;
                    }
                    Some(_) => {}
                    None => return None,
                },
                Some(end) = self.tasks.next() => {
                    if let TaskEnd::Login(attempt) = end {
                        self.attempted(attempt);
                    }
                }
                arrived = self.listeners.arrived() => self.arrived(arrived),
                () = make_room(self.unauthenticated.as_ref()) => {
                    tracing::warn!(client = %self.origin.peer.client, "closed to make room: too many connections that have not logged in");
                    self.evicted = true;
                    return Some(Goodbye {
                        reason: EndReason::new("Too many connections that have not logged in."),
                        code: DisconnectReason::TooManyConnections,
                    });
                }
                reason = end_of_right(self.login.as_deref()) => {
                    tracing::info!(client = %self.origin.peer.client, reason = reason.text(), "connection ended");
                    return Some(Goodbye { reason, code: DisconnectReason::ByApplication });
                }
                () = &mut lost => {
                    tracing::warn!(
                        client = %self.origin.peer.client,
                        missed = keepalive.max_missed,
                        interval = ?keepalive.interval,
                        "client is not responding, connection ended"
                    );
                    return Some(Goodbye {
                        reason: EndReason::new("Timeout, client not responding."),
                        code: DisconnectReason::ConnectionLost,
                    });
                }
                stage = self.drain.changed() => match stage {
                    DrainStage::Running => {}
                    DrainStage::Draining(reason) => {
                        handle.refuse_opens(OpenFailure::shortage(reason.text()));
                        self.listeners.close();
                        self.draining = Some(reason);
                    }
                    DrainStage::Cut(reason) => {
                        return Some(Goodbye { reason, code: DisconnectReason::ByApplication });
                    }
                },
                () = &mut unused => {
                    tracing::info!(client = %self.origin.peer.client, "unused connection closed");
                    return Some(Goodbye {
                        reason: EndReason::new("The connection was not used."),
                        code: DisconnectReason::ByApplication,
                    });
                }
                reason = idle(self.draining.as_ref(), &handle) => {
                    return Some(Goodbye { reason, code: DisconnectReason::ByApplication });
                }
            }
        }
    }

    fn attempted(&mut self, attempt: Attempt) {
        match attempt {
            Attempt::In(login) => {
                self.unauthenticated = None;
                self.step.logged_in(&login.principal);
                self.login = Some(login);
            }
            Attempt::Refused { counts: true } => self.failures += 1,
            Attempt::Refused { counts: false } | Attempt::Probed => {}
        }
    }

    fn open(&mut self, question: OpenQuestion) {
        let Some(login) = &self.login else {
            return question.refuse(OpenFailure::prohibited("Log in first."));
        };
        match question.kind() {
            ChannelOpen::Session => {
                let channel = question.accept();
                let standing = Standing {
                    principal: login.principal.clone(),
                    peer: self.origin.peer,
                    trace: self.step.trace(),
                    end: login.registered.end_signal(),
                };
                let run = session_channel::run(
                    self.gateway.clone(),
                    standing,
                    channel,
                    self.user_agent.clone(),
                    self.listeners.for_session(),
                );
                self.tasks.push(Box::pin(async {
                    run.await;
                    TaskEnd::Channel
                }));
            }
            _ => {
                let (gateway, principal) = (self.gateway.clone(), login.principal.clone());
                let run = forward::connect(gateway, principal, self.origin.peer, question);
                self.tasks.push(until_end(login, run));
            }
        }
    }

    /// A listener is asked for, or to be removed.
    fn listen(&mut self, question: ForwardQuestion) {
        let Some(login) = &self.login else { return question.refuse() };
        if self.draining.is_some() {
            return question.refuse();
        }
        let (gateway, handle) = (&self.gateway, &self.handle);
        let life = self.listeners.ask(gateway, &login.principal, self.origin.peer, handle, question);
        self.tasks.extend(life.map(|life| until_end(login, life)));
    }

    /// Somebody has connected to a listener.
    fn arrived(&mut self, arrived: forward::Arrived) {
        let Some(login) = &self.login else { return };
        let run = forward::serve(self.gateway.clone(), self.handle.clone(), login.principal.clone(), arrived);
        self.tasks.push(until_end(login, run));
    }

    fn ended(&mut self, ended: &Ended) {
        let client = self.origin.peer.client;
        if let Some(kind) = failure(&ended.reason) {
            self.step.failed(kind);
        }
        if self.login.is_some() {
            tracing::info!(%client, reason = %ended.reason, "connection closed");
            return;
        }
        tracing::debug!(%client, reason = %ended.reason, failures = self.failures, "connection closed before login");
        let offence = match ended.reason {
            SshEnd::LoginTimeout => Some(Offence::LoginTimeout),
            SshEnd::TooManyAuthFailures => Some(Offence::AuthenticationFailed),
            _ if self.failures > 0 => Some(Offence::AuthenticationFailed),
            SshEnd::Protocol(_) | SshEnd::Transport(_) => Some(Offence::ProtocolError),
            _ => None,
        };
        if let Some(offence) = offence
            && self.gateway.config.limits.source_penalties
        {
            self.gateway.penalties.charge(self.origin.source(), offence, Instant::now());
        }
    }
}

/// A word for traces, if it is a failure.
fn failure(reason: &SshEnd) -> Option<&'static str> {
    match reason {
        SshEnd::LoginTimeout => Some("login_timeout"),
        SshEnd::TooManyAuthFailures => Some("too_many_auth_failures"),
        SshEnd::Transport(_) => Some("transport"),
        SshEnd::Protocol(_) => Some("protocol"),
        SshEnd::Io(_) => Some("socket"),
        _ => None,
    }
}

/// Something that has no last words: it is dropped when the connection is to end.
fn until_end(login: &Login, run: impl Future<Output = ()> + Send + 'static) -> Task {
    let mut end = login.registered.end_signal();
    Box::pin(async move {
        tokio::select! {
            () = run => {}
            _ = end.ended() => {}
        }
        TaskEnd::Channel
    })
}

struct Goodbye {
    reason: EndReason,
    code: DisconnectReason,
}

/// Resolves when a connection that has not logged in must make room for newer ones.
async fn make_room(unauthenticated: Option<&UnauthenticatedGuard>) {
    match unauthenticated {
        Some(guard) => guard.evicted().await,
        None => std::future::pending().await,
    }
}

/// Resolves when the credential expires, or somebody ends the connection.
async fn end_of_right(login: Option<&Login>) -> EndReason {
    let Some(login) = login else { return std::future::pending().await };
    let mut ended: EndSignal = login.registered.end_signal();
    tokio::select! {
        reason = ended.ended() => reason,
        reason = login.expired() => reason,
    }
}

/// Resolves when a connection that has logged in had no channel for `timeout`; never without one.
async fn unused_for(timeout: Option<Duration>, handle: &ConnectionHandle) {
    let Some(timeout) = timeout else { return std::future::pending().await };
    loop {
        handle.no_channels().await;
        let since = Instant::now();
        tokio::time::sleep(timeout).await;
        if handle.is_authenticated() && handle.channels() == 0 && handle.last_activity() < since {
            return;
        }
    }
}

/// Resolves when a draining connection has no channel left.
async fn idle(draining: Option<&EndReason>, handle: &ConnectionHandle) -> EndReason {
    let Some(reason) = draining else { return std::future::pending().await };
    handle.no_channels().await;
    reason.clone()
}
