//! A recording in other forms.

use std::io::{BufRead, Write};

use crate::read::{CastReader, ReadError};
use crate::seconds;

/// Writes it as an asciicast of version 2, which has absolute times, and neither comments nor an exit.
///
/// # Errors
/// It cannot be read, or not be written.
pub fn write_v2(source: impl BufRead, mut to: impl Write) -> Result<(), ReadError> {
    let reader = CastReader::new(source)?;
    writeln!(to, "{}", reader.header.v2())?;
    for event in reader {
        let event = event?;
        if ["o", "i", "r", "m"].contains(&event.code.as_str()) {
            let text = serde_json::Value::from(event.text);
            writeln!(to, "[{}, \"{}\", {text}]", seconds(event.at), event.code)?;
        }
    }
    Ok(())
}

/// Writes the bytes that the client saw, and nothing else.
///
/// # Errors
/// As [`write_v2`].
pub fn write_raw(source: impl BufRead, mut to: impl Write) -> Result<(), ReadError> {
    for event in CastReader::new(source)? {
        let event = event?;
        if event.code == "o" {
            to.write_all(event.bytes())?;
        }
    }
    Ok(())
}

/// Writes the output as plain text: without escape sequences and other control characters.
///
/// # Errors
/// As [`write_v2`].
pub fn write_text(source: impl BufRead, mut to: impl Write) -> Result<(), ReadError> {
    let mut state = Plain::Text;
    for event in CastReader::new(source)? {
        let event = event?;
        if event.code == "o" {
            let text: String = event.text.chars().filter(|char| state.keeps(*char)).collect();
            to.write_all(text.as_bytes())?;
        }
    }
    Ok(())
}

/// Where in an escape sequence the text is (ECMA-48).
enum Plain {
    Text,
    /// After ESC.
    Escape,
    /// Between ESC with an intermediate byte and its end.
    Intermediate,
    /// In a control sequence, up to a letter.
    Control,
    /// In a string, such as a title, up to BEL or ESC `\`.
    String,
    /// After ESC in a string.
    StringEscape,
}

impl Plain {
    fn keeps(&mut self, char: char) -> bool {
        let (next, keeps) = match (&self, char) {
            (Plain::String, '\x07') => (Plain::Text, false),
            (Plain::String, '\x1b') => (Plain::StringEscape, false),
            (Plain::String, _) => (Plain::String, false),
            (Plain::StringEscape, '\\') => (Plain::Text, false),
            (_, '\x1b') => (Plain::Escape, false),
            (Plain::Escape | Plain::StringEscape, '[') => (Plain::Control, false),
            (Plain::Escape | Plain::StringEscape, ']' | 'P' | '^' | '_' | 'X') => (Plain::String, false),
            (Plain::Escape | Plain::Intermediate | Plain::StringEscape, ' '..='/') => {
                (Plain::Intermediate, false)
            }
            (Plain::Escape | Plain::Intermediate | Plain::StringEscape, _) => (Plain::Text, false),
            (Plain::Control, '@'..='~') => (Plain::Text, false),
            (Plain::Control, _) => (Plain::Control, false),
            (Plain::Text, '\n' | '\t') => (Plain::Text, true),
            (Plain::Text, char) => (Plain::Text, !char.is_control()),
        };
        *self = next;
        keeps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_no_escape_sequences() {
        let mut state = Plain::Text;
        let coloured = "\x1b]0;title\x07a\x1b[1;31mb\x1b(B\x1b[mc\r\n\x1b]2;t\x1b\\d\x08";
        let plain: String = coloured.chars().filter(|char| state.keeps(*char)).collect();
        assert_eq!(plain, "abc\nd");
    }
}
