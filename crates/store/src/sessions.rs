//! The tables of sessions and of the audit trail, as the writer fills them.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use time::OffsetDateTime;

use crate::rows::{maybe_time, time};
use crate::{Store, StoreError};

/// A session that begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    /// Identifier.
    pub id: String,
    /// Identifier of the sandbox.
    pub sandbox_id: String,
    /// The sandbox's name at that time.
    pub sandbox_name: String,
    /// The credential, as a person would name it.
    pub credential: String,
    /// `shell`, `exec`, ….
    pub kind: String,
    /// Whether it has a terminal.
    pub pty: bool,
    /// Address of the client; `None` on the control socket.
    pub client: Option<String>,
    /// When it began.
    pub started_at: OffsetDateTime,
}

/// A session that ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionEnd {
    /// Identifier.
    pub id: String,
    /// When.
    pub ended_at: OffsetDateTime,
    /// How, for people: `exit 0`, `signal KILL`, ….
    pub outcome: String,
    /// Bytes from the client to the process.
    pub bytes_in: u64,
    /// Bytes from the process to the client.
    pub bytes_out: u64,
}

/// One row of the audit trail. The writer gives it its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// When.
    pub at: OffsetDateTime,
    /// What was done, such as `token.create` or `login.refused`.
    pub action: String,
    /// The sandbox concerned.
    pub sandbox_id: Option<String>,
    /// Who, as a person would name it. Never a secret.
    pub actor: String,
    /// From which address.
    pub client: Option<String>,
    /// The rest, for people.
    pub detail: String,
}

/// A row of the audit trail with its number, which grows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its number.
    pub seq: i64,
    /// The row.
    pub row: AuditRow,
}

/// Which rows of the audit trail are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// At most so many, the newest first.
    pub limit: u32,
    /// Only those with a lower number.
    pub before: Option<i64>,
    /// Only those of this sandbox.
    pub sandbox_id: Option<String>,
    /// Only those whose action begins so.
    pub action: Option<String>,
}

impl Store {
    /// Rows of the audit trail, the newest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        let action = query.action.as_deref().unwrap_or_default();
        // A prefix by comparison: LIKE would give % and _ a meaning.
        let rows = sqlx::query(
            "SELECT * FROM audit WHERE seq < $1 AND ($2 IS NULL OR sandbox_id = $2) \
             AND SUBSTR(action, 1, $3) = $4 ORDER BY seq DESC LIMIT $5",
        )
        .bind(query.before.unwrap_or(i64::MAX))
        .bind(query.sandbox_id.as_deref())
        .bind(i64::try_from(action.chars().count()).unwrap_or(i64::MAX))
        .bind(action)
        .bind(i64::from(query.limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| Ok(AuditEntry { seq: row.try_get("seq")?, row: read_audit(row)? })).collect()
    }

    /// The newest rows of the audit trail, at most `limit`.
    ///
    /// # Errors
    /// The database failed.
    pub async fn audit_tail(&self, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM audit ORDER BY seq DESC LIMIT $1")
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(read_audit).collect()
    }

    /// The newest sessions, at most `limit`, with their ends as far as they have ended.
    ///
    /// # Errors
    /// The database failed.
    pub async fn past_sessions(
        &self,
        limit: u32,
    ) -> Result<Vec<(SessionRow, Option<SessionEnd>)>, StoreError> {
        let rows = sqlx::query("SELECT * FROM sessions ORDER BY started_at DESC, id LIMIT $1")
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(read_session).collect()
    }
}

fn read_audit(row: &SqliteRow) -> Result<AuditRow, StoreError> {
    Ok(AuditRow {
        at: time(row.try_get("at")?)?,
        action: row.try_get("action")?,
        sandbox_id: row.try_get("sandbox_id")?,
        actor: row.try_get("actor")?,
        client: row.try_get("client")?,
        detail: row.try_get("detail")?,
    })
}

fn read_session(row: &SqliteRow) -> Result<(SessionRow, Option<SessionEnd>), StoreError> {
    let pty: i64 = row.try_get("pty")?;
    let begun = SessionRow {
        id: row.try_get("id")?,
        sandbox_id: row.try_get("sandbox_id")?,
        sandbox_name: row.try_get("sandbox_name")?,
        credential: row.try_get("credential")?,
        kind: row.try_get("kind")?,
        pty: pty == 1,
        client: row.try_get("client")?,
        started_at: time(row.try_get("started_at")?)?,
    };
    let count = |column: &str| -> Result<u64, StoreError> {
        let value: i64 = row.try_get(column)?;
        u64::try_from(value).map_err(|_| StoreError::Malformed("byte count"))
    };
    let end = match maybe_time(row.try_get("ended_at")?)? {
        None => None,
        Some(ended_at) => Some(SessionEnd {
            id: begun.id.clone(),
            ended_at,
            outcome: row.try_get::<Option<String>, _>("outcome")?.unwrap_or_default(),
            bytes_in: count("bytes_in")?,
            bytes_out: count("bytes_out")?,
        }),
    };
    Ok((begun, end))
}
