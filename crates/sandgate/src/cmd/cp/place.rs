//! What an argument of `cp` names, and how names are shown.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStringExt as _;

use anyhow::bail;

/// One argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    Local(Vec<u8>),
    /// In a sandbox.
    Sandbox { name: String, path: Vec<u8> },
    /// Standard input or output.
    Standard,
}

impl Place {
    /// Reads an argument: `NAME:PATH` is in a sandbox unless a slash comes before the colon, as with scp.
    pub fn parse(argument: OsString) -> anyhow::Result<Place> {
        let bytes = argument.into_vec();
        if bytes == b"-" {
            return Ok(Place::Standard);
        }
        if bytes.is_empty() {
            bail!("a name is empty; the directory that you are in is called \".\"");
        }
        let colon = bytes.iter().position(|byte| matches!(byte, b':' | b'/'));
        let Some((name, [b':', path @ ..])) = colon.and_then(|at| bytes.split_at_checked(at)) else {
            return Ok(Place::Local(bytes));
        };
        if name.is_empty() {
            return Ok(Place::Local(bytes));
        }
        let Ok(name) = str::from_utf8(name) else {
            bail!("there is no sandbox \"{}\"; a local name with a colon is written ./NAME", shown(name));
        };
        Ok(Place::Sandbox { name: name.to_owned(), path: from_home(path).to_vec() })
    }

    /// The path; empty for the standard streams.
    pub fn path(&self) -> &[u8] {
        match self {
            Place::Local(path) | Place::Sandbox { path, .. } => path,
            Place::Standard => b"",
        }
    }

    /// The sandbox, where it is in one.
    pub fn sandbox(&self) -> Option<&str> {
        match self {
            Place::Sandbox { name, .. } => Some(name),
            Place::Local(_) | Place::Standard => None,
        }
    }

    /// Whether it is a stream of this program.
    pub fn is_standard(&self) -> bool {
        matches!(self, Place::Standard)
    }
}

/// A path in a sandbox, with `~/` left out, since a session starts in the home directory.
fn from_home(path: &[u8]) -> &[u8] {
    let path = match path {
        b"~" => b"",
        [b'~', b'/', rest @ ..] => {
            let slashes = rest.iter().take_while(|byte| **byte == b'/').count();
            &rest[slashes..]
        }
        other => other,
    };
    if path.is_empty() { b"." } else { path }
}

/// The last name in a path; `None` when it has none of its own, as `/` and `..`: what is in such a directory goes straight into the target.
pub fn last_name(path: &[u8]) -> Option<&[u8]> {
    let end = path.iter().rposition(|byte| *byte != b'/')?;
    let name = path[..=end].rsplit(|byte| *byte == b'/').next()?;
    (!matches!(name, b"" | b"." | b"..")).then_some(name)
}

/// A name in a directory.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if directory.ends_with(b"/") { b"" } else { b"/" };
    [directory, slash, name].concat()
}

/// The directory of a path.
pub fn parent(path: &[u8]) -> &[u8] {
    let Some(end) = path.iter().rposition(|byte| *byte != b'/') else { return path };
    match path[..=end].iter().rposition(|byte| *byte == b'/') {
        Some(0) => b"/",
        Some(slash) => &path[..slash],
        None => b".",
    }
}

/// Bytes for a line on a terminal: control characters, and what is no text, are escaped.
pub fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || is_invisible(character) {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Characters that turn the direction of a line, break it, or have no width: a name must not look like another one.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Place {
        Place::parse(OsString::from_vec(bytes.to_vec())).expect("a place")
    }

    #[test]
    fn a_colon_before_any_slash_names_a_sandbox() {
        let sandbox = |name: &str, path: &[u8]| Place::Sandbox { name: name.to_owned(), path: path.to_vec() };
        assert_eq!(parse(b"box:/etc/passwd"), sandbox("box", b"/etc/passwd"));
        assert_eq!(parse(b"box:a:b\xff"), sandbox("box", b"a:b\xff"));
        for home in ["box:", "box:~", "box:~/", "box:~//", "box:."] {
            assert_eq!(parse(home.as_bytes()), sandbox("box", b"."), "{home}");
        }
        assert_eq!(parse(b"box:~/x"), sandbox("box", b"x"));
        assert_eq!(parse(b"box:~me/x"), sandbox("box", b"~me/x"));
        for local in ["a", "./a:b", "/x:y", ":a", "a/b:c"] {
            assert_eq!(parse(local.as_bytes()), Place::Local(local.into()));
        }
        assert_eq!(parse(b"-"), Place::Standard);
        assert!(Place::parse(OsString::new()).is_err());
        assert!(Place::parse(OsString::from_vec(b"\xff:x".to_vec())).is_err());
    }

    #[test]
    fn names_and_directories_of_paths() {
        for (path, name, directory) in [
            ("a", Some("a"), "."),
            ("a/b", Some("b"), "a"),
            ("/a//", Some("a"), "/"),
            ("/a/b/", Some("b"), "/a"),
            ("a/..", None, "a"),
            (".", None, "."),
            ("/", None, "/"),
        ] {
            assert_eq!(last_name(path.as_bytes()), name.map(str::as_bytes), "{path}");
            assert_eq!(parent(path.as_bytes()), directory.as_bytes(), "{path}");
        }
        assert_eq!((join(b"/", b"a"), join(b"a", b"b")), (b"/a".to_vec(), b"a/b".to_vec()));
    }

    #[test]
    fn names_cannot_write_on_the_terminal() {
        assert_eq!(shown(b"a b\xc3\xa9"), "a b\u{e9}");
        assert_eq!(shown(b"\x1b[2J\n\xff\xe2\x80\xae"), "\\u{1b}[2J\\n\\xff\\u{202e}");
    }
}
