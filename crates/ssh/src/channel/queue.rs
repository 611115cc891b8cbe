//! Data that has arrived on a channel and has not been taken yet.
//!
//! The queue is a list of segments. Small input goes into a small segment, bulk input into large ones that are filled
//! by several packets, so that the reader can hand long slices to `write(2)` and so that a peer that sends one byte per
//! packet pays no more memory than it has window.

use std::collections::VecDeque;

/// A run of bytes that is lent to the reader as a whole.
#[derive(Debug, Default)]
pub struct Segment {
    data: Vec<u8>,
    taken: usize,
}

/// Room of a segment for bulk data, in bytes: two full packets, and below glibc's threshold for `mmap`.
const LARGE: usize = 64 * 1024;
/// Room of a segment for a few keystrokes, in bytes.
const SMALL: usize = 512;

impl Segment {
    fn with_room(len: usize) -> Self {
        Self { data: Vec::with_capacity(len), taken: 0 }
    }

    fn room(&self) -> usize {
        self.data.capacity().saturating_sub(self.data.len())
    }

    /// What is left to take.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        self.data.get(self.taken..).unwrap_or_default()
    }

    /// Takes up to `len` bytes off the front and says how many.
    pub fn advance(&mut self, len: usize) -> usize {
        let len = len.min(self.rest().len());
        self.taken = self.taken.saturating_add(len);
        len
    }

    /// True when everything was taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }
}

/// Large segments kept for reuse by all channels of a connection. Bounded by [`Spares::MOST`].
#[derive(Debug, Default)]
pub(crate) struct Spares {
    free: Vec<Segment>,
}

impl Spares {
    /// One being filled, one being read, for two busy channels. 256 KiB at most.
    const MOST: usize = 4;

    fn large(&mut self) -> Segment {
        self.free.pop().unwrap_or_else(|| Segment::with_room(LARGE))
    }

    /// Keeps a used segment if it is worth keeping.
    pub(crate) fn recycle(&mut self, mut segment: Segment) {
        if segment.data.capacity() >= LARGE && self.free.len() < Self::MOST {
            segment.data.clear();
            segment.taken = 0;
            self.free.push(segment);
        }
    }

    /// Gives the memory back.
    pub(crate) fn release(&mut self) {
        self.free = Vec::new();
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

    /// Hands out the first segment. Its bytes still count against the window until they are returned.
    pub(crate) fn pop(&mut self) -> Option<Segment> {
        let segment = self.segments.pop_front()?;
        self.len = self.len.saturating_sub(segment.rest().len());
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
    fn single_bytes_share_segments() {
        let (mut queue, mut spares) = (ReceiveQueue::default(), Spares::default());
        for _ in 0..LARGE {
            queue.push(b"x", &mut spares);
        }
        let memory: usize = queue.segments.iter().map(|s| s.data.capacity()).sum();
        assert!(memory <= 2 * LARGE + SMALL, "{memory}");
    }
}
