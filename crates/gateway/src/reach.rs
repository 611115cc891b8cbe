//! Connections into a sandbox, and listeners in it, on behalf of a principal: for front doors that have no channels of their own for
//! it. Half-closes and errors are those of [`Connection`].

use std::sync::Arc;

use sandgate_driver::Progress;
use sandgate_guest::{Address, Connection, DialSpec, Guest, GuestError, ListenAddress, ListenSpec, Listener};
use sandgate_policy::{Decision, Principal};

use crate::forward::{bind_host, permit};
use crate::gateway::Gateway;
use crate::sandboxes::StartError;

/// Why it could not be reached. Every message is for the user.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// The principal may not do this.
    #[error("{0}")]
    Denied(String),
    /// The sandbox does not run and could not be started.
    #[error("{0}")]
    Sandbox(#[from] StartError),
    /// What the guest says.
    #[error("{0}")]
    Guest(#[from] GuestError),
}

/// Connects to something inside the principal's sandbox, which is started if it does not run. `user`: as whom; `None` for the principal's
/// or the sandbox's own.
///
/// # Errors
/// See [`ReachError`].
pub async fn dial(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    user: Option<Vec<u8>>,
    address: Address,
    progress: &dyn Progress,
) -> Result<Connection, ReachError> {
    let rules = match &address {
        Address::Tcp { host, port } => principal.forward.connect_tcp(host, *port),
        Address::Unix { path } => principal.forward.connect_socket(path),
    };
    let (guest, user) = enter(gateway, principal, rules, user, progress).await?;
    Ok(guest.dial(DialSpec { user, address }).await?)
}

/// Listens inside the principal's sandbox; nothing listens on the host. `user` as for [`dial`].
///
/// # Errors
/// See [`ReachError`].
pub async fn listen(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    user: Option<Vec<u8>>,
    mut address: ListenAddress,
    progress: &dyn Progress,
) -> Result<Listener, ReachError> {
    let rules = match &mut address {
        ListenAddress::Tcp { host, port } => {
            let rules = principal.forward.listen_tcp(host, *port);
            *host = bind_host(host).to_vec();
            rules
        }
        ListenAddress::Unix { path, .. } => principal.forward.listen_socket(path),
        ListenAddress::AgentSocket => {
            Decision::Deny("An agent is forwarded with its session only.".to_owned())
        }
    };
    let (guest, user) = enter(gateway, principal, rules, user, progress).await?;
    Ok(guest.listen(ListenSpec { user, address, backlog: 0 }).await?)
}

async fn enter(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    rules: Decision,
    user: Option<Vec<u8>>,
    progress: &dyn Progress,
) -> Result<(Guest, Option<Vec<u8>>), ReachError> {
    permit(principal, rules).map_err(|denied| ReachError::Denied(denied.to_string()))?;
    let guest = gateway.sandboxes.ensure_running(&principal.sandbox_id, progress).await?;
    let user = match user {
        Some(user) => Some(user),
        None => gateway.sandboxes.user_of(principal).await?,
    };
    Ok((guest, user))
}
