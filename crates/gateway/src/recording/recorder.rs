//! What a session shows its recording to.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sandgate_record::{CastWriter, Direction, Head, TimelineWriter};
use tokio::sync::{Notify, watch};

/// Bytes of a recording that may wait for its file. A disk that is so far behind is taken for one that cannot be written.
const MOST_WAITING: usize = 4 * 1024 * 1024;
/// Bytes that are written at once, without waiting for more.
const ENOUGH: usize = 64 * 1024;

/// A recording that goes on. Nothing here waits for anything.
#[derive(Clone)]
pub struct Recorder(Arc<Shared>);

struct Shared {
    id: String,
    state: Mutex<State>,
    /// There is something to write.
    wake: Notify,
    /// It should be written now.
    hurry: Notify,
    failed: watch::Sender<bool>,
    started: Instant,
    /// Whether input is recorded in a cast.
    input: bool,
}

struct State {
    format: Format,
    /// Something came since the last write.
    dirty: bool,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Live,
    /// Its end is written, or waits to be.
    Ended,
    /// It could not be written.
    Failed,
}

/// The two formats.
pub(super) enum Format {
    Cast(Box<CastWriter>),
    Timeline(Box<TimelineWriter>),
}

impl Format {
    /// Closes what came so far with a link, and gives all that is to be written.
    pub(super) fn flush(&mut self, at: Duration) -> (Vec<u8>, Head) {
        match self {
            Format::Cast(cast) => {
                cast.flush(at);
                (cast.take(), cast.head().clone())
            }
            Format::Timeline(timeline) => {
                timeline.flush();
                (timeline.take(), timeline.head().clone())
            }
        }
    }

    fn waiting(&self) -> usize {
        match self {
            Format::Cast(cast) => cast.waiting(),
            Format::Timeline(timeline) => timeline.waiting(),
        }
    }
}

/// What a writer takes.
pub(super) struct Taken {
    pub(super) bytes: Vec<u8>,
    pub(super) head: Head,
    pub(super) last: bool,
    pub(super) failed: bool,
}

impl Recorder {
    pub(super) fn new(id: &str, format: Format, input: bool) -> Recorder {
        Recorder(Arc::new(Shared {
            id: id.to_owned(),
            state: Mutex::new(State { format, dirty: false, phase: Phase::Live }),
            wake: Notify::new(),
            hurry: Notify::new(),
            failed: watch::Sender::new(false),
            started: Instant::now(),
            input,
        }))
    }

    /// Identifier of the recording.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// `count` bytes at the start of `bufs` have passed.
    pub fn passed<'a>(
        &self,
        direction: Direction,
        bufs: impl IntoIterator<Item = &'a [u8]>,
        mut count: usize,
    ) {
        self.note(|format, at, input| {
            for buf in bufs {
                let Some(piece) = buf.get(..count.min(buf.len())).filter(|piece| !piece.is_empty()) else {
                    break;
                };
                count -= piece.len();
                match (&mut *format, direction) {
                    (Format::Cast(cast), Direction::Out | Direction::Err) => cast.output(at, piece),
                    (Format::Cast(cast), Direction::In) if input => cast.input(at, piece),
                    (Format::Cast(_), Direction::In) => {}
                    (Format::Timeline(timeline), direction) => timeline.data(at, direction, piece),
                }
            }
        });
    }

    /// The terminal has another size.
    pub fn resized(&self, cols: u32, rows: u32) {
        self.note(|format, at, _| {
            if let Format::Cast(cast) = format {
                cast.resize(at, cols, rows);
            }
        });
    }

    /// The session has ended. Only the first call counts.
    pub fn finish(&self, code: Option<u32>, outcome: &str) {
        {
            let at = self.0.started.elapsed();
            let mut state = self.0.state.lock();
            if state.phase != Phase::Live {
                return;
            }
            state.phase = Phase::Ended;
            match &mut state.format {
                Format::Cast(cast) => cast.finish(at, code, outcome),
                Format::Timeline(timeline) => timeline.finish(at, code, outcome),
            }
        }
        self.0.wake.notify_one();
        self.0.hurry.notify_one();
    }

    /// Resolves when the recording could not be written.
    pub async fn failed(&self) {
        // The sender lives as long as we.
        let _ = self.0.failed.subscribe().wait_for(|failed| *failed).await;
    }

    fn note(&self, what: impl FnOnce(&mut Format, Duration, bool)) {
        let (fresh, waiting) = {
            let mut state = self.0.state.lock();
            if state.phase != Phase::Live {
                return;
            }
            what(&mut state.format, self.0.started.elapsed(), self.0.input);
            (!std::mem::replace(&mut state.dirty, true), state.format.waiting())
        };
        if waiting > MOST_WAITING {
            self.fail();
        }
        if fresh {
            self.0.wake.notify_one();
        }
        if waiting > ENOUGH {
            self.0.hurry.notify_one();
        }
    }

    /// Gives the recording up.
    pub(super) fn fail(&self) {
        self.0.state.lock().phase = Phase::Failed;
        self.0.failed.send_replace(true);
        self.0.wake.notify_one();
        self.0.hurry.notify_one();
    }

    /// Waits until there is something to write, and a little for more.
    pub(super) async fn some(&self, gather: Duration) {
        self.0.wake.notified().await;
        // Either way the wait is over.
        let _ = tokio::time::timeout(gather, self.0.hurry.notified()).await;
    }

    /// What is to be written now.
    pub(super) fn take(&self) -> Taken {
        let mut state = self.0.state.lock();
        let (bytes, head) = state.format.flush(self.0.started.elapsed());
        // The next flush writes what is held back now, also when nothing more comes.
        state.dirty = matches!(&state.format, Format::Cast(cast) if cast.is_holding());
        if state.dirty {
            self.0.wake.notify_one();
        }
        Taken { bytes, head, last: state.phase == Phase::Ended, failed: state.phase == Phase::Failed }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

/// A recording whose session has not started yet; ends it, should that not come to pass.
pub(crate) struct Begun(Option<Recorder>);

impl Begun {
    pub(crate) fn new(recorder: Option<Recorder>) -> Begun {
        Begun(recorder)
    }

    /// The session has started, and ends its recording from now on.
    pub(crate) fn started(mut self) -> Option<Recorder> {
        self.0.take()
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(recorder) = &self.0 {
            recorder.finish(None, "not started");
        }
    }
}

/// The recording of a forwarded connection, which ends with it.
pub struct ForwardRecording {
    recorder: Recorder,
    required: bool,
}

impl ForwardRecording {
    pub(crate) fn new(recorder: Recorder, required: bool) -> ForwardRecording {
        ForwardRecording { recorder, required }
    }

    /// What bytes are shown to.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Notes how the connection ended.
    pub fn finish(&self, outcome: &str) {
        self.recorder.finish(None, outcome);
    }

    /// Resolves when the connection must end because it cannot be recorded.
    pub async fn must_end(&self) {
        if self.required {
            self.recorder.failed().await;
        } else {
            std::future::pending().await
        }
    }
}

impl Drop for ForwardRecording {
    fn drop(&mut self) {
        self.recorder.finish(None, "client gone");
    }
}
