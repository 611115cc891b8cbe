//! Sessions that no page writes to, watched by pages: those of SSH and of the command line that have a terminal.
//!
//! Nothing is kept of such a session's screen while nobody looks. The picture begins, empty and of the terminal's size, with the first who
//! watches, who is told since when it is one, and goes with the last. The process and its own client notice nothing: what they say to each
//! other is copied ([`Tee`]), and a task of the watchers' own brings it to the picture and to them, by the same queues as at a
//! page's terminal. Who lags gets the picture anew; so do all of them when the picture itself lags.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sandgate_guest::WindowSize;
use sandgate_policy::Credential;
use time::OffsetDateTime;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::attachment::{Attachment, Door, Newcomer};
use super::clients::{Clients, Shown};
use super::outbox::Message;
use super::screen::Screen;
use super::task::Command;
use super::tickets::Tickets;
use super::turn::{REST, SLICE, SLOW, at, cpu, show};
use super::{MAX_COMMANDS, Mode, Target, TerminalError};
use crate::session::{Event, Follower, Outcome, Registry, Tee};

/// Most sessions that are watched at once. Each costs a few megabytes for its picture and one for what has not come to it yet.
pub const MAX_WATCHED: usize = 64;
/// Of them, those whose watching began with one credential: nobody who may only look on keeps all others from it.
pub const MAX_WATCHED_BY_ONE: usize = MAX_WATCHED / 2;
/// The size of a picture where the terminal's own client has said none, as without a terminal of its own.
const UNSAID: (u32, u32) = (80, 24);
/// Ends whatever sequence was begun before output that was missed.
const CANCEL: &[u8] = b"\x18";

/// The sessions that are watched, and the tickets for them.
#[derive(Debug, Default)]
pub(super) struct Watched {
    pub(super) tickets: Tickets,
    /// By the session's identifier; at most [`MAX_WATCHED`].
    all: Mutex<HashMap<String, Picture>>,
}

/// A session that is watched.
#[derive(Debug)]
struct Picture {
    door: Door,
    /// With whom it began.
    by: Credential,
}

impl Watched {
    /// Attaches a watcher to the session that the ticket names. With the first one its picture begins.
    pub(super) fn admit(
        self: &Arc<Self>,
        registry: &Registry,
        newcomer: Newcomer,
    ) -> Result<Attachment, TerminalError> {
        let Target::Session(session) = newcomer.grant.target.clone() else {
            return Err(TerminalError::NotFound);
        };
        if newcomer.grant.mode != Mode::Watch {
            return Err(TerminalError::OnlyWatched);
        }
        let credential = newcomer.grant.principal.credential.clone();
        // Held to the end, so that a task which ends for want of watchers does not end beside one who comes.
        let mut all = self.all.lock();
        // Those whose task broke off.
        all.retain(|_, picture| !picture.door.commands.is_closed());
        let attachment = match all.get(&session) {
            Some(picture) => picture.door.clone().admit(newcomer)?,
            None => {
                let tee = registry.tee(&session).ok_or(TerminalError::NoSession)?;
                if all.len() >= MAX_WATCHED {
                    return Err(TerminalError::TooManyWatched);
                }
                if all.values().filter(|picture| picture.by == credential).count() >= MAX_WATCHED_BY_ONE {
                    return Err(TerminalError::TooManyWatchedByOne);
                }
                let (door, task) = self.begin(&session, &tee)?;
                let attachment = door.clone().admit(newcomer)?;
                all.insert(session.clone(), Picture { door, by: credential.clone() });
                tokio::spawn(task.run());
                attachment
            }
        };
        tracing::info!(session, %credential, "watched");
        Ok(attachment)
    }

    /// The task for a session that nobody watches yet.
    fn begin(self: &Arc<Self>, session: &str, tee: &Tee) -> Result<(Door, Task), TerminalError> {
        let follower = tee.follow().ok_or(TerminalError::NoSession)?;
        let mut clients = Clients::default();
        clients.resize(window(follower.size()), None);
        let WindowSize { cols, rows, .. } = clients.size;
        let screen = Screen::new(cols, rows).ok_or(TerminalError::NoScreen)?;
        let since = Some(OffsetDateTime::now_utc());
        let (sender, commands) = mpsc::channel(MAX_COMMANDS);
        let door = Door { commands: sender, nudge: Arc::default() };
        let task = Task {
            watched: self.clone(),
            follower: Some(follower),
            commands,
            nudge: door.nudge.clone(),
            clients,
            shown: Shown { session: session.to_owned(), screen, since },
            spent: Duration::ZERO,
        };
        Ok((door, task))
    }
}

