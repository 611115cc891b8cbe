//! What a person sees while files are copied: a bar per file on standard error, where that is a terminal.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};

const SIZED: &str =
    "{wide_msg} {percent:>3}% {binary_bytes:>11} {binary_bytes_per_sec:>13} {eta:>4} {bar:20}";
const UNSIZED: &str = "{wide_msg} {binary_bytes:>11} {binary_bytes_per_sec:>13} {elapsed:>4}";

pub struct Progress {
    shows: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub fn new(quiet: bool) -> Self {
        Self { shows: !quiet && std::io::stderr().is_terminal(), bar: None }
    }

    /// A file begins, of which `start` bytes are there. A size of 0 means that it is not known.
    pub fn begin(&mut self, name: impl FnOnce() -> String, size: u64, start: u64) {
        if !self.shows {
            return;
        }
        let (bar, template) = match size {
            0 => (ProgressBar::no_length(), UNSIZED),
            size => (ProgressBar::new(size), SIZED),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(name());
        bar.set_position(start);
        bar.reset_eta();
        self.bar = Some(bar);
    }

    /// More of the file was copied.
    pub fn add(&self, bytes: usize) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes as u64);
        }
    }

    /// The file is done; its line stays.
    pub fn done(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.abandon();
        }
    }

    /// Prints what went wrong; the line of the file at hand goes.
    pub fn complain(&mut self, text: &str) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        eprintln!("sandgate: {text}");
    }
}
