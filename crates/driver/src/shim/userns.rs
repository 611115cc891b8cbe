//! Entering a user namespace, and making one just to name a mapping.
//!
//! A process cannot give itself more than its own id, so an ordinary user's ranges are written from outside by newuidmap(1),
//! started by a child that stayed behind. All of this needs a process with one thread.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use libcontainer::network::link::LinkClient;
use libcontainer::network::wrapper::create_network_client;
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{Mode, OFlags, open};

use super::message::Failure;
use crate::state::Identity;

/// Makes this process root of a user namespace with the given ids, or leaves it as it is where it is root already.
pub(crate) fn enter(identity: &Identity) -> Result<(), Failure> {
    match identity {
        Identity::Mapped { .. } | Identity::Inherited { .. } => Ok(()),
        Identity::Single => {
            let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            unshare_user()?;
            let put = |path: &str, text: String| {
                fs::write(path, text).map_err(Failure::io(format!("write {path}")))
            };
            put("/proc/self/setgroups", "deny".into())?;
            put("/proc/self/uid_map", format!("0 {uid} 1"))?;
            put("/proc/self/gid_map", format!("0 {gid} 1"))
        }
        Identity::Ranged { uid_base, gid_base, count } => {
            let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            let mut helper = super::own_command()
                .args(["map", &std::process::id().to_string()])
                .args([uid, *uid_base, gid, *gid_base, *count].map(|n| n.to_string()))
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .map_err(Failure::io("start the id mapping helper"))?;
            unshare_user()?;
            drop(helper.stdin.take());
            let output = helper.wait_with_output().map_err(Failure::io("wait for the id mapping helper"))?;
            if !output.status.success() {
                let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(Failure::machine(format!("newuidmap or newgidmap failed: {why}")));
            }
            // The groups of the user outside would mean nothing good inside.
            nix::unistd::setgroups(&[]).map_err(Failure::io("drop the supplementary groups"))
        }
    }
}

fn unshare_user() -> Result<(), Failure> {
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|error| {
        Failure::machine(format!(
            "this user may not make user namespaces ({error}); see user.max_user_namespaces, kernel.unprivileged_userns_clone \
             and kernel.apparmor_restrict_unprivileged_userns in sysctl, or run the gateway as root"
        ))
    })
}

/// `shim map PID UID UID_BASE GID GID_BASE COUNT`: waits until stdin ends, then writes PID's maps.
pub(crate) fn map_main(args: &[OsString]) -> Result<(), Failure> {
    let numbers: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let [pid, uid, uid_base, gid, gid_base, count] = numbers.as_slice() else {
        return Err(Failure::other("shim map takes six numbers"));
    };
    std::io::stdin().read_to_end(&mut Vec::new()).map_err(Failure::io("wait for the shim"))?;
    for (program, own, base) in [("newuidmap", uid, uid_base), ("newgidmap", gid, gid_base)] {
        let status = Command::new(program)
            .args([pid, "0", own, "1", "1", base, count])
            .status()
            .map_err(Failure::io(format!("run {program}")))?;
        if !status.success() {
            return Err(Failure::machine(format!("{program} ended with {status}")));
        }
    }
    Ok(())
}

/// A descriptor of a user namespace in which ids 0 to size-1 are `base` and on. No process stays in it.
pub(crate) fn describe(base: u32, size: u32) -> Result<OwnedFd, Failure> {
    let mut holder = super::own_command()
        .arg("hold")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Failure::io("start the user namespace helper"))?;
    let result = (|| {
        let mut ready = [0u8; 1];
        let out = holder.stdout.as_mut().ok_or_else(|| Failure::other("the helper has no output"))?;
        out.read_exact(&mut ready).map_err(Failure::io("make a user namespace"))?;
        let pid = holder.id();
        let map = format!("0 {base} {size}");
        for file in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{pid}/{file}"), &map).map_err(Failure::io(format!("write {file}")))?;
        }
        open(format!("/proc/{pid}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(Failure::io("open the user namespace"))
    })();
    drop(holder.stdin.take());
    let _ = holder.wait();
    result
}

/// `shim hold`: makes a user namespace and lives until stdin ends.
pub(crate) fn hold_main() -> Result<(), Failure> {
    unshare_user()?;
    let mut out = std::io::stdout().lock();
    out.write_all(b"k").and_then(|()| out.flush()).map_err(Failure::io("answer the shim"))?;
    std::io::stdin().read_to_end(&mut Vec::new()).map_err(Failure::io("wait for the shim"))?;
    Ok(())
}

/// `shim loopback PID`: brings up `lo` in the network namespace of PID, which nobody else there has the capability for.
pub(crate) fn loopback_main(args: &[OsString]) -> Result<(), Failure> {
    let pid = args.first().and_then(|arg| arg.to_str()).unwrap_or_default();
    let namespace =
        File::open(format!("/proc/{pid}/ns/net")).map_err(Failure::io("open the network namespace"))?;
    setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(Failure::io("enter the network namespace"))?;
    loopback_up()
}

/// Moves this process to a network namespace of its own, with nothing but loopback.
pub(crate) fn leave_network() -> Result<(), Failure> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(Failure::io("make a network namespace"))?;
    loopback_up()
}

fn loopback_up() -> Result<(), Failure> {
    /// The loopback interface is the first of every network namespace.
    const LOOPBACK_INDEX: u32 = 1;

    let mut client =
        LinkClient::new(create_network_client()).map_err(Failure::io("open a netlink socket"))?;
    client.set_up(LOOPBACK_INDEX).map_err(Failure::io("bring up the loopback interface"))
}
