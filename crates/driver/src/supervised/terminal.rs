//! Terminals of a sandbox, made by the gateway.
//!
//! What is typed and shown then passes no process but the gateway, as with sshd. The directory comes from the shim, which took it before any
//! code of the guest ran; nothing comes from the guest. The master side is opened here and stays here.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid, fchown, openat2};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use sandgate_guest::Terminal;

use super::ask::{Answer, ask};
use crate::state::SandboxDir;

/// A new terminal of the sandbox; `None` where that cannot be had. The shim is asked each time: the instance is another one after each start.
pub(super) async fn make(dir: &SandboxDir) -> Option<Terminal> {
    let made = async {
        let Some((directory, owner)) = directory(dir).await? else { return Ok(None) };
        open(&directory, owner).map(Some)
    };
    made.await.unwrap_or_else(|error: io::Error| {
        tracing::debug!(%error, "no terminal can be made from here; the agent makes it");
        None
    })
}

/// The directory of terminals, and whom new ones are to belong to if not to us. A shim from before this question hangs up.
async fn directory(dir: &SandboxDir) -> io::Result<Option<(OwnedFd, Option<u32>)>> {
    let Answer { line, file: directory, .. } = ask(dir, "terminals\n").await?;
    let owner = line.trim_end().strip_prefix("terminals ");
    match (owner, directory) {
        (Some("-"), Some(directory)) => Ok(Some((directory, None))),
        (Some(id), Some(directory)) => {
            let id = id.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            Ok(Some((directory, Some(id))))
        }
        _ => Ok(None),
    }
}

fn open(directory: &OwnedFd, owner: Option<u32>) -> io::Result<Terminal> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let master = openat2(directory, "ptmx", flags, Mode::empty(), resolve)?;
    unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    if let Some(id) = owner {
        // Ours is an id that means nothing inside; the agent gives it to the login user.
        fchown(&slave, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))?;
    }
    Ok(Terminal { master, slave })
}
