//! Large pieces of files go into the pipe to the client as pages of the kernel's cache, without being copied through this process.
//!
//! A page that is lent so is not copied before the other end reads it: who changes the file in the meantime changes the reply too. Other
//! processes may, as they may while any copy is made; requests of this session may not. Before one of them changes what a file holds,
//! the session waits until the pipe is empty ([`Lender::settle`]).
//!
//! How many bytes a reply has stands before them. So they are fetched into a pipe of our own first, the header goes into a second one, the
//! bytes after it, and all of it together to the client, whose end then wakes once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionread};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};

use super::buffers::wait;
use crate::codec::MAX_DATA;

/// Pieces shorter than this are copied, in bytes: a handful of system calls costs more than a copy of some pages.
pub(super) const LEAST: usize = 64 * 1024;
/// Size of our own pipes, in bytes: the longest piece takes a place for each page, and one for the header.
const PIPE: usize = (2 * MAX_DATA).next_power_of_two();
/// How long it takes until it is looked again whether the client's end has read everything, at first and at most: there is nothing to wait on.
const LOOK: [Duration; 2] = [Duration::from_micros(100), Duration::from_millis(20)];

/// The two pipes of a session, made when first needed, and what is known of the way.
pub(super) struct Lender {
    pipes: Pipes,
    /// Something lent may not have been read.
    lent: bool,
}

enum Pipes {
    NotYet,
    Made {
        data: Pipe,
        reply: Pipe,
    },
    /// The client is at no pipe, or the system gives none.
    Never,
}

struct Pipe {
    from: OwnedFd,
    to: OwnedFd,
}

impl Pipe {
    fn new() -> Result<Self, Errno> {
        let (from, to) = pipe_with(PipeFlags::CLOEXEC)?;
        if fcntl_setpipe_size(&to, PIPE)? < PIPE { Err(Errno::NOMEM) } else { Ok(Self { from, to }) }
    }
}

impl Lender {
    pub(super) fn new() -> Self {
        Self { pipes: Pipes::NotYet, lent: false }
    }

    /// Fetches up to `len` bytes of a file, less only at its end. `None` when this file, or any, does not go this way: it is read then.
    pub(super) fn fetch(
        &mut self,
        client: BorrowedFd<'_>,
        file: BorrowedFd<'_>,
        mut offset: u64,
        len: usize,
    ) -> Option<usize> {
        if matches!(self.pipes, Pipes::NotYet) {
            self.pipes = make(client);
        }
        let Pipes::Made { data, .. } = &self.pipes else { return None };
        let mut fetched = 0;
        while fetched < len {
            match splice(file, Some(&mut offset), &data.to, None, len - fetched, SpliceFlags::NONBLOCK) {
                Ok(0) => break,
                Ok(n) => fetched += n,
                Err(Errno::INTR) => {}
                // What is there is a reply; a fault comes again with the next request, or is told by reading.
                Err(_) if fetched > 0 => break,
                Err(_) => return None,
            }
        }
        Some(fetched)
    }

    /// Sends a header and the bytes that were fetched.
    pub(super) fn send(&mut self, client: BorrowedFd<'_>, header: &[u8], fetched: usize) -> io::Result<()> {
        let Pipes::Made { data, reply } = &self.pipes else { return Ok(()) };
        // An empty pipe takes it at once.
        rustix::io::write(&reply.to, header)?;
        carry(&data.from, &reply.to, fetched)?;
        self.lent = true;
        carry(&reply.from, client, header.len() + fetched)
    }

    /// Waits until the client's end has read all that was lent.
    pub(super) fn settle(&mut self, client: BorrowedFd<'_>) -> io::Result<()> {
        let [mut pause, longest] = LOOK;
        while self.lent {
            if ioctl_fionread(client).is_ok_and(|unread| unread == 0) {
                self.lent = false;
                break;
            }
            // A pipe without a reader is never empty.
            let mut fds = [PollFd::from_borrowed_fd(client, PollFlags::empty())];
            let timeout = Timespec { tv_sec: 0, tv_nsec: pause.subsec_nanos().into() };
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) | Err(Errno::INTR) => pause = longest.min(pause * 2),
                Ok(_) => return Err(io::ErrorKind::BrokenPipe.into()),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

fn make(client: BorrowedFd<'_>) -> Pipes {
    // Into a pipe that is smaller than a piece it goes in parts, and each of them would wake the client's end.
    if !fcntl_getpipe_size(client).is_ok_and(|size| size >= PIPE) {
        return Pipes::Never;
    }
    match (Pipe::new(), Pipe::new()) {
        (Ok(data), Ok(reply)) => Pipes::Made { data, reply },
        _ => Pipes::Never,
    }
}

/// Moves so many bytes that are there from one pipe to another; waits as long as nobody takes them.
fn carry(from: &OwnedFd, to: impl AsFd, mut left: usize) -> io::Result<()> {
    while left > 0 {
        match splice(from, None, &to, None, left, SpliceFlags::empty()) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => left -= n.min(left),
            Err(Errno::AGAIN) => wait(to.as_fd(), PollFlags::OUT)?,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
