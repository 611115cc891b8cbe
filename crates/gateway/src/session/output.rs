//! The output of a session as its front door sees it.
//!
//! For an ordinary program that is all there is. The standard error of the agent's own file servers is taken out: it goes to the
//! audit trail, but for a complaint, and the exit is given only after all that a file server said.

use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use sandgate_guest::{ExitStatus, GuestError, ProcessOutput, Ready};
use tokio::sync::mpsc;

use super::file_audit::FileAudit;
use super::lines::Lines;
use super::registry::Traffic;
use crate::recording::Direction;
use crate::telemetry::FirstByte;

/// Read from a file server's standard error at once, in bytes, where it comes in frames.
const PIECE: usize = 16 * 1024;
/// Reads of what a file server that has ended left in the pipe, each of up to 64 KiB: a pipe holds at most 1 MiB by the kernel's default, and
/// something in the sandbox may hold it still and write on for ever.
const LAST_READS: u32 = 32;
/// How long a file server whose client has gone may take to close its files before it is hung up.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// What a session's process writes, and how it ends.
pub struct SessionOutput {
    kind: Kind,
    /// What it is shown to.
    traffic: Option<Arc<Traffic>>,
    /// The stream that is read next, as was last said.
    stream: Direction,
    /// Sentences of the gateway's own for the user.
    notices: Option<mpsc::Receiver<String>>,
    /// Where and how they are told.
    surface: Surface,
    /// What of the last one was not read yet.
    told: Vec<u8>,
    /// Told of the first read of what the process has written.
    first_byte: FirstByte,
}

/// Where the gateway's own words go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Surface {
    /// Standard error.
    Pipes,
    /// The one stream there is, whose lines end otherwise.
    Terminal,
}

enum Kind {
    Program(ProcessOutput),
    FileServer(Box<FileServer>),
}

impl SessionOutput {
    pub(super) fn program(output: ProcessOutput) -> Self {
        Self::of(Kind::Program(output))
    }

    pub(super) fn file_server(mut output: ProcessOutput, audit: Box<FileAudit>) -> Self {
        let lines = output.take_stderr().map(Lines::new);
        let running = Running { output, lines, trail: Trail::Idle(audit), words: Vec::new(), end: None };
        Self::of(Kind::FileServer(Box::new(FileServer(Some(running)))))
    }

    fn of(kind: Kind) -> Self {
        Self {
            kind,
            traffic: None,
            stream: Direction::Out,
            notices: None,
            surface: Surface::Pipes,
            told: Vec::new(),
            first_byte: FirstByte::default(),
        }
    }

    /// Has the user read these sentences between what the process writes.
    pub(super) fn tell_of(&mut self, notices: mpsc::Receiver<String>, surface: Surface) {
        (self.notices, self.surface) = (Some(notices), surface);
    }

    /// Shows everything that is read to the session's recorder and to who follows it.
    pub(super) fn show_to(&mut self, traffic: Arc<Traffic>) {
        self.traffic = Some(traffic);
    }

    /// Times the first byte that is read.
    pub(super) fn time(&mut self, first_byte: FirstByte) {
        self.first_byte = first_byte;
    }

    /// Notes that the terminal has another size.
    pub fn resized(&self, cols: u32, rows: u32) {
        if let Some(traffic) = &self.traffic {
            traffic.resized(cols, rows);
        }
    }

    /// See [`ProcessOutput::poll_ready`]. Names standard error only when there is something for the client.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Ready> {
        if self.told.is_empty()
            && let Some(notices) = &mut self.notices
            && let Poll::Ready(text) = notices.poll_recv(cx)
        {
            match text {
                Some(text) if self.surface == Surface::Terminal => {
                    self.told = format!("\r\nsandgate: {text}\r\n").into_bytes();
                }
                Some(text) => self.told = format!("sandgate: {text}\n").into_bytes(),
                None => self.notices = None,
            }
        }
        if !self.told.is_empty() {
            let (stream, ready) = match self.surface {
                Surface::Pipes => (Direction::Err, Ready::Stderr),
                Surface::Terminal => (Direction::Out, Ready::Stdout),
            };
            self.stream = stream;
            return Poll::Ready(ready);
        }
        let ready = match &mut self.kind {
            Kind::Program(output) => output.poll_ready(cx),
            Kind::FileServer(server) => {
                server.0.as_mut().map_or(Poll::Pending, |running| running.poll_ready(cx))
            }
        };
        match ready {
            Poll::Ready(Ready::Stdout) => self.stream = Direction::Out,
            Poll::Ready(Ready::Stderr) => self.stream = Direction::Err,
            _ => {}
        }
        ready
    }

    /// See [`ProcessOutput::try_read_vectored`].
    ///
    /// # Errors
    /// As there.
    pub fn try_read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let read = if self.told.is_empty() {
            let read = match &mut self.kind {
                Kind::Program(output) => output.try_read_vectored(bufs),
                Kind::FileServer(server) => match &mut server.0 {
                    Some(running) => running.try_read_vectored(bufs),
                    None => Err(io::ErrorKind::WouldBlock.into()),
                },
            }?;
            if read > 0 {
                self.first_byte.came();
            }
            read
        } else {
            give(&mut self.told, bufs)
        };
        if let Some(traffic) = &self.traffic {
            traffic.gave(self.stream, bufs.iter().map(|buf| &**buf), read);
        }
        Ok(read)
    }

    /// As [`Self::try_read_vectored`], into one buffer.
    ///
    /// # Errors
    /// As there.
    pub fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.try_read_vectored(&mut [IoSliceMut::new(buf)])
    }

    /// See [`ProcessOutput::close`]. A file server is left alone: its client says with the end of its input that it has done.
    ///
    /// # Errors
    /// As there.
    pub fn close(&mut self) -> Result<(), GuestError> {
        match &mut self.kind {
            Kind::Program(output) => output.close(),
            Kind::FileServer(_) => Ok(()),
        }
    }
}

