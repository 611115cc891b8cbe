//! The task that carries one recording to its file.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use sandgate_record::Head;
use sandgate_store::RecordingEnd;

use super::recorder::Recorder;

/// How long something waits for more before it is written. A killed gateway loses that much, and must not lose more than a second.
const GATHER: Duration = Duration::from_millis(250);
/// How long one write may take. A disk that hangs for longer is taken for one that cannot be written.
const STALLED: Duration = Duration::from_secs(10);

pub(super) struct Writer {
    pub(super) recorder: Recorder,
    pub(super) file: Arc<File>,
    /// Written so far.
    pub(super) bytes: u64,
    /// Most that may be written.
    pub(super) most: u64,
    /// The last link that was written.
    pub(super) head: Head,
    /// Ends the session when it cannot be recorded.
    pub(super) end: Option<Box<dyn FnOnce() + Send>>,
}

impl Writer {
    /// Writes until the recording has ended or cannot be written; gives what was written, and why that is not all.
    pub(super) async fn run(mut self) -> (RecordingEnd, Option<String>) {
        let failure = loop {
            self.recorder.some(GATHER).await;
            let taken = self.recorder.take();
            if taken.failed {
                break Some("the disk does not keep up".to_owned());
            }
            // What was written before a failure is good up to its last link.
            let length = taken.bytes.len() as u64;
            if self.bytes.saturating_add(length) > self.most {
                break Some(format!("it has reached its limit of {} bytes", self.most));
            }
            let bytes = taken.bytes;
            let file = self.file.clone();
            let mut write = tokio::task::spawn_blocking(move || (&*file).write_all(&bytes));
            let written = tokio::select! {
                written = &mut write => written,
                () = is_stuck(self.recorder.clone()) => {
                    self.give_up();
                    // What is noted of the file is true all the same.
                    write.await
                }
            };
            match written {
                Ok(Ok(())) => {}
                Ok(Err(error)) => break Some(error.to_string()),
                Err(_) => break Some("the write broke off".to_owned()),
            }
            self.bytes = self.bytes.saturating_add(length);
            self.head = taken.head;
            if taken.last {
                break None;
            }
        };
        if failure.is_some() {
            self.give_up();
        }
        // Before its end is noted elsewhere: after a power cut the file must not be shorter than what was noted.
        let file = self.file.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || file.sync_data()).await {
            tracing::warn!(recording = self.recorder.id(), %error, "a recording could not be synchronized to the disk");
        }
        let Head { count, sha256 } = self.head;
        let end = RecordingEnd {
            bytes: self.bytes,
            chain_count: count,
            chain_head: sha256,
            complete: failure.is_none(),
        };
        (end, failure)
    }

    fn give_up(&mut self) {
        self.recorder.fail();
        if let Some(end) = self.end.take() {
            end();
        }
    }
}

/// Resolves when a write takes too long, or too much waits for it.
async fn is_stuck(recorder: Recorder) {
    let _ = tokio::time::timeout(STALLED, recorder.failed()).await;
}
