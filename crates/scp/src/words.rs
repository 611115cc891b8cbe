//! A command line cut into words as a POSIX shell does it (XCU 2.2, quoting), as far as that needs no shell.
//!
//! Whatever would make a shell do more than cut and expand names (variables, substitutions, pipes, redirections, several commands,
//! comments) is no command line for us: `None`.

/// One byte of a word, and whether quoting took its special meaning away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Char {
    /// The byte.
    pub byte: u8,
    /// True behind a backslash or within quotes.
    pub quoted: bool,
}

impl Char {
    /// Whether this is `byte` with its special meaning.
    pub fn is_bare(self, byte: u8) -> bool {
        !self.quoted && self.byte == byte
    }
}

/// A word before expansion.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word(pub Vec<Char>);

impl Word {
    /// A word in which nothing is special.
    pub fn quoted(bytes: &[u8]) -> Self {
        Self(bytes.iter().map(|&byte| Char { byte, quoted: true }).collect())
    }

    /// The word without its quotes.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.iter().map(|c| c.byte).collect()
    }
}

/// Cuts `line` into words; `None` where a shell would have to do more than that, or where a quote is left open.
pub fn split(line: &[u8]) -> Option<Vec<Word>> {
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    // A newline at the end of the whole line ends the command and no more.
    let mut bytes = line.strip_suffix(b"\n").unwrap_or(line).iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' | b'\t' => words.extend(word.take()),
            b'#' if word.is_none() => return None,
            b'$' | b'`' | b'|' | b'&' | b';' | b'<' | b'>' | b'(' | b')' | b'\n' | 0 => return None,
            b'\'' => single_quoted(&mut bytes, word.get_or_insert_default())?,
            b'"' => double_quoted(&mut bytes, word.get_or_insert_default())?,
            b'\\' => match bytes.next()? {
                0 => return None,
                // A backslash before a newline joins the lines and is no part of a word.
                b'\n' => {}
                byte => word.get_or_insert_default().0.push(Char { byte, quoted: true }),
            },
            _ => word.get_or_insert_default().0.push(Char { byte, quoted: false }),
        }
    }
    words.extend(word);
    Some(words)
}

fn single_quoted(bytes: &mut impl Iterator<Item = u8>, word: &mut Word) -> Option<()> {
    loop {
        match bytes.next()? {
            b'\'' => return Some(()),
            0 => return None,
            byte => word.0.push(Char { byte, quoted: true }),
        }
    }
}

fn double_quoted(bytes: &mut impl Iterator<Item = u8>, word: &mut Word) -> Option<()> {
    loop {
        let byte = match bytes.next()? {
            b'"' => return Some(()),
            b'$' | b'`' | 0 => return None,
            b'\\' => match bytes.next()? {
                byte @ (b'$' | b'`' | b'"' | b'\\') => byte,
                b'\n' => continue,
                0 => return None,
                byte => {
                    word.0.push(Char { byte: b'\\', quoted: true });
                    byte
                }
            },
            byte => byte,
        };
        word.0.push(Char { byte, quoted: true });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(line: &str) -> Option<Vec<String>> {
        let words = split(line.as_bytes())?;
        Some(words.iter().map(|w| String::from_utf8_lossy(&w.bytes()).into_owned()).collect())
    }

    #[test]
    fn quotes_and_backslashes_are_removed_as_a_shell_does() {
        for (line, words) in [
            ("scp -t  x\t", &["scp", "-t", "x"][..]),
            (r#"a\ b 'c d' "e f" g'h'"i""#, &["a b", "c d", "e f", "ghi"]),
            (r#"'a\b' "a\b\"\\\$\`" \a\\"#, &[r"a\b", r#"a\b"\$`"#, r"a\"]),
            ("'' \"\" x", &["", "", "x"]),
            ("'a\nb' \"c\nd\"\n", &["a\nb", "c\nd"]),
            ("a\\\nb \"c\\\nd\"", &["ab", "cd"]),
            ("a#b \\# '#'", &["a#b", "#", "#"]),
            ("", &[]),
        ] {
            assert_eq!(
                plain(line).as_deref(),
                Some(&words.iter().map(|w| w.to_string()).collect::<Vec<_>>()[..]),
                "{line}"
            );
        }
    }

    #[test]
    fn what_needs_a_shell_is_left_alone() {
        for line in [
            "scp -t x; id",
            "scp -t x & id",
            "scp -t x | id",
            "scp -t x\nid",
            "scp -t $HOME",
            "scp -t \"$HOME\"",
            "scp -t `id`",
            "scp -t \"`id`\"",
            "scp -t x > y",
            "scp -t < y",
            "(scp -t x)",
            "scp -t x # y",
            "scp -t 'x",
            "scp -t \"x",
            "scp -t x\\",
            "it'\\''s",
        ] {
            assert_eq!(plain(line), None, "{line}");
        }
        assert_eq!(split(b"scp -t a\0b"), None);
        assert_eq!(split(b"scp -t 'a\0b'"), None);
    }

    #[test]
    fn quoting_is_remembered_for_each_byte() {
        let words = split(b"\\*'?'*").unwrap_or_default();
        assert_eq!(words[0].0.iter().map(|c| c.quoted).collect::<Vec<_>>(), [true, true, false]);
    }
}
