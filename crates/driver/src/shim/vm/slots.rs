//! A table that tells a kernel of the machine's slots, also of those that are empty.
//!
//! QEMU's own tables name only slots that have a device. A template has none, and its copies shall have some: so its kernel is given one more
//! table (an SSDT, in front of the initramfs; Documentation/admin-guide/acpi/initrd_table_override.rst), with each slot as QEMU would
//! have written it.

use super::initramfs::Archive;

/// Slots of a machine with one interrupt controller.
pub(super) const SLOTS: u8 = 8;
/// Address of the first slot's registers, and the size of each in bytes.
const BASE: u32 = 0xfeb0_0000;
const SIZE: u32 = 512;
/// Interrupt of the first slot.
const FIRST_INTERRUPT: u32 = 16;
/// Where the kernel looks for tables in an initramfs.
const PLACE: &str = "kernel/firmware/acpi/slots.aml";
const FILE: u32 = 0o100_644;
const DIRECTORY: u32 = 0o040_755;

/// The archive to put in front of the initramfs.
pub(super) fn archive() -> Vec<u8> {
    let mut archive = Archive::default();
    for dir in ["kernel", "kernel/firmware", "kernel/firmware/acpi"] {
        archive.entry(dir, DIRECTORY, &[], (0, 0));
    }
    archive.entry(PLACE, FILE, &table(), (0, 0));
    archive.finish()
}

fn table() -> Vec<u8> {
    let mut scope = b"\\_SB_".to_vec();
    for slot in 0..SLOTS {
        scope.extend(device(slot));
    }
    let code = block(&[0x10], &scope);
    let length = u32::try_from(36 + code.len()).unwrap_or(u32::MAX);
    let mut table = b"SSDT".to_vec();
    table.extend(length.to_le_bytes());
    // Revision, and a place for the checksum.
    table.extend([2, 0]);
    table.extend(b"SNDGATSGSLOTS ");
    table.extend(1u32.to_le_bytes());
    table.extend(b"SGAT");
    table.extend(1u32.to_le_bytes());
    table.extend(code);
    let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(checksum) = table.get_mut(9) {
        *checksum = sum.wrapping_neg();
    }
    table
}

/// `Device (V00n) { _HID "LNRO0005", _UID n, _CCA 1, _CRS { Memory32Fixed, Interrupt } }`.
fn device(slot: u8) -> Vec<u8> {
    let number = u32::from(slot);
    let mut resources = vec![0x86, 9, 0, 1];
    resources.extend((BASE + number * SIZE).to_le_bytes());
    resources.extend(SIZE.to_le_bytes());
    // Consumer, level, active high, exclusive; one interrupt.
    resources.extend([0x89, 6, 0, 1, 1]);
    resources.extend((FIRST_INTERRUPT + number).to_le_bytes());
    resources.extend([0x79, 0]);
    let length = u8::try_from(resources.len()).unwrap_or(u8::MAX);
    let buffer = block(&[0x11], &[&[0x0a, length], resources.as_slice()].concat());
    let mut body = format!("V{slot:03}").into_bytes();
    for (name, value) in [
        (b"_HID", b"\x0dLNRO0005\0".as_slice()),
        (b"_UID", &[0x0a, slot]),
        (b"_CCA", &[1]),
        (b"_CRS", &buffer),
    ] {
        body.push(8);
        body.extend(name);
        body.extend(value);
    }
    block(&[0x5b, 0x82], &body)
}

/// An opcode, the length of what follows including itself (`PkgLength`, ACPI 6.5 section 20.2.4), and that.
fn block(opcode: &[u8], body: &[u8]) -> Vec<u8> {
    let low = |n: usize, mask: usize| u8::try_from(n & mask).unwrap_or_default();
    let length = body.len();
    let size = if length + 1 < 0x40 {
        vec![low(length + 1, 0x3f)]
    } else {
        let n = length + 2;
        vec![0x40 | low(n, 0xf), low(n >> 4, 0xff)]
    };
    [opcode, &size, body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_its_length_and_sums_to_zero() {
        let table = table();
        assert_eq!(table[4..8], u32::try_from(table.len()).unwrap().to_le_bytes());
        assert_eq!(table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        assert_eq!(table.windows(8).filter(|w| w == b"LNRO0005").count(), usize::from(SLOTS));
        // The scope's own length reaches to the end: two bytes, since there is more than fits into one.
        let length = usize::from(table[37] & 0xf) | usize::from(table[38]) << 4;
        assert_eq!(37 + length, table.len());
    }
}
