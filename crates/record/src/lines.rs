//! Lines of a recording, each of bounded length.

use std::io::{self, BufRead};

/// The longest line that is read, in bytes. Ours are below half of it.
pub const MAX_LINE: usize = 1024 * 1024;

/// A line as it was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A whole one, without its end.
    Whole(Vec<u8>),
    /// The file ends within it: so many bytes.
    Torn(u64),
    /// Longer than [`MAX_LINE`].
    TooLong,
    /// Nothing is left.
    End,
}

/// The next line.
pub(crate) fn next(source: &mut impl BufRead) -> io::Result<Line> {
    let mut line = Vec::new();
    // The end of the line is one more.
    let most = MAX_LINE as u64 + 1;
    io::Read::take(source.by_ref(), most).read_until(b'\n', &mut line)?;
    match line.pop() {
        None => Ok(Line::End),
        Some(b'\n') => Ok(Line::Whole(line)),
        Some(_) if line.len() >= MAX_LINE => Ok(Line::TooLong),
        Some(_) => Ok(Line::Torn(line.len() as u64 + 1)),
    }
}
