//! What outlives the gateway: sandboxes, tokens (as hashes), public keys, sessions and the audit trail.
//!
//! SQLite through sqlx. The statements keep to what PostgreSQL understands too: numbered placeholders, TEXT and BIGINT, no
//! functions of one database; numbers and times are made here and not by the database.
//!
//! Reads and the owner's changes go to the database at once. What every login and session writes (audit, session rows, time
//! of last use) goes through one bounded queue to a writer task, which puts many rows into one transaction, so that
//! no login waits for a disk. See [`Store::record`] and [`Store::note_use`] for what happens when the queue is full.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking"))]

mod api_keys;
mod keys;
mod recordings;
mod rows;
mod sandboxes;
mod sessions;
mod statements;
mod tokens;
mod writer;

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqlitePool};
use time::OffsetDateTime;

pub use api_keys::ApiKeyRow;
pub use keys::{KeyLookup, KeyRow, KeySandboxes, OpenedSandbox};
pub use recordings::{RecordingEnd, RecordingRow, RecordingsQuery};
pub use sandboxes::{Phase, SandboxRow};
pub use sessions::{AuditEntry, AuditQuery, AuditRow, SessionEnd, SessionRow};
pub use tokens::{TokenLookup, TokenRow};
use writer::Cutoffs;
pub use writer::{Record, Use};

/// Connections to the database. Logins only read, and a read takes some tens of microseconds.
const CONNECTIONS: u32 = 4;
/// How long a write waits for another one before it fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller waits for one of the connections.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a token's row is kept after it expired, so that its holder can still be told.
const KEEP_DEAD_TOKENS: time::Duration = time::Duration::days(90);

/// How long rows are kept; `None` is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Of sessions, from their end.
    pub sessions: Option<time::Duration>,
    /// Of the audit trail.
    pub audit: Option<time::Duration>,
}

impl Default for Keep {
    /// 90 days of sessions, a year of the audit trail.
    fn default() -> Keep {
        Keep { sessions: Some(time::Duration::days(90)), audit: Some(time::Duration::days(365)) }
    }
}

/// The open database and its writer.
pub struct Store {
    pool: SqlitePool,
    /// The writer's own connection. A connection that finds that another one has written reads its pages anew; the one that writes nearly
    /// all of it does not when it stays the same.
    writers: SqlitePool,
    writer: writer::Writer,
}

impl Store {
    /// Opens or makes the database file (0600, as are the files that SQLite puts beside it), brings its tables up to
    /// date, and starts the writer. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The file cannot be opened, or holds something newer or other than this program's tables.
    pub async fn open(path: &Path, now: OffsetDateTime) -> Result<Store, StoreError> {
        // SQLite gives its own files the mode of this one.
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .and_then(|file| file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600)))
            .map_err(|source| StoreError::File { path: path.to_owned(), source })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // With WAL this never corrupts; a power cut may lose the last transactions, a crash of ours may not.
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true);
        // The change to WAL needs the file for itself and heeds no busy timeout: one connection does it, then the others come.
        let mut first = options.connect().await?;
        sqlx::migrate!("./migrations").run(&mut first).await.map_err(StoreError::Migrate)?;
        let pool = connections(CONNECTIONS).connect_with(options.clone()).await?;
        let writers = connections(1).connect_with(options).await?;
        first.close().await?;
        sqlx::query("DELETE FROM tokens WHERE expires_at < $1")
            .bind(rows::millis(now - KEEP_DEAD_TOKENS))
            .execute(&pool)
            .await?;
        // Rows left open by a gateway that was killed.
        sqlx::query("UPDATE sessions SET ended_at = $1, outcome = 'gateway gone' WHERE ended_at IS NULL")
            .bind(rows::millis(now))
            .execute(&pool)
            .await?;
        let last_seq: Option<i64> = sqlx::query_scalar("SELECT MAX(seq) FROM audit").fetch_one(&pool).await?;
        let writer = writer::Writer::start(writers.clone(), last_seq.unwrap_or(0));
        Ok(Store { pool, writers, writer })
    }

    /// Hands a row of the audit trail or of a session to the writer. Waits while the queue is full: nothing of it is
    /// ever left out while the gateway runs.
    pub async fn record(&self, record: Record) {
        self.writer.record(record).await;
    }

    /// Waits until the writer's queue has room: to be asked before something begins whose rows will come by [`Store::record_later`], so that
    /// nothing new begins while the database is behind.
    pub async fn room(&self) {
        self.writer.room().await;
    }

    /// As [`Store::record`], from a place that cannot wait (the end of a session, in a destructor). When the queue is
    /// full a task of its own does the waiting, for up to 65,536 rows; what is beyond goes to the log, as an error and in full. Must be called
    /// inside a tokio runtime.
    pub fn record_later(&self, record: Record) {
        self.writer.record_later(record);
    }

    /// Notes that a credential was used just now. Dropped when the queue is half full: the next use tells the same.
    pub fn note_use(&self, used: Use) {
        self.writer.note_use(used);
    }

    /// Begins to remove what is older than it is kept: sessions, the audit trail, and tokens that have been dead for long. The writer does
    /// it, a few rows at a time between its batches. The file does not become smaller; its room is used again.
    pub async fn forget(&self, now: OffsetDateTime, keep: Keep) {
        // Longer than time goes back is for ever.
        let before = |kept: Option<time::Duration>| now.checked_sub(kept?);
        self.writer
            .forget(Cutoffs {
                tokens: now - KEEP_DEAD_TOKENS,
                sessions: before(keep.sessions),
                audit: before(keep.audit),
            })
            .await;
    }

    /// Waits until all that was handed to the writer before is in the database.
    pub async fn flush(&self) {
        self.writer.flush().await;
    }

    /// Flushes and closes. Later calls fail.
    pub async fn close(&self) {
        self.flush().await;
        self.writers.close().await;
        self.pool.close().await;
    }
}

/// Up to `most` connections, which stay.
fn connections(most: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(most)
        .min_connections(1)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
}

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database file itself.
    #[error("the database {path} cannot be opened: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The tables could not be brought up to date.
    #[error("the database's tables cannot be brought up to date: {0}")]
    Migrate(sqlx::migrate::MigrateError),
    /// A name or key that must be unique is there already.
    #[error("it exists already")]
    Exists,
    /// A row holds something that no version of this program has written.
    #[error("the database holds a malformed {0}")]
    Malformed(&'static str),
    /// Anything else that the database said.
    #[error("the database failed: {0}")]
    Database(sqlx::Error),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> StoreError {
        match &error {
            sqlx::Error::Database(inner) if inner.is_unique_violation() => StoreError::Exists,
            _ => StoreError::Database(error),
        }
    }
}
