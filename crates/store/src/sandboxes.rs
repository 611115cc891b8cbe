//! The table of sandboxes: what was asked for. What a sandbox *does* is known to its driver alone.

use sandgate_policy::{ForwardRules, RecordMode};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use time::OffsetDateTime;

use crate::rows::{millis, record, rules, rules_text, time};
use crate::{Store, StoreError};

/// How far the driver has got with a sandbox, so that a crash in between can be cleaned up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The driver was asked to make it and has not said that it did.
    Creating,
    /// It is there.
    Ready,
    /// The driver was asked to remove it and has not said that it did.
    Removing,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Phase::Creating => "creating",
            Phase::Ready => "ready",
            Phase::Removing => "removing",
        }
    }

    fn parse(text: &str) -> Result<Phase, StoreError> {
        [Phase::Creating, Phase::Ready, Phase::Removing]
            .into_iter()
            .find(|phase| phase.as_str() == text)
            .ok_or(StoreError::Malformed("phase of a sandbox"))
    }
}

/// One sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxRow {
    /// Identifier, also for the driver.
    pub id: String,
    /// Unique name.
    pub name: String,
    /// Name of the driver that makes it.
    pub driver: String,
    /// The driver's specification as JSON.
    pub spec: String,
    /// What may be forwarded into it and out of it.
    pub forward: ForwardRules,
    /// What of its sessions is recorded at least.
    pub record: RecordMode,
    /// How far the driver has got.
    pub phase: Phase,
    /// When it was asked for.
    pub created_at: OffsetDateTime,
}

fn read(row: &SqliteRow) -> Result<SandboxRow, StoreError> {
    Ok(SandboxRow {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        driver: row.try_get("driver")?,
        spec: row.try_get("spec")?,
        forward: rules(row.try_get("forward_rules")?)?,
        record: record(row.try_get("record")?)?,
        phase: Phase::parse(row.try_get("phase")?)?,
        created_at: time(row.try_get("created_at")?)?,
    })
}

impl Store {
    /// Adds a sandbox.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when the name is taken.
    pub async fn insert_sandbox(&self, sandbox: &SandboxRow) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO sandboxes (id, name, driver, spec, phase, created_at, forward_rules, record) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(&sandbox.id)
        .bind(&sandbox.name)
        .bind(&sandbox.driver)
        .bind(&sandbox.spec)
        .bind(sandbox.phase.as_str())
        .bind(millis(sandbox.created_at))
        .bind(rules_text(&sandbox.forward)?)
        .bind(sandbox.record.as_str())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Notes how far the driver has got.
    ///
    /// # Errors
    /// The database failed.
    pub async fn set_sandbox_phase(&self, id: &str, phase: Phase) -> Result<(), StoreError> {
        sqlx::query("UPDATE sandboxes SET phase = $2 WHERE id = $1")
            .bind(id)
            .bind(phase.as_str())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// The sandbox of that name.
    ///
    /// # Errors
    /// The database failed.
    pub async fn sandbox_by_name(&self, name: &str) -> Result<Option<SandboxRow>, StoreError> {
        let row = sqlx::query("SELECT * FROM sandboxes WHERE name = $1")
            .bind(name)
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// The sandbox with that identifier.
    ///
    /// # Errors
    /// The database failed.
    pub async fn sandbox_by_id(&self, id: &str) -> Result<Option<SandboxRow>, StoreError> {
        let row =
            sqlx::query("SELECT * FROM sandboxes WHERE id = $1").bind(id).fetch_optional(&self.pool).await?;
        row.as_ref().map(read).transpose()
    }

    /// Every sandbox, by name.
    ///
    /// # Errors
    /// The database failed.
    pub async fn sandboxes(&self) -> Result<Vec<SandboxRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM sandboxes ORDER BY name").fetch_all(&self.pool).await?;
        rows.iter().map(read).collect()
    }

    /// Forgets a sandbox and which keys open it. Its tokens stay, revoked: their holders are told.
    ///
    /// # Errors
    /// The database failed.
    pub async fn delete_sandbox(&self, id: &str, now: OffsetDateTime) -> Result<(), StoreError> {
        let mut change = self.pool.begin().await?;
        sqlx::query("UPDATE tokens SET revoked_at = $2 WHERE sandbox_id = $1 AND revoked_at IS NULL")
            .bind(id)
            .bind(millis(now))
            .execute(&mut *change)
            .await?;
        sqlx::query("DELETE FROM sandboxes WHERE id = $1").bind(id).execute(&mut *change).await?;
        change.commit().await?;
        Ok(())
    }
}
