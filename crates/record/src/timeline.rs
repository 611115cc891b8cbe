//! Writing a timeline: how much passed when, and at the end the hash of each direction.

use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use serde_json::json;

use crate::chain::{Form, Head, Sheet, hex};
use crate::header::Header;
use crate::seconds;

/// Which way bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client into the sandbox.
    In,
    /// To the client: standard output, or what a connection brought.
    Out,
    /// To the client: standard error.
    Err,
}

impl Direction {
    const ALL: [Direction; 3] = [Direction::In, Direction::Out, Direction::Err];

    fn name(self) -> &'static str {
        match self {
            Direction::In => "in",
            Direction::Out => "out",
            Direction::Err => "err",
        }
    }
}

/// Writes one recording, into memory until it is taken.
pub struct TimelineWriter {
    sheet: Sheet,
    streams: [Stream; 3],
    /// The second that is counted now.
    second: u64,
    ended: bool,
}

struct Stream {
    sha256: Context,
    total: u64,
    /// Of this second, and not written yet.
    fresh: u64,
}

impl TimelineWriter {
    /// Begins with the first line.
    #[must_use]
    pub fn new(header: &Header) -> TimelineWriter {
        let mut sheet = Sheet::new(Form::Timeline, &header.id);
        sheet.line(&header.timeline());
        let streams = Direction::ALL.map(|_| Stream { sha256: Context::new(&SHA256), total: 0, fresh: 0 });
        TimelineWriter { sheet, streams, second: 0, ended: false }
    }

    /// These bytes have passed. `at` is the time since the start, here and below.
    pub fn data(&mut self, at: Duration, direction: Direction, bytes: &[u8]) {
        if self.ended || bytes.is_empty() {
            return;
        }
        if at.as_secs() != self.second {
            self.write();
            self.second = at.as_secs();
        }
        let stream = match (direction, &mut self.streams) {
            (Direction::In, [stream, _, _])
            | (Direction::Out, [_, stream, _])
            | (Direction::Err, [_, _, stream]) => stream,
        };
        stream.sha256.update(bytes);
        stream.total = stream.total.saturating_add(bytes.len() as u64);
        stream.fresh = stream.fresh.saturating_add(bytes.len() as u64);
    }

    /// Writes what was counted, and closes it with a link of the chain.
    pub fn flush(&mut self) {
        self.write();
        self.sheet.link();
    }

    /// Ends the recording, as [`crate::CastWriter::finish`].
    pub fn finish(&mut self, at: Duration, code: Option<u32>, outcome: &str) {
        if self.ended {
            return;
        }
        self.write();
        let mut totals = json!({ "seconds": at.as_secs_f64(), "exit": code, "outcome": outcome });
        for (direction, stream) in Direction::ALL.into_iter().zip(&mut self.streams) {
            let sha256 = std::mem::replace(&mut stream.sha256, Context::new(&SHA256)).finish();
            if let Some(totals) = totals.as_object_mut() {
                let total = json!({ "bytes": stream.total, "sha256": hex(sha256.as_ref()) });
                totals.insert(direction.name().to_owned(), total);
            }
        }
        self.sheet.line(&format!("{{\"end\":{totals}}}"));
        self.sheet.link();
        self.ended = true;
    }

    /// What is to be appended to the file.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        self.sheet.take()
    }

    /// Bytes that wait to be taken.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.sheet.waiting()
    }

    /// The last link of the chain.
    #[must_use]
    pub fn head(&self) -> &Head {
        self.sheet.head()
    }

    fn write(&mut self) {
        let at = seconds(Duration::from_secs(self.second));
        for (direction, stream) in Direction::ALL.into_iter().zip(&mut self.streams) {
            let bytes = std::mem::take(&mut stream.fresh);
            if bytes > 0 {
                let line = format!("{{\"t\":{at},\"dir\":\"{}\",\"bytes\":{bytes}}}", direction.name());
                self.sheet.line(&line);
            }
        }
    }
}
