//! Terminals that outlive their clients: what pages in browsers attach to; and those of other sessions, which they may watch.
//!
//! A terminal is a shell of the session core, started as SSH starts one, with a picture of its screen beside it. A client attaches with a
//! [`Ticket`], writes or watches, and may go and come back: it is shown the screen as it is then. A shell without a writer is hung up after the
//! grace time, as that of a lost SSH client is at once.
//!
//! Front doors bring a client's messages to an [`Attachment`] and take from it what the client is told. Each terminal is one task.

mod attachment;
mod clients;
mod decode;
mod modes;
mod outbox;
mod process;
mod screen;
mod task;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tickets;
mod trim;
mod turn;
mod watch;
#[cfg(test)]
mod watch_tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use sandgate_guest::WindowSize;
use sandgate_policy::{NoRandomness, Principal};
use time::OffsetDateTime;
use tokio::sync::{Notify, mpsc};

use crate::drain::Drain;
use crate::expiry::expired;
use crate::gateway::Gateway;
use crate::session::{ConnectionGuard, EndReason, Peer, Registry, SessionInfo};
use attachment::{Door, Newcomer};
use clients::{Clients, Shown};
use process::{Shell, Start};
use task::{Command, Task};
use tickets::Tickets;
use watch::Watched;

pub use attachment::Attachment;
pub use clients::MAX_WATCHERS;
pub use outbox::{Message, WINDOW};
pub use tickets::{Grant, LIFE as TICKET_LIFE, Target, Ticket};
pub use watch::{MAX_WATCHED, MAX_WATCHED_BY_ONE};

/// Most terminals at once. Each may hold a shell in a sandbox and some megabytes here.
const MAX_TERMINALS: usize = 1024;
/// Commands that wait for a terminal's task, which never waits itself.
const MAX_COMMANDS: usize = 64;

/// What a client does at a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Types and sets the size. One at a time.
    Write,
    /// Looks on.
    Watch,
}

/// A terminal, as lists show it.
#[derive(Debug, Clone)]
pub struct TerminalInfo {
    /// Identifier.
    pub id: String,
    /// Name of the sandbox.
    pub sandbox: String,
    /// The session's identifier, once the shell has been started.
    pub session: Option<String>,
    /// Whether somebody writes.
    pub attached: bool,
    /// How many watch.
    pub watchers: usize,
    /// Columns.
    pub cols: u32,
    /// Rows.
    pub rows: u32,
    /// When it was made.
    pub started_at: OffsetDateTime,
}

