//! Modes of a terminal that change no cell of the screen, so that the emulator of [`super::screen`] does not know them, and
//! that somebody who comes back must have all the same: bracketed paste, the mouse, the keypad, the shape of the cursor.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// The private modes that are kept (`CSI ? n h`): mouse, focus, alternate scrolling, bracketed paste. All are off at first.
const KEPT: [u16; 10] = [9, 1000, 1002, 1003, 1004, 1005, 1006, 1007, 1016, 2004];
/// Longest control sequence that is looked into, in characters. Longer ones set none of these modes.
const LONGEST: usize = 64;

/// Follows the output of a terminal.
#[derive(Debug, Default)]
pub(super) struct Modes {
    state: State,
    /// What stands between `CSI` and the last character; at most [`LONGEST`].
    inside: String,
    /// Of [`KEPT`], those that are on.
    on: BTreeSet<u16>,
    keypad: Keypad,
    /// The shape of the cursor (`DECSCUSR`); `None` for the emulator's own.
    cursor: Option<u16>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Text, and whatever else is not looked into.
    #[default]
    Ground,
    /// After ESC.
    Escape,
    /// After ESC [.
    Csi,
    /// In a sequence that is too long.
    Ignored,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Keypad {
    #[default]
    Numeric,
    Application,
}

impl Modes {
    /// Takes note of what `text` sets.
    pub(super) fn follow(&mut self, text: &str) {
        let mut rest = text;
        while !rest.is_empty() {
            if self.state == State::Ground {
                // Most output holds no sequence at all.
                let Some(at) = rest.find(['\x1b', '\u{9b}']) else { return };
                rest = rest.get(at..).unwrap_or_default();
            }
            let mut characters = rest.chars();
            if let Some(character) = characters.next() {
                self.step(character);
            }
            rest = characters.as_str();
        }
    }

    fn step(&mut self, character: char) {
        match (self.state, character) {
            (_, '\x1b') => self.state = State::Escape,
            (_, '\u{9b}') | (State::Escape, '[') => {
                self.inside.clear();
                self.state = State::Csi;
            }
            (_, '\x18' | '\x1a') => self.state = State::Ground,
            // Control characters act without ending a sequence.
            (_, '\0'..='\x1f') => {}
            (State::Escape, character) => {
                self.escape(character);
                self.state = State::Ground;
            }
            (State::Csi, '\x40'..='\x7e') => {
                self.control(character);
                self.state = State::Ground;
            }
            (State::Csi, _) if self.inside.len() >= LONGEST => self.state = State::Ignored,
            (State::Csi, character) => self.inside.push(character),
            (State::Ignored, '\x40'..='\x7e') => self.state = State::Ground,
            (State::Ground | State::Ignored, _) => {}
        }
    }

    fn escape(&mut self, last: char) {
        match last {
            '=' => self.keypad = Keypad::Application,
            '>' => self.keypad = Keypad::Numeric,
            // A full reset.
            'c' => *self = Modes::default(),
            _ => {}
        }
    }

    fn control(&mut self, last: char) {
        if let (Some(numbers), 'h' | 'l') = (self.inside.strip_prefix('?'), last) {
            for mode in numbers.split(';').filter_map(|number| number.parse().ok()) {
                if mode == 66 {
                    self.keypad = if last == 'h' { Keypad::Application } else { Keypad::Numeric };
                } else if KEPT.contains(&mode) && last == 'h' {
                    self.on.insert(mode);
                } else {
                    self.on.remove(&mode);
                }
            }
        } else if let (Some(shape), 'q') = (self.inside.strip_suffix(' '), last) {
            self.cursor = shape.parse().ok().filter(|shape| (1..=6).contains(shape));
        } else if (self.inside.as_str(), last) == ("!", 'p') {
            // A soft reset.
            (self.keypad, self.cursor) = (Keypad::Numeric, None);
        }
    }

    /// Appends what sets these modes in an emulator that has just been reset.
    pub(super) fn dump(&self, to: &mut String) {
        for mode in &self.on {
            let _ = write!(to, "\x1b[?{mode}h");
        }
        if self.keypad == Keypad::Application {
            to.push_str("\x1b=");
        }
        if let Some(shape) = self.cursor {
            let _ = write!(to, "\x1b[{shape} q");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(text: &str) -> String {
        let (mut whole, mut cut) = (Modes::default(), Modes::default());
        whole.follow(text);
        for character in text.chars() {
            cut.follow(&character.to_string());
        }
        let (mut one, mut other) = (String::new(), String::new());
        whole.dump(&mut one);
        cut.dump(&mut other);
        assert_eq!(one, other, "it does not matter how the text comes");
        one
    }

    #[test]
    fn what_is_on_is_kept() {
        assert_eq!(after("$ \x1b[?2004h"), "\x1b[?2004h");
        assert_eq!(after("\x1b[?1000;1006h\x1b[?1000l\x1b="), "\x1b[?1006h\x1b=");
        assert_eq!(after("\x1b[5 q"), "\x1b[5 q");
        assert_eq!(after("\x1b[?20\n04h"), "\x1b[?2004h", "a control character within");
    }

    #[test]
    fn what_was_reset_or_is_nothing_of_ours_is_not() {
        assert_eq!(after("\x1b[?2004h\x1b[?2004l"), "");
        assert_eq!(after("\x1b[?2004h\x1b[5 q\x1b=\x1bc"), "");
        assert_eq!(after("\x1b[?1049h\x1b[31m\x1b[2 q\x1b[!p\x1b[99 q"), "");
        assert_eq!(after(&format!("\x1b[?{}2004h", "1;".repeat(100))), "", "longer than any real one");
        assert_eq!(after("\x1b]0;a title\x07\x1b[?2004\x18h"), "");
    }
}
