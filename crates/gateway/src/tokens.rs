//! Making, listing and revoking tokens.

use std::sync::Arc;

use sandgate_policy::{
    FileAccess, FileAccessError, ForwardRules, ForwardRulesError, Label, RecordMode, Scopes, SourceNetworks,
    Token, TtlError, TtlPolicy, new_id,
};
use sandgate_store::{Store, StoreError, TokenLookup, TokenRow};
use time::{Duration, OffsetDateTime};

use crate::access::{Access, Revoked};
use crate::audit::Audit;
use crate::sandboxes::Sandboxes;

/// What a new token is to be.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Name of the sandbox that it opens.
    pub sandbox: String,
    /// How long it lives; `None` for the configured default.
    pub ttl: Option<Duration>,
    /// What it is good for; `None` for what [`FileAccess::default_scopes`] says.
    pub scopes: Option<Scopes>,
    /// What the file servers do for it.
    pub files: FileAccess,
    /// What may be forwarded for it.
    pub forward: ForwardRules,
    /// What of its sessions is recorded at least.
    pub record: RecordMode,
    /// A text for people.
    pub label: Label,
    /// Where it may be used from.
    pub sources: SourceNetworks,
}

/// A token that was just made: the only time that its text is known.
#[derive(Debug)]
pub struct CreatedToken {
    /// The secret.
    pub token: Token,
    /// What was stored about it.
    pub row: TokenRow,
}

/// The owner's hand on tokens.
pub struct Tokens {
    store: Arc<Store>,
    access: Arc<Access>,
    sandboxes: Arc<Sandboxes>,
    audit: Arc<Audit>,
    ttl: TtlPolicy,
}

impl Tokens {
    pub(crate) fn new(
        store: Arc<Store>,
        access: Arc<Access>,
        sandboxes: Arc<Sandboxes>,
        audit: Arc<Audit>,
        ttl: TtlPolicy,
    ) -> Tokens {
        Tokens { store, access, sandboxes, audit, ttl }
    }

    /// Makes a token.
    ///
    /// # Errors
    /// No such sandbox, a lifetime or a restriction that is not allowed, or a failure of the store.
    pub async fn create(&self, new: NewToken) -> Result<CreatedToken, TokenError> {
        let Some(sandbox_id) = self.sandboxes.id_of(&new.sandbox) else {
            return Err(TokenError::NoSandbox(new.sandbox));
        };
        let scopes = new.scopes.unwrap_or_else(|| new.files.default_scopes());
        new.files.check(scopes)?;
        new.forward.check(scopes)?;
        let now = OffsetDateTime::now_utc();
        let expires_at = self.ttl.expiry(new.ttl, now)?;
        let token = Token::generate()?;
        let row = TokenRow {
            id: new_id("tok")?,
            prefix: token.shown().to_owned(),
            label: new.label.as_str().to_owned(),
            scopes,
            sandbox_id,
            sources: new.sources,
            files: new.files,
            forward: new.forward,
            record: new.record,
            created_at: now,
            expires_at,
            revoked_at: None,
            last_used_at: None,
        };
        self.store.insert_token(&row, token.hash()).await?;
        let detail = format!("{} for sandbox {}, scopes {}", row.id, new.sandbox, row.scopes);
        self.audit.owner_did("token.create", Some(&row.sandbox_id), detail).await;
        Ok(CreatedToken { token, row })
    }

    /// Every token, newest first.
    ///
    /// # Errors
    /// A failure of the store.
    pub async fn list(&self) -> Result<Vec<TokenLookup>, TokenError> {
        Ok(self.store.tokens().await?)
    }

    /// Revokes a token for good and ends the connections that rest on it. Returns how many those were.
    ///
    /// # Errors
    /// No such token, or a failure of the store.
    pub async fn revoke(&self, id: &str) -> Result<usize, TokenError> {
        if !self.store.revoke_token(id, OffsetDateTime::now_utc()).await? {
            return Err(TokenError::NoToken);
        }
        let ended = self.access.end(Revoked::Token(id.to_owned()), "Your token was revoked.");
        self.audit.owner_did("token.revoke", None, format!("{id}, {ended} connections ended")).await;
        Ok(ended)
    }
}

/// What can go wrong with tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The sandbox is not there.
    #[error("there is no sandbox \"{0}\"")]
    NoSandbox(String),
    /// No such identifier. (It is not repeated: somebody may have pasted the token itself.)
    #[error("there is no token with that id; `sandgate token ls` lists them")]
    NoToken,
    /// The lifetime.
    #[error(transparent)]
    Ttl(#[from] TtlError),
    /// The restriction of the file servers.
    #[error(transparent)]
    Files(#[from] FileAccessError),
    /// The rules for forwarding.
    #[error(transparent)]
    Forward(#[from] ForwardRulesError),
    /// No randomness.
    #[error(transparent)]
    Random(#[from] sandgate_policy::NoRandomness),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}
