//! What kind of file a kernel is, and which version it says it is.
//!
//! QEMU boots a bzImage (vmlinuz), whose own first code unpacks the rest, however that is compressed; and an ELF file (vmlinux) that has an entry
//! for machines without firmware (PVH). Everything else is refused here, with what it is: a machine that was given it would only be silent.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};

/// As much as both formats need of the beginning, in bytes.
const HEAD: u64 = 4096;
/// Longest version in bytes.
const MAX_VERSION: usize = 128;

/// Places in the header of a bzImage (Documentation/arch/x86/boot.rst).
mod boot {
    pub(super) const SECTORS_AT: usize = 0x1f1;
    pub(super) const SIZE_AT: usize = 0x1f4;
    pub(super) const SIGNATURE_AT: usize = 0x202;
    pub(super) const SIGNATURE: &[u8] = b"HdrS";
    pub(super) const PROTOCOL_AT: usize = 0x206;
    pub(super) const VERSION_AT: usize = 0x20e;
    /// Where the offset of the version counts from.
    pub(super) const VERSION_BASE: u64 = 0x200;
    pub(super) const FLAGS_AT: usize = 0x236;
    /// The protocol that brought these flags, and the one that says that it has an entry for 64 bits.
    pub(super) const FLAGS_SINCE: u16 = 0x020c;
    pub(super) const FLAG_64: u16 = 1;
    /// Sectors of the first part where the header says none.
    pub(super) const SECTORS: u64 = 4;
    pub(super) const SECTOR: u64 = 512;
    /// The size of the second part is in units of so many bytes.
    pub(super) const PARAGRAPH: u64 = 16;
    /// What the header counts beyond the end of the file: it rounds up to a page.
    pub(super) const SLACK: u64 = 4096;
}

/// Places in an ELF file of 64 bits (elf(5)), and numbers of what we look for.
mod elf {
    pub(super) const SIGNATURE: &[u8] = b"\x7fELF";
    /// 64 bits, low byte first.
    pub(super) const CLASS: &[u8] = &[2, 1];
    pub(super) const CLASS_AT: usize = 4;
    pub(super) const MACHINE_AT: usize = 18;
    pub(super) const X86_64: u16 = 62;
    pub(super) const TABLE_AT: usize = 32;
    pub(super) const ENTRIES_AT: usize = 56;
    /// Of an entry of the table of segments, in bytes.
    pub(super) const ENTRY: usize = 56;
    pub(super) const MAX_ENTRIES: u16 = 64;
    pub(super) const LOAD: u32 = 1;
    pub(super) const NOTE: u32 = 4;
    pub(super) const OFFSET_AT: usize = 8;
    pub(super) const SIZE_AT: usize = 32;
    /// Longest segment of notes that is read, in bytes.
    pub(super) const MAX_NOTES: u64 = 64 << 10;
    /// The note that says where QEMU enters the kernel (`XEN_ELFNOTE_PHYS32_ENTRY`).
    pub(super) const OWNER: &[u8] = b"Xen\0";
    pub(super) const ENTRY_NOTE: u32 = 18;
}

/// What comes before the version in the text by which a kernel greets.
const BANNER: &[u8] = b"Linux version ";
/// Read at once when that is looked for, in bytes.
const PIECE: u64 = 1 << 20;

