//! The OCI driver: Linux containers from an OCI bundle.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sandgate_guest::Dial;

use crate::supervised::{Config, Kind, Supervised};
use crate::{Driver, DriverError, Progress, SandboxId, SandboxSpec, State, Usage};

/// Where the driver keeps things and which programs it starts.
#[derive(Debug, Clone)]
pub struct OciConfig {
    /// The data directory; `sandboxes`, `images` and `agents` below it belong to the driver.
    pub data_dir: PathBuf,
    /// The static agent binary.
    pub agent_path: PathBuf,
    /// The program that is the shim when its arguments begin with `shim`; `/proc/self/exe` in the gateway.
    pub shim_exe: PathBuf,
    /// How long a started container's agent may take to answer. Zero means not to ask it.
    pub ready_timeout: Duration,
}

impl OciConfig {
    /// A configuration whose shim is this very program and whose agent must answer within 30 seconds.
    pub fn new(data_dir: impl Into<PathBuf>, agent_path: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            agent_path: agent_path.into(),
            shim_exe: PathBuf::from("/proc/self/exe"),
            ready_timeout: Duration::from_secs(30),
        }
    }
}

/// Makes sandboxes as Linux containers.
#[derive(Debug, Clone)]
pub struct OciDriver {
    work: Supervised,
}

impl OciDriver {
    /// Prepares the data directory and installs the agent binary in it.
    ///
    /// # Errors
    /// [`DriverError::Io`] where the directory cannot be made or the agent cannot be read.
    pub fn new(config: OciConfig) -> Result<Self, DriverError> {
        let OciConfig { data_dir, agent_path, shim_exe, ready_timeout } = config;
        let kind = Kind::Container;
        Ok(Self { work: Supervised::new(Config { data_dir, agent_path, shim_exe, ready_timeout, kind })? })
    }
}

#[async_trait]
impl Driver for OciDriver {
    fn name(&self) -> &'static str {
        self.work.name()
    }

    async fn create(&self, spec: &SandboxSpec, progress: &dyn Progress) -> Result<(), DriverError> {
        self.work.create(spec, progress).await
    }

    async fn start(&self, id: &SandboxId, progress: &dyn Progress) -> Result<(), DriverError> {
        self.work.start(id, progress).await
    }

    async fn stop(&self, id: &SandboxId, grace: Duration) -> Result<(), DriverError> {
        self.work.stop(id, grace).await
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
