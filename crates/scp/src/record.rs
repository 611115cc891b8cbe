//! The control records of the protocol: one line each, from the source to the sink.
//!
//! | record | meaning |
//! | --- | --- |
//! | `C0644 1234 name` | a file with this mode and length; its bytes follow once the sink has agreed |
//! | `D0755 0 name` | a directory; what follows up to the matching `E` goes into it |
//! | `E` | the end of a directory |
//! | `T1700000000 0 1700000001 0` | modification and access time (seconds, microseconds) for the next `C` or `D` |
//!
//! The words of the errors are OpenSSH's, because clients print them.

/// Longest record, in bytes and without its newline. OpenSSH's own limit.
pub const MAX_RECORD: usize = 2046;

/// Permission bits that a record carries.
pub const MODE_BITS: u32 = 0o7777;

/// One line from the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// `C`: a file.
    File(Entry<'a>),
    /// `D`: a directory begins.
    Directory(Entry<'a>),
    /// `E`: the directory ends.
    End,
    /// `T`: times for the next file or directory.
    Times(Times),
    /// A line of the source beginning with byte 1: something could not be sent; the transfer goes on.
    Warning,
    /// A line of the source beginning with byte 2: the source has given up.
    Fatal,
}

/// What `C` and `D` carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Permission bits, within [`MODE_BITS`].
    pub mode: u32,
    /// Length in bytes; at most `i64::MAX`, since no file is longer. Means nothing for a directory.
    pub size: u64,
    /// Last component, checked: not empty, no `/`, no NUL, neither `.` nor `..`.
    pub name: &'a [u8],
}

/// Modification and access time of the next entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Last modification.
    pub modified: Stamp,
    /// Last access.
    pub accessed: Stamp,
}

/// Time since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Seconds.
    pub seconds: i64,
    /// Microseconds, below a million.
    pub micros: u32,
}

/// What is wrong with a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not in the form of the protocol.
    #[error("protocol error: {0}")]
    Malformed(&'static str),
    /// A line that begins like no record: perhaps a message of something that is not scp.
    #[error("protocol error: expected control record")]
    Unknown,
    /// A name that could reach outside the target.
    #[error("error: unexpected filename")]
    Name,
}

/// Reads one record, without its newline.
///
/// # Errors
/// [`RecordError`]; none of them can be mended, since the stream is out of step or the source is hostile.
pub fn parse(line: &[u8]) -> Result<Record<'_>, RecordError> {
    match line.split_first() {
        None => Err(RecordError::Malformed("unexpected <newline>")),
        Some((1, _)) => Ok(Record::Warning),
        Some((2, _)) => Ok(Record::Fatal),
        Some((b'E', _)) => Ok(Record::End),
        Some((b'T', rest)) => times(rest).map(Record::Times),
        Some((b'C', rest)) => entry(rest).map(Record::File),
        Some((b'D', rest)) => entry(rest).map(Record::Directory),
        Some(_) => Err(RecordError::Unknown),
    }
}

/// Writes a `T` record. A time before 1970 goes as 0, as OpenSSH sends it.
pub fn times_record(modified: i64, accessed: i64) -> Vec<u8> {
    format!("T{} 0 {} 0\n", modified.max(0), accessed.max(0)).into_bytes()
}

/// Writes a `C` or `D` record; `name` must be on one line already.
pub fn entry_record(kind: u8, mode: u32, size: u64, name: &[u8]) -> Vec<u8> {
    let mut line = vec![kind];
    line.extend_from_slice(format!("{:04o} {size} ", mode & MODE_BITS).as_bytes());
    line.extend_from_slice(name);
    line.push(b'\n');
    line
}

fn entry(rest: &[u8]) -> Result<Entry<'_>, RecordError> {
    let (digits, rest) = rest.split_at_checked(4).ok_or(RecordError::Malformed("bad mode"))?;
    let mut mode = 0;
    for digit in digits {
        if !(b'0'..=b'7').contains(digit) {
            return Err(RecordError::Malformed("bad mode"));
        }
        mode = mode << 3 | u32::from(digit - b'0');
    }
    let rest = rest.strip_prefix(b" ").ok_or(RecordError::Malformed("mode not delimited"))?;
    let (size, rest) = decimal(rest).ok_or(RecordError::Malformed("size not present"))?;
    let name = rest.strip_prefix(b" ").ok_or(RecordError::Malformed("size not delimited"))?;
    if i64::try_from(size).is_err() {
        return Err(RecordError::Malformed("size out of range"));
    }
    if !is_plain(name) {
        return Err(RecordError::Name);
    }
    Ok(Entry { mode, size, name })
}

/// Whether `name` names something directly in a directory.
fn is_plain(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0)
}