/// First bytes of what is no kernel that QEMU boots, and what to call it.
const COMPRESSED: [(&[u8], &str); 7] = [
    (&[0x1f, 0x8b], "gzip"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (&[0xfd, b'7', b'z', b'X', b'Z'], "xz"),
    (&[0x02, 0x21, 0x4c, 0x18], "lz4"),
    (&[0x04, 0x22, 0x4d, 0x18], "lz4"),
    (b"BZh", "bzip2"),
    (&[0x5d, 0, 0], "lzma"),
];

/// Why a file is not used as a kernel: the end of a sentence about it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("it is not a file")]
    NotAFile,
    #[error("it is larger than any kernel")]
    TooLarge,
    #[error("only some users may read it, and its QEMU runs as another one; let all read it (chmod a+r)")]
    Private,
    #[error("it is compressed with {0} as a whole; unpack it, or take the vmlinuz that it comes from")]
    Compressed(&'static str),
    #[error("it is a program for EFI and not a bzImage")]
    Efi,
    #[error("it is for another kind of processor than x86-64")]
    Processor,
    #[error("it is cut short")]
    Short,
    #[error("it has no entry for machines without firmware; build it with CONFIG_PVH, or take its bzImage")]
    NoEntry,
    #[error("it does not say its version")]
    NoVersion,
    #[error("it is neither a bzImage (vmlinuz) nor an ELF file (vmlinux)")]
    Unknown,
}

/// The version of the kernel in a file, as `uname -r` says it there.
pub(super) fn version(file: &mut File) -> Result<String, Unusable> {
    let length = file.metadata()?.len();
    let mut head = Vec::new();
    file.by_ref().take(HEAD).read_to_end(&mut head)?;
    if head.get(boot::SIGNATURE_AT..).is_some_and(|rest| rest.starts_with(boot::SIGNATURE)) {
        return of_bz_image(file, &head, length);
    }
    if head.starts_with(elf::SIGNATURE) {
        return of_elf(file, &head, length);
    }
    if let Some((_, name)) = COMPRESSED.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(Unusable::Compressed(name));
    }
    // As the kernel for arm64 has it (Documentation/arch/arm64/booting.rst).
    if head.get(0x38..).is_some_and(|rest| rest.starts_with(b"ARM\x64")) {
        return Err(Unusable::Processor);
    }
    Err(if head.starts_with(b"MZ") { Unusable::Efi } else { Unusable::Unknown })
}

fn of_bz_image(file: &mut File, head: &[u8], length: u64) -> Result<String, Unusable> {
    let protocol = u16::from_le_bytes(field(head, boot::PROTOCOL_AT)?);
    let flags = u16::from_le_bytes(field(head, boot::FLAGS_AT)?);
    if protocol < boot::FLAGS_SINCE || flags & boot::FLAG_64 == 0 {
        return Err(Unusable::Processor);
    }
    let [sectors] = field(head, boot::SECTORS_AT)?;
    let sectors = if sectors == 0 { boot::SECTORS } else { u64::from(sectors) };
    let size = u64::from(u32::from_le_bytes(field(head, boot::SIZE_AT)?));
    if length + boot::SLACK < (sectors + 1) * boot::SECTOR + size * boot::PARAGRAPH {
        return Err(Unusable::Short);
    }
    let at = u16::from_le_bytes(field(head, boot::VERSION_AT)?);
    if at == 0 {
        return Err(Unusable::NoVersion);
    }
    file.seek(SeekFrom::Start(boot::VERSION_BASE + u64::from(at)))?;
    let mut text = Vec::new();
    file.by_ref().take(MAX_VERSION as u64).read_to_end(&mut text)?;
    word(&text).ok_or(Unusable::NoVersion)
}

fn of_elf(file: &mut File, head: &[u8], length: u64) -> Result<String, Unusable> {
    let class = head.get(elf::CLASS_AT..).is_some_and(|rest| rest.starts_with(elf::CLASS));
    if !class || u16::from_le_bytes(field(head, elf::MACHINE_AT)?) != elf::X86_64 {
        return Err(Unusable::Processor);
    }
    let entries = u16::from_le_bytes(field(head, elf::ENTRIES_AT)?);
    if entries > elf::MAX_ENTRIES {
        return Err(Unusable::Unknown);
    }
    file.seek(SeekFrom::Start(u64::from_le_bytes(field(head, elf::TABLE_AT)?)))?;
    let mut table = Vec::new();
    file.by_ref().take(u64::from(entries) * elf::ENTRY as u64).read_to_end(&mut table)?;
    let mut has_entry = false;
    for entry in table.chunks(elf::ENTRY) {
        let kind = u32::from_le_bytes(field(entry, 0)?);
        let offset = u64::from_le_bytes(field(entry, elf::OFFSET_AT)?);
        let size = u64::from_le_bytes(field(entry, elf::SIZE_AT)?);
        if matches!(kind, elf::LOAD | elf::NOTE) && offset.saturating_add(size) > length {
            return Err(Unusable::Short);
        }
        if kind == elf::NOTE {
            file.seek(SeekFrom::Start(offset))?;
            let mut notes = Vec::new();
            file.by_ref().take(size.min(elf::MAX_NOTES)).read_to_end(&mut notes)?;
            has_entry |= says_entry(&notes);
        }
    }
    if !has_entry {
        return Err(Unusable::NoEntry);
    }
    file.rewind()?;
    banner(file)?.ok_or(Unusable::NoVersion)
}

