//! The sending half: seals packets into the output and holds messages back during a key exchange (RFC 4253 §7.1).
//!
//! Between our `SSH_MSG_KEXINIT` and our `SSH_MSG_NEWKEYS` only transport messages (1–4, 20–49) may leave. Upper-layer
//! messages given to [`Sender::send`] in that time wait in a queue bounded by [`Config::pending_limit`];
//! [`Sender::send_data`], the way of bulk data, refuses instead, so that data stays with whoever produces it.

use std::io::IoSliceMut;
use std::sync::Arc;

use super::messages::{MSG_DISCONNECT, MSG_KEXINIT, MSG_NEWKEYS, MSG_UNIMPLEMENTED, is_transport_message};
use super::{Config, DisconnectReason, Error};
use crate::algorithm::{Cipher, Offer, STRICT_SERVER};
use crate::codec::Writer;
use crate::packet::{HEADER, MAX_PAYLOAD, MAX_TRAILER, OutputBuffer, SealKey};

/// No more than this many bytes may wait for the socket. Reaching it means that the peer makes us answer without reading
/// the answers, or that a caller ignores [`Sender::output_len`]; the connection ends.
pub const OUTPUT_LIMIT: usize = 8 * 1024 * 1024;

/// Each message held back costs its length and this many bytes, for the bound of the queue.
const PENDING_OVERHEAD: usize = 4;

/// The most packets that [`Sender::send_data`] lays out at once: 256 KiB of data in packets of the usual size, so that a read
/// from a pipe wakes its writer once for all of it.
pub const MOST_PACKETS: usize = 8;
/// The length of a string on the wire (RFC 4251 §5).
const LENGTH: usize = 4;

/// Whether upper-layer messages may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// No key exchange is between our KEXINIT and our NEWKEYS.
    Open,
    /// Upper-layer messages are held back.
    Held,
    /// The connection has ended from our side; nothing leaves any more.
    Closed,
}

/// How far a key may be used before our side begins a key exchange.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyLimits {
    pub bytes: u64,
    pub packets: u64,
}

impl KeyLimits {
    /// From the configuration, and never past half of what RFC 4344 allows: the peer gets time to answer.
    pub fn new(config: &Config, cipher: Cipher) -> Self {
        Self {
            bytes: config.rekey_bytes.clamp(1, cipher.byte_limit() / 2),
            packets: u64::from(config.rekey_packets.clamp(1, 1 << 31)),
        }
    }

    /// Before the first keys nothing is counted against a limit.
    pub const NONE: Self = Self { bytes: u64::MAX, packets: u64::MAX };
}

/// The packets and bytes of one direction under one key.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct KeyUse {
    pub bytes: u64,
    pub packets: u64,
}

impl KeyUse {
    pub const fn add(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.packets = self.packets.saturating_add(1);
    }

    pub const fn exceeds(&self, limits: &KeyLimits) -> bool {
        self.bytes >= limits.bytes || self.packets >= limits.packets
    }

    /// True when the next packet would use a sequence number a second time with this key.
    pub const fn wrapped(&self) -> bool {
        self.packets > u32::MAX as u64
    }
}

/// The sending half: everything that may be called while a [`Payload`](super::Payload) is still borrowed.
#[derive(Debug)]
pub struct Sender {
    config: Arc<Config>,
    offer: Offer,
    output: OutputBuffer,
    key: SealKey,
    sequence: u32,
    used: KeyUse,
    limits: KeyLimits,
    gate: Gate,
    /// Our KEXINIT, from when it is sent until the exchange is over on both sides.
    own_init: Option<Vec<u8>>,
    /// The first key exchange has not ended.
    first_exchange: bool,
    /// Messages held back, one after the other, each after its length.
    pending: Vec<u8>,
}

impl Sender {
    pub(super) fn new(config: Arc<Config>) -> Self {
        let offer = Offer::new(&config);
        Self {
            config,
            offer,
            output: OutputBuffer::default(),
            key: SealKey::Clear,
            sequence: 0,
            used: KeyUse::default(),
            limits: KeyLimits::NONE,
            gate: Gate::Held,
            own_init: None,
            first_exchange: true,
            pending: Vec::new(),
        }
    }

