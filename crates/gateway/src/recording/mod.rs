//! Recordings of sessions: who is recorded, the files, and what became of them.
//!
//! A [`Recorder`] takes what passes where it passes and never waits: formats are made in memory, and a task of each recording's own
//! carries them to the file at least once a second. The formats are `sandgate-record`'s; `docs/recordings.md` describes all of it.

mod recorder;
mod writer;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{BufReader, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sandgate_policy::{Principal, RecordMode};
use sandgate_record::{CastWriter, Head, Header, Terminal, TimelineWriter, Verdict, verify};
use sandgate_store::{RecordingEnd, RecordingRow, RecordingsQuery, Store, StoreError};
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

pub(crate) use recorder::Begun;
use recorder::Format;
pub use recorder::{ForwardRecording, Recorder};
pub use sandgate_record::Direction;

/// The directory below the data directory.
const DIRECTORY: &str = "recordings";
/// How often old recordings are looked for. The configuration speaks of days.
const FORGET_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest pause before the end of a recording is noted again, where the store failed.
const NOTE_AGAIN: Duration = Duration::from_secs(60);
/// How long a session waits for its recording to begin: a disk that hangs must not hold it up for ever, and one that is busy is no reason
/// to have none.
const SLOWEST_START: Duration = Duration::from_secs(5);
/// Recordings that begin at once. While a disk hangs each that was given up still waits for it, and sessions come without end.
const MOST_BEGINNING: usize = 256;
/// How long an ending gateway waits for the last words of recordings.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// The `[recording]` table.
#[derive(Debug, Clone)]
pub struct RecordingConfig {
    /// What is recorded of everybody at least.
    pub default: RecordMode,
    /// Whether what users type is recorded, too. It may hold passwords.
    pub input: bool,
    /// Whether a session ends that cannot be recorded.
    pub required: bool,
    /// Most bytes of one recording. Whoever is recorded must not fill the disk of everybody.
    pub max_bytes: u64,
    /// How long recordings are kept; `None` is for ever.
    pub keep: Option<time::Duration>,
}

impl Default for RecordingConfig {
    /// Nothing; at most 1 GiB each, kept for 90 days.
    fn default() -> RecordingConfig {
        RecordingConfig {
            default: RecordMode::Off,
            input: false,
            required: false,
            max_bytes: 1 << 30,
            keep: Some(time::Duration::days(90)),
        }
    }
}

/// What a front door wants recorded.
pub(crate) struct Subject {
    pub(crate) sandbox_id: String,
    pub(crate) sandbox_name: String,
    /// Of the session or the forward.
    pub(crate) session_id: String,
    pub(crate) kind: &'static str,
    /// The credential, as a person would name it.
    pub(crate) credential: String,
    pub(crate) command: Option<String>,
    /// Of a session that has one.
    pub(crate) terminal: Option<Terminal>,
    /// Ends the session, where recordings are required.
    pub(crate) end: Box<dyn FnOnce() + Send>,
}

/// All recordings.
pub struct Recordings {
    directory: PathBuf,
    store: Arc<Store>,
    config: RecordingConfig,
    /// The writers of what is being recorded.
    tasks: TaskTracker,
    /// Free places of those that begin: [`MOST_BEGINNING`].
    beginning: Arc<Semaphore>,
}

impl Recordings {
    /// Makes the directory (0700), notes in the background what an earlier gateway did not finish, and forgets what is old every day.
    pub(crate) async fn open(
        data_dir: &Path,
        store: Arc<Store>,
        config: RecordingConfig,
    ) -> Result<Arc<Recordings>, RecordingError> {
        let directory = data_dir.join(DIRECTORY);
        DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(RecordingError::File)?;
        let unfinished = store.unfinished_recordings().await?;
        let beginning = Arc::new(Semaphore::new(MOST_BEGINNING));
        let recordings =
            Arc::new(Recordings { directory, store, config, tasks: TaskTracker::new(), beginning });
        let these = recordings.clone();
        tokio::spawn(async move { these.adopt(unfinished).await });
        let weak = Arc::downgrade(&recordings);
        tokio::spawn(async move {
            while let Some(recordings) = weak.upgrade() {
                recordings.forget().await;
                drop(recordings);
                tokio::time::sleep(FORGET_EVERY).await;
            }
        });
        Ok(recordings)
    }

