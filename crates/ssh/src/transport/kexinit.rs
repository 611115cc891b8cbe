//! `SSH_MSG_KEXINIT` and what follows from the two of them (RFC 4253 §7.1).

use super::Error;
use crate::algorithm::{Cipher, EXT_INFO_CLIENT, HostKeyAlgorithm, Kex, Mac, Offer, STRICT_CLIENT, choose};
use crate::codec::{DecodeError, NameList, Reader};

/// A peer's KEXINIT, taken apart.
#[derive(Debug)]
pub(super) struct KexInit<'a> {
    kex: NameList<'a>,
    host_key: NameList<'a>,
    ciphers_in: NameList<'a>,
    ciphers_out: NameList<'a>,
    macs_in: NameList<'a>,
    macs_out: NameList<'a>,
    compression_in: NameList<'a>,
    compression_out: NameList<'a>,
    first_packet_follows: bool,
}

/// What to do with the packet that a client sent on a guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guess {
    /// There is none, or it was right.
    Use,
    /// It was wrong: the next packet is thrown away.
    Skip,
}

/// What both sides agreed on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Agreed {
    pub kex: Kex,
    pub host_key: HostKeyAlgorithm,
    pub cipher_in: Cipher,
    pub cipher_out: Cipher,
    pub mac_in: Option<Mac>,
    pub mac_out: Option<Mac>,
    pub guess: Guess,
}

impl<'a> KexInit<'a> {
    /// Reads a whole payload.
    pub fn parse(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(payload);
        // Message number and cookie.
        r.bytes(17)?;
        let kex = r.name_list()?;
        let host_key = r.name_list()?;
        let ciphers_in = r.name_list()?;
        let ciphers_out = r.name_list()?;
        let macs_in = r.name_list()?;
        let macs_out = r.name_list()?;
        let compression_in = r.name_list()?;
        let compression_out = r.name_list()?;
        let _languages = (r.string()?, r.string()?);
        let first_packet_follows = r.bool()?;
        let _reserved = r.u32()?;
        r.finish()?;
        Ok(Self {
            kex,
            host_key,
            ciphers_in,
            ciphers_out,
            macs_in,
            macs_out,
            compression_in,
            compression_out,
            first_packet_follows,
        })
    }

    /// The client asks for strict key exchange; meaningful in the first exchange only.
    pub fn wants_strict(&self) -> bool {
        self.kex.contains(STRICT_CLIENT)
    }

    /// The client understands `SSH_MSG_EXT_INFO`; meaningful in the first exchange only.
    pub fn wants_ext_info(&self) -> bool {
        self.kex.contains(EXT_INFO_CLIENT)
    }

    /// The signature algorithm to prove an RSA host key with when the exchange itself used another key.
    pub fn rsa_algorithm(&self) -> HostKeyAlgorithm {
        let only_256 = self.host_key.contains(HostKeyAlgorithm::RsaSha256.name())
            && !self.host_key.contains(HostKeyAlgorithm::RsaSha512.name());
        if only_256 { HostKeyAlgorithm::RsaSha256 } else { HostKeyAlgorithm::RsaSha512 }
    }

    /// Chooses one algorithm of each kind, by the client's order.
    pub fn agree(&self, offer: &Offer) -> Result<Agreed, Error> {
        let kex = choose(self.kex, &offer.kex, Kex::name, "key exchange method")?;
        let host_key = choose(self.host_key, &offer.host_key, HostKeyAlgorithm::name, "host key type")?;
        let cipher_in = choose(self.ciphers_in, &offer.ciphers, Cipher::name, "cipher")?;
        let cipher_out = choose(self.ciphers_out, &offer.ciphers, Cipher::name, "cipher")?;
        let mac_for = |cipher: Cipher, list| {
            if cipher.is_aead() { Ok(None) } else { choose(list, &offer.macs, Mac::name, "MAC").map(Some) }
        };
        let mac_in = mac_for(cipher_in, self.macs_in)?;
        let mac_out = mac_for(cipher_out, self.macs_out)?;
        if !self.compression_in.contains("none") || !self.compression_out.contains("none") {
            return Err(Error::NoCommonAlgorithm("compression method"));
        }
        let guess =
            if self.first_packet_follows && !self.guessed_right(offer) { Guess::Skip } else { Guess::Use };
        Ok(Agreed { kex, host_key, cipher_in, cipher_out, mac_in, mac_out, guess })
    }

    /// RFC 4253 §7: the guess is right when both sides put the same kex method and host key algorithm first.
    fn guessed_right(&self, offer: &Offer) -> bool {
        self.kex.iter().next() == offer.kex.first().map(|k| k.name())
            && self.host_key.iter().next() == offer.host_key.first().map(|k| k.name())
    }
}
