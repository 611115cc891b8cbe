//! The data types of the SSH protocol (RFC 4251 §5), read from and written to byte slices.
//!
//! [`Reader`] walks over a borrowed message. It never panics, never allocates and never looks past its slice: every
//! length is checked against what is left. Strings are handed out as borrowed bytes, because the protocol does not
//! promise UTF-8 for most of them. [`Writer`] appends to a `Vec<u8>`; [`SliceWriter`] fills a slice of fixed size, for
//! messages built straight in the output buffer.

/// Why a message could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ended before the field did.
    #[error("The message is too short.")]
    Truncated,
    /// Bytes were left over after the last field.
    #[error("The message has bytes after its last field.")]
    TrailingBytes,
    /// A field that must be ASCII or UTF-8 is not.
    #[error("A text field is not valid text.")]
    NotText,
    /// A name-list holds an empty name, a character that RFC 4251 forbids, or too many names.
    #[error("A name list is malformed.")]
    NameList,
    /// A multiple precision integer is negative or not in its shortest form.
    #[error("An integer is malformed.")]
    Mpint,
}

/// The most names that a name-list may hold. Real clients send about 30; 1024 keeps negotiation cheap.
pub const MAX_NAMES: usize = 1024;

/// Reads the fields of one message from a slice.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `message`.
    #[must_use]
    pub const fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// What has not been read yet.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The number of bytes not read yet.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// True when every byte has been read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Takes exactly `len` raw bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] when fewer are left.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = tail;
        Ok(*head)
    }

    /// A `byte`.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] at the end of the message.
    pub fn byte(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[b]| b)
    }

    /// A `boolean`: every value but zero is true.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] at the end of the message.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        self.byte().map(|b| b != 0)
    }

    /// A `uint32`.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] at the end of the message.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A `uint64`.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] at the end of the message.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A `string` as bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] when its length goes past the message.
    pub fn string(&mut self) -> Result<&'a [u8], DecodeError> {
        let mut ahead = *self;
        let len = usize::try_from(ahead.u32()?).map_err(|_| DecodeError::Truncated)?;
        let bytes = ahead.bytes(len)?;
        *self = ahead;
        Ok(bytes)
    }

    /// A `string` that the RFC says is text (ISO-10646 UTF-8 or US-ASCII).
    ///
    /// # Errors
    /// [`DecodeError::NotText`] when it is not UTF-8, [`DecodeError::Truncated`] as for [`Reader::string`].
    pub fn text(&mut self) -> Result<&'a str, DecodeError> {
        core::str::from_utf8(self.string()?).map_err(|_| DecodeError::NotText)
    }

    /// An `mpint` that is zero or positive, as big-endian bytes without leading zeros.
    ///
    /// # Errors
    /// [`DecodeError::Mpint`] when it is negative or has needless leading zeros.
    pub fn mpint(&mut self) -> Result<&'a [u8], DecodeError> {
        match self.string()? {
            [] => Ok(&[]),
            [0, rest @ ..] if rest.first().is_some_and(|b| b & 0x80 != 0) => Ok(rest),
            [first, ..] if *first == 0 || first & 0x80 != 0 => Err(DecodeError::Mpint),
            magnitude => Ok(magnitude),
        }
    }

    /// A `name-list`, checked for its character set and bounded by [`MAX_NAMES`].
    ///
    /// # Errors
    /// [`DecodeError::NameList`] when it is malformed, [`DecodeError::Truncated`] as for [`Reader::string`].
    pub fn name_list(&mut self) -> Result<NameList<'a>, DecodeError> {
        let bytes = self.string()?;
        let text = core::str::from_utf8(bytes).map_err(|_| DecodeError::NameList)?;
        let printable = bytes.iter().all(|b| (0x21..=0x7e).contains(b));
        let list = NameList { text };
        if !printable || list.iter().any(str::is_empty) || list.iter().count() > MAX_NAMES {
            return Err(DecodeError::NameList);
        }
        Ok(list)
    }

    /// Ends the message.
    ///
    /// # Errors
    /// [`DecodeError::TrailingBytes`] when something is left.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }
}

/// A comma-separated list of names, as sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NameList<'a> {
    text: &'a str,
}

impl<'a> NameList<'a> {
    /// The names in the order they were sent.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let text = self.text;
        (!text.is_empty()).then(|| text.split(',')).into_iter().flatten()
    }

    /// True when `name` is in the list.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.iter().any(|n| n == name)
    }

    /// The list as it was on the wire.
    #[must_use]
    pub const fn as_str(&self) -> &'a str {
        self.text
    }
}

