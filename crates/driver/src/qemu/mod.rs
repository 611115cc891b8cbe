//! The qemu driver: a virtual machine per sandbox, without a network.
//!
//! QEMU's `microvm` runs the distribution's kernel with an initramfs of ours, whose init is the guest agent. The machine has disks, a serial
//! console that only writes, and a vsock device, and nothing else. All of it is started and watched by the sandbox's shim
//! (`crate::shim::vm`).

mod dial;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sandgate_guest::Dial;
use serde::{Deserialize, Serialize};

use crate::supervised::{Change, Config, Kind, Supervised};
use crate::{Driver, DriverError, InvalidSpec, Network, Progress, SandboxId, SandboxSpec, State, Usage};

pub(crate) use dial::MachineDial;

const NAME: &str = "qemu";

/// The vsock port on which the agent of a machine listens.
pub(crate) const AGENT_PORT: u32 = 1024;

/// Where the driver keeps things and which programs it starts.
#[derive(Debug, Clone)]
pub struct QemuConfig {
    /// The data directory; `sandboxes`, `images`, `agents` and `machines` below it belong to the driver.
    pub data_dir: PathBuf,
    /// The static agent binary.
    pub agent_path: PathBuf,
    /// The program that is the shim when its arguments begin with `shim`; `/proc/self/exe` in the gateway.
    pub shim_exe: PathBuf,
    /// How long a started machine's agent may take to answer.
    pub ready_timeout: Duration,
    /// How machines are made.
    pub machine: MachineSettings,
}

/// How machines are made on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSettings {
    /// The kernel; by default the newest in /boot, with `cloud` in its name before others.
    #[serde(default)]
    pub kernel: Option<PathBuf>,
    /// The program `qemu-system-x86_64`; by default from the search path.
    #[serde(default)]
    pub qemu: Option<PathBuf>,
    /// The program `vhost-device-vsock`; by default from the search path.
    #[serde(default)]
    pub vhost_device_vsock: Option<PathBuf>,
    /// Whether machines are copies of one that has booted before.
    #[serde(default)]
    pub start: StartMode,
    /// Who is to run machines' processors.
    #[serde(default)]
    pub accel: AccelMode,
}

/// Who is to run machines' processors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccelMode {
    /// KVM where it runs the kernel, which is tried once; QEMU in software elsewhere.
    #[default]
    Auto,
    /// KVM, without trying. Where that does not work, machines do not start.
    Kvm,
    /// QEMU in software.
    Tcg,
}

/// Who runs a virtual machine's processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// The host's processor, by the host's kernel.
    Kvm,
    /// QEMU in software.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// How a machine comes up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartMode {
    /// As a copy of one that has booted, which is made when it is missing.
    #[default]
    Warm,
    /// By booting.
    Cold,
}

impl fmt::Display for StartMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warm => "warm",
            Self::Cold => "cold",
        })
    }
}

impl QemuConfig {
    /// A configuration whose shim is this very program and whose agent must answer within 60 seconds: software emulation takes its time.
    pub fn new(data_dir: impl Into<PathBuf>, agent_path: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            agent_path: agent_path.into(),
            shim_exe: PathBuf::from("/proc/self/exe"),
            ready_timeout: Duration::from_secs(60),
            machine: MachineSettings::default(),
        }
    }
}

/// Makes sandboxes as virtual machines.
#[derive(Debug, Clone)]
pub struct QemuDriver {
    work: Supervised,
}

impl QemuDriver {
    /// Prepares the data directory and installs the agent binary in it. Does not look for QEMU or a kernel: who makes no machine needs none.
    ///
    /// # Errors
    /// [`DriverError::Io`] where the directory cannot be made or the agent cannot be read.
    pub fn new(config: QemuConfig) -> Result<Self, DriverError> {
        let QemuConfig { data_dir, agent_path, shim_exe, ready_timeout, machine } = config;
        let kind = Kind::Machine(machine);
        Ok(Self { work: Supervised::new(Config { data_dir, agent_path, shim_exe, ready_timeout, kind })? })
    }
}

/// What a machine cannot have.
fn check(spec: &SandboxSpec) -> Result<(), InvalidSpec> {
    let pointless = [
        (spec.pids.is_some(), "a process limit: its kernel is its own"),
        (!spec.mounts.is_empty(), "mounts: it shares no files with the host"),
        (spec.network != Network::default(), "a network"),
        (spec.runtime != crate::Runtime::default(), "a runtime"),
    ];
    match pointless.into_iter().find(|(asked, _)| *asked) {
        Some((_, what)) => Err(InvalidSpec::Pointless { driver: NAME, what }),
        None => Ok(()),
    }
}

#[async_trait]
impl Driver for QemuDriver {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn create(&self, spec: &SandboxSpec, progress: &dyn Progress) -> Result<(), DriverError> {
        check(spec)?;
        self.work.create(spec, progress).await
    }

    async fn start(&self, id: &SandboxId, progress: &dyn Progress) -> Result<(), DriverError> {
        self.work.start(id, progress).await
    }

    async fn stop(&self, id: &SandboxId, grace: Duration) -> Result<(), DriverError> {
        self.work.stop(id, grace).await
    }

    async fn pause(&self, id: &SandboxId) -> Result<(), DriverError> {
        self.work.change(id, Change::Pause).await
    }

    async fn resume(&self, id: &SandboxId) -> Result<(), DriverError> {
        self.work.change(id, Change::Resume).await
    }

    async fn remove(&self, id: &SandboxId) -> Result<(), DriverError> {
        self.work.remove(id).await
    }

    async fn inspect(&self, id: &SandboxId) -> Result<State, DriverError> {
        self.work.inspect(id).await
    }

    async fn usage(&self, id: &SandboxId) -> Option<Usage> {
        self.work.usage(id).await
    }

    async fn login_user(&self, id: &SandboxId) -> Result<Option<String>, DriverError> {
        self.work.login_user(id).await
    }

    fn link(&self, id: &SandboxId) -> Arc<dyn Dial> {
        self.work.link(id)
    }
}
