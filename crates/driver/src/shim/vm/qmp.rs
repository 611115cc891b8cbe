//! QEMU's control protocol, as much of it as we need: one question at a time over QEMU's standard input and output.
//!
//! QEMU serves a hostile guest and may have been taken over by it, so its lines are bounded and every answer has a deadline.

use std::io::Write as _;
use std::os::fd::AsFd;
use std::process::{ChildStdin, ChildStdout};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::super::message::Failure;

/// Longest line in bytes.
const MAX_LINE: usize = 256 << 10;
/// Lines (events, mostly) that may come before an answer.
const MAX_LINES: usize = 1024;
/// Reads in one [`Qmp::drain`].
const MAX_READS: usize = 64;
/// How long QEMU may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to QEMU.
#[derive(Debug)]
pub(super) struct Qmp {
    input: ChildStdin,
    /// To wait for events, which are read and forgotten by [`Qmp::drain`].
    pub(super) output: ChildStdout,
    buffer: Vec<u8>,
}

/// How much of what QEMU had said was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drained {
    All,
    Part,
    /// There is and will be nothing.
    HungUp,
}

impl Qmp {
    /// Waits for QEMU's greeting and answers it.
    pub(super) fn new(input: ChildStdin, output: ChildStdout) -> Result<Self, Failure> {
        let mut qmp = Self { input, output, buffer: Vec::new() };
        qmp.line(Instant::now() + PATIENCE)?;
        qmp.ask("qmp_capabilities", Value::Null)?;
        Ok(qmp)
    }

    /// Sends a command and waits for what it returns.
    pub(super) fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, Failure> {
        let mut request = json!({ "execute": command });
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        self.input
            .write_all(format!("{request}\n").as_bytes())
            .map_err(|_| Failure::other("QEMU has ended"))?;
        let deadline = Instant::now() + PATIENCE;
        for _ in 0..MAX_LINES {
            let line = self.line(deadline)?;
            let Ok(Value::Object(mut answer)) = serde_json::from_slice::<Value>(&line) else {
                return Err(Failure::other("QEMU answered something else than JSON"));
            };
            if let Some(error) = answer.get("error") {
                let said = error.get("desc").and_then(Value::as_str).unwrap_or_default();
                return Err(Failure::other(format!("QEMU refused {command}: {said}")));
            }
            if let Some(value) = answer.remove("return") {
                return Ok(value);
            }
        }
        Err(Failure::other("QEMU does not answer"))
    }

    /// Reads what QEMU has said unasked, but not for ever.
    pub(super) fn drain(&mut self) -> Drained {
        let mut chunk = [0u8; 4096];
        for _ in 0..MAX_READS {
            if !readable(&self.output, Duration::ZERO) {
                return Drained::All;
            }
            match rustix::io::read(&self.output, &mut chunk) {
                Ok(0) => return Drained::HungUp,
                Ok(_) => self.buffer.clear(),
                Err(Errno::INTR) => {}
                Err(_) => return Drained::HungUp,
            }
        }
        Drained::Part
    }

    fn line(&mut self, deadline: Instant) -> Result<Vec<u8>, Failure> {
        let mut chunk = [0u8; 4096];
        loop {
            if let Some(at) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(at + 1);
                return Ok(std::mem::replace(&mut self.buffer, rest));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(Failure::other("QEMU answered too much"));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::other("QEMU does not answer"));
            }
            if !readable(&self.output, left) {
                continue;
            }
            match rustix::io::read(&self.output, &mut chunk) {
                Ok(0) => return Err(Failure::other("QEMU has ended")),
                Ok(n) => self.buffer.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(Failure::io("read QEMU's answer")(error)),
            }
        }
    }
}

fn readable(fd: &impl AsFd, patience: Duration) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let timeout = Timespec::try_from(patience).ok();
    poll(&mut fds, timeout.as_ref()).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn who_speaks_without_end_is_not_listened_to_without_end() {
        let mut child = Command::new("yes").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut qmp = Qmp { input, output, buffer: Vec::new() };
        // On a busy machine it does not always keep up.
        let deadline = Instant::now() + Duration::from_secs(10);
        while qmp.drain() != Drained::Part {
            assert!(Instant::now() < deadline, "it never says more than is read at once");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        while qmp.drain() != Drained::HungUp {
            assert!(Instant::now() < deadline, "its end is not noticed");
        }
    }
}
