//! Host keys: generating, loading and saving them, and signing with them.
//!
//! Keys are kept in the OpenSSH private key format (PROTOCOL.key), read and written by `ssh-key`; all arithmetic is done by
//! `aws-lc-rs`. Signature blobs follow RFC 8709 (ed25519), RFC 8332 (rsa-sha2) and RFC 5656 §3.1.2 (ecdsa).

mod der;
mod reduce;

use std::fmt;

use aws_lc_rs::encoding::{AsBigEndian as _, AsDer as _};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPairComponents, KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512,
    RsaKeyPair,
};
use ssh_key::private::{EcdsaKeypair, KeypairData};
use ssh_key::{HashAlg, LineEnding, PrivateKey};
use zeroize::Zeroizing;

use crate::algorithm::HostKeyAlgorithm;
use crate::codec::{Reader, Writer};

/// The kinds of host key that can be generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostKeyKind {
    /// Ed25519.
    Ed25519,
    /// RSA of 3072 bits.
    Rsa3072,
    /// ECDSA over NIST P-256; used in compat mode only.
    EcdsaP256,
    /// ECDSA over NIST P-384; used in compat mode only.
    EcdsaP384,
    /// ECDSA over NIST P-521; used in compat mode only.
    EcdsaP521,
}

/// Why a host key could not be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostKeyError {
    /// Not an OpenSSH private key, or a damaged one.
    #[error("The host key is not a valid OpenSSH private key: {0}.")]
    Format(#[from] ssh_key::Error),
    /// Host keys are read without a person at hand, so they cannot have a passphrase.
    #[error("The host key is protected by a passphrase.")]
    Encrypted,
    /// DSA, security keys and others cannot be host keys here.
    #[error("Host keys of the type {0} are not supported.")]
    Unsupported(String),
    /// The numbers of the key do not belong together, or an RSA key is shorter than 2048 bits.
    #[error("The host key is inconsistent or too short.")]
    Rejected,
    /// The library could not make a key.
    #[error("A host key could not be generated.")]
    Generate,
}

enum Signer {
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
    Ecdsa { pair: EcdsaKeyPair, algorithm: HostKeyAlgorithm },
}

/// A host key pair, ready to sign.
pub struct HostKey {
    signer: Signer,
    private: PrivateKey,
    public_blob: Vec<u8>,
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HostKey").field(&self.fingerprint()).finish()
    }
}

impl HostKey {
    /// Makes a new key pair. `comment` becomes part of the files.
    ///
    /// # Errors
    /// [`HostKeyError::Generate`] when the library fails.
    pub fn generate(kind: HostKeyKind, comment: &str) -> Result<Self, HostKeyError> {
        let failed = |_| HostKeyError::Generate;
        let (public, fields) = match kind {
            HostKeyKind::Ed25519 => {
                let mut seed = Zeroizing::new([0; 32]);
                aws_lc_rs::rand::fill(seed.as_mut()).map_err(failed)?;
                return Self::from_ed25519_seed(&seed, comment);
            }
            HostKeyKind::Rsa3072 => {
                let pair = RsaKeyPair::generate(KeySize::Rsa3072).map_err(failed)?;
                let pkcs8 = pair.as_der().map_err(failed)?;
                let [n, e, d, p, q, iqmp] =
                    der::rsa_components(pkcs8.as_ref()).ok_or(HostKeyError::Generate)?;
                let mut public = Writer::new();
                public.string("ssh-rsa").mpint(e).mpint(n);
                let mut fields = secret_writer();
                fields.string("ssh-rsa").mpint(n).mpint(e).mpint(d).mpint(iqmp).mpint(p).mpint(q);
                (public, fields)
            }
            HostKeyKind::EcdsaP256 => ecdsa_fields(HostKeyAlgorithm::EcdsaP256)?,
            HostKeyKind::EcdsaP384 => ecdsa_fields(HostKeyAlgorithm::EcdsaP384)?,
            HostKeyKind::EcdsaP521 => ecdsa_fields(HostKeyAlgorithm::EcdsaP521)?,
        };
        Self::from_fields(public.as_slice(), fields, comment)
    }

