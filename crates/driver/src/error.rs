//! What can go wrong between the gateway and a sandbox.

use std::io;
use std::path::PathBuf;

use crate::{InvalidSpec, SandboxId};

/// Every message is a sentence that may be shown to the sandbox's owner; causes are for the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// No sandbox with this id.
    #[error("There is no sandbox {0}.")]
    NotFound(SandboxId),
    /// The id is in use.
    #[error("A sandbox {0} exists already.")]
    AlreadyExists(SandboxId),
    /// The specification asks for something that cannot be.
    #[error("The sandbox cannot be made: {0}")]
    Spec(#[from] InvalidSpec),
    /// The image is missing, malformed, too large, or tries to write outside its directory.
    #[error("The image {image} cannot be used: {reason}.")]
    Image {
        /// The image as the user named it.
        image: String,
        /// What is wrong, without a final full stop.
        reason: String,
    },
    /// The machine lacks something that every sandbox needs.
    #[error("This machine cannot run sandboxes: {0}.")]
    Unsupported(String),
    /// The OCI runtime is not installed or not usable.
    #[error("The runtime {runtime} cannot be used: {reason}.")]
    Runtime {
        /// The runtime as the user named it.
        runtime: String,
        /// What is wrong, without a final full stop.
        reason: String,
    },
    /// The kernel that was named for a machine is none, or lacks something that a machine needs.
    #[error("The machine cannot be made: {0}.")]
    Kernel(String),
    /// The container or its agent did not come up.
    #[error("The sandbox {id} did not start: {reason}.")]
    StartFailed {
        /// The sandbox.
        id: SandboxId,
        /// What the shim, the runtime or the agent reported, without a final full stop.
        reason: String,
    },
    /// The sandbox could not be stopped.
    #[error("The sandbox {id} did not stop: {reason}.")]
    StopFailed {
        /// The sandbox.
        id: SandboxId,
        /// What is in the way, without a final full stop.
        reason: String,
    },
    /// The driver has no way to pause.
    #[error("Sandboxes of the driver {0} cannot be paused or resumed.")]
    CannotPause(&'static str),
    /// It could not be paused or resumed.
    #[error("Cannot {what} the sandbox {id}: {reason}.")]
    ChangeFailed {
        /// The sandbox.
        id: SandboxId,
        /// `pause` or `resume`.
        what: &'static str,
        /// What is in the way, without a final full stop.
        reason: String,
    },
    /// The container engine is not there or does not answer.
    #[error("The container engine at {} does not answer: {reason}.", socket.display())]
    NoEngine {
        /// Where it was looked for.
        socket: PathBuf,
        /// What happened, without a final full stop.
        reason: String,
    },
    /// The container engine will not do something.
    #[error("The container engine refused to {action}: {reason}.")]
    Engine {
        /// What was asked of it.
        action: &'static str,
        /// What it says, without a final full stop.
        reason: String,
    },
    /// A container that cannot be adopted.
    #[error("{target} cannot be adopted: {reason}.")]
    Adopt {
        /// As the user named it.
        target: String,
        /// What is wrong, without a final full stop.
        reason: String,
    },
    /// Another process is busy with this sandbox for longer than we are willing to wait.
    #[error("The sandbox {0} is busy: another operation on it has not finished.")]
    Busy(SandboxId),
    /// The operating system refused something.
    #[error("Cannot {action}: {source}.")]
    Io {
        /// What was being done, for example "write /var/lib/sandgate/sandboxes/x/spec.json".
        action: String,
        /// The cause.
        source: io::Error,
    },
}

impl DriverError {
    /// For `map_err`: an I/O error with what was being done.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}
