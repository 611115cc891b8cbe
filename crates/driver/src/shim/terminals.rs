//! The sandbox's own terminals, for the gateway to make new ones of.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, fstatfs, open, openat2};
use rustix::io::Errno;

use super::lend::lend;
use crate::state::Identity;

/// `DEVPTS_SUPER_MAGIC` of linux/magic.h.
const DEVPTS_MAGIC: i64 = 0x1cd1;
/// The root of any instance.
const DEVPTS_ROOT: u64 = 1;

/// `/dev/pts` of one container, as its own mount, so that a terminal made below it has a name in there.
#[derive(Debug)]
pub(crate) struct Terminals {
    dir: OwnedFd,
    /// Who root inside is to the gateway, where the gateway is somebody else. The kernel gives a new terminal to who makes it.
    owner: Option<u32>,
}

impl Terminals {
    /// To be called when `init` is in its namespaces and before any code of the guest runs. `None` where the gateway cannot make terminals; then
    /// the agent does.
    pub(crate) fn find(init: i32, identity: &Identity) -> Option<Self> {
        match directory(init) {
            Ok(dir) => {
                let owner = matches!(identity, Identity::Mapped { .. }).then(|| identity.root_outside());
                Some(Self { dir, owner })
            }
            Err(error) => {
                eprintln!("terminals will be made by the agent: /dev/pts of the container: {error}");
                None
            }
        }
    }
}

fn directory(init: i32) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open(format!("/proc/{init}/root"), flags, Mode::empty())?;
    // The image is nobody's friend: no link of it is followed.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let dir = openat2(&root, "dev/pts", flags, Mode::empty(), resolve)?;
    if fstatfs(&dir)?.f_type != DEVPTS_MAGIC || fstat(&dir)?.st_ino != DEVPTS_ROOT {
        return Err(Errno::NODEV);
    }
    Ok(dir)
}

/// Answers the gateway: the directory and its owner, or that there is none.
pub(crate) fn answer(terminals: Option<&Terminals>, asker: &UnixStream) {
    let line = match terminals {
        Some(Terminals { owner: Some(id), .. }) => format!("terminals {id}\n"),
        Some(Terminals { owner: None, .. }) => "terminals -\n".to_owned(),
        None => "none\n".to_owned(),
    };
    lend(asker, &line, terminals.map(|it| it.dir.as_fd()));
}
