//! Puts messages together from pieces.

use crate::MAX_MESSAGE;

/// Bytes of the length field.
pub(crate) const HEADER: usize = 4;

/// A length field that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadLength {
    /// No room for a type.
    Zero,
    /// Beyond [`MAX_MESSAGE`].
    TooLong(u32),
}

/// The message at hand, its length field included. Grows with what arrives, not with what is announced.
#[derive(Debug, Default)]
pub(crate) struct Frame(Vec<u8>);

impl Frame {
    /// True between messages.
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes bytes up to the end of the message, and gives the message when it is whole.
    pub(crate) fn take(&mut self, bytes: &mut &[u8]) -> Result<Option<Vec<u8>>, BadLength> {
        self.fill(bytes, HEADER);
        let Some(header) = self.0.first_chunk::<HEADER>() else { return Ok(None) };
        let announced = u32::from_be_bytes(*header);
        let whole = match usize::try_from(announced) {
            Ok(0) => return Err(BadLength::Zero),
            Ok(len) if len <= MAX_MESSAGE => len.saturating_add(HEADER),
            _ => return Err(BadLength::TooLong(announced)),
        };
        self.fill(bytes, whole);
        Ok((self.0.len() == whole).then(|| std::mem::take(&mut self.0)))
    }

    pub(crate) fn clear(&mut self) {
        self.0 = Vec::new();
    }

    fn fill(&mut self, bytes: &mut &[u8], until: usize) {
        let missing = until.saturating_sub(self.0.len());
        let (taken, rest) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
        self.0.extend_from_slice(taken);
        *bytes = rest;
    }
}
