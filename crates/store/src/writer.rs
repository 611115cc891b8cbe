//! The writer: one task, one bounded queue, many rows per transaction. What it writes is in `statements`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::SqlitePool;
use time::OffsetDateTime;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

use crate::statements::{self, Forgotten};
use crate::{AuditRow, SessionEnd, SessionRow};

/// Rows that may wait. At some hundred bytes a row this is below 2 MiB, and more than a second of the busiest gateway.
const QUEUE: usize = 4096;
/// Rows that may wait for a place in the queue, beside those in it: each is what a destructor had to say, and has a small task. Below 64
/// MiB; more than that is a database that has not answered for long.
const OVERFLOW: usize = 65_536;
/// Rows in one transaction.
const BATCH: usize = 512;
/// How long rows wait for more, so that a transaction is not made for each: a copied tree brings a row for every file. It is also
/// what a crash of the gateway may cost.
const GATHER: Duration = Duration::from_millis(10);
/// How often a transaction is tried before its rows are given up with an error in the log.
const TRIES: u32 = 5;
/// Pause between two tries; the busy timeout of the connection comes on top.
const PAUSE: Duration = Duration::from_millis(200);
/// Pause between two removals of old rows while there is nothing to write.
const BREATH: Duration = Duration::from_millis(20);

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
    /// An API key.
    ApiKey {
        /// Its identifier.
        id: String,
        /// When.
        at: OffsetDateTime,
    },
}

pub(crate) enum Job {
    Record(Record),
    Use(Use),
    Forget(Cutoffs),
    Flush(oneshot::Sender<()>),
}

/// The moments before which rows are forgotten; `None` keeps all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cutoffs {
    /// For tokens, by their expiry.
    pub(crate) tokens: OffsetDateTime,
    /// For sessions, by their end. Live ones stay.
    pub(crate) sessions: Option<OffsetDateTime>,
    /// For the audit trail.
    pub(crate) audit: Option<OffsetDateTime>,
}

/// The sending side.
pub(crate) struct Writer {
    queue: mpsc::Sender<Job>,
    /// Places for rows that wait for one in the queue, [`OVERFLOW`] of them.
    overflow: Arc<Semaphore>,
    /// Rows for which even there was none.
    lost: AtomicU64,
    /// Told when somebody waits for what is in the queue.
    hurry: Arc<Notify>,
}

impl Writer {
    pub(crate) fn start(pool: SqlitePool, last_seq: i64) -> Writer {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let hurry = Arc::new(Notify::new());
        tokio::spawn(run(pool, jobs, Arc::clone(&hurry), last_seq));
        Writer { queue, overflow: Arc::new(Semaphore::new(OVERFLOW)), lost: AtomicU64::new(0), hurry }
    }

    pub(crate) async fn record(&self, record: Record) {
        if self.queue.send(Job::Record(record)).await.is_err() {
            tracing::error!("the store's writer has stopped; a record is lost");
        }
    }

    /// Waits until the queue has room. An error means that the writer has stopped; handing it something says so.
    pub(crate) async fn room(&self) {
        let _ = self.queue.reserve().await;
    }

    pub(crate) fn record_later(&self, record: Record) {
        match self.queue.try_send(Job::Record(record)) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(job)) => {
                let Ok(place) = Arc::clone(&self.overflow).try_acquire_owned() else {
                    return self.lose(&job);
                };
                let queue = self.queue.clone();
                tokio::spawn(async move {
                    if queue.send(job).await.is_err() {
                        tracing::error!("the store's writer has stopped; a record is lost");
                    }
                    drop(place);
                });
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                tracing::error!("the store's writer has stopped; a record is lost");
            }
        }
    }

    /// The log is the last place that the row can have: all of it goes there.
    fn lose(&self, job: &Job) {
        let lost = self.lost.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if let Job::Record(record) = job {
            tracing::error!(?record, lost, "the database is too far behind; this record is lost to it");
        }
    }

    pub(crate) fn note_use(&self, used: Use) {
        if self.queue.capacity() > QUEUE / 2 {
            // Losing the race for the last place is as good as finding the queue half full.
            let _ = self.queue.try_send(Job::Use(used));
        }
    }

    pub(crate) async fn forget(&self, cutoffs: Cutoffs) {
        // Without a writer nothing is added either.
        let _ = self.queue.send(Job::Forget(cutoffs)).await;
    }

    pub(crate) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.queue.send(Job::Flush(done)).await.is_ok() {
            self.hurry.notify_one();
            // An error means that the writer has ended, and then nothing more will be written.
            let _ = flushed.await;
        }
    }
}

