//! What a client asks.

use super::wire::{BadField, Reader, packet, put_string, put_u32, put_u64};
use super::{Attrs, DecodeError, MAX_HANDLE, kind};
use crate::vfs::OpenFlags;

/// A request. Every one but `Init` has an id, which its reply repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named as in the draft: id, path, handle, offset")]
pub enum Request<'a> {
    /// The first packet, with the client's version.
    Init { version: u32 },
    /// Opens a file; of the attributes only the mode counts.
    Open { id: u32, path: &'a [u8], flags: OpenFlags, attrs: Attrs },
    /// Gives a handle back.
    Close { id: u32, handle: &'a [u8] },
    /// Reads up to `len` bytes.
    Read { id: u32, handle: &'a [u8], offset: u64, len: u32 },
    /// Writes.
    Write { id: u32, handle: &'a [u8], offset: u64, data: &'a [u8] },
    /// Attributes of a path, links not followed.
    Lstat { id: u32, path: &'a [u8] },
    /// Attributes of an open file.
    Fstat { id: u32, handle: &'a [u8] },
    /// Sets attributes of a path.
    Setstat { id: u32, path: &'a [u8], attrs: Attrs },
    /// Sets attributes of an open file.
    Fsetstat { id: u32, handle: &'a [u8], attrs: Attrs },
    /// Opens a directory for listing.
    Opendir { id: u32, path: &'a [u8] },
    /// The next entries of it.
    Readdir { id: u32, handle: &'a [u8] },
    /// Removes a file.
    Remove { id: u32, path: &'a [u8] },
    /// Makes a directory; of the attributes only the mode counts.
    Mkdir { id: u32, path: &'a [u8], attrs: Attrs },
    /// Removes a directory.
    Rmdir { id: u32, path: &'a [u8] },
    /// The absolute form of a path.
    Realpath { id: u32, path: &'a [u8] },
    /// Attributes of a path, links followed.
    Stat { id: u32, path: &'a [u8] },
    /// Renames without replacing.
    Rename { id: u32, from: &'a [u8], to: &'a [u8] },
    /// What a symbolic link says.
    Readlink { id: u32, path: &'a [u8] },
    /// Makes a symbolic link. The draft puts the link first; OpenSSH, and so everybody, sends the target first.
    Symlink { id: u32, target: &'a [u8], link: &'a [u8] },
    /// A request by name.
    Extended { id: u32, request: Extended<'a> },
}

/// The requests by name that OpenSSH has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named as in OpenSSH's PROTOCOL")]
pub enum Extended<'a> {
    /// `posix-rename@openssh.com`: renames and replaces.
    PosixRename { from: &'a [u8], to: &'a [u8] },
    /// `statvfs@openssh.com`.
    Statvfs { path: &'a [u8] },
    /// `fstatvfs@openssh.com`.
    Fstatvfs { handle: &'a [u8] },
    /// `hardlink@openssh.com`.
    Hardlink { from: &'a [u8], to: &'a [u8] },
    /// `fsync@openssh.com`.
    Fsync { handle: &'a [u8] },
    /// `lsetstat@openssh.com`: sets attributes, links not followed.
    Lsetstat { path: &'a [u8], attrs: Attrs },
    /// `limits@openssh.com`.
    Limits,
    /// `expand-path@openssh.com`: realpath with `~`.
    ExpandPath { path: &'a [u8] },
    /// `copy-data`: copies between two open files; a length of 0 means to the end.
    CopyData { from: &'a [u8], from_offset: u64, len: u64, to: &'a [u8], to_offset: u64 },
    /// `home-directory`: of a user, or of this one when the name is empty.
    HomeDirectory { user: &'a [u8] },
    /// `users-groups-by-id@openssh.com`: names of numbers.
    UsersGroupsById { users: Ids<'a>, groups: Ids<'a> },
    /// Any other.
    Unknown { name: &'a [u8], body: &'a [u8] },
}

/// Numbers of users or groups, 4 bytes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids<'a>(&'a [u8]);

impl<'a> Ids<'a> {
    /// Takes bytes; their number must be a multiple of 4.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        bytes.len().is_multiple_of(4).then_some(Self(bytes))
    }
}

impl Iterator for Ids<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let (id, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*id))
    }
}

impl<'a> Request<'a> {
    /// Decodes a packet as [`super::frame`] cut it.
    ///
    /// # Errors
    /// Any [`DecodeError`] but `TooLong`.
    pub fn decode(packet: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader(packet);
        let kind = r.u8().map_err(|_| DecodeError::TooShort)?;
        let id = r.u32().map_err(|_| DecodeError::TooShort)?;
        if kind == kind::INIT {
            return Ok(Self::Init { version: id });
        }
        Self::fields(kind, id, &mut r)
            .map_err(|BadField| DecodeError::Field { id })?
            .ok_or(DecodeError::Kind { id, kind })
    }

    /// Whether it may change what a file holds.
    pub(crate) fn changes_contents(&self) -> bool {
        match self {
            Self::Open { flags, .. } => flags.changes(),
            Self::Setstat { attrs, .. } | Self::Fsetstat { attrs, .. } => attrs.size.is_some(),
            Self::Write { .. } | Self::Extended { request: Extended::CopyData { .. }, .. } => true,
            _ => false,
        }
    }

    /// The handles that it is about.
    pub(crate) fn handles(&self) -> [Option<&'a [u8]>; 2] {
        match self {
            Self::Close { handle, .. }
            | Self::Read { handle, .. }
            | Self::Write { handle, .. }
            | Self::Fstat { handle, .. }
            | Self::Fsetstat { handle, .. }
            | Self::Readdir { handle, .. }
            | Self::Extended {
                request: Extended::Fstatvfs { handle } | Extended::Fsync { handle }, ..
            } => [Some(handle), None],
            Self::Extended { request: Extended::CopyData { from, to, .. }, .. } => [Some(from), Some(to)],
            _ => [None, None],
        }
    }

    /// The fields after type and id; `None` for an unknown type.
    fn fields(kind: u8, id: u32, r: &mut Reader<'a>) -> Result<Option<Self>, BadField> {
        Ok(Some(match kind {
            kind::OPEN => {
                Self::Open { id, path: r.text()?, flags: OpenFlags(r.u32()?), attrs: Attrs::decode(r)? }
            }
            kind::CLOSE => Self::Close { id, handle: handle(r)? },
            kind::READ => Self::Read { id, handle: handle(r)?, offset: r.u64()?, len: r.u32()? },
            kind::WRITE => Self::Write { id, handle: handle(r)?, offset: r.u64()?, data: r.string()? },
            kind::LSTAT => Self::Lstat { id, path: r.text()? },
            kind::FSTAT => Self::Fstat { id, handle: handle(r)? },
            kind::SETSTAT => Self::Setstat { id, path: r.text()?, attrs: Attrs::decode(r)? },
            kind::FSETSTAT => Self::Fsetstat { id, handle: handle(r)?, attrs: Attrs::decode(r)? },
            kind::OPENDIR => Self::Opendir { id, path: r.text()? },
            kind::READDIR => Self::Readdir { id, handle: handle(r)? },
            kind::REMOVE => Self::Remove { id, path: r.text()? },
            kind::MKDIR => Self::Mkdir { id, path: r.text()?, attrs: Attrs::decode(r)? },
            kind::RMDIR => Self::Rmdir { id, path: r.text()? },
            kind::REALPATH => Self::Realpath { id, path: r.text()? },
            kind::STAT => Self::Stat { id, path: r.text()? },
            kind::RENAME => Self::Rename { id, from: r.text()?, to: r.text()? },
            kind::READLINK => Self::Readlink { id, path: r.text()? },
            kind::SYMLINK => Self::Symlink { id, target: r.text()?, link: r.text()? },
            kind::EXTENDED => Self::Extended { id, request: Extended::decode(r)? },
            _ => return Ok(None),
        }))
    }

    /// Appends the packet, length included.
    pub fn encode(&self, out: &mut Vec<u8>) {
        packet(out, self.kind(), |out| {
            put_u32(out, self.id());
            self.put_fields(out);
        });
    }

    /// The request's id; of `Init` the version, which is at its place.
    pub const fn id(&self) -> u32 {
        match *self {
            Self::Init { version } => version,
            Self::Open { id, .. }
            | Self::Close { id, .. }
            | Self::Read { id, .. }
            | Self::Write { id, .. }
            | Self::Lstat { id, .. }
            | Self::Fstat { id, .. }
            | Self::Setstat { id, .. }
            | Self::Fsetstat { id, .. }
            | Self::Opendir { id, .. }
            | Self::Readdir { id, .. }
            | Self::Remove { id, .. }
            | Self::Mkdir { id, .. }
            | Self::Rmdir { id, .. }
            | Self::Realpath { id, .. }
            | Self::Stat { id, .. }
            | Self::Rename { id, .. }
            | Self::Readlink { id, .. }
            | Self::Symlink { id, .. }
            | Self::Extended { id, .. } => id,
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Init { .. } => kind::INIT,
            Self::Open { .. } => kind::OPEN,
            Self::Close { .. } => kind::CLOSE,
            Self::Read { .. } => kind::READ,
            Self::Write { .. } => kind::WRITE,
            Self::Lstat { .. } => kind::LSTAT,
            Self::Fstat { .. } => kind::FSTAT,
            Self::Setstat { .. } => kind::SETSTAT,
            Self::Fsetstat { .. } => kind::FSETSTAT,
            Self::Opendir { .. } => kind::OPENDIR,
            Self::Readdir { .. } => kind::READDIR,
            Self::Remove { .. } => kind::REMOVE,
            Self::Mkdir { .. } => kind::MKDIR,
            Self::Rmdir { .. } => kind::RMDIR,
            Self::Realpath { .. } => kind::REALPATH,
            Self::Stat { .. } => kind::STAT,
            Self::Rename { .. } => kind::RENAME,
            Self::Readlink { .. } => kind::READLINK,
            Self::Symlink { .. } => kind::SYMLINK,
            Self::Extended { .. } => kind::EXTENDED,
        }
    }

    fn put_fields(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Init { .. } => {}
            Self::Open { path, flags, attrs, .. } => {
                put_string(out, path);
                put_u32(out, flags.0);
                attrs.encode(out);
            }
            Self::Read { handle, offset, len, .. } => {
                put_string(out, handle);
                put_u64(out, offset);
                put_u32(out, len);
            }
            Self::Write { handle, offset, data, .. } => {
                put_string(out, handle);
                put_u64(out, offset);
                put_string(out, data);
            }
            Self::Close { handle, .. } | Self::Fstat { handle, .. } | Self::Readdir { handle, .. } => {
                put_string(out, handle);
            }
            Self::Lstat { path, .. }
            | Self::Opendir { path, .. }
            | Self::Remove { path, .. }
            | Self::Rmdir { path, .. }
            | Self::Realpath { path, .. }
            | Self::Stat { path, .. }
            | Self::Readlink { path, .. } => put_string(out, path),
            Self::Setstat { path: name, attrs, .. }
            | Self::Fsetstat { handle: name, attrs, .. }
            | Self::Mkdir { path: name, attrs, .. } => {
                put_string(out, name);
                attrs.encode(out);
            }
            Self::Rename { from: a, to: b, .. } | Self::Symlink { target: a, link: b, .. } => {
                put_string(out, a);
                put_string(out, b);
            }
            Self::Extended { request, .. } => request.encode(out),
        }
    }
}

impl<'a> Extended<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, BadField> {
        let name = r.text()?;
        Ok(match name {
            b"posix-rename@openssh.com" => Self::PosixRename { from: r.text()?, to: r.text()? },
            b"statvfs@openssh.com" => Self::Statvfs { path: r.text()? },
            b"fstatvfs@openssh.com" => Self::Fstatvfs { handle: handle(r)? },
            b"hardlink@openssh.com" => Self::Hardlink { from: r.text()?, to: r.text()? },
            b"fsync@openssh.com" => Self::Fsync { handle: handle(r)? },
            b"lsetstat@openssh.com" => Self::Lsetstat { path: r.text()?, attrs: Attrs::decode(r)? },
            b"limits@openssh.com" => Self::Limits,
            b"expand-path@openssh.com" => Self::ExpandPath { path: r.text()? },
            b"copy-data" => Self::CopyData {
                from: handle(r)?,
                from_offset: r.u64()?,
                len: r.u64()?,
                to: handle(r)?,
                to_offset: r.u64()?,
            },
            b"home-directory" => Self::HomeDirectory { user: r.text()? },
            b"users-groups-by-id@openssh.com" => Self::UsersGroupsById {
                users: Ids::new(r.string()?).ok_or(BadField)?,
                groups: Ids::new(r.string()?).ok_or(BadField)?,
            },
            _ => Self::Unknown { name, body: r.0 },
        })
    }

    /// The name of the request.
    pub const fn name(&self) -> &'a [u8] {
        match *self {
            Self::PosixRename { .. } => b"posix-rename@openssh.com",
            Self::Statvfs { .. } => b"statvfs@openssh.com",
            Self::Fstatvfs { .. } => b"fstatvfs@openssh.com",
            Self::Hardlink { .. } => b"hardlink@openssh.com",
            Self::Fsync { .. } => b"fsync@openssh.com",
            Self::Lsetstat { .. } => b"lsetstat@openssh.com",
            Self::Limits => b"limits@openssh.com",
            Self::ExpandPath { .. } => b"expand-path@openssh.com",
            Self::CopyData { .. } => b"copy-data",
            Self::HomeDirectory { .. } => b"home-directory",
            Self::UsersGroupsById { .. } => b"users-groups-by-id@openssh.com",
            Self::Unknown { name, .. } => name,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_string(out, self.name());
        match *self {
            Self::Limits => {}
            Self::PosixRename { from, to } | Self::Hardlink { from, to } => {
                put_string(out, from);
                put_string(out, to);
            }
            Self::Statvfs { path: one }
            | Self::Fstatvfs { handle: one }
            | Self::Fsync { handle: one }
            | Self::ExpandPath { path: one }
            | Self::HomeDirectory { user: one } => put_string(out, one),
            Self::Lsetstat { path, attrs } => {
                put_string(out, path);
                attrs.encode(out);
            }
            Self::CopyData { from, from_offset, len, to, to_offset } => {
                put_string(out, from);
                put_u64(out, from_offset);
                put_u64(out, len);
                put_string(out, to);
                put_u64(out, to_offset);
            }
            Self::UsersGroupsById { users, groups } => {
                put_string(out, users.0);
                put_string(out, groups.0);
            }
            Self::Unknown { body, .. } => out.extend_from_slice(body),
        }
    }
}

/// A handle. A longer one than the draft allows is none of ours: it becomes the empty one, which names nothing.
fn handle<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], BadField> {
    let handle = r.string()?;
    Ok(if handle.len() <= MAX_HANDLE { handle } else { b"" })
}
