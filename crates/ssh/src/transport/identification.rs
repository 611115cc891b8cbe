//! The exchange of identification strings (RFC 4253 §4.2).
//!
//! The client's line must be the first it sends: as sshd, we refuse lines before it. CR LF or LF alone ends it; a CR
//! anywhere else and NUL are errors. At most 255 bytes, the end of the line included.

use super::Error;

/// RFC 4253 §4.2: the longest line, with CR LF, in bytes.
const MAX_LINE: usize = 255;

/// A client's identification.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Identification {
    /// The line without its end, as it goes into the exchange hash.
    pub line: Vec<u8>,
    /// How many bytes of the input it took.
    pub consumed: usize,
}

/// Reads the line from the start of `input`; `None` when it is not complete.
pub(super) fn read(input: &[u8]) -> Result<Option<Identification>, Error> {
    let window = input.get(..MAX_LINE).unwrap_or(input);
    // Whoever does not even begin with "SSH-" need not be waited for: it is HTTP, TLS or noise.
    let prefix = b"SSH-";
    let begun = window.len().min(prefix.len());
    if window[..begun] != prefix[..begun] {
        return Err(Error::BadIdentification);
    }
    let Some(newline) = window.iter().position(|b| *b == b'\n') else {
        if window.contains(&0) {
            return Err(Error::BadIdentification);
        }
        return if input.len() >= MAX_LINE { Err(Error::IdentificationTooLong) } else { Ok(None) };
    };
    let line = &window[..newline];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.iter().any(|b| *b == 0 || *b == b'\r') {
        return Err(Error::BadIdentification);
    }
    let rest = line.get(prefix.len()..).unwrap_or_default();
    let dash = rest.iter().position(|b| *b == b'-').ok_or(Error::BadIdentification)?;
    match &rest[..dash] {
        b"2.0" | b"1.99" => Ok(Some(Identification { line: line.to_vec(), consumed: newline + 1 })),
        version if version.iter().all(|b| b.is_ascii_digit() || *b == b'.') && !version.is_empty() => {
            Err(Error::VersionNotSupported)
        }
        _ => Err(Error::BadIdentification),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(input: &[u8]) -> Option<Vec<u8>> {
        read(input).unwrap().map(|id| id.line)
    }

    #[test]
    fn ordinary_lines() {
        assert_eq!(line(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\nrest").unwrap(), b"SSH-2.0-OpenSSH_9.2p1 Debian");
        assert_eq!(line(b"SSH-2.0-x\n").unwrap(), b"SSH-2.0-x");
        assert_eq!(line(b"SSH-1.99-x\r\n").unwrap(), b"SSH-1.99-x");
        assert_eq!(read(b"SSH-2.0-x\nabc").unwrap().unwrap().consumed, 10);
        for part in [&b""[..], b"S", b"SSH-", b"SSH-2.0-x", b"SSH-2.0-x\r"] {
            assert_eq!(line(part), None);
        }
    }

    #[test]
    fn the_longest_line_is_255_bytes() {
        let make = |len: usize| [b"SSH-2.0-", "x".repeat(len - 10).as_bytes(), b"\r\n"].concat();
        assert_eq!(line(&make(255)).unwrap().len(), 253);
        assert_eq!(read(&make(256)), Err(Error::IdentificationTooLong));
        assert_eq!(
            read(&[b"SSH-2.0-".to_vec(), vec![b'x'; 300]].concat()),
            Err(Error::IdentificationTooLong)
        );
    }

    #[test]
    fn everything_else_is_refused() {
        for bad in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"hello\r\nSSH-2.0-x\r\n",
            b"\r\nSSH-2.0-x\r\n",
            b"SSH-2.0\r\n",
            b"SSH--x\r\n",
            b"SSH-abc-x\r\n",
            b"SSH-2.0-a\0b\r\n",
            b"SSH-2.0-a\0b",
            b"SSH-2.0-a\rb\r\n",
            b"\x16\x03\x01",
            b"SSX",
        ] {
            assert_eq!(read(bad), Err(Error::BadIdentification), "{bad:?}");
        }
        assert_eq!(read(b"SSH-1.5-old\r\n"), Err(Error::VersionNotSupported));
        assert_eq!(read(b"SSH-3.0-new\r\n"), Err(Error::VersionNotSupported));
    }
}
