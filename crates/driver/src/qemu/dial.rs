//! The way to the agent of a machine: hybrid vsock, by a socket that the vsock device has made.
//!
//! The device serves a hostile guest and may be taken over by it. Its socket lies in a directory that it can write, so the name could lead
//! anywhere by the time we connect: only a socket that lies there itself, and that its user owns, is taken.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags, fstat, open, openat};
use sandgate_guest::{BoxFuture, Dial, Link};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use super::AGENT_PORT;
use crate::hybrid;
use crate::state::{Phase, Record, SandboxDir, VSOCK_SOCKET, read_json};

/// For one attempt, as its caller sees it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an attempt goes on that nobody waits for any more.
const LONGEST: Duration = Duration::from_secs(60);
/// Attempts at once. A guest that never answers keeps out nobody but its own users.
const ATTEMPTS: usize = 64;

/// Dials the machine in a directory.
#[derive(Debug)]
pub(crate) struct MachineDial {
    dir: SandboxDir,
    attempts: Arc<Semaphore>,
}

impl MachineDial {
    pub(crate) fn new(dir: SandboxDir) -> Self {
        Self { dir, attempts: Arc::new(Semaphore::new(ATTEMPTS)) }
    }

    async fn connect(dir: SandboxDir) -> io::Result<Link> {
        let dir = open(
            dir.vm(),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let owner = fstat(&dir)?.st_uid;
        let socket =
            openat(&dir, VSOCK_SOCKET, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let found = fstat(&socket)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::Socket || found.st_uid != owner {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "the machine's vsock device has no socket of its own",
            ));
        }
        // By this name the kernel takes what was looked at, and the path cannot be too long.
        let stream = UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await?;
        hybrid::handshake(stream, AGENT_PORT).await
    }
}

impl Dial for MachineDial {
    fn is_paused(&self) -> bool {
        read_json::<Record>(&self.dir.state())
            .is_ok_and(|record| matches!(record.phase, Phase::Paused { .. }))
    }

    fn dial(&self) -> BoxFuture<'_, io::Result<Link>> {
        let (dir, attempts) = (self.dir.clone(), self.attempts.clone());
        Box::pin(async move {
            // It goes on when whoever asked has gone: `vhost-device-vsock` panics when it has an answer for a connection that is closed.
            let attempt = async {
                // Whoever waits for a place here waits himself, so there are never more tasks than places.
                let one = attempts.acquire_owned().await.map_err(io::Error::other)?;
                let connecting = async move {
                    let _one = one;
                    Self::connect(dir).await
                };
                let attempt = tokio::spawn(tokio::time::timeout(LONGEST, connecting));
                attempt.await.map_err(io::Error::other)?.map_err(|_| io::Error::from(ErrorKind::TimedOut))?
            };
            tokio::time::timeout(PATIENCE, attempt).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
        })
    }
}
