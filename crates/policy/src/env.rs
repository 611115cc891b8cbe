//! Which environment variables a client may set: patterns over bytes, as in sshd's `AcceptEnv`.
//!
//! `*` stands for any run of bytes (also none), `?` for exactly one byte. Names on the wire are bytes (RFC 4254 §6.4),
//! so nothing here is decoded as text.

use std::fmt;

/// Longest pattern, in bytes. No variable that anybody sends is near this.
pub const MAX_PATTERN: usize = 128;
/// Most patterns in one list; matching is linear in it.
pub const MAX_PATTERNS: usize = 256;
/// Longest variable name that can be accepted, in bytes.
pub const MAX_NAME: usize = 1024;

/// What is accepted when the configuration says nothing.
pub const DEFAULT_ACCEPT_ENV: [&str; 9] = [
    "LANG",
    "LC_*",
    "TERM",
    "COLORTERM",
    "TZ",
    "NO_COLOR",
    "GIT_PROTOCOL",
    "GIT_AUTHOR_*",
    "GIT_COMMITTER_*",
];

/// A checked list of patterns for names of environment variables.
#[derive(Clone, PartialEq, Eq)]
pub struct AcceptEnv {
    patterns: Vec<Vec<u8>>,
}

impl AcceptEnv {
    /// Checks and keeps a list of patterns. An empty list accepts nothing.
    ///
    /// # Errors
    /// A pattern that is empty, too long, or holds `=` or a control byte; or too many of them.
    pub fn new<I, S>(patterns: I) -> Result<AcceptEnv, PatternError>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<[u8]>,
    {
        let mut list = Vec::new();
        for pattern in patterns {
            let pattern = pattern.as_ref();
            if pattern.is_empty() {
                return Err(PatternError::Empty);
            }
            if pattern.len() > MAX_PATTERN {
                return Err(PatternError::TooLong);
            }
            if pattern.iter().any(|&byte| byte == b'=' || byte <= b' ' || byte == 0x7f) {
                return Err(PatternError::BadByte(String::from_utf8_lossy(pattern).into_owned()));
            }
            if list.len() == MAX_PATTERNS {
                return Err(PatternError::TooMany);
            }
            list.push(pattern.to_vec());
        }
        Ok(AcceptEnv { patterns: list })
    }

    /// Whether a client may set the variable `name`. Names that no process could have (`=`, NUL) never match.
    #[must_use]
    pub fn accepts(&self, name: &[u8]) -> bool {
        !name.is_empty()
            && name.len() <= MAX_NAME
            && !name.iter().any(|&byte| byte == b'=' || byte == 0)
            && self.patterns.iter().any(|pattern| matches(pattern, name))
    }
}

impl Default for AcceptEnv {
    fn default() -> AcceptEnv {
        AcceptEnv { patterns: DEFAULT_ACCEPT_ENV.iter().map(|pattern| pattern.as_bytes().to_vec()).collect() }
    }
}

impl fmt::Debug for AcceptEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.patterns.iter().map(|pattern| String::from_utf8_lossy(pattern))).finish()
    }
}

/// Matches `text` against `pattern`, where `*` is any run of bytes and `?` one byte.
///
/// Needs no recursion: only the last `*` can ever have to be stretched, so the time is at most the product of the lengths.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on if the present try fails: the place after the last `*`, and how much text it has eaten so far.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                retry = Some((p, t));
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match &mut retry {
                Some((after_star, eaten)) => {
                    *eaten += 1;
                    (p, t) = (*after_star, *eaten);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// A pattern that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// An empty pattern.
    #[error("a pattern for environment variables is empty")]
    Empty,
    /// Longer than [`MAX_PATTERN`].
    #[error("a pattern for environment variables is longer than {MAX_PATTERN} bytes")]
    TooLong,
    /// More than [`MAX_PATTERNS`].
    #[error("there are more than {MAX_PATTERNS} patterns for environment variables")]
    TooMany,
    /// A space, a control byte or `=` in a pattern.
    #[error("the pattern \"{0}\" holds a space, a control character or \"=\"")]
    BadByte(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, written the slow and plain way.
    fn reference(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some((b'*', rest)), None) => reference(rest, text),
            (Some((b'*', rest)), Some((_, shorter))) => reference(rest, text) || reference(pattern, shorter),
            (Some(_), None) => false,
            (Some((p, rest)), Some((t, shorter))) => (*p == b'?' || p == t) && reference(rest, shorter),
        }
    }

    #[test]
    fn the_default_list() {
        let accept = AcceptEnv::default();
        for name in [
            "LANG",
            "LC_ALL",
            "LC_",
            "TERM",
            "COLORTERM",
            "TZ",
            "NO_COLOR",
            "GIT_PROTOCOL",
            "GIT_AUTHOR_NAME",
        ] {
            assert!(accept.accepts(name.as_bytes()), "{name}");
        }
        assert!(accept.accepts(b"GIT_COMMITTER_EMAIL"));
        for name in ["PATH", "LANGUAGE", "LD_PRELOAD", "lang", "", "XLC_ALL", "GIT_SSH", "LC_A=B", "LC_A\0B"]
        {
            assert!(!accept.accepts(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn names_are_bytes() {
        let accept = AcceptEnv::new(["LC_?"]).expect("patterns");
        assert!(accept.accepts(b"LC_\xff"));
        assert!(!accept.accepts(b"LC_\xff\xfe"));
    }

    #[test]
    fn an_empty_list_accepts_nothing() {
        assert!(!AcceptEnv::new(Vec::<&str>::new()).expect("patterns").accepts(b"LANG"));
    }

    #[test]
    fn bad_patterns_are_refused() {
        assert_eq!(AcceptEnv::new([""]), Err(PatternError::Empty));
        assert_eq!(AcceptEnv::new(["A".repeat(MAX_PATTERN + 1)]), Err(PatternError::TooLong));
        assert!(matches!(AcceptEnv::new(["A=B"]), Err(PatternError::BadByte(_))));
        assert!(matches!(AcceptEnv::new(["LANG LC_*"]), Err(PatternError::BadByte(_))));
        assert_eq!(AcceptEnv::new(vec!["A"; MAX_PATTERNS + 1]), Err(PatternError::TooMany));
    }

    #[test]
    fn many_stars_do_not_explode() {
        let pattern = "*a".repeat(60) + "b";
        assert!(!matches(pattern.as_bytes(), &[b'a'; MAX_NAME]));
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[ab?*]{0,8}", text in "[abc]{0,10}") {
            prop_assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), reference(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
