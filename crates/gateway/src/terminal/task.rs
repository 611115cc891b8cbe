//! The task of one terminal: it owns the shell, the picture of its screen and the clients' queues, from the first client to the last.
//!
//! It never waits for a client. Output is read from the process only as far as the writer has room for it, so a client that stops reading stops
//! the process, as a full pipe would; with no writer it is read into the screen alone.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use sandgate_guest::Ready;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::clients::{Client, Clients, Shown};
use super::process::{Process, Start};
use super::screen::Screen;
use super::turn::{Lines, Moved, REST, SLOW, at, drained, follow, moved, settle, show};
use super::{Mode, Shared};
use crate::drain::{Drain, DrainStage};
use crate::session::{EndReason, Outcome, Peer};
use crate::terminal::outbox::Message;

/// Read from the process at once, in bytes.
const PIECE: usize = 32 * 1024;
/// What a shell without a writer may write before it waits for [`PAUSE`]: 12 MiB/s at most, so that a program which floods costs little
/// while nobody looks.
const BURST: usize = 256 * 1024;
/// See [`BURST`].
const PAUSE: Duration = Duration::from_millis(20);
/// Lines of progress on their way within the task.
const MAX_PROGRESS: usize = 16;

/// What is asked of the task.
#[derive(Debug)]
pub(super) enum Command {
    /// Somebody comes.
    Attach(Client),
    /// The writer behind this queue has another size.
    Resize(Arc<super::outbox::Outbox>, sandgate_guest::WindowSize),
    /// A watcher has taken all and wants the screen.
    Redraw,
    /// The shell is to be ended.
    End(EndReason),
}

/// How the shell came to its end.
#[derive(Debug)]
enum End {
    /// With something that the clients are told.
    Told(Message),
    /// Nobody came back in time.
    Abandoned,
}

/// A terminal as its task sees it.
pub(super) struct Task<S> {
    pub(super) start: S,
    pub(super) shared: Arc<Shared>,
    pub(super) commands: mpsc::Receiver<Command>,
    /// A client has gone, or its queue of input is full.
    pub(super) nudge: Arc<Notify>,
    /// Resolves when the principal's right ends. Not asked again then.
    pub(super) end: Pin<Box<dyn Future<Output = EndReason> + Send>>,
    pub(super) drain: Drain,
    /// How long a shell waits for somebody to come back.
    pub(super) grace: Duration,
    /// How long the first client may take to come.
    pub(super) first: Duration,
    pub(super) clients: Clients,
    pub(super) shown: Option<Shown>,
    /// When a shell without a writer ends.
    pub(super) deadline: Option<Instant>,
    pub(super) draining: Option<EndReason>,
}

/// What the loop has to look at next.
enum Step {
    Command(Option<Command>),
    Ended(EndReason),
    Drain(DrainStage),
    /// What the writer types; `None` when it has gone.
    Typed(Option<Bytes>),
    Process(Moved),
    Look,
    TooLate,
}

impl<S: Start> Task<S> {
    /// Runs the terminal to its end.
    pub(super) async fn run(mut self) {
        let Some(peer) = self.wait_for_the_first().await else { return };
        let end = match self.begin(peer).await {
            Err(end) => end,
            Ok(mut process) => {
                let end = self.serve(&mut process).await;
                match &end {
                    End::Told(Message::Exit(status)) => process.finish(Outcome::Exited(status.clone())),
                    End::Told(_) => process.hangup(),
                    End::Abandoned => {
                        tracing::info!(session = process.id(), grace = ?self.grace, "nobody came back to a terminal");
                    }
                }
                end
            }
        };
        match end {
            End::Told(last) => self.tell(last).await,
            End::Abandoned => {
                let last = Message::Ended("Nobody came back to the terminal in time.".to_owned());
                self.clients.say_last(&last, self.shown.as_ref());
            }
        }
    }