/// Whether the note with the entry is among these: lengths of owner and content, kind, owner, content, each at a multiple of four.
fn says_entry(notes: &[u8]) -> bool {
    let mut rest = notes;
    while let (Ok(owner), Ok(content), Ok(kind)) = (field(rest, 0), field(rest, 4), field(rest, 8)) {
        let padded = |length: [u8; 4]| (u32::from_le_bytes(length) as usize).next_multiple_of(4);
        let body = rest.get(12..).unwrap_or_default();
        if u32::from_le_bytes(kind) == elf::ENTRY_NOTE && body.starts_with(elf::OWNER) {
            return true;
        }
        rest = body.get(padded(owner).saturating_add(padded(content))..).unwrap_or_default();
    }
    false
}

/// The version in the text by which the kernel greets.
fn banner(file: &mut File) -> io::Result<Option<String>> {
    // What may have been cut at the end of the last piece.
    const KEPT: usize = BANNER.len() + MAX_VERSION;
    let mut window = Vec::new();
    loop {
        window.drain(..window.len().saturating_sub(KEPT));
        let is_last = (file.by_ref().take(PIECE).read_to_end(&mut window)? as u64) < PIECE;
        let mut from = 0;
        while let Some(at) = find(window.get(from..).unwrap_or_default()) {
            from += at + BANNER.len();
            let text = window.get(from..).unwrap_or_default();
            let whole = is_last || text.len() >= MAX_VERSION;
            let text = text.get(..MAX_VERSION).unwrap_or(text);
            // There is a text of the same kind that the version is put into.
            if let (true, Some(version)) =
                (whole, word(text).filter(|it| it.starts_with(|c: char| c.is_ascii_digit())))
            {
                return Ok(Some(version));
            }
        }
        if is_last {
            return Ok(None);
        }
    }
}

fn find(bytes: &[u8]) -> Option<usize> {
    bytes.windows(BANNER.len()).position(|window| window == BANNER)
}

