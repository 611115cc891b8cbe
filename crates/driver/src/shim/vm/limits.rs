//! The cgroups of a machine's processes. libcontainer writes those of containers; these are written here.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::message::{Failure, Report};
use super::super::{Target, cgroup};

/// What QEMU needs beside the guest's memory, in bytes: its own code and heap, translated code of the emulator, page cache of its disks that
/// is charged to it.
const OVERHEAD: u64 = 384 << 20;
/// Processes and threads of QEMU and the vsock device.
const TASKS: u64 = 256;
/// Of a quota, in microseconds.
const PERIOD: f64 = 100_000.0;

/// What the machine's processes may use.
pub(super) struct Wanted {
    pub(super) memory: u64,
    pub(super) cpus: Option<f64>,
}

/// Makes the groups; the jail joins them. Returns those that are there.
pub(super) fn make(target: &Target, wanted: &Wanted, report: &mut Report) -> Result<Vec<PathBuf>, Failure> {
    let found = cgroup::find(target, report);
    let mut dirs = Vec::new();
    for dir in found.dirs {
        if fs::create_dir_all(&dir).is_err() {
            continue;
        }
        write_limits(&dir, wanted);
        dirs.push(dir);
    }
    Ok(dirs)
}

/// Each file is there in one hierarchy, or in the one of version 2.
fn write_limits(dir: &Path, wanted: &Wanted) {
    let memory = wanted.memory.saturating_add(OVERHEAD).to_string();
    let put = |file: &str, text: &str| {
        let path = dir.join(file);
        if path.exists()
            && let Err(error) = fs::write(&path, text)
        {
            eprintln!("cannot limit {}: {error}", path.display());
        }
    };
    for file in ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max"] {
        put(file, &memory);
    }
    put("memory.swap.max", "0");
    put("pids.max", &TASKS.to_string());
    if let Some(cpus) = wanted.cpus {
        let quota = format!("{:.0}", (cpus * PERIOD).max(1000.0));
        put("cpu.cfs_period_us", &format!("{PERIOD:.0}"));
        put("cpu.cfs_quota_us", &quota);
        put("cpu.max", &format!("{quota} {PERIOD:.0}"));
    }
    // A group of version 1 takes no process before it names processors and memory nodes.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let above = dir.parent().map(|parent| fs::read_to_string(parent.join(file)).unwrap_or_default());
        if let Some(text) = above.filter(|text| !text.trim().is_empty()) {
            put(file, text.trim());
        }
    }
}
