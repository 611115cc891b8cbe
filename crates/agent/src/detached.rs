//! Who of a process group has left its session on purpose.
//!
//! `setsid` leaves the group, so its children are never signalled. `nohup` without job control stays in the group: a member that
//! ignores SIGHUP and has none of the session's stdio is taken for such a one and spared, as it would survive under sshd.

use std::os::fd::BorrowedFd;

use crate::sys;

/// Processes looked at in one pass; a sandbox's process limit is below this.
const MAX_PROCESSES: usize = 65_536;

/// The session's output files, by device and inode.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    files: Vec<(u64, u64)>,
}

impl Marks {
    /// Of the child's standard output and error.
    pub fn of(fds: [BorrowedFd<'_>; 2]) -> Self {
        let files =
            fds.iter().filter_map(|fd| rustix::fs::fstat(fd).ok()).map(|s| (s.st_dev, s.st_ino)).collect();
        Self { files }
    }

    fn holds(&self, pid: i32) -> bool {
        [1, 2].iter().any(|n| {
            let stat = rustix::fs::stat(format!("/proc/{pid}/fd/{n}"));
            stat.is_ok_and(|s| self.files.contains(&(s.st_dev, s.st_ino)))
        })
    }
}

/// Sends `signal` to the members of a group but those that have left on purpose. Returns whether somebody got it. Without /proc
/// the whole group gets it.
pub fn kill_members(group: i32, signal: i32, marks: &Marks) -> bool {
    if sys::kill(-group, 0).is_err() {
        return false;
    }
    let Ok(entries) = std::fs::read_dir("/proc") else { return sys::kill(-group, signal).is_ok() };
    let mut members = Vec::new();
    for entry in entries.flatten().take(MAX_PROCESSES) {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        if process_group(pid) == Some(group) {
            members.push(pid);
        }
    }
    let spared = |pid: &i32| *pid != group && ignores_hangup(*pid) && !marks.holds(*pid);
    if members.is_empty() || !members.iter().any(spared) {
        return sys::kill(-group, signal).is_ok();
    }
    members.retain(|pid| !spared(pid));
    let mut any = false;
    for pid in members {
        any |= sys::kill(pid, signal).is_ok();
    }
    any
}

/// Field 5 of /proc/PID/stat; the name before it may hold anything, but ends at the last parenthesis.
fn process_group(pid: i32) -> Option<i32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after = stat.rsplitn(2, |b| *b == b')').next()?;
    std::str::from_utf8(after).ok()?.split_ascii_whitespace().nth(2)?.parse().ok()
}

fn ignores_hangup(pid: i32) -> bool {
    let Ok(status) = std::fs::read(format!("/proc/{pid}/status")) else { return false };
    let status = String::from_utf8_lossy(&status);
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok()).is_some_and(|m| m & 1 != 0)
}
