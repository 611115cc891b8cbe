//! Keys for this program and not for the process, as ssh's `EscapeChar`: after a newline (or at the start), the escape key and one more.

/// As with ssh.
pub const DEFAULT: u8 = b'~';

/// What the user wants of this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Disconnect,
    Suspend,
    Break,
    Forwards,
    Help,
}

/// A part of what was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Data(Vec<u8>),
    Action(Action),
}

/// Finds escapes in what is typed, at any boundary.
#[derive(Debug)]
pub struct Escape {
    key: u8,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was typed on this line yet.
    LineStart,
    InLine,
    /// The key was typed at the start of a line.
    Pending,
}

impl Escape {
    pub fn new(key: u8) -> Self {
        Self { key, state: State::LineStart }
    }

    /// Cuts what was typed into what is to be sent and what is to be done, in order.
    pub fn feed(&mut self, typed: &[u8]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut data = Vec::new();
        for &byte in typed {
            if self.state == State::Pending {
                self.state = State::InLine;
                let action = match byte {
                    b'.' => Some(Action::Disconnect),
                    // Ctrl-Z
                    0x1a => Some(Action::Suspend),
                    b'B' => Some(Action::Break),
                    b'#' => Some(Action::Forwards),
                    b'?' => Some(Action::Help),
                    _ => None,
                };
                if let Some(action) = action {
                    if !data.is_empty() {
                        pieces.push(Piece::Data(std::mem::take(&mut data)));
                    }
                    pieces.push(Piece::Action(action));
                    // The next one may follow at once, as with ssh.
                    self.state = State::LineStart;
                    continue;
                }
                if byte != self.key {
                    data.push(self.key);
                }
            } else if self.state == State::LineStart && byte == self.key {
                self.state = State::Pending;
                continue;
            }
            data.push(byte);
            self.state = if matches!(byte, b'\r' | b'\n') { State::LineStart } else { State::InLine };
        }
        if !data.is_empty() {
            pieces.push(Piece::Data(data));
        }
        pieces
    }
}

/// The key that `-e` names: one character, `^` and a letter, or `none`.
pub fn parse(text: &str) -> Result<Option<u8>, String> {
    match text.as_bytes() {
        b"none" => Ok(None),
        [byte] => Ok(Some(*byte)),
        [b'^', byte @ (b'@'..=b'_' | b'a'..=b'z')] => Ok(Some(byte & 0x1f)),
        _ => Err("write one character, ^ and a letter, or none".to_owned()),
    }
}

/// What the keys do.
pub fn help(key: u8) -> Vec<String> {
    let key = if key < b' ' { format!("^{}", char::from(key + b'@')) } else { char::from(key).to_string() };
    let mut lines = vec!["Supported escape sequences:".to_owned()];
    for (letter, does) in [
        (".", "end this session"),
        ("B", "send a BREAK to the terminal inside"),
        ("^Z", "suspend sandgate"),
        ("#", "list forwards"),
        ("?", "this message"),
        (&key, "send the escape character by typing it twice"),
    ] {
        lines.push(format!(" {key}{letter:<3} - {does}"));
    }
    lines.push("(Note that escapes are only recognized immediately after newline.)".to_owned());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(typed: &[&[u8]]) -> Vec<Piece> {
        let mut escape = Escape::new(DEFAULT);
        typed.iter().flat_map(|bytes| escape.feed(bytes)).collect()
    }

    fn data(bytes: &[u8]) -> Piece {
        Piece::Data(bytes.to_vec())
    }

    #[test]
    fn the_key_counts_at_the_start_of_a_line_only() {
        assert_eq!(all(&[b"~."]), [Piece::Action(Action::Disconnect)]);
        assert_eq!(all(&[b"ls\r~."]), [data(b"ls\r"), Piece::Action(Action::Disconnect)]);
        assert_eq!(all(&[b"cd ~."]), [data(b"cd ~.")]);
        assert_eq!(all(&[b"a\n~?x"]), [data(b"a\n"), Piece::Action(Action::Help), data(b"x")]);
        assert_eq!(all(&[b"~?~."]), [Piece::Action(Action::Help), Piece::Action(Action::Disconnect)]);
    }

    #[test]
    fn an_escape_may_come_in_pieces() {
        assert_eq!(all(&[b"\r", b"~", b"\x1a"]), [data(b"\r"), Piece::Action(Action::Suspend)]);
    }

    #[test]
    fn what_is_no_escape_is_sent_as_it_was_typed() {
        assert_eq!(all(&[b"~~."]), [data(b"~.")]);
        assert_eq!(all(&[b"~", b"/bin\r"]), [data(b"~/bin\r")]);
        assert_eq!(all(&[b"~\r~."]), [data(b"~\r"), Piece::Action(Action::Disconnect)]);
    }

    #[test]
    fn keys_are_named_as_for_ssh() {
        assert_eq!(parse("none"), Ok(None));
        assert_eq!(parse("%"), Ok(Some(b'%')));
        assert_eq!(parse("^]"), Ok(Some(0x1d)));
        assert_eq!(parse("^a"), Ok(Some(1)));
        assert!(parse("").is_err() && parse("ab").is_err());
        assert!(help(0x1d)[1].starts_with(" ^]."));
    }
}
