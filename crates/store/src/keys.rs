//! The table of public keys, and which sandboxes each opens.

use std::collections::HashMap;

use sandgate_policy::{CertAuthority, ForwardRules, Principals};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use time::OffsetDateTime;

use crate::rows::{maybe_time, millis, rules, time};
use crate::{Store, StoreError};

/// Which sandboxes a key opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySandboxes {
    /// All, also those made later.
    Every,
    /// Those with these identifiers. Empty once the last of them was removed; it never becomes "every".
    Only(Vec<String>),
}

/// One public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// Identifier.
    pub id: String,
    /// Unique name.
    pub name: String,
    /// `SHA256:…`, unique.
    pub fingerprint: String,
    /// The key in OpenSSH's one-line form, without comment.
    pub public_key: String,
    /// What it opens.
    pub sandboxes: KeySandboxes,
    /// Set for an authority, which signs certificates and does not log in itself.
    pub authority: Option<CertAuthority>,
    /// When it was added.
    pub created_at: OffsetDateTime,
    /// When it was last used, as far as noted.
    pub last_used_at: Option<OffsetDateTime>,
}

/// What is known about a key that asks for a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyLookup {
    /// Identifier of the key.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The key itself, to be compared with the one presented.
    pub public_key: String,
    /// Set for an authority, which signs certificates and does not log in itself.
    pub authority: Option<CertAuthority>,
    /// The sandbox, if it exists and this key opens it.
    pub sandbox: Option<OpenedSandbox>,
}

/// The sandbox that a key opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedSandbox {
    /// Identifier.
    pub id: String,
    /// Name.
    pub name: String,
    /// What it allows to be forwarded.
    pub forward: ForwardRules,
}

impl Store {
    /// Adds a key.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when the name or the key is there already.
    pub async fn insert_key(&self, key: &KeyRow) -> Result<(), StoreError> {
        let mut change = self.pool.begin().await?;
        sqlx::query(
            "INSERT INTO public_keys (id, name, fingerprint, public_key, every_sandbox, authority_principals, \
             created_at, last_used_at) VALUES ($1, $2, $3, $4, $5, $6, $7, NULL)",
        )
        .bind(&key.id)
        .bind(&key.name)
        .bind(&key.fingerprint)
        .bind(&key.public_key)
        .bind(i64::from(key.sandboxes == KeySandboxes::Every))
        .bind(key.authority.as_ref().map(|authority| authority.principals.to_string()))
        .bind(millis(key.created_at))
        .execute(&mut *change)
        .await?;
        if let KeySandboxes::Only(sandboxes) = &key.sandboxes {
            for sandbox in sandboxes {
                sqlx::query("INSERT INTO key_sandboxes (key_id, sandbox_id) VALUES ($1, $2)")
                    .bind(&key.id)
                    .bind(sandbox)
                    .execute(&mut *change)
                    .await?;
            }
        }
        change.commit().await?;
        Ok(())
    }

    /// What is known about the key with that fingerprint, when it asks for the sandbox of that name.
    ///
    /// # Errors
    /// The database failed.
    pub async fn key_for_sandbox(
        &self,
        fingerprint: &str,
        sandbox: &str,
    ) -> Result<Option<KeyLookup>, StoreError> {
        let row = sqlx::query(
            "SELECT k.id, k.name, k.public_key, k.every_sandbox, k.authority_principals, s.id AS sandbox_id, \
             s.name AS sandbox_name, s.forward_rules, ks.key_id AS granted FROM public_keys k \
             LEFT JOIN sandboxes s ON s.name = $2 AND s.phase = 'ready' \
             LEFT JOIN key_sandboxes ks ON ks.key_id = k.id AND ks.sandbox_id = s.id \
             WHERE k.fingerprint = $1",
        )
        .bind(fingerprint)
        .bind(sandbox)
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(read_lookup).transpose()
    }

    /// Every key, by name.
    ///
    /// # Errors
    /// The database failed.
    pub async fn keys(&self) -> Result<Vec<KeyRow>, StoreError> {
        let mut sandboxes: HashMap<String, Vec<String>> = HashMap::new();
        let grants = sqlx::query("SELECT key_id, sandbox_id FROM key_sandboxes ORDER BY sandbox_id")
            .fetch_all(&self.pool)
            .await?;
        for grant in &grants {
            sandboxes.entry(grant.try_get("key_id")?).or_default().push(grant.try_get("sandbox_id")?);
        }
        let rows = sqlx::query("SELECT * FROM public_keys ORDER BY name").fetch_all(&self.pool).await?;
        rows.iter().map(|row| read(row, &mut sandboxes)).collect()
    }

    /// Removes the key of that name and gives its identifier, or `None` when there was none.
    ///
    /// # Errors
    /// The database failed.
    pub async fn delete_key(&self, name: &str) -> Result<Option<String>, StoreError> {
        let id: Option<String> = sqlx::query_scalar("SELECT id FROM public_keys WHERE name = $1")
            .bind(name)
            .fetch_optional(&self.pool)
            .await?;
        if let Some(id) = &id {
            sqlx::query("DELETE FROM public_keys WHERE id = $1").bind(id).execute(&self.pool).await?;
        }
        Ok(id)
    }
}

fn read(row: &SqliteRow, sandboxes: &mut HashMap<String, Vec<String>>) -> Result<KeyRow, StoreError> {
    let id: String = row.try_get("id")?;
    let every: i64 = row.try_get("every_sandbox")?;
    let only = sandboxes.remove(&id).unwrap_or_default();
    Ok(KeyRow {
        id,
        name: row.try_get("name")?,
        fingerprint: row.try_get("fingerprint")?,
        public_key: row.try_get("public_key")?,
        sandboxes: if every == 1 { KeySandboxes::Every } else { KeySandboxes::Only(only) },
        authority: authority(row)?,
        created_at: time(row.try_get("created_at")?)?,
        last_used_at: maybe_time(row.try_get("last_used_at")?)?,
    })
}

fn authority(row: &SqliteRow) -> Result<Option<CertAuthority>, StoreError> {
    let principals: Option<&str> = row.try_get("authority_principals")?;
    let Some(principals) = principals else { return Ok(None) };
    let principals =
        Principals::parse(principals).map_err(|_| StoreError::Malformed("list of principals"))?;
    Ok(Some(CertAuthority { principals }))
}

fn read_lookup(row: &SqliteRow) -> Result<KeyLookup, StoreError> {
    let every: i64 = row.try_get("every_sandbox")?;
    let granted: Option<String> = row.try_get("granted")?;
    let sandbox_id: Option<String> = row.try_get("sandbox_id")?;
    let sandbox_name: Option<String> = row.try_get("sandbox_name")?;
    let forward: Option<&str> = row.try_get("forward_rules")?;
    let opens = every == 1 || granted.is_some();
    let sandbox = match (sandbox_id, sandbox_name, forward) {
        (Some(id), Some(name), Some(forward)) if opens => {
            Some(OpenedSandbox { id, name, forward: rules(forward)? })
        }
        _ => None,
    };
    Ok(KeyLookup {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        public_key: row.try_get("public_key")?,
        authority: authority(row)?,
        sandbox,
    })
}
