//! The user's agent, for whoever connects to its socket inside.

use std::path::PathBuf;
use std::sync::Arc;

use sandgate_guest::Listener;
use tokio::net::UnixStream;

use super::bridge::join;
use crate::session::{Notices, words};

/// Joins every connection from inside with one of its own to the agent, until the listener ends with the session. How many there are at once is bounded
/// by the gateway.
pub async fn serve(mut listener: Listener, agent: PathBuf, notices: Arc<Notices>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let incoming = match listener.accept().await {
            Ok(incoming) => incoming,
            Err(error) => {
                return notices.say(&format!("the agent is no longer forwarded: {}", words(&error)));
            }
        };
        let (agent, notices) = (agent.clone(), notices.clone());
        connections.spawn(async move {
            // Not taking the connection tells the gateway, which asks again a few times before whoever asks inside hears of it.
            let local = match UnixStream::connect(&agent).await {
                Ok(local) => local,
                Err(error) => return notices.say(&format!("the agent cannot be reached: {error}")),
            };
            let joined = match incoming.accept().await {
                Ok(connection) => join(local, connection).await,
                Err(error) => Err(error),
            };
            if let Err(error) = joined {
                notices.say(&format!("a connection to the agent was lost: {}", words(&error)));
            }
        });
    }
}
