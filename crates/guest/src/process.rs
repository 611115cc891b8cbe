//! A running process in the guest, as three independent halves.

use std::io;
use std::task::{Context, Poll};

use crate::{ExitStatus, GuestError, WindowSize};

/// A process in the guest. Dropping all of its halves tells the agent that the client is gone: the process group gets SIGHUP,
/// then SIGTERM, then SIGKILL.
pub struct Process {
    /// What the process reads.
    pub input: ProcessInput,
    /// What the process writes, and how it ends.
    pub output: ProcessOutput,
    /// Resize, signals, hangup.
    pub control: ProcessControl,
}

/// The writing half: the standard input (or the keyboard of the terminal).
pub struct ProcessInput {}

/// What [`ProcessOutput`] has to give next.
#[derive(Debug, Clone)]
pub enum Ready {
    /// Standard output (or the terminal's screen) may be read with [`ProcessOutput::try_read`].
    Stdout,
    /// Standard error may be read with [`ProcessOutput::try_read`].
    Stderr,
    /// The process has ended and all output has been read. Last, and repeated if asked again.
    Exit(ExitStatus),
    /// The link ended first. Last, and repeated if asked again.
    LinkLost(GuestError),
}

/// The reading half: output and exit.
pub struct ProcessOutput {}

/// The controlling half. Never waits, and is never stuck behind standard input.
#[derive(Clone)]
pub struct ProcessControl {}

impl Process {
    /// The three halves.
    pub fn split(self) -> (ProcessInput, ProcessOutput, ProcessControl) {
        (self.input, self.output, self.control)
    }
}

impl ProcessInput {
    /// Takes some bytes of `data` (at least one) or waits until the process has read earlier ones. `BrokenPipe` means that
    /// the process no longer reads its input: the caller should stop sending and discard what it has; the process lives on.
    pub fn poll_write(&mut self, _cx: &mut Context<'_>, _data: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    /// End of input: the process sees EOF after everything written so far. On a terminal nothing happens, as with sshd.
    pub fn poll_shutdown(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl ProcessOutput {
    /// Waits for output, the exit, or the end of the link.
    pub fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Ready> {
        Poll::Ready(Ready::LinkLost(GuestError::LinkLost))
    }

    /// Reads from the stream that [`Self::poll_ready`] named last. `WouldBlock` means: ask `poll_ready` again (also at the end
    /// of that stream). Never `Ok(0)`, unless `buf` is empty.
    pub fn try_read(&mut self, _buf: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl ProcessControl {
    /// The terminal has a new size. Sizes that were not sent yet are replaced.
    pub fn resize(&self, _size: WindowSize) -> Result<(), GuestError> {
        Err(GuestError::LinkLost)
    }

    /// Sends a signal by name without `SIG` (RFC 4254 section 6.9) to the process group; with a terminal, to the foreground group.
    pub fn signal(&self, _name: &str) -> Result<(), GuestError> {
        Err(GuestError::LinkLost)
    }

    /// A serial break of `millis` milliseconds on the terminal (RFC 4335).
    pub fn send_break(&self, _millis: u32) -> Result<(), GuestError> {
        Err(GuestError::LinkLost)
    }

    /// The client is gone: SIGHUP, SIGTERM, SIGKILL, although the halves are still held.
    pub fn hangup(&self) {}
}
