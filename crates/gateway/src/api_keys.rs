//! API keys, and the logins of browsers that rest on them.
//!
//! A browser hands in its key once and holds a cookie instead, so that no script and no page ever has the key. The cookie's hash is kept
//! here in memory: a login ends with the gateway, with the key, or after [`LOGIN_LIFE`]. The same goes for login codes, which the link of
//! `sandgate up` carries.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use sandgate_policy::{
    ApiKey, Credential, KeyName, NoRandomness, Role, TokenHash, check_api_key, hash_presented, new_id,
};
use sandgate_store::{ApiKeyRow, Store, StoreError, Use};
use time::{Duration, OffsetDateTime};

use crate::access::{Access, Revoked};
use crate::audit::Audit;

/// How long a browser stays logged in.
pub const LOGIN_LIFE: Duration = Duration::hours(12);
/// How long a key with an end may live: longer than anybody means.
const MOST_LIFE: Duration = Duration::days(36_500);
/// How long a login code is good for.
const CODE_LIFE: Duration = Duration::minutes(15);
/// What login codes begin with, so that nobody takes one for a key.
const CODE_PREFIX: &str = "sgl_";
/// The same of cookies.
const COOKIE_PREFIX: &str = "sgc_";
/// Browsers logged in at once; the oldest login goes first.
const MOST_LOGINS: usize = 1024;
/// Login codes at once; the oldest goes first.
const MOST_CODES: usize = 64;

/// Somebody known to the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// What proved it.
    pub credential: Credential,
    /// What they may do.
    pub role: Role,
    /// When the right ends; `None` is never by itself.
    pub expires_at: Option<OffsetDateTime>,
}

/// What a new key is to be.
#[derive(Debug, Clone)]
pub struct NewApiKey {
    /// Its name.
    pub name: KeyName,
    /// What it is good for.
    pub role: Role,
    /// How long it lives; `None` is until it is revoked.
    pub ttl: Option<Duration>,
}

/// A key that was just made: the only time that its text is known.
#[derive(Debug)]
pub struct CreatedApiKey {
    /// The secret.
    pub key: ApiKey,
    /// What was stored about it.
    pub row: ApiKeyRow,
}

/// A secret of short life, known by its hash.
struct Remembered<T> {
    what: T,
    expires_at: OffsetDateTime,
}

/// Secrets of short life, the number of which is bounded.
struct Memory<T> {
    most: usize,
    secrets: HashMap<TokenHash, Remembered<T>>,
}

impl<T> Memory<T> {
    fn new(most: usize) -> Memory<T> {
        Memory { most, secrets: HashMap::new() }
    }

    fn insert(&mut self, hash: TokenHash, what: T, expires_at: OffsetDateTime, now: OffsetDateTime) {
        self.secrets.retain(|_, kept| kept.expires_at > now);
        if self.secrets.len() >= self.most {
            let oldest = self.secrets.iter().min_by_key(|(_, kept)| kept.expires_at).map(|(hash, _)| *hash);
            if let Some(oldest) = oldest {
                self.secrets.remove(&oldest);
            }
        }
        self.secrets.insert(hash, Remembered { what, expires_at });
    }

    fn get(&self, hash: &TokenHash, now: OffsetDateTime) -> Option<&T> {
        self.secrets.get(hash).filter(|kept| kept.expires_at > now).map(|kept| &kept.what)
    }

    fn take(&mut self, hash: &TokenHash, now: OffsetDateTime) -> Option<T> {
        self.secrets.remove(hash).filter(|kept| kept.expires_at > now).map(|kept| kept.what)
    }
}

/// What a browser's login rests on.
#[derive(Debug, Clone)]
enum Basis {
    /// The key with this identifier.
    Key(String),
    /// The owner of the data directory, who made a code.
    Owner,
}

/// The owner's hand on API keys, and who is behind one.
pub struct ApiKeys {
    store: Arc<Store>,
    access: Arc<Access>,
    audit: Arc<Audit>,
    logins: Mutex<Memory<Basis>>,
    codes: Mutex<Memory<()>>,
}

impl ApiKeys {
    pub(crate) fn new(store: Arc<Store>, access: Arc<Access>, audit: Arc<Audit>) -> ApiKeys {
        let (logins, codes) = (Mutex::new(Memory::new(MOST_LOGINS)), Mutex::new(Memory::new(MOST_CODES)));
        ApiKeys { store, access, audit, logins, codes }
    }

