//! The OCI driver: one directory, one bundle and one shim process per sandbox.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sandgate_guest::{Dial, Link};

use crate::{Driver, DriverError, Progress, SandboxId, SandboxSpec, State};

/// Where the driver keeps things and which programs it starts.
#[derive(Debug, Clone)]
pub struct OciConfig {
    /// The data directory; `sandboxes`, `images` and `agents` below it belong to the driver.
    pub data_dir: PathBuf,
    /// The static agent binary.
    pub agent_path: PathBuf,
    /// The program that is the shim when its arguments begin with `shim`; `/proc/self/exe` in the gateway.
    pub shim_exe: PathBuf,
    /// How long a started container's agent may take to answer.
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
    config: Arc<OciConfig>,
}

impl OciDriver {
    /// Prepares the data directory and installs the agent binary in it.
    ///
    /// # Errors
    /// [`DriverError::Io`] where the directory cannot be made or the agent cannot be read.
    pub fn new(config: OciConfig) -> Result<Self, DriverError> {
        Ok(Self { config: Arc::new(config) })
    }
}

#[async_trait]
impl Driver for OciDriver {
    fn name(&self) -> &'static str {
        "oci"
    }

    async fn create(&self, spec: &SandboxSpec, _progress: &dyn Progress) -> Result<(), DriverError> {
        spec.validate()?;
        Err(DriverError::Unsupported("the driver is being written".into()))
    }

    async fn start(&self, id: &SandboxId, _progress: &dyn Progress) -> Result<(), DriverError> {
        Err(DriverError::NotFound(id.clone()))
    }

    async fn stop(&self, id: &SandboxId, _grace: Duration) -> Result<(), DriverError> {
        Err(DriverError::NotFound(id.clone()))
    }

    async fn remove(&self, id: &SandboxId) -> Result<(), DriverError> {
        Err(DriverError::NotFound(id.clone()))
    }

    async fn inspect(&self, id: &SandboxId) -> Result<State, DriverError> {
        Err(DriverError::NotFound(id.clone()))
    }

    fn link(&self, id: &SandboxId) -> Arc<dyn Dial> {
        Arc::new(SocketDial {
            path: self.config.data_dir.join("sandboxes").join(id.as_str()).join("agent.sock"),
        })
    }
}

/// Dials the socket that the shim made.
#[derive(Debug)]
struct SocketDial {
    path: PathBuf,
}

impl Dial for SocketDial {
    fn dial(&self) -> sandgate_guest::BoxFuture<'_, std::io::Result<Link>> {
        Box::pin(async { Ok(Link::Unix(tokio::net::UnixStream::connect(&self.path).await?)) })
    }
}
