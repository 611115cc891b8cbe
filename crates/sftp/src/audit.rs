//! What a file server changed, one line each, for the audit table of whoever started it.
//!
//! Primer: a built-in server has no human reader on its standard error, so that stream carries [`Event`]s: verb, space, size in bytes,
//! space, path, for verbs with two paths another space and the second path, and for some verbs, where it is known, another space and the
//! size of the whole file. (Agents of before that last field leave it out.) Paths are percent-encoded bytewise (everything but
//! printable ASCII without `%` and space), so a line never contains what a file name brought along. The reader trusts nothing: lines are
//! bounded and what is not exactly in this form is refused.

use std::borrow::Cow;
use std::io::{self, Write};

/// The longest line, its newline not counted: two encoded paths of 4095 bytes, verb and two sizes.
pub const MAX_LINE: usize = 2 * 3 * 4095 + 64;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// A file was opened for writing; what became of it follows as `Wrote` unless the server is killed.
    Opened,
    /// A file opened for writing was closed; the size is the bytes written to it.
    Wrote,
    /// A file was cut or extended; the size is the new one.
    Resized,
    /// A file, link or other thing that is no directory was removed.
    Removed,
    /// A directory was removed.
    RemovedDir,
    /// A directory was made.
    MadeDir,
    /// Renamed; from the path to the second path.
    Renamed,
    /// A hard link to the path was made at the second path.
    Linked,
    /// A symbolic link that says the path was made at the second path.
    Symlinked,
    /// Mode, owner or times were set.
    Changed,
}

/// One thing done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// What.
    pub verb: Verb,
    /// Bytes, where the verb has a size, else 0.
    pub size: u64,
    /// To what: an absolute path as the client sees it.
    pub path: Cow<'a, [u8]>,
    /// The second path of `Renamed`, `Linked` and `Symlinked`.
    pub to: Option<Cow<'a, [u8]>>,
    /// How large the file is that was `Wrote`, `Renamed` or `Removed`, in bytes, if it is a regular one and that is known.
    pub file_size: Option<u64>,
}

/// Why a line is no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// More than [`MAX_LINE`] bytes.
    #[error("The audit line is too long.")]
    TooLong,
    /// Not of the form verb, size, path.
    #[error("The audit line has the wrong number of fields.")]
    Fields,
    /// A verb that this version does not know.
    #[error("The audit line begins with an unknown verb.")]
    Verb,
    /// The size is not a decimal number.
    #[error("The size of the audit line is not a number.")]
    Size,
    /// A path with a byte that should be encoded, or a bad escape, or an empty or an overlong one.
    #[error("A path of the audit line is not encoded as it should be.")]
    Path,
}

/// Who is told. An error ends the session: nothing is changed that nobody hears of.
pub trait Audit: Send {
    /// Takes one event.
    ///
    /// # Errors
    /// The event could not be delivered.
    fn record(&mut self, event: &Event<'_>) -> io::Result<()>;
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Audit for Silent {
    fn record(&mut self, _: &Event<'_>) -> io::Result<()> {
        Ok(())
    }
}

/// Writes lines, each with one write.
#[derive(Debug)]
pub struct Lines<W>(pub W);

impl<W: Write + Send> Audit for Lines<W> {
    fn record(&mut self, event: &Event<'_>) -> io::Result<()> {
        let mut line = event.format();
        line.push(b'\n');
        self.0.write_all(&line)
    }
}

impl Verb {
    const ALL: [(Self, &'static str); 10] = [
        (Self::Opened, "opened"),
        (Self::Wrote, "wrote"),
        (Self::Resized, "resized"),
        (Self::Removed, "removed"),
        (Self::RemovedDir, "removed-dir"),
        (Self::MadeDir, "made-dir"),
        (Self::Renamed, "renamed"),
        (Self::Linked, "linked"),
        (Self::Symlinked, "symlinked"),
        (Self::Changed, "changed"),
    ];

    /// The word for it in a line.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(verb, _)| *verb == self).map_or("", |(_, word)| word)
    }

    /// Whether there is a second path.
    pub const fn has_to(self) -> bool {
        matches!(self, Self::Renamed | Self::Linked | Self::Symlinked)
    }

    /// Whether the size of the whole file may be told.
    pub const fn has_file_size(self) -> bool {
        matches!(self, Self::Wrote | Self::Renamed | Self::Removed)
    }
}

impl<'a> Event<'a> {
    /// An event with one path.
    pub fn new(verb: Verb, size: u64, path: &'a [u8]) -> Self {
        Self { verb, size, path: Cow::Borrowed(path), to: None, file_size: None }
    }

    /// An event with two paths.
    pub fn pair(verb: Verb, path: &'a [u8], to: &'a [u8]) -> Self {
        Self { verb, size: 0, path: Cow::Borrowed(path), to: Some(Cow::Borrowed(to)), file_size: None }
    }

    /// The same with the size of the whole file, where the verb has one.
    pub fn of_size(self, file_size: Option<u64>) -> Self {
        Self { file_size: file_size.filter(|_| self.verb.has_file_size()), ..self }
    }

    /// The line, without newline. Paths are cut at 4095 bytes: no longer one can have been acted on.
    pub fn format(&self) -> Vec<u8> {
        let mut line = format!("{} {} ", self.verb.as_str(), self.size).into_bytes();
        encode(&self.path, &mut line);
        if let Some(to) = &self.to {
            line.push(b' ');
            encode(to, &mut line);
        }
        if let Some(size) = self.file_size {
            line.extend_from_slice(format!(" {size}").as_bytes());
        }
        line
    }

    /// Reads a line, without newline.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &[u8]) -> Result<Event<'static>, ParseError> {
        if line.len() > MAX_LINE {
            return Err(ParseError::TooLong);
        }
        let mut fields = line.split(|b| *b == b' ');
        let word = fields.next().unwrap_or_default();
        let verb = Verb::ALL.iter().find(|(_, w)| w.as_bytes() == word).ok_or(ParseError::Verb)?.0;
        let size = number(fields.next().ok_or(ParseError::Fields)?)?;
        let path = decode(fields.next().ok_or(ParseError::Fields)?)?;
        let to = if verb.has_to() {
            Some(Cow::Owned(decode(fields.next().ok_or(ParseError::Fields)?)?))
        } else {
            None
        };
        let file_size = match fields.next() {
            Some(size) if verb.has_file_size() => Some(number(size)?),
            None => None,
            Some(_) => return Err(ParseError::Fields),
        };
        if fields.next().is_some() {
            return Err(ParseError::Fields);
        }
        Ok(Event { verb, size, path: Cow::Owned(path), to, file_size })
    }
}

/// Bytes that stand for themselves.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'%'
}

