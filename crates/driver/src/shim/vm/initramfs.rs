//! The initramfs: the agent as `/init`, the modules, and for templates a table of the machine's empty slots.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;

use super::super::message::{Failure, Report};
use super::kernel::Kernel;
use super::machines;
use super::modules::{self, Module};
use super::slots;
use crate::image::hex;
use crate::state::DataDir;
use crate::state::lock::OpLock;

/// Mixed into the names of cached files; to be changed with what is written here.
const FORMAT: &str = "2";
/// How long to wait for another machine that makes the same file.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many are kept: as many kernels and agents as a host uses in turns, each with what it is for. One has some megabytes.
const KEPT: usize = 8;
/// What was used within this time stays nonetheless: a machine that starts may be about to read it.
const IN_USE: Duration = Duration::from_secs(600);
/// Of the names of those that boot, and of those that templates are made with.
const SUFFIXES: [&str; 2] = ["initramfs", "template-initramfs"];
/// Modes of what is in the archive.
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CONSOLE: u32 = 0o020_600;

/// What an initramfs is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// A machine that boots with its devices.
    Boot,
    /// One that is to be saved without any.
    Template,
}

/// The initramfs of a kernel and an agent, made where it is missing.
pub(super) fn prepare(
    data: &DataDir,
    kernel: &Kernel,
    agent: &Path,
    purpose: Use,
    report: &mut Report,
) -> Result<PathBuf, Failure> {
    let home = machines(data)?;
    let [boot, template] = SUFFIXES;
    let suffix = match purpose {
        Use::Boot => boot,
        Use::Template => template,
    };
    let path = home.join(format!("{}.{suffix}", key(kernel, agent)));
    // For whoever removes those that have not been used for longest.
    let used = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
    if used.is_ok() && path.exists() {
        return Ok(path);
    }
    let lock =
        OpLock::acquire(&path.with_extension("lock"), PATIENCE).map_err(Failure::io("lock the initramfs"))?;
    let Some(_lock) = lock else {
        return Err(Failure::other("another machine has been making the initramfs for too long"));
    };
    report.step("packing the kernel's modules");
    let program = fs::read(agent).map_err(Failure::io("read the agent"))?;
    let mut archive = match purpose {
        Use::Boot => Vec::new(),
        Use::Template => slots::archive(),
    };
    archive.extend(pack(&program, &modules::collect(kernel)?));
    let fresh = path.with_extension(format!("new.{}", std::process::id()));
    fs::write(&fresh, archive)
        .and_then(|()| fs::rename(&fresh, &path))
        .map_err(Failure::io("write the initramfs"))?;
    prune(&home, SystemTime::now());
    Ok(path)
}

/// Removes all but some that were used last, and what was left of interrupted attempts.
fn prune(machines: &Path, now: SystemTime) {
    let Ok(entries) = fs::read_dir(machines) else { return };
    let files =
        entries.flatten().filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())));
    let (mut whole, mut unused): (Vec<_>, Vec<_>) = files.partition(|(_, path)| is_initramfs(path));
    unused.retain(|(_, path)| path.is_file() && path.to_string_lossy().contains(".new."));
    whole.sort_by_key(|(used, _)| std::cmp::Reverse(*used));
    unused.extend(whole.into_iter().skip(KEPT));
    for (used, path) in unused {
        if now.duration_since(used).is_ok_and(|ago| ago > IN_USE) {
            let _ = fs::remove_file(&path);
            let lock = path.with_extension("lock");
            // Of both that have this name. Whoever waits for it finds that it is gone, and makes another.
            if is_initramfs(&path) && !SUFFIXES.iter().any(|suffix| path.with_extension(suffix).exists()) {
                let _ = fs::remove_file(lock);
            }
        }
    }
}

fn is_initramfs(path: &Path) -> bool {
    path.extension().is_some_and(|it| SUFFIXES.iter().any(|suffix| it == *suffix))
}

