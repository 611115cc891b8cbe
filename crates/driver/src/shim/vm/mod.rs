//! Virtual machines: what is made for one, QEMU and its vsock device in their jails, and watching over them.

mod boot;
mod counter;
mod create;
mod disks;
mod initramfs;
mod jail;
mod kernel;
mod limits;
mod machine;
mod modules;
mod qmp;
mod run;
mod slots;
mod template;
mod vsock;
mod watch;

pub(crate) use create::create;
pub(crate) use jail::jail_main;
pub(crate) use machine::Machine;
pub(crate) use run::run;
pub(crate) use vsock::power_off_main;