    /// Makes a key.
    ///
    /// # Errors
    /// The name is taken, the lifetime makes no sense, or a failure of the store.
    pub async fn create(&self, new: NewApiKey) -> Result<CreatedApiKey, ApiKeyError> {
        let now = OffsetDateTime::now_utc();
        let expires_at = match new.ttl {
            None => None,
            Some(ttl) if !ttl.is_positive() || ttl > MOST_LIFE => return Err(ApiKeyError::Ttl),
            Some(ttl) => Some(now.checked_add(ttl).ok_or(ApiKeyError::Ttl)?),
        };
        let key = ApiKey::generate()?;
        let row = ApiKeyRow {
            id: new_id("api")?,
            prefix: key.shown().to_owned(),
            name: new.name.as_str().to_owned(),
            role: new.role,
            created_at: now,
            expires_at,
            revoked_at: None,
            last_used_at: None,
        };
        match self.store.insert_api_key(&row, key.hash()).await {
            Ok(()) => {}
            Err(StoreError::Exists) => return Err(ApiKeyError::Exists(new.name)),
            Err(error) => return Err(error.into()),
        }
        self.audit
            .owner_did("api-key.create", None, format!("{} {}, role {}", row.id, row.name, row.role))
            .await;
        Ok(CreatedApiKey { key, row })
    }

    /// Every key, newest first.
    ///
    /// # Errors
    /// A failure of the store.
    pub async fn list(&self) -> Result<Vec<ApiKeyRow>, ApiKeyError> {
        Ok(self.store.api_keys().await?)
    }

    /// Revokes a key for good and ends the terminals and logins that rest on it. Returns how many connections those were.
    ///
    /// # Errors
    /// No such key, or a failure of the store.
    pub async fn revoke(&self, id: &str) -> Result<usize, ApiKeyError> {
        let Some(row) = self.store.revoke_api_key(id, OffsetDateTime::now_utc()).await? else {
            return Err(ApiKeyError::NoKey);
        };
        self.logins.lock().secrets.retain(|_, login| !matches!(&login.what, Basis::Key(held) if held == id));
        let ended = self.access.end(Revoked::ApiKey(id.to_owned()), "Your API key was revoked.");
        let detail = format!("{id} {}, {ended} connections ended", row.name);
        self.audit.owner_did("api-key.revoke", None, detail).await;
        Ok(ended)
    }

    /// Who holds the key that was presented.
    ///
    /// # Errors
    /// Nobody, or somebody whose key has ended, who is told so.
    pub async fn by_key(&self, presented: &[u8]) -> Result<Caller, NotKnown> {
        let found = self.store.api_key_by_hash(hash_presented(presented)).await;
        self.caller(found)
    }

    /// Who holds the cookie that was presented.
    ///
    /// # Errors
    /// As [`Self::by_key`]; also when the login is over.
    pub async fn by_cookie(&self, presented: &[u8]) -> Result<Caller, NotKnown> {
        let basis = self.logins.lock().get(&hash_presented(presented), OffsetDateTime::now_utc()).cloned();
        match basis {
            None => Err(NotKnown::LoginOver),
            Some(Basis::Owner) => {
                Ok(Caller { credential: Credential::Local, role: Role::Admin, expires_at: None })
            }
            Some(Basis::Key(id)) => {
                let found = self.store.api_key(&id).await;
                self.caller(found)
            }
        }
    }

    /// Logs a browser in by a key; gives the cookie.
    ///
    /// # Errors
    /// As [`Self::by_key`].
    pub async fn login(&self, presented: &[u8]) -> Result<(ApiKey, Caller), NotKnown> {
        let caller = self.by_key(presented).await?;
        let Credential::ApiKey { id, .. } = &caller.credential else { return Err(NotKnown::Unknown) };
        let cookie = self.remember(Basis::Key(id.clone()))?;
        Ok((cookie, caller))
    }

