//! Telling a process from a later one with the same number.

use std::fs;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process for as long as this boot lasts: its number and when it was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessRef {
    pub(crate) pid: i32,
    /// Field 22 of /proc/PID/stat: clock ticks since boot.
    start_ticks: u64,
    boot_id: String,
}

impl ProcessRef {
    /// `None` if there is no such process.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, start_ticks: start_ticks(pid)?, boot_id: boot_id() })
    }

    /// Kills the process if it is still the same one.
    pub(crate) fn kill(&self) {
        let Some(pid) = Pid::from_raw(self.pid) else { return };
        // The descriptor pins the process, so what is checked is what is killed.
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        if self.is_alive() {
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
    }

    /// Whether the same process exists (a zombie counts as gone).
    pub(crate) fn is_alive(&self) -> bool {
        boot_id() == self.boot_id && start_ticks(self.pid) == Some(self.start_ticks)
    }
}

/// Another one after each start of the host.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn start_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold anything, parentheses and spaces too; what follows its last ')' is plain.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    // `fields` continues with field 4.
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_alive_until_it_was_killed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let seen = ProcessRef::of(pid).unwrap();
        assert!(seen.is_alive());
        let other = ProcessRef { start_ticks: seen.start_ticks + 1, ..seen.clone() };
        other.kill();
        assert!(seen.is_alive(), "a different process with that number must not be killed");
        seen.kill();
        child.wait().unwrap();
        assert!(!seen.is_alive());
    }
}
