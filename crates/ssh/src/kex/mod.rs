//! Key exchange: the server's half of each method, the exchange hash and the key derivation.
//!
//! All methods have the shape of RFC 5656 §4: the client sends one value in `SSH_MSG_KEX_ECDH_INIT`, the server answers with
//! its host key, its own value and a signature over the exchange hash. What differs is how the two values make the
//! shared secret K, and how K is written into the hash:
//!
//! | method | specification | K in the hash |
//! | --- | --- | --- |
//! | `curve25519-sha256` | RFC 8731 | mpint |
//! | `ecdh-sha2-nistp*` | RFC 5656 | mpint |
//! | `mlkem768x25519-sha256` | draft-ietf-sshm-mlkem-hybrid-kex | string: SHA-256 of both secrets |
//! | `sntrup761x25519-sha512` | draft-ietf-sshm-ntruprime-ssh | string: SHA-512 of both secrets |
//!
//! sntrup761 comes from the `sntrup` crate, the one exception to "all cryptography from `aws-lc-rs`": AWS-LC does not have
//! it, and OpenSSH 8.5 to 9.8 know no other post-quantum exchange. The crate is tested against the vectors of the IETF draft,
//! compiled here without its SIMD kernels, and used for the encapsulation alone. As a hybrid, the exchange is never weaker
//! than X25519.

mod server;

use aws_lc_rs::digest;
use zeroize::Zeroizing;

use crate::algorithm::{Cipher, Kex, Mac};
use crate::codec::Writer;
use crate::packet::KeyMaterial;
use crate::transport::Error;

#[cfg(any(test, feature = "testing"))]
pub(crate) use server::LibraryRng;
pub(crate) use server::respond;

/// Sizes of the hybrid methods' parts, in bytes.
pub(crate) const X25519_LEN: usize = 32;
pub(crate) const MLKEM_PUBLIC_LEN: usize = 1184;
#[cfg(any(test, feature = "testing"))]
pub(crate) const MLKEM_CIPHERTEXT_LEN: usize = 1088;
pub(crate) const SNTRUP_PUBLIC_LEN: usize = 1158;
#[cfg(any(test, feature = "testing"))]
pub(crate) const SNTRUP_CIPHERTEXT_LEN: usize = 1039;

impl Kex {
    /// The hash of the method, used for the exchange hash and the key derivation.
    pub(crate) fn hash(self) -> &'static digest::Algorithm {
        match self {
            Self::MlKem768X25519 | Self::Curve25519 | Self::Curve25519LibSsh | Self::NistP256 => {
                &digest::SHA256
            }
            Self::NistP384 => &digest::SHA384,
            Self::Sntrup761X25519 | Self::Sntrup761X25519OpenSsh | Self::NistP521 => &digest::SHA512,
        }
    }
}

/// The shared secret K as it goes into the hashes: an encoded mpint or string.
pub(crate) struct SharedSecret(Zeroizing<Vec<u8>>);

impl SharedSecret {
    /// RFC 8731 §3.1 and RFC 5656 §4: the bytes read as a big-endian number.
    pub fn from_number(bytes: &[u8]) -> Self {
        // Room for length and sign, so that the secret is not left behind in a vector that grew.
        let mut w = Writer::append_to(Vec::with_capacity(bytes.len() + 5));
        w.mpint(bytes);
        Self(Zeroizing::new(w.into_vec()))
    }

    /// The hybrid methods: the hash of the post-quantum secret and the X25519 secret, as a string.
    pub fn from_hybrid(kex: Kex, post_quantum: &[u8], classical: &[u8]) -> Self {
        let mut context = digest::Context::new(kex.hash());
        context.update(post_quantum);
        context.update(classical);
        let hash = context.finish();
        let mut w = Writer::append_to(Vec::with_capacity(hash.as_ref().len() + 4));
        w.string(hash);
        Self(Zeroizing::new(w.into_vec()))
    }
}

/// What both sides put into the exchange hash (RFC 5656 §4).
pub(crate) struct Transcript<'a> {
    pub client_version: &'a [u8],
    pub server_version: &'a [u8],
    pub client_init: &'a [u8],
    pub server_init: &'a [u8],
    pub host_key: &'a [u8],
    pub client_value: &'a [u8],
    pub server_value: &'a [u8],
}

impl Transcript<'_> {
    /// The exchange hash H.
    pub fn hash(&self, kex: Kex, secret: &SharedSecret) -> Vec<u8> {
        let mut context = digest::Context::new(kex.hash());
        for field in [
            self.client_version,
            self.server_version,
            self.client_init,
            self.server_init,
            self.host_key,
            self.client_value,
            self.server_value,
        ] {
            context.update(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
            context.update(field);
        }
        context.update(&secret.0);
        context.finish().as_ref().to_vec()
    }
}

/// Which way packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    ClientToServer,
    ServerToClient,
}

/// Derives the keys of both directions (RFC 4253 §7.2).
pub(crate) struct KeySchedule<'a> {
    pub kex: Kex,
    pub secret: &'a SharedSecret,
    pub exchange_hash: &'a [u8],
    pub session_id: &'a [u8],
}

impl KeySchedule<'_> {
    fn derive(&self, letter: u8, len: usize) -> Zeroizing<Vec<u8>> {
        // Whole digests are appended, so reserve for the last one too: a vector that grows would leave key bytes behind.
        let mut key = Zeroizing::new(Vec::with_capacity(len + digest::MAX_OUTPUT_LEN));
        while key.len() < len {
            let mut context = digest::Context::new(self.kex.hash());
            context.update(&self.secret.0);
            context.update(self.exchange_hash);
            if key.is_empty() {
                context.update(&[letter]);
                context.update(self.session_id);
            } else {
                context.update(&key);
            }
            key.extend_from_slice(context.finish().as_ref());
        }
        key.truncate(len);
        key
    }

    /// Derives the material of one direction and hands it to `build`.
    pub fn with_material<T>(
        &self,
        direction: Direction,
        cipher: Cipher,
        mac: Option<Mac>,
        build: impl FnOnce(Cipher, Option<Mac>, &KeyMaterial<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let [iv, key, integrity] = match direction {
            Direction::ClientToServer => *b"ACE",
            Direction::ServerToClient => *b"BDF",
        };
        let sizes = cipher.sizes();
        let iv = self.derive(iv, sizes.iv);
        let key = self.derive(key, sizes.key);
        let integrity = self.derive(integrity, mac.map_or(0, Mac::tag_len));
        build(cipher, mac, &KeyMaterial { iv: &iv, key: &key, mac: &integrity })
    }
}

#[cfg(test)]
mod tests;