    /// Sends one message; `payload` begins with the message number. During a key exchange an upper-layer message is held
    /// back and follows the exchange in order.
    ///
    /// # Errors
    /// [`Error::PendingOverflow`] when too much is held back or waits for the socket, [`Error::MessageTooLarge`] when it
    /// does not fit into a packet, [`Error::Closed`] after the end.
    pub fn send(&mut self, payload: &[u8]) -> Result<(), Error> {
        match self.gate {
            Gate::Closed => Err(Error::Closed),
            Gate::Held if !payload.first().is_some_and(|kind| is_transport_message(*kind)) => {
                self.hold(payload)
            }
            Gate::Open | Gate::Held => self.seal_copy(payload),
        }
    }

    /// Sends data in one or more packets, each with the payload `head`, the length of its data and the data. `fill` writes
    /// the data straight into the output, as with `readv(2)`: it gets room for at most `total` bytes in pieces of `each`
    /// bytes (at most [`MOST_PACKETS`] of them, at least one; the room holds old output, not zeros), fills them in order,
    /// and says how many bytes it wrote in all, which is returned. What it wrote is then sealed in place. `Ok(0)` sends
    /// nothing.
    ///
    /// # Errors
    /// [`Error::Rekeying`] when [`Sender::can_send_data`] is false, [`Error::MessageTooLarge`] when a payload is more than
    /// [`MAX_PAYLOAD`] or `fill` returns more than it had room for, or the error of `fill`; in all these cases nothing is
    /// sent.
    pub fn send_data<E: From<Error>>(
        &mut self,
        head: &[u8],
        each: usize,
        total: usize,
        fill: impl FnOnce(&mut [IoSliceMut<'_>]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        match self.gate {
            Gate::Open => {}
            Gate::Held => return Err(Error::Rekeying.into()),
            Gate::Closed => return Err(Error::Closed.into()),
        }
        let at_data = head.len().saturating_add(LENGTH);
        let payload = at_data.saturating_add(each);
        if payload > MAX_PAYLOAD || each == 0 || total == 0 {
            return Err(Error::MessageTooLarge.into());
        }
        if self.output.len() > OUTPUT_LIMIT {
            return Err(Error::PendingOverflow.into());
        }
        let count = total.div_ceil(each).min(MOST_PACKETS);
        let total = total.min(count.saturating_mul(each));
        let stride = self.key.sealed_len(payload);
        let room = self.output.room(stride.saturating_mul(count).saturating_add(HEADER + MAX_TRAILER));
        let mut slices: [IoSliceMut<'_>; MOST_PACKETS] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let mut left = total;
        for (slice, packet) in slices.iter_mut().zip(room.chunks_mut(stride)).take(count) {
            let len = left.min(each);
            left -= len;
            let data = packet.get_mut(HEADER..).and_then(|p| p.get_mut(at_data..)?.get_mut(..len));
            *slice = IoSliceMut::new(data.ok_or(Error::MessageTooLarge)?);
        }
        let filled = fill(slices.get_mut(..count).unwrap_or_default())?;
        if filled > total {
            return Err(Error::MessageTooLarge.into());
        }
        let mut left = filled;
        while left > 0 {
            let len = left.min(each);
            left -= len;
            let room = self.output.room(HEADER + at_data + len + MAX_TRAILER);
            let front = room.get_mut(HEADER..HEADER + at_data).ok_or(Error::MessageTooLarge)?;
            let (front, length) = front.split_at_mut(head.len());
            front.copy_from_slice(head);
            length.copy_from_slice(&u32::try_from(len).map_err(|_| Error::MessageTooLarge)?.to_be_bytes());
            self.seal_next(at_data + len)?;
        }
        // Only now: our KEXINIT may not come between the packets that were laid out together.
        self.begin_exchange_if_due()?;
        Ok(filled)
    }

    /// False before the first key exchange is done, while a later one holds upper-layer messages back, and after the end.
    #[must_use]
    pub fn can_send_data(&self) -> bool {
        self.gate == Gate::Open
    }

    /// Bytes waiting to be written to the socket. Producers of bulk data should stop above a mark of their choice, well
    /// below [`OUTPUT_LIMIT`], and the socket should not be read above it either.
    #[must_use]
    pub const fn output_len(&self) -> usize {
        self.output.len()
    }

    /// Answers the packet with the given sequence number with `SSH_MSG_UNIMPLEMENTED` (RFC 4253 §11.4).
    ///
    /// # Errors
    /// As for [`Sender::send`].
    pub fn send_unimplemented(&mut self, sequence: u32) -> Result<(), Error> {
        let mut message = Writer::message(MSG_UNIMPLEMENTED);
        message.u32(sequence);
        self.send(message.as_slice())
    }

    /// Queues `SSH_MSG_DISCONNECT` (RFC 4253 §11.1). Messages that are still held back are dropped, and nothing can be sent
    /// afterwards: write the output out, then close.
    pub fn disconnect(&mut self, reason: DisconnectReason, text: &str) {
        let mut message = Writer::message(MSG_DISCONNECT);
        message.u32(reason.code()).string(text).string("");
        // A peer that cannot be told is cut off all the same.
        let _ = self.send(message.as_slice());
        self.close();
    }

    pub(super) fn close(&mut self) {
        self.gate = Gate::Closed;
        self.pending = Vec::new();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.gate == Gate::Closed
    }

    pub(super) const fn offer(&self) -> &Offer {
        &self.offer
    }

    pub(super) const fn output(&self) -> &OutputBuffer {
        &self.output
    }

    pub(super) const fn output_mut(&mut self) -> &mut OutputBuffer {
        &mut self.output
    }

    /// Our KEXINIT of the exchange that is running.
    pub(super) fn own_init(&self) -> Option<&[u8]> {
        self.own_init.as_deref()
    }

    /// Raw bytes before the first packet: the identification line.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        if let Some(room) = self.output.room(bytes.len()).get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
            self.output.commit(bytes.len());
        }
    }

