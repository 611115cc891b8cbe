//! Packets over the stream: requests are collected and sent together, replies are cut out of one buffer.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::ops::Range;

use crate::codec::{MAX_PACKET, Reply, Request, VERSION, frame};

use super::{ClientError, Result};

/// The buffer for replies, in bytes: the longest packet with its length field, and as much again so that a read brings many.
const INPUT: usize = 2 * (MAX_PACKET + 4);
/// Requests are sent at the latest when they are so many bytes.
const OUTPUT: usize = MAX_PACKET;

#[derive(Debug)]
pub(super) struct Link<S> {
    stream: S,
    output: Vec<u8>,
    input: Vec<u8>,
    /// What was read and not taken.
    unread: Range<usize>,
    next_id: u32,
    /// Requests whose replies nobody waits for.
    unwanted: HashSet<u32>,
}

impl<S: Read + Write> Link<S> {
    pub fn new(stream: S) -> Self {
        let (output, unwanted) = (Vec::new(), HashSet::new());
        Self { stream, output, input: vec![0; INPUT], unread: 0..0, next_id: 0, unwanted }
    }

    pub fn send_init(&mut self) -> Result<()> {
        Request::Init { version: VERSION }.encode(&mut self.output);
        self.flush()
    }

    /// Sends a request, at the latest with the next [`Self::receive`], and tells its id.
    pub fn send<'r>(&mut self, request: impl FnOnce(u32) -> Request<'r>) -> Result<u32> {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        request(id).encode(&mut self.output);
        if self.output.len() >= OUTPUT {
            self.flush()?;
        }
        Ok(id)
    }

    /// The reply to this request will be thrown away.
    pub fn forget(&mut self, id: u32) {
        self.unwanted.insert(id);
    }

    /// Whether no reply that nobody waits for is still to come.
    #[cfg(test)]
    pub fn is_idle(&self) -> bool {
        self.unwanted.is_empty()
    }

    fn flush(&mut self) -> Result<()> {
        let sent = self.stream.write_all(&self.output).and_then(|()| self.stream.flush());
        self.output.clear();
        sent.map_err(ClientError::Lost)
    }

    /// The first packet, which has no id.
    pub fn receive_version(&mut self) -> Result<Range<usize>> {
        self.packet()
    }

    /// Waits for the next reply that is wanted: the id of its request, and where it is until the next call.
    pub fn receive(&mut self) -> Result<(u32, Range<usize>)> {
        self.flush()?;
        loop {
            let packet = self.packet()?;
            let id = match self.input[packet.clone()] {
                [_, a, b, c, d, ..] => u32::from_be_bytes([a, b, c, d]),
                _ => return Err(ClientError::Protocol("a reply without an id")),
            };
            if !self.unwanted.remove(&id) {
                return Ok((id, packet));
            }
        }
    }

    /// The reply at a place that [`Self::receive`] told.
    pub fn reply(&self, packet: &Range<usize>) -> Result<Reply<'_>> {
        Reply::decode(self.bytes(packet)).map_err(|_| ClientError::Protocol("a malformed reply"))
    }

    /// Bytes of the input.
    pub fn bytes(&self, place: &Range<usize>) -> &[u8] {
        self.input.get(place.clone()).unwrap_or_default()
    }

    /// Where in the input a part of it lies.
    pub fn place(&self, part: &[u8]) -> Range<usize> {
        let start = part.as_ptr().addr().saturating_sub(self.input.as_ptr().addr());
        start..start.saturating_add(part.len())
    }

    /// Cuts a packet off, reading as long as it is not all there.
    fn packet(&mut self) -> Result<Range<usize>> {
        loop {
            let start = self.unread.start;
            match frame(&self.input[self.unread.clone()]) {
                Err(_) => return Err(ClientError::Protocol("a packet longer than 256 KiB")),
                Ok(Some(packet)) => {
                    let place = start + 4..start + 4 + packet.len();
                    self.unread.start = place.end;
                    return Ok(place);
                }
                Ok(None) => self.read()?,
            }
        }
    }

    fn read(&mut self) -> Result<()> {
        if self.unread.is_empty() {
            self.unread = 0..0;
        } else if self.unread.start >= INPUT / 2 {
            // So there is always room for the longest packet.
            self.input.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        match self.stream.read(&mut self.input[self.unread.end..]) {
            Ok(0) => Err(ClientError::Lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => {
                self.unread.end += read;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(ClientError::Lost(error)),
        }
    }
}
