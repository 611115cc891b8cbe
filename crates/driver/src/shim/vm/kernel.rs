//! The kernel that machines run, and where its modules are.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::super::message::Failure;

const BOOT: &str = "/boot";
const PREFIX: &str = "vmlinuz-";
/// In the name of a kernel that its distribution has made for machines like ours.
const CLOUD: &str = "cloud";
/// Offset and text of the boot header's signature, and of the offset of the version (Documentation/arch/x86/boot.rst).
const SIGNATURE_AT: usize = 0x202;
const SIGNATURE: &[u8] = b"HdrS";
const VERSION_AT: usize = 0x20e;
/// Where that offset counts from.
const VERSION_BASE: u64 = 0x200;
/// Longest version in bytes.
const MAX_VERSION: usize = 128;

/// A kernel.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    /// As `uname -r` says it.
    pub(super) version: String,
    /// The directory with its modules.
    pub(super) modules: PathBuf,
}

/// The one that was named, or the newest on this host.
pub(super) fn find(named: Option<&Path>) -> Result<Kernel, Failure> {
    let image = match named {
        Some(path) => path.to_owned(),
        None => newest(Path::new(BOOT)).ok_or_else(|| {
            Failure::machine(
                "there is no kernel in /boot to run machines with; install the package linux-image-cloud-amd64, or name a kernel with \
                 [qemu] kernel",
            )
        })?,
    };
    let cannot = |reason: &dyn std::fmt::Display| {
        Failure::machine(format!("the kernel {} cannot be used: {reason}", image.display()))
    };
    let version = version(&image).map_err(|error| cannot(&error))?;
    let beside = image.parent().unwrap_or(Path::new("/"));
    let places = [
        PathBuf::from("/lib/modules"),
        // As in an unpacked package: boot/vmlinuz-VERSION and lib/modules/VERSION.
        beside.join("../lib/modules"),
        beside.join("modules"),
    ];
    let modules = places.iter().map(|place| place.join(&version)).find(|dir| dir.is_dir());
    let modules = modules.ok_or_else(|| {
        cannot(&format_args!("its modules (for {version}) are not in /lib/modules nor beside it"))
    })?;
    Ok(Kernel { image, version, modules })
}

fn newest(dir: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    entries
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX)))
        .max_by_key(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name.contains(CLOUD), numbers(&name))
        })
}

/// The numbers in a name, so that 6.10 is newer than 6.9.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

fn version(image: &Path) -> std::io::Result<String> {
    let bad = || std::io::Error::other("it is not a bzImage");
    let mut file = File::open(image)?;
    let mut head = [0u8; VERSION_AT + 2];
    file.read_exact(&mut head).map_err(|_| bad())?;
    let offset = head.get(VERSION_AT..).and_then(|b| b.first_chunk::<2>()).map(|b| u16::from_le_bytes(*b));
    let offset = offset.filter(|n| *n > 0).ok_or_else(bad)?;
    if head.get(SIGNATURE_AT..SIGNATURE_AT + SIGNATURE.len()) != Some(SIGNATURE) {
        return Err(bad());
    }
    file.seek(SeekFrom::Start(VERSION_BASE + u64::from(offset)))?;
    let mut text = Vec::new();
    file.take(MAX_VERSION as u64).read_to_end(&mut text)?;
    let word = text.split(|b| *b == b' ' || *b == 0).next().unwrap_or_default();
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"._+-~".contains(b);
    let version = String::from_utf8(word.to_vec()).map_err(|_| bad())?;
    if version.is_empty() || version.starts_with('.') || !word.iter().all(plain) {
        Err(bad())
    } else {
        Ok(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cloud_kernel_is_taken_before_others_and_the_newest_of_them() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "vmlinuz-6.9.0-2-cloud-amd64",
            "vmlinuz-6.10.0-1-cloud-amd64",
            "vmlinuz-7.0.0-1-amd64",
            "config-9",
        ] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(newest(dir.path()), Some(dir.path().join("vmlinuz-6.10.0-1-cloud-amd64")));
    }

    #[test]
    fn the_version_is_read_from_the_boot_header() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmlinuz");
        let mut image = vec![0u8; 0x400];
        image[SIGNATURE_AT..SIGNATURE_AT + 4].copy_from_slice(SIGNATURE);
        image[VERSION_AT..VERSION_AT + 2].copy_from_slice(&0x100u16.to_le_bytes());
        image[0x300..0x30e].copy_from_slice(b"6.1.0-x (a) #1");
        fs::write(&path, &image).unwrap();
        assert_eq!(version(&path).unwrap(), "6.1.0-x");
        image[0x300] = b'/';
        fs::write(&path, &image).unwrap();
        assert!(version(&path).is_err());
        fs::write(&path, "short").unwrap();
        assert!(version(&path).is_err());
    }
}
