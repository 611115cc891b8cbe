//! Reading an asciicast of version 3, ours or somebody else's.

use std::io::{self, BufRead};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::header::CastHeader;
use crate::lines::{self, Line, MAX_LINE};

/// The exact bytes of the event in the next line.
pub(crate) const BYTES_PREFIX: &str = "# sandgate-bytes: ";

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Time since the start.
    pub at: Duration,
    /// `o`, `i`, `r`, `x`, or what else the format may come to have.
    pub code: String,
    /// Its text.
    pub text: String,
    /// The exact bytes, where the text could not hold them.
    exact: Option<Vec<u8>>,
}

impl Event {
    /// The bytes that were recorded.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.exact.as_deref().unwrap_or(self.text.as_bytes())
    }
}

/// Why a recording cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The source.
    #[error("the recording cannot be read: {0}")]
    Io(#[from] io::Error),
    /// Another kind of file.
    #[error("this is not an asciicast of version 3")]
    NotACast,
    /// A line that is none of an asciicast.
    #[error("line {0} of the recording is not an event")]
    BadLine(u64),
    /// More than is read.
    #[error("line {0} of the recording is longer than {MAX_LINE} bytes")]
    TooLong(u64),
}

/// Iterates over the events. What a crash has left of a last line is passed over.
pub struct CastReader<R> {
    source: R,
    pub(crate) header: CastHeader,
    line: u64,
    at: Duration,
    done: bool,
}

impl<R: BufRead> CastReader<R> {
    /// Reads the first line.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn new(mut source: R) -> Result<CastReader<R>, ReadError> {
        let header = match lines::next(&mut source)? {
            Line::Whole(line) => CastHeader::parse(&line).ok_or(ReadError::NotACast)?,
            _ => return Err(ReadError::NotACast),
        };
        Ok(CastReader { source, header, line: 1, at: Duration::ZERO, done: false })
    }

    /// Columns and rows at the start.
    pub fn size(&self) -> (u32, u32) {
        (self.header.term.cols, self.header.term.rows)
    }

    fn read(&mut self) -> Result<Option<Event>, ReadError> {
        let mut exact: Option<Vec<u8>> = None;
        loop {
            let line = match lines::next(&mut self.source)? {
                Line::Whole(line) => line,
                Line::TooLong => return Err(ReadError::TooLong(self.line.saturating_add(1))),
                Line::Torn(_) | Line::End => return Ok(None),
            };
            self.line = self.line.saturating_add(1);
            let bad = || ReadError::BadLine(self.line);
            if line.is_empty() {
                continue;
            }
            if line.first() == Some(&b'#') {
                exact = match line.strip_prefix(BYTES_PREFIX.as_bytes()) {
                    Some(coded) => Some(STANDARD.decode(coded).map_err(|_| bad())?),
                    None => None,
                };
                continue;
            }
            let (interval, code, text): (f64, String, String) =
                serde_json::from_slice(&line).map_err(|_| bad())?;
            let interval = Duration::try_from_secs_f64(interval).map_err(|_| bad())?;
            self.at = self.at.checked_add(interval).ok_or_else(bad)?;
            // The text is what a player shows: it must be that of the bytes.
            if exact.as_ref().is_some_and(|exact| String::from_utf8_lossy(exact) != text) {
                return Err(bad());
            }
            return Ok(Some(Event { at: self.at, code, text, exact }));
        }
    }
}

impl<R: BufRead> Iterator for CastReader<R> {
    type Item = Result<Event, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let event = self.read().transpose();
        self.done = !matches!(event, Some(Ok(_)));
        event
    }
}
