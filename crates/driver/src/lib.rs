//! How sandboxes are made and reached.
//!
//! A [`Driver`] knows how to create, start, stop and remove a sandbox and how to reach the guest agent in it. It knows
//! nothing about SSH, tokens or sessions.
//!
//! * [`OciDriver`] makes Linux containers from an OCI bundle: by `libcontainer` in a shim process of its own per sandbox, or by
//!   an OCI runtime's command line (`runc`, `crun`, `runsc`).
//! * [`QemuDriver`] makes virtual machines without a network.
//! * [`DockerDriver`] has them made by Docker or Podman, and adopts containers that are there already.
//! * [`ExternalDriver`] makes nothing: it reaches an agent that runs already in somebody else's machine or container.
//!
//! The sandbox is hostile. Nothing here follows a path that the sandbox controls: its listening socket is made on the host
//! side and handed in as an open descriptor, and its files are only ever opened below a directory file descriptor or by
//! the kernel on behalf of the sandbox itself.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that panics has failed, which is its purpose"))]

mod bundle;
mod docker;
mod error;
mod external;
mod hybrid;
mod id;
mod image;
mod images;
mod oci;
mod progress;
mod qemu;
pub mod shim;
mod spec;
mod state;
mod supervised;
mod usage;

/// The inside, for fuzz targets.
#[cfg(feature = "testing")]
pub mod testing {
    use std::path::Path;

    /// Unpacks layers, compressed or not, one over the other. Whether it worked.
    pub fn unpack(root: &Path, layers: &[&[u8]]) -> bool {
        let Ok(mut unpacker) = crate::image::unpack::Unpacker::new(root) else { return false };
        layers.iter().all(|layer| {
            crate::image::unpack::decompress(*layer).and_then(|(plain, _)| unpacker.layer(plain)).is_ok()
        })
    }
}

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use docker::{AdoptTarget, DockerConfig, DockerDriver};
pub use error::DriverError;
pub use external::{External, ExternalConfig, ExternalDriver, ExternalLink, TlsFiles};
pub use id::{InvalidSandboxId, SandboxId};
pub use images::{
    Credentials, ImageError, ImageEvent, ImageProgress, ImageRef, Images, Platform, Pull, StoredImage,
};
pub use oci::{OciConfig, OciDriver};
pub use progress::{NoProgress, Progress};
pub use qemu::{AccelMode, Accelerator, MachineSettings, QemuConfig, QemuDriver, StartMode};
pub use spec::{
    BindMount, DEFAULT_DISK_BYTES, DEFAULT_MEMORY_BYTES, DEFAULT_PIDS, DEFAULT_VM_MEMORY_BYTES, ImageName,
    ImageSource, InvalidSpec, MountAccess, Network, Runtime, SandboxSpec, State, StopCause,
};
pub use usage::Usage;

/// One way to make sandboxes.
///
/// Every method may be called for any sandbox at any time and by several processes at once; calls for the same sandbox are
/// serialized by a lock in the sandbox's directory.
#[async_trait]
pub trait Driver: Send + Sync {
    /// The name that `--driver` takes, for example `oci`.
    fn name(&self) -> &'static str;

    /// Who makes the sandboxes where that is a program of its own, with its version: a container engine. `None` while it is not known.
    fn engine(&self) -> Option<String> {
        None
    }

    /// Makes the sandbox's directory and unpacks its image; starts nothing.
    ///
    /// # Errors
    /// [`DriverError::AlreadyExists`] for an id in use, [`DriverError::Image`] for an image that cannot be used.
    async fn create(&self, spec: &SandboxSpec, progress: &dyn Progress) -> Result<(), DriverError>;

    /// Starts a created or stopped sandbox and returns when its agent answers. Starting a running sandbox is not an error.
    ///
    /// # Errors
    /// [`DriverError::NotFound`], and [`DriverError::StartFailed`] with the reason the shim gave.
    async fn start(&self, id: &SandboxId, progress: &dyn Progress) -> Result<(), DriverError>;

    /// Asks the agent to end (SIGTERM), and kills what is left after `grace`. Stopping a stopped sandbox is not an error.
    ///
    /// # Errors
    /// [`DriverError::NotFound`], or the reason why the sandbox could not be stopped.
    async fn stop(&self, id: &SandboxId, grace: Duration) -> Result<(), DriverError>;

    /// Halts a running sandbox: nothing in it runs until it is resumed, and its memory stays. Pausing a paused sandbox is not an error.
    ///
    /// # Errors
    /// [`DriverError::CannotPause`] for a driver that has no way to, [`DriverError::NotFound`], or the reason.
    async fn pause(&self, id: &SandboxId) -> Result<(), DriverError> {
        let _ = id;
        Err(DriverError::CannotPause(self.name()))
    }

    /// Lets a paused sandbox go on, with the right time. Resuming a running sandbox is not an error.
    ///
    /// # Errors
    /// As [`Driver::pause`].
    async fn resume(&self, id: &SandboxId) -> Result<(), DriverError> {
        let _ = id;
        Err(DriverError::CannotPause(self.name()))
    }

    /// Kills the sandbox if it runs and removes everything that belongs to it: processes, mounts, cgroups, files.
    ///
    /// # Errors
    /// [`DriverError::NotFound`], or the reason why something could not be removed.
    async fn remove(&self, id: &SandboxId) -> Result<(), DriverError>;

    /// What the sandbox is doing now, found from the live process and not from what was once written down.
    ///
    /// # Errors
    /// [`DriverError::NotFound`].
    async fn inspect(&self, id: &SandboxId) -> Result<State, DriverError>;

    /// What a running or paused sandbox uses of this machine, as far as that can be told in a moment. `None` where nothing can.
    async fn usage(&self, id: &SandboxId) -> Option<Usage> {
        let _ = id;
        None
    }

    /// The user that sessions log in as unless they name another: the specification's, else the image's, else `None` for
    /// root inside. As the image writes it: a name or a number, with `:group` perhaps.
    ///
    /// # Errors
    /// [`DriverError::NotFound`].
    async fn login_user(&self, id: &SandboxId) -> Result<Option<String>, DriverError>;

    /// How to reach the agent. Cheap; dialling fails while the sandbox is not running.
    fn link(&self, id: &SandboxId) -> Arc<dyn sandgate_guest::Dial>;
}