fn encode(path: &[u8], line: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in path.iter().take(crate::vfs::MAX_PATH) {
        if is_plain(byte) {
            line.push(byte);
        } else {
            line.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

fn decode(field: &[u8]) -> Result<Vec<u8>, ParseError> {
    let mut path = Vec::with_capacity(field.len());
    let mut bytes = field.iter().copied();
    let digit = |b: Option<u8>| match b {
        Some(b @ b'0'..=b'9') => Ok(b - b'0'),
        Some(b @ b'A'..=b'F') => Ok(b - b'A' + 10),
        _ => Err(ParseError::Path),
    };
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let value = digit(bytes.next())? << 4 | digit(bytes.next())?;
                // One way to write each path.
                if is_plain(value) {
                    return Err(ParseError::Path);
                }
                path.push(value);
            }
            b if is_plain(b) => path.push(b),
            _ => return Err(ParseError::Path),
        }
    }
    if path.is_empty() || path.len() > crate::vfs::MAX_PATH {
        return Err(ParseError::Path);
    }
    Ok(path)
}

fn number(field: &[u8]) -> Result<u64, ParseError> {
    let plain = field.first().is_some_and(|b| *b != b'0') || field == b"0";
    if !plain || !field.iter().all(u8::is_ascii_digit) {
        return Err(ParseError::Size);
    }
    std::str::from_utf8(field).ok().and_then(|t| t.parse().ok()).ok_or(ParseError::Size)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_any_byte_comes_back_and_never_breaks_the_line() {
        let path: Vec<u8> = (0..=255).collect();
        for event in [Event::new(Verb::Wrote, u64::MAX, &path), Event::pair(Verb::Renamed, &path, b"/x y")] {
            let line = event.format();
            assert!(line.iter().all(|b| b.is_ascii_graphic() || *b == b' '));
            assert_eq!(Event::parse(&line), Ok(event));
        }
    }

    #[test]
    fn every_verb_comes_back() {
        for (verb, word) in Verb::ALL {
            let to = verb.has_to().then_some(Cow::Borrowed(&b"/b"[..]));
            let event = Event { verb, size: 7, path: Cow::Borrowed(b"/a"), to, file_size: None };
            assert!(event.format().starts_with(word.as_bytes()));
            assert_eq!(Event::parse(&event.format()).as_ref(), Ok(&event));
            let event = event.of_size(Some(9));
            assert_eq!(event.file_size.is_some(), verb.has_file_size());
            assert_eq!(Event::parse(&event.format()), Ok(event));
        }
    }

    #[test]
    fn the_line_is_readable() {
        assert_eq!(Event::new(Verb::Wrote, 12, b"/tmp/a b\n%").format(), b"wrote 12 /tmp/a%20b%0A%25");
        assert_eq!(Event::new(Verb::Wrote, 12, b"/a").of_size(Some(30)).format(), b"wrote 12 /a 30");
        assert_eq!(Event::pair(Verb::Renamed, b"/a", b"/b").of_size(Some(0)).format(), b"renamed 0 /a /b 0");
    }

    #[test]
    fn the_longest_paths_fit_the_longest_line() {
        let path = vec![0; crate::vfs::MAX_PATH + 1];
        let mut event = Event::pair(Verb::Renamed, &path, &path).of_size(Some(u64::MAX));
        event.size = u64::MAX;
        let line = event.format();
        assert!(line.len() <= MAX_LINE);
        assert!(Event::parse(&line).is_ok());
    }

    #[test]
    fn what_is_not_exactly_a_line_is_refused() {
        use ParseError::*;
        for (line, error) in [
            ("", Verb),
            ("wrote", Fields),
            ("wrote 1", Fields),
            ("wrote 1 /a /b", Size),
            ("wrote 1 /a 2 3", Fields),
            ("wrote 1 /a 02", Size),
            ("wrote 1 /a ", Size),
            ("made-dir 0 /a 2", Fields),
            ("linked 0 /a /b 2", Fields),
            ("renamed 1 /a", Fields),
            ("renamed 1 /a /b /c", Size),
            ("renamed 1 /a /b 2 3", Fields),
            ("erased 1 /a", Verb),
            ("wrote 01 /a", Size),
            ("wrote +1 /a", Size),
            ("wrote  /a", Size),
            ("wrote 18446744073709551616 /a", Size),
            ("wrote 1 ", Path),
            ("wrote 1 %4", Path),
            ("wrote 1 %0a", Path),
            ("wrote 1 %41", Path),
            ("wrote 1 /a\t", Path),
            ("wrote 1 /a\u{fc}", Path),
        ] {
            assert_eq!(Event::parse(line.as_bytes()), Err(error), "{line:?}");
        }
        assert_eq!(Event::parse(&vec![b'a'; MAX_LINE + 1]), Err(TooLong));
    }
}
