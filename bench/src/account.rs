//! CPU seconds of everything that one server runs: listener, session processes, agent and the commands themselves.
//!
//! Each side lives in a cgroup of its own (v1 `cpuacct` or v2), so that short-lived children are counted whether
//! or not anybody waited for them. A sandbox is put into another cgroup by its runtime; that one is watched as well. Where no cgroup can be
//! written, the sum of `utime`, `stime` and the waited-for children in `/proc` is taken; short-lived processes that nobody
//! has waited for are missing from it, and the report says which way was used.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// How the CPU time of a side is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// cgroup v1: `cpuacct.usage`, nanoseconds.
    V1,
    /// cgroup v2: `usage_usec` of `cpu.stat`.
    V2,
    /// `/proc/*/stat` of the processes that are alive, with their waited-for children.
    Proc,
}

impl Method {
    /// The words for the report.
    pub fn describe(self) -> &'static str {
        match self {
            Self::V1 => "cgroup v1 cpuacct",
            Self::V2 => "cgroup v2 cpu.stat",
            Self::Proc => "/proc sampling (no cgroup could be written; short-lived processes may be missed)",
        }
    }

    fn root(self) -> &'static Path {
        Path::new(match self {
            Self::V1 => "/sys/fs/cgroup/cpuacct",
            Self::V2 => "/sys/fs/cgroup",
            Self::Proc => "/nonexistent",
        })
    }
}

/// The CPU account of one side.
#[derive(Debug)]
pub struct Account {
    method: Method,
    /// The cgroup we made and any that a sandbox runtime moved processes to; none contains another.
    groups: Vec<PathBuf>,
    /// Processes to follow with their descendants when there is no cgroup.
    roots: Vec<u32>,
}

impl Account {
    /// Opens an account. The name must be unique on the machine.
    pub fn open(name: &str) -> Self {
        for method in [Method::V1, Method::V2] {
            let marker = match method {
                Method::V1 => "cpuacct.usage",
                _ => "cgroup.controllers",
            };
            let group = method.root().join(name);
            if method.root().join(marker).exists() && fs::create_dir(&group).is_ok() {
                return Self { method, groups: vec![group], roots: Vec::new() };
            }
        }
        Self { method: Method::Proc, groups: Vec::new(), roots: Vec::new() }
    }

    /// How this account counts.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Shell words to put before a command so that it and its children are counted.
    pub fn enter(&self) -> String {
        match self.groups.first() {
            Some(group) => format!("echo $$ > {}/cgroup.procs; ", group.display()),
            None => String::new(),
        }
    }

    /// Follows a process (and with it its cgroup, if a runtime has moved it to another).
    pub fn follow(&mut self, pid: u32) -> Result<()> {
        self.roots.push(pid);
        let key = match self.method {
            Method::V1 => "cpuacct",
            Method::V2 => "",
            Method::Proc => return Ok(()),
        };
        let text =
            fs::read_to_string(format!("/proc/{pid}/cgroup")).context("reading the cgroup of the sandbox")?;
        for line in text.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            if controllers.split(',').any(|c| c == key) {
                let group = self.method.root().join(path.trim_start_matches('/'));
                if group != self.method.root() && !self.groups.iter().any(|have| group.starts_with(have)) {
                    self.groups.push(group);
                }
            }
        }
        Ok(())
    }

    /// CPU seconds used so far.
    pub fn cpu_seconds(&self) -> Result<f64> {
        match self.method {
            Method::V1 => self.sum(|group| {
                Ok(fs::read_to_string(group.join("cpuacct.usage"))?.trim().parse::<f64>()? / 1e9)
            }),
            Method::V2 => self.sum(|group| {
                let text = fs::read_to_string(group.join("cpu.stat"))?;
                let usage = text.lines().find_map(|l| l.strip_prefix("usage_usec "));
                Ok(usage.context("no usage_usec in cpu.stat")?.trim().parse::<f64>()? / 1e6)
            }),
            Method::Proc => {
                // USER_HZ is 100 on every Linux that runs OpenSSH; the kernel fixes it for user space.
                Ok(self.pids()?.into_iter().filter_map(ticks).sum::<u64>() as f64 / 100.0)
            }
        }
    }

    fn sum(&self, read: impl Fn(&Path) -> Result<f64>) -> Result<f64> {
        self.groups
            .iter()
            .map(|group| read(group).with_context(|| format!("reading {}", group.display())))
            .sum()
    }

    /// Every process of this side that is alive.
    pub fn pids(&self) -> Result<BTreeSet<u32>> {
        let mut pids = BTreeSet::new();
        if self.method == Method::Proc {
            for &root in &self.roots {
                add_descendants(root, &mut pids);
            }
        }
        for group in &self.groups {
            collect(group, &mut pids);
        }
        Ok(pids)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // Only the one we made; it is empty once the server has ended, and the kernel refuses otherwise.
        if let Some(own) = self.groups.first() {
            let _ = fs::remove_dir(own);
        }
    }
}

fn collect(group: &Path, pids: &mut BTreeSet<u32>) {
    if let Ok(text) = fs::read_to_string(group.join("cgroup.procs")) {
        pids.extend(text.lines().filter_map(|line| line.trim().parse::<u32>().ok()));
    }
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), pids);
        }
    }
}

fn add_descendants(pid: u32, pids: &mut BTreeSet<u32>) {
    if !pids.insert(pid) {
        return;
    }
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|c| c.parse().ok()) {
            add_descendants(child, pids);
        }
    }
}

fn ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Fields after the command's closing bracket: utime, stime, cutime and cstime are the 14th to 17th of the line.
    let fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some(fields.skip(11).take(4).filter_map(|f| f.parse::<u64>().ok()).sum())
}

/// Proportional set size of a process, bytes. A process that has just ended counts as nothing.
pub fn pss_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("Pss:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The command name of a process, as the kernel keeps it (15 bytes at most).
pub fn command_name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}
