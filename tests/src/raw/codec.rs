//! RFC 4251 §5: the data types, and the message numbers that this client uses.

use std::io;

/// Message numbers of RFC 4250 §4.1.2 and RFC 8308.
#[allow(missing_docs, reason = "the RFC's own names")]
mod numbers {
    pub const DISCONNECT: u8 = 1;
    pub const IGNORE: u8 = 2;
    pub const UNIMPLEMENTED: u8 = 3;
    pub const DEBUG: u8 = 4;
    pub const SERVICE_REQUEST: u8 = 5;
    pub const SERVICE_ACCEPT: u8 = 6;
    pub const EXT_INFO: u8 = 7;
    pub const KEXINIT: u8 = 20;
    pub const NEWKEYS: u8 = 21;
    pub const ECDH_INIT: u8 = 30;
    pub const ECDH_REPLY: u8 = 31;
    pub const USERAUTH_REQUEST: u8 = 50;
    pub const USERAUTH_FAILURE: u8 = 51;
    pub const USERAUTH_SUCCESS: u8 = 52;
    pub const BANNER: u8 = 53;
    pub const GLOBAL_REQUEST: u8 = 80;
    pub const REQUEST_SUCCESS: u8 = 81;
    pub const REQUEST_FAILURE: u8 = 82;
    pub const CHANNEL_OPEN: u8 = 90;
    pub const CHANNEL_OPEN_CONFIRMATION: u8 = 91;
    pub const CHANNEL_OPEN_FAILURE: u8 = 92;
    pub const CHANNEL_WINDOW_ADJUST: u8 = 93;
    pub const CHANNEL_DATA: u8 = 94;
    pub const CHANNEL_EXTENDED_DATA: u8 = 95;
    pub const CHANNEL_EOF: u8 = 96;
    pub const CHANNEL_CLOSE: u8 = 97;
    pub const CHANNEL_REQUEST: u8 = 98;
    pub const CHANNEL_SUCCESS: u8 = 99;
    pub const CHANNEL_FAILURE: u8 = 100;
}
pub use numbers::*;

/// Builds a message.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// A message with this number.
    pub fn new(number: u8) -> Self {
        Self(vec![number])
    }

    /// Appends a byte.
    #[must_use]
    pub fn byte(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    /// Appends a uint32.
    #[must_use]
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Appends a string with its length.
    #[must_use]
    pub fn string(self, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.u32(value.len() as u32).raw(value)
    }

    /// Appends bytes without a length.
    #[must_use]
    pub fn raw(mut self, value: &[u8]) -> Self {
        self.0.extend_from_slice(value);
        self
    }

    /// Appends an unsigned number as an mpint.
    #[must_use]
    pub fn mpint(self, value: &[u8]) -> Self {
        let start = value.iter().position(|&byte| byte != 0).unwrap_or(value.len());
        let value = &value[start..];
        let mut padded = Vec::new();
        if value.first().is_some_and(|byte| byte & 0x80 != 0) {
            padded.push(0);
        }
        padded.extend_from_slice(value);
        self.string(padded)
    }

    /// The message.
    pub fn done(self) -> Vec<u8> {
        self.0
    }
}

/// Takes a message apart.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// `InvalidData` when there are fewer.
    pub fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(io::ErrorKind::InvalidData)?;
        self.0 = tail;
        Ok(head)
    }

    /// A byte.
    ///
    /// # Errors
    /// `InvalidData` when there is none.
    pub fn byte(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// A boolean.
    ///
    /// # Errors
    /// `InvalidData` when there is none.
    pub fn bool(&mut self) -> io::Result<bool> {
        Ok(self.byte()? != 0)
    }

    /// A uint32.
    ///
    /// # Errors
    /// `InvalidData` when it is cut short.
    pub fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().unwrap()))
    }

    /// A string.
    ///
    /// # Errors
    /// `InvalidData` when it is cut short.
    pub fn string(&mut self) -> io::Result<&'a [u8]> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    /// A string as text.
    ///
    /// # Errors
    /// `InvalidData` when it is cut short.
    pub fn text(&mut self) -> io::Result<String> {
        Ok(String::from_utf8_lossy(self.string()?).into_owned())
    }
}