/// The same for the same kernel, modules and agent. The agent's path holds its digest; modules that are installed anew get another index.
fn key(kernel: &Kernel, agent: &Path) -> String {
    let modules = kernel.modules.as_deref().unwrap_or(Path::new(""));
    let index = fs::metadata(modules.join("modules.dep")).map(|meta| (meta.mtime(), meta.mtime_nsec())).ok();
    let text = format!(
        "{FORMAT} {} {} {} {index:?} {}",
        kernel.digest,
        kernel.version,
        modules.display(),
        agent.display()
    );
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    hex(hash.as_ref().get(..16).unwrap_or_default())
}

fn pack(program: &[u8], modules: &[Module]) -> Vec<u8> {
    let mut archive = Archive::default();
    for name in ["dev", "proc", "sys", "root", "modules"] {
        archive.entry(name, DIRECTORY, &[], (0, 0));
    }
    // Standard input, output and error of the first process.
    archive.entry("dev/console", CONSOLE, &[], (5, 1));
    archive.entry("init", PROGRAM, program, (0, 0));
    for (number, module) in modules.iter().enumerate() {
        archive.entry(&format!("modules/{number:02}-{}.ko", module.name), FILE, &module.bytes, (0, 0));
    }
    archive.finish()
}

/// A cpio archive in the format `newc` (Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
}

impl Archive {
    pub(super) fn entry(&mut self, name: &str, mode: u32, data: &[u8], device: (u32, u32)) {
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let name_length = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(b"070701");
        // Inode, mode, owner and group, links, time, size, device of the file, device that it is, length of the name, checksum.
        let fields = [0, mode, 0, 0, 1, 0, length, 0, 0, device.0, device.1, name_length, 0];
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[], (0, 0));
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_kernel_has_another_archive_wherever_it_lies() {
        let kernel = Kernel::with_modules(Path::new("/m"));
        let agent = Path::new("/agents/00/sandgate-agent");
        let same = Kernel { image: "/elsewhere/vmlinuz".into(), ..kernel.clone() };
        assert_eq!(key(&kernel, agent), key(&same, agent));
        for other in [
            Kernel { digest: "01".into(), ..kernel.clone() },
            Kernel { version: "6.2".into(), ..kernel.clone() },
            Kernel { modules: None, ..kernel.clone() },
        ] {
            assert_ne!(key(&kernel, agent), key(&other, agent), "{other:?}");
        }
        assert_ne!(key(&kernel, agent), key(&kernel, Path::new("/agents/01/sandgate-agent")));
    }

    #[test]
    fn those_that_were_not_used_for_longest_go() {
        let home = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let make = |name: &str, ago: u64| {
            let file = File::create(home.path().join(name)).unwrap();
            file.set_modified(now - Duration::from_secs(ago)).unwrap();
        };
        let hours = |n: usize| 3600 * n as u64;
        for n in 0..KEPT + 2 {
            make(&format!("{n}.initramfs"), hours(n + 1));
            make(&format!("{n}.lock"), hours(n + 1));
        }
        // More than are kept, but of these minutes.
        make("now.template-initramfs", 1);
        make("now.lock", 1);
        for (name, ago) in [("kernels.json", 99), ("a.new.77", 99), ("b.new.78", 0), ("c.template", 99)] {
            make(name, hours(ago));
        }
        prune(home.path(), now);
        let there = |name: &str| home.path().join(name).exists();
        for n in 0..KEPT + 2 {
            let kept = n < KEPT - 1;
            assert_eq!((there(&format!("{n}.initramfs")), there(&format!("{n}.lock"))), (kept, kept), "{n}");
        }
        assert!(there("now.template-initramfs") && there("now.lock"));
        assert!(there("kernels.json") && there("b.new.78") && there("c.template") && !there("a.new.77"));
        // One whose other half is still there keeps the lock of both.
        for n in 0..=KEPT {
            make(&format!("n{n}.initramfs"), 700);
        }
        make("now.initramfs", hours(50));
        prune(home.path(), now);
        assert!(!there("now.initramfs") && there("now.template-initramfs") && there("now.lock"));
    }

    #[test]
    fn entries_are_aligned_and_the_archive_ends() {
        let bytes = pack(b"abc", &[Module { name: "m".into(), bytes: vec![1; 5] }]);
        assert_eq!(bytes.len() % 512, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("modules/00-m.ko") && text.contains("TRAILER!!!"));
        for at in text.match_indices("070701").map(|(at, _)| at) {
            assert_eq!(at % 4, 0);
        }
    }
}
