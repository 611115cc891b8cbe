//! The server's half: from the client's value to our value and the shared secret.

use std::convert::Infallible;

use aws_lc_rs::agreement::{self, ECDH_P256, ECDH_P384, ECDH_P521, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::kem::{EncapsulationKey, ML_KEM_768};
use rand_core::{TryCryptoRng, TryRng};

use super::{MLKEM_PUBLIC_LEN, SNTRUP_PUBLIC_LEN, SharedSecret, X25519_LEN};
use crate::algorithm::Kex;
use crate::transport::Error;

/// Answers the client's value with our value and the shared secret.
pub(crate) fn respond(kex: Kex, client_value: &[u8]) -> Result<(Vec<u8>, SharedSecret), Error> {
    match kex {
        Kex::Curve25519 | Kex::Curve25519LibSsh => number(&X25519, client_value, X25519_LEN),
        // An uncompressed point: 0x04, x, y (RFC 5656 §4; SEC 1 §2.3.3).
        Kex::NistP256 => number(&ECDH_P256, client_value, 65),
        Kex::NistP384 => number(&ECDH_P384, client_value, 97),
        Kex::NistP521 => number(&ECDH_P521, client_value, 133),
        Kex::MlKem768X25519 => {
            let (public, point) = split(client_value, MLKEM_PUBLIC_LEN)?;
            let key = EncapsulationKey::new(&ML_KEM_768, public).map_err(|_| Error::BadKeyExchangeValue)?;
            let (ciphertext, secret) = key.encapsulate().map_err(|_| Error::BadKeyExchangeValue)?;
            hybrid(kex, ciphertext.as_ref(), secret.as_ref(), point)
        }
        Kex::Sntrup761X25519 | Kex::Sntrup761X25519OpenSsh => {
            let (public, point) = split(client_value, SNTRUP_PUBLIC_LEN)?;
            let key = sntrup::sntrup761::EncapsulationKey::try_from(public)
                .map_err(|_| Error::BadKeyExchangeValue)?;
            let mut rng = LibraryRng::default();
            let (ciphertext, secret) = key.encapsulate(&mut rng);
            rng.finish()?;
            hybrid(kex, ciphertext.as_ref(), secret.as_ref(), point)
        }
    }
}

fn split(client_value: &[u8], public_len: usize) -> Result<(&[u8], &[u8]), Error> {
    let (public, point) = client_value.split_at_checked(public_len).ok_or(Error::BadKeyExchangeValue)?;
    if point.len() == X25519_LEN { Ok((public, point)) } else { Err(Error::BadKeyExchangeValue) }
}

fn hybrid(
    kex: Kex,
    ciphertext: &[u8],
    post_quantum: &[u8],
    client_point: &[u8],
) -> Result<(Vec<u8>, SharedSecret), Error> {
    let (point, secret) =
        agree(&X25519, client_point, |classical| SharedSecret::from_hybrid(kex, post_quantum, classical))?;
    Ok(([ciphertext, &point].concat(), secret))
}

fn number(
    curve: &'static agreement::Algorithm,
    client_value: &[u8],
    len: usize,
) -> Result<(Vec<u8>, SharedSecret), Error> {
    if client_value.len() != len {
        return Err(Error::BadKeyExchangeValue);
    }
    agree(curve, client_value, SharedSecret::from_number)
}

/// The library rejects points that are not on the curve and an all-zero X25519 result (RFC 8731 §3).
fn agree(
    curve: &'static agreement::Algorithm,
    client_point: &[u8],
    make: impl FnOnce(&[u8]) -> SharedSecret,
) -> Result<(Vec<u8>, SharedSecret), Error> {
    let own = PrivateKey::generate(curve).map_err(|_| Error::Crypto)?;
    let public = own.compute_public_key().map_err(|_| Error::Crypto)?;
    let secret = agreement::agree(
        &own,
        UnparsedPublicKey::new(curve, client_point),
        Error::BadKeyExchangeValue,
        |bytes| Ok(make(bytes)),
    )?;
    Ok((public.as_ref().to_vec(), secret))
}

/// Feeds `aws-lc-rs` randomness to the `sntrup` crate, which takes a generator that cannot fail: a failure is remembered,
/// and the caller throws the result away.
#[derive(Default)]
pub(crate) struct LibraryRng {
    failed: bool,
}

impl LibraryRng {
    /// Fails when any of the bytes handed out were not random.
    pub fn finish(self) -> Result<(), Error> {
        if self.failed { Err(Error::Crypto) } else { Ok(()) }
    }
}

impl TryRng for LibraryRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        self.failed |= aws_lc_rs::rand::fill(dst).is_err();
        Ok(())
    }
}

impl TryCryptoRng for LibraryRng {}