    /// Waits for somebody who writes, and gives where they sit.
    async fn wait_for_the_first(&mut self) -> Option<Option<Peer>> {
        self.deadline = Some(Instant::now() + self.first);
        loop {
            match self.step().await {
                Step::Ended(reason) | Step::Command(Some(Command::End(reason))) => {
                    self.clients.say_last(&Message::Ended(reason.text().to_owned()), None);
                    return None;
                }
                Step::Command(Some(command)) => self.follow(command),
                Step::Command(None) | Step::TooLate => return None,
                Step::Drain(stage) => self.drained(stage),
                Step::Typed(_) | Step::Process(_) | Step::Look => {}
            }
            if let Some(writer) = &self.clients.writer {
                return Some(writer.peer);
            }
        }
    }

    /// Starts the shell while the client is told why it waits.
    async fn begin(&mut self, peer: Option<Peer>) -> Result<S::Process, End> {
        let (lines, mut waiting) = mpsc::channel(MAX_PROGRESS);
        let progress = Lines(lines);
        let size = self.clients.size;
        // Apart from `self`, so that both can be used.
        let Task {
            start,
            shared,
            commands,
            nudge,
            end,
            drain,
            clients,
            shown,
            deadline,
            draining,
            grace,
            ..
        } = self;
        let mut starting = std::pin::pin!(start.start(size, peer, &progress));
        let started = loop {
            tokio::select! {
                biased;
                started = &mut starting => break started,
                Some(line) = waiting.recv() => clients.progress(line),
                reason = &mut *end => return Err(End::Told(Message::Ended(reason.text().to_owned()))),
                command = commands.recv() => match command {
                    Some(Command::End(reason)) => {
                        return Err(End::Told(Message::Ended(reason.text().to_owned())));
                    }
                    Some(command) => follow(clients, shown, deadline, command),
                    None => return Err(End::Abandoned),
                },
                () = nudge.notified() => {}
                stage = drain.changed() => *draining = drained(stage),
                () = at(*deadline) => return Err(End::Abandoned),
            }
            settle(clients, deadline, draining.as_ref(), *grace);
            shared.publish(clients, shown.as_ref());
        };
        while let Ok(line) = waiting.try_recv() {
            clients.progress(line);
        }
        let process = started.map_err(|text| End::Told(Message::Ended(text)))?;
        let session = process.id().to_owned();
        let Some(screen) = Screen::new(clients.size.cols, clients.size.rows) else {
            return Err(End::Told(Message::Ended("The terminal has no size.".to_owned())));
        };
        if clients.size != size {
            process.resize(clients.size);
        }
        let started = shown.insert(Shown { session, screen, since: None });
        clients.started(started);
        shared.publish(clients, Some(started));
        Ok(process)
    }

