//! What a server answers.

use rustix::io::Errno;

use super::wire::{BadField, Reader, Strings, packet, put_string, put_u32, put_u64};
use super::{Attrs, DecodeError, MAX_DATA, MAX_PACKET, kind};
use crate::vfs::FsStat;

/// The code of a STATUS reply; the numbers above 8 belong to later protocol versions and are kept as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(pub u32);

impl Status {
    /// Done.
    pub const OK: Self = Self(0);
    /// Nothing more to read.
    pub const EOF: Self = Self(1);
    /// No such file, or no such handle.
    pub const NO_SUCH_FILE: Self = Self(2);
    /// Not allowed.
    pub const PERMISSION_DENIED: Self = Self(3);
    /// Any other failure.
    pub const FAILURE: Self = Self(4);
    /// The request makes no sense.
    pub const BAD_MESSAGE: Self = Self(5);
    /// The server does not know the request.
    pub const OP_UNSUPPORTED: Self = Self(8);

    /// The text that goes with the code.
    pub const fn message(self) -> &'static str {
        match self.0 {
            0 => "Success",
            1 => "End of file",
            2 => "No such file",
            3 => "Permission denied",
            4 => "Failure",
            5 => "Bad message",
            6 => "No connection",
            7 => "Connection lost",
            8 => "Operation unsupported",
            _ => "Unknown error",
        }
    }
}

impl From<Errno> for Status {
    /// OpenSSH's table.
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::BADF | Errno::LOOP => Self::NO_SUCH_FILE,
            Errno::PERM | Errno::ACCESS | Errno::FAULT => Self::PERMISSION_DENIED,
            Errno::NAMETOOLONG | Errno::INVAL => Self::BAD_MESSAGE,
            Errno::NOSYS => Self::OP_UNSUPPORTED,
            _ => Self::FAILURE,
        }
    }
}

/// A reply. Every one but `Version` repeats the id of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named as in the draft")]
pub enum Reply<'a> {
    /// The answer to `Init`: the version, then pairs of strings, an extension's name and its version.
    Version { version: u32, extensions: Strings<'a> },
    /// How it went; `message` is for people.
    Status { id: u32, status: Status, message: &'a [u8] },
    /// A handle.
    Handle { id: u32, handle: &'a [u8] },
    /// Bytes read.
    Data { id: u32, data: &'a [u8] },
    /// Names; made with [`NamesWriter`].
    Name { id: u32, names: Names<'a> },
    /// Attributes.
    Attrs { id: u32, attrs: Attrs },
    /// What a request by name answers; see [`FsStat::decode`], [`Limits::decode`] and [`Strings`].
    Extended { id: u32, body: &'a [u8] },
}

/// One name of a NAME reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameEntry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The name as `ls -l` shows it.
    pub long: &'a [u8],
    /// Its attributes.
    pub attrs: Attrs,
}

/// The names of a NAME reply, already found to be well-formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names<'a> {
    left: u32,
    bytes: &'a [u8],
}

impl<'a> Iterator for Names<'a> {
    type Item = NameEntry<'a>;

    fn next(&mut self) -> Option<NameEntry<'a>> {
        self.left = self.left.checked_sub(1)?;
        let mut reader = Reader(self.bytes);
        let entry = name_entry(&mut reader).ok()?;
        self.bytes = reader.0;
        Some(entry)
    }
}

/// Writes a NAME reply entry by entry.
#[derive(Debug)]
pub struct NamesWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    count: u32,
}

impl<'a> NamesWriter<'a> {
    /// Begins the reply to request `id` at the end of `out`.
    pub fn new(out: &'a mut Vec<u8>, id: u32) -> Self {
        let start = out.len();
        packet(out, kind::NAME, |out| {
            put_u32(out, id);
            put_u32(out, 0);
        });
        Self { out, start, count: 0 }
    }

    /// Adds an entry.
    pub fn push(&mut self, entry: &NameEntry<'_>) {
        put_string(self.out, entry.name);
        put_string(self.out, entry.long);
        entry.attrs.encode(self.out);
        self.count = self.count.saturating_add(1);
    }

    /// Bytes of the packet so far.
    pub fn len(&self) -> usize {
        self.out.len() - self.start
    }

    /// Whether it has no entry yet.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes the reply back, as if it had not been begun.
    pub fn cancel(self) {
        self.out.truncate(self.start);
    }

    /// Ends the reply.
    pub fn finish(self) {
        let len = u32::try_from(self.len() - 4).unwrap_or(u32::MAX);
        if let Some(field) = self.out.get_mut(self.start..self.start + 4) {
            field.copy_from_slice(&len.to_be_bytes());
        }
        if let Some(field) = self.out.get_mut(self.start + 9..self.start + 13) {
            field.copy_from_slice(&self.count.to_be_bytes());
        }
    }
}

impl<'a> Reply<'a> {
    /// A STATUS with the text that belongs to it.
    pub const fn status(id: u32, status: Status) -> Self {
        Self::Status { id, status, message: status.message().as_bytes() }
    }

    /// Decodes a packet as [`super::frame`] cut it.
    ///
    /// # Errors
    /// Any [`DecodeError`] but `TooLong`.
    pub fn decode(packet: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader(packet);
        let kind = r.u8().map_err(|_| DecodeError::TooShort)?;
        let id = r.u32().map_err(|_| DecodeError::TooShort)?;
        Self::fields(kind, id, &mut r)
            .map_err(|BadField| DecodeError::Field { id })?
            .ok_or(DecodeError::Kind { id, kind })
    }

    fn fields(kind: u8, id: u32, r: &mut Reader<'a>) -> Result<Option<Self>, BadField> {
        Ok(Some(match kind {
            kind::VERSION => {
                let extensions = Strings(r.0);
                while !r.0.is_empty() {
                    r.string()?;
                    r.string()?;
                }
                Self::Version { version: id, extensions }
            }
            // Servers before version 3 send no message.
            kind::STATUS => {
                Self::Status { id, status: Status(r.u32()?), message: r.string().unwrap_or_default() }
            }
            kind::HANDLE => Self::Handle { id, handle: r.string()? },
            kind::DATA => Self::Data { id, data: r.string()? },
            kind::NAME => {
                let names = Names { left: r.u32()?, bytes: r.0 };
                for _ in 0..names.left {
                    name_entry(r)?;
                }
                Self::Name { id, names }
            }
            kind::ATTRS => Self::Attrs { id, attrs: Attrs::decode(r)? },
            kind::EXTENDED_REPLY => Self::Extended { id, body: r.0 },
            _ => return Ok(None),
        }))
    }

    /// Appends the packet, length included.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Version { version, extensions } => packet(out, kind::VERSION, |out| {
                put_u32(out, version);
                out.extend_from_slice(extensions.0);
            }),
            Self::Status { id, status, message } => packet(out, kind::STATUS, |out| {
                put_u32(out, id);
                put_u32(out, status.0);
                put_string(out, message);
                put_string(out, b"");
            }),
            Self::Handle { id, handle } => packet(out, kind::HANDLE, |out| {
                put_u32(out, id);
                put_string(out, handle);
            }),
            Self::Data { id, data } => packet(out, kind::DATA, |out| {
                put_u32(out, id);
                put_string(out, data);
            }),
            Self::Name { id, names } => {
                let mut writer = NamesWriter::new(out, id);
                names.for_each(|entry| writer.push(&entry));
                writer.finish();
            }
            Self::Attrs { id, attrs } => packet(out, kind::ATTRS, |out| {
                put_u32(out, id);
                attrs.encode(out);
            }),
            Self::Extended { id, body } => packet(out, kind::EXTENDED_REPLY, |out| {
                put_u32(out, id);
                out.extend_from_slice(body);
            }),
        }
    }
}

