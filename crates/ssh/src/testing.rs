//! An in-memory SSH *client* transport for tests. Skeleton: signatures are final.
#![expect(clippy::todo, missing_docs, reason = "skeleton")]

use crate::transport::{Error, Transport};

/// A host key for tests (ed25519, the same every time) and a config around it.
#[must_use]
pub fn server_config() -> crate::transport::Config {
    todo!()
}

/// The client half of a transport.
#[derive(Debug)]
pub struct ClientTransport {
    _private: (),
}

impl ClientTransport {
    /// A client that offers the library's default algorithms.
    #[must_use]
    pub fn new() -> Self {
        todo!()
    }

    /// Runs version and key exchange with `server`, in memory.
    pub fn handshake(&mut self, _server: &mut Transport) {
        todo!()
    }

    /// Seals one payload into the client's output.
    pub fn send(&mut self, _payload: &[u8]) {
        todo!()
    }

    /// Takes bytes to be given to the server.
    pub fn take_output(&mut self) -> Vec<u8> {
        todo!()
    }

    /// Takes bytes that came from the server.
    pub fn receive(&mut self, _bytes: &[u8]) {
        todo!()
    }

    /// The next payload from the server (transport messages are handled inside), if a whole one has arrived.
    pub fn poll_payload(&mut self) -> Option<Vec<u8>> {
        todo!()
    }

    /// Begins a key exchange from the client's side.
    pub fn rekey(&mut self) {
        todo!()
    }

    #[must_use]
    pub fn session_id(&self) -> &[u8] {
        todo!()
    }

    /// Moves all bytes both ways once and returns the upper-layer payloads the server yielded.
    pub fn exchange(&mut self, _server: &mut Transport) -> Result<Vec<Vec<u8>>, Error> {
        todo!()
    }
}
