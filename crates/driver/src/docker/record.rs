//! What is known of a sandbox: what we have written down, and what the engine says of its container now. The engine is right.

use std::time::{Duration, SystemTime};

use bollard::models::{ContainerState, ContainerStateStatusEnum};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::engine::plain;
use crate::state::Phase;
use crate::{State, StopCause};

/// The clocks of engine and gateway are the same; what is written down is so a little later than it happened.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// container.json: which container it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Made {
    /// The engine's own identifier. A name could be given to another container.
    pub(super) container: String,
    pub(super) origin: Origin,
    /// The user of the image, or of the adopted container.
    #[serde(default)]
    pub(super) user: Option<String>,
    /// What the engine could not give.
    #[serde(default)]
    pub(super) warnings: Vec<String>,
}

/// Whose container it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Origin {
    /// Ours: it goes with the sandbox.
    Made,
    /// Somebody else's: it stays.
    Adopted,
}

/// What the container is doing. `written` is what we have last done to it.
pub(super) fn state(made: &Made, written: Phase, seen: &ContainerState) -> State {
    let is = |flag: Option<bool>| flag == Some(true);
    if is(seen.paused) {
        return ended("its container is paused".to_owned(), SystemTime::now());
    }
    if is(seen.restarting) {
        return State::Starting;
    }
    if is(seen.running) {
        return State::Running {
            pid: seen.pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default(),
            started_at: date(seen.started_at.as_deref()).unwrap_or_else(SystemTime::now),
            accel: None,
            start: None,
            warnings: made.warnings.clone(),
        };
    }
    let finished = date(seen.finished_at.as_deref());
    if let Phase::Stopped { cause, at } = written
        && finished.is_none_or(|finished| finished <= at + AFTERWARDS)
    {
        return State::Stopped { cause, at };
    }
    if seen.status == Some(ContainerStateStatusEnum::CREATED) {
        return State::Created;
    }
    ended(why(seen), finished.unwrap_or_else(SystemTime::now))
}

/// An end that we have not brought about.
pub(super) fn ended(reason: String, at: SystemTime) -> State {
    State::Stopped { cause: StopCause::Ended { reason }, at }
}

fn why(seen: &ContainerState) -> String {
    let code = seen.exit_code.unwrap_or_default();
    let mut text = format!("its container ended with exit code {code}");
    if seen.oom_killed == Some(true) {
        text = format!("its container ran out of memory and ended with exit code {code}");
    } else if (129..=192).contains(&code) {
        text = format!("{text}, as after signal {}", code - 128);
    }
    match seen.error.as_deref().map(plain) {
        Some(error) if !error.is_empty() => format!("{text}: {error}"),
        _ => text,
    }
}

/// An engine's date. The year 1 stands for never.
fn date(text: Option<&str>) -> Option<SystemTime> {
    let date = OffsetDateTime::parse(text?, &Rfc3339).ok()?;
    (date.year() > 1).then(|| date.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> Made {
        Made { container: "c".into(), origin: Origin::Made, user: None, warnings: Vec::new() }
    }

    fn exited(code: i64, oom: bool) -> ContainerState {
        ContainerState {
            status: Some(ContainerStateStatusEnum::EXITED),
            exit_code: Some(code),
            oom_killed: Some(oom),
            finished_at: Some("2026-01-02T03:04:05.678Z".into()),
            ..ContainerState::default()
        }
    }

    #[test]
    fn the_engine_is_right() {
        let running = ContainerState {
            running: Some(true),
            pid: Some(7),
            started_at: Some("2026-01-02T03:04:05Z".into()),
            ..ContainerState::default()
        };
        let stopped = Phase::Stopped { cause: StopCause::Requested, at: SystemTime::now() };
        assert!(matches!(state(&made(), stopped, &running), State::Running { pid: 7, .. }));
        let paused = ContainerState { paused: Some(true), ..running };
        assert!(matches!(state(&made(), Phase::Created, &paused), State::Stopped { .. }));
        let never = ContainerState {
            status: Some(ContainerStateStatusEnum::CREATED),
            finished_at: Some("0001-01-01T00:00:00Z".into()),
            ..ContainerState::default()
        };
        assert_eq!(state(&made(), Phase::Created, &never), State::Created);
    }

    #[test]
    fn an_end_has_a_reason() {
        let text = |written, seen| match state(&made(), written, &seen) {
            State::Stopped { cause, .. } => cause.to_string(),
            other => panic!("{other:?}"),
        };
        let running = || Phase::Running { started_at: SystemTime::UNIX_EPOCH };
        assert_eq!(text(running(), exited(3, false)), "its container ended with exit code 3");
        assert!(text(running(), exited(137, false)).contains("signal 9"));
        assert!(text(running(), exited(137, true)).contains("out of memory"));
        let ours = |at| Phase::Stopped { cause: StopCause::Requested, at };
        assert_eq!(text(ours(SystemTime::now()), exited(0, false)), "stopped on request");
        // Somebody has started it since, and it has ended again.
        assert!(text(ours(SystemTime::UNIX_EPOCH), exited(1, false)).contains("exit code 1"));
    }
}
