//! Text of an untrusted side, bounded when it is kept and escaped when it is shown.

use std::fmt;

/// The most bytes that are kept of a text. Real user names, comments and namespaces are far shorter.
const MAX_TEXT: usize = 256;

/// Bytes that a peer chose. Shown as one line of printable ASCII in quotes: everything else is escaped bytewise, and a text that was cut
/// says how long it was.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Text {
    kept: Box<[u8]>,
    len: usize,
}

impl Text {
    /// Keeps the first 256 bytes.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self { kept: bytes.get(..MAX_TEXT).unwrap_or(bytes).into(), len: bytes.len() }
    }

    /// What was kept: the first 256 bytes at most.
    pub fn as_bytes(&self) -> &[u8] {
        &self.kept
    }

    /// True when the text was longer than what was kept.
    pub fn is_cut(&self) -> bool {
        self.len > self.kept.len()
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.kept.escape_ascii())?;
        if self.is_cut() { write!(f, " (cut, {} bytes)", self.len) } else { Ok(()) }
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        !self.is_cut() && *self.kept == *other.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_printable_ascii_is_ever_shown() {
        let all: Vec<u8> = (0..=255).collect();
        let shown = Text::new(&all).to_string();
        assert!(shown.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{shown}");
        assert_eq!(Text::new(b"a\"\n\x1b[2J").to_string(), r#""a\"\n\x1b[2J""#);
    }

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        let text = Text::new(&[b'x'; 300]);
        assert_eq!(text.as_bytes().len(), 256);
        assert!(text.to_string().ends_with("x\" (cut, 300 bytes)"));
        assert!(text != *"x".repeat(256).as_str());
    }
}
