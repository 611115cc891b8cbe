//! Standard input, output and error, in threads that may wait.
//!
//! Not tokio's: whoever started us may have left `O_NONBLOCK` on what we share with them, where "not now" is neither the end of the input nor
//! a reader that has gone. The flag is not ours to change. And no lock is held while something waits, so that our end never waits for a reader.

use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, retry_on_intr, write};
use rustix::stdio::{stderr, stdin};

/// Bytes moved at once.
pub const CHUNK: usize = 32 * 1024;
/// How long a line of ours may wait for whoever reads standard error.
const LINE_TIME: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Reads from standard input once. Gives the buffer back and how much of it was filled; `None` at the end, or when nothing can be read.
pub async fn read_some(mut buffer: Vec<u8>) -> Option<(Vec<u8>, usize)> {
    let reading = tokio::task::spawn_blocking(move || match read_waiting(stdin(), &mut buffer) {
        Ok(count @ 1..) => Some((buffer, count)),
        Ok(0) | Err(_) => None,
    });
    reading.await.ok().flatten()
}

/// Writes the first `count` bytes of the buffer. Gives it back, and whether they were taken.
pub async fn write_all(to: BorrowedFd<'static>, buffer: Vec<u8>, count: usize) -> (Vec<u8>, bool) {
    let writing = tokio::task::spawn_blocking(move || {
        let written = write_waiting(to, &buffer[..count]);
        (buffer, written.is_ok())
    });
    // It fails only at the end of the runtime.
    writing.await.unwrap_or_else(|_| (vec![0; CHUNK], false))
}

/// Writes a line to standard error; one that nobody takes in time, or at all, is left out.
pub fn say(line: &[u8]) {
    let mut waiting = [PollFd::from_borrowed_fd(stderr(), PollFlags::OUT)];
    if let Ok(1..) = retry_on_intr(|| poll(&mut waiting, Some(&LINE_TIME))) {
        let _ = retry_on_intr(|| write(stderr(), line));
    }
}

fn read_waiting(from: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match retry_on_intr(|| read(from, &mut *buffer)) {
            Err(Errno::AGAIN) => wait(from, PollFlags::IN)?,
            done => return done,
        }
    }
}

fn write_waiting(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match retry_on_intr(|| write(to, bytes)) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::AGAIN) => wait(to, PollFlags::OUT)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until the descriptor is ready, or will never be.
fn wait(on: BorrowedFd<'_>, what: PollFlags) -> Result<(), Errno> {
    let mut waiting = [PollFd::from_borrowed_fd(on, what)];
    retry_on_intr(|| poll(&mut waiting, None)).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::time::Duration;

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    #[test]
    fn not_now_is_neither_an_end_nor_a_failure() {
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).expect("a pipe");
        let sent: Vec<u8> = (0..1_000_000_u32).map(|at| at.to_le_bytes()[1]).collect();
        let back = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                assert_eq!(write_waiting(writer.as_fd(), &sent), Ok(()));
                drop(writer);
            });
            let mut back = Vec::new();
            let mut buffer = vec![0; 5000];
            while let Ok(count @ 1..) = read_waiting(reader.as_fd(), &mut buffer) {
                back.extend_from_slice(&buffer[..count]);
                // The writer is faster, and the pipe full at times.
                std::thread::sleep(Duration::from_micros(100));
            }
            back
        });
        assert!(back == sent, "{} bytes", back.len());
    }

    #[test]
    fn a_reader_that_has_gone_is_told() {
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).expect("a pipe");
        std::thread::scope(|scope| {
            let written = scope.spawn(|| write_waiting(writer.as_fd(), &vec![0; 1_000_000]));
            std::thread::sleep(Duration::from_millis(50));
            drop(reader);
            assert_eq!(written.join().expect("no panic"), Err(Errno::PIPE));
        });
    }
}
