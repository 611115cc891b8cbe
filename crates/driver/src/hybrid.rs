//! Vsock ports behind a Unix socket: what Firecracker calls hybrid vsock, and Cloud Hypervisor, libkrun and `vhost-device-vsock` have too.
//!
//! The host connects to the monitor's socket and writes `CONNECT PORT\n`. A line that begins with `OK ` means that the guest has accepted;
//! a port on which nobody listens is the end of the connection without a line.

use std::io::{self, ErrorKind};
use std::path::Path;

use sandgate_guest::Link;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// The longest answer, in bytes: `OK ` and a number of ten digits fit twice.
const MAX_ANSWER: usize = 32;

/// Connects to a port of the guest. The caller sets the deadline.
pub(crate) async fn connect(socket: &Path, port: u32) -> io::Result<Link> {
    handshake(UnixStream::connect(socket).await?, port).await
}

/// Asks for a port on a connection to the monitor. The caller sets the deadline.
pub(crate) async fn handshake(mut stream: UnixStream, port: u32) -> io::Result<Link> {
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    // Byte by byte: what follows the line is the agent's already.
    let mut answer = Vec::new();
    loop {
        match stream.read_u8().await {
            Ok(b'\n') => break,
            Ok(byte) if answer.len() < MAX_ANSWER => answer.push(byte),
            Ok(_) => return Err(strange(&answer)),
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return Err(io::Error::new(
                    ErrorKind::ConnectionRefused,
                    "nobody listens on that port in the guest",
                ));
            }
            Err(error) => return Err(error),
        }
    }
    // No descriptors can be passed through it, although it is a Unix socket.
    if answer.starts_with(b"OK ") { Ok(Link::Stream(Box::new(stream))) } else { Err(strange(&answer)) }
}

fn strange(answer: &[u8]) -> io::Error {
    io::Error::new(
        ErrorKind::InvalidData,
        format!("the monitor answered {:?}", String::from_utf8_lossy(answer)),
    )
}
