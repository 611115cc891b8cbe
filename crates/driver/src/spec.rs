//! What a sandbox is made of, as data that is stored with it.

mod image;

use std::ffi::OsStr;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::{Accelerator, AdoptTarget, External, SandboxId, StartMode};

pub use image::{ImageName, ImageSource};

/// Memory limit in bytes where the specification names none: enough for a compiler, small enough that a hog does not hurt the
/// host.
pub const DEFAULT_MEMORY_BYTES: u64 = 1 << 30;

/// Memory of a virtual machine in bytes where the specification names none.
pub const DEFAULT_VM_MEMORY_BYTES: u64 = 512 << 20;

/// Size in bytes of a virtual machine's disk where the specification names none. It takes room only as it is written.
pub const DEFAULT_DISK_BYTES: u64 = 4 << 30;

/// Smallest disk in bytes that holds a file system and something to write.
const MIN_DISK_BYTES: u64 = 16 << 20;

/// Largest disk in bytes.
const MAX_DISK_BYTES: u64 = 16 << 40;

/// Limit of processes and threads where the specification names none: a build fits, a fork bomb stays harmless.
pub const DEFAULT_PIDS: u64 = 1024;

/// Smallest memory limit in bytes that leaves room for the agent and a shell.
const MIN_MEMORY_BYTES: u64 = 16 << 20;

/// Smallest process limit that leaves room for the agent and a shell.
const MIN_PIDS: u64 = 16;

/// Upper bound of `env` and of `mounts`, so that a request cannot make a bundle of any size.
const MAX_LIST: usize = 256;

/// Everything needed to make a sandbox. Stored as `spec.json` in its directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Its identity; never reused while its directory exists.
    pub id: SandboxId,
    /// The host name inside, and what its owner calls it.
    pub name: String,
    /// Who makes the container.
    #[serde(default)]
    pub runtime: Runtime,
    /// Where the root file system comes from.
    #[serde(default)]
    pub image: ImageSource,
    /// Login user inside. With the `host` image the user is created (uid 1000) if the name is not `root`; other images must
    /// have it in their passwd file. `None` means the image's configured user, else root inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Memory limit in bytes; `None` means [`DEFAULT_MEMORY_BYTES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// CPU limit in cores, for example 0.5; `None` means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Limit of processes and threads; `None` means [`DEFAULT_PIDS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Size in bytes of what a virtual machine can write; `None` means [`DEFAULT_DISK_BYTES`]. Other drivers do not limit it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// The kernel of a virtual machine, by its absolute path; `None` means the one that the host's operator has chosen. Other drivers
    /// have no use for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// Environment of the agent, which every session inherits, after the image's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<(String, String)>,
    /// Host directories and files that the owner shares with the sandbox.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<BindMount>,
    /// What of the network the sandbox sees.
    #[serde(default)]
    pub network: Network,
    /// How an agent that is there already is reached; for the driver `external` and for no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<External>,
    /// A container that is there already; for the driver `docker` and for no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<AdoptTarget>,
}

impl SandboxSpec {
    /// A specification with every default: the host image, the built-in runtime, no network.
    pub fn new(id: SandboxId, name: impl Into<String>) -> Self {
        Self {
            id,
            name: name.into(),
            runtime: Runtime::default(),
            image: ImageSource::default(),
            user: None,
            memory_bytes: None,
            cpus: None,
            pids: None,
            disk_bytes: None,
            kernel: None,
            env: Vec::new(),
            mounts: Vec::new(),
            network: Network::default(),
            external: None,
            adopt: None,
        }
    }