    /// Begins to record `subject` if `mode` or the configuration wants it.
    ///
    /// # Errors
    /// It cannot be written, and the configuration requires it.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        mode: RecordMode,
        subject: Subject,
    ) -> Result<Option<Recorder>, RecordingError> {
        let least = if subject.terminal.is_some() { RecordMode::Terminal } else { RecordMode::All };
        if mode.max(self.config.default) < least {
            return Ok(None);
        }
        let session = subject.session_id.clone();
        // In a task of its own: a client that goes meanwhile must leave neither a file without a row nor a row that nobody ends.
        let (these, late) = (self.clone(), Arc::new(AtomicBool::new(false)));
        let too_late = late.clone();
        let made = async move {
            let place = these.beginning.clone().acquire_owned().await;
            let create = async move {
                let _place = place;
                let recorder = these.create(subject).await?;
                if too_late.load(Ordering::Relaxed) {
                    // Its session goes on without it.
                    recorder.fail();
                }
                Ok::<_, RecordingError>(Begun::new(Some(recorder)))
            };
            tokio::spawn(create).await
        };
        let made = match tokio::time::timeout(SLOWEST_START, made).await {
            Ok(made) => made.unwrap_or(Err(RecordingError::BrokenOff)),
            Err(_) => {
                late.store(true, Ordering::Relaxed);
                Err(RecordingError::Stalled)
            }
        };
        match made {
            Ok(begun) => Ok(begun.started()),
            Err(error) => {
                tracing::warn!(session, %error, "a session cannot be recorded");
                if self.config.required { Err(RecordingError::Required) } else { Ok(None) }
            }
        }
    }

    /// As [`Self::begin`], for a forwarded connection with this identifier.
    ///
    /// # Errors
    /// As there.
    pub async fn begin_forward(
        self: &Arc<Self>,
        mode: RecordMode,
        principal: &Principal,
        id: &str,
        to: String,
    ) -> Result<Option<ForwardRecording>, RecordingError> {
        let subject = Subject {
            sandbox_id: principal.sandbox_id.clone(),
            sandbox_name: principal.sandbox_name.clone(),
            session_id: id.to_owned(),
            kind: "forward",
            credential: principal.credential.to_string(),
            command: Some(to),
            terminal: None,
            // Its front door waits for `ForwardRecording::must_end`.
            end: Box::new(|| {}),
        };
        let recorder = self.begin(mode, subject).await?;
        Ok(recorder.map(|recorder| ForwardRecording::new(recorder, self.config.required)))
    }

    async fn create(self: &Arc<Self>, subject: Subject) -> Result<Recorder, RecordingError> {
        let id = crate::ids::random_id("rec");
        let started_at = OffsetDateTime::now_utc();
        let (format_name, extension) =
            if subject.terminal.is_some() { ("asciicast-v3", "cast") } else { ("timeline", "jsonl") };
        let row = RecordingRow {
            path: format!("{id}.{extension}"),
            id: id.clone(),
            sandbox_id: subject.sandbox_id,
            sandbox_name: subject.sandbox_name.clone(),
            session_id: subject.session_id.clone(),
            kind: subject.kind.to_owned(),
            format: format_name.to_owned(),
            started_at,
            finished_at: None,
            written: RecordingEnd::default(),
        };
        let header = Header {
            id,
            sandbox: subject.sandbox_name,
            session: subject.session_id,
            kind: subject.kind.to_owned(),
            credential: subject.credential,
            command: subject.command,
            started_at,
        };
        let mut format = match &subject.terminal {
            Some(terminal) => Format::Cast(Box::new(CastWriter::new(&header, terminal))),
            None => Format::Timeline(Box::new(TimelineWriter::new(&header))),
        };
        // At once, so that a session which must be recorded does not begin on a full disk.
        let (first, head) = format.flush(Duration::ZERO);
        let path = self.directory.join(&row.path);
        let opened = tokio::task::spawn_blocking({
            let path = path.clone();
            move || {
                let mut file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
                let written = file.write_all(&first);
                if written.is_err() {
                    // Nothing was recorded; what is left of it has no row.
                    let _ = fs::remove_file(&path);
                }
                written.map(|()| (file, first.len() as u64))
            }
        });
        let (file, bytes) =
            opened.await.map_err(|_| RecordingError::BrokenOff)?.map_err(RecordingError::File)?;
        if let Err(error) = self.store.insert_recording(&row).await {
            let _ = fs::remove_file(&path);
            return Err(error.into());
        }
        let recorder = Recorder::new(&row.id, format, self.config.input);
        let writer = writer::Writer {
            recorder: recorder.clone(),
            file: Arc::new(file),
            bytes,
            most: self.config.max_bytes,
            head,
            end: self.config.required.then_some(subject.end),
        };
        let (store, id, session) = (self.store.clone(), row.id, row.session_id);
        self.tasks.spawn(async move {
            let (end, failure) = writer.run().await;
            if let Some(reason) = failure {
                tracing::warn!(recording = id, session, reason, "a recording ends before its session");
            }
            // Until it is noted the recording counts as one that goes on: it is neither removed nor compared with what was noted.
            let (at, mut pause) = (OffsetDateTime::now_utc(), Duration::from_secs(1));
            while let Err(error) = store.finish_recording(&id, at, &end).await {
                tracing::error!(recording = id, %error, ?end, "the end of a recording could not be noted yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(NOTE_AGAIN);
            }
        });
        Ok(recorder)
    }

    /// Recordings, the newest first.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list(&self, query: &RecordingsQuery) -> Result<Vec<RecordingRow>, RecordingError> {
        Ok(self.store.recordings(query).await?)
    }

