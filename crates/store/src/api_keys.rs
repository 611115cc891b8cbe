//! The table of API keys. It holds hashes; the keys themselves are nowhere.

use sandgate_policy::{Role, TokenHash};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use time::OffsetDateTime;

use crate::rows::{maybe_time, millis, time};
use crate::{Store, StoreError};

/// One API key, without its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyRow {
    /// Identifier.
    pub id: String,
    /// The first 8 characters.
    pub prefix: String,
    /// Unique name.
    pub name: String,
    /// What it is good for.
    pub role: Role,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it ends; `None` is never by itself.
    pub expires_at: Option<OffsetDateTime>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<OffsetDateTime>,
    /// When it was last used, as far as noted.
    pub last_used_at: Option<OffsetDateTime>,
}

fn read(row: &SqliteRow) -> Result<ApiKeyRow, StoreError> {
    let role: &str = row.try_get("role")?;
    Ok(ApiKeyRow {
        id: row.try_get("id")?,
        prefix: row.try_get("prefix")?,
        name: row.try_get("name")?,
        role: role.parse().map_err(|_| StoreError::Malformed("role"))?,
        created_at: time(row.try_get("created_at")?)?,
        expires_at: maybe_time(row.try_get("expires_at")?)?,
        revoked_at: maybe_time(row.try_get("revoked_at")?)?,
        last_used_at: maybe_time(row.try_get("last_used_at")?)?,
    })
}

impl Store {
    /// Adds an API key under its hash.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when the name is taken.
    pub async fn insert_api_key(&self, key: &ApiKeyRow, hash: TokenHash) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO api_keys (id, hash, prefix, name, role, created_at, expires_at, revoked_at, last_used_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, NULL, NULL)",
        )
        .bind(&key.id)
        .bind(hash.to_hex())
        .bind(&key.prefix)
        .bind(&key.name)
        .bind(key.role.as_str())
        .bind(millis(key.created_at))
        .bind(key.expires_at.map(millis))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The API key with that hash. One indexed read, found or not.
    ///
    /// # Errors
    /// The database failed.
    pub async fn api_key_by_hash(&self, hash: TokenHash) -> Result<Option<ApiKeyRow>, StoreError> {
        let row = sqlx::query("SELECT * FROM api_keys WHERE hash = $1")
            .bind(hash.to_hex())
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// The API key with that identifier.
    ///
    /// # Errors
    /// The database failed.
    pub async fn api_key(&self, id: &str) -> Result<Option<ApiKeyRow>, StoreError> {
        let row =
            sqlx::query("SELECT * FROM api_keys WHERE id = $1").bind(id).fetch_optional(&self.pool).await?;
        row.as_ref().map(read).transpose()
    }

    /// Every API key, newest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn api_keys(&self) -> Result<Vec<ApiKeyRow>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM api_keys ORDER BY created_at DESC, id").fetch_all(&self.pool).await?;
        rows.iter().map(read).collect()
    }

    /// Revokes an API key and gives it, or `None` when there is none with that identifier. Revoking twice keeps the first time. Its
    /// name becomes free.
    ///
    /// # Errors
    /// The database failed.
    pub async fn revoke_api_key(
        &self,
        id: &str,
        now: OffsetDateTime,
    ) -> Result<Option<ApiKeyRow>, StoreError> {
        let known = self.api_key(id).await?;
        if known.as_ref().is_some_and(|key| key.revoked_at.is_none()) {
            sqlx::query(
                "UPDATE api_keys SET revoked_at = $2, name = name || $3 WHERE id = $1 AND revoked_at IS NULL",
            )
            .bind(id)
            .bind(millis(now))
            .bind(format!(" ({id})"))
            .execute(&self.pool)
            .await?;
        }
        Ok(known)
    }
}
