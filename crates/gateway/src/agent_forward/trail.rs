//! What is told of a session's forwarded agent: rows of the audit trail, lines of the log, counts.
//!
//! The programs in the sandbox decide how much happens, so each kind is bounded. No signature goes unmentioned: what is not a row of its own
//! is counted, and a row at the end of the session says how many there were.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sandgate_agent_filter::Event;
use sandgate_store::AuditRow;
use time::OffsetDateTime;

use super::AgentMetrics;
use crate::gateway::Gateway;
use crate::session::SessionInfo;

/// Rows about signatures in one session. A `git fetch` needs one or two; a session that fetches each minute fills it in days.
const MOST_SIGNATURES: u64 = 10_000;
/// Rows about everything else in one session: binds, and requests that were refused.
const MOST_OTHERS: u64 = 1_000;
/// Lines about failures in one session and [`LOG_PERIOD`]. More are counted and the next line says how many: while an agent is gone, a
/// program that asks in a loop makes hundreds.
const MOST_LINES: u32 = 100;
/// See [`MOST_LINES`].
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// Of one session. Tells what is left to tell when dropped.
pub(super) struct Trail {
    gateway: Arc<Gateway>,
    session: String,
    sandbox: String,
    sandbox_id: String,
    actor: String,
    client: Option<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    signatures: u64,
    others: u64,
    lines: Lines,
}

/// Lines of the period at hand.
#[derive(Default)]
struct Lines {
    since: Option<Instant>,
    written: u32,
    left_out: u64,
}

impl Trail {
    pub(super) fn new(gateway: Arc<Gateway>, info: &SessionInfo) -> Self {
        Self {
            gateway,
            session: info.id.clone(),
            sandbox: info.sandbox.clone(),
            sandbox_id: info.sandbox_id.clone(),
            actor: info.credential.clone(),
            client: info.client.map(|client| client.to_string()),
            state: Mutex::default(),
        }
    }

    pub(super) fn metrics(&self) -> &AgentMetrics {
        &self.gateway.metrics.agent
    }

    /// Something that the filter saw. Waits while the store is behind.
    pub(super) async fn tell(&self, event: Event) {
        if let Some(row) = self.row_for(&event) {
            // The session may end while this waits.
            let mut unwritten = Unwritten { trail: self, row: Some(row.clone()) };
            self.gateway.audit.agent_used(row).await;
            unwritten.row = None;
        }
    }

    /// As [`Self::tell`], from a place that cannot wait.
    pub(super) fn tell_later(&self, event: Event) {
        if let Some(row) = self.row_for(&event) {
            self.gateway.audit.agent_used_last(row);
        }
    }

    /// Something did not work. `reason` is for operators.
    pub(super) fn failed(&self, reason: &dyn Display) {
        self.metrics().failures.increment();
        let Some(left_out) = self.state.lock().lines.next(Instant::now()) else { return };
        let (session, sandbox) = (&self.session, &self.sandbox);
        if left_out > 0 {
            tracing::warn!(session, sandbox, left_out, %reason, "agent forwarding failed; earlier lines were left out");
        } else {
            tracing::warn!(session, sandbox, %reason, "agent forwarding failed");
        }
    }

    /// Counts the event, and makes its row while there may be more.
    fn row_for(&self, event: &Event) -> Option<AuditRow> {
        let (count, most, kind) = {
            let mut state = self.state.lock();
            let (count, most, kind) = match event {
                Event::Warning(warning) => {
                    drop(state);
                    self.failed(warning);
                    return None;
                }
                Event::Signed(_) => {
                    self.metrics().signatures.increment();
                    (&mut state.signatures, MOST_SIGNATURES, "signatures")
                }
                Event::Refused(_) => {
                    self.metrics().refused.increment();
                    (&mut state.others, MOST_OTHERS, "refused requests and binds")
                }
                Event::Bound(_) => (&mut state.others, MOST_OTHERS, "refused requests and binds"),
            };
            *count += 1;
            (*count, most, kind)
        };
        if count <= most {
            return Some(self.row(event.action(), &event));
        }
        let more = format_args!("more than {most} {kind}; the others are counted until the session ends");
        (count == most + 1).then(|| self.row("agent.more", &more))
    }

    fn row(&self, action: &str, what: &dyn Display) -> AuditRow {
        AuditRow {
            at: OffsetDateTime::now_utc(),
            action: action.to_owned(),
            sandbox_id: Some(self.sandbox_id.clone()),
            actor: self.actor.clone(),
            client: self.client.clone(),
            detail: format!("session {}: {what}", self.session),
        }
    }
}

/// A row that is written in any case.
struct Unwritten<'a> {
    trail: &'a Trail,
    row: Option<AuditRow>,
}

impl Drop for Unwritten<'_> {
    fn drop(&mut self) {
        if let Some(row) = self.row.take() {
            self.trail.gateway.audit.agent_used_last(row);
        }
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        let State { signatures, others, .. } = *self.state.get_mut();
        let (signatures, others) =
            (signatures.saturating_sub(MOST_SIGNATURES), others.saturating_sub(MOST_OTHERS));
        if signatures + others > 0 {
            let what = format_args!(
                "not recorded one by one: {signatures} signatures, {others} refused requests and binds"
            );
            self.gateway.audit.agent_used_last(self.row("agent.more", &what));
        }
    }
}

impl Lines {
    /// Whether another line may be written, and how many were left out before it.
    fn next(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.duration_since(since) >= LOG_PERIOD) {
            self.since = Some(now);
            self.written = 0;
        }
        if self.written == MOST_LINES {
            self.left_out += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_in_a_period_and_those_left_out_are_told() {
        let mut lines = Lines::default();
        let start = Instant::now();
        for _ in 0..MOST_LINES {
            assert_eq!(lines.next(start), Some(0));
        }
        assert_eq!((lines.next(start), lines.next(start + LOG_PERIOD / 2)), (None, None));
        assert_eq!(lines.next(start + LOG_PERIOD), Some(2));
        assert_eq!(lines.next(start + LOG_PERIOD), Some(0));
    }
}
