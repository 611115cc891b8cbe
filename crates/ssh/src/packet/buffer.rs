//! The byte buffers between the socket and the packets.
//!
//! Both are plain vectors that keep their length at the most they ever needed, with the valid bytes between two marks:
//! nothing is zeroed again and nothing moves in the ordinary case. Memory is given back by `release`.

use std::ops::Range;

use super::{HEADER, MAX_PACKET_LENGTH, MAX_TRAILER};

/// The first size of the input buffer, in bytes: enough for a whole handshake message or a burst of key presses.
const INPUT_SMALL: usize = 8 * 1024;
/// The size under bulk load, in bytes: eight 32 KiB packets per read, or one packet of the largest size.
const INPUT_LARGE: usize = MAX_PACKET_LENGTH + HEADER + MAX_TRAILER;
/// A read is worth its system call from this size on, in bytes; with less free room the rest is moved to the front.
const MIN_READ: usize = 4 * 1024;

/// Bytes that came from the socket.
#[derive(Debug, Default)]
pub(crate) struct InputBuffer {
    storage: Vec<u8>,
    start: usize,
    end: usize,
    /// The last read filled all the room it was given.
    filled: bool,
}

impl InputBuffer {
    /// Room for a read; `wanted` is how long the unfinished packet is, if that is known. The buffer grows no faster than
    /// bytes arrive, so a peer cannot claim memory by announcing a long packet.
    pub fn space(&mut self, wanted: Option<usize>) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
        let missing = wanted.unwrap_or(0).saturating_sub(self.len()).min(self.len()).max(MIN_READ);
        if self.storage.len() - self.end < missing && self.start > 0 {
            self.storage.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let mut target = self.storage.len().max(INPUT_SMALL);
        if self.filled {
            target = target.saturating_mul(4).min(INPUT_LARGE).max(self.storage.len());
            self.filled = false;
        }
        target = target.max(self.end + missing);
        if self.storage.len() < target {
            self.storage.resize(target, 0);
        }
        &mut self.storage[self.end..]
    }

    /// `len` bytes were put into the space.
    pub fn commit(&mut self, len: usize) {
        let room = self.storage.len() - self.end;
        self.filled = len >= room && room > 0;
        self.end += len.min(room);
    }

    pub const fn len(&self) -> usize {
        self.end - self.start
    }

    /// The bytes not consumed yet.
    pub fn bytes(&self) -> &[u8] {
        &self.storage[self.start..self.end]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.end]
    }

    /// Consumes `len` bytes and returns where they are in the storage; they stay there until the next `space`.
    pub fn consume(&mut self, len: usize) -> usize {
        let at = self.start;
        self.start = self.start.saturating_add(len).min(self.end);
        at
    }

    /// Consumed bytes, by their place in the storage.
    pub fn storage(&self, range: Range<usize>) -> &[u8] {
        self.storage.get(range).unwrap_or_default()
    }

    /// How large the storage is.
    pub const fn size(&self) -> usize {
        self.storage.len()
    }

    /// Gives the storage away with the consumed bytes in it, and goes on with `fresh`, into which the bytes move that are not consumed.
    pub fn exchange(&mut self, mut fresh: Vec<u8>) -> Vec<u8> {
        if fresh.is_empty() {
            // Zeroed by the allocator, as a rule without touching it.
            fresh = vec![0; self.storage.len()];
        } else if fresh.len() < self.storage.len() {
            fresh.resize(self.storage.len(), 0);
        }
        let len = self.len();
        if let Some(room) = fresh.get_mut(..len) {
            room.copy_from_slice(self.bytes());
        }
        (self.start, self.end) = (0, len);
        std::mem::replace(&mut self.storage, fresh)
    }

    /// Frees the storage when it holds nothing.
    pub fn release(&mut self) {
        if self.len() == 0 {
            *self = Self::default();
        }
    }
}

