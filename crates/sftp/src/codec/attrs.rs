//! File attributes (draft, section 5): each part is there or not.

use crate::vfs::Metadata;

use super::wire::{BadField, Reader, put_u32, put_u64};

const SIZE: u32 = 1;
const OWNER: u32 = 2;
const MODE: u32 = 4;
const TIMES: u32 = 8;
const EXTENDED: u32 = 0x8000_0000;
/// Extended attributes of one file at most, as OpenSSH; they are skipped.
const MAX_EXTENDED: u32 = 0x10_0000;

/// Attributes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attrs {
    /// Size in bytes.
    pub size: Option<u64>,
    /// User and group.
    pub owner: Option<(u32, u32)>,
    /// Type and permission bits.
    pub mode: Option<u32>,
    /// Last access and last change, seconds since 1970.
    pub times: Option<(u32, u32)>,
}

impl Attrs {
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, BadField> {
        let flags = reader.u32()?;
        let mut attrs = Self::default();
        if flags & SIZE != 0 {
            attrs.size = Some(reader.u64()?);
        }
        if flags & OWNER != 0 {
            attrs.owner = Some((reader.u32()?, reader.u32()?));
        }
        if flags & MODE != 0 {
            attrs.mode = Some(reader.u32()?);
        }
        if flags & TIMES != 0 {
            attrs.times = Some((reader.u32()?, reader.u32()?));
        }
        if flags & EXTENDED != 0 {
            let count = reader.u32()?;
            if count > MAX_EXTENDED {
                return Err(BadField);
            }
            for _ in 0..count {
                reader.text()?;
                reader.string()?;
            }
        }
        Ok(attrs)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let flag = |there: bool, bit: u32| if there { bit } else { 0 };
        put_u32(
            out,
            flag(self.size.is_some(), SIZE)
                | flag(self.owner.is_some(), OWNER)
                | flag(self.mode.is_some(), MODE)
                | flag(self.times.is_some(), TIMES),
        );
        if let Some(size) = self.size {
            put_u64(out, size);
        }
        if let Some((uid, gid)) = self.owner {
            put_u32(out, uid);
            put_u32(out, gid);
        }
        if let Some(mode) = self.mode {
            put_u32(out, mode);
        }
        if let Some((atime, mtime)) = self.times {
            put_u32(out, atime);
            put_u32(out, mtime);
        }
    }
}

impl From<&Metadata> for Attrs {
    /// Times after 2106 and before 1970 wrap, as they do in OpenSSH: the field has 32 bits.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the protocol's times have 32 bits"
    )]
    fn from(meta: &Metadata) -> Self {
        Self {
            size: Some(meta.size),
            owner: Some((meta.uid, meta.gid)),
            mode: Some(meta.mode),
            times: Some((meta.atime as u32, meta.mtime as u32)),
        }
    }
}
