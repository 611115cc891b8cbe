//! Lines of ours for the user, beside what the process writes.

use std::sync::atomic::{AtomicBool, Ordering};

use super::stdio;

/// Writes to standard error; knows whether the terminal is raw, where a line needs a carriage return.
#[derive(Debug, Default)]
pub struct Notices {
    raw: AtomicBool,
}

impl Notices {
    /// The terminal is raw from now on, or no longer.
    pub fn set_raw(&self, raw: bool) {
        self.raw.store(raw, Ordering::Relaxed);
    }

    /// A line that says who speaks.
    pub fn say(&self, text: &str) {
        self.plain(&format!("sandgate: {text}"));
    }

    /// A line as it is.
    pub fn plain(&self, text: &str) {
        let eol = if self.raw.load(Ordering::Relaxed) { "\r\n" } else { "\n" };
        stdio::say(format!("{text}{eol}").as_bytes());
    }
}
