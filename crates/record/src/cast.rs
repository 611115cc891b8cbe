//! Writing an asciicast of version 3.
//!
//! Its events hold text. A character that is cut by the end of a read is held back for the next event, at most three bytes of it and at
//! most until the second flush. Bytes that are no text at all are shown as U+FFFD, and the exact ones stand in a comment before the event.

use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::chain::{Form, Head, Sheet, hex};
use crate::header::{Header, Terminal};
use crate::read::BYTES_PREFIX;
use crate::seconds;

/// Bytes in one event, so that a line stays well below [`crate::MAX_LINE`]: a control character takes six bytes in JSON.
const MAX_EVENT: usize = 64 * 1024;

/// Writes one recording, into memory until it is taken.
pub struct CastWriter {
    sheet: Sheet,
    /// When the last event was, in whole microseconds: intervals are written rounded, and must not drift.
    last: Duration,
    output: Text,
    input: Text,
    events: u64,
    sha256: Context,
    ended: bool,
}

/// One direction.
#[derive(Default)]
struct Text {
    /// The begin of a character; at most 3 bytes.
    held: Vec<u8>,
    /// Whether a flush has left it held.
    old: bool,
    bytes: u64,
}

impl CastWriter {
    /// Begins with the first line.
    #[must_use]
    pub fn new(header: &Header, terminal: &Terminal) -> CastWriter {
        let mut sheet = Sheet::new(Form::Cast, &header.id);
        sheet.line(&header.cast(terminal));
        CastWriter {
            sheet,
            last: Duration::ZERO,
            output: Text::default(),
            input: Text::default(),
            events: 0,
            sha256: Context::new(&SHA256),
            ended: false,
        }
    }

    /// The process has written these bytes. `at` is the time since the start, here and below.
    pub fn output(&mut self, at: Duration, bytes: &[u8]) {
        if !self.ended {
            self.sha256.update(bytes);
            self.bytes(at, 'o', bytes);
        }
    }

    /// The user has typed these bytes.
    pub fn input(&mut self, at: Duration, bytes: &[u8]) {
        if !self.ended {
            self.bytes(at, 'i', bytes);
        }
    }

    /// The terminal has another size.
    pub fn resize(&mut self, at: Duration, cols: u32, rows: u32) {
        if !self.ended {
            self.event(at, 'r', &format!("{cols}x{rows}"));
        }
    }

    /// Closes what was written so far with a link of the chain.
    pub fn flush(&mut self, at: Duration) {
        for code in ['o', 'i'] {
            let text = self.text(code);
            if text.old {
                self.release(at, code);
            } else {
                text.old = !text.held.is_empty();
            }
        }
        self.sheet.link();
    }

    /// Ends the recording: the exit code if there is one, and how it ended in words. Nothing is written after that.
    pub fn finish(&mut self, at: Duration, code: Option<u32>, outcome: &str) {
        if self.ended {
            return;
        }
        self.release(at, 'o');
        self.release(at, 'i');
        if let Some(code) = code {
            self.event(at, 'x', &code.to_string());
        }
        let sha256 = std::mem::replace(&mut self.sha256, Context::new(&SHA256)).finish();
        let totals = json!({
            "seconds": at.as_secs_f64(), "events": self.events, "output_bytes": self.output.bytes,
            "input_bytes": self.input.bytes, "output_sha256": hex(sha256.as_ref()), "outcome": outcome,
        });
        self.sheet.line(&format!("# sandgate-end: {totals}"));
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

    /// Whether the begin of a character waits for its rest: a later flush writes it.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        !self.output.held.is_empty() || !self.input.held.is_empty()
    }

    fn text(&mut self, code: char) -> &mut Text {
        if code == 'i' { &mut self.input } else { &mut self.output }
    }

    fn bytes(&mut self, at: Duration, code: char, bytes: &[u8]) {
        for piece in bytes.chunks(MAX_EVENT) {
            let text = self.text(code);
            text.bytes = text.bytes.saturating_add(piece.len() as u64);
            let mut whole = std::mem::take(&mut text.held);
            whole.extend_from_slice(piece);
            let keep = whole.len() - unfinished(&whole);
            text.held = whole.split_off(keep);
            text.old = false;
            self.write(at, code, &whole);
        }
    }

    /// Writes what is held back, come what may.
    fn release(&mut self, at: Duration, code: char) {
        let text = self.text(code);
        text.old = false;
        let held = std::mem::take(&mut text.held);
        self.write(at, code, &held);
    }

    fn write(&mut self, at: Duration, code: char, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => self.event(at, code, text),
            Err(_) => {
                self.sheet.line(&format!("{BYTES_PREFIX}{}", STANDARD.encode(bytes)));
                self.event(at, code, &String::from_utf8_lossy(bytes));
            }
        }
    }

    fn event(&mut self, at: Duration, code: char, data: &str) {
        // A clock that seems to go back makes no negative interval.
        let at = Duration::from_micros(u64::try_from(at.as_micros()).unwrap_or(u64::MAX)).max(self.last);
        let interval = at.saturating_sub(self.last);
        self.last = at;
        self.events = self.events.saturating_add(1);
        self.sheet.line(&format!("[{}, \"{code}\", {}]", seconds(interval), serde_json::Value::from(data)));
    }
}

/// How many bytes at the end begin a character that is not whole yet.
fn unfinished(bytes: &[u8]) -> usize {
    for length in 1..=3.min(bytes.len()) {
        let tail = &bytes[bytes.len() - length..];
        match std::str::from_utf8(tail) {
            // A byte that begins something: either it is unfinished or not, and nothing before it matters.
            Err(error) if error.valid_up_to() == 0 && error.error_len().is_none() => return length,
            Ok(_) => return 0,
            Err(_) => {}
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_begin_of_a_character_is_unfinished() {
        let euro = "€".as_bytes();
        assert_eq!(unfinished(b""), 0);
        assert_eq!(unfinished(b"abc"), 0);
        assert_eq!(unfinished(euro), 0);
        assert_eq!(unfinished(&euro[..1]), 1);
        assert_eq!(unfinished(&euro[..2]), 2);
        assert_eq!(unfinished(&[b'a', 0xf0, 0x9f, 0x98]), 3);
        assert_eq!(unfinished(&[0xff]), 0);
        assert_eq!(unfinished(&[0x80, 0x80, 0x80]), 0);
        assert_eq!(unfinished(&[0xe2, b'a']), 0);
    }
}
