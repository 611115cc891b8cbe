//! The table of recordings: which files there are, and the last link of each one's chain.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use time::OffsetDateTime;

use crate::rows::{count, maybe_time, millis, time};
use crate::{Store, StoreError};

/// One recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordingRow {
    /// Identifier.
    pub id: String,
    /// Identifier of the sandbox.
    pub sandbox_id: String,
    /// The sandbox's name at that time.
    pub sandbox_name: String,
    /// The session or forward that was recorded.
    pub session_id: String,
    /// `terminal`, `exec`, `sftp`, `scp` or `forward`.
    pub kind: String,
    /// `asciicast-v3` or `timeline`.
    pub format: String,
    /// The file's name in the directory of recordings.
    pub path: String,
    /// When it began.
    pub started_at: OffsetDateTime,
    /// When it ended, if it has.
    pub finished_at: Option<OffsetDateTime>,
    /// What was written.
    pub written: RecordingEnd,
}

/// What of a recording was written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordingEnd {
    /// Bytes in its file.
    pub bytes: u64,
    /// Links of its chain.
    pub chain_count: u64,
    /// The last one; empty when it is not known.
    pub chain_head: String,
    /// Whether all of the session is in it.
    pub complete: bool,
}

/// Which recordings are listed, the newest first.
#[derive(Debug, Clone, Default)]
pub struct RecordingsQuery {
    /// Of the sandbox of that name alone.
    pub sandbox: Option<String>,
    /// Older than this one.
    pub before: Option<String>,
    /// At most so many.
    pub limit: u32,
}

fn read(row: &SqliteRow) -> Result<RecordingRow, StoreError> {
    let count = |column: &str| -> Result<u64, StoreError> {
        let value: i64 = row.try_get(column)?;
        u64::try_from(value).map_err(|_| StoreError::Malformed("count of a recording"))
    };
    Ok(RecordingRow {
        id: row.try_get("id")?,
        sandbox_id: row.try_get("sandbox_id")?,
        sandbox_name: row.try_get("sandbox_name")?,
        session_id: row.try_get("session_id")?,
        kind: row.try_get("kind")?,
        format: row.try_get("format")?,
        path: row.try_get("path")?,
        started_at: time(row.try_get("started_at")?)?,
        finished_at: maybe_time(row.try_get("finished_at")?)?,
        written: RecordingEnd {
            bytes: count("bytes")?,
            chain_count: count("chain_count")?,
            chain_head: row.try_get("chain_head")?,
            complete: row.try_get::<i64, _>("complete")? != 0,
        },
    })
}

impl Store {
    /// Adds a recording that begins.
    ///
    /// # Errors
    /// The database failed.
    pub async fn insert_recording(&self, row: &RecordingRow) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO recordings (id, sandbox_id, sandbox_name, session_id, kind, format, path, started_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(&row.id)
        .bind(&row.sandbox_id)
        .bind(&row.sandbox_name)
        .bind(&row.session_id)
        .bind(&row.kind)
        .bind(&row.format)
        .bind(&row.path)
        .bind(millis(row.started_at))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Notes how a recording ended.
    ///
    /// # Errors
    /// The database failed.
    pub async fn finish_recording(
        &self,
        id: &str,
        at: OffsetDateTime,
        end: &RecordingEnd,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE recordings SET finished_at = $2, bytes = $3, chain_count = $4, chain_head = $5, complete = $6 \
             WHERE id = $1",
        )
        .bind(id)
        .bind(millis(at))
        .bind(count(end.bytes))
        .bind(count(end.chain_count))
        .bind(&end.chain_head)
        .bind(i64::from(end.complete))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The recording with that identifier.
    ///
    /// # Errors
    /// The database failed.
    pub async fn recording(&self, id: &str) -> Result<Option<RecordingRow>, StoreError> {
        let row =
            sqlx::query("SELECT * FROM recordings WHERE id = $1").bind(id).fetch_optional(&self.pool).await?;
        row.as_ref().map(read).transpose()
    }

    /// Recordings, the newest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn recordings(&self, query: &RecordingsQuery) -> Result<Vec<RecordingRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT r.* FROM recordings r LEFT JOIN recordings b ON b.id = $2 \
             WHERE ($1 IS NULL OR r.sandbox_name = $1) AND ($2 IS NULL OR r.started_at < b.started_at \
             OR (r.started_at = b.started_at AND r.id < b.id)) ORDER BY r.started_at DESC, r.id DESC LIMIT $3",
        )
        .bind(&query.sandbox)
        .bind(&query.before)
        .bind(i64::from(query.limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(read).collect()
    }

    /// Recordings whose gateway did not finish them. Only before the first session of this one.
    ///
    /// # Errors
    /// The database failed.
    pub async fn unfinished_recordings(&self) -> Result<Vec<RecordingRow>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM recordings WHERE finished_at IS NULL").fetch_all(&self.pool).await?;
        rows.iter().map(read).collect()
    }

    /// Some finished recordings that began before that time, the oldest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn recordings_before(&self, at: OffsetDateTime) -> Result<Vec<RecordingRow>, StoreError> {
        /// Rows at once, so that no answer is without bound.
        const SOME: i64 = 500;
        let rows = sqlx::query(
            "SELECT * FROM recordings WHERE started_at < $1 AND finished_at IS NOT NULL ORDER BY started_at LIMIT $2",
        )
        .bind(millis(at))
        .bind(SOME)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(read).collect()
    }

    /// Forgets a recording.
    ///
    /// # Errors
    /// The database failed.
    pub async fn delete_recording(&self, id: &str) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM recordings WHERE id = $1").bind(id).execute(&self.pool).await?;
        Ok(())
    }
}
