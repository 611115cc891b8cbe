//! Numbers for operators, in Prometheus' text format (`GET /metrics` on the HTTP listener).
//!
//! A part of the gateway that counts something has a struct of [`Counter`]s and [`Gauge`]s as a field of [`Metrics`], and a function
//! that writes them. There are no labels with names of sandboxes, users or addresses: the page can be read by whoever reaches the port.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

mod channels;
mod doors;
mod histogram;

use crate::agent_forward::AgentMetrics;
use crate::gateway::Gateway;

pub use channels::ChannelMetrics;
pub(crate) use channels::{ChannelKind, OpenChannel};
pub use doors::{DoorMetrics, HttpLogin};
pub use histogram::Histogram;

/// Everything that is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Connections, logins, sessions and forwards.
    pub doors: DoorMetrics,
    /// Channels of SSH connections.
    pub channels: Arc<ChannelMetrics>,
    /// Forwarded agents.
    pub agent: AgentMetrics,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Time that was spent, all in all.
#[derive(Debug, Default)]
pub struct Spent {
    micros: AtomicU64,
}

impl Spent {
    /// Adds some.
    pub fn add(&self, time: Duration) {
        self.micros.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// In seconds, with six places.
    fn seconds(&self) -> String {
        let micros = self.micros.load(Ordering::Relaxed);
        format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
    }
}

/// How many there are now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// One more, for as long as the guard lives.
    pub fn enter(&self) -> GaugeGuard<'_> {
        self.add();
        GaugeGuard(self)
    }

    /// One more. Whoever says so says when it is over ([`Self::subtract`]).
    fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn subtract(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// See [`Gauge::enter`].
#[derive(Debug)]
pub struct GaugeGuard<'a>(&'a Gauge);

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.subtract();
    }
}

/// The page, as it is written.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    /// A number that only grows; `name` ends in `_total`.
    pub fn counter(&mut self, name: &str, help: &str, counter: &Counter) {
        self.sample(name, "counter", help, &counter.get());
    }

    /// Seconds that only grow; `name` ends in `_seconds_total`.
    pub fn spent(&mut self, name: &str, help: &str, spent: &Spent) {
        self.sample(name, "counter", help, &spent.seconds());
    }

    /// A number of now.
    pub fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.sample(name, "gauge", help, &value);
    }

    /// Numbers that only grow, and that differ in the value of one label; `name` ends in `_total`.
    pub fn counters(&mut self, name: &str, help: &str, label: &str, counts: &[(&str, u64)]) {
        self.samples(name, "counter", help, label, counts);
    }

    /// Numbers of now that differ in the value of one label.
    pub fn gauges(&mut self, name: &str, help: &str, label: &str, counts: &[(&str, u64)]) {
        self.samples(name, "gauge", help, label, counts);
    }

    /// How long something takes; `name` ends in `_seconds`.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} histogram\n");
        histogram.write(name, &mut self.0);
    }

    fn samples(&mut self, name: &str, kind: &str, help: &str, label: &str, counts: &[(&str, u64)]) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (value, count) in counts {
            let _ = writeln!(self.0, "{name}{{{label}=\"{value}\"}} {count}");
        }
    }

    fn sample(&mut self, name: &str, kind: &str, help: &str, value: &dyn std::fmt::Display) {
        // Writing to a string does not fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
    }
}

/// The whole page.
pub fn render(gateway: &Gateway) -> String {
    let mut page = Page::default();
    let connections = gateway.registry.connection_count() as u64;
    page.gauge("sandgate_connections", "Authenticated connections.", connections);
    page.gauge("sandgate_sessions", "Running sessions.", gateway.registry.list().len() as u64);
    let tasks = tokio::runtime::Handle::try_current().map_or(0, |it| it.metrics().num_alive_tasks());
    page.gauge("sandgate_tasks", "Tasks of the gateway, some of its own included.", tasks as u64);
    page.gauge(
        "sandgate_draining",
        "1 while the gateway ends and takes nobody in any more.",
        gateway.drainer.is_draining().into(),
    );
    gateway.metrics.doors.write(&mut page);
    gateway.metrics.channels.write(&mut page);
    gateway.metrics.agent.write(&mut page);
    gateway.telemetry.write(&mut page);
    page.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_prometheus_text() {
        let (counter, gauge, spent) = (Counter::default(), Gauge::default(), Spent::default());
        counter.increment();
        let guard = gauge.enter();
        spent.add(Duration::from_millis(1500));
        let mut page = Page::default();
        page.counter("a_total", "Things.", &counter);
        page.gauge("b", "Now.", gauge.get());
        page.spent("c_seconds_total", "Time.", &spent);
        drop(guard);
        assert_eq!(gauge.get(), 0);
        assert_eq!(
            page.0,
            "# HELP a_total Things.\n# TYPE a_total counter\na_total 1\n\
             # HELP b Now.\n# TYPE b gauge\nb 1\n\
             # HELP c_seconds_total Time.\n# TYPE c_seconds_total counter\nc_seconds_total 1.500000\n"
        );
    }
}
