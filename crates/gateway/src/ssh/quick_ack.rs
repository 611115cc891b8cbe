//! Acknowledges at once while a client logs in.
//!
//! Stock clients leave Nagle's algorithm on until they have a session, and send the messages of the handshake in several
//! small writes. Each second write then waits for our acknowledgement, and the kernel holds that back for 40 ms when we
//! have nothing to send: twice in every login with OpenSSH's client, three quarters of what `ssh host true` takes on a local
//! network. `TCP_QUICKACK` (tcp(7)) sends what is held back; it is not lasting, so it is set after each read.

use socket2::SockRef;
use tokio::net::TcpStream;

/// Reads that are acknowledged at once: a login with many keys and the start of a session take about 30. Past them a
/// connection carries data, and an acknowledgement for every read would only cost.
const QUICK_READS: u32 = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct QuickAck {
    left: u32,
}

impl QuickAck {
    pub(super) fn new() -> Self {
        Self { left: QUICK_READS }
    }

    /// Something was read, or its end.
    pub(super) fn after_read(&mut self, stream: &TcpStream) {
        if self.left > 0 {
            self.left -= 1;
            // Where it cannot be set, logins are slower and nothing else.
            let _ = SockRef::from(stream).set_tcp_quickack(true);
        }
    }
}