fn times(rest: &[u8]) -> Result<Times, RecordError> {
    let (modified, rest) =
        stamp(rest, b" ", ["mtime.sec not present", "mtime.sec not delimited", "mtime.usec not delimited"])?;
    let (accessed, _) =
        stamp(rest, b"", ["atime.sec not present", "atime.sec not delimited", "atime.usec not delimited"])?;
    Ok(Times { modified, accessed })
}

fn stamp<'a>(rest: &'a [u8], end: &[u8], words: [&'static str; 3]) -> Result<(Stamp, &'a [u8]), RecordError> {
    let [absent, undelimited, bad_micros] = words.map(RecordError::Malformed);
    let Some((seconds, rest)) = decimal(rest) else { return Err(absent) };
    let Some(rest) = rest.strip_prefix(b" ") else { return Err(undelimited) };
    let micros = decimal(rest).and_then(|(micros, rest)| Some((u32::try_from(micros).ok()?, rest)));
    let Some((micros @ 0..1_000_000, rest)) = micros else { return Err(bad_micros) };
    let rest = if end.is_empty() { rest.is_empty().then_some(rest) } else { rest.strip_prefix(end) };
    let Some(rest) = rest else { return Err(bad_micros) };
    // What no clock can hold is kept as the furthest moment; setting it fails, as it should.
    Ok((Stamp { seconds: i64::try_from(seconds).unwrap_or(i64::MAX), micros }, rest))
}

/// Digits at the start of `text`, at least one; a number beyond 64 bits is `u64::MAX`.
fn decimal(text: &[u8]) -> Option<(u64, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = text.split_at(digits);
    if number.is_empty() {
        return None;
    }
    let value = number.iter().try_fold(0_u64, |sum, d| sum.checked_mul(10)?.checked_add(u64::from(d - b'0')));
    Some((value.unwrap_or(u64::MAX), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(line: &[u8]) -> Entry<'_> {
        match parse(line) {
            Ok(Record::File(entry)) => entry,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_record_carries_mode_size_and_a_name_with_any_bytes() {
        assert_eq!(file(b"C4755 12 a b"), Entry { mode: 0o4755, size: 12, name: b"a b" });
        assert_eq!(file(b"C0644 0  x"), Entry { mode: 0o644, size: 0, name: b" x" });
        assert_eq!(file(b"C0644 0 \xff\\^J").name, b"\xff\\^J");
    }

    #[test]
    fn sizes_go_beyond_32_bits_and_stop_at_what_a_file_can_have() {
        assert_eq!(file(b"C0644 5368709120 x").size, 5 << 30);
        assert_eq!(file(b"C0644 9223372036854775807 x").size, i64::MAX as u64);
        for size in ["9223372036854775808", "99999999999999999999999999999"] {
            let line = format!("C0644 {size} x");
            assert_eq!(parse(line.as_bytes()), Err(RecordError::Malformed("size out of range")));
        }
    }

    #[test]
    fn a_name_that_could_leave_the_target_is_refused() {
        for name in [&b""[..], b".", b"..", b"/", b"a/b", b"../x", b"/etc/passwd", b"a\0b"] {
            for kind in [b'C', b'D'] {
                let mut line = entry_record(kind, 0o755, 0, name);
                line.pop();
                assert_eq!(parse(&line), Err(RecordError::Name), "{name:?}");
            }
        }
    }

    #[test]
    fn malformed_records_are_told_in_the_words_of_openssh() {
        for (line, why) in [
            (&b""[..], "unexpected <newline>"),
            (b"C755 2 file", "bad mode"),
            (b"C", "bad mode"),
            (b"C0684 2 file", "bad mode"),
            (b"C06444 2 file", "mode not delimited"),
            (b"C0644 -2 file", "size not present"),
            (b"C0644 2", "size not delimited"),
            (b"C0644 2file", "size not delimited"),
            (b"Tx", "mtime.sec not present"),
            (b"T1", "mtime.sec not delimited"),
            (b"T1 1000000 1 0", "mtime.usec not delimited"),
            (b"T1 0", "mtime.usec not delimited"),
            (b"T1 0 ", "atime.sec not present"),
            (b"T1 0 1", "atime.sec not delimited"),
            (b"T1 0 1 0 ", "atime.usec not delimited"),
        ] {
            assert_eq!(parse(line), Err(RecordError::Malformed(why)), "{}", line.escape_ascii());
        }
        assert_eq!(parse(b"X"), Err(RecordError::Unknown));
    }

    #[test]
    fn times_round_trip() {
        let line = times_record(1_700_000_000, -5);
        let stamp = |seconds| Stamp { seconds, micros: 0 };
        let times = Times { modified: stamp(1_700_000_000), accessed: stamp(0) };
        assert_eq!(parse(&line[..line.len() - 1]), Ok(Record::Times(times)));
    }
}