    /// Sends our KEXINIT and shuts the gate, unless an exchange is running.
    pub(super) fn begin_exchange(&mut self) -> Result<(), Error> {
        if self.own_init.is_some() || self.gate == Gate::Closed {
            return Ok(());
        }
        let mut cookie = [0; 16];
        aws_lc_rs::rand::fill(&mut cookie).map_err(|_| Error::Crypto)?;
        let mut message = Writer::message(MSG_KEXINIT);
        let strict = self.first_exchange.then_some(STRICT_SERVER);
        let ciphers = || self.offer.ciphers.iter().map(|c| c.name());
        let macs = || self.offer.macs.iter().map(|m| m.name());
        message
            .raw(&cookie)
            .name_list(self.offer.kex.iter().map(|k| k.name()).chain(strict))
            .name_list(self.offer.host_key.iter().map(|k| k.name()))
            .name_list(ciphers())
            .name_list(ciphers())
            .name_list(macs())
            .name_list(macs())
            .name_list(["none"])
            .name_list(["none"])
            .name_list([])
            .name_list([])
            .bool(false)
            .u32(0);
        // First the state, then the packet: sealing looks at the state to see whether an exchange is due.
        self.gate = Gate::Held;
        let message = self.own_init.insert(message.into_vec()).clone();
        self.seal_copy(&message)
    }

    /// Sends our NEWKEYS and uses `key` from then on.
    pub(super) fn switch_keys(
        &mut self,
        key: SealKey,
        cipher: Cipher,
        sequence: SequenceNumbers,
    ) -> Result<(), Error> {
        self.seal_copy(&[MSG_NEWKEYS])?;
        self.key = key;
        self.used = KeyUse::default();
        self.limits = KeyLimits::new(&self.config, cipher);
        if sequence == SequenceNumbers::Restart {
            self.sequence = 0;
        }
        Ok(())
    }

    /// Sends a message ahead of everything that is held back.
    pub(super) fn send_first(&mut self, payload: &[u8]) -> Result<(), Error> {
        self.seal_copy(payload)
    }

    /// Opens the gate again and sends what was held back.
    pub(super) fn release_pending(&mut self) -> Result<(), Error> {
        self.gate = Gate::Open;
        self.first_exchange = false;
        let pending = std::mem::take(&mut self.pending);
        let mut messages = crate::codec::Reader::new(&pending);
        while !messages.is_empty() {
            self.seal_copy(messages.string()?)?;
        }
        Ok(())
    }