    /// The ed25519 key of a seed of 32 bytes (RFC 8032 §5.1.5).
    ///
    /// # Errors
    /// [`HostKeyError::Generate`] when the library refuses the seed.
    pub fn from_ed25519_seed(seed: &[u8; 32], comment: &str) -> Result<Self, HostKeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| HostKeyError::Generate)?;
        let point = pair.public_key().as_ref();
        let mut public = Writer::new();
        public.string("ssh-ed25519").string(point);
        let mut fields = secret_writer();
        let secret = Zeroizing::new([seed, point].concat());
        fields.string("ssh-ed25519").string(point).string(&*secret);
        Self::from_fields(public.as_slice(), fields, comment)
    }

    /// Reads a key in the OpenSSH private key format (`-----BEGIN OPENSSH PRIVATE KEY-----`). An ecdsa key whose scalar
    /// begins with a zero byte (half of all P-521 keys) is refused by the library when `ssh-keygen` wrote it.
    ///
    /// # Errors
    /// When it is not such a key, has a passphrase, or is of a type that cannot be a host key.
    pub fn parse(pem: impl AsRef<[u8]>) -> Result<Self, HostKeyError> {
        Self::from_private(PrivateKey::from_openssh(pem)?)
    }

    /// The key in the OpenSSH private key format, to be kept in a file of mode 0600.
    ///
    /// # Errors
    /// [`HostKeyError::Format`] when the library cannot encode it.
    pub fn encode(&self) -> Result<Zeroizing<String>, HostKeyError> {
        Ok(self.private.to_openssh(LineEnding::LF)?)
    }

    /// The public key as one line: type, base64, comment.
    ///
    /// # Errors
    /// [`HostKeyError::Format`] when the library cannot encode it.
    pub fn public_line(&self) -> Result<String, HostKeyError> {
        Ok(self.private.public_key().to_openssh()?)
    }

    /// The fingerprint as `SHA256:…`, as `ssh-keygen -l` shows it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.private.fingerprint(HashAlg::Sha256).to_string()
    }

    /// The public key blob (RFC 4253 §6.6).
    #[must_use]
    pub fn public_blob(&self) -> &[u8] {
        &self.public_blob
    }

    /// The signature algorithms this key can be used with, the preferred first.
    #[must_use]
    pub const fn algorithms(&self) -> &'static [HostKeyAlgorithm] {
        use HostKeyAlgorithm as A;
        match &self.signer {
            Signer::Ed25519(_) => &[A::Ed25519],
            Signer::Rsa(_) => &[A::RsaSha512, A::RsaSha256],
            Signer::Ecdsa { algorithm, .. } => match algorithm {
                A::EcdsaP384 => &[A::EcdsaP384],
                A::EcdsaP521 => &[A::EcdsaP521],
                _ => &[A::EcdsaP256],
            },
        }
    }

    /// Signs `message` and returns the signature blob: algorithm name and signature. `None` when the key is not of
    /// that algorithm or the library fails.
    #[must_use]
    pub fn sign(&self, algorithm: HostKeyAlgorithm, message: &[u8]) -> Option<Vec<u8>> {
        let mut blob = Writer::new();
        blob.string(algorithm.name());
        match (&self.signer, algorithm) {
            (Signer::Ed25519(pair), HostKeyAlgorithm::Ed25519) => {
                blob.string(pair.sign(message));
            }
            (Signer::Rsa(pair), HostKeyAlgorithm::RsaSha512 | HostKeyAlgorithm::RsaSha256) => {
                let padding = if algorithm == HostKeyAlgorithm::RsaSha512 {
                    &RSA_PKCS1_SHA512
                } else {
                    &RSA_PKCS1_SHA256
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &SystemRandom::new(), message, &mut signature).ok()?;
                blob.string(signature);
            }
            (Signer::Ecdsa { pair, algorithm: own }, _) if *own == algorithm => {
                let signature = pair.sign(&SystemRandom::new(), message).ok()?;
                let (r, s) = signature.as_ref().split_at(signature.as_ref().len() / 2);
                let mut pair = Writer::new();
                pair.mpint(r).mpint(s);
                blob.string(pair.as_slice());
            }
            _ => return None,
        }
        Some(blob.into_vec())
    }

    /// Wraps the fields of a private key into the OpenSSH format and reads that back, so that every key takes one way.
    fn from_fields(public_blob: &[u8], mut fields: Writer, comment: &str) -> Result<Self, HostKeyError> {
        fields.string(comment);
        let fields = Zeroizing::new(fields.into_vec());
        let mut section = secret_writer();
        // Two equal numbers detect a wrong passphrase; there is none here.
        section.u32(0x5347_5347).u32(0x5347_5347).raw(&fields);
        for pad in 1u8..=8 {
            if section.as_slice().len().is_multiple_of(8) {
                break;
            }
            section.byte(pad);
        }
        let section = Zeroizing::new(section.into_vec());
        let mut key = secret_writer();
        key.raw(b"openssh-key-v1\0")
            .string("none")
            .string("none")
            .string("")
            .u32(1)
            .string(public_blob)
            .string(&*section);
        let key = Zeroizing::new(key.into_vec());
        Self::from_private(PrivateKey::from_bytes(&key)?)
    }

    fn from_private(private: PrivateKey) -> Result<Self, HostKeyError> {
        let rejected = |_| HostKeyError::Rejected;
        let signer = match private.key_data() {
            KeypairData::Ed25519(pair) => {
                let seed = Zeroizing::new(pair.private.to_bytes());
                Signer::Ed25519(
                    Ed25519KeyPair::from_seed_and_public_key(&*seed, pair.public.as_ref())
                        .map_err(rejected)?,
                )
            }
            KeypairData::Rsa(pair) => Signer::Rsa(rsa_pair(pair).ok_or(HostKeyError::Rejected)?),
            KeypairData::Ecdsa(pair) => {
                let algorithm = match pair {
                    EcdsaKeypair::NistP256 { .. } => HostKeyAlgorithm::EcdsaP256,
                    EcdsaKeypair::NistP384 { .. } => HostKeyAlgorithm::EcdsaP384,
                    EcdsaKeypair::NistP521 { .. } => HostKeyAlgorithm::EcdsaP521,
                };
                let pair = EcdsaKeyPair::from_private_key_and_public_key(
                    ecdsa_algorithm(algorithm),
                    pair.private_key_bytes(),
                    pair.public_key_bytes(),
                )
                .map_err(rejected)?;
                Signer::Ecdsa { pair, algorithm }
            }
            KeypairData::Encrypted(_) => return Err(HostKeyError::Encrypted),
            _ => return Err(HostKeyError::Unsupported(private.algorithm().as_str().to_owned())),
        };
        let public_blob = private.public_key().to_bytes()?;
        Ok(Self { signer, private, public_blob })
    }
}