/// Why there is no terminal, or no way to it.
#[derive(Debug, thiserror::Error)]
pub enum TerminalError {
    /// All places are taken.
    #[error("there are {MAX_TERMINALS} terminals already, the most that this gateway keeps")]
    TooMany,
    /// The gateway ends.
    #[error("The gateway is shutting down.")]
    Draining,
    /// Access was taken back meanwhile.
    #[error("{0}")]
    Ended(String),
    /// Its task has not caught up with what it was asked.
    #[error("the terminal is busy; try again")]
    Busy,
    /// No such terminal, or it has ended.
    #[error("there is no such terminal; it may have ended")]
    NotFound,
    /// No such session, or it has ended.
    #[error("there is no live session with that id; `sandgate session ls` lists them")]
    NoSession,
    /// The session has pipes.
    #[error("this session has no terminal, so there is nothing to watch")]
    NoScreen,
    /// Its own client alone writes to it.
    #[error("this session can be watched and nothing else: it is no terminal of a browser")]
    OnlyWatched,
    /// All places of those that are watched are taken.
    #[error("{MAX_WATCHED} sessions are watched already, the most that this gateway shows at once")]
    TooManyWatched,
    /// All places of one credential are taken.
    #[error("{MAX_WATCHED_BY_ONE} sessions are watched with this login or key already, the most for one")]
    TooManyWatchedByOne,
    /// The ticket is unknown, used, or too old.
    #[error("this ticket is unknown, was used, or is too old")]
    Ticket,
    /// No ticket could be made.
    #[error(transparent)]
    NoTicket(#[from] NoRandomness),
}

/// What a new terminal is to be.
#[derive(Debug, Clone)]
pub struct NewTerminal {
    /// Whose it is.
    pub principal: Principal,
    /// Its size until the first client says its own.
    pub size: WindowSize,
    /// User inside the sandbox; `None` for the principal's or the sandbox's own.
    pub user: Option<Vec<u8>>,
}

/// All terminals, and the tickets for them.
#[derive(Debug, Default)]
pub struct Terminals {
    /// Bounded by [`MAX_TERMINALS`].
    all: Mutex<BTreeMap<String, Terminal>>,
    tickets: Tickets,
    /// Sessions that no page writes to.
    watched: Arc<Watched>,
}

/// The register's side of a terminal.
#[derive(Debug)]
struct Terminal {
    shared: Arc<Shared>,
    door: Door,
}

/// What a terminal's task lets others see.
#[derive(Debug)]
struct Shared(Mutex<TerminalInfo>);

impl Shared {
    fn publish(&self, clients: &Clients, shown: Option<&Shown>) {
        let mut info = self.0.lock();
        info.attached = clients.writer.is_some();
        info.watchers = clients.watchers();
        (info.cols, info.rows) = (clients.size.cols, clients.size.rows);
        if info.session.is_none() {
            info.session = shown.map(|shown| shown.session.clone());
        }
    }
}

impl Terminals {
    /// Makes a terminal and a ticket for its first client. The shell starts when the ticket is used; when it is not in time, the terminal
    /// goes.
    ///
    /// # Errors
    /// See [`TerminalError`].
    pub fn create(
        self: &Arc<Self>,
        gateway: &Arc<Gateway>,
        new: NewTerminal,
    ) -> Result<(String, Ticket), TerminalError> {
        let NewTerminal { principal, size, user } = new;
        let registered = gateway.registry.connect(principal.clone());
        // Asked after it is in the register, so that a revocation in between is not missed.
        if let Some(reason) = gateway.access.revoked_meanwhile(&principal) {
            return Err(TerminalError::Ended(reason.text().to_owned()));
        }
        let setup = Setup {
            principal: principal.clone(),
            registered,
            size,
            drain: gateway.drainer.watch(),
            grace: gateway.config.terminal.grace,
        };
        let id = self.open(Shell { gateway: gateway.clone(), principal: principal.clone(), user }, setup)?;
        match self.ticket(Grant { target: Target::Terminal(id.clone()), mode: Mode::Write, principal }) {
            Ok(ticket) => Ok((id, ticket)),
            Err(error) => {
                self.withdraw(&id);
                Err(error)
            }
        }
    }

    /// Takes back a terminal that nobody was told of: without the way to it, its task ends.
    fn withdraw(&self, id: &str) {
        self.all.lock().remove(id);
    }

    fn open(self: &Arc<Self>, start: impl Start + 'static, setup: Setup) -> Result<String, TerminalError> {
        let Setup { principal, registered, size, drain, grace } = setup;
        if !drain.is_running() {
            return Err(TerminalError::Draining);
        }
        let id = crate::ids::random_id("trm");
        let mut clients = Clients::default();
        clients.resize(size, None);
        let shared = Arc::new(Shared(Mutex::new(TerminalInfo {
            id: id.clone(),
            sandbox: principal.sandbox_name.clone(),
            session: None,
            attached: false,
            watchers: 0,
            cols: clients.size.cols,
            rows: clients.size.rows,
            started_at: OffsetDateTime::now_utc(),
        })));
        let (sender, commands) = mpsc::channel(MAX_COMMANDS);
        let nudge = Arc::new(Notify::new());
        let door = Door { commands: sender, nudge: nudge.clone() };
        let entry = Terminal { shared: shared.clone(), door };
        let listed = {
            let mut all = self.all.lock();
            if all.len() >= MAX_TERMINALS {
                return Err(TerminalError::TooMany);
            }
            all.insert(id.clone(), entry);
            Listed { terminals: self.clone(), id: id.clone() }
        };
        let task = Task {
            start,
            shared,
            commands,
            nudge,
            end: Box::pin(async move {
                let mut ended = registered.end_signal();
                tokio::select! {
                    reason = ended.ended() => reason,
                    reason = expired(&principal) => reason,
                }
            }),
            drain,
            grace,
            first: TICKET_LIFE,
            clients,
            shown: None,
            deadline: None,
            draining: None,
        };
        tokio::spawn(async move {
            let _listed = listed;
            task.run().await;
        });
        Ok(id)
    }

