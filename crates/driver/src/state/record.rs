//! The JSON files of a sandbox, written so that a reader sees the old one or the new one and nothing between.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::process::ProcessRef;
use crate::{Accelerator, StartMode, StopCause};

/// Largest record that is read, in bytes; ours are a few kilobytes.
const MAX_RECORD: u64 = 1 << 20;

/// state.json.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) phase: Phase,
    /// The shim, from its start on.
    #[serde(default)]
    pub(crate) shim: Option<ProcessRef>,
    /// The container's init, once it exists.
    #[serde(default)]
    pub(crate) init: Option<ProcessRef>,
    /// Directories in the cgroup hierarchies to be removed after a crash.
    #[serde(default)]
    pub(crate) cgroups: Vec<PathBuf>,
    /// Who runs a virtual machine's processors.
    #[serde(default)]
    pub(crate) accel: Option<Accelerator>,
    /// How a virtual machine came up.
    #[serde(default)]
    pub(crate) start: Option<StartMode>,
    /// What this machine could not give.
    #[serde(default)]
    pub(crate) warnings: Vec<String>,
}

/// Where in its life a sandbox is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    Created,
    Starting,
    Running { started_at: SystemTime },
    Paused { started_at: SystemTime },
    Stopped { cause: StopCause, at: SystemTime },
}

impl Record {
    pub(crate) fn new(phase: Phase) -> Self {
        Self {
            phase,
            shim: None,
            init: None,
            cgroups: Vec::new(),
            accel: None,
            start: None,
            warnings: Vec::new(),
        }
    }
}

/// meta.json: what the specification became on this machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) identity: Identity,
    pub(crate) image: ImageMeta,
    /// What could not be given when it was made.
    #[serde(default)]
    pub(crate) warnings: Vec<String>,
}

/// Who the ids inside are outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Identity {
    /// Made by root: ids 0 to size-1 inside are base to base+size-1 outside, a range no other sandbox has.
    Mapped { base: u32, size: u32 },
    /// Made by an ordinary user with subordinate ids: 0 is the user, 1 and on are the ranges. All sandboxes of that user share
    /// them.
    Ranged { uid_base: u32, gid_base: u32, count: u32 },
    /// Made by an ordinary user without subordinate ids: 0 is the user and there are no others.
    Single,
    /// Made by the root of a user namespace that is not the machine's own: the ids are the same inside and outside.
    Inherited { size: u32 },
}

impl Identity {
    /// How many ids there are inside.
    pub(crate) fn size(&self) -> u32 {
        match self {
            Self::Mapped { size, .. } | Self::Inherited { size } => *size,
            Self::Ranged { count, .. } => count.saturating_add(1),
            Self::Single => 1,
        }
    }

    /// What the shim, once in the right user namespace, has to use for id 0 inside when it makes files.
    pub(crate) fn root_outside(&self) -> u32 {
        match self {
            Self::Mapped { base, .. } => *base,
            Self::Ranged { .. } | Self::Single | Self::Inherited { .. } => 0,
        }
    }
}

/// The image as it is used.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ImageMeta {
    /// Overlays to mount, the root first.
    pub(crate) layers: Vec<Layer>,
    /// The image's own environment, `K=V`.
    #[serde(default)]
    pub(crate) env: Vec<String>,
    /// The image's login user, as the image names it.
    #[serde(default)]
    pub(crate) user: Option<String>,
    /// The image's working directory.
    #[serde(default)]
    pub(crate) working_dir: Option<String>,
}

/// One read-only directory below one overlay.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Layer {
    pub(crate) source: PathBuf,
    /// Relative to the root, empty for the root itself.
    pub(crate) target: String,
    pub(crate) owner: LayerOwner,
}

/// Whether a layer's owners need translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LayerOwner {
    /// Owned by the ids the image names: needs an id-mapped mount where the sandbox has a range of its own.
    Literal,
    /// Made by the shim, owned by the sandbox's ids.
    Sandbox,
}

/// Writes `value` beside `path` and renames it into place. Not forced to the disk: what a sandbox is doing does not outlive a
/// crash of the machine anyway.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let fresh = path.with_extension(format!("new.{}", std::process::id()));
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(&serde_json::to_vec_pretty(value)?)?;
    drop(file);
    fs::rename(&fresh, path)
}

/// Reads what [`write_json`] wrote.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    if fs::metadata(path)?.len() > MAX_RECORD {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the record is too large"));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}
