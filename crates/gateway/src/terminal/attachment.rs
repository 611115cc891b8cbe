//! A front door's hold on a terminal.

use std::sync::Arc;

use bytes::Bytes;
use sandgate_guest::WindowSize;
use sandgate_policy::Principal;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};

use super::clients::Client;
use super::outbox::{Message, Next, Outbox};
use super::task::Command;
use super::{Grant, Mode, Target, TerminalError};
use crate::expiry::expired;
use crate::session::{ConnectionGuard, EndReason, Peer};

/// Messages of a client that may wait for the process to read them. One is at most 64 KiB for the front door, so this is 1 MiB.
pub(super) const MAX_INPUT: usize = 16;

/// Somebody who has shown a ticket.
pub(super) struct Newcomer {
    pub(super) grant: Grant,
    pub(super) registered: ConnectionGuard,
    pub(super) size: WindowSize,
    pub(super) peer: Option<Peer>,
}

/// The way to a task that clients attach to.
#[derive(Debug, Clone)]
pub(super) struct Door {
    pub(super) commands: mpsc::Sender<Command>,
    /// A client has gone, or its queue of input is full.
    pub(super) nudge: Arc<Notify>,
}

impl Door {
    /// Brings a client to the task.
    pub(super) fn admit(self, newcomer: Newcomer) -> Result<Attachment, TerminalError> {
        let Newcomer { grant: Grant { target, mode, principal }, registered, size, peer } = newcomer;
        let outbox = Arc::new(Outbox::new(mode));
        let (sender, input) = mpsc::channel(MAX_INPUT);
        let client = Client { outbox: outbox.clone(), input, mode, size, peer };
        self.commands.try_send(Command::Attach(client)).map_err(|error| match error {
            TrySendError::Full(_) => TerminalError::Busy,
            TrySendError::Closed(_) => TerminalError::NotFound,
        })?;
        Ok(Attachment { target, mode, principal, registered, outbox, input: Some(sender), door: self })
    }
}

/// One client at a terminal. Dropping it detaches the client; the shell lives on for the grace time.
pub struct Attachment {
    target: Target,
    mode: Mode,
    principal: Principal,
    registered: ConnectionGuard,
    outbox: Arc<Outbox>,
    /// Only for its end, in the hands of a watcher.
    input: Option<mpsc::Sender<Bytes>>,
    door: Door,
}

impl Attachment {
    /// The terminal's identifier; `None` where a session is watched that has none.
    pub fn terminal(&self) -> Option<&str> {
        match &self.target {
            Target::Terminal(id) => Some(id),
            Target::Session(_) => None,
        }
    }

    /// What the client may do.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The next thing to tell the client; `None` after the last. May be dropped and called again.
    pub async fn next(&self) -> Option<Message> {
        loop {
            match self.outbox.take() {
                Next::Message(message) => return Some(message),
                Next::Closed => return None,
                Next::Nothing => {}
                // Has it ended meanwhile, the queue is closed too.
                Next::WantsScreen => drop(self.door.commands.send(Command::Redraw).await),
            }
            self.outbox.more().await;
        }
    }

    /// Types something; waits while the process does not read. Nothing happens for a watcher, or when the shell has ended.
    pub async fn input(&self, bytes: Bytes) {
        if let Some(input) = self.input.as_ref().filter(|_| self.mode == Mode::Write) {
            // Ended, or taken over: the client is told by the queue.
            if let Err(TrySendError::Full(bytes)) = input.try_send(bytes) {
                // What it acknowledges is behind this now, and the task has to know.
                self.door.nudge.notify_one();
                let _ = input.send(bytes).await;
            }
        }
    }

    /// The client has another size. Nothing happens for a watcher.
    pub async fn resize(&self, size: WindowSize) {
        if self.mode == Mode::Write {
            let _ = self.door.commands.send(Command::Resize(self.outbox.clone(), size)).await;
        }
    }

    /// The client has taken so many bytes of output more.
    pub fn acknowledge(&self, bytes: usize) {
        self.outbox.acknowledge(bytes);
    }

    /// Resolves when the right by which this client is here ends.
    pub async fn ended(&self) -> EndReason {
        let mut ended = self.registered.end_signal();
        tokio::select! {
            reason = ended.ended() => reason,
            reason = expired(&self.principal) => reason,
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.input = None;
        self.door.nudge.notify_one();
    }
}
