//! The binary packet protocol (RFC 4253 §6): framing, encryption and integrity of single packets.
//!
//! A packet on the wire is `length(4) padding_length(1) payload padding tag`. [`SealKey`] and [`OpenKey`] each hold the
//! keyed state of one direction, set up once per key exchange; they work in place on a slice and never allocate.
//!
//! Only modes in which the length can be checked before anything is decrypted are spoken, so there is no length oracle:
//! * AES-GCM (RFC 5647 with the OpenSSH rule that the MAC is implied): the length is in clear and authenticated;
//! * chacha20-poly1305@openssh.com (OpenSSH PROTOCOL.chacha20poly1305): the length has a key of its own;
//! * AES-CTR (RFC 4344) with encrypt-then-MAC HMAC-SHA2 (OpenSSH PROTOCOL §1.5): the length is in clear, the MAC comes
//!   first and is compared in constant time.
//!
//! Padding is zero bytes. RFC 4253 §6 recommends random padding for the sake of CBC and of ciphers used without a
//! counter; with a nonce or counter mode the padding is XORed with key stream that is never reused, and the modes above
//! authenticate it, so its content gives nothing away. The shortest legal padding is used.

mod buffer;
mod ctr;

use std::ops::Range;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm as AeadAlgorithm, LessSafeKey, Nonce, UnboundKey,
    chacha20_poly1305_openssh as chacha,
};

use crate::algorithm::{Cipher, Mac};
use crate::transport::Error;
pub(crate) use buffer::{InputBuffer, OutputBuffer};

/// The largest `packet_length` accepted, in bytes. RFC 4253 §6.1 asks for at least 35000; OpenSSH's limit is 256 KiB.
pub const MAX_PACKET_LENGTH: usize = 256 * 1024;
/// The largest payload this side puts into one packet, in bytes: what remains of [`MAX_PACKET_LENGTH`] after padding.
pub const MAX_PAYLOAD: usize = MAX_PACKET_LENGTH - 64;
/// `length` and `padding_length`.
pub(crate) const HEADER: usize = 5;
/// The most that padding (at most 4 + 15 bytes) and tag (at most 64 bytes) add after the payload.
pub(crate) const MAX_TRAILER: usize = 19 + 64;
/// The `packet_length` field.
const LENGTH: usize = 4;
/// RFC 4253 §6: at least four bytes of padding.
const MIN_PADDING: usize = 4;

/// The initialization vector and keys of one direction, as derived by RFC 4253 §7.2.
pub(crate) struct KeyMaterial<'a> {
    pub iv: &'a [u8],
    pub key: &'a [u8],
    pub mac: &'a [u8],
}

/// The nonce of AES-GCM: four fixed bytes and a counter that is raised by one for each packet (RFC 5647 §7.1).
pub(crate) struct GcmNonce {
    fixed: [u8; 4],
    counter: u64,
}

impl GcmNonce {
    fn new(iv: &[u8]) -> Result<Self, Error> {
        let (fixed, rest) = iv.split_first_chunk::<4>().ok_or(Error::Crypto)?;
        let counter = rest.first_chunk::<8>().ok_or(Error::Crypto)?;
        Ok(Self { fixed: *fixed, counter: u64::from_be_bytes(*counter) })
    }

    fn next(&mut self) -> Nonce {
        let mut bytes = [0; 12];
        let (fixed, counter) = bytes.split_at_mut(4);
        fixed.copy_from_slice(&self.fixed);
        counter.copy_from_slice(&self.counter.to_be_bytes());
        // The counter starts at a derived value and may pass zero; 2^64 packets can never be sent with one key.
        self.counter = self.counter.wrapping_add(1);
        Nonce::assume_unique_for_key(bytes)
    }
}

/// The sending key of one direction.
pub(crate) enum SealKey {
    /// Before the first key exchange.
    Clear,
    Gcm {
        key: LessSafeKey,
        nonce: GcmNonce,
    },
    ChaCha(Box<chacha::SealingKey>),
    CtrEtm(Box<ctr::SealCtr>),
}

/// The receiving key of one direction.
pub(crate) enum OpenKey {
    /// Before the first key exchange.
    Clear,
    Gcm {
        key: LessSafeKey,
        nonce: GcmNonce,
    },
    ChaCha(Box<chacha::OpeningKey>),
    CtrEtm(Box<ctr::OpenCtr>),
}

