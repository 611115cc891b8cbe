//! Binary packets: RFC 4253 §6 in the clear, RFC 5647 (`aes128-gcm@openssh.com`) after the first key exchange.

use std::io;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// What to spoil in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Nothing.
    None,
    /// One bit of the tag.
    Tag,
    /// The length field says this instead; everything else is sealed as it should be.
    Length(u32),
    /// The padding length says this instead, sealed properly.
    Padding(u8),
}

/// One direction of AES-128-GCM.
pub struct Cipher {
    key: LessSafeKey,
    nonce: [u8; 12],
}

const TAG: usize = 16;

impl Cipher {
    pub fn new(key: &[u8], nonce: &[u8]) -> Self {
        Self {
            key: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key).unwrap()),
            nonce: nonce.try_into().unwrap(),
        }
    }

    fn next_nonce(&mut self) -> Nonce {
        let nonce = self.nonce;
        let counter = u64::from_be_bytes(self.nonce[4..].try_into().unwrap()).wrapping_add(1);
        self.nonce[4..].copy_from_slice(&counter.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Makes a packet of `message`.
pub fn packet(cipher: Option<&mut Cipher>, message: &[u8], damage: Damage) -> Vec<u8> {
    // In the clear the length field counts for the alignment, under GCM it does not.
    let (block, counted) = if cipher.is_some() { (16, 1) } else { (8, 5) };
    let mut padding = block - (counted + message.len()) % block;
    if padding < 4 {
        padding += block;
    }
    let length = (1 + message.len() + padding) as u32;
    let told = if let Damage::Length(told) = damage { told } else { length };
    let padding_told = if let Damage::Padding(told) = damage { told } else { padding as u8 };
    let mut body = vec![padding_told];
    body.extend_from_slice(message);
    body.resize(body.len() + padding, 0);
    let mut bytes = told.to_be_bytes().to_vec();
    match cipher {
        None => bytes.extend(body),
        Some(cipher) => {
            let nonce = cipher.next_nonce();
            cipher.key.seal_in_place_append_tag(nonce, Aad::from(told.to_be_bytes()), &mut body).unwrap();
            if damage == Damage::Tag {
                *body.last_mut().unwrap() ^= 1;
            }
            bytes.extend(body);
        }
    }
    bytes
}

/// Takes one message from the front of `buffer`, if a whole packet is there.
pub fn take(cipher: Option<&mut Cipher>, buffer: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let Some(&length) = buffer.first_chunk::<4>() else { return Ok(None) };
    let count = u32::from_be_bytes(length) as usize;
    if count > 1 << 20 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet of over a MiB"));
    }
    let tag = if cipher.is_some() { TAG } else { 0 };
    if buffer.len() < 4 + count + tag {
        return Ok(None);
    }
    let mut body: Vec<u8> = buffer.drain(..4 + count + tag).skip(4).collect();
    if let Some(cipher) = cipher {
        let nonce = cipher.next_nonce();
        let plain = cipher.key.open_in_place(nonce, Aad::from(length), &mut body);
        let plain =
            plain.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a tag does not match"))?.len();
        body.truncate(plain);
    }
    let padding = usize::from(*body.first().ok_or(io::ErrorKind::InvalidData)?);
    let end = body.len().checked_sub(padding).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Some(body.get(1..end).ok_or(io::ErrorKind::InvalidData)?.to_vec()))
}
