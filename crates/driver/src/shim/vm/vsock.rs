//! The machine's vsock device: `vhost-device-vsock`, and what is said through it by the shim itself.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandgate_guest::Guest;

use super::super::find_program;
use super::super::message::Failure;
use super::jail::Jail;
use crate::SandboxId;
use crate::qemu::{MachineDial, MachineSettings};
use crate::state::{DataDir, VSOCK_SOCKET};

/// The socket between QEMU and the device, in the machine's directory.
pub(super) const VHOST_SOCKET: &str = "vhost";
/// The only address that guests have here: each machine has a device of its own, so they need not differ.
const GUEST_CID: u32 = 3;
/// How long the device may take to be there.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(1);

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

/// `shim vm-power-off DATA_DIR ID`: asks the agent to switch its machine off.
pub(crate) fn power_off_main(args: &[OsString]) -> Result<(), Failure> {
    let [data, id] = args else { return Err(Failure::other("vm-power-off takes two arguments")) };
    let id: SandboxId =
        id.to_str().and_then(|id| id.parse().ok()).ok_or_else(|| Failure::other("that is no sandbox"))?;
    let guest = Guest::new(Arc::new(MachineDial::of_shim(DataDir::new(PathBuf::from(data)).sandbox(&id))));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::io("start a runtime"))?;
    runtime.block_on(guest.power_off()).map_err(Failure::io("ask the agent"))
}
