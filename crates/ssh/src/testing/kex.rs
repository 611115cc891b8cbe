//! The client's half of the key exchange methods, and the check of host key signatures.

use aws_lc_rs::agreement::{self, ECDH_P256, ECDH_P384, ECDH_P521, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, ML_KEM_768};
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512,
};

use crate::algorithm::Kex;
use crate::codec::Reader;
use crate::kex::{LibraryRng, MLKEM_CIPHERTEXT_LEN, SNTRUP_CIPHERTEXT_LEN, SharedSecret};

enum PostQuantum {
    None,
    MlKem(DecapsulationKey),
    Sntrup(Box<sntrup::sntrup761::DecapsulationKey>),
}

/// A key exchange that has begun.
pub(crate) struct ClientExchange {
    kex: Kex,
    curve: &'static agreement::Algorithm,
    own: PrivateKey,
    post_quantum: PostQuantum,
    value: Vec<u8>,
}

impl ClientExchange {
    pub fn start(kex: Kex) -> Self {
        let curve = match kex {
            Kex::NistP256 => &ECDH_P256,
            Kex::NistP384 => &ECDH_P384,
            Kex::NistP521 => &ECDH_P521,
            _ => &X25519,
        };
        let (post_quantum, mut value) = match kex {
            Kex::MlKem768X25519 => {
                let key = DecapsulationKey::generate(&ML_KEM_768).unwrap();
                let public = key.encapsulation_key().unwrap().key_bytes().unwrap().as_ref().to_vec();
                (PostQuantum::MlKem(key), public)
            }
            Kex::Sntrup761X25519 | Kex::Sntrup761X25519OpenSsh => {
                let (public, key) = sntrup::sntrup761::generate_key(&mut LibraryRng::default());
                (PostQuantum::Sntrup(Box::new(key)), public.as_ref().to_vec())
            }
            _ => (PostQuantum::None, Vec::new()),
        };
        let own = PrivateKey::generate(curve).unwrap();
        value.extend_from_slice(own.compute_public_key().unwrap().as_ref());
        Self { kex, curve, own, post_quantum, value }
    }

    /// What goes into `SSH_MSG_KEX_ECDH_INIT`.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    pub fn finish(self, server_value: &[u8]) -> SharedSecret {
        let ciphertext_len = match self.post_quantum {
            PostQuantum::None => 0,
            PostQuantum::MlKem(_) => MLKEM_CIPHERTEXT_LEN,
            PostQuantum::Sntrup(_) => SNTRUP_CIPHERTEXT_LEN,
        };
        let (ciphertext, point) = server_value.split_at(ciphertext_len);
        agreement::agree(&self.own, UnparsedPublicKey::new(self.curve, point), (), |classical| {
            Ok(match &self.post_quantum {
                PostQuantum::None => SharedSecret::from_number(classical),
                PostQuantum::MlKem(key) => {
                    let secret = key.decapsulate(Ciphertext::from(ciphertext)).unwrap();
                    SharedSecret::from_hybrid(self.kex, secret.as_ref(), classical)
                }
                PostQuantum::Sntrup(key) => {
                    let ciphertext = sntrup::sntrup761::Ciphertext::try_from(ciphertext).unwrap();
                    SharedSecret::from_hybrid(self.kex, key.decapsulate(&ciphertext).as_ref(), classical)
                }
            })
        })
        .unwrap()
    }
}

/// Checks a signature blob over `message` by the key of a public key blob.
#[must_use]
pub fn verify_signature(public_blob: &[u8], message: &[u8], signature_blob: &[u8]) -> bool {
    let mut key = Reader::new(public_blob);
    let mut blob = Reader::new(signature_blob);
    let (Ok(key_type), Ok(algorithm), Ok(bytes)) = (key.text(), blob.text(), blob.string()) else {
        return false;
    };
    match (key_type, algorithm) {
        ("ssh-ed25519", "ssh-ed25519") => {
            let key = signature::UnparsedPublicKey::new(&signature::ED25519, key.string().unwrap());
            key.verify(message, bytes).is_ok()
        }
        ("ssh-rsa", "rsa-sha2-256" | "rsa-sha2-512") => {
            let (e, n) = (key.mpint().unwrap(), key.mpint().unwrap());
            let parameters = if algorithm == "rsa-sha2-256" {
                &RSA_PKCS1_2048_8192_SHA256
            } else {
                &RSA_PKCS1_2048_8192_SHA512
            };
            PublicKeyComponents { n, e }.verify(parameters, message, bytes).is_ok()
        }
        _ if key_type == algorithm => {
            let (parameters, len) = match key.text().unwrap() {
                "nistp256" => (&ECDSA_P256_SHA256_FIXED, 32),
                "nistp384" => (&ECDSA_P384_SHA384_FIXED, 48),
                "nistp521" => (&ECDSA_P521_SHA512_FIXED, 66),
                _ => return false,
            };
            let mut pair = Reader::new(bytes);
            let mut fixed = Vec::new();
            for _ in 0..2 {
                let number = pair.mpint().unwrap();
                fixed.extend(std::iter::repeat_n(0, len - number.len()));
                fixed.extend_from_slice(number);
            }
            signature::UnparsedPublicKey::new(parameters, key.string().unwrap())
                .verify(message, &fixed)
                .is_ok()
        }
        _ => false,
    }
}
