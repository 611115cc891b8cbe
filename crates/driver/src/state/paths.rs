//! The layout of the data directory.
//!
//! ```text
//! <data-dir>/agents/<sha256>/sandgate-agent   what sandboxes get as PID 1 (one per version)
//! <data-dir>/images/<digest>/rootfs           unpacked images, a cache
//!                  /disks/                    the same as erofs files, for virtual machines
//! <data-dir>/image-store                      pulled and imported images, see images/store.rs
//! <data-dir>/machines/                        initramfs, templates and what was found out, of virtual machines: a cache
//! <data-dir>/ranges.lock                      held while a range of ids is chosen
//! <data-dir>/sandboxes/<id>/op.lock           flock: one operation at a time
//!                          /run.lock          POSIX lock: held by the shim while it lives
//!                          /spec.json         what was asked for
//!                          /meta.json         what it became: ids, image, agent
//!                          /state.json        what it is doing
//!                          /agent.sock        the agent's listening socket, bound by the shim
//!                          /shim.sock         how the shim is asked to stop the sandbox, and for its terminals
//!                          /bundle/           config.json of the last start
//!                          /skeleton/         generated /etc and empty directories (host image)
//!                          /layers/           upper and work directories: what the sandbox wrote
//!                          /machine.json      virtual machines: the operator's settings at the last start
//!                          /disks.json        the disks of its image
//!                          /data.img          the disk that it writes
//!                          /vm/               sockets of its devices
//!                          /shim.log /agent.log
//! ```

use std::path::{Path, PathBuf};

use aws_lc_rs::digest;

use crate::SandboxId;

/// The data directory.
#[derive(Debug, Clone)]
pub(crate) struct DataDir {
    root: PathBuf,
}

impl DataDir {
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(crate) fn image_store(&self) -> PathBuf {
        self.root.join("image-store")
    }

    pub(crate) fn agents(&self) -> PathBuf {
        self.root.join("agents")
    }

    pub(crate) fn machines(&self) -> PathBuf {
        self.root.join("machines")
    }

    pub(crate) fn ranges_lock(&self) -> PathBuf {
        self.root.join("ranges.lock")
    }

    pub(crate) fn sandbox(&self, id: &SandboxId) -> SandboxDir {
        SandboxDir { root: self.sandboxes().join(id.as_str()) }
    }

    /// Eight hexadecimal digits that tell this data directory from others, for names in the cgroup hierarchies, which all
    /// gateways of a machine share.
    pub(crate) fn tag(&self) -> String {
        let hash = digest::digest(&digest::SHA256, self.root.as_os_str().as_encoded_bytes());
        hash.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The hybrid vsock socket of a virtual machine, in its directory `vm`.
pub(crate) const VSOCK_SOCKET: &str = "vsock";

/// The socket between QEMU and its vsock device, beside that.
pub(crate) const VHOST_SOCKET: &str = "vhost";

/// One sandbox's directory.
#[derive(Debug, Clone)]
pub(crate) struct SandboxDir {
    root: PathBuf,
}

impl SandboxDir {
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn op_lock(&self) -> PathBuf {
        self.root.join("op.lock")
    }

    pub(crate) fn run_lock(&self) -> PathBuf {
        self.root.join("run.lock")
    }

    pub(crate) fn spec(&self) -> PathBuf {
        self.root.join("spec.json")
    }

    pub(crate) fn meta(&self) -> PathBuf {
        self.root.join("meta.json")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("state.json")
    }

    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.root.join("agent.sock")
    }

    pub(crate) fn shim_socket(&self) -> PathBuf {
        self.root.join("shim.sock")
    }

    /// All sockets that its processes may have made.
    pub(crate) fn sockets(&self) -> [PathBuf; 4] {
        let vm = self.vm();
        [self.agent_socket(), self.shim_socket(), vm.join(VSOCK_SOCKET), vm.join(VHOST_SOCKET)]
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.root.join("bundle")
    }

    /// How its machine is made.
    pub(crate) fn machine(&self) -> PathBuf {
        self.root.join("machine.json")
    }

    /// What its virtual machine needs to write; belongs to the machine's user.
    pub(crate) fn vm(&self) -> PathBuf {
        self.root.join("vm")
    }

    pub(crate) fn data_disk(&self) -> PathBuf {
        self.root.join("data.img")
    }

    pub(crate) fn disks(&self) -> PathBuf {
        self.root.join("disks.json")
    }

    pub(crate) fn skeleton(&self) -> PathBuf {
        self.root.join("skeleton")
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn shim_log(&self) -> PathBuf {
        self.root.join("shim.log")
    }

    pub(crate) fn agent_log(&self) -> PathBuf {
        self.root.join("agent.log")
    }
}
