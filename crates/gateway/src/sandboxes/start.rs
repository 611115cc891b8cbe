//! Starting a sandbox once for everybody who waits for it.
//!
//! The start runs in a task of its own and goes on when the first caller goes away. Its progress is kept, so that a
//! caller who comes late sees the same lines.

use std::collections::HashMap;
use std::sync::Arc;

use sandgate_driver::{DriverError, Progress};
use tokio::sync::watch;

use super::{Known, LogProgress, Shared};

/// Progress lines kept for one start; what comes after is only logged.
const MAX_LINES: usize = 64;

/// Starts that are going on, by identifier. At most one per sandbox.
#[derive(Default)]
pub(super) struct Starts(HashMap<String, watch::Receiver<Start>>);

/// How far a start has got.
#[derive(Debug, Clone, Default)]
struct Start {
    lines: Vec<Line>,
    result: Option<Result<(), StartError>>,
}

#[derive(Debug, Clone)]
enum Line {
    Step(String),
    Warn(String),
}

/// Why a sandbox does not run. The message is for the user.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

impl StartError {
    pub(super) fn gone() -> StartError {
        StartError("The sandbox no longer exists.".to_owned())
    }
}

impl From<DriverError> for StartError {
    fn from(error: DriverError) -> StartError {
        StartError(error.to_string())
    }
}

/// Waits for the start that is going on, or begins one.
pub(super) async fn join_or_begin(
    shared: &Arc<Shared>,
    known: &Known,
    progress: &dyn Progress,
) -> Result<(), StartError> {
    let id = known.spec.id.to_string();
    let mut start = {
        let mut starts = shared.starts.lock();
        match starts.0.get(&id) {
            Some(start) => start.clone(),
            None => {
                let (sender, receiver) = watch::channel(Start::default());
                starts.0.insert(id, receiver.clone());
                tokio::spawn(run(shared.clone(), known.clone(), sender));
                receiver
            }
        }
    };
    let mut told = 0;
    loop {
        let state = start.borrow_and_update().clone();
        for line in state.lines.iter().skip(told) {
            match line {
                Line::Step(text) => progress.step(text),
                Line::Warn(text) => progress.warn(text),
            }
        }
        told = state.lines.len();
        if let Some(result) = state.result {
            return result;
        }
        if start.changed().await.is_err() {
            // The task has ended without a result, which only a panic in a driver can bring about.
            return Err(StartError(format!("Sandbox {} could not be started.", known.spec.name)));
        }
    }
}

async fn run(shared: Arc<Shared>, known: Known, sender: watch::Sender<Start>) {
    // Also when the driver panics: the next caller must be able to try again.
    let entry = Entry { shared: &shared, id: known.spec.id.to_string() };
    let progress = Shown { sender: &sender, log: LogProgress(known.spec.name.clone()) };
    let result = known.driver.start(&known.spec.id, &progress).await;
    let result = result.map_err(|error| {
        tracing::warn!(sandbox = known.spec.name, %error, "could not be started");
        StartError(format!("Sandbox {} could not be started. {error}", known.spec.name))
    });
    if result.is_ok() {
        tracing::info!(sandbox = known.spec.name, "started");
    }
    drop(entry);
    sender.send_modify(|start| start.result = Some(result));
}

/// Takes the start off the list when it ends in whatever way.
struct Entry<'a> {
    shared: &'a Shared,
    id: String,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.shared.starts.lock().0.remove(&self.id);
    }
}

struct Shown<'a> {
    sender: &'a watch::Sender<Start>,
    log: LogProgress,
}

impl Shown<'_> {
    fn show(&self, line: Line) {
        self.sender.send_modify(|start| {
            if start.lines.len() < MAX_LINES {
                start.lines.push(line);
            }
        });
    }
}

impl Progress for Shown<'_> {
    fn step(&self, text: &str) {
        self.log.step(text);
        self.show(Line::Step(text.to_owned()));
    }

    fn warn(&self, text: &str) {
        self.log.warn(text);
        self.show(Line::Warn(text.to_owned()));
    }
}
