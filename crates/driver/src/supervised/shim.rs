//! Starting shims and listening to what they say.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use super::{Inner, Part};
use crate::shim::message::{FailureKind, Message};
use crate::state::SandboxDir;
use crate::{DriverError, NoProgress, Progress, SandboxId, SandboxSpec};

/// Longest report of one shim, in bytes.
const MAX_REPORT: u64 = 1 << 20;

/// Longest answer of a shim to a question, in bytes.
const MAX_ANSWER: u64 = 1024;

/// Longest shim.log that is kept when a shim is started, in bytes.
const MAX_LOG: u64 = 1 << 20;

/// Runs a part of the shim and passes on what it reports; returns when it says that it is done.
pub(super) async fn call(
    inner: &Inner,
    id: &SandboxId,
    what: Part,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    let dir = inner.data.sandbox(id);
    let io = |action: &str| DriverError::io(format!("{action} the shim of {id}"));
    let mut child = Command::new(&inner.shim_exe)
        .args(["shim", inner.kind.word(what)])
        .arg(inner.data.root())
        .arg(id.as_str())
        .arg(&inner.agent)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log(&dir).map_err(io("open the log of"))?)
        .spawn()
        .map_err(io("start"))?;
    let report = child.stdout.take().ok_or_else(|| io("listen to")(ErrorKind::BrokenPipe.into()))?;
    let mut lines = BufReader::new(report.take(MAX_REPORT)).lines();
    let mut outcome = None;
    while let Some(line) = lines.next_line().await.map_err(io("listen to"))? {
        match serde_json::from_str::<Message>(&line) {
            Ok(Message::Step(text)) => progress.step(&text),
            Ok(Message::Warn(text)) => progress.warn(&text),
            Ok(Message::Failed { kind, reason }) => outcome = Some(Err(failure(&dir, id, kind, reason))),
            Ok(Message::Done) => outcome = Some(Ok(())),
            Err(error) => tracing::warn!(sandbox = %id, %error, "the shim said something unexpected"),
        }
        if outcome.is_some() {
            break;
        }
    }
    // `start` has ended already and left `run` behind; the others end now.
    let status = child.wait().await.map_err(io("wait for"))?;
    outcome.unwrap_or_else(|| {
        let reason = format!("its shim ended without a word ({status}); see {}", dir.shim_log().display());
        Err(DriverError::StartFailed { id: id.clone(), reason })
    })
}

fn failure(dir: &SandboxDir, id: &SandboxId, kind: FailureKind, reason: String) -> DriverError {
    let spec = || crate::state::read_json::<SandboxSpec>(&dir.spec()).ok();
    match kind {
        FailureKind::Image => DriverError::Image {
            image: spec().map(|spec| spec.image.to_string()).unwrap_or_default(),
            reason,
        },
        FailureKind::Runtime => DriverError::Runtime {
            runtime: spec().map(|spec| spec.runtime.to_string()).unwrap_or_default(),
            reason,
        },
        FailureKind::Kernel => DriverError::Kernel(reason),
        FailureKind::Machine => DriverError::Unsupported(reason),
        FailureKind::Other => DriverError::StartFailed { id: id.clone(), reason },
    }
}

fn log(dir: &SandboxDir) -> io::Result<File> {
    let path = dir.shim_log();
    if fs::metadata(&path).is_ok_and(|meta| meta.len() > MAX_LOG) {
        fs::remove_file(&path)?;
    }
    File::options().append(true).create(true).mode(0o600).open(path)
}

/// Removes a stopped sandbox's files and its directory. The caller holds the operation lock.
pub(super) async fn remove(inner: &Inner, id: &SandboxId) -> Result<(), DriverError> {
    let dir = inner.data.sandbox(id);
    if dir.meta().exists() {
        call(inner, id, Part::Remove, &NoProgress).await?;
    }
    let io = || DriverError::io(format!("remove {}", dir.root().display()));
    // Out of the way in one step, so that no half-removed sandbox is ever seen under its name.
    let grave = dir.root().with_file_name(format!(".removed-{id}-{}", std::process::id()));
    fs::rename(dir.root(), &grave).map_err(io())?;
    match fs::remove_dir_all(&grave) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io()(error)),
        _ => Ok(()),
    }
}

/// Asks a running shim to stop its sandbox; returns when it has answered or hung up.
pub(super) async fn ask_to_stop(dir: &SandboxDir, grace: Duration) -> io::Result<()> {
    let mut stream = super::connect(&dir.shim_socket()).await?;
    stream.write_all(format!("stop {}\n", grace.as_millis()).as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(64).read_to_end(&mut answer).await?;
    Ok(())
}

/// Asks a running shim for something else; returns its answer.
pub(super) async fn ask(dir: &SandboxDir, what: &str) -> io::Result<String> {
    let mut stream = super::connect(&dir.shim_socket()).await?;
    stream.write_all(format!("{what}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).trim().to_owned())
}
