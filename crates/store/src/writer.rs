//! The writer: one task, one bounded queue, many rows per transaction.

use std::time::Duration;

use sqlx::SqlitePool;
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};

use crate::rows::{count, millis};
use crate::{AuditRow, SessionEnd, SessionRow};

/// Rows that may wait. At some hundred bytes a row this is below 2 MiB, and more than a second of the busiest gateway.
const QUEUE: usize = 4096;
/// Rows in one transaction.
const BATCH: usize = 512;
/// How often a transaction is tried before its rows are given up with an error in the log.
const TRIES: u32 = 5;
/// Pause between two tries; the busy timeout of the connection comes on top.
const PAUSE: Duration = Duration::from_millis(200);

/// A row that must not be left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Something for the audit trail.
    Audit(AuditRow),
    /// A session begins.
    SessionStarted(SessionRow),
    /// A session ends.
    SessionEnded(SessionEnd),
}

/// Which credential was used, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    /// A token.
    Token {
        /// Its identifier.
        id: String,
        /// When.
        at: OffsetDateTime,
    },
    /// A public key.
    Key {
        /// Its identifier.
        id: String,
        /// When.
        at: OffsetDateTime,
    },
}

enum Job {
    Record(Record),
    Use(Use),
    Flush(oneshot::Sender<()>),
}

/// The sending side.
pub(crate) struct Writer {
    queue: mpsc::Sender<Job>,
}

impl Writer {
    pub(crate) fn start(pool: SqlitePool, last_seq: i64) -> Writer {
        let (queue, jobs) = mpsc::channel(QUEUE);
        tokio::spawn(run(pool, jobs, last_seq));
        Writer { queue }
    }

    pub(crate) async fn record(&self, record: Record) {
        if self.queue.send(Job::Record(record)).await.is_err() {
            tracing::error!("the store's writer has stopped; a record is lost");
        }
    }

    pub(crate) fn record_later(&self, record: Record) {
        match self.queue.try_send(Job::Record(record)) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(job)) => {
                let queue = self.queue.clone();
                tokio::spawn(async move {
                    if queue.send(job).await.is_err() {
                        tracing::error!("the store's writer has stopped; a record is lost");
                    }
                });
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                tracing::error!("the store's writer has stopped; a record is lost");
            }
        }
    }

    pub(crate) fn note_use(&self, used: Use) {
        if self.queue.capacity() > QUEUE / 2 {
            // Losing the race for the last place is as good as finding the queue half full.
            let _ = self.queue.try_send(Job::Use(used));
        }
    }

    pub(crate) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.queue.send(Job::Flush(done)).await.is_ok() {
            // An error means that the writer has ended, and then nothing more will be written.
            let _ = flushed.await;
        }
    }
}

async fn run(pool: SqlitePool, mut jobs: mpsc::Receiver<Job>, mut seq: i64) {
    let mut batch = Vec::with_capacity(BATCH);
    while jobs.recv_many(&mut batch, BATCH).await > 0 {
        let mut tries = 1;
        while let Err(error) = write(&pool, &batch, seq).await {
            if tries == TRIES || pool.is_closed() {
                tracing::error!(%error, rows = batch.len(), "the database refused rows of the audit trail; they are lost");
                break;
            }
            tries += 1;
            tokio::time::sleep(PAUSE).await;
        }
        for job in batch.drain(..) {
            match job {
                Job::Record(Record::Audit(_)) => seq = seq.saturating_add(1),
                Job::Record(_) | Job::Use(_) => {}
                Job::Flush(done) => {
                    // Whoever asked may have stopped waiting.
                    let _ = done.send(());
                }
            }
        }
    }
}

async fn write(pool: &SqlitePool, batch: &[Job], mut seq: i64) -> Result<(), sqlx::Error> {
    if batch.iter().all(|job| matches!(job, Job::Flush(_))) {
        return Ok(());
    }
    let mut change = pool.begin().await?;
    for job in batch {
        let query = match job {
            Job::Record(Record::Audit(row)) => {
                seq = seq.saturating_add(1);
                sqlx::query(
                    "INSERT INTO audit (seq, at, action, sandbox_id, actor, client, detail) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7)",
                )
                .bind(seq)
                .bind(millis(row.at))
                .bind(&row.action)
                .bind(&row.sandbox_id)
                .bind(&row.actor)
                .bind(&row.client)
                .bind(&row.detail)
            }
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
            Job::Use(Use::Key { id, at }) => {
                sqlx::query("UPDATE public_keys SET last_used_at = $2 WHERE id = $1").bind(id).bind(millis(*at))
            }
            Job::Flush(_) => continue,
        };
        query.execute(&mut *change).await?;
    }
    change.commit().await
}
