//! Channel data, both ways. This is the path that carries the load: input is lent out in segments, output is written by
//! the application straight into the transport's buffer, and encrypted there.

use std::io::{self, IoSliceMut};

use super::messages::take;
use super::{ChannelId, Connection, Segment, msg};
use crate::channel::{FromPeer, Phase, ToPeer};
use crate::event::StreamKind;

/// What a reader gets.
#[derive(Debug)]
pub enum Taken {
    /// Data; to be given back with [`Connection::give_back`].
    Data(Segment),
    /// The client has sent EOF or CLOSE, or we have closed, and everything was taken.
    Eof,
    /// Nothing yet; a notice will follow.
    Pending,
    /// The connection has ended.
    Reset,
}

/// What a writer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writable {
    /// Send up to this many bytes, at least one; they may need several packets.
    Ready(usize),
    /// Wait; a notice will follow.
    Pending,
    /// EOF or CLOSE was sent, or the client has closed.
    Closed,
    /// The connection has ended.
    Reset,
}

/// Who asks whether a channel is writable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interest {
    /// Wants a notice if it is not.
    Notice,
    /// Only wants to know.
    None,
}

impl Connection {
    /// Hands out the next segment of data.
    pub fn take_data(&mut self, id: ChannelId) -> Taken {
        let Some(channel) = self.upper.channels.get_mut(id) else { return Taken::Reset };
        if let Some(segment) = channel.queue.pop() {
            return Taken::Data(segment);
        }
        if channel.from_peer != FromPeer::Open || channel.to_peer == ToPeer::Closed {
            return Taken::Eof;
        }
        if self.ended.is_some() {
            return Taken::Reset;
        }
        channel.waiting.read = true;
        Taken::Pending
    }

    /// Says that `len` bytes have been taken by the consumer, which gives their window back to the client, and returns the
    /// segment if it has been used up.
    pub fn give_back(&mut self, id: ChannelId, len: usize, segment: Option<Segment>) {
        if let Some(segment) = segment {
            self.upper.spares.recycle(segment);
        }
        let Some(channel) = self.upper.channels.get_mut(id) else { return };
        if len > 0 && self.ended.is_none() && matches!(channel.phase, Phase::Open) {
            let sent = take(channel, len, self.transport.sender());
            self.settle(sent);
        }
    }

    /// Whether data may be sent; if not, a notice will follow.
    pub fn writable(&mut self, id: ChannelId) -> Writable {
        self.room(id, Interest::Notice)
    }

    fn room(&mut self, id: ChannelId, interest: Interest) -> Writable {
        let upper = &mut self.upper;
        let Some(channel) = upper.channels.get_mut(id) else { return Writable::Reset };
        if self.ended.is_some() {
            return Writable::Reset;
        }
        if channel.to_peer != ToPeer::Open {
            return Writable::Closed;
        }
        let window =
            upper.typing.room(&mut channel.leash, channel.send.open(), channel.send.under_way(), upper.now);
        let room = if self.transport.can_send_data() {
            upper.gate.room(channel, self.transport.output_len())
        } else {
            // Remembered, so that the end of the key exchange is seen and wakes those who wait.
            self.could_send = false;
            0
        };
        if window > 0 && room > 0 {
            return Writable::Ready(window.min(room));
        }
        if interest == Interest::Notice {
            channel.waiting.write = true;
            if window > 0 && !channel.waiting.gated {
                channel.waiting.gated = true;
                upper.gate.wait(id);
            }
        }
        Writable::Pending
    }

    /// Sends one or more packets with at most `max` bytes that `fill` writes into the output buffer, as with `readv(2)`: it gets
    /// one slice for each packet, fills them in order and says how many bytes it wrote in all. Nothing is sent when `fill`
    /// fails or writes nothing.
    ///
    /// # Errors
    /// `WouldBlock` when [`writable`](Self::writable) is pending, `BrokenPipe` when the channel is closed, `ConnectionReset`
    /// when the connection has ended, and whatever `fill` returns.
    pub fn fill(
        &mut self,
        id: ChannelId,
        stream: StreamKind,
        max: usize,
        fill: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let room = match self.room(id, Interest::None) {
            Writable::Ready(room) => room.min(max),
            Writable::Pending => return Err(io::ErrorKind::WouldBlock.into()),
            Writable::Closed => return Err(io::ErrorKind::BrokenPipe.into()),
            Writable::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
        };
        if room == 0 {
            return Ok(0);
        }
        let Some(channel) = self.upper.channels.get_mut(id) else {
            return Err(io::ErrorKind::ConnectionReset.into());
        };
        let mut head = [0; 9];
        head[0] = match stream {
            StreamKind::Stdout => msg::CHANNEL_DATA,
            StreamKind::Stderr => msg::CHANNEL_EXTENDED_DATA,
        };
        head[1..5].copy_from_slice(&channel.remote.to_be_bytes());
        // SSH_EXTENDED_DATA_STDERR
        head[5..9].copy_from_slice(&1u32.to_be_bytes());
        let head: &[u8] = match stream {
            StreamKind::Stdout => &head[..5],
            StreamKind::Stderr => &head,
        };
        let each = room.min(channel.send.packet());
        let filled = self.transport.send_data(head, each, room, fill)?;
        if filled > 0 {
            channel.send.charge(filled);
            self.upper.gate.count(channel, filled);
            self.upper.active = true;
        }
        Ok(filled)
    }
}
