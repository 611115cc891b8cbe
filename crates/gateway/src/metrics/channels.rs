//! Channels of SSH connections: how many there are and were, by their kind.

use std::sync::Arc;

use super::{Counter, Gauge, Page};

/// Kinds of channels (RFC 4254, OpenSSH PROTOCOL), by whom they are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChannelKind {
    /// By the client: a shell, command or subsystem.
    Session,
    /// By the client: a connection to a port.
    DirectTcpip,
    /// By the client: a connection to a Unix socket.
    DirectStreamlocal,
    /// By us: somebody has connected to a port that the client has asked for.
    ForwardedTcpip,
    /// By us: the same with a Unix socket.
    ForwardedStreamlocal,
    /// By us: to the client's agent.
    AuthAgent,
    /// By us: to the client's display.
    X11,
}

/// Counts of one kind.
#[derive(Debug, Default)]
struct Counts {
    open: Gauge,
    opened: Counter,
}

/// Counts of all kinds.
#[derive(Debug, Default)]
pub struct ChannelMetrics {
    session: Counts,
    direct_tcpip: Counts,
    direct_streamlocal: Counts,
    forwarded_tcpip: Counts,
    forwarded_streamlocal: Counts,
    auth_agent: Counts,
    x11: Counts,
}

impl ChannelMetrics {
    /// A channel is open, for as long as the guard lives.
    pub(crate) fn enter(self: &Arc<Self>, kind: ChannelKind) -> OpenChannel {
        let counts = self.of(kind);
        counts.opened.increment();
        counts.open.add();
        OpenChannel { channels: self.clone(), kind }
    }

    fn of(&self, kind: ChannelKind) -> &Counts {
        match kind {
            ChannelKind::Session => &self.session,
            ChannelKind::DirectTcpip => &self.direct_tcpip,
            ChannelKind::DirectStreamlocal => &self.direct_streamlocal,
            ChannelKind::ForwardedTcpip => &self.forwarded_tcpip,
            ChannelKind::ForwardedStreamlocal => &self.forwarded_streamlocal,
            ChannelKind::AuthAgent => &self.auth_agent,
            ChannelKind::X11 => &self.x11,
        }
    }

    /// Writes its part of the page.
    pub(super) fn write(&self, page: &mut Page) {
        let kinds = [
            ("session", &self.session),
            ("direct-tcpip", &self.direct_tcpip),
            ("direct-streamlocal", &self.direct_streamlocal),
            ("forwarded-tcpip", &self.forwarded_tcpip),
            ("forwarded-streamlocal", &self.forwarded_streamlocal),
            ("auth-agent", &self.auth_agent),
            ("x11", &self.x11),
        ];
        page.gauges(
            "sandgate_ssh_channels",
            "Open channels of SSH connections.",
            "kind",
            &kinds.map(|(kind, counts)| (kind, counts.open.get())),
        );
        page.counters(
            "sandgate_ssh_channels_opened_total",
            "Channels of SSH connections that were opened.",
            "kind",
            &kinds.map(|(kind, counts)| (kind, counts.opened.get())),
        );
    }
}

/// Held by a channel from its opening to its end.
#[derive(Debug)]
pub(crate) struct OpenChannel {
    channels: Arc<ChannelMetrics>,
    kind: ChannelKind,
}

impl Drop for OpenChannel {
    fn drop(&mut self) {
        self.channels.of(self.kind).open.subtract();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_now_and_what_was_are_told_apart() {
        let channels = Arc::<ChannelMetrics>::default();
        let agent = channels.enter(ChannelKind::AuthAgent);
        drop(channels.enter(ChannelKind::Session));
        let _session = channels.enter(ChannelKind::Session);
        drop(agent);
        let mut page = Page::default();
        channels.write(&mut page);
        for line in [
            "# TYPE sandgate_ssh_channels gauge",
            "sandgate_ssh_channels{kind=\"session\"} 1",
            "sandgate_ssh_channels{kind=\"auth-agent\"} 0",
            "# TYPE sandgate_ssh_channels_opened_total counter",
            "sandgate_ssh_channels_opened_total{kind=\"session\"} 2",
            "sandgate_ssh_channels_opened_total{kind=\"auth-agent\"} 1",
            "sandgate_ssh_channels_opened_total{kind=\"x11\"} 0",
        ] {
            assert!(page.0.lines().any(|it| it == line), "no {line} in {}", page.0);
        }
    }
}