fn gcm_key(
    algorithm: &'static AeadAlgorithm,
    material: &KeyMaterial<'_>,
) -> Result<(LessSafeKey, GcmNonce), Error> {
    let key = UnboundKey::new(algorithm, material.key).map_err(|_| Error::Crypto)?;
    Ok((LessSafeKey::new(key), GcmNonce::new(material.iv)?))
}

impl SealKey {
    /// Sets up the state for `cipher`; `mac` is used by the ciphers that need one.
    pub fn new(cipher: Cipher, mac: Option<Mac>, material: &KeyMaterial<'_>) -> Result<Self, Error> {
        Ok(match cipher {
            Cipher::Aes128Gcm => {
                let (key, nonce) = gcm_key(&AES_128_GCM, material)?;
                Self::Gcm { key, nonce }
            }
            Cipher::Aes256Gcm => {
                let (key, nonce) = gcm_key(&AES_256_GCM, material)?;
                Self::Gcm { key, nonce }
            }
            Cipher::ChaCha20Poly1305 => {
                let key = material.key.try_into().map_err(|_| Error::Crypto)?;
                Self::ChaCha(Box::new(chacha::SealingKey::new(key)))
            }
            Cipher::Aes128Ctr | Cipher::Aes256Ctr => {
                Self::CtrEtm(Box::new(ctr::SealCtr::new(mac.ok_or(Error::Crypto)?, material)?))
            }
        })
    }

    const fn shape(&self) -> Shape {
        match self {
            Self::Clear => Shape { block: 8, tag: 0, length_in_block: true },
            Self::Gcm { .. } => Shape { block: 16, tag: 16, length_in_block: false },
            Self::ChaCha(_) => Shape { block: 8, tag: 16, length_in_block: false },
            Self::CtrEtm(key) => Shape { block: 16, tag: key.tag_len(), length_in_block: false },
        }
    }

    /// The padding and the `packet_length` of a packet with this payload.
    const fn layout(shape: &Shape, payload_len: usize) -> (usize, usize) {
        let counted = if shape.length_in_block { HEADER } else { HEADER - LENGTH };
        let mut padding = shape.block - payload_len.saturating_add(counted) % shape.block;
        if padding < MIN_PADDING {
            padding += shape.block;
        }
        (padding, payload_len.saturating_add(1 + padding))
    }

    /// The length on the wire of a packet with a payload of `payload_len` bytes.
    pub const fn sealed_len(&self, payload_len: usize) -> usize {
        let shape = self.shape();
        let (_, body) = Self::layout(&shape, payload_len);
        body.saturating_add(LENGTH + shape.tag)
    }

    /// Seals the packet whose payload of `payload_len` bytes lies at `buf[HEADER..]`, and returns its length on the
    /// wire. `buf` must have [`MAX_TRAILER`] bytes after the payload.
    pub fn seal(&mut self, sequence: u32, buf: &mut [u8], payload_len: usize) -> Result<usize, Error> {
        let shape = self.shape();
        let (padding, body) = Self::layout(&shape, payload_len);
        if body > MAX_PACKET_LENGTH {
            return Err(Error::MessageTooLarge);
        }
        let total = LENGTH + body + shape.tag;
        let (packet, tag) = buf
            .get_mut(..total)
            .and_then(|b| b.split_at_mut_checked(LENGTH + body))
            .ok_or(Error::MessageTooLarge)?;
        let length = u32::try_from(body).map_err(|_| Error::MessageTooLarge)?.to_be_bytes();
        packet[..LENGTH].copy_from_slice(&length);
        packet[LENGTH] = u8::try_from(padding).map_err(|_| Error::MessageTooLarge)?;
        packet[HEADER + payload_len..].fill(0);
        match self {
            Self::Clear => {}
            Self::Gcm { key, nonce } => key
                .seal_in_place_scatter(nonce.next(), Aad::from(length), &mut packet[LENGTH..], &[], tag)
                .map_err(|_| Error::Crypto)?,
            Self::ChaCha(key) => {
                let tag: &mut [u8; chacha::TAG_LEN] = tag.try_into().map_err(|_| Error::Crypto)?;
                key.seal_in_place(sequence, packet, tag);
            }
            Self::CtrEtm(key) => key.seal(sequence, packet, tag)?,
        }
        Ok(total)
    }
}

