//! What every TCP connection on the host is set to, whichever listener took it or whoever made it. Those inside a sandbox are set to the same where
//! they are made: by `sandgate-guest` those that the gateway holds, by the agent its own.

use std::io;

use sandgate_guest::TCP_IDLE;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Small writes go out at once, and a peer that has vanished is noticed.
///
/// # Errors
/// The connection is gone already.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(TCP_IDLE).with_interval(TCP_IDLE);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_accepted_connection_has_keepalive_and_no_delay() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        let (stream, _) = listener.accept().await.expect("accepted");
        let socket = SockRef::from(&stream);
        assert!(!socket.keepalive().expect("an option"), "the test proves nothing when it is on by itself");
        tune(&stream).expect("tuned");
        assert!(socket.keepalive().expect("an option") && stream.nodelay().expect("an option"));
        assert_eq!(socket.tcp_keepalive_time().expect("an option"), TCP_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().expect("an option"), TCP_IDLE);
        drop(client);
    }
}
