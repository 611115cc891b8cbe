//! The data types of the SSH protocols (RFC 4251 §5) that agent messages are made of.

/// A message ended before a field did, or went on after the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The fields do not fill the message exactly.")]
pub(crate) struct Malformed;

/// Walks over a borrowed message; never panics, never allocates, never looks past its slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = tail;
        Ok(head)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.rest.split_first().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*first)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        let (head, tail) = self.rest.split_first_chunk::<4>().ok_or(Malformed)?;
        self.rest = tail;
        Ok(u32::from_be_bytes(*head))
    }

    pub(crate) fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let mut ahead = *self;
        let len = usize::try_from(ahead.u32()?).map_err(|_| Malformed)?;
        let bytes = ahead.bytes(len)?;
        *self = ahead;
        Ok(bytes)
    }

    /// A positive `mpint` as big-endian bytes without leading zeros.
    pub(crate) fn mpint(&mut self) -> Result<&'a [u8], Malformed> {
        match self.string()? {
            [] => Ok(&[]),
            [0, rest @ ..] if rest.first().is_some_and(|b| b & 0x80 != 0) => Ok(rest),
            [first, ..] if *first == 0 || first & 0x80 != 0 => Err(Malformed),
            magnitude => Ok(magnitude),
        }
    }

    pub(crate) fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// Appends a `string`. What is written here is cut from messages of [`crate::MAX_MESSAGE`] bytes at most, so the length fits.
pub(crate) fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}
