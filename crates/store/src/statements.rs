//! The statements of the writer: one transaction for a batch of rows, and the removal of old ones.

use sqlx::{QueryBuilder, Sqlite, SqliteConnection, SqlitePool};

use crate::AuditRow;
use crate::rows::{count, millis};
use crate::writer::{Cutoffs, Job, Record, Use};

/// Rows of the audit trail that one statement adds, at most. Each statement is a trip to the database's thread and back, and so are the begin and
/// the end of a transaction. There is a statement for each number of rows, and fewer of them than a connection keeps prepared (100).
const AT_ONCE: usize = 64;
/// Rows that one transaction removes: some milliseconds. About as many as a batch adds.
const REMOVED_AT_ONCE: i64 = 500;

/// Whether old rows are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forgotten {
    /// Some may be.
    More,
    /// None.
    All,
}

/// Writes a batch. `seq` is the number of the last row of the audit trail before it.
pub(crate) async fn write(pool: &SqlitePool, batch: &[Job], mut seq: i64) -> Result<(), sqlx::Error> {
    if batch.iter().all(|job| matches!(job, Job::Flush(_) | Job::Forget(_))) {
        return Ok(());
    }
    // These depend on no other row, so they may go together.
    let rows: Vec<&AuditRow> = batch
        .iter()
        .filter_map(|job| match job {
            Job::Record(Record::Audit(row)) => Some(row),
            _ => None,
        })
        .collect();
    let is_other = |job: &Job| {
        matches!(job, Job::Record(Record::SessionStarted(_) | Record::SessionEnded(_)) | Job::Use(_))
    };
    if rows.len() <= AT_ONCE && !batch.iter().any(is_other) {
        // One statement is a transaction by itself. A copied tree brings nothing else.
        return add(&mut *pool.acquire().await?, &rows, seq).await;
    }
    let mut change = pool.begin().await?;
    for some in rows.chunks(AT_ONCE) {
        add(&mut change, some, seq).await?;
        seq = seq.saturating_add(i64::try_from(some.len()).unwrap_or(i64::MAX));
    }
    for job in batch {
        let query = match job {
            Job::Record(Record::Audit(_)) | Job::Flush(_) | Job::Forget(_) => continue,
            Job::Record(Record::SessionStarted(row)) => sqlx::query(
                "INSERT INTO sessions (id, sandbox_id, sandbox_name, credential, kind, pty, client, started_at, \
                 ended_at, outcome, bytes_in, bytes_out) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, NULL, NULL, 0, 0)",
            )
            .bind(&row.id)
            .bind(&row.sandbox_id)
            .bind(&row.sandbox_name)
            .bind(&row.credential)
            .bind(&row.kind)
            .bind(i64::from(row.pty))
            .bind(&row.client)
            .bind(millis(row.started_at)),
            Job::Record(Record::SessionEnded(end)) => sqlx::query(
                "UPDATE sessions SET ended_at = $2, outcome = $3, bytes_in = $4, bytes_out = $5 WHERE id = $1",
            )
            .bind(&end.id)
            .bind(millis(end.ended_at))
            .bind(&end.outcome)
            .bind(count(end.bytes_in))
            .bind(count(end.bytes_out)),
            Job::Use(Use::Token { id, at }) => {
                sqlx::query("UPDATE tokens SET last_used_at = $2 WHERE id = $1").bind(id).bind(millis(*at))
            }
            Job::Use(Use::ApiKey { id, at }) => {
                sqlx::query("UPDATE api_keys SET last_used_at = $2 WHERE id = $1").bind(id).bind(millis(*at))
            }
            Job::Use(Use::Key { id, at }) => {
                sqlx::query("UPDATE public_keys SET last_used_at = $2 WHERE id = $1").bind(id).bind(millis(*at))
            }
        };
        query.execute(&mut *change).await?;
    }
    change.commit().await
}

/// Adds rows with the numbers after `seq`.
async fn add(to: &mut SqliteConnection, rows: &[&AuditRow], mut seq: i64) -> Result<(), sqlx::Error> {
    let mut query: QueryBuilder<Sqlite> =
        QueryBuilder::new("INSERT INTO audit (seq, at, action, sandbox_id, actor, client, detail) ");
    query.push_values(rows, |mut values, row| {
        seq = seq.saturating_add(1);
        values.push_bind(seq);
        values.push_bind(millis(row.at));
        values.push_bind(&row.action);
        values.push_bind(&row.sandbox_id);
        values.push_bind(&row.actor);
        values.push_bind(&row.client);
        values.push_bind(&row.detail);
    });
    query.build().execute(to).await.map(|_| ())
}

/// Removes some rows from before the cutoffs.
pub(crate) async fn forget(pool: &SqlitePool, cutoffs: &Cutoffs) -> Result<Forgotten, sqlx::Error> {
    const SESSIONS: &str = "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions \
        WHERE started_at < $1 AND ended_at < $1 ORDER BY started_at LIMIT $2)";
    const AUDIT: &str =
        "DELETE FROM audit WHERE seq IN (SELECT seq FROM audit WHERE at < $1 ORDER BY at LIMIT $2)";
    const TOKENS: &str =
        "DELETE FROM tokens WHERE id IN (SELECT id FROM tokens WHERE expires_at < $1 LIMIT $2)";
    let tables = [(SESSIONS, cutoffs.sessions), (AUDIT, cutoffs.audit), (TOKENS, Some(cutoffs.tokens))];
    for (statement, before) in tables {
        let Some(before) = before else { continue };
        let done = sqlx::query(statement).bind(millis(before)).bind(REMOVED_AT_ONCE).execute(pool).await?;
        if done.rows_affected() > 0 {
            return Ok(Forgotten::More);
        }
    }
    Ok(Forgotten::All)
}