/// A file server's output; empty only while it is dropped.
struct FileServer(Option<Running>);

struct Running {
    output: ProcessOutput,
    /// Its standard error; `None` when that comes in frames, with the output, or is at its end.
    lines: Option<Lines>,
    trail: Trail,
    /// What is to be given to the client as standard error before anything else.
    words: Vec<u8>,
    /// How it ended, once that is known, and how often the rest of its lines may still be looked for.
    end: Option<(Ready, u32)>,
}

enum Trail {
    Idle(Box<FileAudit>),
    /// Rows are being stored; nothing is read meanwhile, so the file server waits too.
    Storing(Pin<Box<dyn Future<Output = Box<FileAudit>> + Send>>),
    /// The end was told.
    Finished,
}

impl Running {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Ready> {
        loop {
            if let Trail::Storing(work) = &mut self.trail {
                let mut audit = ready!(work.as_mut().poll(cx));
                self.words.extend(audit.take_words());
                self.trail = Trail::Idle(audit);
            }
            if !self.words.is_empty() {
                return Poll::Ready(Ready::Stderr);
            }
            if let Some((ready, reads)) = &mut self.end {
                if *reads > 0 {
                    let rest = self.lines.as_mut().map(Lines::rest).unwrap_or_default();
                    *reads = if rest.is_empty() { 0 } else { *reads - 1 };
                    if *reads == 0 {
                        // The last words, after its own.
                        self.words = epitaph(ready);
                    }
                    self.store(rest);
                    continue;
                }
                let ready = ready.clone();
                if let Trail::Idle(audit) = std::mem::replace(&mut self.trail, Trail::Finished) {
                    // Whoever waits for the exit need not wait for the store.
                    tokio::spawn(audit.finish());
                }
                return Poll::Ready(ready);
            }
            if let Some(lines) = &mut self.lines
                && let Poll::Ready(piece) = lines.poll_read(cx)
            {
                if piece.is_empty() {
                    self.lines = None;
                }
                self.store(piece);
                continue;
            }
            match ready!(self.output.poll_ready(cx)) {
                Ready::Stderr => {
                    let mut piece = vec![0; PIECE];
                    let read = self.output.try_read(&mut piece).unwrap_or(0);
                    piece.truncate(read);
                    self.store(piece);
                }
                ready @ (Ready::Exit(_) | Ready::LinkLost(_)) => self.end = Some((ready, LAST_READS)),
                ready @ Ready::Stdout => return Poll::Ready(ready),
            }
        }
    }

    /// Begins to store what a piece of standard error says.
    fn store(&mut self, piece: Vec<u8>) {
        if piece.is_empty() {
            return;
        }
        self.trail = match std::mem::replace(&mut self.trail, Trail::Finished) {
            Trail::Idle(audit) => Trail::Storing(Box::pin(audit.take(piece))),
            other => other,
        };
    }

    fn try_read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        if self.words.is_empty() {
            return self.output.try_read_vectored(bufs);
        }
        Ok(give(&mut self.words, bufs))
    }

    /// Reads on until the file server has ended, so that what it still says is not lost.
    async fn run_out(mut self) {
        let end = async {
            let mut unwanted = vec![0; PIECE];
            while let Ready::Stdout | Ready::Stderr = poll_fn(|cx| self.poll_ready(cx)).await {
                // Nobody is left to read it.
                let _ = self.try_read_vectored(&mut [IoSliceMut::new(&mut unwanted)]);
            }
        };
        if tokio::time::timeout(LAST_WRITES, end).await.is_err()
            && let Trail::Idle(audit) = self.trail
        {
            audit.finish().await;
        }
    }
}

/// Moves as much of `words` as there is room for.
fn give(words: &mut Vec<u8>, bufs: &mut [IoSliceMut<'_>]) -> usize {
    let mut taken = 0;
    for buf in bufs {
        let len = buf.len().min(words.len() - taken);
        buf[..len].copy_from_slice(&words[taken..taken + len]);
        taken += len;
    }
    words.drain(..taken);
    taken
}

/// What the client is told of an end that its own program takes for a lost connection.
fn epitaph(end: &Ready) -> Vec<u8> {
    let Ready::Exit(ExitStatus::Signal { name, .. }) = end else { return Vec::new() };
    let guess = if name == "KILL" { "; the sandbox may be out of memory" } else { "" };
    format!("sandgate: the file server was killed (signal {name}){guess}\n").into_bytes()
}

impl Drop for FileServer {
    fn drop(&mut self) {
        let running = self.0.take().filter(|running| !matches!(running.trail, Trail::Finished));
        if let (Some(running), Ok(runtime)) = (running, tokio::runtime::Handle::try_current()) {
            // The client has gone; the file server sees the end of its input and closes its files.
            runtime.spawn(running.run_out());
        }
    }
}
