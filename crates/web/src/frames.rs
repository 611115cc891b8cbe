//! The stream of `sandgate exec`: what both ends say once the connection was upgraded.
//!
//! Frames of `sandgate-wire`, all on one stream. The client sends `Stdin`, `Eof`, `Resize`, `Signal` and `Credit` (for output it has
//! taken); the server sends `Stdout`, `Stderr`, `Credit` (for input the process has taken), and last `Exit`, or `Refused` with a sentence
//! when the session was ended otherwise. Each direction begins with [`WINDOW`] bytes of credit, so that neither a process that
//! does not read nor a terminal that does not show holds up what goes the other way.

use sandgate_wire::frame::{Header, Kind};

/// The name in the `Upgrade` header.
pub const PROTOCOL: &str = "sandgate-exec";
/// The one stream.
pub const STREAM: u32 = 1;
/// Bytes of data that may be on their way in each direction.
pub const WINDOW: u32 = sandgate_wire::STREAM_WINDOW;
/// Bytes of data in one frame that we send.
pub const CHUNK: usize = sandgate_wire::frame::MAX_CHUNK;

/// A whole frame.
#[must_use]
pub fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut frame = Header { stream: STREAM, kind, len: payload.len() }.encode().to_vec();
    frame.extend_from_slice(payload);
    frame
}

/// A frame that gives credit.
#[must_use]
pub fn credit(bytes: usize) -> Vec<u8> {
    frame(Kind::Credit, &u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes())
}
