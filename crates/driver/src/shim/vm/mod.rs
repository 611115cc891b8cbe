//! Virtual machines: what is made for one, QEMU and its vsock device in their jails, and watching over them.

mod accel;
mod boot;
mod counter;
mod create;
mod disks;
mod initramfs;
mod jail;
mod kernel;
mod limits;
mod machine;
mod memo;
mod modules;
mod probe;
mod qmp;
mod run;
mod slots;
mod template;
mod vsock;
mod watch;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use super::message::Failure;
use crate::state::DataDir;

pub(crate) use create::create;
pub(crate) use jail::jail_main;
pub(crate) use machine::Machine;
pub(crate) use run::run;
pub(crate) use vsock::power_off_main;

/// The directory of what machines have in common, made where it is missing.
fn machines(data: &DataDir) -> Result<PathBuf, Failure> {
    let home = data.machines();
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(&home)
        .map_err(Failure::io("make the directory of machines"))?;
    Ok(home)
}