/// What a terminal of this size is shown as.
fn window((cols, rows): (u32, u32)) -> WindowSize {
    let said = |size, otherwise| if size == 0 { otherwise } else { size };
    WindowSize { cols: said(cols, UNSAID.0), rows: said(rows, UNSAID.1), xpixel: 0, ypixel: 0 }
}

/// What shows one session to those who watch it.
struct Task {
    watched: Arc<Watched>,
    /// `None` once the task has let go of the session.
    follower: Option<Follower>,
    commands: mpsc::Receiver<Command>,
    nudge: Arc<Notify>,
    /// None of them writes.
    clients: Clients,
    shown: Shown,
    /// Time of a processor since the last pause.
    spent: Duration,
}

/// What the loop has to look at next.
enum Step {
    Command(Option<Command>),
    Event(Event),
    /// Somebody may have gone, or a pause is over.
    Look,
}

impl Task {
    /// Shows the session until it ends or nobody watches it.
    async fn run(mut self) {
        let mut pause = None;
        loop {
            self.clients.forget_the_gone();
            if self.clients.watchers() == 0 {
                match self.last_call() {
                    Some(late) => self.obey(late),
                    None => return,
                }
                continue;
            }
            match self.step(pause).await {
                Step::Command(Some(command)) => self.obey(command),
                Step::Command(None) => return,
                Step::Event(Event::Ended(outcome)) => return self.finish(outcome),
                Step::Event(event) => {
                    self.take(event).await;
                    pause = self.tired();
                    continue;
                }
                Step::Look => {}
            }
            // A command does not end a pause that has not passed.
            pause = pause.filter(|until| *until > Instant::now());
        }
    }

    async fn step(&mut self, pause: Option<Instant>) -> Step {
        let Task { follower, commands, nudge, .. } = self;
        let event = async {
            match follower {
                Some(follower) if pause.is_none() => follower.next().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            command = commands.recv() => Step::Command(command),
            event = event => Step::Event(event),
            () = nudge.notified() => Step::Look,
            () = at(pause) => Step::Look,
        }
    }

    async fn take(&mut self, event: Event) {
        match event {
            Event::Output(data) => {
                self.spent += show(&mut self.shown.screen, &data).await;
                self.clients.output(&data);
            }
            Event::Resized(size) => {
                let began = cpu();
                self.clients.resize(window(size), Some(&mut self.shown));
                self.spent += cpu().saturating_sub(began);
            }
            Event::Missed => {
                self.spent += show(&mut self.shown.screen, CANCEL).await;
                self.clients.miss();
            }
            // The caller's.
            Event::Ended(_) => {}
        }
    }

    /// Until when nothing is taken from the session, if the picture has cost too much: a session that floods while it is watched costs half of a
    /// processor at most, one whose output is dear to show a fifth. It does not wait for that; its watchers miss some.
    fn tired(&mut self) -> Option<Instant> {
        if self.spent < SLICE {
            return None;
        }
        let spent = std::mem::take(&mut self.spent);
        Some(Instant::now() + if spent > SLOW { spent * REST } else { spent })
    }

    fn obey(&mut self, command: Command) {
        let began = cpu();
        match command {
            Command::Attach(client) => self.clients.attach(client, Some(&mut self.shown)),
            Command::Redraw => self.clients.redraw(&self.shown),
            // Nobody writes here, and the session is ended where it is registered.
            Command::Resize(..) | Command::End(_) => {}
        }
        self.spent += cpu().saturating_sub(began);
    }

    /// Lets go of the session, unless somebody has come meanwhile.
    fn last_call(&mut self) -> Option<Command> {
        let mut all = self.watched.all.lock();
        let late = self.commands.try_recv().ok();
        if late.is_none() {
            // Before the place is free: whoever comes next follows anew.
            self.follower = None;
            all.remove(&self.shown.session);
        }
        late
    }

    /// Tells everybody how the session ended.
    fn finish(mut self, outcome: Outcome) {
        // Who comes from now on is told that there is no such session.
        self.watched.all.lock().remove(&self.shown.session);
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command);
        }
        let last = match outcome {
            Outcome::Exited(status) => Message::Exit(status),
            Outcome::LinkLost => Message::Ended("The session ended: its sandbox was lost.".to_owned()),
            Outcome::Ended(text) => Message::Ended(text),
        };
        self.clients.say_last(&last, Some(&self.shown));
    }
}
