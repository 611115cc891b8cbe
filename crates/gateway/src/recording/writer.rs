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

pub(super) struct Writer {
    pub(super) recorder: Recorder,
    pub(super) file: Arc<File>,
    /// Written so far.
    pub(super) bytes: u64,
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
            let bytes = taken.bytes;
            let file = self.file.clone();
            match tokio::task::spawn_blocking(move || (&*file).write_all(&bytes)).await {
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
            self.recorder.fail();
            if let Some(end) = self.end.take() {
                end();
            }
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
}
