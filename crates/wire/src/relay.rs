//! Carries many links over one (the *trunk*), by renaming stream ids. No I/O.
//!
//! Where an agent can be reached by a single pipe only, a relay on the host side gives every client its own link again: it
//! answers the client's hello itself and passes all other frames on under a stream id of its own. Credit is passed through
//! untouched, so the relay holds at most what the two ends have granted to each other, and it never stops reading the
//! trunk: no client can delay another.

use std::collections::{HashMap, VecDeque};

use crate::frame::{Decoder, Item, Kind, OutBuf};
use crate::message::{CloseReason, Hello, Reason, Refused};
use crate::mux::MuxError;
use crate::{CAP_PASS_STDIO, CAP_PASS_TERMINAL, CAP_PING, DecodeError, STREAM_WINDOW};

/// Data of clients is no longer taken while more than this many bytes wait for the trunk.
const TRUNK_HIGH_WATER: usize = 128 * 1024;
/// Streams of one client at once; a gateway uses one.
const MAX_STREAMS_PER_CONN: usize = 16;
/// Clients at once.
pub const MAX_CONNS: usize = 2048;
/// Bytes that may wait for a client beyond the windows of its streams: headers and control frames.
const CONN_SLACK: usize = 256 * 1024;

/// A client of the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(u64);

#[derive(Debug, Default)]
struct Conn {
    decoder: Decoder,
    out: OutBuf,
    hello: Option<Hello>,
    /// The client's stream ids and ours.
    streams: HashMap<u32, u32>,
    /// Highest id the client has used.
    last_inner: u32,
    /// To be closed once its output is written.
    closing: bool,
}

/// The state of a relay.
#[derive(Debug)]
pub struct Relay {
    software: String,
    agent: Option<Hello>,
    trunk_in: Decoder,
    trunk_out: OutBuf,
    conns: HashMap<ConnId, Conn>,
    next_conn: u64,
    /// Our stream ids: whose they are and what they are called there.
    outer: HashMap<u32, (ConnId, u32)>,
    last_outer: u32,
    /// Clients with new output. Bounded by the number of clients (each at most once, see `mark`).
    ready: VecDeque<ConnId>,
    /// Bytes that have arrived from the agent; see [`Relay::heard`].
    heard: u64,
}

impl Relay {
    /// `software` is the name for the hello to the agent.
    pub fn new(software: &str) -> Self {
        let mut trunk_out = OutBuf::default();
        trunk_out.push_control(0, Kind::Hello, &Hello::new(software, CAP_PING).encode());
        Self {
            software: software.to_owned(),
            agent: None,
            trunk_in: Decoder::new(),
            trunk_out,
            conns: HashMap::new(),
            next_conn: 0,
            outer: HashMap::new(),
            last_outer: 0,
            ready: VecDeque::new(),
            heard: 0,
        }
    }

    /// How many bytes have come from the agent so far. When it does not change, the agent is silent.
    pub fn heard(&self) -> u64 {
        self.heard
    }

