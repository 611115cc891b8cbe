//! A program whose standard input and output lead to an agent: `docker exec -i`, `kubectl exec -i`, `ssh host`.
//!
//! One program carries every session of the sandbox, by stream ids (see `docs/wire.md`). It is a child of the gateway and ends with it: its
//! standard input is then at its end, upon which an agent with `--stdio` ends as well.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process_group};
use sandgate_guest::mux::MuxDial;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::StopCause;

/// How much of what the program prints on its standard error is kept, in bytes. A guest may be able to print through it.
const MAX_LOG: usize = 256 << 10;
/// How long after its end what it printed last is waited for: a descendant may hold its standard error for ever.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long the program may take to end after SIGTERM.
const TERM_PATIENCE: Duration = Duration::from_secs(2);

/// A program that runs, or has ended.
pub(super) struct Running {
    /// The way to the agent.
    pub(super) dial: Arc<MuxDial>,
    /// Its process id.
    pub(super) pid: u32,
    /// Since when.
    pub(super) started_at: SystemTime,
    end: watch::Receiver<Option<StopCause>>,
    stop: watch::Sender<Option<Duration>>,
}

impl Running {
    /// Starts it. Must be called inside a tokio runtime.
    pub(super) fn start(words: &[String], log: &Path) -> io::Result<Self> {
        let (program, args) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut child = Command::new(program)
            .args(args)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A Ctrl-C at the gateway's terminal is not meant for it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let (Some(stdin), Some(stdout), Some(stderr), Some(pid)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take(), child.id())
        else {
            return Err(io::Error::other("the program has no pipes"));
        };
        let log = File::from_std(std::fs::File::create(log)?);
        let dial = Arc::new(MuxDial::new(tokio::io::join(stdout, stdin)));
        let (ended, end) = watch::channel(None);
        let (stop, asked) = watch::channel(None);
        let log = tokio::spawn(keep_log(stderr, log));
        tokio::spawn(supervise(child, pid, log, dial.clone(), asked, ended));
        Ok(Self { dial, pid, started_at: SystemTime::now(), end, stop })
    }

    /// How it ended, once it has.
    pub(super) fn ended(&self) -> Option<StopCause> {
        self.end.borrow().clone()
    }

    /// Ends it: by the end of its input, after `grace` by SIGTERM, then by SIGKILL. Returns when it is gone.
    pub(super) async fn stop(&self, grace: Duration) {
        self.stop.send_replace(Some(grace));
        // The sender lives as long as the task that waits for the program.
        let _ = self.end.clone().wait_for(Option::is_some).await;
    }
}

async fn supervise(
    mut child: Child,
    pid: u32,
    log: JoinHandle<()>,
    dial: Arc<MuxDial>,
    mut asked: watch::Receiver<Option<Duration>>,
    ended: watch::Sender<Option<StopCause>>,
) {
    let request = async { asked.wait_for(Option::is_some).await.ok().and_then(|grace| *grace) };
    let cause = tokio::select! {
        status = child.wait() => cause(status),
        // Without anybody left to ask, it goes as well.
        grace = request => {
            end(&mut child, pid, &dial, grace.unwrap_or_default()).await;
            StopCause::Requested
        }
    };
    dial.close();
    // Whoever hears of the end reads the reason in the log.
    let _ = tokio::time::timeout(LAST_WORDS, log).await;
    ended.send_replace(Some(cause));
}

async fn end(child: &mut Child, pid: u32, dial: &MuxDial, grace: Duration) {
    dial.close();
    if tokio::time::timeout(grace, child.wait()).await.is_ok() {
        return;
    }
    let group = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let signal = |signal| group.map(|group| kill_process_group(group, signal));
    signal(Signal::TERM);
    if tokio::time::timeout(TERM_PATIENCE, child.wait()).await.is_ok() {
        return;
    }
    signal(Signal::KILL);
    if let Err(error) = child.wait().await {
        tracing::warn!(pid, %error, "the program of a link could not be waited for");
    }
}

fn cause(status: io::Result<std::process::ExitStatus>) -> StopCause {
    use std::os::unix::process::ExitStatusExt as _;

    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => StopCause::Exited { code },
            (None, signal) => StopCause::Killed { signal: signal.unwrap_or_default(), out_of_memory: false },
        },
        Err(_) => StopCause::Lost,
    }
}

/// Keeps the beginning of what the program prints, and goes on reading, so that it never waits for us.
async fn keep_log(mut from: ChildStderr, mut log: File) {
    let mut buffer = [0; 4096];
    let mut kept = 0;
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let room = n.min(MAX_LOG.saturating_sub(kept));
        kept += room;
        if room > 0 && (log.write_all(&buffer[..room]).await.is_err() || log.flush().await.is_err()) {
            kept = MAX_LOG;
        }
    }
}
