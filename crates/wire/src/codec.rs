//! Reading and writing of payload fields. Integers are big-endian; byte strings carry a u32 length.

/// Why bytes from the peer are not a valid frame or message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The message ends in the middle of a field.
    #[error("the message ends too early")]
    Truncated,
    /// Bytes are left over after the last field.
    #[error("the message has bytes after its end")]
    TrailingBytes,
    /// A frame or field is longer than its kind may be.
    #[error("a frame or field is longer than allowed")]
    TooLong,
    /// A kind number that this version does not know.
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    /// A field has a value outside of its set.
    #[error("a field has an impossible value")]
    BadValue,
    /// The first frame is not a hello of this protocol.
    #[error("the peer does not speak this protocol")]
    BadMagic,
}

/// Takes fields off the front of a payload.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or(DecodeError::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.take(N)?.try_into().map_err(|_| DecodeError::Truncated)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::BadValue),
        }
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A byte string of at most `max` bytes.
    pub(crate) fn bytes(&mut self, max: usize) -> Result<&'a [u8], DecodeError> {
        let len = usize::try_from(self.u32()?).map_err(|_| DecodeError::TooLong)?;
        if len > max {
            return Err(DecodeError::TooLong);
        }
        self.take(len)
    }

    /// An optional byte string: a presence byte, then the string.
    pub(crate) fn opt_bytes(&mut self, max: usize) -> Result<Option<Vec<u8>>, DecodeError> {
        if self.flag()? { Ok(Some(self.bytes(max)?.to_vec())) } else { Ok(None) }
    }

    /// Text for people: at most `max` bytes, made harmless for logs and terminals.
    pub(crate) fn text(&mut self, max: usize) -> Result<String, DecodeError> {
        Ok(printable(self.bytes(max)?))
    }

    /// Whether anything is left.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }
}

/// Replaces everything that could steer a terminal or break a log line.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Appends fields to a payload.
pub(crate) trait WriteFields {
    fn put_u8(&mut self, v: u8);
    fn put_u16(&mut self, v: u16);
    fn put_u32(&mut self, v: u32);
    fn put_u64(&mut self, v: u64);
    /// Lengths over `u32::MAX` cannot occur: every message is checked against the payload limit after encoding.
    fn put_bytes(&mut self, v: &[u8]);
    fn put_opt_bytes(&mut self, v: Option<&[u8]>);
}

impl WriteFields for Vec<u8> {
    fn put_u8(&mut self, v: u8) {
        self.push(v);
    }
    fn put_u16(&mut self, v: u16) {
        self.extend_from_slice(&v.to_be_bytes());
    }
    fn put_u32(&mut self, v: u32) {
        self.extend_from_slice(&v.to_be_bytes());
    }
    fn put_u64(&mut self, v: u64) {
        self.extend_from_slice(&v.to_be_bytes());
    }
    fn put_bytes(&mut self, v: &[u8]) {
        self.put_u32(u32::try_from(v.len()).unwrap_or(u32::MAX));
        self.extend_from_slice(v);
    }
    fn put_opt_bytes(&mut self, v: Option<&[u8]>) {
        match v {
            None => self.put_u8(0),
            Some(v) => {
                self.put_u8(1);
                self.put_bytes(v);
            }
        }
    }
}