    /// A ticket for a terminal that is there, or for a session that the caller has looked for ([`Self::watchable`]).
    ///
    /// # Errors
    /// See [`TerminalError`].
    pub fn ticket(&self, grant: Grant) -> Result<Ticket, TerminalError> {
        let tickets = match &grant.target {
            Target::Terminal(id) if !self.all.lock().contains_key(id) => return Err(TerminalError::NotFound),
            Target::Terminal(_) => &self.tickets,
            Target::Session(_) if grant.mode == Mode::Write => return Err(TerminalError::OnlyWatched),
            Target::Session(_) => &self.watched.tickets,
        };
        Ok(tickets.issue(grant, Instant::now())?)
    }

    /// Where whoever wants to see a live session is to go: to the terminal that it is of, which has its whole screen, or to the session itself.
    ///
    /// # Errors
    /// See [`TerminalError`].
    pub fn watchable(&self, session: &SessionInfo) -> Result<Target, TerminalError> {
        if !session.pty {
            return Err(TerminalError::NoScreen);
        }
        let is_of = |info: &TerminalInfo| info.session.as_deref() == Some(session.id.as_str());
        let terminal = self.list().into_iter().find(is_of);
        Ok(terminal.map_or_else(|| Target::Session(session.id.clone()), |info| Target::Terminal(info.id)))
    }

    /// Attaches the holder of a ticket, which is used up by it.
    ///
    /// # Errors
    /// See [`TerminalError`].
    pub fn attach(
        &self,
        gateway: &Gateway,
        ticket: &str,
        size: WindowSize,
        peer: Option<Peer>,
    ) -> Result<Attachment, TerminalError> {
        let now = Instant::now();
        let grant = self.tickets.take(ticket, now).or_else(|| self.watched.tickets.take(ticket, now));
        let grant = grant.ok_or(TerminalError::Ticket)?;
        let registered = gateway.registry.connect(grant.principal.clone());
        if let Some(reason) = gateway.access.revoked_meanwhile(&grant.principal) {
            return Err(TerminalError::Ended(reason.text().to_owned()));
        }
        self.admit(&gateway.registry, Newcomer { grant, registered, size, peer })
    }

    fn admit(&self, registry: &Registry, newcomer: Newcomer) -> Result<Attachment, TerminalError> {
        let door = match &newcomer.grant.target {
            Target::Session(_) => return self.watched.admit(registry, newcomer),
            Target::Terminal(id) => self
                .all
                .lock()
                .get(id)
                .map(|terminal| terminal.door.clone())
                .ok_or(TerminalError::NotFound)?,
        };
        door.admit(newcomer)
    }

    /// All terminals, in the order of their identifiers.
    pub fn list(&self) -> Vec<TerminalInfo> {
        self.all.lock().values().map(|terminal| terminal.shared.0.lock().clone()).collect()
    }

    /// One terminal.
    pub fn get(&self, id: &str) -> Option<TerminalInfo> {
        self.all.lock().get(id).map(|terminal| terminal.shared.0.lock().clone())
    }

    /// Ends a terminal with its shell; `false` when there is none of that identifier.
    pub fn end(&self, id: &str, reason: EndReason) -> impl Future<Output = bool> + Send + use<> {
        let commands = self.all.lock().get(id).map(|terminal| terminal.door.commands.clone());
        async move {
            match commands {
                Some(commands) => commands.send(Command::End(reason)).await.is_ok(),
                None => false,
            }
        }
    }
}

/// What a terminal's task is made with.
struct Setup {
    principal: Principal,
    registered: ConnectionGuard,
    size: WindowSize,
    drain: Drain,
    grace: std::time::Duration,
}

/// Takes the terminal off the register when its task ends, however that is.
struct Listed {
    terminals: Arc<Terminals>,
    id: String,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.terminals.all.lock().remove(&self.id);
        self.terminals.tickets.forget(&Target::Terminal(std::mem::take(&mut self.id)));
    }
}
