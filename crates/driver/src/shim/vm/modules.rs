//! The kernel modules that a machine needs, in the order to load them.
//!
//! What a module needs is written in itself (`depends=` in its `.modinfo`), so no index of depmod(8) has to be there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use lzma_rust2::XzReader;
use rustix::fs::{Mode, OFlags};
use walkdir::WalkDir;

use super::super::message::Failure;
use super::kernel::Kernel;
use crate::image::compression::decompress;

/// What machines need, as far as the kernel has it as modules: slots, disks, vsock, the file systems of layers, and the bus that a copy's vsock
/// device is plugged into. Each with its name in a kernel's configuration.
const WANTED: [(&str, &str); 6] = [
    ("virtio_mmio", "CONFIG_VIRTIO_MMIO"),
    ("virtio_blk", "CONFIG_VIRTIO_BLK"),
    ("vmw_vsock_virtio_transport", "CONFIG_VIRTIO_VSOCKETS"),
    ("overlay", "CONFIG_OVERLAY_FS"),
    ("erofs", "CONFIG_EROFS_FS"),
    ("virtio_pci", "CONFIG_VIRTIO_PCI"),
];
/// Largest list of modules or configuration that is read, in bytes.
const MAX_LIST: u64 = 4 << 20;
/// Largest module in bytes; the largest of these has some hundred thousand.
const MAX_MODULE: u64 = 16 << 20;
/// Most memory for the dictionary of a module that is compressed with xz, in KiB; the kernel's own build takes 2 MiB for it.
const XZ_MEMORY: u32 = 64 << 10;
/// Deepest chain of modules that need each other.
const MAX_DEPTH: usize = 16;

/// A module.
#[derive(Debug)]
pub(super) struct Module {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

/// Each module after those that it needs.
pub(super) fn collect(kernel: &Kernel) -> Result<Vec<Module>, Failure> {
    let mut files = BTreeMap::new();
    if let Some(dir) = &kernel.modules {
        // No links: who may write there would have us read what only we may.
        let entries = WalkDir::new(dir.join("kernel")).into_iter().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_file()) {
            if let Some(name) = module_name(entry.path()) {
                files.insert(name, entry.into_path());
            }
        }
    }
    let built_in = built_in(kernel);
    let mut collector =
        Collector { kernel, files, built_in, done: BTreeSet::new(), list: Vec::new(), missing: Vec::new() };
    for (name, _) in WANTED {
        collector.add(name, 0)?;
    }
    if collector.missing.is_empty() { Ok(collector.list) } else { Err(lacks(kernel, &collector.missing)) }
}

/// What is part of the kernel itself: as its modules' directory says, or its configuration where there is no such directory.
fn built_in(kernel: &Kernel) -> BTreeSet<String> {
    if let Some(dir) = &kernel.modules {
        let text = text(&dir.join("modules.builtin"));
        return text.lines().filter_map(|line| module_name(Path::new(line))).collect();
    }
    let config = text(&kernel.config());
    let is_set = |option: &str| config.lines().any(|line| line.strip_prefix(option) == Some("=y"));
    WANTED.iter().filter(|(_, option)| is_set(option)).map(|(name, _)| (*name).to_owned()).collect()
}

fn lacks(kernel: &Kernel, missing: &[String]) -> Failure {
    let names = missing.join(", ");
    let version = &kernel.version;
    match &kernel.modules {
        Some(dir) => {
            kernel.failure(format_args!("{names}: neither modules in {} nor built in", dir.display()))
        }
        None => {
            let places = kernel.places().map(|place| place.display().to_string()).join(", ");
            kernel.failure(format_args!(
                "there are no modules for {version} (looked for {places}), and {} does not say that it has {names} built in",
                kernel.config().display()
            ))
        }
    }
}

