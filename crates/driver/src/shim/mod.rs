//! The process that holds one sandbox: parent of its init, owner of its listening socket, writer of its state.
//!
//! `libcontainer` forks and changes namespaces, which a program with threads must not do. So everything that touches a
//! sandbox's namespaces, mounts and foreign-owned files happens in short single-threaded processes that are started as
//! `<the gateway's program> shim <what> …`:
//!
//! | what | lives | does |
//! | --- | --- | --- |
//! | `create` | short | chooses the ids, unpacks the image, makes the layers |
//! | `start` | short | leaves the gateway's session and starts `run` |
//! | `run` | as long as the sandbox | makes the container, supervises it, records its end, cleans up |
//! | `remove` | short | deletes files that belong to the sandbox's ids |
//! | `vm-create`, `vm-start`, `vm-run` | | the same for a virtual machine |
//! | `vm-jail` | becomes QEMU, or its vsock device | takes its rights away first |
//! | `vm-power-off` | short | asks the agent of a machine to switch it off |
//! | `collect` | short | removes images that nobody uses |
//! | `map`, `hold`, `loopback` | short | helpers of the others, each in a namespace of its own |

mod cgroup;
mod container;
mod create;
mod external;
mod gvisor;
mod identity;
mod lend;
pub(crate) mod message;
mod network;
mod remove;
mod rootfs;
mod run;
mod supervise;
mod terminals;
mod userns;
mod vm;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use message::{Failure, Report};

use crate::SandboxId;
use crate::state::{DataDir, SandboxDir};

pub(crate) use cgroup::remove_leftovers;

/// The `shim` subcommand, without the program's name and the word `shim`. Synchronous, and to be called before any thread
/// is started: it forks.
pub fn shim_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let Some((what, rest)) = args.split_first() else { return usage() };
    let mut report = Report::default();
    let result = match (what.as_bytes(), rest) {
        (b"map", rest) => userns::map_main(rest),
        (b"hold", []) => userns::hold_main(),
        (b"vm-jail", rest) => vm::jail_main(rest),
        (b"vm-power-off", rest) => vm::power_off_main(rest),
        (b"loopback", rest) => userns::loopback_main(rest),
        (b"collect", rest) => crate::images::collect_main(rest, &mut report),
        (what, rest) => match (what, Target::parse(rest)) {
            (b"create", Some(target)) => create::create(&target, &mut report).map(|()| report.done()),
            (b"start", Some(_)) => launch("run", rest),
            (b"run", Some(target)) => return run::run(&target, report),
            (b"vm-create", Some(target)) => vm::create(&target, &mut report).map(|()| report.done()),
            (b"vm-start", Some(_)) => launch("vm-run", rest),
            (b"vm-run", Some(target)) => return vm::run(&target, report),
            (b"remove", Some(target)) => remove::remove(&target).map(|()| report.done()),
            _ => return usage(),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report.failed(&failure);
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("This is an internal command: it is started by the gateway, one process for each sandbox.");
    ExitCode::from(2)
}

/// The sandbox that a shim is for.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) data: DataDir,
    pub(crate) id: SandboxId,
    pub(crate) dir: SandboxDir,
    /// The installed agent binary.
    pub(crate) agent: PathBuf,
}

impl Target {
    /// DATA_DIR ID AGENT
    fn parse(args: &[OsString]) -> Option<Self> {
        let [data, id, agent] = args else { return None };
        let data = DataDir::new(PathBuf::from(data));
        let id: SandboxId = id.to_str()?.parse().ok()?;
        let dir = data.sandbox(&id);
        Some(Self { data, id, dir, agent: PathBuf::from(agent) })
    }
}

/// A command that runs this program as another part of the shim.
fn own_command() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("shim");
    command
}

/// Leaves the gateway's session and process group, so that no signal for them reaches the sandbox, and starts the part that stays, which
/// becomes a child of the machine's init when this process ends.
fn launch(part: &str, args: &[OsString]) -> Result<(), Failure> {
    // Fails only where we lead a session already, which is as good.
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/").map_err(Failure::io("change to the root directory"))?;
    own_command().arg(part).args(args).stdin(Stdio::null()).spawn().map_err(Failure::io("start the shim"))?;
    Ok(())
}

/// Makes this process able to remove what the shims of this gateway's user have made.
pub(crate) fn become_owner(report: &mut Report) -> Result<(), Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    userns::enter(&identity::for_user(report))
}

/// The first executable of that name in the search path.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && Path::is_file(file))
}

/// Whether this process is in the machine's first user namespace.
fn userns_is_initial() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}
