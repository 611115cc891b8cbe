//! Patterns for one component of a path (XCU 2.13): `*`, `?` and `[...]`.
//!
//! A character is a UTF-8 sequence where the name has one, else a single byte: names are bytes, and no name is beyond reach.
//! Matching takes time in the order of pattern length times name length, whatever the pattern.

use crate::words::Char;

/// A compiled pattern.
#[derive(Debug, Clone)]
pub struct Pattern {
    tokens: Vec<Token>,
}

#[derive(Debug, Clone)]
enum Token {
    /// This byte.
    Byte(u8),
    /// `?`
    One,
    /// `*`
    Many,
    /// `[...]`
    Set { negated: bool, items: Vec<Item> },
}

#[derive(Debug, Clone)]
enum Item {
    /// From the first to the last, both included.
    Range(u32, u32),
    /// `[:name:]`; ASCII only.
    Class(fn(&u8) -> bool),
}

impl Pattern {
    /// Compiles one component. `None` when nothing in it is special: then it is a name.
    pub fn compile(component: &[Char]) -> Option<Self> {
        let mut tokens = Vec::new();
        let mut special = false;
        let mut rest = component;
        while let Some((&first, tail)) = rest.split_first() {
            rest = tail;
            let token = match first.byte {
                b'*' if !first.quoted => Token::Many,
                b'?' if !first.quoted => Token::One,
                b'[' if !first.quoted => match set(tail) {
                    Some((token, tail)) => {
                        rest = tail;
                        token
                    }
                    None => Token::Byte(b'['),
                },
                byte => Token::Byte(byte),
            };
            special |= !matches!(token, Token::Byte(_));
            // Several stars in a row are one.
            if !matches!((&token, tokens.last()), (Token::Many, Some(Token::Many))) {
                tokens.push(token);
            }
        }
        special.then_some(Self { tokens })
    }

    /// Whether the whole `name` matches. A dot at its start must be matched by a dot in the pattern.
    pub fn matches(&self, name: &[u8]) -> bool {
        if name.first() == Some(&b'.') && !matches!(self.tokens.first(), Some(Token::Byte(b'.'))) {
            return false;
        }
        let (mut token, mut at) = (0, 0);
        // Where to go on when what follows the last star did not fit: that star takes one character more.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            let step = match self.tokens.get(token) {
                None if at == name.len() => return true,
                None => None,
                Some(Token::Many) => {
                    token += 1;
                    retry = Some((token, at));
                    continue;
                }
                Some(Token::Byte(byte)) => (name.get(at) == Some(byte)).then_some(1),
                Some(Token::One) => next_char(&name[at..]).map(|(_, len)| len),
                Some(Token::Set { negated, items }) => next_char(&name[at..])
                    .filter(|(c, _)| items.iter().any(|item| item.holds(*c)) != *negated)
                    .map(|(_, len)| len),
            };
            if let Some(len) = step {
                token += 1;
                at += len;
                continue;
            }
            let Some((after_star, from)) = retry else { return false };
            let Some((_, len)) = next_char(&name[from..]) else { return false };
            retry = Some((after_star, from + len));
            (token, at) = (after_star, from + len);
        }
    }
}

impl Item {
    fn holds(&self, c: u32) -> bool {
        match self {
            Self::Range(low, high) => (*low..=*high).contains(&c),
            Self::Class(class) => u8::try_from(c).is_ok_and(|byte| byte.is_ascii() && class(&byte)),
        }
    }
}

/// The character at the start of `text` and its length. A byte that begins no UTF-8 sequence is a character of its own, above all others.
fn next_char(text: &[u8]) -> Option<(u32, usize)> {
    let first = *text.first()?;
    let len = match first {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    };
    let decoded =
        text.get(..len).and_then(|bytes| std::str::from_utf8(bytes).ok()).and_then(|s| s.chars().next());
    Some(decoded.map_or((BYTES + u32::from(first), 1), |c| (u32::from(c), len)))
}

/// Where the characters of single bytes begin: above Unicode.
const BYTES: u32 = 0x11_0000;

