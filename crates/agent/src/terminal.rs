//! Terminals: made here, or taken from the host.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{isatty, ttyname};
use sandgate_wire::message::Reason;

use crate::launch::Refusal;
use crate::sys;

/// How often a terminal is read in a row before its end is believed. The kernel moves what was written in a task of its own; when that has to
/// pause for room just as the room is made, a read finds nothing and says so (Linux 6.18: about once in 10,000 ends of `seq 1 20000`). The next
/// read waits for the task. The third is a margin.
const LAST_LOOKS: u32 = 3;

/// A terminal for one session.
#[derive(Debug)]
pub struct Pair {
    /// `None` where the host has it.
    pub master: Option<OwnedFd>,
    /// For the child.
    pub slave: OwnedFd,
    /// The slave's name in this sandbox.
    pub path: CString,
}

/// Makes a terminal. Its master side does not block.
pub fn make() -> Result<Pair, Refusal> {
    let refuse = |what: &str, e: Errno| {
        let reason = if matches!(e, Errno::MFILE | Errno::NFILE) { Reason::Resources } else { Reason::NoPty };
        Refusal::new(
            reason,
            format!("no terminal can be had in this sandbox: {what}: {}", sys::errno_text(e.raw_os_error())),
        )
    };
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).map_err(|e| refuse("/dev/ptmx", e))?;
    // Old kernels and gVisor differ in what they support here; the open below decides.
    let _ = grantpt(&master);
    unlockpt(&master).map_err(|e| refuse("unlock", e))?;
    let path = ptsname(&master, Vec::new()).map_err(|e| refuse("ptsname", e))?;
    let slave = rustix::fs::open(&path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| refuse("/dev/pts", e))?;
    rustix::io::ioctl_fionbio(&master, true).map_err(|e| refuse("fcntl", e))?;
    Ok(Pair { master: Some(master), slave, path })
}

/// A terminal whose master side the host has kept. `None` if programs here would not find it by a name: `tty` and `/dev/tty` must
/// work, and a terminal of another instance (of before a restart) would be a stranger.
pub fn of_host(slave: OwnedFd) -> Option<Pair> {
    if !isatty(&slave) {
        return None;
    }
    let path = ttyname(&slave, Vec::new()).ok()?;
    path.to_bytes().starts_with(b"/dev/pts/").then_some(Pair { master: None, slave, path })
}

/// Reads from the master side. `IO` means that nobody has the terminal open any more and that it is empty.
pub fn read(master: &OwnedFd, room: &mut [u8]) -> Result<usize, Errno> {
    match rustix::io::read(master, &mut *room) {
        Err(Errno::IO) => read_last(master, room),
        result => result,
    }
}

/// Reads once the shell has ended: `AGAIN` means that there is nothing left of what it wrote.
pub fn read_last(master: &OwnedFd, room: &mut [u8]) -> Result<usize, Errno> {
    let mut looks = 1;
    loop {
        match rustix::io::read(master, &mut *room) {
            Err(Errno::IO | Errno::AGAIN) if looks < LAST_LOOKS => looks += 1,
            result => return result,
        }
    }
}

/// The foreground process group of the terminal that `pid` is on: field 8 of /proc/PID/stat. The name before it may hold anything, but ends at
/// the last parenthesis.
pub fn foreground_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after = stat.rsplitn(2, |b| *b == b')').next()?;
    let group: i32 = std::str::from_utf8(after).ok()?.split_ascii_whitespace().nth(5)?.parse().ok()?;
    (group > 0).then_some(group)
}