impl OpenKey {
    /// Sets up the state for `cipher`; `mac` is used by the ciphers that need one.
    pub fn new(cipher: Cipher, mac: Option<Mac>, material: &KeyMaterial<'_>) -> Result<Self, Error> {
        Ok(match cipher {
            Cipher::Aes128Gcm => {
                let (key, nonce) = gcm_key(&AES_128_GCM, material)?;
                Self::Gcm { key, nonce }
            }
            Cipher::Aes256Gcm => {
                let (key, nonce) = gcm_key(&AES_256_GCM, material)?;
                Self::Gcm { key, nonce }
            }
            Cipher::ChaCha20Poly1305 => {
                let key = material.key.try_into().map_err(|_| Error::Crypto)?;
                Self::ChaCha(Box::new(chacha::OpeningKey::new(key)))
            }
            Cipher::Aes128Ctr | Cipher::Aes256Ctr => {
                Self::CtrEtm(Box::new(ctr::OpenCtr::new(mac.ok_or(Error::Crypto)?, material)?))
            }
        })
    }

    const fn shape(&self) -> Shape {
        match self {
            Self::Clear => Shape { block: 8, tag: 0, length_in_block: true },
            Self::Gcm { .. } => Shape { block: 16, tag: 16, length_in_block: false },
            Self::ChaCha(_) => Shape { block: 8, tag: 16, length_in_block: false },
            Self::CtrEtm(key) => Shape { block: 16, tag: key.tag_len(), length_in_block: false },
        }
    }

    /// The length on the wire, tag included, of the packet that begins with `head`; checked against all bounds.
    pub fn wire_length(&self, sequence: u32, head: [u8; LENGTH]) -> Result<usize, Error> {
        let length = match self {
            Self::ChaCha(key) => key.decrypt_packet_length(sequence, head),
            Self::Clear | Self::Gcm { .. } | Self::CtrEtm(_) => head,
        };
        let length = u32::from_be_bytes(length);
        let body = usize::try_from(length).map_err(|_| Error::BadPacketLength(length))?;
        let shape = self.shape();
        if !(1 + MIN_PADDING + 1..=MAX_PACKET_LENGTH).contains(&body) {
            return Err(Error::BadPacketLength(length));
        }
        let counted = if shape.length_in_block { body + LENGTH } else { body };
        if counted % shape.block != 0 {
            return Err(Error::BadPacketLength(length));
        }
        Ok(LENGTH + body + shape.tag)
    }

    /// Checks and decrypts one whole packet in place, and returns where its payload is. The payload is never empty.
    pub fn open(&mut self, sequence: u32, packet: &mut [u8]) -> Result<Range<usize>, Error> {
        let tag_len = self.shape().tag;
        let body_end =
            packet.len().checked_sub(tag_len).filter(|end| *end > HEADER).ok_or(Error::BadPadding)?;
        let (body, tag) = packet.split_at_mut(body_end);
        match self {
            Self::Clear => {}
            Self::Gcm { key, nonce } => {
                let (length, text) = body.split_first_chunk_mut::<LENGTH>().ok_or(Error::BadPadding)?;
                key.open_in_place_separate_tag(nonce.next(), Aad::from(*length), tag, text)
                    .map_err(|_| Error::BadMac)?;
            }
            Self::ChaCha(key) => {
                let tag: &[u8; chacha::TAG_LEN] = (&*tag).try_into().map_err(|_| Error::BadMac)?;
                key.open_in_place(sequence, body, tag).map_err(|_| Error::BadMac)?;
            }
            Self::CtrEtm(key) => key.open(sequence, body, tag)?,
        }
        let padding = usize::from(body[LENGTH]);
        let end = body_end.checked_sub(padding).ok_or(Error::BadPadding)?;
        if padding < MIN_PADDING || end <= HEADER {
            return Err(Error::BadPadding);
        }
        Ok(HEADER..end)
    }
}

struct Shape {
    /// The multiple that the packet is padded to, in bytes.
    block: usize,
    tag: usize,
    /// Whether the length field counts towards the multiple (RFC 4253) or not (AEAD and encrypt-then-MAC).
    length_in_block: bool,
}

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey(..)")
    }
}

impl std::fmt::Debug for OpenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenKey(..)")
    }
}

#[cfg(test)]
mod tests;
