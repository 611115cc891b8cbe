//! Flow control (RFC 4254 §5.2): how much each side may still send.

/// Our receive window: what the peer may still send to us.
///
/// At any time `open + queued + taken = size`: bytes are *open* while the peer may send them, *queued* when they have
/// arrived, *taken* once the consumer has them, and open again when an adjust has been sent for them. Window is thus
/// never given back for data that merely arrived.
#[derive(Debug)]
pub(crate) struct ReceiveWindow {
    size: u32,
    open: u32,
    taken: u32,
    max_packet: u32,
}

impl ReceiveWindow {
    pub(crate) const fn new(size: u32, max_packet: u32) -> Self {
        Self { size, open: size, taken: 0, max_packet }
    }

    pub(crate) const fn size(&self) -> u32 {
        self.size
    }

    /// Charges data that has arrived; `None` when the peer had no right to send it.
    pub(crate) fn charge(&mut self, len: usize) -> Option<()> {
        self.open = self.open.checked_sub(u32::try_from(len).ok()?)?;
        Some(())
    }

    /// Counts data that the consumer has taken, and gives the increment for an adjust message when one is worth sending: after
    /// an eighth of the window, but not before three packets (as OpenSSH), or after half the window if that is less. Each
    /// adjust costs a packet and wakes the client; an eighth less of window costs a long fat link little.
    pub(crate) fn take(&mut self, len: usize) -> Option<u32> {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let queued = self.size.saturating_sub(self.open).saturating_sub(self.taken);
        self.taken = self.taken.saturating_add(len.min(queued));
        let worth = (self.size / 8).max(self.max_packet.saturating_mul(3)).min(self.size / 2).max(1);
        if self.taken < worth {
            return None;
        }
        self.open = self.open.saturating_add(self.taken);
        Some(std::mem::take(&mut self.taken))
    }
}

/// The peer's receive window: what we may still send.
#[derive(Debug)]
pub(crate) struct SendWindow {
    /// The most that was ever open.
    size: u32,
    open: u32,
    max_packet: u32,
}

/// The most data we put into one packet, in bytes, whatever the peer would take. RFC 4253 §6.1 obliges everyone to
/// take 32 KiB, and OpenSSH sends no more; larger packets would only delay other channels.
pub(crate) const MAX_DATA: usize = 32 * 1024;

impl SendWindow {
    pub(crate) const fn new(open: u32, max_packet: u32) -> Self {
        Self { size: open, open, max_packet }
    }

    /// How many bytes may be sent now. None if the peer takes no data in a packet at all.
    pub(crate) fn open(&self) -> usize {
        if self.max_packet == 0 { 0 } else { usize::try_from(self.open).unwrap_or(usize::MAX) }
    }

    /// How many bytes were sent for which no window has come back.
    pub(crate) fn under_way(&self) -> usize {
        usize::try_from(self.size.saturating_sub(self.open)).unwrap_or(usize::MAX)
    }

    /// How many bytes one packet may carry now.
    pub(crate) fn packet(&self) -> usize {
        usize::try_from(self.open.min(self.max_packet)).unwrap_or(MAX_DATA).min(MAX_DATA)
    }

    /// Charges data that was sent.
    pub(crate) fn charge(&mut self, len: usize) {
        self.open = self.open.saturating_sub(u32::try_from(len).unwrap_or(u32::MAX));
    }

    /// Takes an adjust message; `None` when the window would pass 2^32 - 1.
    pub(crate) fn adjust(&mut self, len: u32) -> Option<()> {
        self.open = self.open.checked_add(len)?;
        self.size = self.size.max(self.open);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_returns_only_what_was_taken() {
        let mut window = ReceiveWindow::new(100, 10);
        assert!(window.charge(60).is_some());
        assert_eq!(window.take(29), None);
        assert_eq!(window.take(1), Some(30));
        // 70 open, 30 queued: nothing beyond what arrived can be given back.
        assert_eq!(window.take(1000), Some(30));
        assert!(window.charge(100).is_some());
        assert!(window.charge(1).is_none());
    }

    #[test]
    fn window_smaller_than_a_packet_still_moves() {
        let mut window = ReceiveWindow::new(1, 32 * 1024);
        assert!(window.charge(1).is_some());
        assert_eq!(window.take(1), Some(1));
    }

    #[test]
    fn send_window_overflow_is_seen() {
        let mut window = SendWindow::new(u32::MAX - 1, 100);
        assert!(window.adjust(1).is_some());
        assert!(window.adjust(1).is_none());
        assert_eq!(window.packet(), 100);
    }
}
