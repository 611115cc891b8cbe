//! The receiving half: finds, checks and opens one packet after the other in the input buffer.

use std::ops::Range;

use super::Error;
use super::sender::{KeyLimits, KeyUse, SequenceNumbers};
use crate::packet::{InputBuffer, OpenKey};

/// The longest packet on the wire before keys are in use, in bytes: RFC 4253 §6.1 requires 35000. An unknown peer cannot
/// make us buffer more.
const MAX_CLEAR_PACKET: usize = 35_000;

/// An opened packet: its payload is still in the input buffer.
#[derive(Debug)]
pub(super) struct Packet {
    range: Range<usize>,
    /// The message number.
    pub kind: u8,
    pub sequence: u32,
}

#[derive(Debug)]
pub(super) struct Receiver {
    input: InputBuffer,
    key: OpenKey,
    sequence: u32,
    used: KeyUse,
    limits: KeyLimits,
    /// The key may protect no more bytes than this.
    byte_limit: u64,
    /// The length on the wire of the packet that has begun to arrive.
    wire_length: Option<usize>,
}

impl Receiver {
    pub fn new() -> Self {
        Self {
            input: InputBuffer::default(),
            key: OpenKey::Clear,
            sequence: 0,
            used: KeyUse::default(),
            limits: KeyLimits::NONE,
            byte_limit: u64::MAX,
            wire_length: None,
        }
    }

    pub fn space(&mut self) -> &mut [u8] {
        self.input.space(self.wire_length)
    }

    pub fn commit(&mut self, len: usize) {
        self.input.commit(len);
    }

    pub fn bytes(&self) -> &[u8] {
        self.input.bytes()
    }

    pub fn skip(&mut self, len: usize) {
        self.input.consume(len);
    }

    pub fn release(&mut self) {
        self.input.release();
    }

    /// The payload of a packet; empty once more input has been read.
    pub fn payload(&self, packet: &Packet) -> &[u8] {
        self.input.storage(packet.range.clone())
    }

    /// See [`InputBuffer`]: how large its storage is, what lies in it, and its exchange for another one.
    pub const fn storage_size(&self) -> usize {
        self.input.size()
    }

    pub fn storage(&self, range: Range<usize>) -> &[u8] {
        self.input.storage(range)
    }

    pub fn exchange_storage(&mut self, fresh: Vec<u8>) -> Vec<u8> {
        self.input.exchange(fresh)
    }

    /// Where the payload of a packet is in the storage.
    pub const fn position(packet: &Packet) -> usize {
        packet.range.start
    }

    /// True when this direction's key has been used enough.
    pub const fn is_due(&self) -> bool {
        self.used.exceeds(&self.limits)
    }

    /// Uses `key` from the next packet on.
    pub fn switch_keys(
        &mut self,
        key: OpenKey,
        limits: KeyLimits,
        byte_limit: u64,
        sequence: SequenceNumbers,
    ) {
        self.key = key;
        self.used = KeyUse::default();
        self.limits = limits;
        self.byte_limit = byte_limit;
        if sequence == SequenceNumbers::Restart {
            self.sequence = 0;
        }
    }

    /// Opens the next packet, if all of it has arrived.
    pub fn next_packet(&mut self) -> Result<Option<Packet>, Error> {
        let total = match self.wire_length {
            Some(total) => total,
            None => {
                let Some(head) = self.input.bytes().first_chunk::<4>() else { return Ok(None) };
                let total = self.key.wire_length(self.sequence, *head)?;
                if matches!(self.key, OpenKey::Clear) && total > MAX_CLEAR_PACKET {
                    return Err(Error::BadPacketLength(u32::from_be_bytes(*head)));
                }
                self.wire_length = Some(total);
                total
            }
        };
        let Some(packet) = self.input.bytes_mut().get_mut(..total) else { return Ok(None) };
        if self.used.wrapped() {
            return Err(Error::SequenceWrapped);
        }
        let range = self.key.open(self.sequence, packet)?;
        self.wire_length = None;
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        self.used.add(total);
        if self.used.bytes > self.byte_limit {
            return Err(Error::RekeyOverdue);
        }
        let kind = packet.get(range.start).copied().ok_or(Error::BadPadding)?;
        let at = self.input.consume(total);
        Ok(Some(Packet { range: at + range.start..at + range.end, kind, sequence }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clear IGNORE packet.
    const PACKET: [u8; 16] = [0, 0, 0, 12, 6, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    fn with_packet() -> Receiver {
        let mut receiver = Receiver::new();
        receiver.space()[..16].copy_from_slice(&PACKET);
        receiver.commit(16);
        receiver
    }

    #[test]
    fn a_sequence_number_does_not_come_twice_with_one_key() {
        let mut receiver = with_packet();
        receiver.used.packets = u64::from(u32::MAX) + 1;
        assert_eq!(receiver.next_packet().unwrap_err(), Error::SequenceWrapped);
    }

    #[test]
    fn a_peer_that_never_renews_its_key_is_stopped() {
        let mut receiver = with_packet();
        receiver.byte_limit = 1000;
        receiver.used.bytes = 984;
        assert!(receiver.next_packet().unwrap().is_some());
        let mut receiver = with_packet();
        receiver.byte_limit = 1000;
        receiver.used.bytes = 985;
        assert_eq!(receiver.next_packet().unwrap_err(), Error::RekeyOverdue);
    }
}
