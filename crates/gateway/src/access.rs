//! Who gets in: from a presented token or key to a [`Principal`], and the end of access that was taken back.
//!
//! Every attempt takes the same way whether or not the credential exists: hash, one read of the store, then the answer.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sandgate_policy::{
    Credential, Denied, DenyReason, Principal, Scopes, TokenState, TypedToken, check_token, hash_presented,
};
use sandgate_store::{Store, Use};
use ssh_key::HashAlg;
use time::OffsetDateTime;

use crate::session::{EndReason, Registry};

/// Longest presented sandbox name that is looked up, in bytes. Longer ones cannot exist.
const MAX_NAME: usize = sandgate_policy::name::MAX_SANDBOX_NAME;
/// How long a revocation is remembered for logins that were being decided when it came. Longer than any login may take.
const REMEMBER: Duration = Duration::from_secs(300);
/// Revocations remembered at most; the oldest goes first.
const REMEMBERED: usize = 4096;

/// What was taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revoked {
    /// The token with this identifier.
    Token(String),
    /// The key with this identifier.
    Key(String),
    /// Every access to the sandbox with this identifier.
    Sandbox(String),
}

impl Revoked {
    fn concerns(&self, principal: &Principal) -> bool {
        match (self, &principal.credential) {
            (Revoked::Sandbox(id), _) => *id == principal.sandbox_id,
            (Revoked::Token(id), Credential::Token { id: held, .. }) => id == held,
            (Revoked::Key(id), Credential::Key { id: held, .. }) => id == held,
            _ => false,
        }
    }
}

/// Decides logins.
pub struct Access {
    store: Arc<Store>,
    registry: Arc<Registry>,
    /// Newest last; bounded by [`REMEMBERED`].
    recent: Mutex<VecDeque<(Instant, Revoked, EndReason)>>,
}

impl Access {
    pub(crate) fn new(store: Arc<Store>, registry: Arc<Registry>) -> Access {
        Access { store, registry, recent: Mutex::default() }
    }

    /// Who holds the token that was presented, as a user name or as a password.
    ///
    /// # Errors
    /// [`Denied`]; only the holder of a token that was valid once is told why.
    pub async fn by_token(&self, presented: &[u8], source: IpAddr) -> Result<Principal, Denied> {
        // No shortcut for names that cannot be tokens: the answer must take the same time for all.
        let found = self.store.token_by_hash(hash_presented(presented)).await;
        let now = OffsetDateTime::now_utc();
        let found = found.map_err(|error| {
            tracing::error!(%error, "a token could not be looked up");
            Denied::silent(DenyReason::StoreFailed)
        })?;
        let Some(found) = found else {
            return Err(Denied::silent(match TypedToken::parse(presented) {
                TypedToken::Whole(_) => DenyReason::UnknownToken,
                TypedToken::Mistyped => DenyReason::Mistyped,
                TypedToken::NotAToken => DenyReason::NotAToken,
            }));
        };
        let token = found.token;
        let state = TokenState {
            expires_at: token.expires_at,
            revoked_at: token.revoked_at,
            sources: &token.sources,
        };
        check_token(&state, source, now)?;
        let Some(sandbox_name) = found.sandbox_name else {
            return Err(Denied::told(
                "The sandbox of this token no longer exists.".to_owned(),
                DenyReason::SandboxGone,
            ));
        };
        self.store.note_use(Use::Token { id: token.id.clone(), at: now });
        Ok(Principal {
            sandbox_id: token.sandbox_id,
            sandbox_name,
            credential: Credential::Token { id: token.id, label: token.label, prefix: token.prefix },
            scopes: token.scopes,
            expires_at: Some(token.expires_at),
            login_user: None,
        })
    }

    /// Who holds the key with this public blob (RFC 4253 §6.6) and asks for the sandbox of that name. The signature is not checked
    /// here: the caller asks both for a probe and for a proven key.
    ///
    /// # Errors
    /// [`Denied`], without a public reason: a key that does not fit is no sign of former access.
    pub async fn by_key(&self, sandbox: &[u8], blob: &[u8], source: IpAddr) -> Result<Principal, Denied> {
        // What is too long for a name is looked up as the empty one, which does not exist either.
        let name = String::from_utf8_lossy(if sandbox.len() > MAX_NAME { b"" } else { sandbox });
        let Ok(key) = ssh_key::PublicKey::from_bytes(blob) else {
            return Err(Denied::silent(DenyReason::UnknownKey));
        };
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        let found = self.store.key_for_sandbox(&fingerprint, &name).await.map_err(|error| {
            tracing::error!(%error, "a public key could not be looked up");
            Denied::silent(DenyReason::StoreFailed)
        })?;
        // The fingerprint is a SHA-256 and suffices; comparing the whole key costs nothing and needs no argument.
        let same_key = |stored: &str| {
            ssh_key::PublicKey::from_openssh(stored).is_ok_and(|stored| stored.key_data() == key.key_data())
        };
        let Some(found) = found.filter(|found| same_key(&found.public_key)) else {
            return Err(Denied::silent(DenyReason::UnknownKey));
        };
        let Some((sandbox_id, sandbox_name)) = found.sandbox else {
            tracing::debug!(key = found.name, %source, "the key does not open that sandbox");
            return Err(Denied::silent(DenyReason::KeyNotForSandbox));
        };
        self.store.note_use(Use::Key { id: found.id.clone(), at: OffsetDateTime::now_utc() });
        Ok(Principal {
            sandbox_id,
            sandbox_name,
            credential: Credential::Key { id: found.id, name: found.name },
            scopes: Scopes::all(),
            expires_at: None,
            login_user: None,
        })
    }

    /// Whether the access of `principal` was taken back while its login was being decided. To be asked right *after* the
    /// connection is in the register: a revocation finds it there or is remembered here, and none slips through between.
    pub fn revoked_meanwhile(&self, principal: &Principal) -> Option<EndReason> {
        let recent = self.recent.lock();
        recent
            .iter()
            .rev()
            .find(|(_, revoked, _)| revoked.concerns(principal))
            .map(|(_, _, reason)| reason.clone())
    }

    /// Ends every live connection that rests on what was taken back. The store must know already. Returns how many.
    pub(crate) fn end(&self, revoked: Revoked, reason: &str) -> usize {
        let reason = EndReason::new(reason);
        let now = Instant::now();
        let mut recent = self.recent.lock();
        while recent.len() >= REMEMBERED
            || recent.front().is_some_and(|(at, _, _)| now.saturating_duration_since(*at) > REMEMBER)
        {
            recent.pop_front();
        }
        recent.push_back((now, revoked.clone(), reason.clone()));
        drop(recent);
        self.registry.end_connections(|principal| revoked.concerns(principal), &reason)
    }

    /// Ends every live connection to a sandbox that may be used again later (it is being stopped).
    pub(crate) fn interrupt_sandbox(&self, sandbox_id: &str, reason: &str) -> usize {
        self.registry.end_connections(|principal| principal.sandbox_id == sandbox_id, &EndReason::new(reason))
    }
}