    /// Whether the agent has said that it answers [`Relay::ping`].
    pub fn answers_pings(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.capabilities & CAP_PING != 0)
    }

    /// Asks the agent to answer; see [`crate::mux::Mux::ping`].
    pub fn ping(&mut self, patience: u32) -> bool {
        let knows = self.answers_pings();
        if knows {
            self.trunk_out.push_control(0, Kind::Ping, &patience.to_be_bytes());
        }
        knows
    }

    /// The agent does not answer any more. Every client is told so and marked as closing; the trunk stays, in case that it comes back.
    pub fn agent_is_silent(&mut self, text: &str) {
        let refused = Refused { reason: Reason::Unreachable, text: text.to_owned() }.encode();
        let ids: Vec<ConnId> = self.conns.keys().copied().collect();
        for id in ids {
            self.give_up_streams(id);
            if let Some(c) = self.conns.get_mut(&id) {
                c.out.push_control(0, Kind::Refused, &refused);
                c.closing = true;
            }
            self.mark(id);
        }
    }

    /// Bytes for the agent.
    pub fn trunk_output(&self) -> &[u8] {
        self.trunk_out.output()
    }

    /// `n` of them were written.
    pub fn consume_trunk_output(&mut self, n: usize) {
        self.trunk_out.consume(n);
    }

    /// Whether clients' bytes are taken now: the agent's hello is here and the trunk is not full.
    pub fn takes_conn_input(&self) -> bool {
        self.agent.is_some() && self.trunk_out.len() < TRUNK_HIGH_WATER
    }

    /// Streams that are open on the trunk.
    pub fn stream_count(&self) -> usize {
        self.outer.len()
    }

    /// A new client; `None` when there are too many.
    pub fn accept(&mut self) -> Option<ConnId> {
        if self.conns.len() >= MAX_CONNS {
            return None;
        }
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        self.conns.insert(id, Conn::default());
        Some(id)
    }

    /// The next client that has output to write or is to be closed.
    pub fn poll_ready(&mut self) -> Option<ConnId> {
        self.ready.pop_front()
    }

    /// Bytes for a client.
    pub fn conn_output(&self, id: ConnId) -> &[u8] {
        self.conns.get(&id).map_or(&[], |c| c.out.output())
    }

    /// `n` of them were written.
    pub fn consume_conn_output(&mut self, id: ConnId, n: usize) {
        if let Some(c) = self.conns.get_mut(&id) {
            c.out.consume(n);
        }
    }

    /// Whether the client is to be closed once its output is written (or given up).
    pub fn conn_is_closing(&self, id: ConnId) -> bool {
        self.conns.get(&id).is_none_or(|c| c.closing)
    }

    /// The client has gone: what runs on its streams is ended.
    pub fn conn_closed(&mut self, id: ConnId) {
        if let Some(c) = self.conns.remove(&id) {
            for outer in c.streams.into_values() {
                self.outer.remove(&outer);
                self.trunk_out.push_control(outer, Kind::Close, &CloseReason::Gone.encode());
            }
        }
    }

    /// Takes bytes from a client and returns how many: 0 while [`Self::takes_conn_input`] is false. After an error the client
    /// is marked as closing; nobody else is affected.
    pub fn conn_input(&mut self, id: ConnId, bytes: &[u8]) -> Result<usize, MuxError> {
        let mut rest = bytes;
        let Some(c) = self.conns.get_mut(&id) else { return Ok(bytes.len()) };
        let mut decoder = std::mem::take(&mut c.decoder);
        let mut result = Ok(());
        while result.is_ok() && self.takes_conn_input() {
            match decoder.next(&mut rest) {
                Ok(None) => break,
                Ok(Some(item)) => result = self.on_conn_item(id, item),
                Err(error) => result = Err(error.into()),
            }
        }
        self.mark(id);
        if let Some(c) = self.conns.get_mut(&id) {
            c.decoder = decoder;
            c.closing |= result.is_err();
        }
        result.map(|()| bytes.len() - rest.len())
    }

    /// Takes bytes from the agent. An error means that the whole trunk is useless.
    pub fn trunk_input(&mut self, bytes: &[u8]) -> Result<(), MuxError> {
        let mut rest = bytes;
        self.heard = self.heard.wrapping_add(bytes.len() as u64);
        let mut decoder = std::mem::take(&mut self.trunk_in);
        let mut result = Ok(());
        while result.is_ok() {
            match decoder.next(&mut rest) {
                Ok(None) => break,
                Ok(Some(item)) => result = self.on_trunk_item(item),
                Err(error) => result = Err(error.into()),
            }
        }
        self.trunk_in = decoder;
        result
    }

    /// The trunk has ended: every client is told so and marked as closing.
    pub fn trunk_closed(&mut self) {
        let ids: Vec<ConnId> = self.conns.keys().copied().collect();
        for id in ids {
            if let Some(c) = self.conns.get_mut(&id) {
                c.closing = true;
                c.streams.clear();
            }
            self.mark(id);
        }
        self.outer.clear();
    }

    fn mark(&mut self, id: ConnId) {
        if !self.ready.contains(&id) {
            self.ready.push_back(id);
        }
    }

    fn on_conn_item(&mut self, id: ConnId, item: Item<'_>) -> Result<(), MuxError> {
        let Some(agent) = &self.agent else { return Ok(()) };
        let Some(c) = self.conns.get_mut(&id) else { return Ok(()) };
        if c.hello.is_none() {
            let Item::Control { stream: 0, kind: Kind::Hello, payload } = item else {
                return Err(DecodeError::BadMagic.into());
            };
            let hello = Hello::decode(payload)?;
            // Passed descriptors end here: this is not the agent.
            // Pings are answered here; the agent is asked on the trunk, once for all clients.
            let capabilities = agent.capabilities & !(CAP_PASS_STDIO | CAP_PASS_TERMINAL) | CAP_PING;
            let ours = Hello { capabilities, ..agent.clone() };
            c.out.push_control(0, Kind::Hello, &ours.encode());
            let version = ours.agree(&hello);
            if version.is_none() || hello.window < STREAM_WINDOW {
                let text = format!(
                    "the agent ({}) speaks protocol versions {} to {} with windows of at least {STREAM_WINDOW} bytes",
                    ours.software, ours.version_min, ours.version_max
                );
                c.out.push_control(0, Kind::Refused, &Refused { reason: Reason::Version, text }.encode());
                c.closing = true;
            }
            c.hello = Some(hello);
            return Ok(());
        }
        match item {
            Item::Control { stream: 0, kind: Kind::Ping, .. } => c.out.push_control(0, Kind::Pong, &[]),
            Item::Control { stream: 0, kind: Kind::Pong, .. } => {}
            Item::Data { stream, kind: Kind::Stdin, chunk } => {
                if let Some(outer) = c.streams.get(&stream) {
                    self.trunk_out.push_data(*outer, Kind::Stdin, chunk);
                } else if stream == 0 || stream > c.last_inner {
                    return Err(MuxError::UnknownStream);
                }
            }
            Item::Data { kind, .. } => return Err(MuxError::Unexpected(kind)),
            Item::Control { stream, kind: Kind::Open, payload } => {
                if stream <= c.last_inner {
                    return Err(MuxError::Unexpected(Kind::Open));
                }
                c.last_inner = stream;
                let outer = self.last_outer.checked_add(1);
                let Some(outer) = outer.filter(|_| c.streams.len() < MAX_STREAMS_PER_CONN) else {
                    let text = "too many streams on this link".to_owned();
                    c.out.push_control(
                        stream,
                        Kind::Refused,
                        &Refused { reason: Reason::TooMany, text }.encode(),
                    );
                    return Ok(());
                };
                self.last_outer = outer;
                c.streams.insert(stream, outer);
                self.outer.insert(outer, (id, stream));
                self.trunk_out.push_control(outer, Kind::Open, payload);
                // The agent believes that our own window is the client's.
                let extra =
                    c.hello.as_ref().map_or(0, |h| h.window.saturating_sub(STREAM_WINDOW)).min(STREAM_WINDOW);
                if extra > 0 {
                    self.trunk_out.push_control(outer, Kind::Credit, &extra.to_be_bytes());
                }
            }
            Item::Control { stream, kind, payload } => {
                let from_host = matches!(
                    kind,
                    Kind::Eof
                        | Kind::Resize
                        | Kind::Signal
                        | Kind::Break
                        | Kind::Credit
                        | Kind::Close
                        | Kind::ReaderGone
                        | Kind::Incoming
                );
                if !from_host {
                    return Err(MuxError::Unexpected(kind));
                }
                let Some(outer) = c.streams.get(&stream).copied() else {
                    return if stream == 0 || stream > c.last_inner {
                        Err(MuxError::UnknownStream)
                    } else {
                        Ok(())
                    };
                };
                self.trunk_out.push_control(outer, kind, payload);
                if kind == Kind::Close {
                    c.streams.remove(&stream);
                    self.outer.remove(&outer);
                }
            }
        }
        Ok(())
    }

    fn on_trunk_item(&mut self, item: Item<'_>) -> Result<(), MuxError> {
        let (stream, kind) = match &item {
            Item::Data { stream, kind, .. } | Item::Control { stream, kind, .. } => (*stream, *kind),
        };
        if self.agent.is_none() {
            let Item::Control { stream: 0, kind: Kind::Hello, payload } = item else {
                return Err(DecodeError::BadMagic.into());
            };
            let hello = Hello::decode(payload)?;
            if Hello::new(&self.software, 0).agree(&hello).is_none() {
                return Err(MuxError::Version {
                    software: hello.software,
                    min: hello.version_min,
                    max: hello.version_max,
                });
            }
            self.agent = Some(hello);
            return Ok(());
        }
        if let Item::Control { stream: 0, kind: Kind::Refused, payload } = item {
            return Err(MuxError::LinkRefused(Refused::decode(payload)?));
        }
        match item {
            Item::Control { stream: 0, kind: Kind::Pong, .. } => return Ok(()),
            Item::Control { stream: 0, kind: Kind::Ping, .. } => {
                // An agent that asks faster than it reads waits for its answers.
                if self.trunk_out.len() < TRUNK_HIGH_WATER {
                    self.trunk_out.push_control(0, Kind::Pong, &[]);
                }
                return Ok(());
            }
            _ => {}
        }
        let from_agent = matches!(
            kind,
            Kind::Opened
                | Kind::Refused
                | Kind::Stdout
                | Kind::Stderr
                | Kind::Eof
                | Kind::Exit
                | Kind::Credit
                | Kind::Close
                | Kind::ReaderGone
                | Kind::Incoming
        );
        if !from_agent {
            return Err(MuxError::Unexpected(kind));
        }
        if stream == 0 || stream > self.last_outer {
            return Err(MuxError::UnknownStream);
        }
        let Some((id, inner)) = self.outer.get(&stream).copied() else { return Ok(()) };
        let Some(c) = self.conns.get_mut(&id) else { return Ok(()) };
        match item {
            Item::Data { chunk, .. } => c.out.push_data(inner, kind, chunk),
            Item::Control { payload, .. } => c.out.push_control(inner, kind, payload),
        }
        if matches!(kind, Kind::Refused | Kind::Close) {
            c.streams.remove(&inner);
            self.outer.remove(&stream);
        }
        let window = c.hello.as_ref().map_or(STREAM_WINDOW, |h| h.window).min(2 * STREAM_WINDOW) as usize;
        if c.out.len() > (c.streams.len() + 1) * window + CONN_SLACK {
            // The agent sends without credit. Only this client is cut off: it is the agent's own sandbox that suffers.
            self.overrun(id);
        }
        self.mark(id);
        Ok(())
    }

    fn overrun(&mut self, id: ConnId) {
        if let Some(c) = self.conns.get_mut(&id) {
            c.closing = true;
            c.out = OutBuf::default();
        }
        self.give_up_streams(id);
    }

    /// Ends what runs on a client's streams.
    fn give_up_streams(&mut self, id: ConnId) {
        if let Some(c) = self.conns.get_mut(&id) {
            for outer in std::mem::take(&mut c.streams).into_values() {
                self.outer.remove(&outer);
                self.trunk_out.push_control(outer, Kind::Close, &CloseReason::Gone.encode());
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::message::{Exit, Open, Opened};
    use crate::mux::{Event, Mux, Role};

    struct Pair {
        relay: Relay,
        agent: Mux,
    }

    impl Pair {
        fn new() -> Self {
            Self {
                relay: Relay::new("relay"),
                agent: Mux::new(Role::Agent, Hello::new("agent", CAP_PASS_STDIO)),
            }
        }

        /// Moves trunk bytes both ways until nothing moves.
        fn trunk(&mut self) -> Vec<Event> {
            let mut events = Vec::new();
            loop {
                let a = self.relay.trunk_output().to_vec();
                let n = self.agent.input(&a).unwrap();
                self.relay.consume_trunk_output(n);
                while let Some(e) = self.agent.poll_event() {
                    events.push(e);
                }
                let b = self.agent.output().to_vec();
                self.relay.trunk_input(&b).unwrap();
                self.agent.consume_output(b.len());
                if a.is_empty() && b.is_empty() {
                    return events;
                }
            }
        }

        /// Moves client bytes both ways.
        fn client(&mut self, id: ConnId, client: &mut Mux) -> Vec<Event> {
            let mut events = Vec::new();
            let a = client.output().to_vec();
            let n = self.relay.conn_input(id, &a).unwrap();
            client.consume_output(n);
            let b = self.relay.conn_output(id).to_vec();
            assert_eq!(client.input(&b), Ok(b.len()));
            self.relay.consume_conn_output(id, b.len());
            while let Some(e) = client.poll_event() {
                events.push(e);
            }
            events
        }
    }

    #[test]
    fn two_clients_share_a_trunk_and_do_not_delay_each_other() {
        let mut p = Pair::new();
        p.trunk();
        let (a, b) = (p.relay.accept().unwrap(), p.relay.accept().unwrap());
        let mut ca = Mux::new(Role::Host, Hello::new("a", CAP_PASS_STDIO));
        let mut cb = Mux::new(Role::Host, Hello::new("b", CAP_PASS_STDIO));
        let (sa, sb) = (ca.open(&Open::Info).unwrap(), cb.open(&Open::Info).unwrap());
        assert_eq!((sa, sb), (1, 1));
        p.client(a, &mut ca);
        p.client(b, &mut cb);
        assert_eq!(p.trunk().iter().filter(|e| matches!(e, Event::Open(..))).count(), 2);
        assert_eq!(ca.peer().unwrap().capabilities & CAP_PASS_STDIO, 0, "descriptors cannot pass a relay");
        for id in [1, 2] {
            p.agent.opened(id, &Opened::Exec { passed_stdio: false, own: false });
        }
        // Client a never reads: the agent can send it one window and no more, while b gets all.
        let mut sent_a = 0;
        let mut got_b = 0;
        for _ in 0..200 {
            sent_a += p.agent.send_data(1, Kind::Stdout, &[1; 10_000]);
            p.agent.send_data(2, Kind::Stdout, &[2; 10_000]);
            p.trunk();
            p.client(b, &mut cb);
            let mut buf = [0; 20_000];
            got_b += cb.read(1, Kind::Stdout, &mut buf);
        }
        assert_eq!(sent_a, STREAM_WINDOW as usize);
        assert_eq!(got_b, 200 * 10_000);
        p.agent.send_exit(2, &Exit::Code(3));
        p.trunk();
        assert!(p.client(b, &mut cb).contains(&Event::Exit(1, Exit::Code(3))));
        // Client a goes away: the agent hears of its stream only.
        p.relay.conn_closed(a);
        assert_eq!(p.trunk(), vec![Event::Closed(1, CloseReason::Gone)]);
    }

    #[test]
    fn an_agent_that_ignores_credit_loses_that_client_only() {
        let mut p = Pair::new();
        p.trunk();
        let a = p.relay.accept().unwrap();
        let mut ca = Mux::new(Role::Host, Hello::new("a", 0));
        ca.open(&Open::Info).unwrap();
        p.client(a, &mut ca);
        p.trunk();
        let mut flood = OutBuf::default();
        flood.push_data(1, Kind::Stdout, &[0; 100_000]);
        let flood = flood.output().to_vec();
        for _ in 0..50 {
            p.relay.trunk_input(&flood).unwrap();
            assert!(p.relay.conn_output(a).len() < 2 * 1024 * 1024);
        }
        assert!(p.relay.conn_is_closing(a));
        assert_eq!(p.relay.stream_count(), 0);
    }

    #[test]
    fn clients_are_answered_by_the_relay_and_the_agent_is_asked_once() {
        let mut p =
            Pair { relay: Relay::new("relay"), agent: Mux::new(Role::Agent, Hello::new("agent", CAP_PING)) };
        p.trunk();
        let (a, b) = (p.relay.accept().unwrap(), p.relay.accept().unwrap());
        let mut ca = Mux::new(Role::Host, Hello::new("a", CAP_PING));
        let mut cb = Mux::new(Role::Host, Hello::new("b", 0));
        ca.open(&Open::Info).unwrap();
        cb.open(&Open::Info).unwrap();
        p.client(a, &mut ca);
        p.client(b, &mut cb);
        p.trunk();
        assert!(ca.ping(5));
        let heard = ca.heard();
        p.client(a, &mut ca);
        assert!(ca.heard() > heard);
        assert_eq!(p.trunk(), [], "the agent hears nothing of it");
        let heard = p.relay.heard();
        assert!(p.relay.ping(90));
        assert_eq!(p.trunk(), [Event::Pinged(90)]);
        assert!(p.relay.heard() > heard);
        // Silence: every client is told, and their streams end when the agent is back.
        p.relay.agent_is_silent("it is silent");
        for id in [a, b] {
            assert!(p.relay.conn_is_closing(id));
        }
        let bytes = p.relay.conn_output(a).to_vec();
        assert!(
            matches!(ca.input(&bytes), Err(MuxError::LinkRefused(refused)) if refused.text == "it is silent")
        );
        p.relay.conn_closed(a);
        p.relay.conn_closed(b);
        let closed = p.trunk();
        assert_eq!(
            closed.iter().filter(|e| matches!(e, Event::Closed(_, CloseReason::Gone))).count(),
            2,
            "{closed:?}"
        );
        assert!(p.relay.accept().is_some(), "the trunk lives on");
    }

    #[test]
    fn a_bad_client_is_closed_alone() {
        let mut p = Pair::new();
        p.trunk();
        let a = p.relay.accept().unwrap();
        assert!(p.relay.conn_input(a, b"GET / HTTP/1.1\r\n\r\n").is_err());
        assert!(p.relay.conn_is_closing(a));
        p.relay.conn_closed(a);
        assert!(p.relay.accept().is_some());
    }
}
