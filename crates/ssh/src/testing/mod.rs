//! An in-memory SSH *client* transport, for tests of this crate and of those above it. It panics instead of returning
//! errors, offers knobs to misbehave, and is no part of a release build.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "test support panics by design"
)]

mod kex;

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use crate::algorithm::{Cipher, EXT_INFO_CLIENT, HostKeyAlgorithm, Kex, Mac, STRICT_CLIENT, STRICT_SERVER};
use crate::codec::{Reader, Writer};
use crate::hostkey::{HostKey, HostKeyKind};
use crate::kex::{Direction, KeySchedule, Transcript};
use crate::packet::{HEADER, MAX_TRAILER, OpenKey, SealKey};
use crate::transport::messages::*;
use crate::transport::{Compatibility, Config, Error, Transport};
use kex::ClientExchange;
pub use kex::verify_signature;

/// An ed25519 host key for tests, the same every time.
#[must_use]
pub fn host_key() -> Arc<HostKey> {
    static KEY: LazyLock<Arc<HostKey>> =
        LazyLock::new(|| Arc::new(HostKey::from_ed25519_seed(&[7; 32], "test").unwrap()));
    Arc::clone(&KEY)
}

/// One host key of every kind, made once per process.
#[must_use]
pub fn all_host_keys() -> Vec<Arc<HostKey>> {
    static KEYS: LazyLock<Vec<Arc<HostKey>>> = LazyLock::new(|| {
        [HostKeyKind::Rsa3072, HostKeyKind::EcdsaP256, HostKeyKind::EcdsaP384, HostKeyKind::EcdsaP521]
            .map(|kind| Arc::new(HostKey::generate(kind, "test").unwrap()))
            .to_vec()
    });
    std::iter::once(host_key()).chain(KEYS.iter().cloned()).collect()
}

/// A server configuration with [`host_key`].
#[must_use]
pub fn server_config() -> Config {
    Config::new(vec![host_key()])
}

/// A server configuration with every host key and every algorithm.
#[must_use]
pub fn compat_config() -> Config {
    Config { compatibility: Compatibility::Compat, ..Config::new(all_host_keys()) }
}

/// How a [`ClientTransport`] behaves.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// The key exchange methods offered.
    pub kex: Vec<Kex>,
    /// The host key algorithms offered.
    pub host_key: Vec<HostKeyAlgorithm>,
    /// The ciphers offered, for both directions.
    pub ciphers: Vec<Cipher>,
    /// The MACs offered, for both directions.
    pub macs: Vec<Mac>,
    /// More names for the list of methods: by default `ext-info-c` and strict key exchange.
    pub markers: Vec<&'static str>,
    /// What to send behind KEXINIT as a guessed packet, with `first_kex_packet_follows` set.
    pub guess: Option<Vec<u8>>,
    /// The identification line, without its end.
    pub version: Vec<u8>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            kex: vec![Kex::Curve25519],
            host_key: vec![HostKeyAlgorithm::Ed25519],
            ciphers: vec![Cipher::Aes128Gcm],
            macs: vec![Mac::HmacSha256Etm],
            markers: vec![EXT_INFO_CLIENT, STRICT_CLIENT],
            guess: None,
            version: b"SSH-2.0-test".to_vec(),
        }
    }
}

/// The client half of a transport.
pub struct ClientTransport {
    options: ClientOptions,
    output: Vec<u8>,
    input: Vec<u8>,
    /// Payloads that `exchange` met on its way.
    read_ahead: VecDeque<Vec<u8>>,
    seal: SealKey,
    open: OpenKey,
    /// The sequence number of the next packet sent.
    pub sequence_out: u32,
    sequence_in: u32,
    server_version: Option<Vec<u8>>,
    own_init: Option<Vec<u8>>,
    server_init: Vec<u8>,
    exchange: Option<ClientExchange>,
    next_open: Option<OpenKey>,
    /// Our NEWKEYS is sent, so upper-layer messages may leave.
    gate_open: bool,
    held: VecDeque<Vec<u8>>,
    strict: bool,
    established: bool,
    session_id: Vec<u8>,
    /// How many key exchanges are complete.
    pub exchanges: usize,
    /// The payload of the server's `SSH_MSG_EXT_INFO`.
    pub ext_info: Option<Vec<u8>>,
    /// The reason code and text of the server's `SSH_MSG_DISCONNECT`.
    pub disconnected: Option<(u32, String)>,
    /// Transport messages from the server that need no action: IGNORE, DEBUG, UNIMPLEMENTED, PONG.
    pub transport_messages: Vec<Vec<u8>>,
}

impl std::fmt::Debug for ClientTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTransport").field("established", &self.established).finish_non_exhaustive()
    }
}

