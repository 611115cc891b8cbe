//! The channels of a connection, by our number.

use super::{Channel, ChannelId, Phase, ReceiveWindow};

/// Numbers are given out lowest first, as OpenSSH does, so that the table stays as small as its busiest moment. Bounded
/// by the configured number of channels.
#[derive(Debug, Default)]
pub(crate) struct Table {
    slots: Vec<Option<Box<Channel>>>,
    count: usize,
    serial: u32,
    /// The receive windows of all channels together, in bytes.
    granted: u32,
}

/// The smallest receive window, in bytes: two packets.
const LEAST_WINDOW: u32 = 64 * 1024;

impl Table {
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// Makes a channel. The window is what was configured while the budget lasts, then a quarter of what is left, but
    /// never less than [`LEAST_WINDOW`].
    pub(crate) fn insert(&mut self, phase: Phase, window: u32, max_packet: u32, budget: u32) -> &mut Channel {
        let size = (budget.saturating_sub(self.granted) / 4).max(LEAST_WINDOW).min(window).max(1);
        let index = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if index == self.slots.len() {
            self.slots.push(None);
        }
        self.serial = self.serial.wrapping_add(1);
        self.count = self.count.saturating_add(1);
        self.granted = self.granted.saturating_add(size);
        let id = ChannelId { index: u32::try_from(index).unwrap_or(u32::MAX), serial: self.serial };
        let receive = ReceiveWindow::new(size, max_packet);
        let fresh = || Box::new(Channel::new(id, phase, receive));
        // The slot at `index` exists and is empty; `get_or_insert_with` spares an unwrap.
        let slot = &mut self.slots[index];
        slot.get_or_insert_with(fresh)
    }

    pub(crate) fn get_mut(&mut self, id: ChannelId) -> Option<&mut Channel> {
        self.by_number(id.index).filter(|channel| channel.id == id)
    }

    pub(crate) fn get(&self, id: ChannelId) -> Option<&Channel> {
        self.slots.get(usize::try_from(id.index).ok()?)?.as_deref().filter(|channel| channel.id == id)
    }

    /// By the number in a message of the client.
    pub(crate) fn by_number(&mut self, number: u32) -> Option<&mut Channel> {
        self.slots.get_mut(usize::try_from(number).ok()?)?.as_deref_mut()
    }

    /// All channels.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Channel> {
        self.slots.iter_mut().flatten().map(Box::as_mut)
    }

    /// The channels of which the application holds nothing any more.
    pub(crate) fn unheld(&self) -> Vec<ChannelId> {
        let channels = self.slots.iter().flatten();
        channels.filter(|channel| channel.halves.none_left()).map(|channel| channel.id).collect()
    }

    pub(crate) fn remove(&mut self, id: ChannelId) -> Option<Box<Channel>> {
        let slot = self.slots.get_mut(usize::try_from(id.index).ok()?)?;
        let channel = slot.take_if(|channel| channel.id == id)?;
        self.count = self.count.saturating_sub(1);
        self.granted = self.granted.saturating_sub(channel.receive.size());
        while self.slots.last().is_some_and(Option::is_none) {
            self.slots.pop();
        }
        Some(channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_return_but_ids_do_not() {
        let mut table = Table::default();
        let first = table.insert(Phase::Asked, 100, 10, 1000).id;
        let second = table.insert(Phase::Asked, 100, 10, 1000).id;
        assert!(table.remove(first).is_some());
        assert!(table.remove(first).is_none());
        let third = table.insert(Phase::Asked, 100, 10, 1000).id;
        assert_eq!((third.index, table.len()), (first.index, 2));
        assert!(table.get_mut(first).is_none());
        assert!(table.get(second).is_some());
    }

    #[test]
    fn windows_shrink_when_the_budget_is_given_out() {
        let mut table = Table::default();
        let sizes: Vec<u32> =
            (0..300).map(|_| table.insert(Phase::Asked, 2 << 20, 32768, 64 << 20).receive.size()).collect();
        assert_eq!(sizes[..20], [2 << 20; 20]);
        assert_eq!(sizes[299], LEAST_WINDOW);
        assert!(u64::from(table.granted) <= (64 << 20) + 300 * u64::from(LEAST_WINDOW));
    }
}