    /// Checks what can be checked without looking at the machine.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        let label = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if self.name.is_empty() || self.name.len() > 63 || !self.name.bytes().all(label) {
            return Err(InvalidSpec::Name(self.name.clone()));
        }
        if let Some(user) = &self.user
            && !is_user_name(user)
        {
            return Err(InvalidSpec::User(user.clone()));
        }
        if self.memory_bytes.is_some_and(|bytes| bytes < MIN_MEMORY_BYTES || i64::try_from(bytes).is_err()) {
            return Err(InvalidSpec::Memory);
        }
        if self.cpus.is_some_and(|cpus| !(0.01..=4096.0).contains(&cpus)) {
            return Err(InvalidSpec::Cpus);
        }
        if self.pids.is_some_and(|pids| pids < MIN_PIDS || i64::try_from(pids).is_err()) {
            return Err(InvalidSpec::Pids);
        }
        if self.disk_bytes.is_some_and(|bytes| !(MIN_DISK_BYTES..=MAX_DISK_BYTES).contains(&bytes)) {
            return Err(InvalidSpec::Disk);
        }
        if let Some(kernel) = self.kernel.as_ref().filter(|path| !is_plain(path)) {
            return Err(InvalidSpec::Kernel(kernel.display().to_string()));
        }
        if self.env.len() > MAX_LIST || self.mounts.len() > MAX_LIST {
            return Err(InvalidSpec::TooMany);
        }
        for (key, value) in &self.env {
            if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
                return Err(InvalidSpec::Env(key.clone()));
            }
        }
        self.external.as_ref().map_or(Ok(()), External::validate)?;
        self.mounts.iter().try_for_each(BindMount::validate)
    }
}

/// What useradd accepts, so that no name can break the format of /etc/passwd.
fn is_user_name(name: &str) -> bool {
    let first = |b: u8| b.is_ascii_lowercase() || b == b'_';
    let rest = |b: u8| first(b) || b.is_ascii_digit() || b == b'-';
    name.len() <= 32 && name.bytes().next().is_some_and(first) && name.bytes().all(rest)
}

/// Whether a path says by itself where it leads, but for links.
fn is_plain(path: &Path) -> bool {
    path.is_absolute() && path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
}

/// Why a specification was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSpec {
    /// Not a host name.
    #[error("the name {0:?} is not 1 to 63 letters, digits, '-', '_' and '.'.")]
    Name(String),
    /// Not a Unix user name.
    #[error("{0:?} is not a user name.")]
    User(String),
    /// Too little memory or too much to say.
    #[error("the memory limit is below 16 MiB or not a number of bytes.")]
    Memory,
    /// Not a number of cores.
    #[error("the cpu limit is not between 0.01 and 4096 cores.")]
    Cpus,
    /// Too few processes.
    #[error("the process limit is below 16.")]
    Pids,
    /// Too small or too large a disk.
    #[error("the disk is not between 16 MiB and 16 TiB.")]
    Disk,
    /// A kernel that could be another file, depending on where somebody stands.
    #[error("the kernel {0:?} is not an absolute path without \"..\".")]
    Kernel(String),
    /// More than 256 variables or mounts.
    #[error("there are more than 256 variables or mounts.")]
    TooMany,
    /// A malformed variable.
    #[error("the environment variable {0:?} is malformed.")]
    Env(String),
    /// A malformed mount.
    #[error(
        "the mount {0:?} is not HOST:GUEST or HOST:GUEST:ro with absolute paths, or its place is reserved."
    )]
    Mount(String),
    /// A malformed network.
    #[error("the network {0:?} is neither \"none\" nor \"host\".")]
    Network(String),
    /// A way to an agent that cannot be.
    #[error("the link {link:?} cannot be used: {reason}.")]
    Link {
        /// As it was written, cut short.
        link: String,
        /// What is wrong, without a final full stop.
        reason: &'static str,
    },
    /// A container that cannot be meant.
    #[error("{target:?} cannot be adopted: {reason}.")]
    Adopt {
        /// As it was written, cut short.
        target: String,
        /// What is wrong, without a final full stop.
        reason: &'static str,
    },
    /// Something that this driver has no use for.
    #[error("the driver {driver} has no use for {what}.")]
    Pointless {
        /// The driver.
        driver: &'static str,
        /// What was asked for.
        what: &'static str,
    },
    /// The driver needs something more.
    #[error("the driver {driver} needs {what}.")]
    Missing {
        /// The driver.
        driver: &'static str,
        /// What it needs.
        what: &'static str,
    },
    /// Neither `host`, nor a path, nor the name of an image.
    #[error(
        "the image {0:?} is not \"host\", a path that begins with '/' or '.', or a name such as debian:12 or host:5000/team/box@sha256:…."
    )]
    Image(String),
    /// An empty word.
    #[error("{0} must not be empty.")]
    Empty(&'static str),
}

