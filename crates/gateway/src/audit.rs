//! The audit trail and the session rows: what happened, by whom, from where. Never a secret.
//!
//! What is written here is bounded by what credential holders do. Failures of strangers (unknown tokens, unknown keys)
//! go to the log only: otherwise anybody who can reach the port could fill the disk through the database.

use std::net::SocketAddr;
use std::sync::Arc;

use sandgate_policy::{Credential, Denied, Principal};
use sandgate_store::{AuditRow, Record, SessionEnd, SessionRow, Store};
use time::OffsetDateTime;

use crate::session::SessionInfo;

tokio::task_local! {
    /// Who is behind the request that this task serves. Set by [`acting_as`] alone.
    static ACTOR: Actor;
}

/// Who did something by the API.
#[derive(Debug, Clone)]
pub struct Actor {
    /// As a person would name it. Never a secret.
    pub name: String,
    /// From which address; `None` on the control socket.
    pub client: Option<SocketAddr>,
}

impl Actor {
    /// Who is behind the request that this task serves; the owner, where nobody said.
    #[must_use]
    pub fn current() -> Actor {
        ACTOR
            .try_with(Actor::clone)
            .unwrap_or_else(|_| Actor { name: Credential::Local.to_string(), client: None })
    }
}

/// Serves a request for `actor`: what is done within goes into the audit trail under that name. A task that is spawned within needs it
/// again, with [`Actor::current`].
pub async fn acting_as<T>(actor: Actor, request: impl Future<Output = T>) -> T {
    ACTOR.scope(actor, request).await
}

/// Writes what happened into the store, by way of its writer's queue.
pub struct Audit {
    store: Arc<Store>,
}

impl Audit {
    pub(crate) fn new(store: Arc<Store>) -> Audit {
        Audit { store }
    }

    /// Something that was done by the API, such as `token.create`; who did it is in [`Actor::current`]. Waits while the queue is full.
    pub async fn owner_did(&self, action: &str, sandbox_id: Option<&str>, detail: String) {
        let actor = Actor::current();
        tracing::info!(action, sandbox = sandbox_id, actor = actor.name, detail, "done");
        self.store
            .record(Record::Audit(AuditRow {
                at: OffsetDateTime::now_utc(),
                action: action.to_owned(),
                sandbox_id: sandbox_id.map(str::to_owned),
                actor: actor.name,
                client: actor.client.map(|client| client.to_string()),
                detail,
            }))
            .await;
    }

    /// Somebody logged in. Waits while the queue is full.
    pub async fn login(&self, principal: &Principal, client: SocketAddr) {
        let mut detail = format!("scopes {}", principal.scopes);
        if let Credential::Certificate { fingerprint, .. } = &principal.credential {
            detail.push_str(&format!(", key {fingerprint}"));
        }
        self.store
            .record(Record::Audit(AuditRow {
                at: OffsetDateTime::now_utc(),
                action: "login".to_owned(),
                sandbox_id: Some(principal.sandbox_id.clone()),
                actor: principal.credential.to_string(),
                client: Some(client.to_string()),
                detail,
            }))
            .await;
    }

    /// Somebody was refused. Recorded when a credential that was valid once was used, see above.
    pub fn login_refused(&self, denied: &Denied, client: SocketAddr) {
        let Some(told) = &denied.public else { return };
        self.store.record_later(Record::Audit(AuditRow {
            at: OffsetDateTime::now_utc(),
            action: "login.refused".to_owned(),
            sandbox_id: None,
            actor: "holder of a former credential".to_owned(),
            client: Some(client.to_string()),
            detail: format!("{}: {told}", denied.log.as_str()),
        }));
    }

    /// A file server changed something. Waits while the queue is full.
    pub(crate) async fn file_changed(&self, row: AuditRow) {
        self.store.record(Record::Audit(row)).await;
    }

    /// A forwarded agent was used, or was to be. Waits while the queue is full.
    pub(crate) async fn agent_used(&self, row: AuditRow) {
        self.store.record(Record::Audit(row)).await;
    }

    /// As [`Self::agent_used`], from a destructor. There are few of those: a request that was under way for each connection.
    pub(crate) fn agent_used_last(&self, row: AuditRow) {
        self.store.record_later(Record::Audit(row));
    }

    /// Waits until the queue has room for what a session will bring.
    pub(crate) async fn room(&self) {
        self.store.room().await;
    }

    /// A session began.
    pub fn session_started(&self, session: &SessionInfo) {
        self.store.record_later(Record::SessionStarted(SessionRow {
            id: session.id.clone(),
            sandbox_id: session.sandbox_id.clone(),
            sandbox_name: session.sandbox.clone(),
            credential: session.credential.clone(),
            kind: session.kind.as_str().to_owned(),
            pty: session.pty,
            client: session.client.map(|client| client.to_string()),
            started_at: session.started_at,
        }));
    }

    /// A session ended; `outcome` is for people.
    pub fn session_finished(&self, id: &str, outcome: &str, bytes_in: u64, bytes_out: u64) {
        self.store.record_later(Record::SessionEnded(SessionEnd {
            id: id.to_owned(),
            ended_at: OffsetDateTime::now_utc(),
            outcome: outcome.to_owned(),
            bytes_in,
            bytes_out,
        }));
    }
}
