//! Acting as the login user for a moment, without a child process.
//!
//! The *effective* user and groups change, not only those for file access: the server at the other end of a Unix socket asks the
//! kernel who has connected and is told the effective user, and a listener on a port below 1024 needs a capability that only
//! the effective user root has.

use std::io;

use super::errno;
use crate::users::Creds;

/// "Leave it as it is", for the system calls below.
const KEEP: libc::c_long = -1;

/// Runs `act` as `creds` (as the agent itself, when there are none) and takes the agent's own identity back. A user namespace may
/// forbid to change the supplementary groups; then they stay, as they do for programs.
///
/// `act` must not start processes or wait.
pub fn as_user<T>(creds: Option<&Creds>, act: impl FnOnce() -> T) -> io::Result<T> {
    let Some(creds) = creds else { return Ok(act()) };
    let mut own = Own::remember()?;
    // SAFETY: the pointer and length describe a live slice; the other calls have no memory effects. They act on this thread, which
    // is the only one.
    unsafe {
        if libc::syscall(libc::SYS_setgroups, creds.groups.len(), creds.groups.as_ptr()) == 0 {
            own.groups_changed = true;
        } else if errno() != libc::EPERM {
            return Err(io::Error::last_os_error());
        }
        if libc::syscall(libc::SYS_setresgid, KEEP, libc::c_long::from(creds.gid), KEEP) != 0
            || libc::syscall(libc::SYS_setresuid, KEEP, libc::c_long::from(creds.uid), KEEP) != 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    let result = act();
    drop(own);
    Ok(result)
}

/// The agent's own identity, restored on drop.
struct Own {
    uid: libc::uid_t,
    gid: libc::gid_t,
    groups: Vec<libc::gid_t>,
    groups_changed: bool,
    dumpable: libc::c_int,
}

impl Own {
    fn remember() -> io::Result<Self> {
        // SAFETY: with a length of 0 getgroups writes nothing; then it writes at most as many as the vector has room for. The other
        // calls have no memory effects.
        unsafe {
            let n = libc::getgroups(0, std::ptr::null_mut());
            let mut groups = vec![0; usize::try_from(n).map_err(|_| io::Error::last_os_error())?];
            let n = libc::getgroups(n, groups.as_mut_ptr());
            groups.truncate(usize::try_from(n).map_err(|_| io::Error::last_os_error())?);
            let dumpable = libc::prctl(libc::PR_GET_DUMPABLE);
            Ok(Self { uid: libc::geteuid(), gid: libc::getegid(), groups, groups_changed: false, dumpable })
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // SAFETY: as in `as_user`.
        let restored = unsafe {
            libc::syscall(libc::SYS_setresuid, KEEP, libc::c_long::from(self.uid), KEEP) == 0
                && libc::syscall(libc::SYS_setresgid, KEEP, libc::c_long::from(self.gid), KEEP) == 0
                && (!self.groups_changed
                    || libc::syscall(libc::SYS_setgroups, self.groups.len(), self.groups.as_ptr()) == 0)
        };
        if !restored {
            // Whatever came next would run as somebody else.
            std::process::abort();
        }
        // A change of the effective user takes this away, and with it the way to the agent's own files below /proc.
        // SAFETY: no memory effects.
        unsafe { libc::prctl(libc::PR_SET_DUMPABLE, self.dumpable, 0, 0, 0) };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    /// In a process of its own: the test's threads share nothing with it that the raw system calls could mix up.
    #[test]
    fn the_identity_changes_and_comes_back() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: changing users needs root");
            return;
        }
        let status = || std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let ids = |text: &str| {
            let keep = |l: &&str| ["Uid:", "Gid:", "Groups:", "CapEff:"].iter().any(|p| l.starts_with(p));
            text.lines().filter(keep).map(|l| l.trim().to_owned()).collect::<Vec<_>>()
        };
        let before = ids(&status());
        let creds = Creds { uid: 4242, gid: 4343, groups: vec![4343, 4444] };
        let during = ids(&as_user(Some(&creds), status).unwrap());
        assert_eq!(during[0], "Uid:\t0\t4242\t0\t4242");
        assert_eq!(during[1], "Gid:\t0\t4343\t0\t4343");
        assert_eq!(during[2], "Groups:\t4343 4444");
        assert_eq!(during[3], "CapEff:\t0000000000000000");
        assert_eq!(ids(&status()), before);
    }
}