    /// What is known of one recording, and where its file is.
    ///
    /// # Errors
    /// There is none, or the store failed.
    pub async fn find(&self, id: &str) -> Result<(RecordingRow, PathBuf), RecordingError> {
        let row = self.store.recording(id).await?.ok_or(RecordingError::NotFound)?;
        let path = self.directory.join(&row.path);
        Ok((row, path))
    }

    /// Checks a recording against itself and against its row.
    ///
    /// # Errors
    /// There is none, its file cannot be read, or the store failed.
    pub async fn verify(&self, id: &str) -> Result<Verdict, RecordingError> {
        let (row, path) = self.find(id).await?;
        let noted = Head { count: row.written.chain_count, sha256: row.written.chain_head };
        check(path, Some(noted)).await
    }

    /// Removes a recording that has ended.
    ///
    /// # Errors
    /// There is none, it goes on, its file cannot be removed, or the store failed.
    pub async fn remove(&self, id: &str) -> Result<(), RecordingError> {
        let (row, path) = self.find(id).await?;
        if row.finished_at.is_none() {
            return Err(RecordingError::Live);
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(RecordingError::File(error));
            }
            _ => {}
        }
        Ok(self.store.delete_recording(&row.id).await?)
    }

    /// Waits for what is still to be written. The sessions have ended.
    pub(crate) async fn close(&self) {
        self.tasks.close();
        if tokio::time::timeout(LAST_WRITES, self.tasks.wait()).await.is_err() {
            tracing::warn!("some recordings were not finished");
        }
    }

    /// Notes how far recordings go whose gateway was killed.
    async fn adopt(&self, unfinished: Vec<RecordingRow>) {
        for row in unfinished {
            let path = self.directory.join(&row.path);
            let bytes = fs::metadata(&path).map(|file| file.len()).unwrap_or_default();
            let head = match check(path, None).await {
                Ok(Verdict::Complete(head) | Verdict::Cut { head, .. }) => head,
                Ok(verdict) => {
                    tracing::warn!(recording = row.id, %verdict, "the recording of an earlier gateway");
                    Head::default()
                }
                Err(error) => {
                    tracing::warn!(recording = row.id, %error, "the recording of an earlier gateway");
                    Head::default()
                }
            };
            let end =
                RecordingEnd { bytes, chain_count: head.count, chain_head: head.sha256, complete: false };
            if let Err(error) = self.store.finish_recording(&row.id, OffsetDateTime::now_utc(), &end).await {
                tracing::warn!(recording = row.id, %error, "the end of a recording could not be noted");
            }
        }
    }

    async fn forget(&self) {
        let Some(before) = self.config.keep.and_then(|keep| OffsetDateTime::now_utc().checked_sub(keep))
        else {
            return;
        };
        loop {
            let old = match self.store.recordings_before(before).await {
                Ok(old) => old,
                Err(error) => return tracing::warn!(%error, "old recordings could not be looked for"),
            };
            let mut gone = 0;
            for row in old {
                match self.remove(&row.id).await {
                    Ok(()) => gone += 1,
                    Err(error) => {
                        tracing::warn!(recording = row.id, %error, "an old recording could not be removed");
                    }
                }
            }
            // Those that stay come first again.
            if gone == 0 {
                return;
            }
        }
    }
}

async fn check(path: PathBuf, noted: Option<Head>) -> Result<Verdict, RecordingError> {
    let verdict =
        tokio::task::spawn_blocking(move || verify(BufReader::new(File::open(path)?), noted.as_ref()));
    verdict.await.map_err(|_| RecordingError::BrokenOff)?.map_err(RecordingError::File)
}

/// What can go wrong with recordings.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// Said to the user.
    #[error("The session cannot be recorded, and this gateway requires it.")]
    Required,
    /// Not there.
    #[error("there is no recording with that id; `sandgate recording ls` lists them")]
    NotFound,
    /// It is being written.
    #[error("the recording goes on; end its session first")]
    Live,
    /// Its file or its row takes too long.
    #[error("the disk does not respond")]
    Stalled,
    /// Its file.
    #[error("the file of the recording: {0}")]
    File(std::io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A defect on our side.
    #[error("the work on the recording broke off")]
    BrokenOff,
}
