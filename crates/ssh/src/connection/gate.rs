//! Who may put data into the output, and how much.
//!
//! All channels share one output buffer, so fairness between them is decided when they fill it. The gate has rounds: a
//! new one begins whenever the socket has taken so much that the output is below its low mark, and then everyone who waits
//! is told, in the order in which they began to wait. In a round
//!
//! * a channel may send while the output is below the high mark and the channel is below its share of it, the share being
//!   the high mark divided by the number of channels that compete;
//! * a channel that has sent almost nothing yet may pass the marks with a little data. So a key echo goes out at once
//!   however much is being sent on other channels, and waits only behind what is in the output already.
//!
//! The output is thus bounded by the high mark, one packet, and [`PASS`] for each channel up to [`PASS_TOTAL`].

use std::collections::VecDeque;

use crate::channel::{Channel, ChannelId, MAX_DATA};

/// What a channel may send in a round though the output is full, in bytes: a screenful.
const PASS: usize = 4 * 1024;
/// How far such data may push the output past the high mark, in bytes.
const PASS_TOTAL: usize = 64 * 1024;

/// The state of the gate.
#[derive(Debug)]
pub(crate) struct Gate {
    high: usize,
    round: u64,
    senders: usize,
    senders_before: usize,
    /// Channels that were turned away, in order; each at most once.
    waiting: VecDeque<ChannelId>,
}

impl Gate {
    pub(crate) fn new(high: usize) -> Self {
        Self { high: high.max(MAX_DATA), round: 1, senders: 0, senders_before: 0, waiting: VecDeque::new() }
    }

    fn sent(&self, channel: &Channel) -> usize {
        if channel.round == self.round { channel.round_bytes } else { 0 }
    }

    /// How many bytes `channel` may send now; 0 means that it has to wait.
    pub(crate) fn room(&self, channel: &Channel, output: usize) -> usize {
        let sent = self.sent(channel);
        let rivals = self.senders.max(self.senders_before).max(self.waiting.len()).max(1);
        let share = (self.high / rivals).max(MAX_DATA);
        if output < self.high && sent < share {
            (self.high - output).min(share - sent).max(MAX_DATA)
        } else if output < self.high.saturating_add(PASS_TOTAL) {
            PASS.saturating_sub(sent)
        } else {
            0
        }
    }

    /// Counts what `channel` has sent.
    pub(crate) fn count(&mut self, channel: &mut Channel, len: usize) {
        if channel.round == self.round {
            channel.round_bytes = channel.round_bytes.saturating_add(len);
        } else {
            channel.round = self.round;
            channel.round_bytes = len;
            self.senders = self.senders.saturating_add(1);
        }
    }

    /// Notes that a channel was turned away. The caller makes sure that a channel does not wait twice.
    pub(crate) fn wait(&mut self, id: ChannelId) {
        self.waiting.push_back(id);
    }

    /// Takes a channel that is gone out of the line.
    pub(crate) fn forget(&mut self, id: ChannelId) {
        self.waiting.retain(|waiting| *waiting != id);
    }

    /// Says how much output is left after the socket took some, and gives those who may try again.
    pub(crate) fn drained(&mut self, output: usize) -> impl Iterator<Item = ChannelId> + '_ {
        let low = output <= self.high / 2;
        if low {
            self.round = self.round.wrapping_add(1);
            self.senders_before = std::mem::take(&mut self.senders);
        }
        let ready = if low { self.waiting.len() } else { 0 };
        self.waiting.drain(..ready)
    }
}