/// Appends fields to a byte vector. Lengths beyond `u32::MAX` cannot occur for messages this crate builds; they are
/// clamped to the protocol's limit by cutting the field, never by wrapping its length.
#[derive(Debug, Default)]
pub struct Writer {
    buf: Vec<u8>,
}

impl Writer {
    /// An empty message.
    #[must_use]
    pub const fn new() -> Self {
        Self { buf: Vec::new() }
    }

    /// A message that begins with the message number `kind`.
    #[must_use]
    pub fn message(kind: u8) -> Self {
        let mut buf = Vec::with_capacity(64);
        buf.push(kind);
        Self { buf }
    }

    /// Appends to what `buf` already holds.
    #[must_use]
    pub const fn append_to(buf: Vec<u8>) -> Self {
        Self { buf }
    }

    /// A `byte`.
    pub fn byte(&mut self, value: u8) -> &mut Self {
        self.buf.push(value);
        self
    }

    /// A `boolean`.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.byte(u8::from(value))
    }

    /// A `uint32`.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.buf.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A `uint64`.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.buf.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A `string`.
    pub fn string(&mut self, value: impl AsRef<[u8]>) -> &mut Self {
        let value = value.as_ref();
        let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self.u32(len);
        self.buf.extend_from_slice(value.get(..len as usize).unwrap_or(value));
        self
    }

    /// An `mpint` from big-endian bytes of a number that is zero or positive; leading zeros are dropped.
    pub fn mpint(&mut self, magnitude: &[u8]) -> &mut Self {
        let start = magnitude.iter().position(|b| *b != 0).unwrap_or(magnitude.len());
        let digits = magnitude.get(start..).unwrap_or_default();
        let sign = usize::from(digits.first().is_some_and(|b| b & 0x80 != 0));
        self.u32(u32::try_from(digits.len().saturating_add(sign)).unwrap_or(u32::MAX));
        if sign == 1 {
            self.buf.push(0);
        }
        self.buf.extend_from_slice(digits);
        self
    }

    /// A `name-list`.
    pub fn name_list<'n>(&mut self, names: impl IntoIterator<Item = &'n str>) -> &mut Self {
        let at = self.buf.len();
        self.u32(0);
        let start = self.buf.len();
        for name in names {
            if self.buf.len() > start {
                self.buf.push(b',');
            }
            self.buf.extend_from_slice(name.as_bytes());
        }
        let len = u32::try_from(self.buf.len().saturating_sub(start)).unwrap_or(u32::MAX);
        if let Some(field) = self.buf.get_mut(at..start) {
            field.copy_from_slice(&len.to_be_bytes());
        }
        self
    }

    /// Raw bytes, without a length.
    pub fn raw(&mut self, value: &[u8]) -> &mut Self {
        self.buf.extend_from_slice(value);
        self
    }

    /// What has been written.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.buf
    }

    /// The finished message.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.buf
    }
}

/// Fills a slice of fixed size from the front. Every method fails, and writes nothing, when the room is too small.
#[derive(Debug)]
pub struct SliceWriter<'a> {
    buf: &'a mut [u8],
    at: usize,
}

/// The slice given to a [`SliceWriter`] is too small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("There is no room for the field.")]
pub struct NoRoom;

impl<'a> SliceWriter<'a> {
    /// Starts at the front of `buf`.
    pub const fn new(buf: &'a mut [u8]) -> Self {
        Self { buf, at: 0 }
    }

    /// Raw bytes.
    ///
    /// # Errors
    /// [`NoRoom`] when they do not fit.
    pub fn raw(&mut self, value: &[u8]) -> Result<(), NoRoom> {
        let end = self.at.checked_add(value.len()).ok_or(NoRoom)?;
        self.buf.get_mut(self.at..end).ok_or(NoRoom)?.copy_from_slice(value);
        self.at = end;
        Ok(())
    }

    /// A `byte`.
    ///
    /// # Errors
    /// [`NoRoom`] when it does not fit.
    pub fn byte(&mut self, value: u8) -> Result<(), NoRoom> {
        self.raw(&[value])
    }

    /// A `uint32`.
    ///
    /// # Errors
    /// [`NoRoom`] when it does not fit.
    pub fn u32(&mut self, value: u32) -> Result<(), NoRoom> {
        self.raw(&value.to_be_bytes())
    }