    /// Moves bytes until the shell ends.
    async fn serve(&mut self, process: &mut S::Process) -> End {
        let mut killed = process.end_signal();
        let mut size = self.clients.size;
        let mut buffer = vec![0; PIECE];
        // What the process has not read of what was typed; at most one message of the client.
        let mut typed = Bytes::new();
        let (mut burst, mut pause) = (BURST, None);
        loop {
            if self.clients.size != size {
                size = self.clients.size;
                process.resize(size);
            }
            self.settle();
            if typed.is_empty() {
                typed = self.clients.left.pop_front().unwrap_or_default();
            }
            let room = match &self.clients.writer {
                _ if pause.is_some() => 0,
                Some(writer) => writer.outbox.room(!typed.is_empty() && writer.input.capacity() == 0),
                None => burst,
            };
            let step = tokio::select! {
                step = self.step_with(typed.is_empty()) => step,
                reason = killed.ended() => Step::Ended(reason),
                moved = poll_fn(|cx| moved(process, &typed, room > 0, cx)) => Step::Process(moved),
                () = at(pause) => {
                    (burst, pause) = (BURST, None);
                    Step::Look
                }
            };
            match step {
                Step::Process(Moved::Ready(Ready::Stdout | Ready::Stderr)) => {
                    let space = buffer.len().min(room);
                    match process.try_read(buffer.get_mut(..space).unwrap_or_default()) {
                        Ok(read) => {
                            let spent = self.output(buffer.get(..read).unwrap_or_default()).await;
                            if self.clients.writer.is_none() {
                                burst = burst.saturating_sub(read);
                                pause = (burst == 0).then(|| Instant::now() + PAUSE);
                            }
                            if spent > SLOW {
                                pause = Some(Instant::now() + spent * REST);
                            }
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return self.lost(process, &error.to_string()),
                    }
                }
                Step::Process(Moved::Ready(Ready::Exit(status))) => return End::Told(Message::Exit(status)),
                Step::Process(Moved::Ready(Ready::LinkLost(error))) => {
                    return self.lost(process, &error.to_string());
                }
                Step::Process(Moved::Written(Ok(taken))) => typed.advance(taken.min(typed.len())),
                // It reads no more: what is typed goes nowhere, and the process lives on.
                Step::Process(Moved::Written(Err(_))) => typed.clear(),
                Step::Typed(Some(bytes)) => typed = bytes,
                // Taken off at the next turn.
                Step::Typed(None) => {}
                Step::Ended(reason) | Step::Command(Some(Command::End(reason))) => {
                    process.finish(Outcome::Ended(reason.text().to_owned()));
                    return End::Told(Message::Ended(reason.text().to_owned()));
                }
                Step::Command(Some(command)) => self.follow(command),
                Step::Command(None) | Step::TooLate => return End::Abandoned,
                Step::Drain(stage) => self.drained(stage),
                Step::Look => self.clients.forget_the_gone(),
            }
        }
    }

    fn lost(&self, process: &mut S::Process, error: &str) -> End {
        tracing::warn!(session = process.id(), error, "link to the guest lost");
        process.finish(Outcome::LinkLost);
        End::Told(Message::Ended(format!("The session ended: {error}.")))
    }

    /// Says how it ended to those who are there, or else to the first who comes within the grace time.
    async fn tell(&mut self, last: Message) {
        let told = self.clients.writer.is_some();
        self.clients.say_last(&last, self.shown.as_ref());
        if told {
            return;
        }
        self.deadline = Some(Instant::now() + self.grace);
        loop {
            self.shared.publish(&self.clients, self.shown.as_ref());
            if self.draining.is_some() {
                return;
            }
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Attach(client)) => {
                        let writes = client.mode == Mode::Write;
                        self.clients.attach(client, self.shown.as_mut());
                        self.clients.say_last(&last, self.shown.as_ref());
                        if writes {
                            return;
                        }
                    }
                    Some(Command::Resize(..) | Command::Redraw) => {}
                    Some(Command::End(_)) | None => return,
                },
                stage = self.drain.changed() => self.drained(stage),
                () = at(self.deadline) => return,
            }
        }
    }

    /// Shows output to everybody, and says for how long the emulator has worked on it. Others get their turn meanwhile.
    async fn output(&mut self, data: &[u8]) -> Duration {
        let spent = match &mut self.shown {
            Some(shown) => show(&mut shown.screen, data).await,
            None => Duration::ZERO,
        };
        self.clients.output(data);
        spent
    }

    fn follow(&mut self, command: Command) {
        follow(&mut self.clients, &mut self.shown, &mut self.deadline, command);
    }

    fn drained(&mut self, stage: DrainStage) {
        self.draining = drained(stage);
        if self.draining.is_some() && self.clients.writer.is_none() {
            self.deadline = Some(Instant::now());
        }
    }

    fn settle(&mut self) {
        settle(&mut self.clients, &mut self.deadline, self.draining.as_ref(), self.grace);
        self.shared.publish(&self.clients, self.shown.as_ref());
    }

    async fn step(&mut self) -> Step {
        self.step_with(false).await
    }

    /// The next thing that concerns the clients; what they type only if it is `wanted`. May be dropped and called again.
    async fn step_with(&mut self, wanted: bool) -> Step {
        let Task { commands, nudge, end, drain, clients, deadline, .. } = self;
        let writer = clients.writer.as_mut();
        let (typed, room) = match writer {
            Some(Client { input, outbox, .. }) => (Some(input), Some(outbox)),
            None => (None, None),
        };
        let typed = async {
            match typed {
                Some(input) if wanted => input.recv().await,
                _ => std::future::pending().await,
            }
        };
        let more_room = async {
            match room {
                Some(outbox) => outbox.more_room().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            command = commands.recv() => Step::Command(command),
            reason = end => Step::Ended(reason),
            stage = drain.changed() => Step::Drain(stage),
            typed = typed => Step::Typed(typed),
            () = more_room => Step::Look,
            () = nudge.notified() => Step::Look,
            () = at(*deadline) => Step::TooLate,
        }
    }
}
