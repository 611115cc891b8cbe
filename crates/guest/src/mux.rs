//! Reaching an agent over one byte pipe (the stdin and stdout of an exec API).

use std::io;

use tokio::task::JoinHandle;

use crate::relay::SharedRelay;
use crate::{BoxFuture, ByteStream, Dial, Keepalive, Link};

/// Bytes that may be under way between a link and the relay, each way.
const LINK_BUFFER: usize = 64 * 1024;

/// A [`Dial`] whose links share one byte pipe. Dropping it ends the pipe and every link.
pub struct MuxDial {
    relay: SharedRelay,
    trunk: JoinHandle<()>,
}

impl MuxDial {
    /// Starts carrying frames over `trunk`, at whose other end an agent runs with `--stdio`. Must be called inside a tokio runtime.
    pub fn new(trunk: impl ByteStream + 'static) -> Self {
        Self::with_keepalive(trunk, Keepalive::default())
    }

    /// As [`MuxDial::new`]. The pipe has a keepalive of its own: when the agent falls silent every link ends, and the pipe stays.
    pub fn with_keepalive(trunk: impl ByteStream + 'static, keepalive: Keepalive) -> Self {
        let relay = SharedRelay::new();
        let runner = relay.clone();
        let trunk = tokio::spawn(async move {
            if let Err(error) = runner.run_trunk(trunk, keepalive).await {
                tracing::warn!(%error, "the shared link to a guest agent has failed");
            }
        });
        Self { relay, trunk }
    }

    /// Ends the pipe and every link.
    pub fn close(&self) {
        self.relay.close();
    }

    /// Whether the pipe has ended; no new link can be had then.
    pub fn is_closed(&self) -> bool {
        self.relay.is_closed()
    }
}

impl Dial for MuxDial {
    fn dial(&self) -> BoxFuture<'_, io::Result<Link>> {
        Box::pin(async move {
            if self.relay.is_closed() {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let busy = || io::Error::other("too many links over the shared pipe to this guest agent");
            let id = self.relay.accept().ok_or_else(busy)?;
            let (ours, theirs) = tokio::io::duplex(LINK_BUFFER);
            tokio::spawn(self.relay.clone().run_conn(id, Box::new(theirs)));
            Ok(Link::Stream(Box::new(ours)))
        })
    }
}

impl Drop for MuxDial {
    fn drop(&mut self) {
        self.relay.close();
        self.trunk.abort();
    }
}
