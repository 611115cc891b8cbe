//! A driver without sandboxes: it counts what it is asked to do.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use parking_lot::Mutex;
use sandgate_driver::{Driver, DriverError, Progress, SandboxId, SandboxSpec, State, StopCause};
use sandgate_guest::{BoxFuture, Dial, Link};

/// How long a start takes.
const START: Duration = Duration::from_millis(50);

#[derive(Default)]
pub struct FakeDriver {
    states: Mutex<HashMap<SandboxId, State>>,
    /// Starts that were begun.
    pub starts: AtomicUsize,
    /// Why starts fail, if they are to.
    pub refuses: Mutex<Option<String>>,
}

#[async_trait]
impl Driver for FakeDriver {
    fn name(&self) -> &'static str {
        "oci"
    }

    async fn create(&self, spec: &SandboxSpec, _progress: &dyn Progress) -> Result<(), DriverError> {
        if spec.name == "unmakeable" {
            return Err(DriverError::Image { image: "x".into(), reason: "it is a fake".into() });
        }
        self.states.lock().insert(spec.id.clone(), State::Created);
        Ok(())
    }

    async fn start(&self, id: &SandboxId, progress: &dyn Progress) -> Result<(), DriverError> {
        self.starts.fetch_add(1, Ordering::SeqCst);
        progress.step("pretending");
        tokio::time::sleep(START).await;
        if let Some(reason) = self.refuses.lock().clone() {
            return Err(DriverError::StartFailed { id: id.clone(), reason });
        }
        let running = State::Running {
            pid: 1,
            started_at: SystemTime::now(),
            accel: None,
            start: None,
            warnings: vec!["no limits".into()],
        };
        self.states.lock().insert(id.clone(), running);
        Ok(())
    }

    async fn stop(&self, id: &SandboxId, _grace: Duration) -> Result<(), DriverError> {
        let stopped = State::Stopped { cause: StopCause::Requested, at: SystemTime::now() };
        self.states.lock().insert(id.clone(), stopped);
        Ok(())
    }

    async fn remove(&self, id: &SandboxId) -> Result<(), DriverError> {
        self.states.lock().remove(id).map(drop).ok_or_else(|| DriverError::NotFound(id.clone()))
    }

    async fn inspect(&self, id: &SandboxId) -> Result<State, DriverError> {
        self.states.lock().get(id).cloned().ok_or_else(|| DriverError::NotFound(id.clone()))
    }

    async fn login_user(&self, _id: &SandboxId) -> Result<Option<String>, DriverError> {
        Ok(None)
    }

    fn link(&self, _id: &SandboxId) -> Arc<dyn Dial> {
        Arc::new(Nobody)
    }
}

struct Nobody;

impl Dial for Nobody {
    fn dial(&self) -> BoxFuture<'_, io::Result<Link>> {
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }
}