/// Who makes the container from the bundle. As text: `builtin`, `runc`, `crun`, `runsc`, or the path of a program that has
/// runc's command line.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Runtime {
    /// libcontainer, in the shim.
    #[default]
    Builtin,
    /// `runc` from the search path.
    Runc,
    /// `crun` from the search path.
    Crun,
    /// gVisor's `runsc` from the search path. The agent is reached through its stdin and stdout.
    Runsc,
    /// Any program with runc's command line; a file name beginning with `runsc` is treated as gVisor.
    Path(PathBuf),
}

impl Runtime {
    /// Whether this is gVisor, in which no descriptor can be inherited and the link is the agent's stdio.
    pub fn is_gvisor(&self) -> bool {
        match self {
            Self::Runsc => true,
            Self::Path(path) => {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("runsc"))
            }
            Self::Builtin | Self::Runc | Self::Crun => false,
        }
    }

    /// The program to run, or `None` for the built-in runtime.
    pub fn program(&self) -> Option<&Path> {
        match self {
            Self::Builtin => None,
            Self::Runc => Some(Path::new("runc")),
            Self::Crun => Some(Path::new("crun")),
            Self::Runsc => Some(Path::new("runsc")),
            Self::Path(path) => Some(path),
        }
    }
}

impl FromStr for Runtime {
    type Err = InvalidSpec;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "" => return Err(InvalidSpec::Empty("the runtime")),
            "builtin" => Self::Builtin,
            "runc" => Self::Runc,
            "crun" => Self::Crun,
            "runsc" => Self::Runsc,
            path => Self::Path(path.into()),
        })
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.program() {
            None => f.write_str("builtin"),
            Some(program) => write!(f, "{}", program.display()),
        }
    }
}

impl TryFrom<String> for Runtime {
    type Error = InvalidSpec;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Runtime> for String {
    fn from(runtime: Runtime) -> Self {
        runtime.to_string()
    }
}

/// A host directory or file that is visible inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindMount {
    /// Absolute path on the host.
    pub host: PathBuf,
    /// Absolute path inside.
    pub guest: PathBuf,
    /// Whether the sandbox may write.
    pub access: MountAccess,
}

impl BindMount {
    fn validate(&self) -> Result<(), InvalidSpec> {
        let refuse = || InvalidSpec::Mount(format!("{}:{}", self.host.display(), self.guest.display()));
        // A mount over these would replace what the runtime itself mounts there.
        let reserved = ["proc", "sys", "dev", ".sandgate"];
        let first = self.guest.components().nth(1);
        let takes_reserved = match first {
            Some(Component::Normal(name)) => reserved.iter().any(|r| OsStr::new(r) == name),
            _ => true,
        };
        if is_plain(&self.host) && is_plain(&self.guest) && !takes_reserved { Ok(()) } else { Err(refuse()) }
    }
}

impl FromStr for BindMount {
    type Err = InvalidSpec;

    /// Parses `HOST:GUEST` or `HOST:GUEST:ro`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || InvalidSpec::Mount(text.to_owned());
        let mut parts = text.split(':');
        let (Some(host), Some(guest), access, None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(refuse());
        };
        let access = match access {
            None | Some("rw") => MountAccess::ReadWrite,
            Some("ro") => MountAccess::ReadOnly,
            Some(_) => return Err(refuse()),
        };
        let mount = Self { host: host.into(), guest: guest.into(), access };
        mount.validate().map_err(|_| refuse())?;
        Ok(mount)
    }
}

/// Whether a mount can be written from inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountAccess {
    /// Reads only, for root inside too.
    ReadOnly,
    /// Reads and writes, as far as the mapped uid may on the host.
    ReadWrite,
}

/// What of the network the sandbox sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// Its own loopback and nothing else.
    #[default]
    None,
    /// The host's network namespace: every address the host can reach, its loopback services and its abstract Unix sockets.
    Host,
}

impl FromStr for Network {
    type Err = InvalidSpec;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "host" => Ok(Self::Host),
            other => Err(InvalidSpec::Network(other.to_owned())),
        }
    }
}

