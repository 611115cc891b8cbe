//! AES-CTR with an encrypt-then-MAC HMAC (RFC 4344 §4, OpenSSH PROTOCOL §1.5).
//!
//! The key stream runs on from packet to packet, so the cipher context lives as long as the key. The library's streaming
//! interface cannot work in place; text goes through a small scratch block on the stack, which stays in the first-level cache.

use aws_lc_rs::cipher::{
    AES_128, AES_256, DecryptionContext, EncryptionContext, StreamingDecryptingKey, StreamingEncryptingKey,
    UnboundCipherKey,
};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use subtle::ConstantTimeEq as _;

use super::{KeyMaterial, LENGTH};
use crate::algorithm::Mac;
use crate::transport::Error;

/// The scratch block, in bytes: a multiple of the AES block, large enough for the wide code paths of the library.
const SCRATCH: usize = 2048;

fn mac_key(mac: Mac, material: &KeyMaterial<'_>) -> hmac::Key {
    let algorithm = match mac {
        Mac::HmacSha256Etm => hmac::HMAC_SHA256,
        Mac::HmacSha512Etm => hmac::HMAC_SHA512,
    };
    hmac::Key::new(algorithm, material.mac)
}

fn cipher_key(material: &KeyMaterial<'_>) -> Result<(UnboundCipherKey, [u8; 16]), Error> {
    let algorithm = if material.key.len() == 16 { &AES_128 } else { &AES_256 };
    let key = UnboundCipherKey::new(algorithm, material.key).map_err(|_| Error::Crypto)?;
    Ok((key, material.iv.try_into().map_err(|_| Error::Crypto)?))
}

fn tag_of(key: &hmac::Key, sequence: u32, packet: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(&sequence.to_be_bytes());
    context.update(packet);
    context.sign()
}

/// The sending side.
pub(crate) struct SealCtr {
    cipher: StreamingEncryptingKey,
    mac: hmac::Key,
    tag_len: usize,
}

impl SealCtr {
    pub fn new(mac: Mac, material: &KeyMaterial<'_>) -> Result<Self, Error> {
        let (key, iv) = cipher_key(material)?;
        let context = EncryptionContext::Iv128(FixedLength::from(iv));
        let cipher = StreamingEncryptingKey::less_safe_ctr(key, context).map_err(|_| Error::Crypto)?;
        Ok(Self { cipher, mac: mac_key(mac, material), tag_len: mac.tag_len() })
    }

    pub const fn tag_len(&self) -> usize {
        self.tag_len
    }

    pub fn seal(&mut self, sequence: u32, packet: &mut [u8], tag: &mut [u8]) -> Result<(), Error> {
        let mut scratch = [0; SCRATCH];
        for text in packet[LENGTH..].chunks_mut(SCRATCH) {
            let copy = &mut scratch[..text.len()];
            copy.copy_from_slice(text);
            self.cipher.less_safe_update(copy, text).map_err(|_| Error::Crypto)?;
        }
        tag.copy_from_slice(tag_of(&self.mac, sequence, packet).as_ref());
        Ok(())
    }
}

/// The receiving side.
pub(crate) struct OpenCtr {
    cipher: StreamingDecryptingKey,
    mac: hmac::Key,
    tag_len: usize,
}

impl OpenCtr {
    pub fn new(mac: Mac, material: &KeyMaterial<'_>) -> Result<Self, Error> {
        let (key, iv) = cipher_key(material)?;
        let context = DecryptionContext::Iv128(FixedLength::from(iv));
        let cipher = StreamingDecryptingKey::ctr(key, context).map_err(|_| Error::Crypto)?;
        Ok(Self { cipher, mac: mac_key(mac, material), tag_len: mac.tag_len() })
    }

    pub const fn tag_len(&self) -> usize {
        self.tag_len
    }

    pub fn open(&mut self, sequence: u32, packet: &mut [u8], tag: &[u8]) -> Result<(), Error> {
        if !bool::from(tag_of(&self.mac, sequence, packet).as_ref().ct_eq(tag)) {
            return Err(Error::BadMac);
        }
        let mut scratch = [0; SCRATCH];
        for text in packet[LENGTH..].chunks_mut(SCRATCH) {
            let copy = &mut scratch[..text.len()];
            copy.copy_from_slice(text);
            self.cipher.less_safe_update(copy, text).map_err(|_| Error::Crypto)?;
        }
        Ok(())
    }
}
