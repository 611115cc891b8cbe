//! What is counted about those who come: connections, logins, sessions, forwards, and the links behind them.

use std::sync::atomic::Ordering;

use super::{Counter, Histogram, Page};
use crate::session::{SessionKind, Traffic};

/// Counts over all front doors.
#[derive(Debug, Default)]
pub struct DoorMetrics {
    pub(crate) ssh_connections: Counter,
    pub(crate) ssh_turned_away: Counter,
    pub(crate) logins: Counter,
    pub(crate) logins_refused: Counter,
    http_logins_by_key: Counter,
    http_logins_by_link: Counter,
    http_logins_refused: Counter,
    shells: Counter,
    execs: Counter,
    sftps: Counter,
    scps: Counter,
    pub(crate) not_started: Counter,
    pub(crate) start_time: Histogram,
    pub(crate) link_errors: Counter,
    /// Of sessions that have ended.
    bytes: Bytes,
    pub(crate) forwards: Counter,
    pub(crate) forwards_failed: Counter,
    /// Of forwards that have ended.
    forward_bytes: Bytes,
}

/// What came of somebody who wanted in by HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpLogin {
    /// A browser logged in with an API key.
    Key,
    /// A browser logged in with the code of a link.
    Link,
    /// A key, link or cookie was unknown, used or not good any more.
    Refused,
}

/// Bytes in each direction, as the client has it.
#[derive(Debug, Default)]
struct Bytes {
    from_client: Counter,
    to_client: Counter,
}

impl Bytes {
    fn add(&self, traffic: &Traffic) {
        self.from_client.add(traffic.bytes_in.load(Ordering::Relaxed));
        self.to_client.add(traffic.bytes_out.load(Ordering::Relaxed));
    }
}

impl DoorMetrics {
    /// Somebody has logged in by HTTP, or was refused.
    pub fn http_login(&self, result: HttpLogin) {
        let counter = match result {
            HttpLogin::Key => &self.http_logins_by_key,
            HttpLogin::Link => &self.http_logins_by_link,
            HttpLogin::Refused => &self.http_logins_refused,
        };
        counter.increment();
    }

    /// A session has started.
    pub(crate) fn started(&self, kind: SessionKind) {
        let counter = match kind {
            SessionKind::Shell => &self.shells,
            SessionKind::Exec => &self.execs,
            SessionKind::Sftp => &self.sftps,
            SessionKind::Scp => &self.scps,
        };
        counter.increment();
    }

    /// A session has ended, after so much.
    pub(crate) fn session_ended(&self, traffic: &Traffic) {
        self.bytes.add(traffic);
    }

    /// A forwarded connection has ended, after so much.
    pub(crate) fn forward_ended(&self, traffic: &Traffic) {
        self.forward_bytes.add(traffic);
    }

    /// Writes its part of the page.
    pub(super) fn write(&self, page: &mut Page) {
        page.counter(
            "sandgate_ssh_connections_total",
            "Connections to the SSH listener.",
            &self.ssh_connections,
        );
        page.counter(
            "sandgate_ssh_turned_away_total",
            "Connections to the SSH listener that were closed at once, for earlier failures from their address.",
            &self.ssh_turned_away,
        );
        page.counters(
            "sandgate_ssh_logins_total",
            "Attempts to log in by SSH with a credential.",
            "result",
            &[("accepted", self.logins.get()), ("refused", self.logins_refused.get())],
        );
        page.counters(
            "sandgate_http_logins_total",
            "Logins of browsers with an API key or a link, and refusals, those of requests with a key included.",
            "result",
            &[
                ("key", self.http_logins_by_key.get()),
                ("link", self.http_logins_by_link.get()),
                ("refused", self.http_logins_refused.get()),
            ],
        );
        page.counters(
            "sandgate_sessions_started_total",
            "Sessions by any front door.",
            "kind",
            &[
                ("shell", self.shells.get()),
                ("exec", self.execs.get()),
                ("sftp", self.sftps.get()),
                ("scp", self.scps.get()),
            ],
        );
        page.counter(
            "sandgate_sessions_not_started_total",
            "Sessions that were refused or failed to start.",
            &self.not_started,
        );
        page.histogram(
            "sandgate_session_start_seconds",
            "From the request for a session to its running process, the start of its sandbox included.",
            &self.start_time,
        );
        page.counter(
            "sandgate_link_errors_total",
            "Sessions whose link to the guest was lost or could not be made.",
            &self.link_errors,
        );
        page.counters(
            "sandgate_session_bytes_total",
            "Bytes of sessions, counted at their end.",
            "direction",
            &[("from_client", self.bytes.from_client.get()), ("to_client", self.bytes.to_client.get())],
        );
        page.counter(
            "sandgate_forwards_total",
            "Forwarded connections by SSH, in either direction.",
            &self.forwards,
        );
        page.counter(
            "sandgate_forwards_failed_total",
            "Connections by SSH that were refused or could not be forwarded.",
            &self.forwards_failed,
        );
        page.counters(
            "sandgate_forward_bytes_total",
            "Bytes of forwarded connections, counted at their end.",
            "direction",
            &[
                ("from_client", self.forward_bytes.from_client.get()),
                ("to_client", self.forward_bytes.to_client.get()),
            ],
        );
    }
}