/// What a sandbox is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// Made and never started.
    Created,
    /// A shim is bringing it up.
    Starting,
    /// The agent runs.
    Running {
        /// Process id of the agent (of the runtime's sandbox process with gVisor; of the program of an `exec:` link), as the host
        /// sees it; 0 where it is no process of this machine.
        pid: u32,
        /// When the container was started.
        started_at: SystemTime,
        /// Who runs the processors of a virtual machine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        accel: Option<Accelerator>,
        /// How a virtual machine came up.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        start: Option<StartMode>,
        /// What this machine could not give it, one sentence each.
        warnings: Vec<String>,
    },
    /// It was halted and keeps its memory.
    Paused {
        /// When it was started.
        started_at: SystemTime,
    },
    /// It ran, and ended.
    Stopped {
        /// Why.
        cause: StopCause,
        /// When; for a sandbox whose shim was killed, when that was noticed.
        at: SystemTime,
    },
}

/// Why a sandbox is not running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
pub enum StopCause {
    /// Somebody asked for it.
    Requested,
    /// The agent ended by itself with this code.
    Exited {
        /// Exit code of the agent.
        code: i32,
    },
    /// The agent was ended by a signal nobody here sent.
    Killed {
        /// Signal number.
        signal: i32,
        /// Whether the memory limit was hit meanwhile.
        out_of_memory: bool,
    },
    /// The shim ended without a word (it was killed, or the machine went down).
    Lost,
    /// It ended, and who runs it says how: a container engine.
    Ended {
        /// The sentence, without a final full stop.
        reason: String,
    },
    /// Its agent does not answer; its own machine says why.
    Unreachable {
        /// What the last attempt met, without a final full stop.
        reason: String,
    },
    /// It did not come up.
    StartFailed {
        /// What the shim reported, without a final full stop.
        reason: String,
    },
}

impl fmt::Display for StopCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested => f.write_str("stopped on request"),
            Self::Exited { code } => write!(f, "its agent exited with code {code}"),
            Self::Killed { signal, out_of_memory: false } => {
                write!(f, "its agent was killed by signal {signal}")
            }
            Self::Killed { signal, out_of_memory: true } => {
                write!(f, "its agent was killed by signal {signal} after the memory limit was hit")
            }
            Self::Lost => f.write_str("its supervisor was killed or the machine went down"),
            Self::Ended { reason } => f.write_str(reason),
            Self::Unreachable { reason } => write!(f, "its agent cannot be reached: {reason}"),
            Self::StartFailed { reason } => write!(f, "it did not start: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> SandboxSpec {
        SandboxSpec::new("a".parse().unwrap(), "demo")
    }

    #[test]
    fn a_spec_survives_json() {
        let mut before = spec();
        before.runtime = Runtime::Path("/opt/runsc".into());
        before.image = ImageSource::Path("/images/x.tar".into());
        before.cpus = Some(0.5);
        before.mounts = vec!["/src:/src:ro".parse().unwrap()];
        let after: SandboxSpec = serde_json::from_str(&serde_json::to_string(&before).unwrap()).unwrap();
        assert_eq!(before, after);
        let least: SandboxSpec = serde_json::from_str(r#"{"id":"a","name":"demo"}"#).unwrap();
        assert_eq!(least, spec());
    }

    #[test]
    fn mounts_that_reach_too_far_are_refused() {
        for bad in [
            "a:b",
            "/a",
            "/a:/",
            "/a:/proc/x",
            "/a:/dev",
            "/a:/b/../c",
            "/a:/b:rx",
            "/a:/b:ro:x",
            "/a/../b:/c",
        ] {
            assert!(bad.parse::<BindMount>().is_err(), "{bad}");
        }
        let good: BindMount = "/a:/b:ro".parse().unwrap();
        assert_eq!(good.access, MountAccess::ReadOnly);
    }

    #[test]
    fn a_spec_that_could_break_the_bundle_is_refused() {
        let broken: [fn(&mut SandboxSpec); 10] = [
            |s| s.name = "a\nb".into(),
            |s| s.name = String::new(),
            |s| s.user = Some("root:x".into()),
            |s| s.memory_bytes = Some(1),
            |s| s.cpus = Some(f64::NAN),
            |s| s.pids = Some(1),
            |s| s.kernel = Some("boot/vmlinuz".into()),
            |s| s.kernel = Some("/boot/../vmlinuz".into()),
            |s| s.env = vec![("A=B".into(), String::new())],
            |s| s.env = vec![("A".into(), "\0".into())],
        ];
        assert_eq!(spec().validate(), Ok(()));
        for (index, breaks) in broken.iter().enumerate() {
            let mut changed = spec();
            breaks(&mut changed);
            assert!(changed.validate().is_err(), "case {index}");
        }
    }
}