    /// Makes a code with which one browser can log in as the owner, once. For the owner alone: no revocation reaches such a login.
    ///
    /// # Errors
    /// The system's random generator failed.
    pub async fn login_code(&self) -> Result<ApiKey, NoRandomness> {
        let (code, now) = (ApiKey::generate_other(CODE_PREFIX)?, OffsetDateTime::now_utc());
        self.codes.lock().insert(code.hash(), (), now + CODE_LIFE, now);
        let detail = format!("good for one login within {} minutes", CODE_LIFE.whole_minutes());
        self.audit.owner_did("login-code.create", None, detail).await;
        Ok(code)
    }

    /// Logs a browser in by a code, which is used up; gives the cookie.
    ///
    /// # Errors
    /// No such code, or no longer.
    pub fn login_by_code(&self, presented: &[u8]) -> Result<(ApiKey, Caller), NotKnown> {
        let now = OffsetDateTime::now_utc();
        self.codes.lock().take(&hash_presented(presented), now).ok_or(NotKnown::UsedCode)?;
        let cookie = self.remember(Basis::Owner)?;
        Ok((cookie, Caller { credential: Credential::Local, role: Role::Admin, expires_at: None }))
    }

    /// Ends a browser's login.
    pub fn logout(&self, presented: &[u8]) {
        self.logins.lock().secrets.remove(&hash_presented(presented));
    }

    fn remember(&self, basis: Basis) -> Result<ApiKey, NotKnown> {
        let cookie = ApiKey::generate_other(COOKIE_PREFIX).map_err(|_| NotKnown::NotNow)?;
        let now = OffsetDateTime::now_utc();
        self.logins.lock().insert(cookie.hash(), basis, now + LOGIN_LIFE, now);
        Ok(cookie)
    }

    fn caller(&self, found: Result<Option<ApiKeyRow>, StoreError>) -> Result<Caller, NotKnown> {
        let found = found.map_err(|error| {
            tracing::error!(%error, "an API key could not be looked up");
            NotKnown::NotNow
        })?;
        let row = found.ok_or(NotKnown::Unknown)?;
        let now = OffsetDateTime::now_utc();
        check_api_key(row.expires_at, row.revoked_at, now).map_err(NotKnown::Ended)?;
        self.store.note_use(Use::ApiKey { id: row.id.clone(), at: now });
        Ok(Caller {
            credential: Credential::ApiKey { id: row.id, name: row.name },
            role: row.role,
            expires_at: row.expires_at,
        })
    }
}

/// Why somebody is not known. Every message is a sentence that they may read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotKnown {
    /// No such key.
    #[error("This API key is not known.")]
    Unknown,
    /// It was one once.
    #[error("{0}")]
    Ended(String),
    /// The cookie.
    #[error("You are not logged in any more.")]
    LoginOver,
    /// The code of a link.
    #[error("This login link was used already, or is too old; `sandgate login-link` prints a new one.")]
    UsedCode,
    /// The store or the random generator.
    #[error("Logins do not work at the moment; the gateway's log says why.")]
    NotNow,
}

/// What can go wrong with API keys.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    /// The name is taken.
    #[error("there is already an API key \"{0}\"")]
    Exists(KeyName),
    /// No such identifier. (It is not repeated: somebody may have pasted the key itself.)
    #[error("there is no API key with that id; `sandgate api-key ls` lists them")]
    NoKey,
    /// The lifetime.
    #[error("the lifetime of an API key must be from a second to a hundred years")]
    Ttl,
    /// No randomness.
    #[error(transparent)]
    Random(#[from] NoRandomness),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(text: &str) -> TokenHash {
        hash_presented(text.as_bytes())
    }

    #[test]
    fn a_memory_forgets_in_time_and_at_its_bound() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let at = |seconds| now + Duration::seconds(seconds);
        let mut memory = Memory::new(2);
        memory.insert(hash("a"), 'a', at(10), now);
        memory.insert(hash("b"), 'b', at(20), now);
        assert_eq!(memory.get(&hash("a"), at(9)), Some(&'a'));
        assert_eq!(memory.get(&hash("a"), at(10)), None, "its time is over");
        memory.insert(hash("c"), 'c', at(30), now);
        assert_eq!(memory.get(&hash("a"), now), None, "the oldest made room");
        assert_eq!(memory.take(&hash("b"), now), Some('b'));
        assert_eq!(memory.take(&hash("b"), now), None, "once");
        memory.insert(hash("d"), 'd', at(40), at(35));
        assert_eq!(memory.secrets.len(), 1, "what is over is not kept");
    }
}
