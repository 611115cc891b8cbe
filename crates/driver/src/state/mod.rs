//! What a sandbox looks like on disk, shared by the driver in the gateway and the shim beside the sandbox.

pub(crate) mod lock;
mod paths;
pub(crate) mod process;
mod record;

pub(crate) use paths::{DataDir, SandboxDir, VHOST_SOCKET, VSOCK_SOCKET};
pub(crate) use record::{Identity, ImageMeta, Layer, LayerOwner, Meta, Phase, Record, read_json, write_json};
