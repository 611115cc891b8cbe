//! Unpacking the layers of an image that nobody vouches for.
//!
//! The input is a list of entries in a small language, so that names collide and links meet their targets; they are made into one or two tar
//! archives with right checksums. The oracle: nothing outside of the root has changed, and the root can be removed.
#![no_main]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use libfuzzer_sys::fuzz_target;

const NAMES: [&[u8]; 16] = [
    b"a", b"b", b"a/b", b"b/a", b"..", b"../outside", b"/outside", b"a/../../outside", b".wh.a", b".wh.outside", b"a/.wh..wh..opq",
    b".wh..wh..opq", b"a/.wh.b", b"a/outside", b"./a/.", b"b/../.wh...",
];
const TARGETS: [&[u8]; 8] = [b"..", b"../..", b"/", b"/outside", b"../outside", b"a", b"b", b"/proc/self/root"];
const KINDS: [u8; 12] = [b'0', b'1', b'2', b'3', b'4', b'5', b'6', b'7', b'L', b'x', b'g', b'S'];

fn entry(bytes: &[u8; 4]) -> Vec<u8> {
    let [kind, name, target, size] = *bytes;
    let mut block = [0u8; 512];
    let name = NAMES[usize::from(name) % NAMES.len()];
    let target = TARGETS[usize::from(target) % TARGETS.len()];
    let kind = KINDS[usize::from(kind) % KINDS.len()];
    let data = usize::from(size % 64);
    block[..name.len()].copy_from_slice(name);
    block[100..107].copy_from_slice(b"0004755");
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    // Now and then the size is a lie: the most that the field holds.
    let size = if size > 250 { (1 << 33) - 1 } else { data };
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(b"00000000000");
    block[148..156].fill(b' ');
    block[156] = kind;
    block[157..157 + target.len()].copy_from_slice(target);
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut out = block.to_vec();
    let content = if kind == b'x' { &b"17 path=../escape\n"[..] } else { &b"../outside/../outside/../outside/../outside/../outside/../outside"[..] };
    out.extend(content.iter().cycle().take(data));
    out.resize(out.len().div_ceil(512) * 512, 0);
    out
}

fn state(dir: &Path) -> Vec<(std::ffi::OsString, u64, u32, u64, i64)> {
    let mut all: Vec<_> = fs::read_dir(dir)
        .expect("the directory is there")
        .map(|found| {
            let found = found.expect("an entry");
            let meta = found.path().symlink_metadata().expect("it is there");
            let (size, time) = if found.file_name() == "rootfs" { (0, 0) } else { (meta.size(), meta.mtime_nsec()) };
            let links = if found.file_name() == "rootfs" { 0 } else { meta.nlink() };
            (found.file_name(), meta.ino(), meta.uid(), size.wrapping_add(links), time)
        })
        .collect();
    all.sort();
    all
}

fuzz_target!(|data: &[u8]| {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("rootfs");
    fs::create_dir(&root).expect("a root");
    fs::write(dir.path().join("outside"), "untouched").expect("a file");
    let before = state(dir.path());
    let entries: Vec<Vec<u8>> = data.as_chunks::<4>().0.iter().take(64).map(entry).collect();
    let (one, two) = entries.split_at(entries.len() / 2);
    let end = vec![0u8; 1024];
    let layer = |entries: &[Vec<u8>]| [entries.concat(), end.clone()].concat();
    // The bytes as they are, too: the parsers must bear anything.
    let _ = sandgate_driver::testing::unpack(&root, &[data]);
    let _ = sandgate_driver::testing::unpack(&root, &[&layer(one), &layer(two)]);
    assert_eq!(fs::read(dir.path().join("outside")).expect("it is there"), b"untouched");
    assert_eq!(state(dir.path()), before);
    fs::remove_dir_all(&root).expect("the root can be removed");
});