/// Bytes on their way to the socket.
#[derive(Debug, Default)]
pub(crate) struct OutputBuffer {
    storage: Vec<u8>,
    start: usize,
    end: usize,
}

impl OutputBuffer {
    pub const fn len(&self) -> usize {
        self.end - self.start
    }

    pub fn bytes(&self) -> &[u8] {
        &self.storage[self.start..self.end]
    }

    pub fn consume(&mut self, len: usize) {
        self.start = self.start.saturating_add(len).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// At least `len` bytes of room after the valid bytes. What is in there is old output, not zeros.
    pub fn room(&mut self, len: usize) -> &mut [u8] {
        if self.storage.len() - self.end < len {
            // Moving is worth it only when it frees at least as much as it copies.
            if self.start >= self.len() && self.start > 0 {
                self.storage.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            let needed = self.end + len;
            if self.storage.len() < needed {
                let grown = needed
                    .max(self.storage.len().saturating_mul(2).min(self.storage.len() + MAX_PACKET_LENGTH));
                self.storage.resize(grown, 0);
            }
        }
        &mut self.storage[self.end..]
    }

    /// `len` bytes of the room are valid now.
    pub fn commit(&mut self, len: usize) {
        self.end = self.end.saturating_add(len).min(self.storage.len());
    }

    /// Frees the storage when it holds nothing.
    pub fn release(&mut self) {
        if self.len() == 0 {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_grows_under_load_and_shrinks_when_idle() {
        let mut input = InputBuffer::default();
        assert_eq!(input.space(None).len(), INPUT_SMALL);
        input.commit(INPUT_SMALL);
        input.consume(INPUT_SMALL);
        assert_eq!(input.space(None).len(), 4 * INPUT_SMALL);
        for _ in 0..4 {
            let room = input.space(None).len();
            input.commit(room);
            input.consume(room);
        }
        assert_eq!(input.space(None).len(), INPUT_LARGE, "the buffer is bounded");
        input.release();
        assert_eq!(input.storage.capacity(), 0);
    }

    #[test]
    fn an_exchange_keeps_what_is_not_consumed() {
        let mut input = InputBuffer::default();
        input.space(None)[..3].copy_from_slice(b"abc");
        input.commit(3);
        input.consume(2);
        let first = input.exchange(Vec::new());
        assert_eq!((&first[..2], input.bytes()), (&b"ab"[..], &b"c"[..]));
        input.space(None)[0] = b'd';
        input.commit(1);
        assert_eq!(input.exchange(first)[..2], *b"cd");
        assert_eq!((input.bytes(), input.size()), (&b"cd"[..], INPUT_SMALL));
    }

    #[test]
    fn input_grows_to_the_packet_in_work_as_bytes_arrive() {
        let mut input = InputBuffer::default();
        let room = input.space(None).len();
        input.commit(room);
        input.consume(room - 100);
        assert!(input.space(Some(MAX_PACKET_LENGTH)).len() <= 4 * INPUT_SMALL, "announcing is not enough");
        assert_eq!(input.len(), 100);
        while input.len() < MAX_PACKET_LENGTH {
            let room = input.space(Some(MAX_PACKET_LENGTH)).len();
            assert!(room > 0);
            input.commit(room);
        }
        assert!(input.storage.len() <= 2 * INPUT_LARGE);
    }

    #[test]
    fn output_keeps_its_order_when_it_moves() {
        let mut output = OutputBuffer::default();
        let mut expected = Vec::new();
        let mut got = Vec::new();
        for round in 0u8..200 {
            let len = 1 + usize::from(round) * 7;
            output.room(len)[..len].fill(round);
            output.commit(len);
            expected.extend(std::iter::repeat_n(round, len));
            let take = output.len() * 2 / 3;
            got.extend_from_slice(&output.bytes()[..take]);
            output.consume(take);
        }
        got.extend_from_slice(output.bytes());
        assert_eq!(got, expected);
    }
}