/// The first word, if it can be a version and the name of a directory.
fn word(text: &[u8]) -> Option<String> {
    let word = text.split(|byte| matches!(byte, b' ' | 0)).next()?;
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"._+-~".contains(b);
    let is_version = !word.is_empty() && !word.starts_with(b".") && word.iter().all(plain);
    is_version.then(|| String::from_utf8_lossy(word).into_owned())
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Unusable> {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(Unusable::Short)
}

/// The least of a bzImage, with that for a version.
#[cfg(test)]
pub(super) fn sample(version: &str) -> Vec<u8> {
    let mut image = vec![0u8; 0x1000];
    image[boot::SIGNATURE_AT..][..4].copy_from_slice(boot::SIGNATURE);
    image[boot::PROTOCOL_AT..][..2].copy_from_slice(&0x020fu16.to_le_bytes());
    image[boot::FLAGS_AT..][..2].copy_from_slice(&boot::FLAG_64.to_le_bytes());
    image[boot::VERSION_AT..][..2].copy_from_slice(&0x300u16.to_le_bytes());
    image[0x500..][..version.len()].copy_from_slice(version.as_bytes());
    image
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The least of a vmlinux, with that much before its greeting.
    fn elf_file(before: usize) -> Vec<u8> {
        let mut image = vec![0u8; 0x1000];
        image[..4].copy_from_slice(elf::SIGNATURE);
        image[elf::CLASS_AT..][..2].copy_from_slice(elf::CLASS);
        image[elf::MACHINE_AT..][..2].copy_from_slice(&elf::X86_64.to_le_bytes());
        image[elf::TABLE_AT..][..8].copy_from_slice(&64u64.to_le_bytes());
        image[elf::ENTRIES_AT..][..2].copy_from_slice(&1u16.to_le_bytes());
        image[64..][..4].copy_from_slice(&elf::NOTE.to_le_bytes());
        image[64 + elf::OFFSET_AT..][..8].copy_from_slice(&0x800u64.to_le_bytes());
        image[64 + elf::SIZE_AT..][..8].copy_from_slice(&48u64.to_le_bytes());
        for (at, kind) in [(0x800, 6u32), (0x818, elf::ENTRY_NOTE)] {
            image[at..][..4].copy_from_slice(&4u32.to_le_bytes());
            image[at + 4..][..4].copy_from_slice(&8u32.to_le_bytes());
            image[at + 8..][..4].copy_from_slice(&kind.to_le_bytes());
            image[at + 12..][..4].copy_from_slice(elf::OWNER);
        }
        image.resize(image.len().max(before), 0);
        image.extend(b"Linux version %s (%s)\0Linux version 6.9.1-cloud (a@b) #1\0");
        image
    }

    fn read(path: &Path, image: &[u8]) -> Result<String, String> {
        std::fs::write(path, image).unwrap();
        version(&mut File::open(path).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_version_is_read_from_the_boot_header() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmlinuz");
        assert_eq!(read(&path, &sample("6.1.0-x (a) #1")).unwrap(), "6.1.0-x");
        for bad in ["/6.1", "..", " ", "6.1/x"] {
            assert!(read(&path, &sample(bad)).unwrap_err().contains("version"), "{bad}");
        }
        let mut image = sample("6.1.0");
        image[boot::SIZE_AT..][..4].copy_from_slice(&0x1000u32.to_le_bytes());
        assert!(read(&path, &image).unwrap_err().contains("cut short"));
        image.resize(0x12000, 0);
        assert_eq!(read(&path, &image).unwrap(), "6.1.0");
        image[boot::FLAGS_AT] = 0;
        assert!(read(&path, &image).unwrap_err().contains("processor"));
    }

    #[test]
    fn the_version_of_a_vmlinux_is_the_one_that_it_greets_with() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmlinux");
        // Also where a piece ends in the middle of it.
        let piece = usize::try_from(PIECE).unwrap();
        for before in [0, piece - 40, piece - 30, piece - 14, piece + 1] {
            assert_eq!(read(&path, &elf_file(before)).unwrap(), "6.9.1-cloud", "{before}");
        }
        let mut image = elf_file(0);
        image[0x818 + 8] = 1;
        assert!(read(&path, &image).unwrap_err().contains("CONFIG_PVH"));
        image[64 + elf::SIZE_AT + 2] = 1;
        assert!(read(&path, &image).unwrap_err().contains("cut short"));
        image[elf::MACHINE_AT] = 183;
        assert!(read(&path, &image).unwrap_err().contains("processor"));
        let silent: Vec<u8> = elf_file(0).into_iter().take(0x1000).collect();
        assert!(read(&path, &silent).unwrap_err().contains("version"));
    }

    #[test]
    fn what_is_no_kernel_is_called_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut arm = vec![0; 100];
        arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
        for (bytes, word) in [
            (&b"\x1f\x8b\x08 and so on"[..], "gzip"),
            (&[0x28, 0xb5, 0x2f, 0xfd, 1], "zstd"),
            (b"\xfd7zXZ\0", "xz"),
            (&[0x02, 0x21, 0x4c, 0x18, 1], "lz4"),
            (&[0x04, 0x22, 0x4d, 0x18, 1], "lz4"),
            (b"MZ and no header of ours", "EFI"),
            (&arm, "processor"),
            (b"short", "neither"),
            (b"", "neither"),
        ] {
            let reason = read(&path, bytes).unwrap_err();
            assert!(reason.contains(word), "{word}: {reason}");
        }
    }
}
