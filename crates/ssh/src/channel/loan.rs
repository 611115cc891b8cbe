//! Bulk data that stays where it was decrypted.
//!
//! Primer: while the packets of one read from the socket are worked on, the data of one channel is only noted, by its place in the
//! storage of the input. When all are done and the storage holds little else, the channel's queue takes over the storage as it is, as one
//! [`Segment`] of several pieces, and the input goes on in another storage. Otherwise the data is copied into the queue, so a queue never
//! holds much more memory than data: a third more at most.

use std::ops::Range;

use super::{ChannelId, ReceiveQueue, Segment, Spares};

/// Data that is noted first: less is no bulk and is copied at once. Bytes.
const LEAST_FIRST: usize = 16 * 1024;
/// Data for which a storage is handed over, in bytes.
const LEAST: usize = 64 * 1024;
/// Pieces of a segment: each is an entry of a vector for `writev(2)`. A storage holds eight packets of OpenSSH's size.
pub(crate) const MOST_PIECES: usize = 16;

/// What was noted since input was read last. Bounded by the packets that the storage of the input holds.
#[derive(Debug, Default)]
pub(crate) struct Loan {
    channel: Option<ChannelId>,
    pieces: Vec<Range<usize>>,
    len: usize,
}

impl Loan {
    /// Notes data of a channel; false when it should be put into the queue at once.
    pub(crate) fn note(&mut self, channel: ChannelId, place: Range<usize>) -> bool {
        let wanted = match self.channel {
            None => place.len() >= LEAST_FIRST,
            // What follows must not overtake.
            Some(noted) => noted == channel,
        };
        if wanted {
            self.channel = Some(channel);
            self.len = self.len.saturating_add(place.len());
            self.pieces.push(place);
        }
        wanted
    }

    /// The channel whose data was noted, if any. To be settled by [`Self::hand_over`] or [`Self::copy`] before input is read.
    pub(crate) const fn channel(&self) -> Option<ChannelId> {
        self.channel
    }

    /// Whether a storage of this size holds little else.
    pub(crate) const fn fills(&self, storage: usize) -> bool {
        self.len >= LEAST && self.len >= storage / 4 * 3 && self.pieces.len() <= MOST_PIECES
    }

    /// Puts the storage into the queue.
    pub(crate) fn hand_over(&mut self, storage: Vec<u8>, queue: &mut ReceiveQueue) {
        queue.push_segment(Segment::lent(storage, std::mem::take(&mut self.pieces)));
        self.forget();
    }

    /// Copies the data into the queue.
    pub(crate) fn copy<'s>(
        &mut self,
        storage: impl Fn(Range<usize>) -> &'s [u8],
        queue: &mut ReceiveQueue,
        spares: &mut Spares,
    ) {
        for place in self.pieces.drain(..) {
            queue.push(storage(place), spares);
        }
        self.forget();
    }

    /// Nobody is left to take it.
    pub(crate) fn forget(&mut self) {
        // Room for the pieces of an ordinary read is kept; that of a flood of small packets is not.
        self.pieces.clear();
        self.pieces.shrink_to(MOST_PIECES);
        (self.channel, self.len) = (None, 0);
    }
}
