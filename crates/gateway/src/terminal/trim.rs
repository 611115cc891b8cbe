//! Empty ends of lines in the emulator's own dump.
//!
//! It writes each line to its last column. An emulator that gets the blanks holds them for text: in a window that becomes narrower each line takes two,
//! and what is copied has blanks at its ends.

use avt::Parser;
use avt::parser::{Function, SgrOp};

/// What a pen has that is not as at first.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Changed {
    foreground: bool,
    background: bool,
    intensity: bool,
    italic: bool,
    underline: bool,
    blink: bool,
    inverse: bool,
    strikethrough: bool,
}

impl Changed {
    fn apply(&mut self, op: &SgrOp) {
        match op {
            SgrOp::Reset => *self = Changed::default(),
            SgrOp::SetBoldIntensity | SgrOp::SetFaintIntensity => self.intensity = true,
            SgrOp::ResetIntensity => self.intensity = false,
            SgrOp::SetItalic => self.italic = true,
            SgrOp::ResetItalic => self.italic = false,
            SgrOp::SetUnderline => self.underline = true,
            SgrOp::ResetUnderline => self.underline = false,
            SgrOp::SetBlink => self.blink = true,
            SgrOp::ResetBlink => self.blink = false,
            SgrOp::SetInverse => self.inverse = true,
            SgrOp::ResetInverse => self.inverse = false,
            SgrOp::SetStrikethrough => self.strikethrough = true,
            SgrOp::ResetStrikethrough => self.strikethrough = false,
            SgrOp::SetForegroundColor(_) => self.foreground = true,
            SgrOp::ResetForegroundColor => self.foreground = false,
            SgrOp::SetBackgroundColor(_) => self.background = true,
            SgrOp::ResetBackgroundColor => self.background = false,
        }
    }
}

/// Appends `dump` without plain blanks before the ends of lines.
pub(super) fn trimmed(dump: &str, to: &mut String) {
    let (mut parser, mut pen) = (Parser::new(), Changed::default());
    // Where the blanks begin in `to` that may be the last of their line.
    let mut blanks = None;
    // Where the sequence that is being read begins in `dump`.
    let mut begun = 0;
    for (at, character) in dump.char_indices() {
        let Some(function) = parser.feed(character) else { continue };
        match &function {
            Function::Print(' ') if pen == Changed::default() => {
                blanks.get_or_insert(to.len());
            }
            // More of the same.
            Function::Rep(_) => {}
            Function::Cr => {
                if let Some(start) = blanks.take() {
                    to.truncate(start);
                }
            }
            Function::Sgr(ops) => {
                ops.as_slice().iter().for_each(|op| pen.apply(op));
                blanks = None;
            }
            _ => blanks = None,
        }
        let end = at + character.len_utf8();
        to.push_str(dump.get(begun..end).unwrap_or_default());
        begun = end;
    }
    // A sequence whose end has not come.
    to.push_str(dump.get(begun..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(dump: &str) -> String {
        let mut text = String::new();
        trimmed(dump, &mut text);
        text
    }

    #[test]
    fn blanks_at_the_ends_of_lines_go() {
        assert_eq!(after("a b  \r\n \x1b[79b\r\nc   "), "a b\r\n\r\nc   ");
        assert_eq!(after("\x1b[31mred\x1b[39m   \r\n"), "\x1b[31mred\x1b[39m\r\n");
    }

    #[test]
    fn what_can_be_seen_and_what_is_not_finished_stays() {
        for kept in
            ["\x1b[44m   \r\n", "\x1b[7m \x1b[9b\r\n", "a  b\r\n", "a\x1b[3", "x\u{9b}1;2", " \x1b[2;3H"]
        {
            assert_eq!(after(kept), kept);
        }
    }
}
