//! The steps of a key exchange on the server (RFC 4253 §7 and §8, RFC 5656 §4, RFC 8308 §2).

use std::time::Instant;

use super::kexinit::{Agreed, Guess, KexInit};
use super::messages::{MSG_EXT_INFO, MSG_KEX_ECDH_INIT, MSG_KEX_ECDH_REPLY};
use super::receiver::Packet;
use super::sender::{KeyLimits, SequenceNumbers};
use super::{Error, Negotiated, Phase, Transport};
use crate::algorithm::{Cipher, HostKeyAlgorithm, Mac, SERVER_SIG_ALGS};
use crate::codec::{DecodeError, Reader, Writer};
use crate::kex::{self, Direction, KeySchedule, Transcript};
use crate::packet::{OpenKey, SealKey};

/// How far the peer's half of the exchange has come.
#[derive(Debug)]
pub(super) enum Exchange {
    /// The peer has not sent KEXINIT; we may have.
    Idle,
    /// The peer's KEXINIT is here, its value for the method is awaited.
    Method(Box<Method>),
    /// We have sent NEWKEYS, the peer's is awaited.
    NewKeys {
        /// The key for what follows.
        key: OpenKey,
        cipher: Cipher,
    },
}

#[derive(Debug)]
pub(super) struct Method {
    agreed: Agreed,
    client_init: Vec<u8>,
    ext_info: bool,
}

impl Transport {
    pub(super) fn on_kexinit(&mut self, packet: &Packet) -> Result<(), Error> {
        if !matches!(self.exchange, Exchange::Idle) {
            return Err(Error::UnexpectedMessage(packet.kind));
        }
        let payload = self.receiver.payload(packet);
        let init = KexInit::parse(payload)?;
        let first = self.phase == Phase::FirstExchange;
        if first {
            self.strict = init.wants_strict();
            // With strict key exchange nothing may come before the first KEXINIT.
            if self.strict && packet.sequence != 0 {
                return Err(Error::StrictKexViolation(packet.kind));
            }
            self.rsa_algorithm = init.rsa_algorithm();
        }
        self.sender.begin_exchange()?;
        let agreed = init.agree(self.sender.offer())?;
        let ext_info = first && init.wants_ext_info();
        self.exchange =
            Exchange::Method(Box::new(Method { agreed, client_init: payload.to_vec(), ext_info }));
        Ok(())
    }

    pub(super) fn on_method(&mut self, packet: &Packet) -> Result<(), Error> {
        let Exchange::Method(method) = &mut self.exchange else {
            return Err(Error::UnexpectedMessage(packet.kind));
        };
        if method.agreed.guess == Guess::Skip {
            method.agreed.guess = Guess::Use;
            return Ok(());
        }
        if packet.kind != MSG_KEX_ECDH_INIT {
            return Err(Error::UnexpectedMessage(packet.kind));
        }
        let Exchange::Method(method) = std::mem::replace(&mut self.exchange, Exchange::Idle) else {
            return Err(Error::UnexpectedMessage(packet.kind));
        };
        let agreed = method.agreed;

        let mut r = Reader::new(self.receiver.payload(packet));
        r.byte()?;
        let client_value = r.string()?;
        r.finish()?;
        let (server_value, secret) = kex::respond(agreed.kex, client_value)?;

        let host_key = self
            .config
            .host_keys
            .iter()
            .find(|key| key.algorithms().contains(&agreed.host_key))
            .ok_or(Error::NoCommonAlgorithm("host key type"))?;
        let exchange_hash = Transcript {
            client_version: &self.client_version,
            server_version: &self.server_version,
            client_init: &method.client_init,
            server_init: self.sender.own_init().ok_or(Error::UnexpectedMessage(packet.kind))?,
            host_key: host_key.public_blob(),
            client_value,
            server_value: &server_value,
        }
        .hash(agreed.kex, &secret);
        if self.session_id.is_empty() {
            self.session_id.clone_from(&exchange_hash);
            self.host_key_blob = host_key.public_blob().to_vec();
        }
        if matches!(agreed.host_key, HostKeyAlgorithm::RsaSha256 | HostKeyAlgorithm::RsaSha512) {
            self.rsa_algorithm = agreed.host_key;
        }
        let signature = host_key.sign(agreed.host_key, &exchange_hash).ok_or(Error::Crypto)?;
        let mut reply = Writer::message(MSG_KEX_ECDH_REPLY);
        reply.string(host_key.public_blob()).string(&server_value).string(&signature);
        self.sender.send(reply.as_slice())?;

        let schedule = KeySchedule {
            kex: agreed.kex,
            secret: &secret,
            exchange_hash: &exchange_hash,
            session_id: &self.session_id,
        };
        let seal = schedule.with_material(
            Direction::ServerToClient,
            agreed.cipher_out,
            agreed.mac_out,
            SealKey::new,
        )?;
        let key = schedule.with_material(
            Direction::ClientToServer,
            agreed.cipher_in,
            agreed.mac_in,
            OpenKey::new,
        )?;
        self.sender.switch_keys(seal, agreed.cipher_out, self.sequence_numbers())?;
        if method.ext_info {
            self.sender.send_first(&ext_info())?;
        }
        self.sender.release_pending()?;
        self.exchange = Exchange::NewKeys { key, cipher: agreed.cipher_in };
        self.negotiated = Some(self.describe(&agreed));
        Ok(())
    }

    pub(super) fn on_newkeys(&mut self, packet: &Packet, now: Instant) -> Result<(), Error> {
        let Exchange::NewKeys { key, cipher } = std::mem::replace(&mut self.exchange, Exchange::Idle) else {
            return Err(Error::UnexpectedMessage(packet.kind));
        };
        if self.receiver.payload(packet).len() != 1 {
            return Err(DecodeError::TrailingBytes.into());
        }
        let limits = KeyLimits::new(&self.config, cipher);
        self.receiver.switch_keys(key, limits, cipher.byte_limit(), self.sequence_numbers());
        self.phase = Phase::Established;
        self.rekey_at = now.checked_add(self.config.rekey_after);
        self.sender.end_exchange()
    }

    const fn sequence_numbers(&self) -> SequenceNumbers {
        if self.strict { SequenceNumbers::Restart } else { SequenceNumbers::RunOn }
    }

    fn describe(&self, agreed: &Agreed) -> Negotiated {
        let mac_name = |mac: Option<Mac>| mac.map_or("<implicit>", Mac::name);
        let printable = |b: &u8| if (0x20..0x7f).contains(b) { char::from(*b) } else { '?' };
        Negotiated {
            kex: agreed.kex.name(),
            host_key: agreed.host_key.name(),
            cipher_in: agreed.cipher_in.name(),
            cipher_out: agreed.cipher_out.name(),
            mac_in: mac_name(agreed.mac_in),
            mac_out: mac_name(agreed.mac_out),
            strict: self.strict,
            client_version: self.client_version.iter().map(printable).collect(),
        }
    }
}

/// `SSH_MSG_EXT_INFO` (RFC 8308 §2.3), sent right after our first NEWKEYS to clients that ask for it.
fn ext_info() -> Vec<u8> {
    const EXTENSIONS: [(&str, &str); 3] = [
        ("server-sig-algs", SERVER_SIG_ALGS),
        ("publickey-hostbound@openssh.com", "0"),
        ("ping@openssh.com", "0"),
    ];
    let mut message = Writer::message(MSG_EXT_INFO);
    message.u32(3);
    for (name, value) in EXTENSIONS {
        message.string(name).string(value);
    }
    message.into_vec()
}
