//! The two buffers between the session and its streams: requests are read in large gulps, replies written together.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::lend::Lender;
use crate::codec::MAX_PACKET;

/// Room for requests, in bytes: two of the longest packets, so that writes that belong together are often here together.
pub(super) const INPUT: usize = 2 * (MAX_PACKET + 4);
/// Room for replies, in bytes: as much; the longest reply always fits after a flush.
pub(super) const OUTPUT: usize = 2 * (MAX_PACKET + 4);
/// Replies are written when there are this many bytes of them, so that the client takes some while the next are made.
const FLUSH_AT: usize = 128 * 1024;

/// Bytes read and not yet used.
pub(super) struct Input {
    // Zeroed by the allocator: pages that are never used are never there.
    buf: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    pub(super) fn new() -> Self {
        Self { buf: vec![0; INPUT], start: 0, end: 0 }
    }

    /// What is there.
    pub(super) fn bytes(&self) -> &[u8] {
        self.buf.get(self.start..self.end).unwrap_or_default()
    }

    /// Marks bytes at the front as used.
    pub(super) fn consume(&mut self, n: usize) {
        self.start = self.start.saturating_add(n).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Reads once, as much as there is room for; 0 is the end. Waits when there is nothing.
    pub(super) fn fill(&mut self, from: BorrowedFd<'_>) -> io::Result<usize> {
        // The rest of an unfinished packet must have room. Moved only then: most often the buffer is used up to its end.
        if self.start > 0 && self.buf.len() - self.start < MAX_PACKET + 4 {
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let Some(room) = self.buf.get_mut(self.end..) else { return Ok(0) };
        loop {
            match rustix::io::read(from, &mut *room) {
                Ok(n) => {
                    self.end += n;
                    return Ok(n);
                }
                Err(Errno::AGAIN) => wait(from, PollFlags::IN)?,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Replies not yet written.
pub(super) struct Output<O> {
    to: O,
    buf: Vec<u8>,
    len: usize,
    lender: Lender,
}

impl<O: AsFd> Output<O> {
    pub(super) fn new(to: O) -> Self {
        Self { to, buf: vec![0; OUTPUT], len: 0, lender: Lender::new() }
    }

    /// See [`Lender::fetch`].
    pub(super) fn fetch(&mut self, file: BorrowedFd<'_>, offset: u64, len: usize) -> Option<usize> {
        self.lender.fetch(self.to.as_fd(), file, offset, len)
    }

    /// Sends what was fetched, with a header before it, after the replies that came before.
    pub(super) fn send_fetched(&mut self, header: &[u8], fetched: usize) -> io::Result<()> {
        self.flush()?;
        self.lender.send(self.to.as_fd(), header, fetched)
    }

    /// See [`Lender::settle`].
    pub(super) fn settle(&mut self) -> io::Result<()> {
        self.lender.settle(self.to.as_fd())
    }

    /// Room for `need` bytes, at most [`OUTPUT`]; writes out what is there if it must. What was put there counts after [`Self::commit`].
    pub(super) fn room(&mut self, need: usize) -> io::Result<&mut [u8]> {
        if self.buf.len() - self.len < need {
            self.flush()?;
        }
        let room = self.buf.get_mut(self.len..).and_then(|room| room.get_mut(..need));
        room.ok_or_else(|| io::Error::other("a reply is longer than the protocol allows"))
    }

    /// Takes `n` bytes of the room.
    pub(super) fn commit(&mut self, n: usize) -> io::Result<()> {
        self.len = self.len.saturating_add(n).min(self.buf.len());
        if self.len >= FLUSH_AT { self.flush() } else { Ok(()) }
    }

    /// Adds a whole reply.
    pub(super) fn push(&mut self, reply: &[u8]) -> io::Result<()> {
        self.room(reply.len())?.copy_from_slice(reply);
        self.commit(reply.len())
    }

    /// Writes everything out; waits as long as nobody takes it.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let mut rest = self.buf.get(..self.len).unwrap_or_default();
        while !rest.is_empty() {
            match rustix::io::write(&self.to, rest) {
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(Errno::AGAIN) => wait(self.to.as_fd(), PollFlags::OUT)?,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.len = 0;
        Ok(())
    }
}

/// Waits for a stream that was made non-blocking by somebody else.
pub(super) fn wait(fd: BorrowedFd<'_>, flags: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::from_borrowed_fd(fd, flags)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
