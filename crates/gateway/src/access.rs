//! Who gets in: from a presented token or key to a [`Principal`], and the end of access that was taken back.
//!
//! Every attempt takes the same way whether or not the credential exists: hash, one read of the store, then the answer.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sandgate_policy::{
    Credential, Denied, DenyReason, FileAccess, ForwardAccess, ForwardRules, Principal, Scopes,
    SessionAccess, TokenState, TypedToken, certificate_label, check_token, hash_presented,
};
use sandgate_ssh::event::{Certificate, PublicKey};
use sandgate_store::{KeyLookup, OpenedSandbox, Store, Use};
use ssh_key::HashAlg;
use time::OffsetDateTime;

use crate::certificate::{self, Granted, Presented};
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
    /// The key with this identifier, and all certificates that it signed.
    Key(String),
    /// The API key with this identifier.
    ApiKey(String),
    /// Every access to the sandbox with this identifier.
    Sandbox(String),
}

impl Revoked {
    fn concerns(&self, principal: &Principal) -> bool {
        match (self, &principal.credential) {
            (Revoked::Sandbox(id), _) => *id == principal.sandbox_id,
            (Revoked::Token(id), Credential::Token { id: held, .. })
            | (Revoked::ApiKey(id), Credential::ApiKey { id: held, .. }) => id == held,
            (
                Revoked::Key(id),
                Credential::Key { id: held, .. } | Credential::Certificate { authority_id: held, .. },
            ) => id == held,
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
            files: token.files,
            forward: ForwardAccess { credential: token.forward, sandbox: found.sandbox_forward },
            session: SessionAccess { record: token.record, ..SessionAccess::default() },
        })
    }

    /// Who holds the key with this public blob (RFC 4253 §6.6) and asks for the sandbox of that name. The signature is not checked
    /// here: the caller asks both for a probe and for a proven key.
    ///
    /// # Errors
    /// [`Denied`], without a public reason: a key that does not fit is no sign of former access.
    pub async fn by_key(&self, name: &[u8], blob: &[u8], source: IpAddr) -> Result<Principal, Denied> {
        let found = self.registered(name, blob).await?;
        if found.authority.is_some() {
            return Err(Denied::silent(DenyReason::UnknownKey));
        }
        let sandbox = opened(found.sandbox, &found.name, source)?;
        self.store.note_use(Use::Key { id: found.id.clone(), at: OffsetDateTime::now_utc() });
        Ok(Principal {
            sandbox_id: sandbox.id,
            sandbox_name: sandbox.name,
            credential: Credential::Key { id: found.id, name: found.name },
            scopes: Scopes::all(),
            expires_at: None,
            login_user: None,
            files: FileAccess::default(),
            forward: ForwardAccess { credential: ForwardRules::default(), sandbox: sandbox.forward },
            session: SessionAccess::default(),
        })
    }

    /// Who holds `certificate` around `key` and asks for the sandbox of that name. The authority's signature was checked when the certificate
    /// was read; that of the key's holder is for the caller, as in [`Self::by_key`].
    ///
    /// # Errors
    /// [`Denied`]; told is who has a certificate of a registered authority, for that sandbox, whose time is not now.
    pub async fn by_certificate(
        &self,
        name: &[u8],
        key: &PublicKey,
        certificate: &Certificate,
        presented: Presented,
    ) -> Result<Principal, Denied> {
        let found = self.registered(name, &certificate.ca.blob).await?;
        let Some(authority) = found.authority else {
            return Err(Denied::silent(DenyReason::UnknownKey));
        };
        let sandbox = opened(found.sandbox, &found.name, presented.source)?;
        let now = OffsetDateTime::now_utc();
        let Granted { scopes, expires_at, session } =
            certificate::check(certificate, &authority, &sandbox.name, presented, now)?;
        self.store.note_use(Use::Key { id: found.id.clone(), at: now });
        Ok(Principal {
            sandbox_id: sandbox.id,
            sandbox_name: sandbox.name,
            credential: Credential::Certificate {
                authority_id: found.id,
                authority: found.name,
                label: certificate_label(&certificate.key_id),
                serial: certificate.serial,
                fingerprint: key.fingerprint(),
            },
            scopes,
            expires_at,
            login_user: None,
            files: FileAccess::default(),
            forward: ForwardAccess { credential: ForwardRules::default(), sandbox: sandbox.forward },
            session,
        })
    }

    /// The registered key with this public blob, and what it opens of the sandbox of that name.
    async fn registered(&self, name: &[u8], blob: &[u8]) -> Result<KeyLookup, Denied> {
        // What is too long for a name is looked up as the empty one, which does not exist either.
        let name = String::from_utf8_lossy(if name.len() > MAX_NAME { b"" } else { name });
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
        found.filter(|found| same_key(&found.public_key)).ok_or(Denied::silent(DenyReason::UnknownKey))
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

fn opened(sandbox: Option<OpenedSandbox>, key: &str, source: IpAddr) -> Result<OpenedSandbox, Denied> {
    sandbox.ok_or_else(|| {
        tracing::debug!(key, %source, "the key does not open that sandbox");
        Denied::silent(DenyReason::KeyNotForSandbox)
    })
}
