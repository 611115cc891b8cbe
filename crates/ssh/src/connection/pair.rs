//! A client and a server connection in memory, for tests and fuzzing. No part of a release build.
#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "test support panics by design")]

use std::sync::Arc;
use std::time::Instant;

use super::{Config, Connection, Event, Verdict, msg};
use crate::codec::Writer;
use crate::testing::{ClientTransport, server_config};

/// The two sides and what the client has received.
#[derive(Debug)]
pub struct Pair {
    /// The client's transport.
    pub client: ClientTransport,
    /// The server.
    pub server: Connection,
    /// Upper-layer payloads that the client has received, in order.
    pub received: Vec<Vec<u8>>,
    /// The time that the server is told.
    pub now: Instant,
    /// What the server would not read yet.
    in_flight: Vec<u8>,
}

impl Pair {
    /// A pair that has exchanged keys.
    #[must_use]
    pub fn new(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(Arc::new(server_config()));
        change(&mut config);
        let now = Instant::now();
        let server = Connection::new(Arc::new(config), now);
        let mut pair =
            Self { client: ClientTransport::new(), server, received: Vec::new(), now, in_flight: Vec::new() };
        pair.settle();
        assert!(pair.client.is_established());
        pair
    }

    /// A pair whose client has logged in, with the announcement of host keys already taken away.
    #[must_use]
    pub fn logged_in(change: impl FnOnce(&mut Config)) -> Self {
        let mut pair = Self::new(change);
        pair.ask_for_login();
        let mut request = Writer::message(msg::USERAUTH_REQUEST);
        request.string("u").string("ssh-connection").string("none");
        pair.send(request);
        let Some(Event::Auth(question)) = pair.server.poll_event() else {
            panic!("a login question is expected")
        };
        pair.server.answer_auth(question.id, Verdict::Accept);
        pair.settle();
        assert!(pair.server.is_authenticated());
        pair.received.clear();
        pair
    }

    /// Asks for the service `ssh-userauth`.
    pub fn ask_for_login(&mut self) {
        let mut request = Writer::message(msg::SERVICE_REQUEST);
        request.string("ssh-userauth");
        self.send(request);
    }

    /// Sends a message and lets everything settle.
    pub fn send(&mut self, message: Writer) {
        self.client.send(message.as_slice());
        self.settle();
    }

    /// Gives the client's output to the server, but not the other way round.
    pub fn push(&mut self) {
        self.in_flight.append(&mut self.client.take_output());
        let mut rest = self.in_flight.as_slice();
        while !rest.is_empty() && self.server.wants_input() {
            let space = self.server.input_space();
            let len = rest.len().min(space.len());
            space[..len].copy_from_slice(&rest[..len]);
            self.server.commit_input(len, self.now);
            rest = &rest[len..];
            self.server.process(self.now);
        }
        let given = self.in_flight.len() - rest.len();
        self.in_flight.drain(..given);
    }

    /// Gives up to `len` bytes of the server's output to the client.
    pub fn pull(&mut self, len: usize) {
        let output = self.server.output();
        let bytes = output[..output.len().min(len)].to_vec();
        self.server.consume_output(bytes.len());
        self.client.receive(&bytes);
        while let Some(payload) = self.client.poll_payload() {
            self.received.push(payload);
        }
        self.server.process(self.now);
    }

    /// Moves bytes both ways until nothing moves.
    pub fn settle(&mut self) {
        loop {
            self.server.process(self.now);
            self.push();
            if self.server.output_len() == 0 {
                break;
            }
            self.pull(usize::MAX);
        }
    }

    /// Takes what the client has received.
    pub fn take(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.received)
    }

    /// The message numbers of what the client has received, which is taken.
    pub fn take_kinds(&mut self) -> Vec<u8> {
        self.take().iter().map(|payload| *payload.first().unwrap()).collect()
    }
}
