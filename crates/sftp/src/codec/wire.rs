//! The primitive fields, and cutting the stream into packets.

use super::MAX_PACKET;

/// Why bytes are no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The length field says more than [`MAX_PACKET`]; the stream cannot be followed any further.
    #[error("The packet is longer than 256 KiB.")]
    TooLong,
    /// A packet without type, or a request without its number: nothing can be answered.
    #[error("The packet is too short to be one.")]
    TooShort,
    /// A field ends after the packet, or a path has a NUL byte. The request with this id can be answered with an error.
    #[error("A field of the packet is malformed.")]
    Field {
        /// The request's id.
        id: u32,
    },
    /// A type that this code does not know.
    #[error("The packet has the unknown type {kind}.")]
    Kind {
        /// The request's id.
        id: u32,
        /// The type.
        kind: u8,
    },
}

/// Cuts one packet off the front of the stream: its bytes after the length field. `None` when it is not all there; the next one begins
/// 4 bytes plus the packet's length further on.
///
/// # Errors
/// [`DecodeError::TooLong`].
pub fn frame(input: &[u8]) -> Result<Option<&[u8]>, DecodeError> {
    let Some((len, rest)) = input.split_first_chunk::<4>() else { return Ok(None) };
    let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| DecodeError::TooLong)?;
    if len > MAX_PACKET {
        return Err(DecodeError::TooLong);
    }
    Ok(rest.get(..len))
}

/// A field could not be read. Turned into [`DecodeError::Field`] where the id is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadField;

/// Takes fields off the front.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn u8(&mut self) -> Result<u8, BadField> {
        let (first, rest) = self.0.split_first().ok_or(BadField)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(super) fn u32(&mut self) -> Result<u32, BadField> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(BadField)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    pub(super) fn u64(&mut self) -> Result<u64, BadField> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(BadField)?;
        self.0 = rest;
        Ok(u64::from_be_bytes(*bytes))
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], BadField> {
        let len = usize::try_from(self.u32()?).map_err(|_| BadField)?;
        let (string, rest) = self.0.split_at_checked(len).ok_or(BadField)?;
        self.0 = rest;
        Ok(string)
    }

    /// A string that goes to the operating system as a path, or is a name: no NUL inside.
    pub(super) fn text(&mut self) -> Result<&'a [u8], BadField> {
        let text = self.string()?;
        if text.contains(&0) { Err(BadField) } else { Ok(text) }
    }
}

/// Strings one after another, as `users-groups-by-id@openssh.com` sends names; ends at the first that is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strings<'a>(pub &'a [u8]);

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let mut reader = Reader(self.0);
        let string = reader.string().ok()?;
        self.0 = reader.0;
        Some(string)
    }
}

pub(super) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend(value.to_be_bytes());
}

pub(super) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend(value.to_be_bytes());
}

/// Writes a string. One that is longer than a packet is cut: no caller has one, and no length may wrap.
pub(super) fn put_string(out: &mut Vec<u8>, string: &[u8]) {
    let string = string.get(..MAX_PACKET).unwrap_or(string);
    put_u32(out, u32::try_from(string.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(string);
}

/// Writes a packet whose body `fill` appends, with the length before it.
pub(super) fn packet(out: &mut Vec<u8>, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    put_u32(out, 0);
    out.push(kind);
    fill(out);
    let len = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    if let Some(field) = out.get_mut(start..start + 4) {
        field.copy_from_slice(&len.to_be_bytes());
    }
}