    /// Both sides have changed keys; another exchange may begin.
    pub(super) fn end_exchange(&mut self) -> Result<(), Error> {
        self.own_init = None;
        self.begin_exchange_if_due()
    }

    fn begin_exchange_if_due(&mut self) -> Result<(), Error> {
        if self.gate == Gate::Open && self.own_init.is_none() && self.used.exceeds(&self.limits) {
            return self.begin_exchange();
        }
        Ok(())
    }

    fn hold(&mut self, payload: &[u8]) -> Result<(), Error> {
        let len = u32::try_from(payload.len()).map_err(|_| Error::MessageTooLarge)?;
        let total = self.pending.len().saturating_add(payload.len()).saturating_add(PENDING_OVERHEAD);
        if payload.len() > MAX_PAYLOAD {
            return Err(Error::MessageTooLarge);
        }
        if total > self.config.pending_limit {
            return Err(Error::PendingOverflow);
        }
        self.pending.extend_from_slice(&len.to_be_bytes());
        self.pending.extend_from_slice(payload);
        Ok(())
    }

    fn seal_copy(&mut self, payload: &[u8]) -> Result<(), Error> {
        if payload.len() > MAX_PAYLOAD || payload.is_empty() {
            return Err(Error::MessageTooLarge);
        }
        self.reserve(payload.len())?.copy_from_slice(payload);
        self.seal_reserved(payload.len())
    }

    /// Exactly `len` bytes of room for a payload.
    fn reserve(&mut self, len: usize) -> Result<&mut [u8], Error> {
        if self.output.len() > OUTPUT_LIMIT {
            return Err(Error::PendingOverflow);
        }
        self.output
            .room(HEADER + len + MAX_TRAILER)
            .get_mut(HEADER..HEADER + len)
            .ok_or(Error::MessageTooLarge)
    }

    /// Seals the payload that was written to the start of the reserved room.
    fn seal_reserved(&mut self, len: usize) -> Result<(), Error> {
        self.seal_next(len)?;
        self.begin_exchange_if_due()
    }

    /// As [`Sender::seal_reserved`], but begins no key exchange.
    fn seal_next(&mut self, len: usize) -> Result<(), Error> {
        if self.used.wrapped() {
            return Err(Error::SequenceWrapped);
        }
        let room = self.output.room(HEADER + len + MAX_TRAILER);
        let total = self.key.seal(self.sequence, room, len)?;
        self.output.commit(total);
        self.sequence = self.sequence.wrapping_add(1);
        self.used.add(total);
        Ok(())
    }

    /// Frees buffers that hold nothing.
    pub(super) fn release_idle_memory(&mut self) {
        self.output.release();
    }
}

/// What happens to the sequence numbers at NEWKEYS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SequenceNumbers {
    /// RFC 4253 §6.4: they run on.
    RunOn,
    /// Strict key exchange: they begin again at zero.
    Restart,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::server_config;

    #[test]
    fn a_key_is_never_used_for_more_packets_than_there_are_sequence_numbers() {
        let mut sender = Sender::new(Arc::new(server_config()));
        sender.used.packets = u64::from(u32::MAX);
        sender.sequence = u32::MAX;
        assert_eq!(sender.send_unimplemented(0), Ok(()), "the last number may be used");
        assert_eq!(sender.send_unimplemented(0), Err(Error::SequenceWrapped));
    }

    #[test]
    fn limits_stay_within_what_the_cipher_allows() {
        let config = Config { rekey_bytes: u64::MAX, rekey_packets: u32::MAX, ..server_config() };
        let limits = KeyLimits::new(&config, Cipher::Aes256Gcm);
        assert_eq!((limits.bytes, limits.packets), (1 << 35, 1 << 31));
        let limits =
            KeyLimits::new(&Config { rekey_bytes: 0, rekey_packets: 0, ..config }, Cipher::Aes256Gcm);
        assert_eq!((limits.bytes, limits.packets), (1, 1));
    }
}
