//! What a shim tells the driver that started it: one JSON object a line on its standard output.

use std::io::Write;

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Message {
    /// A step has begun.
    Step(String),
    /// Something this machine cannot give.
    Warn(String),
    /// It did not work; nothing follows.
    Failed {
        /// What it was about.
        kind: FailureKind,
        /// Why, without a final full stop.
        reason: String,
    },
    /// It worked; nothing follows.
    Done,
}

/// Which error a failure becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FailureKind {
    Image,
    Machine,
    Runtime,
    /// The kernel that the sandbox was to have.
    Kernel,
    Other,
}

/// A reason why the shim cannot go on.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) reason: String,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into() }
    }

    pub(crate) fn image(reason: impl Into<String>) -> Self {
        Self::new(FailureKind::Image, reason)
    }

    pub(crate) fn machine(reason: impl Into<String>) -> Self {
        Self::new(FailureKind::Machine, reason)
    }

    pub(crate) fn runtime(reason: impl Into<String>) -> Self {
        Self::new(FailureKind::Runtime, reason)
    }

    pub(crate) fn other(reason: impl Into<String>) -> Self {
        Self::new(FailureKind::Other, reason)
    }

    /// For `map_err`: an I/O error with what was being done.
    pub(crate) fn io<E: std::fmt::Display>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |error| Self::other(format!("cannot {action}: {error}"))
    }
}

/// Sends messages to the driver and remembers the warnings.
#[derive(Debug, Default)]
pub(crate) struct Report {
    warnings: Vec<String>,
}

impl Report {
    pub(crate) fn step(&mut self, text: impl Into<String>) {
        send(&Message::Step(text.into()));
    }

    pub(crate) fn warn(&mut self, text: impl Into<String>) {
        let text = text.into();
        send(&Message::Warn(text.clone()));
        eprintln!("warning: {text}");
        self.warnings.push(text);
    }

    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub(crate) fn failed(&mut self, failure: &Failure) {
        eprintln!("failed: {}", failure.reason);
        send(&Message::Failed { kind: failure.kind, reason: failure.reason.clone() });
    }

    pub(crate) fn done(&mut self) {
        send(&Message::Done);
    }
}

fn send(message: &Message) {
    let Ok(mut line) = serde_json::to_string(message) else { return };
    line.push('\n');
    // A driver that has gone away is no reason to stop: the sandbox outlives it.
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}
