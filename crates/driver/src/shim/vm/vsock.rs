//! The machine's vsock device: `vhost-device-vsock`, and what is said through it by the shim itself.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Signal, set_parent_process_death_signal};
use sandgate_guest::{Guest, Timeouts};

use super::super::find_program;
use super::super::message::Failure;
use super::jail::Jail;
use crate::SandboxId;
use crate::qemu::{MachineDial, MachineSettings};
use crate::state::lock::RunLock;
use crate::state::{DataDir, SandboxDir, VHOST_SOCKET, VSOCK_SOCKET};

/// The only address that guests have here: each machine has a device of its own, so they need not differ.
const GUEST_CID: u32 = 3;
/// How long the device may take to be there.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(1);

/// How long one connection to the agent may take when the machine is to be switched off.
const POWER_OFF_DIAL: Duration = Duration::from_secs(2);
/// Before the next attempt.
const POWER_OFF_PAUSE: Duration = Duration::from_millis(200);

/// The device's program.
pub(super) fn find(settings: &MachineSettings) -> Result<PathBuf, Failure> {
    match &settings.vhost_device_vsock {
        Some(path) if path.is_file() => Ok(path.clone()),
        Some(path) => Err(Failure::machine(format!("there is no vhost-device-vsock at {}", path.display()))),
        None => find_program("vhost-device-vsock").ok_or_else(|| {
            Failure::machine(
                "vhost-device-vsock is not there; install it (cargo install vhost-device-vsock), and name it with [qemu] \
                 vhost_device_vsock if it is not in the search path",
            )
        }),
    }
}

/// Starts it and waits for its socket. `jail` says everything but the program.
pub(super) fn start(mut jail: Jail, program: PathBuf) -> Result<Child, Failure> {
    let socket = jail.directory.join(VHOST_SOCKET);
    for name in [VHOST_SOCKET, VSOCK_SOCKET] {
        let _ = std::fs::remove_file(jail.directory.join(name));
    }
    jail.program = program;
    jail.args =
        vec!["--vm".into(), format!("guest-cid={GUEST_CID},socket={VHOST_SOCKET},uds-path={VSOCK_SOCKET}")];
    let mut child = jail
        .command()?
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(Failure::io("start the vsock device"))?;
    let deadline = Instant::now() + PATIENCE;
    while !is_socket(&socket) {
        let ended: Option<ExitStatus> = child.try_wait().map_err(Failure::io("watch the vsock device"))?;
        if let Some(status) = ended {
            return Err(Failure::machine(format!("the vsock device ended at once ({status})")));
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Failure::machine("the vsock device did not come up"));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(child)
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

/// `shim vm-power-off DATA_DIR ID`: asks the agent to switch its machine off, until it has heard. Ends with the shim, which ends with the machine.
pub(crate) fn power_off_main(args: &[OsString]) -> Result<(), Failure> {
    let [data, id] = args else { return Err(Failure::other("vm-power-off takes two arguments")) };
    let id: SandboxId =
        id.to_str().and_then(|id| id.parse().ok()).ok_or_else(|| Failure::other("that is no sandbox"))?;
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(Failure::io("follow the shim"))?;
    let dir = DataDir::new(PathBuf::from(data)).sandbox(&id);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::io("start a runtime"))?;
    runtime.block_on(power_off(&dir))
}

/// One lost connection would cost the machine what it has not written yet: it is killed when its grace is over.
async fn power_off(dir: &SandboxDir) -> Result<(), Failure> {
    let timeouts = Timeouts { dial: POWER_OFF_DIAL, ..Timeouts::default() };
    let guest = Guest::with_timeouts(Arc::new(MachineDial::of_shim(dir.clone())), timeouts);
    // It may have ended before we followed it.
    let has_shim = || RunLock::is_held(&dir.run_lock()).map_err(Failure::io("ask for the shim"));
    let mut failed = false;
    while let Err(error) = guest.power_off().await {
        if !has_shim()? {
            return Err(Failure::other("the shim is gone"));
        }
        if !failed {
            eprintln!("cannot ask the agent to end yet: {error}");
            failed = true;
        }
        tokio::time::sleep(POWER_OFF_PAUSE).await;
    }
    // An earlier attempt may be answered yet, and an answer for who is gone ends the device before its machine has ended.
    while failed && has_shim()? {
        tokio::time::sleep(POWER_OFF_PAUSE).await;
    }
    Ok(())
}