/// A small file, empty where it cannot be read.
fn text(path: &Path) -> String {
    let mut bytes = Vec::new();
    let _ = open(path).and_then(|file| file.take(MAX_LIST).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Opens a plain file: a link could lead to what only we may read, and a pipe would keep us waiting.
fn open(path: &Path) -> io::Result<fs::File> {
    let how = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = fs::File::from(rustix::fs::open(path, how, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

struct Collector<'a> {
    kernel: &'a Kernel,
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
    done: BTreeSet<String>,
    list: Vec<Module>,
    missing: Vec<String>,
}

impl Collector<'_> {
    fn add(&mut self, name: &str, depth: usize) -> Result<(), Failure> {
        if self.built_in.contains(name) || !self.done.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = self.files.get(name) else {
            self.missing.push(name.to_owned());
            return Ok(());
        };
        if depth > MAX_DEPTH {
            return Err(self.kernel.failure(format_args!("its module {name} needs too many others")));
        }
        let bytes = read(path)?;
        for needed in depends(&bytes) {
            self.add(&needed, depth + 1)?;
        }
        self.list.push(Module { name: name.to_owned(), bytes });
        Ok(())
    }
}

/// The name that the kernel knows a file by: dashes are underscores there.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, _) = file.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let cannot = |error: &dyn std::fmt::Display| {
        Failure::machine(format!("the module {} cannot be read: {error}", path.display()))
    };
    let file = open(path).map_err(|error| cannot(&error))?;
    let mut bytes = Vec::new();
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let read = match extension {
        "ko" => file.take(MAX_MODULE).read_to_end(&mut bytes),
        "gz" => GzDecoder::new(file).take(MAX_MODULE).read_to_end(&mut bytes),
        // Its dictionary may be large; what is read of it is not.
        "xz" => XzReader::new_mem_limit(file, false, XZ_MEMORY).take(MAX_MODULE).read_to_end(&mut bytes),
        "zst" => decompress(file)
            .map_err(|failure| cannot(&failure.reason))?
            .0
            .take(MAX_MODULE)
            .read_to_end(&mut bytes),
        other => return Err(cannot(&format_args!("it is compressed as .{other}"))),
    };
    read.map_err(|error| cannot(&error))?;
    Ok(bytes)
}

/// The record `depends=` of the section `.modinfo`, whose records end with zero bytes.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let rest = module.get(at + KEY.len()..).unwrap_or_default();
    let value = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_comes_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("kernel");
        fs::create_dir_all(&kernel).unwrap();
        for (name, needs) in [
            ("virtio_mmio", "virtio-ring"),
            ("virtio_blk", ""),
            ("vmw_vsock_virtio_transport", "vsock,virtio-ring"),
            ("overlay", ""),
            ("erofs", "libcrc32c"),
            ("virtio-ring", ""),
            ("vsock", ""),
            ("libcrc32c", ""),
        ] {
            fs::write(kernel.join(format!("{name}.ko")), format!("ELF\0license=GPL\0depends={needs}\0x=y\0"))
                .unwrap();
        }
        fs::write(dir.path().join("modules.builtin"), "kernel/drivers/virtio/virtio_pci.ko\n").unwrap();
        let found = Kernel::with_modules(dir.path());
        let names: Vec<String> = collect(&found).unwrap().into_iter().map(|module| module.name).collect();
        assert_eq!(
            names,
            [
                "virtio_ring",
                "virtio_mmio",
                "virtio_blk",
                "vsock",
                "vmw_vsock_virtio_transport",
                "overlay",
                "libcrc32c",
                "erofs"
            ]
        );
        for name in ["vsock.ko", "overlay.ko"] {
            fs::remove_file(kernel.join(name)).unwrap();
        }
        let reason = collect(&found).unwrap_err().reason;
        assert!(reason.contains("vsock, overlay: neither modules in"), "{reason}");
    }

    #[test]
    fn a_kernel_without_modules_says_what_is_built_in() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = Kernel { modules: None, ..Kernel::with_modules(dir.path()) };
        let reason = collect(&kernel).unwrap_err().reason;
        assert!(
            reason.contains("/lib/modules/6.1") && reason.contains("virtio_mmio, virtio_blk"),
            "{reason}"
        );
        let mut config = String::from("# CONFIG_VIRTIO_MMIO is not set\n");
        for (_, option) in WANTED.iter().filter(|(name, _)| *name != "erofs") {
            config.push_str(&format!("{option}=y\n"));
        }
        fs::write(kernel.config(), format!("{config}CONFIG_EROFS_FS=m\n")).unwrap();
        let reason = collect(&kernel).unwrap_err().reason;
        assert!(reason.contains("erofs") && !reason.contains("overlay"), "{reason}");
        fs::write(kernel.config(), format!("{config}CONFIG_EROFS_FS=y\n")).unwrap();
        assert!(collect(&kernel).unwrap().is_empty());
    }

    /// The same module, compressed with `xz --check=crc32` and with `zstd`.
    const XZ: &str = "fd377a585a0000016922de360200210116000000742fe5a3010021454c46006c6963656e73653d47504c00646570656e64733d76736f636b00783d79000000008900a85400013622ba65fa7c9042990d010000000001595a";
    const ZSTD: &str =
        "28b52ffd0458110100454c46006c6963656e73653d47504c00646570656e64733d76736f636b00783d790014ae820b";

    #[test]
    fn compressed_modules_are_read() {
        let bytes = |digits: &str| -> Vec<u8> {
            (0..digits.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
                .collect()
        };
        let dir = tempfile::tempdir().unwrap();
        for (name, digits) in [("m.ko.xz", XZ), ("m.ko.zst", ZSTD)] {
            let path = dir.path().join(name);
            let whole = bytes(digits);
            fs::write(&path, &whole).unwrap();
            assert_eq!(depends(&read(&path).unwrap()), ["vsock"], "{name}");
            fs::write(&path, &whole[..whole.len() / 2]).unwrap();
            assert!(read(&path).is_err(), "half of {name}");
        }
        let other = dir.path().join("m.ko.lz4");
        fs::write(&other, "").unwrap();
        assert!(read(&other).unwrap_err().reason.contains("lz4"));
    }
}