impl Default for ClientTransport {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientTransport {
    /// A client with the default options.
    #[must_use]
    pub fn new() -> Self {
        Self::with_options(ClientOptions::default())
    }

    /// A client with the given options. Its identification line and KEXINIT are in the output at once.
    #[must_use]
    pub fn with_options(options: ClientOptions) -> Self {
        let mut client = Self {
            output: [&options.version[..], b"\r\n"].concat(),
            options,
            input: Vec::new(),
            read_ahead: VecDeque::new(),
            seal: SealKey::Clear,
            open: OpenKey::Clear,
            sequence_out: 0,
            sequence_in: 0,
            server_version: None,
            own_init: None,
            server_init: Vec::new(),
            exchange: None,
            next_open: None,
            gate_open: false,
            held: VecDeque::new(),
            strict: false,
            established: false,
            session_id: Vec::new(),
            exchanges: 0,
            ext_info: None,
            disconnected: None,
            transport_messages: Vec::new(),
        };
        client.rekey();
        if let Some(guess) = client.options.guess.take() {
            client.send_now(&guess);
        }
        client
    }

    /// Runs version and key exchange with `server`, in memory.
    pub fn handshake(&mut self, server: &mut Transport) {
        let payloads = self.exchange(server).expect("the handshake succeeds");
        assert!(
            payloads.is_empty() && self.established && server.is_established(),
            "the handshake completes"
        );
    }

    /// Sends one upper-layer payload; held back while a key exchange runs.
    pub fn send(&mut self, payload: &[u8]) {
        if self.gate_open {
            self.send_now(payload);
        } else {
            self.held.push_back(payload.to_vec());
        }
    }

    /// Seals a payload into the output whatever the state is.
    pub fn send_now(&mut self, payload: &[u8]) {
        let start = self.output.len();
        self.output.resize(start + HEADER + payload.len() + MAX_TRAILER, 0);
        self.output[start + HEADER..][..payload.len()].copy_from_slice(payload);
        let len = self.seal.seal(self.sequence_out, &mut self.output[start..], payload.len()).unwrap();
        self.output.truncate(start + len);
        self.sequence_out = self.sequence_out.wrapping_add(1);
    }

