//! Who may log in: tokens as user names or passwords, and public keys.
//!
//! * A user name that looks like a token *is* the credential: any method is as good as another, `none` above all, since
//!   every client tries that first.
//! * Any other user name is a sandbox; a public key, a certificate or a token given as password opens it.
//!
//! A refusal is always an authentication failure, and takes the same way through the store whether or not the
//! credential exists. Only the holder of a credential that was valid once is told why, in a banner.

use std::sync::Arc;

use sandgate_policy::{Credential, Denied, DenyReason, Principal, token};
use sandgate_ssh::driver::AuthQuestion;
use sandgate_ssh::event::{AuthMethod, Certificate, PublicKey};

use super::connection::Origin;
use crate::certificate::{Possession, Presented};
use crate::expiry::expired;
use crate::gateway::Gateway;
use crate::limits::CredentialGuard;
use crate::session::{ConnectionGuard, EndReason};

/// The methods that can help somebody who names a sandbox.
const SANDBOX_METHODS: &[&str] = &["publickey", "password"];
/// Nothing can help somebody whose token is no good; the RFC wants a list all the same, and with this one no client
/// begins to ask for passwords.
const TOKEN_METHODS: &[&str] = &["publickey"];

/// An authenticated connection's standing: dropped when the connection ends.
pub(super) struct Login {
    pub(super) principal: Principal,
    pub(super) registered: ConnectionGuard,
    _counted: CredentialGuard,
}

impl Login {
    /// Resolves when the credential expires; never, for one that does not.
    pub(super) async fn expired(&self) -> EndReason {
        expired(&self.principal).await
    }
}

/// What came of one attempt.
pub(super) enum Attempt {
    /// The client is in.
    In(Box<Login>),
    /// It may try again; `counts` when a credential was offered and refused.
    Refused { counts: bool },
    /// A key would do; nothing is decided yet.
    Probed,
}

impl Attempt {
    /// A word for traces.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Attempt::In(_) => "accepted",
            Attempt::Refused { .. } => "refused",
            Attempt::Probed => "probed",
        }
    }
}

/// Decides one question.
pub(super) async fn attempt(gateway: Arc<Gateway>, origin: Origin, question: AuthQuestion) -> Attempt {
    let by_token = looks_like_token(question.user());
    let answer = match question.method() {
        _ if by_token => gateway.access.by_token(question.user(), origin.source()).await,
        AuthMethod::Password(secret) if looks_like_token(secret) => {
            let answer = gateway.access.by_token(secret, origin.source()).await;
            answer.and_then(|principal| names_sandbox(principal, question.user()))
        }
        AuthMethod::PublicKeyProbe { key, certificate } => {
            let answer =
                by_key(&gateway, origin, &question, key, certificate.as_deref(), Possession::Claimed).await;
            match answer {
                Ok(_) => question.accept(),
                Err(denied) => {
                    tracing::debug!(client = %origin.peer.client, reason = %denied.log, "key would be refused");
                    // A client does not sign with what is refused here, so this is the only time to say it.
                    if let Some(text) = &denied.public {
                        question.banner(&format!("{text}\r\n"));
                    }
                    question.reject_with_methods(SANDBOX_METHODS);
                }
            }
            return Attempt::Probed;
        }
        AuthMethod::PublicKey { key, certificate, security_key, .. } => {
            let possession = match security_key {
                Some(used) if used.user_verified => Possession::ProvedByVerifiedUser,
                _ => Possession::Proved,
            };
            by_key(&gateway, origin, &question, key, certificate.as_deref(), possession).await
        }
        AuthMethod::None => {
            question.reject_with_methods(SANDBOX_METHODS);
            return Attempt::Refused { counts: false };
        }
        _ => Err(Denied::silent(DenyReason::UnsupportedMethod)),
    };
    if by_token && matches!(question.method(), AuthMethod::PublicKeyProbe { .. }) {
        // The token alone decides, but a probe cannot log anybody in: say no so that the client goes on to the next method.
        question.reject_with_methods(SANDBOX_METHODS);
        return Attempt::Probed;
    }
    let methods = if by_token { TOKEN_METHODS } else { SANDBOX_METHODS };
    match answer.and_then(|principal| admit(&gateway, principal)) {
        Ok(login) => {
            tracing::info!(
                client = %origin.peer.client,
                method = question.method().name(),
                sandbox = login.principal.sandbox_name,
                credential = %login.principal.credential,
                "logged in"
            );
            gateway.metrics.doors.logins.increment();
            gateway.audit.login(&login.principal, origin.peer.client).await;
            question.accept();
            Attempt::In(Box::new(login))
        }
        Err(denied) => {
            tracing::info!(client = %origin.peer.client, method = question.method().name(), reason = %denied.log, "login refused");
            gateway.metrics.doors.logins_refused.increment();
            gateway.audit.login_refused(&denied, origin.peer.client);
            if let Some(text) = &denied.public {
                question.banner(&format!("{text}\r\n"));
            }
            question.reject_with_methods(methods);
            Attempt::Refused { counts: true }
        }
    }
}

/// Whether a name is meant as a token. Whether it is a good one is for the store to say.
fn looks_like_token(name: &[u8]) -> bool {
    name.starts_with(token::PREFIX.as_bytes())
}

async fn by_key(
    gateway: &Gateway,
    origin: Origin,
    question: &AuthQuestion,
    key: &PublicKey,
    certificate: Option<&Certificate>,
    possession: Possession,
) -> Result<Principal, Denied> {
    match certificate {
        None => gateway.access.by_key(question.user(), &key.blob, origin.source()).await,
        Some(certificate) => {
            let presented = Presented { source: origin.source(), possession };
            gateway.access.by_certificate(question.user(), key, certificate, presented).await
        }
    }
}

/// A token given as a password must belong to the sandbox that the user name names.
fn names_sandbox(principal: Principal, user: &[u8]) -> Result<Principal, Denied> {
    if principal.sandbox_name.as_bytes() == user {
        Ok(principal)
    } else {
        Err(Denied::silent(DenyReason::KeyNotForSandbox))
    }
}

/// Enters the connection in the register, within the limit of its credential.
fn admit(gateway: &Gateway, principal: Principal) -> Result<Login, Denied> {
    let limit = gateway.config.limits.max_connections_per_credential;
    let credential = match &principal.credential {
        Credential::Token { id, .. } => format!("token:{id}"),
        Credential::Key { id, .. } => format!("key:{id}"),
        Credential::Certificate { authority_id, fingerprint, .. } => {
            format!("certificate:{authority_id}:{fingerprint}")
        }
        Credential::ApiKey { id, .. } => format!("api-key:{id}"),
        Credential::Local => "local".to_owned(),
    };
    let Some(counted) = gateway.per_credential.enter(&credential, limit) else {
        return Err(Denied::told(
            format!("Too many connections: this credential has {limit} already, the most that is allowed."),
            DenyReason::TooManyConnections,
        ));
    };
    let registered = gateway.registry.connect(principal.clone());
    // Asked after the connection is in the register, so that a revocation in between is not missed.
    if let Some(reason) = gateway.access.revoked_meanwhile(&principal) {
        return Err(Denied::told(reason.text().to_owned(), DenyReason::Revoked));
    }
    Ok(Login { principal, registered, _counted: counted })
}
