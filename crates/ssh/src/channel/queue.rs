//! Data that has arrived on a channel and has not been taken yet.
//!
//! The queue is a list of segments. Small input goes into a small segment, bulk input into large ones that are filled
//! by several packets, so that the reader can hand long slices to `write(2)` and so that a peer that sends one byte per
//! packet pays no more memory than it has window. Bulk input that fills the storage of the input comes with that storage, see `loan`.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

/// A run of bytes that is lent to the reader as a whole.
#[derive(Debug, Default)]
pub struct Segment {
    data: Vec<u8>,
    taken: usize,
    /// Where the bytes are in `data` when they are not all of it: the last is the next, from `taken` on. Never empty ones.
    pieces: Option<Vec<Range<usize>>>,
}

/// Room of a segment for bulk data, in bytes: three full packets, which is what OpenSSH writes at once, and below glibc's
/// threshold for `mmap`.
const LARGE: usize = 96 * 1024;
/// Room of a segment for a few keystrokes, in bytes.
const SMALL: usize = 512;

impl Segment {
    fn with_room(len: usize) -> Self {
        Self { data: Vec::with_capacity(len), taken: 0, pieces: None }
    }

    /// The storage of the input, in which the bytes lie in these places, in order.
    pub(crate) fn lent(storage: Vec<u8>, mut pieces: Vec<Range<usize>>) -> Self {
        pieces.retain(|piece| !piece.is_empty());
        pieces.reverse();
        Self { data: storage, taken: 0, pieces: Some(pieces) }
    }

    fn room(&self) -> usize {
        match self.pieces {
            Some(_) => 0,
            None => self.data.capacity().saturating_sub(self.data.len()),
        }
    }

    /// The bytes left to take.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.pieces {
            Some(pieces) => pieces.iter().map(ExactSizeIterator::len).sum::<usize>(),
            None => self.data.len(),
        }
        .saturating_sub(self.taken)
    }

    /// What is left to take, as far as it lies in one place.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        let place = match &self.pieces {
            Some(pieces) => pieces.last().cloned().unwrap_or_default(),
            None => 0..self.data.len(),
        };
        self.data.get(place.start.saturating_add(self.taken)..place.end).unwrap_or_default()
    }

    /// Names what is left to take, as far as there are `slices` for it, and says how many it used.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let Some((first, others)) = slices.split_first_mut() else { return 0 };
        let rest = self.rest();
        if rest.is_empty() {
            return 0;
        }
        *first = IoSlice::new(rest);
        let after = self.pieces.iter().flat_map(|pieces| pieces.iter().rev().skip(1));
        let mut used = 1;
        for (slice, place) in others.iter_mut().zip(after) {
            *slice = IoSlice::new(self.data.get(place.clone()).unwrap_or_default());
            used += 1;
        }
        used
    }

    /// Takes up to `len` bytes off the front and says how many.
    pub fn advance(&mut self, len: usize) -> usize {
        let len = len.min(self.len());
        self.taken = self.taken.saturating_add(len);
        if let Some(pieces) = &mut self.pieces {
            while let Some(piece) = pieces.last()
                && self.taken >= piece.len()
            {
                self.taken -= piece.len();
                pieces.pop();
            }
        }
        len
    }

    /// What it costs, in bytes.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        self.data.capacity()
    }

    /// True when everything was taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Large segments kept for reuse by all channels of a connection. Bounded by [`Spares::MOST`].
#[derive(Debug, Default)]
pub(crate) struct Spares {
    free: Vec<Segment>,
    /// For the input. Bounded by [`Spares::MOST_STORAGES`].
    storages: Vec<Vec<u8>>,
}

impl Spares {
    /// One being filled, one being read, for two busy channels. 384 KiB at most.
    const MOST: usize = 4;

    /// As many as a full window of 2 MiB comes in, since a queue is full and empty in turns. What is here was in a queue before, and goes when
    /// the connection falls idle.
    const MOST_STORAGES: usize = 8;

    /// A storage for the input that was used before, or none.
    pub(crate) fn storage(&mut self) -> Vec<u8> {
        self.storages.pop().unwrap_or_default()
    }

    fn large(&mut self) -> Segment {
        self.free.pop().unwrap_or_else(|| Segment::with_room(LARGE))
    }

    /// Keeps a used segment if it is worth keeping.
    pub(crate) fn recycle(&mut self, mut segment: Segment) {
        if segment.pieces.is_some() {
            if self.storages.len() < Self::MOST_STORAGES {
                self.storages.push(segment.data);
            }
        } else if segment.data.capacity() >= LARGE && self.free.len() < Self::MOST {
            segment.data.clear();
            segment.taken = 0;
            self.free.push(segment);
        }
    }

