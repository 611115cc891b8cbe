//! The bytes of a file, in order, with many READs on their way.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::ops::Range;

use crate::codec::{Reply, Request, Status};

use super::{Client, ClientError, Handle, Result, refusal, window};

/// Reads a file from a place to its end. Dropping it closes the handle.
///
/// READs are sent as far as the size that the caller expects; behind it one at a time asks whether there is more, so that a file that
/// has grown, or one of `/proc` with no size, is read whole, and a small file costs one round trip.
#[derive(Debug)]
pub struct Reader<'c, S: Read + Write> {
    client: &'c mut Client<S>,
    handle: Handle,
    /// Where the next piece to be handed out starts.
    at: u64,
    /// Where the next READ starts.
    next: u64,
    expected: u64,
    /// READs on their way.
    waiting: HashMap<u32, Part>,
    /// Pieces that came before their turn; they count against the window.
    early: BTreeMap<u64, Vec<u8>>,
    /// Where the file ends, once that was said.
    end: Option<u64>,
    lent: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    offset: u64,
    length: usize,
}

/// What is handed out next.
enum Piece {
    /// In the link's input.
    There(Range<usize>),
    Early(Vec<u8>),
}

impl<'c, S: Read + Write> Reader<'c, S> {
    /// Reads an open file, of which `expected` bytes are thought to be there, from `start` on.
    pub fn new(client: &'c mut Client<S>, handle: Handle, start: u64, expected: u64) -> Self {
        Self {
            client,
            handle,
            at: start,
            next: start,
            expected,
            waiting: HashMap::new(),
            early: BTreeMap::new(),
            end: None,
            lent: Vec::new(),
        }
    }

    /// The next bytes; `None` at the end of the file.
    ///
    /// # Errors
    /// [`ClientError`]. There is nothing more to be had then.
    pub fn next_piece(&mut self) -> Result<Option<&[u8]>> {
        let Some(piece) = self.wait()? else { return Ok(None) };
        let bytes = match piece {
            Piece::There(place) => self.client.link.bytes(&place),
            Piece::Early(bytes) => {
                self.lent = bytes;
                &self.lent
            }
        };
        self.at = self.at.saturating_add(bytes.len() as u64);
        Ok(Some(bytes))
    }

    fn wait(&mut self) -> Result<Option<Piece>> {
        loop {
            if let Some(bytes) = self.early.remove(&self.at) {
                return Ok(Some(Piece::Early(bytes)));
            }
            if self.end.is_some_and(|end| self.at >= end) {
                return Ok(None);
            }
            self.ask()?;
            let (id, packet) = self.client.link.receive()?;
            let part =
                self.waiting.remove(&id).ok_or(ClientError::Protocol("a reply to nothing that was asked"))?;
            let data = match self.client.link.reply(&packet)? {
                Reply::Data { data, .. } if data.is_empty() || data.len() > part.length => {
                    return Err(ClientError::Protocol("another number of bytes than was asked for"));
                }
                Reply::Data { data, .. } => data,
                Reply::Status { status: Status::EOF, .. } => {
                    self.end = Some(self.end.map_or(part.offset, |end| end.min(part.offset)));
                    continue;
                }
                // What lies behind the end does not matter.
                _ if self.end.is_some_and(|end| part.offset >= end) => continue,
                other => return Err(refusal(other)),
            };
            let (length, place) = (data.len(), self.client.link.place(data));
            let early = (part.offset != self.at).then(|| data.to_vec());
            if length < part.length {
                self.rest(part, length)?;
            }
            match early {
                Some(bytes) => drop(self.early.insert(part.offset, bytes)),
                None => return Ok(Some(Piece::There(place))),
            }
        }
    }

    /// Sends as many READs as the window allows.
    fn ask(&mut self) -> Result<()> {
        let longest = self.client.max_read;
        while self.end.is_none() && self.waiting.len() + self.early.len() < window(longest) {
            let left = self.expected.saturating_sub(self.next);
            let length = match usize::try_from(left) {
                Ok(0) if self.waiting.values().any(|part| part.offset >= self.expected) => break,
                Ok(0) => longest,
                Ok(left) => left.min(longest),
                Err(_) => longest,
            };
            self.send(Part { offset: self.next, length })?;
            self.next = self.next.saturating_add(length as u64);
        }
        Ok(())
    }

    /// Asks for what a READ did not bring.
    fn rest(&mut self, part: Part, got: usize) -> Result<()> {
        let offset = part.offset.saturating_add(got as u64);
        if part.offset < self.expected {
            return self.send(Part { offset, length: part.length - got });
        }
        // It was the only one behind the expected end: the next goes on from here.
        self.next = offset;
        Ok(())
    }

    fn send(&mut self, part: Part) -> Result<()> {
        let Part { offset, length } = part;
        let len = u32::try_from(length).unwrap_or(u32::MAX);
        let handle = &self.handle.0;
        let id = self.client.link.send(|id| Request::Read { id, handle, offset, len })?;
        self.waiting.insert(id, part);
        Ok(())
    }
}

impl<S: Read + Write> Drop for Reader<'_, S> {
    fn drop(&mut self) {
        self.waiting.keys().for_each(|id| self.client.link.forget(*id));
        // A stream that fails is noticed with the next request.
        let _ = self.client.close(Handle(std::mem::take(&mut self.handle.0)));
    }
}
