//! How sandboxes are made and reached.
//!
//! A [`Driver`] knows how to create, start, stop and remove a sandbox and how to reach the guest agent in it. It knows
//! nothing about SSH, tokens or sessions. The one driver so far is [`OciDriver`], which makes Linux containers from an
//! OCI bundle: by `libcontainer` in a shim process of its own per sandbox, or by an OCI runtime's command line (`runc`,
//! `crun`, `runsc`).
//!
//! The sandbox is hostile. Nothing here follows a path that the sandbox controls: its listening socket is made on the host
//! side and handed in as an open descriptor, and its files are only ever opened below a directory file descriptor or by
//! the kernel on behalf of the sandbox itself.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that panics has failed, which is its purpose"))]

mod bundle;
mod error;
mod id;
mod image;
mod oci;
mod progress;
pub mod shim;
mod spec;
mod state;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use error::DriverError;
pub use id::{InvalidSandboxId, SandboxId};
pub use oci::{OciConfig, OciDriver};
pub use progress::{NoProgress, Progress};
pub use spec::{
    BindMount, DEFAULT_MEMORY_BYTES, DEFAULT_PIDS, ImageSource, InvalidSpec, MountAccess, Network, Runtime,
    SandboxSpec, State, StopCause,
};

/// One way to make sandboxes.
///
/// Every method may be called for any sandbox at any time and by several processes at once; calls for the same sandbox are
/// serialized by a lock in the sandbox's directory.
#[async_trait]
pub trait Driver: Send + Sync {
    /// The name that `--driver` takes, for example `oci`.
    fn name(&self) -> &'static str;

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

    /// The user that sessions log in as unless they name another: the specification's, else the image's, else `None` for
    /// root inside. As the image writes it: a name or a number, with `:group` perhaps.
    ///
    /// # Errors
    /// [`DriverError::NotFound`].
    async fn login_user(&self, id: &SandboxId) -> Result<Option<String>, DriverError>;

    /// How to reach the agent. Cheap; dialling fails while the sandbox is not running.
    fn link(&self, id: &SandboxId) -> Arc<dyn sandgate_guest::Dial>;
}