/// What `limits@openssh.com` answers; 0 means that the server does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest packet, bytes.
    pub packet: u64,
    /// Longest READ, bytes.
    pub read: u64,
    /// Longest WRITE, bytes.
    pub write: u64,
    /// Open handles at once.
    pub handles: u64,
}

impl Limits {
    /// Ours, with this many handles.
    pub const fn new(handles: usize) -> Self {
        Self {
            packet: MAX_PACKET as u64,
            read: MAX_DATA as u64,
            write: MAX_DATA as u64,
            handles: handles as u64,
        }
    }

    /// Appends the body of the reply.
    pub fn encode(&self, out: &mut Vec<u8>) {
        [self.packet, self.read, self.write, self.handles].into_iter().for_each(|value| put_u64(out, value));
    }

    /// Reads the body of the reply; `None` when it is too short.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let mut r = Reader(body);
        let mut next = || r.u64().ok();
        Some(Self { packet: next()?, read: next()?, write: next()?, handles: next()? })
    }
}

impl FsStat {
    /// Appends the body of the reply to `statvfs@openssh.com`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        [
            self.bsize,
            self.frsize,
            self.blocks,
            self.bfree,
            self.bavail,
            self.files,
            self.ffree,
            self.favail,
            self.fsid,
            self.flag,
            self.namemax,
        ]
        .into_iter()
        .for_each(|value| put_u64(out, value));
    }

    /// Reads that body; `None` when it is too short.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let mut r = Reader(body);
        let mut next = || r.u64().ok();
        Some(Self {
            bsize: next()?,
            frsize: next()?,
            blocks: next()?,
            bfree: next()?,
            bavail: next()?,
            files: next()?,
            ffree: next()?,
            favail: next()?,
            fsid: next()?,
            flag: next()?,
            namemax: next()?,
        })
    }
}

fn name_entry<'a>(r: &mut Reader<'a>) -> Result<NameEntry<'a>, BadField> {
    Ok(NameEntry { name: r.string()?, long: r.string()?, attrs: Attrs::decode(r)? })
}
