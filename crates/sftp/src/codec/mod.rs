//! SFTP packets on byte slices: requests and replies, each in both directions, without I/O.
//!
//! Primer: a packet is a length (4 bytes, big endian), a type byte, a request id and the fields of the type. Strings are length and
//! bytes. The server decodes [`Request`]s and encodes [`Reply`]s, a client the other way round; both use [`frame`] to cut the stream.
//! Decoding borrows from the input, never panics, and ignores what follows the fields it knows, as OpenSSH does.
//! References: draft-ietf-secsh-filexfer-02, OpenSSH `PROTOCOL` section 4.

mod attrs;
mod reply;
mod request;
mod wire;

pub use attrs::Attrs;
pub use reply::{Limits, NameEntry, Names, NamesWriter, Reply, Status};
pub use request::{Extended, Ids, Request};
pub use wire::{DecodeError, Strings, frame};

/// The longest packet, its length field not counted, in bytes; OpenSSH's `SFTP_MAX_MSG_LENGTH`.
pub const MAX_PACKET: usize = 256 * 1024;
/// The most data that one READ gives or one WRITE takes, in bytes: a packet less 1 KiB for the fields around it, as OpenSSH says in
/// `limits@openssh.com`.
pub const MAX_DATA: usize = MAX_PACKET - 1024;
/// The protocol version.
pub const VERSION: u32 = 3;
/// The longest handle, in bytes (draft, section 6.3).
pub const MAX_HANDLE: usize = 256;

/// Packet types.
pub(crate) mod kind {
    pub const INIT: u8 = 1;
    pub const VERSION: u8 = 2;
    pub const OPEN: u8 = 3;
    pub const CLOSE: u8 = 4;
    pub const READ: u8 = 5;
    pub const WRITE: u8 = 6;
    pub const LSTAT: u8 = 7;
    pub const FSTAT: u8 = 8;
    pub const SETSTAT: u8 = 9;
    pub const FSETSTAT: u8 = 10;
    pub const OPENDIR: u8 = 11;
    pub const READDIR: u8 = 12;
    pub const REMOVE: u8 = 13;
    pub const MKDIR: u8 = 14;
    pub const RMDIR: u8 = 15;
    pub const REALPATH: u8 = 16;
    pub const STAT: u8 = 17;
    pub const RENAME: u8 = 18;
    pub const READLINK: u8 = 19;
    pub const SYMLINK: u8 = 20;
    pub const STATUS: u8 = 101;
    pub const HANDLE: u8 = 102;
    pub const DATA: u8 = 103;
    pub const NAME: u8 = 104;
    pub const ATTRS: u8 = 105;
    pub const EXTENDED: u8 = 200;
    pub const EXTENDED_REPLY: u8 = 201;
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;
