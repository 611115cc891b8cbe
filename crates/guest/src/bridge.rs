//! Gives an agent that speaks over one pipe a listening Unix socket on the host side, for runtimes that cannot share a socket.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;

use crate::Keepalive;
use crate::relay::SharedRelay;

/// Pause after a failed accept (out of descriptors), so that it is not repeated without end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Carries every connection to `listener` over `trunk` until the trunk ends; then all connections end as well. The listener
/// must be made by the host in a place that the guest cannot reach. A clean end of the trunk is `Ok`.
pub async fn run(listener: UnixListener, trunk: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let relay = SharedRelay::new();
    let _closer = Closer(relay.clone());
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => match relay.accept() {
                    Some(id) => drop(tokio::spawn(relay.clone().run_conn(id, Box::new(stream)))),
                    None => tracing::warn!("a connection to the guest agent was dropped: there are too many"),
                },
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection for the guest agent failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        result = relay.run_trunk(trunk, Keepalive::default()) => result,
        () = accept => Ok(()),
    }
}

/// Ends the clients' tasks also when the caller drops the bridge.
struct Closer(SharedRelay);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.close();
    }
}