    /// Raw access to the bytes on their way to the server.
    pub const fn output_mut(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Takes the bytes for the server.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Takes bytes that came from the server.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// Begins a key exchange.
    pub fn rekey(&mut self) {
        if self.own_init.is_some() {
            return;
        }
        let mut init = Writer::message(MSG_KEXINIT);
        let o = &self.options;
        let ciphers = || o.ciphers.iter().map(|c| c.name());
        let macs = || o.macs.iter().map(|m| m.name());
        init.raw(&[9; 16])
            .name_list(o.kex.iter().map(|k| k.name()).chain(o.markers.iter().copied()))
            .name_list(o.host_key.iter().map(|k| k.name()))
            .name_list(ciphers())
            .name_list(ciphers())
            .name_list(macs())
            .name_list(macs())
            .name_list(["none"])
            .name_list(["none"])
            .name_list([])
            .name_list([])
            .bool(o.guess.is_some())
            .u32(0);
        self.send_now(init.as_slice());
        self.own_init = Some(init.into_vec());
        self.gate_open = false;
    }

    /// The session identifier; empty before the first key exchange.
    #[must_use]
    pub fn session_id(&self) -> &[u8] {
        &self.session_id
    }

    /// True once keys are in use in both directions.
    #[must_use]
    pub const fn is_established(&self) -> bool {
        self.established
    }

    /// The next upper-layer payload from the server, if a whole one has arrived.
    pub fn poll_payload(&mut self) -> Option<Vec<u8>> {
        self.read_ahead.pop_front().or_else(|| self.next_payload())
    }

    fn next_payload(&mut self) -> Option<Vec<u8>> {
        if self.server_version.is_none() {
            let newline = self.input.iter().position(|b| *b == b'\n')?;
            let line: Vec<u8> = self.input.drain(..=newline).collect();
            self.server_version = Some(line.strip_suffix(b"\r\n").unwrap().to_vec());
        }
        loop {
            let head = *self.input.first_chunk::<4>()?;
            let total =
                self.open.wire_length(self.sequence_in, head).expect("the server's packet length is valid");
            if self.input.len() < total {
                return None;
            }
            let mut packet: Vec<u8> = self.input.drain(..total).collect();
            let range = self.open.open(self.sequence_in, &mut packet).expect("the server's packet opens");
            self.sequence_in = self.sequence_in.wrapping_add(1);
            let payload = &packet[range];
            match payload[0] {
                MSG_DISCONNECT => {
                    let mut r = Reader::new(&payload[1..]);
                    self.disconnected = Some((r.u32().unwrap(), r.text().unwrap().to_owned()));
                }
                MSG_IGNORE | MSG_DEBUG | MSG_UNIMPLEMENTED | MSG_PONG => {
                    self.transport_messages.push(payload.to_vec())
                }
                MSG_EXT_INFO => self.ext_info = Some(payload.to_vec()),
                MSG_KEXINIT => self.on_kexinit(payload),
                MSG_KEX_ECDH_REPLY => self.on_reply(payload),
                MSG_NEWKEYS => self.on_newkeys(),
                _ => {
                    assert!(
                        self.next_open.is_none() && self.server_init.is_empty(),
                        "no data within the server's exchange"
                    );
                    return Some(payload.to_vec());
                }
            }
        }
    }

    /// Moves bytes both ways until nothing moves any more, and returns the upper-layer payloads that the server got. What
    /// the server sent is taken with [`ClientTransport::poll_payload`] afterwards.
    ///
    /// # Errors
    /// The error that the server ended with; its last output has been delivered.
    pub fn exchange(&mut self, server: &mut Transport) -> Result<Vec<Vec<u8>>, Error> {
        let mut got = Vec::new();
        let result = loop {
            let bytes = self.take_output();
            let result = feed(server, &bytes, &mut got);
            let output = server.output().to_vec();
            server.consume_output(output.len());
            self.receive(&output);
            while let Some(payload) = self.next_payload() {
                self.read_ahead.push_back(payload);
            }
            if result.is_err() || (bytes.is_empty() && output.is_empty()) {
                break result;
            }
        };
        result.map(|()| got)
    }

    fn on_kexinit(&mut self, payload: &[u8]) {
        if !self.established {
            let list = Reader::new(&payload[17..]).name_list().unwrap();
            self.strict = list.contains(STRICT_SERVER) && self.options.markers.contains(&STRICT_CLIENT);
        }
        self.server_init = payload.to_vec();
        self.rekey();
        let exchange = ClientExchange::start(self.options.kex[0]);
        let mut init = Writer::message(MSG_KEX_ECDH_INIT);
        init.string(exchange.value());
        self.send_now(init.as_slice());
        self.exchange = Some(exchange);
    }

    fn on_reply(&mut self, payload: &[u8]) {
        let exchange = self.exchange.take().expect("a key exchange runs");
        let mut r = Reader::new(&payload[1..]);
        let (host_key, server_value, signature) =
            (r.string().unwrap(), r.string().unwrap(), r.string().unwrap());
        let kex = self.options.kex[0];
        let client_value = exchange.value().to_vec();
        let secret = exchange.finish(server_value);
        let exchange_hash = Transcript {
            client_version: &self.options.version,
            server_version: self.server_version.as_deref().unwrap(),
            client_init: self.own_init.as_deref().unwrap(),
            server_init: &self.server_init,
            host_key,
            client_value: &client_value,
            server_value,
        }
        .hash(kex, &secret);
        assert!(verify_signature(host_key, &exchange_hash, signature), "the host key's signature is valid");
        assert_eq!(Reader::new(signature).text(), Ok(self.options.host_key[0].name()));
        if self.session_id.is_empty() {
            self.session_id.clone_from(&exchange_hash);
        }
        let schedule =
            KeySchedule { kex, secret: &secret, exchange_hash: &exchange_hash, session_id: &self.session_id };
        let cipher = self.options.ciphers[0];
        let mac = (!cipher.is_aead()).then(|| self.options.macs[0]);
        let seal = schedule.with_material(Direction::ClientToServer, cipher, mac, SealKey::new).unwrap();
        let open = schedule.with_material(Direction::ServerToClient, cipher, mac, OpenKey::new).unwrap();
        self.send_now(&[MSG_NEWKEYS]);
        self.seal = seal;
        if self.strict {
            self.sequence_out = 0;
        }
        self.next_open = Some(open);
        self.gate_open = true;
        while let Some(payload) = self.held.pop_front() {
            self.send_now(&payload);
        }
    }

    fn on_newkeys(&mut self) {
        self.open = self.next_open.take().expect("the server's NEWKEYS follows its reply");
        if self.strict {
            self.sequence_in = 0;
        }
        self.own_init = None;
        self.server_init.clear();
        self.established = true;
        self.exchanges += 1;
    }
}

/// Gives `bytes` to the server and appends the payloads it yields.
///
/// # Errors
/// The server's error.
pub fn feed(server: &mut Transport, mut bytes: &[u8], got: &mut Vec<Vec<u8>>) -> Result<(), Error> {
    loop {
        let space = server.input_space();
        let len = bytes.len().min(space.len());
        space[..len].copy_from_slice(&bytes[..len]);
        server.commit_input(len);
        bytes = &bytes[len..];
        while let Some(payload) = server.poll_payload(Instant::now())? {
            got.push(payload.data.to_vec());
        }
        if bytes.is_empty() {
            return Ok(());
        }
    }
}
