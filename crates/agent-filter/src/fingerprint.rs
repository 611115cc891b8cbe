//! SHA-256 fingerprints, written as `ssh-keygen -l` and `ssh-add -l` write them.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;

const PREFIX: &str = "SHA256:";
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Characters of 32 bytes in base64 without padding.
const ENCODED: usize = 43;

/// The SHA-256 of a public key blob. For a certificate it is that of the key it certifies, as OpenSSH's tools show it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

/// Why a text is no fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FingerprintError {
    /// Another hash, or none named.
    #[error("A key fingerprint begins with SHA256:, as ssh-keygen -l prints it.")]
    NotSha256,
    /// Not 43 characters of base64 that stand for 32 bytes.
    #[error("A SHA256 fingerprint has 43 characters of base64 after its prefix.")]
    NotBase64,
}

impl Fingerprint {
    /// Of the encoding of a plain key.
    pub(crate) fn of(blob: &[u8]) -> Self {
        Self(sha256(blob))
    }
}

/// The SHA-256 of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.iter_mut().zip(digest::digest(&digest::SHA256, bytes).as_ref()).for_each(|(to, from)| *to = *from);
    hash
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(PREFIX.len() + ENCODED);
        text.push_str(PREFIX);
        for chunk in self.0.chunks(3) {
            let bits =
                chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
            for place in 0..=chunk.len() {
                let index = (bits >> (18 - 6 * place)) & 63;
                text.extend(ALPHABET.get(index as usize).map(|c| char::from(*c)));
            }
        }
        f.pad(&text)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let encoded = text.strip_prefix(PREFIX).ok_or(FingerprintError::NotSha256)?;
        let mut hash = [0; 32];
        let mut to = hash.iter_mut();
        let (mut bits, mut count) = (0u32, 0u32);
        for character in encoded.bytes() {
            let value = ALPHABET.iter().position(|c| *c == character).ok_or(FingerprintError::NotBase64)?;
            bits = (bits << 6 | u32::try_from(value).unwrap_or_default()) & 0xfff;
            count += 6;
            if count >= 8 {
                count -= 8;
                let [.., byte] = (bits >> count).to_be_bytes();
                *to.next().ok_or(FingerprintError::NotBase64)? = byte;
            }
        }
        // The last character carries two bits that belong to no byte; only one spelling is a fingerprint.
        let found = Self(hash);
        if encoded.len() != ENCODED || found.to_string() != text {
            return Err(FingerprintError::NotBase64);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_ssh_keygen_prints_is_a_fingerprint() {
        let good = "SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDzJ+yDGOKnkY1fLSg";
        for bad in [
            "",
            "SHA256:",
            "MD5:00:11",
            "uNiVztksCsDhcc0u9e8BgrJXVGDzJ+yDGOKnkY1fLSg",
            "SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDzJ+yDGOKnkY1fLSg=",
            "SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDzJ+yDGOKnkY1fLS",
            "SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDzJ+yDGOKnkY1fLSh",
            "SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDzJ-yDGOKnkY1fLSg",
            "SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDzJ+yDGOKnkY1fLSgAAAA",
        ] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
        assert_eq!(good.parse::<Fingerprint>().unwrap().to_string(), good);
    }

    proptest! {
        #[test]
        fn every_fingerprint_reads_back(blob: Vec<u8>) {
            let fingerprint = Fingerprint::of(&blob);
            prop_assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        }
    }
}