    /// Gives the memory back.
    pub(crate) fn release(&mut self) {
        *self = Self::default();
    }
}

/// The queue of one channel. Its bound is the channel's receive window: the caller checks that before [`push`](Self::push).
#[derive(Debug, Default)]
pub(crate) struct ReceiveQueue {
    segments: VecDeque<Segment>,
    len: usize,
}

impl ReceiveQueue {
    /// Bytes waiting.
    #[cfg(test)]
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Appends a packet's data.
    pub(crate) fn push(&mut self, mut data: &[u8], spares: &mut Spares) {
        self.len = self.len.saturating_add(data.len());
        if let Some(last) = self.segments.back_mut() {
            let (head, tail) = data.split_at(data.len().min(last.room()));
            last.data.extend_from_slice(head);
            data = tail;
        }
        while !data.is_empty() {
            let bulk = data.len() > SMALL || !self.segments.is_empty();
            let mut segment = if bulk { spares.large() } else { Segment::with_room(SMALL) };
            let (head, tail) = data.split_at(data.len().min(segment.room()));
            segment.data.extend_from_slice(head);
            data = tail;
            self.segments.push_back(segment);
        }
    }

    /// Appends what lies in a storage of the input.
    pub(crate) fn push_segment(&mut self, segment: Segment) {
        self.len = self.len.saturating_add(segment.len());
        self.segments.push_back(segment);
    }

    /// Hands out the first segment. Its bytes still count against the window until they are returned.
    pub(crate) fn pop(&mut self) -> Option<Segment> {
        let segment = self.segments.pop_front()?;
        self.len = self.len.saturating_sub(segment.len());
        if self.segments.is_empty() {
            self.segments = VecDeque::new();
        }
        Some(segment)
    }

    /// Throws everything away and says how many bytes that were.
    pub(crate) fn clear(&mut self) -> usize {
        self.segments = VecDeque::new();
        std::mem::take(&mut self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let (mut queue, mut spares) = (ReceiveQueue::default(), Spares::default());
        let mut sent = Vec::new();
        let mut got = Vec::new();
        for round in 0..200usize {
            let packet: Vec<u8> = (0..(round * 7919) % 40_000).map(|i| (i ^ round) as u8).collect();
            queue.push(&packet, &mut spares);
            sent.extend_from_slice(&packet);
            if round % 3 == 0
                && let Some(mut segment) = queue.pop()
            {
                while !segment.is_empty() {
                    got.push(segment.rest()[0]);
                    segment.advance(1);
                }
                spares.recycle(segment);
            }
            assert_eq!(queue.len() + got.len(), sent.len());
        }
        while let Some(segment) = queue.pop() {
            got.extend_from_slice(segment.rest());
        }
        assert_eq!(got, sent);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn pieces_of_a_storage_come_out_in_order_among_the_others() {
        let (mut queue, mut spares) = (ReceiveQueue::default(), Spares::default());
        queue.push(b"ab", &mut spares);
        queue.push_segment(Segment::lent(b"-cd--efg-".to_vec(), vec![1..3, 3..3, 5..8]));
        queue.push(b"h", &mut spares);
        assert_eq!(queue.len(), 8);
        let mut got = queue.pop().unwrap().rest().to_vec();
        let mut lent = queue.pop().unwrap();
        assert_eq!((queue.len(), lent.len(), lent.rest()), (1, 5, &b"cd"[..]));
        {
            let mut slices = [IoSlice::new(&[]); 3];
            assert_eq!(lent.slices(&mut slices), 2);
            assert_eq!((&*slices[0], &*slices[1]), (&b"cd"[..], &b"efg"[..]));
        }
        assert_eq!((lent.advance(1), lent.rest()), (1, &b"d"[..]));
        assert_eq!((lent.advance(2), lent.rest()), (2, &b"fg"[..]), "over the end of a piece");
        got.extend_from_slice(b"cde");
        got.extend_from_slice(lent.rest());
        assert_eq!((lent.advance(9), lent.is_empty(), lent.slices(&mut [IoSlice::new(&[])])), (2, true, 0));
        spares.recycle(lent);
        assert_eq!(spares.storage().len(), 9, "the storage is used again");
        got.extend_from_slice(queue.pop().unwrap().rest());
        assert_eq!(got, b"abcdefgh");
    }

    #[test]
    fn single_bytes_share_segments() {
        let (mut queue, mut spares) = (ReceiveQueue::default(), Spares::default());
        for _ in 0..LARGE {
            queue.push(b"x", &mut spares);
        }
        let memory: usize = queue.segments.iter().map(|s| s.data.capacity()).sum();
        assert!(memory <= 2 * LARGE + SMALL, "{memory}");
    }
}
