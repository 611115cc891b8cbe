//! What is counted about forwarded agents.

use crate::metrics::{Counter, Gauge, Page, Spent};

/// Counts over all sessions.
#[derive(Debug, Default)]
pub struct AgentMetrics {
    pub(super) listeners: Gauge,
    pub(super) connections: Gauge,
    pub(super) opened: Counter,
    pub(super) open_retries: Counter,
    pub(super) open_failures: Counter,
    pub(super) failures: Counter,
    pub(super) open_time: Spent,
    pub(super) connection_time: Spent,
    pub(super) signatures: Counter,
    pub(super) refused: Counter,
}

impl AgentMetrics {
    /// Writes its part of the page.
    pub(crate) fn write(&self, page: &mut Page) {
        page.gauge("sandgate_agent_sockets", "Sessions with a forwarded agent.", self.listeners.get());
        page.gauge(
            "sandgate_agent_connections",
            "Connections to forwarded agents that hold a place now.",
            self.connections.get(),
        );
        page.counter("sandgate_agent_opens_total", "Connections made to users' agents.", &self.opened);
        page.counter(
            "sandgate_agent_open_retries_total",
            "Attempts to reach a user's agent that failed and were followed by another.",
            &self.open_retries,
        );
        page.counter(
            "sandgate_agent_open_failures_total",
            "Connections whose agent could not be reached.",
            &self.open_failures,
        );
        page.counter(
            "sandgate_agent_failures_total",
            "Failures of agent forwarding of any kind, each attempt that failed included.",
            &self.failures,
        );
        page.spent(
            "sandgate_agent_open_seconds_total",
            "Time spent on reaching users' agents.",
            &self.open_time,
        );
        page.spent(
            "sandgate_agent_connection_seconds_total",
            "Time that connections have held a place, counted at their end.",
            &self.connection_time,
        );
        page.counter(
            "sandgate_agent_signatures_total",
            "Signatures that were asked for, whatever came of it.",
            &self.signatures,
        );
        page.counter("sandgate_agent_refused_total", "Requests that the filter refused.", &self.refused);
    }
}
