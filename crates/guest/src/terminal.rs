//! A terminal that was made on the host side: the process has one side, we keep the other.
//!
//! Ours is an open file of its own, which nobody else holds, so nothing that the guest does to its side changes how ours behaves: reads and
//! writes never wait.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::termios::{Winsize, tcsendbreak, tcsetwinsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::WindowSize;

/// How often a terminal is read in a row before its end is believed. The kernel moves what was written in a task of its own; when that has to
/// pause for room just as the room is made, a read finds nothing and says so (Linux 6.18: about once in 10,000 ends of `seq 1 20000`). The next
/// read waits for the task. The third is a margin.
const LAST_LOOKS: u32 = 3;

/// Both sides of a new terminal.
#[derive(Debug)]
pub struct Terminal {
    /// What stays here. It must not block, and nobody else may hold it.
    pub master: OwnedFd,
    /// What the process gets.
    pub slave: OwnedFd,
}

/// Our side while the process runs. Dropping it hangs the terminal up.
#[derive(Debug)]
pub(crate) struct Master {
    /// Empty only while it is dropped.
    file: Option<AsyncFd<OwnedFd>>,
}

impl Master {
    /// Must be called in a runtime.
    pub(crate) fn new(master: OwnedFd) -> io::Result<Self> {
        // The successor is unsafe because the number behind a file might change under it; that of an OwnedFd does not.
        #[allow(deprecated, reason = "the safe form, sound for an OwnedFd")]
        let file = AsyncFd::with_interest(master, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { file: Some(file) })
    }

    fn file(&self) -> io::Result<&AsyncFd<OwnedFd>> {
        self.file.as_ref().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// Waits until there may be something to read.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(ready!(self.file()?.poll_read_ready(cx)).map(|mut guard| guard.retain_ready()))
    }

    /// Reads if there may be something; `WouldBlock` if not.
    pub(crate) fn try_read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.file()?.try_io(Interest::READABLE, |fd| Ok(rustix::io::readv(fd, bufs)?))
    }

    /// Reads whether or not the kernel has told of something. All that was written before this call has been read when it says
    /// `WouldBlock`, or fails because nobody has the other side open.
    pub(crate) fn read_rest(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let file = self.file()?;
        let mut looks = 1;
        loop {
            match rustix::io::readv(file, bufs) {
                Err(Errno::IO | Errno::AGAIN) if looks < LAST_LOOKS => looks += 1,
                result => return Ok(result?),
            }
        }
    }

    /// Types `data`, or as much of it as there is room for.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let file = self.file()?;
        loop {
            let mut guard = ready!(file.poll_write_ready(cx))?;
            match guard.try_io(|fd| Ok(rustix::io::writev(fd, &[IoSlice::new(data)])?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    /// The kernel tells the foreground group.
    pub(crate) fn resize(&self, size: WindowSize) {
        let cut = |v: u32| u16::try_from(v).unwrap_or(u16::MAX);
        let size = Winsize {
            ws_row: cut(size.rows),
            ws_col: cut(size.cols),
            ws_xpixel: cut(size.xpixel),
            ws_ypixel: cut(size.ypixel),
        };
        let _ = self.file().map(|file| tcsetwinsize(file, size));
    }

    /// As sshd does; a pseudo-terminal has no line to break, so the kernel returns at once.
    pub(crate) fn send_break(&self) {
        let _ = self.file().map(tcsendbreak);
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        let master = file.into_inner();
        // The kernel waits for who is in the middle of a read or write on the other side, and how long that takes is up to the guest.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(master))),
            Err(_) => drop(master),
        }
    }
}