/// Compiles what follows a `[`; `None` when no `]` ends it, and then the `[` means itself.
fn set(text: &[Char]) -> Option<(Token, &[Char])> {
    let mut rest = text;
    let negated = rest.first().is_some_and(|c| c.is_bare(b'!') || c.is_bare(b'^'));
    if negated {
        rest = &rest[1..];
    }
    let mut items = Vec::new();
    let mut first = true;
    loop {
        let c = *rest.first()?;
        if c.is_bare(b']') && !first {
            return Some((Token::Set { negated, items }, &rest[1..]));
        }
        first = false;
        if let Some((class, tail)) = class(rest) {
            items.push(class);
            rest = tail;
            continue;
        }
        let (low, tail) = set_char(rest)?;
        rest = tail;
        let mut high = low;
        if let [dash, end, ..] = rest
            && dash.is_bare(b'-')
            && !end.is_bare(b']')
        {
            (high, rest) = set_char(&rest[1..])?;
        }
        items.push(Item::Range(low, high));
    }
}

fn set_char(text: &[Char]) -> Option<(u32, &[Char])> {
    let mut bytes = [0; 4];
    let len = text.len().min(4);
    bytes.iter_mut().zip(text).for_each(|(byte, c)| *byte = c.byte);
    let (c, len) = next_char(&bytes[..len])?;
    Some((c, &text[len..]))
}

/// `[:name:]` at the start of `text`.
fn class(text: &[Char]) -> Option<(Item, &[Char])> {
    let [open, colon, rest @ ..] = text else { return None };
    if !open.is_bare(b'[') || !colon.is_bare(b':') {
        return None;
    }
    let end = rest.windows(2).position(|w| w[0].is_bare(b':') && w[1].is_bare(b']'))?;
    let name: Vec<u8> = rest[..end].iter().map(|c| c.byte).collect();
    let test: fn(&u8) -> bool = match &name[..] {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |byte| matches!(byte, b' '..=b'~'),
        b"punct" => u8::is_ascii_punctuation,
        b"space" => |byte| matches!(byte, b' ' | b'\t'..=b'\r'),
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    };
    Some((Item::Class(test), &rest[end + 2..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::split;

    fn fits(pattern: &str, name: &[u8]) -> bool {
        let words = split(pattern.as_bytes()).unwrap_or_default();
        Pattern::compile(&words[0].0).is_some_and(|p| p.matches(name))
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, yes, no) in [
            ("*", &["a", "a b"][..], &[".a"][..]),
            (".*", &[".a"], &["a"]),
            ("a?c", &["abc", "aéc"], &["ac", "abbc"]),
            ("*.tar.gz", &["x.tar.gz", "a.tar.tar.gz"], &["x.tar", ".tar.gz"]),
            ("a*b*c", &["abc", "aXbYbZc"], &["acb", "ab"]),
            ("[abc]x", &["ax", "cx"], &["dx", "x"]),
            ("[!abc]x", &["dx", "éx"], &["ax"]),
            ("[^abc]x", &["dx"], &["ax"]),
            ("[a-cx-z]", &["b", "y"], &["d", "-"]),
            ("[]a]", &["]", "a"], &["b"]),
            ("[!]a]", &["b"], &["]", "a"]),
            ("[a-]", &["a", "-"], &["b"]),
            ("[[:digit:][:upper:]_]*", &["1x", "Ax", "_"], &["ax"]),
            ("['a-c']x", &["ax", "-x", "cx"], &["bx"]),
            (r"[\]]x", &["]x"], &["x"]),
            (r"\**", &["*a"], &["a"]),
            ("'?'?", &["?a"], &["aa"]),
            ("[é-ü]", &["ö"], &["a"]),
        ] {
            for name in yes {
                assert!(fits(pattern, name.as_bytes()), "{pattern} {name}");
            }
            for name in no {
                assert!(!fits(pattern, name.as_bytes()), "{pattern} {name}");
            }
        }
        assert!(fits("a?b", b"a\xffb") && fits("a[!x]b", b"a\xffb") && !fits("a?b", b"a\xff\xffb"));
    }

    #[test]
    fn an_unclosed_bracket_and_quoted_signs_are_names() {
        for word in ["[abc", "a]", r"\*", "'[a]'", "a.b", "[]"] {
            let words = split(word.as_bytes()).unwrap_or_default();
            assert!(Pattern::compile(&words[0].0).is_none(), "{word}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "*a".repeat(100) + "b";
        assert!(!fits(&pattern, &[b'a'; 255]));
    }
}
