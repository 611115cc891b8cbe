//! A guest, an agent and a model of what the filter must do between them, driven by arbitrary bytes. For property tests and the fuzz
//! target.
//!
//! The model knows nothing of the filter's insides: it sorts the guest's messages by their first bytes, knows what an honest agent
//! answers to the n-th message that it gets, and so knows every byte that the guest must see, in order.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a model fails by panicking"
)]

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::{Config, Event, Filter, Fingerprint, KeyId, MAX_EVENTS, MAX_TO_AGENT, MAX_TO_GUEST};

/// Appends a length field and bytes.
pub fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// A message of a type, some strings and raw bytes after them.
pub fn message(number: u8, strings: &[&[u8]], tail: &[u8]) -> Vec<u8> {
    let mut body = vec![number];
    strings.iter().for_each(|string| put(&mut body, string));
    body.extend_from_slice(tail);
    let mut message = Vec::new();
    put(&mut message, &body);
    message
}

/// A list of keys with comments.
pub fn key_list(keys: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut tail = u32::try_from(keys.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    for (blob, comment) in keys {
        put(&mut tail, blob);
        put(&mut tail, comment);
    }
    message(12, &[], &tail)
}

/// A key blob that is good enough for a filter.
pub fn key_blob(seed: u8) -> Vec<u8> {
    let mut blob = Vec::new();
    put(&mut blob, b"ssh-ed25519");
    put(&mut blob, &[seed; 32]);
    blob
}

/// The fingerprint of a blob.
pub fn fingerprint(blob: &[u8]) -> Fingerprint {
    KeyId::of(blob).fingerprint
}

/// What the data of a login is made of.
pub fn login_data(session_id: &[u8], user: &[u8], key: &[u8], host_key: Option<&[u8]>) -> Vec<u8> {
    let mut data = Vec::new();
    put(&mut data, session_id);
    data.push(50);
    let method: &[u8] =
        if host_key.is_some() { b"publickey-hostbound-v00@openssh.com" } else { b"publickey" };
    for field in [user, b"ssh-connection", method] {
        put(&mut data, field);
    }
    data.push(1);
    put(&mut data, b"ssh-ed25519");
    put(&mut data, key);
    if let Some(host_key) = host_key {
        put(&mut data, host_key);
    }
    data
}

/// One filter with what is on its way to and from it.
struct Rig {
    filter: Filter,
    /// Not taken by the filter yet.
    guest: VecDeque<u8>,
    agent: VecDeque<u8>,
    /// Came out and is no whole message yet.
    agent_partial: Vec<u8>,
    /// All that the guest got.
    guest_got: Vec<u8>,
    /// All that the guest must get.
    expected: Vec<u8>,
    /// Messages that the agent must get, in order.
    to_come: VecDeque<Vec<u8>>,
    /// The answers of the agent, in order.
    answers: VecDeque<Vec<u8>>,
    /// Sign requests made, and events about them.
    signs: usize,
    signed: usize,
    only: Option<u8>,
}

impl Rig {
    fn new(only: Option<u8>) -> Self {
        let allowed_keys = only.map(|seed| Arc::new(BTreeSet::from([fingerprint(&key_blob(seed))])));
        Self {
            filter: Filter::new(Config { allowed_keys }),
            guest: VecDeque::new(),
            agent: VecDeque::new(),
            agent_partial: Vec::new(),
            guest_got: Vec::new(),
            expected: Vec::new(),
            to_come: VecDeque::new(),
            answers: VecDeque::new(),
            signs: 0,
            signed: 0,
            only,
        }
    }

    /// The guest sends; the model knows what must come of it.
    fn request(&mut self, kind: u8, seed: u8, body: &[u8]) {
        let number = u8::try_from(self.answers.len() % 251).unwrap_or_default();
        let failure = message(5, &[], &[]);
        let (request, answer) = match kind {
            0 => {
                let all: Vec<_> = (0..4).map(|n| (key_blob(n), vec![n; usize::from(number)])).collect();
                let all: Vec<_> = all.iter().map(|(key, text)| (key.as_slice(), text.as_slice())).collect();
                let few: Vec<_> = all
                    .iter()
                    .filter(|(key, _)| self.only.is_none_or(|n| *key == key_blob(n)))
                    .copied()
                    .collect();
                (message(11, &[], &[]), Some((key_list(&all), key_list(&few))))
            }
            1 | 2 => {
                self.signs += 1;
                let request = message(13, &[&key_blob(seed % 4), body], &[0, 0, 0, 0]);
                let answer = if kind == 1 { message(14, &[&[number; 9]], &[]) } else { failure.clone() };
                let allowed = self.only.is_none_or(|only| only == seed % 4);
                (request, allowed.then(|| (answer.clone(), answer)))
            }
            3 => {
                let strings =
                    [b"session-bind@openssh.com".as_slice(), &key_blob(seed), &[seed + 1; 20], body];
                (message(27, &strings, &[seed % 2]), Some((message(6, &[], &[]), message(6, &[], &[]))))
            }
            4 => {
                let answer = message(29, &[b"query", b"session-bind@openssh.com"], &[]);
                self.guest.extend(message(27, &[b"query"], &[]));
                self.expected.extend(answer);
                return;
            }
            5 => (message(27, &[b"other@example.com"], body), None),
            // The agent's answer is no answer to a list; the guest gets a failure.
            6 => (message(11, &[], &[]), Some((message(seed.max(13), &[], body), failure.clone()))),
            _ => {
                let number = match seed {
                    11 | 13 | 27 => 17,
                    other => other,
                };
                (message(number, &[], body), None)
            }
        };
        self.guest.extend(&request);
        if let Some((answer, seen)) = answer {
            self.to_come.push_back(request);
            self.answers.push_back(answer);
            self.expected.extend(seen);
        } else {
            self.expected.extend(failure);
        }
    }

    fn feed_guest(&mut self, n: usize) -> bool {
        let n = n.min(self.guest.len());
        let bytes: Vec<u8> = self.guest.iter().take(n).copied().collect();
        let taken = self.filter.guest_input(&bytes).expect("an honest guest");
        assert!(taken <= n);
        self.guest.drain(..taken);
        taken > 0
    }

    fn feed_agent(&mut self, n: usize) -> bool {
        let n = n.min(self.agent.len());
        let bytes: Vec<u8> = self.agent.iter().take(n).copied().collect();
        let taken = self.filter.agent_input(&bytes).expect("an honest agent");
        assert!(taken <= n);
        self.agent.drain(..taken);
        taken > 0
    }

    /// The agent reads, and answers what is whole.
    fn read_agent(&mut self, n: usize) -> bool {
        let n = n.min(self.filter.to_agent().len());
        self.agent_partial.extend_from_slice(&self.filter.to_agent()[..n]);
        self.filter.consume_to_agent(n);
        while let Some(expected) = self.to_come.front().filter(|it| self.agent_partial.len() >= it.len()) {
            assert_eq!(self.agent_partial[..expected.len()], **expected, "the agent got another message");
            self.agent_partial.drain(..expected.len());
            self.to_come.pop_front();
            self.agent.extend(self.answers.pop_front().expect("one per request"));
        }
        assert!(self.agent_partial.is_empty() || !self.to_come.is_empty(), "the agent got too much");
        n > 0
    }

    fn read_guest(&mut self, n: usize) -> bool {
        let n = n.min(self.filter.to_guest().len());
        self.guest_got.extend_from_slice(&self.filter.to_guest()[..n]);
        self.filter.consume_to_guest(n);
        assert!(self.expected.starts_with(&self.guest_got), "answers out of order");
        n > 0
    }

    fn poll_events(&mut self, n: usize) -> bool {
        let before = self.filter.events_waiting();
        for _ in 0..n {
            let Some(event) = self.filter.poll_event() else { break };
            self.signed += usize::from(matches!(event, Event::Signed(_)));
            check_event(&event);
        }
        before > 0
    }

    fn check(&self) {
        check_bounds(&self.filter);
    }

    /// Everybody reads and writes until nothing moves; then nothing may be missing.
    fn settle(&mut self) {
        loop {
            let moved = [
                self.feed_guest(usize::MAX),
                self.read_agent(usize::MAX),
                self.feed_agent(usize::MAX),
                self.read_guest(usize::MAX),
                self.poll_events(usize::MAX),
            ];
            self.check();
            if moved == [false; 5] {
                break;
            }
        }
        assert!(
            self.guest.is_empty() && self.to_come.is_empty() && self.agent.is_empty(),
            "something is stuck"
        );
        assert_eq!(self.guest_got, self.expected, "an answer is missing");
        assert_eq!(self.filter.outstanding(), 0);
        assert_eq!(self.signed, self.signs, "a signature without an event");
    }
}

fn check_bounds(filter: &Filter) {
    assert!(filter.to_agent().len() <= MAX_TO_AGENT && filter.to_guest().len() <= MAX_TO_GUEST);
    assert!(filter.events_waiting() <= MAX_EVENTS && filter.outstanding() <= crate::MAX_OUTSTANDING);
}

fn check_event(event: &Event) {
    let line = event.to_string();
    assert!(line.len() < 8192 && line.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{line}");
}

/// An honest agent and a guest whose messages are well-formed, in any order and any pieces.
pub fn honest(operations: &[u8]) {
    let Some((mode, mut rest)) = operations.split_first() else { return };
    let mut rig = Rig::new((*mode % 2 == 1).then_some(mode / 2 % 4));
    while let [operation, choice, len, tail @ ..] = rest {
        let n = usize::from(*len);
        match operation % 16 {
            kind @ 0..=7 => {
                let (body, _) = tail.split_at(n.min(tail.len()) / 4);
                // Now and then one that is large.
                let body = if *choice == 77 { &vec![*len; 200_000] } else { body };
                rig.request(kind, *choice % 128, body);
            }
            8 | 9 => drop(rig.feed_guest(n)),
            10 => drop(rig.feed_agent(n)),
            11 => drop(rig.read_agent(n * 700)),
            12 => drop(rig.read_guest(n * 700)),
            13 => drop(rig.poll_events(n)),
            14 => {
                rig.feed_guest(usize::MAX);
            }
            _ => {
                rig.feed_agent(usize::MAX);
            }
        }
        rig.check();
        rest = tail;
    }
    rig.settle();
    rig.filter.close();
    assert!(rig.filter.poll_event().is_none());
}

/// Anything from both sides in any pieces. What gets through is whole messages of allowed kinds, and no more answers than requests.
pub fn hostile(operations: &[u8]) {
    let Some((mode, mut rest)) = operations.split_first() else { return };
    let allowed_keys = (*mode % 2 == 1).then(|| Arc::new(BTreeSet::from([fingerprint(&key_blob(1))])));
    let mut filter = Filter::new(Config { allowed_keys });
    let (mut to_agent, mut to_guest, mut from_guest) = (Vec::new(), Vec::new(), Vec::new());
    while let [operation, len, tail @ ..] = rest {
        let (bytes, tail) = tail.split_at(usize::from(*len).min(tail.len()));
        rest = tail;
        match operation % 8 {
            // What was taken before an error counts as well.
            0..=2 => {
                let taken = filter.guest_input(bytes).unwrap_or(bytes.len());
                from_guest.extend_from_slice(&bytes[..taken]);
            }
            3 | 4 => drop(filter.agent_input(bytes)),
            5 => {
                // With a length field that fits, so that more than the framing is reached.
                let framed = message(*operation >> 3, &[], bytes);
                let taken = filter.guest_input(&framed).unwrap_or(framed.len());
                from_guest.extend_from_slice(&framed[..taken]);
            }
            6 => drop(filter.agent_input(&message(*operation >> 3, &[], bytes))),
            _ if *len == 255 => filter.agent_closed(),
            _ if *len == 254 => drop(filter.guest_closed()),
            _ => {
                let n = usize::from(*len).min(filter.to_agent().len());
                to_agent.extend_from_slice(&filter.to_agent()[..n]);
                filter.consume_to_agent(n);
                let n = (usize::from(*len) * 16).min(filter.to_guest().len());
                to_guest.extend_from_slice(&filter.to_guest()[..n]);
                filter.consume_to_guest(n);
                (0..*len).map_while(|_| filter.poll_event()).for_each(|event| check_event(&event));
            }
        }
        check_bounds(&filter);
    }
    to_agent.extend_from_slice(filter.to_agent());
    to_guest.extend_from_slice(filter.to_guest());
    filter.close();
    check_bounds(&filter);
    while let Some(event) = filter.poll_event() {
        check_event(&event);
    }
    for body in messages(&to_agent) {
        let bind = message(27, &[b"session-bind@openssh.com"], &[]);
        assert!(
            body == [11] || body.first() == Some(&13) || body.starts_with(&bind[4..]),
            "the agent got {body:?}"
        );
    }
    assert!(messages(&to_guest).len() <= messages(&from_guest).len(), "more answers than requests");
}

/// The whole messages of a stream, without their length fields.
pub fn messages(mut stream: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some((header, rest)) = stream.split_first_chunk::<4>() {
        let len = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
        let Some((body, rest)) = rest.split_at_checked(len) else { break };
        found.push(body);
        stream = rest;
    }
    found
}