/// A writer that never has to grow, so that no copy of the key is left behind: an RSA key of 4096 bits takes 2.5 KiB.
fn secret_writer() -> Writer {
    Writer::append_to(Vec::with_capacity(8 * 1024))
}

fn ecdsa_algorithm(algorithm: HostKeyAlgorithm) -> &'static EcdsaSigningAlgorithm {
    match algorithm {
        HostKeyAlgorithm::EcdsaP384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
        HostKeyAlgorithm::EcdsaP521 => &ECDSA_P521_SHA512_FIXED_SIGNING,
        _ => &ECDSA_P256_SHA256_FIXED_SIGNING,
    }
}

fn ecdsa_fields(algorithm: HostKeyAlgorithm) -> Result<(Writer, Writer), HostKeyError> {
    let failed = |_| HostKeyError::Generate;
    let pair = EcdsaKeyPair::generate(ecdsa_algorithm(algorithm)).map_err(failed)?;
    let secret = pair.private_key().as_be_bytes().map_err(failed)?;
    let name = algorithm.name();
    let curve = name.rsplit('-').next().unwrap_or_default();
    let mut public = Writer::new();
    public.string(name).string(curve).string(pair.public_key());
    let mut fields = secret_writer();
    // `ssh-key` wants the scalar at its full length, which OpenSSH reads as well.
    let sign = secret.as_ref().first().is_some_and(|b| b & 0x80 != 0);
    let scalar = Zeroizing::new([if sign { &[0][..] } else { &[] }, secret.as_ref()].concat());
    fields.string(name).string(curve).string(pair.public_key()).string(&*scalar);
    Ok((public, fields))
}

/// The OpenSSH format has no `d mod (p-1)` and `d mod (q-1)`; they are computed here.
fn rsa_pair(pair: &ssh_key::private::RsaKeypair) -> Option<RsaKeyPair> {
    let n = pair.public.n.as_positive_bytes()?;
    let e = pair.public.e.as_positive_bytes()?;
    let d = pair.private.d.as_positive_bytes()?;
    let p = pair.private.p.as_positive_bytes()?;
    let q = pair.private.q.as_positive_bytes()?;
    let d_p = reduce::modulo_minus_one(d, p)?;
    let d_q = reduce::modulo_minus_one(d, q)?;
    RsaKeyPair::from_components(&KeyPairComponents {
        public_key: PublicKeyComponents { n, e },
        d,
        p,
        q,
        dP: &d_p,
        dQ: &d_q,
        qInv: pair.private.iqmp.as_positive_bytes()?,
    })
    .ok()
}

/// The name in a public key blob (RFC 4253 §6.6), for logs.
#[must_use]
pub fn blob_type(blob: &[u8]) -> Option<&str> {
    Reader::new(blob).text().ok()
}

#[cfg(test)]
mod tests;
