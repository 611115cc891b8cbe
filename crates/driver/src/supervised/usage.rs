//! What the control groups of a sandbox have counted.
//!
//! A sandbox has one group in the hierarchy of version 2, or one in each of version 1; a hybrid system has both. Which file is where decides, so
//! each is looked for in all of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Usage;
use crate::usage::limit;

/// Reads what these groups have counted.
pub(super) fn of_groups(groups: &[PathBuf]) -> Usage {
    let mut usage = Usage::default();
    for group in groups {
        usage.memory = usage.memory.or_else(|| memory(group));
        usage.memory_limit = usage.memory_limit.or_else(|| {
            number(group, "memory.max").or_else(|| number(group, "memory.limit_in_bytes")).and_then(limit)
        });
        usage.cpu = usage.cpu.or_else(|| cpu(group));
        usage.processes = usage.processes.or_else(|| number(group, "pids.current"));
        usage.processes_limit = usage.processes_limit.or_else(|| number(group, "pids.max").and_then(limit));
    }
    usage
}

/// Without what the kernel would drop first for somebody who needs it: files that were read or written some time ago. They would make every
/// sandbox that has copied a large file look full. Docker and Kubernetes count so too.
fn memory(group: &Path) -> Option<u64> {
    let (used, droppable) = match number(group, "memory.current") {
        Some(used) => (used, "inactive_file"),
        None => (number(group, "memory.usage_in_bytes")?, "total_inactive_file"),
    };
    Some(used.saturating_sub(field(group, "memory.stat", droppable).unwrap_or(0)))
}

fn cpu(group: &Path) -> Option<Duration> {
    let version_1 = || number(group, "cpuacct.usage").map(Duration::from_nanos);
    field(group, "cpu.stat", "usage_usec").map(Duration::from_micros).or_else(version_1)
}

/// A file that holds one number; `max` is none.
fn number(group: &Path, file: &str) -> Option<u64> {
    fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()
}

/// One line of a file of names and numbers.
fn field(group: &Path, file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(group.join(file)).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A group with these files.
    fn group(root: &Path, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let group = root.join(name);
        fs::create_dir(&group).unwrap();
        for (file, text) in files {
            fs::write(group.join(file), text).unwrap();
        }
        group
    }

    #[test]
    fn a_group_of_version_2_has_it_all() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            ("memory.current", "5000\n"),
            ("memory.max", "8000\n"),
            ("memory.stat", "anon 4\ninactive_file_x 1\ninactive_file 1000\n"),
            ("cpu.stat", "usage_usec 1500000\nuser_usec 1\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
        ];
        let usage = of_groups(&[group(dir.path(), "all", &files)]);
        let expected = Usage {
            memory: Some(4000),
            memory_limit: Some(8000),
            cpu: Some(Duration::from_millis(1500)),
            processes: Some(3),
            processes_limit: None,
        };
        assert_eq!(usage, expected);
    }

    #[test]
    fn groups_of_version_1_have_a_part_each_and_the_one_of_version_2_beside_them_little() {
        let dir = tempfile::tempdir().unwrap();
        let groups = [
            group(dir.path(), "cpu", &[("cpu.stat", "nr_periods 0\n"), ("cpu.shares", "1024\n")]),
            group(dir.path(), "cpuacct", &[("cpuacct.usage", "2000000000\n")]),
            group(
                dir.path(),
                "memory",
                &[
                    ("memory.usage_in_bytes", "700\n"),
                    ("memory.limit_in_bytes", "9223372036854771712\n"),
                    ("memory.stat", "inactive_file 1\ntotal_inactive_file 200\n"),
                ],
            ),
            group(dir.path(), "pids", &[("pids.current", "2\n"), ("pids.max", "4096\n")]),
            group(dir.path(), "unified", &[]),
            dir.path().join("gone"),
        ];
        let expected = Usage {
            memory: Some(500),
            memory_limit: None,
            cpu: Some(Duration::from_secs(2)),
            processes: Some(2),
            processes_limit: Some(4096),
        };
        assert_eq!(of_groups(&groups), expected);
        assert_eq!(of_groups(&[]).known(), None);
    }
}
