//! From bytes to characters for our own picture of the screen. What goes to clients is never decoded.

/// Decodes UTF-8 that comes in pieces; what is none becomes U+FFFD, as in terminals.
#[derive(Debug, Default)]
pub(super) struct Utf8 {
    /// The beginning of a character whose end has not come; at most 3 bytes.
    begun: Vec<u8>,
}

impl Utf8 {
    /// Appends to `text` the characters that are whole now.
    pub(super) fn decode(&mut self, bytes: &[u8], text: &mut String) {
        let joined;
        let mut rest = if self.begun.is_empty() {
            bytes
        } else {
            self.begun.extend_from_slice(bytes);
            joined = std::mem::take(&mut self.begun);
            &joined
        };
        loop {
            let error = match std::str::from_utf8(rest) {
                Ok(valid) => return text.push_str(valid),
                Err(error) => error,
            };
            let (valid, after) = rest.split_at(error.valid_up_to());
            text.push_str(&String::from_utf8_lossy(valid));
            match error.error_len() {
                Some(bad) => {
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = after.get(bad..).unwrap_or_default();
                }
                None => {
                    self.begun = after.to_vec();
                    return;
                }
            }
        }
    }

    /// The bytes of a character whose end has not come.
    pub(super) fn begun(&self) -> &[u8] {
        &self.begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_pieces(bytes: &[u8], size: usize) -> (String, Vec<u8>) {
        let (mut utf8, mut text) = (Utf8::default(), String::new());
        for piece in bytes.chunks(size) {
            utf8.decode(piece, &mut text);
        }
        (text, utf8.begun().to_vec())
    }

    #[test]
    fn it_does_not_matter_where_the_pieces_are_cut() {
        let bytes = "a\u{e9}\u{20ac}\u{1f600}z".as_bytes();
        for size in 1..=bytes.len() {
            assert_eq!(in_pieces(bytes, size), ("a\u{e9}\u{20ac}\u{1f600}z".to_owned(), Vec::new()));
        }
    }

    #[test]
    fn what_is_no_text_is_replaced_and_an_unfinished_character_waits() {
        for size in 1..=4 {
            let (text, begun) = in_pieces(b"a\xff\xc3(\xe2\x82", size);
            assert_eq!((text.as_str(), begun.as_slice()), ("a\u{fffd}\u{fffd}(", b"\xe2\x82".as_slice()));
        }
    }
}
