//! Replies that must go out in the order of their requests, though they may be given in any order (RFC 4254 §4, §5.4).

use std::collections::VecDeque;

/// Names the place of a reply.
pub(crate) type Ticket = u64;

/// Replies owed to the peer, oldest first. Bounded by [`ReplyQueue::MOST`].
#[derive(Debug)]
pub(crate) struct ReplyQueue<T> {
    /// `None`: not answered yet.
    slots: VecDeque<Option<T>>,
    /// The ticket of the first slot.
    first: Ticket,
}

impl<T> Default for ReplyQueue<T> {
    fn default() -> Self {
        Self { slots: VecDeque::new(), first: 0 }
    }
}

impl<T> ReplyQueue<T> {
    /// Replies owed at a time. Honest clients have a handful; more than this ends the connection.
    pub(crate) const MOST: usize = 4096;

    /// Makes a place at the end; `None` when there are too many.
    pub(crate) fn reserve(&mut self) -> Option<Ticket> {
        if self.slots.len() >= Self::MOST {
            return None;
        }
        let ticket = self.first.wrapping_add(self.slots.len() as u64);
        self.slots.push_back(None);
        Some(ticket)
    }

    /// Fills a place. A second answer for the same place is ignored.
    pub(crate) fn answer(&mut self, ticket: Ticket, reply: T) {
        let index = usize::try_from(ticket.wrapping_sub(self.first)).unwrap_or(usize::MAX);
        if let Some(slot @ None) = self.slots.get_mut(index) {
            *slot = Some(reply);
        }
    }

    /// The next reply that may go out.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let reply = self.slots.front_mut()?.take()?;
        self.slots.pop_front();
        self.first = self.first.wrapping_add(1);
        Some(reply)
    }

    /// Forgets everything, when no reply can be sent any more.
    pub(crate) fn clear(&mut self) {
        self.first = self.first.wrapping_add(self.slots.len() as u64);
        self.slots = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_that_of_the_requests() {
        let mut queue = ReplyQueue::default();
        let tickets: Vec<_> = (0..4).map(|_| queue.reserve().unwrap()).collect();
        queue.answer(tickets[2], 'c');
        queue.answer(tickets[1], 'b');
        assert_eq!(queue.pop(), None);
        queue.answer(tickets[0], 'a');
        queue.answer(tickets[0], 'x');
        assert_eq!(
            [queue.pop(), queue.pop(), queue.pop(), queue.pop()],
            [Some('a'), Some('b'), Some('c'), None]
        );
        queue.answer(tickets[0], 'x');
        queue.answer(tickets[3], 'd');
        assert_eq!(queue.pop(), Some('d'));
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn too_many_are_refused() {
        let mut queue = ReplyQueue::<()>::default();
        assert!((0..ReplyQueue::<()>::MOST).all(|_| queue.reserve().is_some()));
        assert!(queue.reserve().is_none());
    }
}