    /// The number of bytes written.
    #[must_use]
    pub const fn written(&self) -> usize {
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mpint_examples_of_rfc_4251() {
        let cases: [(&[u8], &[u8]); 3] = [
            (&[], &[0, 0, 0, 0]),
            (
                &[0x09, 0xa3, 0x78, 0xf9, 0xb2, 0xe3, 0x32, 0xa7],
                &[0, 0, 0, 8, 0x09, 0xa3, 0x78, 0xf9, 0xb2, 0xe3, 0x32, 0xa7],
            ),
            (&[0x80], &[0, 0, 0, 2, 0, 0x80]),
        ];
        for (magnitude, wire) in cases {
            let mut w = Writer::new();
            w.mpint(magnitude);
            assert_eq!(w.as_slice(), wire);
            assert_eq!(Reader::new(wire).mpint(), Ok(magnitude));
        }
        let mut w = Writer::new();
        w.mpint(&[0, 0, 7]);
        assert_eq!(w.as_slice(), &[0, 0, 0, 1, 7], "leading zeros are dropped");
    }

    #[test]
    fn mpint_refuses_negative_and_padded() {
        for wire in [&[0, 0, 0, 2, 0xed, 0xcc][..], &[0, 0, 0, 2, 0, 1], &[0, 0, 0, 1, 0]] {
            assert_eq!(Reader::new(wire).mpint(), Err(DecodeError::Mpint));
        }
    }

    #[test]
    fn name_list_examples() {
        let mut w = Writer::new();
        w.name_list(["zlib", "none"]).name_list([]);
        assert_eq!(w.as_slice(), b"\0\0\0\x09zlib,none\0\0\0\0");
        let bytes = w.into_vec();
        let mut r = Reader::new(&bytes);
        let list = r.name_list().unwrap();
        assert_eq!(list.iter().collect::<Vec<_>>(), ["zlib", "none"]);
        assert!(list.contains("none") && !list.contains("zlib,none"));
        assert_eq!(r.name_list().unwrap().iter().count(), 0);
        assert_eq!(r.finish(), Ok(()));
        for bad in [&b"a,,b"[..], b",a", b"a,", b"a b", b"a\0", b"\xff"] {
            let mut w = Writer::new();
            w.string(bad);
            assert_eq!(Reader::new(w.as_slice()).name_list(), Err(DecodeError::NameList), "{bad:?}");
        }
        let mut w = Writer::new();
        w.string(vec!["a"; MAX_NAMES + 1].join(","));
        assert_eq!(Reader::new(w.as_slice()).name_list(), Err(DecodeError::NameList));
    }

    #[test]
    fn a_string_that_is_too_long_consumes_nothing() {
        let mut r = Reader::new(&[0, 0, 0, 5, 1, 2]);
        assert_eq!(r.string(), Err(DecodeError::Truncated));
        assert_eq!(r.remaining(), 6);
        assert_eq!(Reader::new(&[0xff; 7]).string(), Err(DecodeError::Truncated));
    }

    #[test]
    fn slice_writer_stops_at_its_end() {
        let mut room = [0u8; 6];
        let mut w = SliceWriter::new(&mut room);
        assert_eq!(w.byte(1), Ok(()));
        assert_eq!(w.u32(2), Ok(()));
        assert_eq!(w.u32(3), Err(NoRoom));
        assert_eq!(w.written(), 5);
        assert_eq!(room, [1, 0, 0, 0, 2, 0]);
    }

    proptest! {
        #[test]
        fn reading_anything_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64), ops in proptest::collection::vec(0u8..8, 0..12)) {
            let mut r = Reader::new(&bytes);
            for op in ops {
                let before = r.remaining();
                match op {
                    0 => drop(r.byte()),
                    1 => drop(r.bool()),
                    2 => drop(r.u32()),
                    3 => drop(r.u64()),
                    4 => drop(r.string()),
                    5 => drop(r.mpint()),
                    6 => drop(r.name_list()),
                    _ => drop(r.text()),
                }
                prop_assert!(r.remaining() <= before);
            }
        }

        #[test]
        fn what_is_written_is_read(a: u8, b: bool, c: u32, d: u64, s in proptest::collection::vec(any::<u8>(), 0..99), m in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut w = Writer::message(a);
            w.bool(b).u32(c).u64(d).string(&s).mpint(&m);
            let mut r = Reader::new(w.as_slice());
            prop_assert_eq!(r.byte(), Ok(a));
            prop_assert_eq!(r.bool(), Ok(b));
            prop_assert_eq!(r.u32(), Ok(c));
            prop_assert_eq!(r.u64(), Ok(d));
            prop_assert_eq!(r.string(), Ok(&s[..]));
            let start = m.iter().position(|b| *b != 0).unwrap_or(m.len());
            prop_assert_eq!(r.mpint(), Ok(&m[start..]));
            prop_assert_eq!(r.finish(), Ok(()));
        }
    }
}
