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
/// How long an attempt goes on that nobody waits for any more, while the machine could answer it.
const LONGEST: Duration = Duration::from_secs(60);
/// Attempts at once. A guest that never answers keeps out nobody but its own users.
const ATTEMPTS: usize = 64;

/// Dials the machine in a directory.
#[derive(Debug)]
pub(crate) struct MachineDial {
    dir: SandboxDir,
    attempts: Arc<Semaphore>,
    word: Word,
}

/// Who says that the machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// What its shim has written down.
    Record,
    /// Whoever dials.
    Caller,
}

impl MachineDial {
    /// For the gateway.
    pub(crate) fn new(dir: SandboxDir) -> Self {
        Self::by(Word::Record, dir)
    }

    /// For the shim, which knows that its machine runs even when it could not write that down.
    pub(crate) fn of_shim(dir: SandboxDir) -> Self {
        Self::by(Word::Caller, dir)
    }

    fn by(word: Word, dir: SandboxDir) -> Self {
        Self { dir, attempts: Arc::new(Semaphore::new(ATTEMPTS)), word }
    }

    async fn connect(dir: SandboxDir, word: Word) -> io::Result<Link> {
        if word == Word::Record {
            may_be_dialled(&dir)?;
        }
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

/// Refuses while nobody could answer. Before its machine is up the vsock device must be left alone: a connection may end its worker for ever
/// (`crate::shim::vm`).
fn may_be_dialled(dir: &SandboxDir) -> io::Result<()> {
    let refuse = |why: &str| Err(io::Error::new(ErrorKind::NotConnected, why));
    match read_json::<Record>(&dir.state()).map(|record| record.phase) {
        Ok(Phase::Starting) => refuse("the machine is starting"),
        Ok(Phase::Paused { .. }) => refuse("the machine is paused"),
        _ => Ok(()),
    }
}

fn is_paused(dir: &SandboxDir) -> bool {
    read_json::<Record>(&dir.state()).is_ok_and(|record| matches!(record.phase, Phase::Paused { .. }))
}

/// One attempt, which goes on when whoever asked has gone: `vhost-device-vsock` panics when it has an answer for a connection that is closed.
async fn connect_at_length(dir: SandboxDir, word: Word) -> io::Result<Link> {
    let mut connecting = std::pin::pin!(MachineDial::connect(dir.clone(), word));
    loop {
        match tokio::time::timeout(LONGEST, &mut connecting).await {
            Ok(connected) => return connected,
            // It answers when it goes on.
            Err(_) if is_paused(&dir) => {}
            Err(_) => return Err(ErrorKind::TimedOut.into()),
        }
    }
}

impl Dial for MachineDial {
    fn is_paused(&self) -> bool {
        is_paused(&self.dir)
    }

    fn dial(&self) -> BoxFuture<'_, io::Result<Link>> {
        let (dir, attempts, word) = (self.dir.clone(), self.attempts.clone(), self.word);
        Box::pin(async move {
            let attempt = async {
                // Whoever waits for a place here waits himself, so there are never more tasks than places.
                let one = attempts.acquire_owned().await.map_err(io::Error::other)?;
                let attempt = tokio::spawn(async move {
                    let _one = one;
                    connect_at_length(dir, word).await
                });
                attempt.await.map_err(io::Error::other)?
            };
            tokio::time::timeout(PATIENCE, attempt).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::state::{DataDir, write_json};

    #[tokio::test]
    async fn a_machine_that_does_not_run_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let machine = DataDir::new(dir.path()).sandbox(&"box".parse().unwrap());
        std::fs::create_dir_all(machine.vm()).unwrap();
        let listener = tokio::net::UnixListener::bind(machine.vm().join(VSOCK_SOCKET)).unwrap();
        // Answered by nobody: whoever gets through to it waits.
        let is_refused =
            async |dial: MachineDial| match tokio::time::timeout(Duration::from_millis(200), dial.dial())
                .await
            {
                Ok(Err(error)) => error.kind() == ErrorKind::NotConnected,
                _ => false,
            };
        let started_at = SystemTime::now();
        for (phase, refused) in [
            (Phase::Starting, true),
            (Phase::Paused { started_at }, true),
            (Phase::Running { started_at }, false),
        ] {
            write_json(&machine.state(), &Record::new(phase.clone())).unwrap();
            assert_eq!(is_refused(MachineDial::new(machine.clone())).await, refused, "{phase:?}");
            assert!(!is_refused(MachineDial::of_shim(machine.clone())).await, "{phase:?}");
        }
        drop(listener);
    }
}
