//! Names with a newline, made fit for a line.
//!
//! A record of the protocol ends at the first newline, so a name with one in it cannot travel as it is. OpenSSH's source then sends the
//! name in the encoding of vis(3) with `VIS_NL`, and its sink takes it literally: `a<newline>b` arrives as `a\^Jb`. A name without a
//! newline is never touched, whatever other bytes are in it.

use std::borrow::Cow;

/// `text` as it may stand in a record or in a message: unchanged without a newline, else encoded as a whole.
pub fn on_one_line(text: &[u8]) -> Cow<'_, [u8]> {
    if text.contains(&b'\n') { Cow::Owned(encode(text)) } else { Cow::Borrowed(text) }
}

fn encode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 16);
    for &byte in text {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b' '..=b'~' | b'\t' => out.push(byte),
            // A blank with the top bit set has no caret form.
            0xa0 => out.extend_from_slice(b"\\240"),
            _ => {
                out.push(b'\\');
                if byte >= 0x80 {
                    out.push(b'M');
                }
                match byte & 0x7f {
                    0x7f => out.extend_from_slice(b"^?"),
                    low if low < 0x20 => out.extend_from_slice(&[b'^', low + b'@']),
                    low => out.extend_from_slice(&[b'-', low]),
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_newline_stays_as_it_is() {
        assert_eq!(on_one_line(b"a b\\\xff\r"), &b"a b\\\xff\r"[..]);
    }

    #[test]
    fn a_name_with_a_newline_is_encoded_as_vis_does() {
        assert_eq!(on_one_line(b"a\nb"), &b"a\\^Jb"[..]);
        assert_eq!(
            on_one_line(b"\n\\ \t\x7f\xc3\xa9\xa0\x80\xff"),
            &b"\\^J\\\\ \t\\^?\\M-C\\M-)\\240\\M^@\\M^?"[..]
        );
    }
}
