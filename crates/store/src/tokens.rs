//! The table of tokens. It holds hashes; the tokens themselves are nowhere.

use sandgate_policy::{FileAccess, ForwardRules, RecordMode, Scopes, SourceNetworks, TokenHash};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use time::OffsetDateTime;

use crate::rows::{maybe_time, millis, record, rules, rules_text, time};
use crate::{Store, StoreError};

/// One token, without its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Identifier.
    pub id: String,
    /// The first 8 characters.
    pub prefix: String,
    /// A text for people; may be empty.
    pub label: String,
    /// What it is good for.
    pub scopes: Scopes,
    /// The one sandbox it opens.
    pub sandbox_id: String,
    /// Where it may be used from.
    pub sources: SourceNetworks,
    /// What the file servers do for it.
    pub files: FileAccess,
    /// What may be forwarded for it.
    pub forward: ForwardRules,
    /// What of its sessions is recorded at least.
    pub record: RecordMode,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it ends.
    pub expires_at: OffsetDateTime,
    /// When it was revoked, if it was.
    pub revoked_at: Option<OffsetDateTime>,
    /// When it was last used, as far as noted.
    pub last_used_at: Option<OffsetDateTime>,
}

/// A token with the name of its sandbox, which is `None` when the sandbox is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenLookup {
    /// The token.
    pub token: TokenRow,
    /// The sandbox's present name.
    pub sandbox_name: Option<String>,
    /// What the sandbox allows to be forwarded.
    pub sandbox_forward: ForwardRules,
}

fn read(row: &SqliteRow) -> Result<TokenLookup, StoreError> {
    let scopes: &str = row.try_get("scopes")?;
    let sources: &str = row.try_get("sources")?;
    let sources = SourceNetworks::parse(sources.split(',').filter(|entry| !entry.is_empty()));
    let token = TokenRow {
        id: row.try_get("id")?,
        prefix: row.try_get("prefix")?,
        label: row.try_get("label")?,
        scopes: scopes.parse().map_err(|_| StoreError::Malformed("list of scopes"))?,
        sandbox_id: row.try_get("sandbox_id")?,
        sources: sources.map_err(|_| StoreError::Malformed("list of source networks"))?,
        files: FileAccess {
            root: row.try_get("sftp_root")?,
            read_only: row.try_get::<i64, _>("sftp_read_only")? != 0,
        },
        forward: rules(row.try_get("forward_rules")?)?,
        record: record(row.try_get("record")?)?,
        created_at: time(row.try_get("created_at")?)?,
        expires_at: time(row.try_get("expires_at")?)?,
        revoked_at: maybe_time(row.try_get("revoked_at")?)?,
        last_used_at: maybe_time(row.try_get("last_used_at")?)?,
    };
    let sandbox_forward: Option<&str> = row.try_get("sandbox_forward")?;
    Ok(TokenLookup {
        token,
        sandbox_name: row.try_get("sandbox_name")?,
        sandbox_forward: sandbox_forward.map(rules).transpose()?.unwrap_or_default(),
    })
}

impl Store {
    /// Adds a token under its hash.
    ///
    /// # Errors
    /// The database failed.
    pub async fn insert_token(&self, token: &TokenRow, hash: TokenHash) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO tokens (id, hash, prefix, label, scopes, sandbox_id, sources, created_at, expires_at, \
             revoked_at, last_used_at, sftp_root, sftp_read_only, forward_rules, record) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, NULL, NULL, $10, $11, $12, $13)",
        )
        .bind(&token.id)
        .bind(hash.to_hex())
        .bind(&token.prefix)
        .bind(&token.label)
        .bind(token.scopes.to_string())
        .bind(&token.sandbox_id)
        .bind(token.sources.iter().collect::<Vec<_>>().join(","))
        .bind(millis(token.created_at))
        .bind(millis(token.expires_at))
        .bind(&token.files.root)
        .bind(i64::from(token.files.read_only))
        .bind(rules_text(&token.forward)?)
        .bind(token.record.as_str())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The token with that hash. One indexed read, found or not.
    ///
    /// # Errors
    /// The database failed.
    pub async fn token_by_hash(&self, hash: TokenHash) -> Result<Option<TokenLookup>, StoreError> {
        let row = sqlx::query(
            "SELECT t.*, s.name AS sandbox_name, s.forward_rules AS sandbox_forward FROM tokens t \
             LEFT JOIN sandboxes s ON s.id = t.sandbox_id AND s.phase = 'ready' WHERE t.hash = $1",
        )
        .bind(hash.to_hex())
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(read).transpose()
    }

    /// Every token, newest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn tokens(&self) -> Result<Vec<TokenLookup>, StoreError> {
        let rows = sqlx::query(
            "SELECT t.*, s.name AS sandbox_name, s.forward_rules AS sandbox_forward FROM tokens t LEFT JOIN sandboxes s ON s.id = t.sandbox_id \
             ORDER BY t.created_at DESC, t.id",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(read).collect()
    }

    /// Revokes a token. `false` when there is none with that identifier; revoking twice keeps the first time.
    ///
    /// # Errors
    /// The database failed.
    pub async fn revoke_token(&self, id: &str, now: OffsetDateTime) -> Result<bool, StoreError> {
        sqlx::query("UPDATE tokens SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL")
            .bind(id)
            .bind(millis(now))
            .execute(&self.pool)
            .await?;
        let known: Option<i64> = sqlx::query_scalar("SELECT revoked_at FROM tokens WHERE id = $1")
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        Ok(known.is_some())
    }
}