async fn run(pool: SqlitePool, mut jobs: mpsc::Receiver<Job>, hurry: Arc<Notify>, mut seq: i64) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut forgetting: Option<Cutoffs> = None;
    loop {
        let received = match forgetting {
            None => jobs.recv_many(&mut batch, BATCH).await,
            // The time is over when there is nothing to write: then only old rows go.
            Some(_) => match tokio::time::timeout(BREATH, jobs.recv_many(&mut batch, BATCH)).await {
                Ok(received) => received,
                Err(_) => {
                    forgetting = forget(&pool, forgetting).await;
                    continue;
                }
            },
        };
        if received == 0 {
            return;
        }
        gather(&mut jobs, &mut batch, &hurry).await;
        let mut tries = 1;
        while let Err(error) = statements::write(&pool, &batch, seq).await {
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
                Job::Forget(cutoffs) => forgetting = Some(cutoffs),
                Job::Flush(done) => {
                    // Whoever asked may have stopped waiting.
                    let _ = done.send(());
                }
            }
        }
        // As many as a batch adds, so that a busy gateway forgets too.
        forgetting = forget(&pool, forgetting).await;
    }
}

/// Removes some of the old rows. Gives what is left to do.
async fn forget(pool: &SqlitePool, cutoffs: Option<Cutoffs>) -> Option<Cutoffs> {
    let cutoffs = cutoffs?;
    match statements::forget(pool, &cutoffs).await {
        Ok(Forgotten::More) => Some(cutoffs),
        Ok(Forgotten::All) => None,
        Err(error) => {
            tracing::warn!(%error, "the database does not remove old rows; this is tried again in a day");
            None
        }
    }
}

/// Adds what comes within [`GATHER`], unless the batch is full or somebody waits for it. Looks into the queue once, at the end: a task that
/// waits on the queue is woken by every row.
async fn gather(jobs: &mut mpsc::Receiver<Job>, batch: &mut Vec<Job>, hurry: &Notify) {
    let is_awaited = |job: &Job| matches!(job, Job::Flush(_));
    if batch.len() < BATCH && !batch.iter().any(is_awaited) {
        // Either way the wait is over.
        let _ = tokio::time::timeout(GATHER, hurry.notified()).await;
        while batch.len() < BATCH
            && let Ok(job) = jobs.try_recv()
        {
            batch.push(job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(detail: usize) -> Record {
        Record::Audit(AuditRow {
            at: OffsetDateTime::UNIX_EPOCH,
            action: "test".to_owned(),
            sandbox_id: None,
            actor: "nobody".to_owned(),
            client: None,
            detail: detail.to_string(),
        })
    }

    #[tokio::test]
    async fn rows_that_wait_for_a_stuck_database_are_bounded_and_those_left_out_are_counted() {
        let (queue, mut jobs) = mpsc::channel(2);
        let writer = Writer {
            queue,
            overflow: Arc::new(Semaphore::new(3)),
            lost: AtomicU64::new(0),
            hurry: Arc::default(),
        };
        (0..9).for_each(|number| writer.record_later(row(number)));
        assert_eq!(writer.lost.load(Ordering::Relaxed), 4);
        for number in 0..5 {
            let Some(Job::Record(record)) = jobs.recv().await else { panic!("no row") };
            assert_eq!(record, row(number));
        }
        assert!(jobs.try_recv().is_err());
        // The places are free again.
        writer.room().await;
        (0..5).for_each(|number| writer.record_later(row(number)));
        assert_eq!(writer.lost.load(Ordering::Relaxed), 4);
    }
}
