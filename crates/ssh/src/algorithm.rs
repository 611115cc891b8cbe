//! The algorithms spoken, by name, and how one of each kind is agreed (RFC 4253 §7.1).
//!
//! The lists below are in our order of preference, which only matters for display: of each kind, the first name in the
//! *client's* list that we have too is used. Compression is `none` alone.

use crate::codec::NameList;
use crate::transport::{Compatibility, Config, Error};

/// How many bytes the key derivation must give for the initialization vector and key of a cipher.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CipherSizes {
    pub iv: usize,
    pub key: usize,
}

/// An encryption algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// `aes128-gcm@openssh.com`
    Aes128Gcm,
    /// `aes256-gcm@openssh.com`
    Aes256Gcm,
    /// `chacha20-poly1305@openssh.com`
    ChaCha20Poly1305,
    /// `aes128-ctr`, with an encrypt-then-MAC algorithm
    Aes128Ctr,
    /// `aes256-ctr`, with an encrypt-then-MAC algorithm
    Aes256Ctr,
}

impl Cipher {
    /// All, the preferred first.
    pub const ALL: [Self; 5] =
        [Self::Aes128Gcm, Self::ChaCha20Poly1305, Self::Aes256Gcm, Self::Aes256Ctr, Self::Aes128Ctr];

    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "aes128-gcm@openssh.com",
            Self::Aes256Gcm => "aes256-gcm@openssh.com",
            Self::ChaCha20Poly1305 => "chacha20-poly1305@openssh.com",
            Self::Aes128Ctr => "aes128-ctr",
            Self::Aes256Ctr => "aes256-ctr",
        }
    }

    /// True when the cipher authenticates by itself and the MAC negotiated beside it is not used.
    #[must_use]
    pub const fn is_aead(self) -> bool {
        !matches!(self, Self::Aes128Ctr | Self::Aes256Ctr)
    }

    pub(crate) const fn sizes(self) -> CipherSizes {
        match self {
            Self::Aes128Gcm => CipherSizes { iv: 12, key: 16 },
            Self::Aes256Gcm => CipherSizes { iv: 12, key: 32 },
            Self::ChaCha20Poly1305 => CipherSizes { iv: 0, key: 64 },
            Self::Aes128Ctr => CipherSizes { iv: 16, key: 16 },
            Self::Aes256Ctr => CipherSizes { iv: 16, key: 32 },
        }
    }

    /// The most bytes that one key may protect. RFC 4344 §3.2: 2^(L/4) blocks of L = 128 bits, that is 64 GiB, for AES.
    /// ChaCha20 has a nonce per packet, so only the sequence number limits it; the same bound is used for simplicity.
    pub(crate) const fn byte_limit(self) -> u64 {
        1 << 36
    }
}

/// A message authentication algorithm. Only encrypt-then-MAC ones are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mac {
    /// `hmac-sha2-256-etm@openssh.com`
    HmacSha256Etm,
    /// `hmac-sha2-512-etm@openssh.com`
    HmacSha512Etm,
}

impl Mac {
    /// All, the preferred first.
    pub const ALL: [Self; 2] = [Self::HmacSha256Etm, Self::HmacSha512Etm];

    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HmacSha256Etm => "hmac-sha2-256-etm@openssh.com",
            Self::HmacSha512Etm => "hmac-sha2-512-etm@openssh.com",
        }
    }

    /// The length of key and tag, in bytes.
    pub(crate) const fn tag_len(self) -> usize {
        match self {
            Self::HmacSha256Etm => 32,
            Self::HmacSha512Etm => 64,
        }
    }
}

/// A key exchange method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kex {
    /// `mlkem768x25519-sha256`
    MlKem768X25519,
    /// `sntrup761x25519-sha512`
    Sntrup761X25519,
    /// `sntrup761x25519-sha512@openssh.com`
    Sntrup761X25519OpenSsh,
    /// `curve25519-sha256`
    Curve25519,
    /// `curve25519-sha256@libssh.org`
    Curve25519LibSsh,
    /// `ecdh-sha2-nistp256`; only with [`Compatibility::Compat`]
    NistP256,
    /// `ecdh-sha2-nistp384`; only with [`Compatibility::Compat`]
    NistP384,
    /// `ecdh-sha2-nistp521`; only with [`Compatibility::Compat`]
    NistP521,
}

impl Kex {
    /// All, the preferred first.
    pub const ALL: [Self; 8] = [
        Self::MlKem768X25519,
        Self::Sntrup761X25519,
        Self::Sntrup761X25519OpenSsh,
        Self::Curve25519,
        Self::Curve25519LibSsh,
        Self::NistP256,
        Self::NistP384,
        Self::NistP521,
    ];

    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MlKem768X25519 => "mlkem768x25519-sha256",
            Self::Sntrup761X25519 => "sntrup761x25519-sha512",
            Self::Sntrup761X25519OpenSsh => "sntrup761x25519-sha512@openssh.com",
            Self::Curve25519 => "curve25519-sha256",
            Self::Curve25519LibSsh => "curve25519-sha256@libssh.org",
            Self::NistP256 => "ecdh-sha2-nistp256",
            Self::NistP384 => "ecdh-sha2-nistp384",
            Self::NistP521 => "ecdh-sha2-nistp521",
        }
    }

    const fn is_compat_only(self) -> bool {
        matches!(self, Self::NistP256 | Self::NistP384 | Self::NistP521)
    }
}

/// A host key signature algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostKeyAlgorithm {
    /// `ssh-ed25519`
    Ed25519,
    /// `rsa-sha2-512`
    RsaSha512,
    /// `rsa-sha2-256`
    RsaSha256,
    /// `ecdsa-sha2-nistp256`; only with [`Compatibility::Compat`]
    EcdsaP256,
    /// `ecdsa-sha2-nistp384`; only with [`Compatibility::Compat`]
    EcdsaP384,
    /// `ecdsa-sha2-nistp521`; only with [`Compatibility::Compat`]
    EcdsaP521,
}

impl HostKeyAlgorithm {
    /// The name on the wire, also inside the signature.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ssh-ed25519",
            Self::RsaSha512 => "rsa-sha2-512",
            Self::RsaSha256 => "rsa-sha2-256",
            Self::EcdsaP256 => "ecdsa-sha2-nistp256",
            Self::EcdsaP384 => "ecdsa-sha2-nistp384",
            Self::EcdsaP521 => "ecdsa-sha2-nistp521",
        }
    }

    /// True for the algorithms that are spoken only with [`Compatibility::Compat`].
    #[must_use]
    pub const fn is_compat_only(self) -> bool {
        matches!(self, Self::EcdsaP256 | Self::EcdsaP384 | Self::EcdsaP521)
    }
}

/// Marks strict key exchange in the client's list of methods (OpenSSH PROTOCOL §1.10).
pub(crate) const STRICT_CLIENT: &str = "kex-strict-c-v00@openssh.com";
/// Marks strict key exchange in the server's list of methods.
pub(crate) const STRICT_SERVER: &str = "kex-strict-s-v00@openssh.com";
/// The client understands `SSH_MSG_EXT_INFO` (RFC 8308 §2.1).
pub(crate) const EXT_INFO_CLIENT: &str = "ext-info-c";

/// The signature algorithms accepted in public key authentication, as told in `server-sig-algs` (RFC 8308 §3.1).
pub const SERVER_SIG_ALGS: &str = "ssh-ed25519,sk-ssh-ed25519@openssh.com,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,\
ecdsa-sha2-nistp521,sk-ecdsa-sha2-nistp256@openssh.com,rsa-sha2-512,rsa-sha2-256,\
ssh-ed25519-cert-v01@openssh.com,sk-ssh-ed25519-cert-v01@openssh.com,ecdsa-sha2-nistp256-cert-v01@openssh.com,\
ecdsa-sha2-nistp384-cert-v01@openssh.com,ecdsa-sha2-nistp521-cert-v01@openssh.com,\
sk-ecdsa-sha2-nistp256-cert-v01@openssh.com,rsa-sha2-512-cert-v01@openssh.com,rsa-sha2-256-cert-v01@openssh.com";

/// What a listener offers: all that its configuration allows.
#[derive(Debug, Clone)]
pub(crate) struct Offer {
    pub kex: Vec<Kex>,
    pub host_key: Vec<HostKeyAlgorithm>,
    pub ciphers: Vec<Cipher>,
    pub macs: Vec<Mac>,
}

impl Offer {
    pub fn new(config: &Config) -> Self {
        let compat = config.compatibility == Compatibility::Compat;
        let kex = select(&Kex::ALL, &config.kex, Kex::name);
        let mut host_key: Vec<HostKeyAlgorithm> = Vec::new();
        for algorithm in config.host_keys.iter().flat_map(|key| key.algorithms()) {
            if (compat || !algorithm.is_compat_only()) && !host_key.contains(algorithm) {
                host_key.push(*algorithm);
            }
        }
        Self {
            kex: kex.into_iter().filter(|k| compat || !k.is_compat_only()).collect(),
            host_key,
            ciphers: select(&Cipher::ALL, &config.ciphers, Cipher::name),
            macs: select(&Mac::ALL, &config.macs, Mac::name),
        }
    }
}

/// The algorithms of `all` that `names` asks for, in the order of `names`; all of them when it is empty.
fn select<T: Copy>(all: &[T], names: &[String], name_of: impl Fn(T) -> &'static str) -> Vec<T> {
    if names.is_empty() {
        return all.to_vec();
    }
    names.iter().filter_map(|name| all.iter().copied().find(|a| name_of(*a) == name)).collect()
}

/// The first of the client's names that is in our offer.
pub(crate) fn choose<T: Copy>(
    theirs: NameList<'_>,
    ours: &[T],
    name_of: impl Fn(T) -> &'static str,
    kind: &'static str,
) -> Result<T, Error> {
    theirs
        .iter()
        .find_map(|name| ours.iter().copied().find(|a| name_of(*a) == name))
        .ok_or(Error::NoCommonAlgorithm(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Reader, Writer};

    #[test]
    fn the_clients_order_decides() {
        let mut w = Writer::new();
        w.name_list(["3des-cbc", "aes256-ctr", "aes128-gcm@openssh.com"]);
        let list = Reader::new(w.as_slice()).name_list().unwrap();
        assert_eq!(choose(list, &Cipher::ALL, Cipher::name, "cipher"), Ok(Cipher::Aes256Ctr));
        let none = choose(list, &[Cipher::Aes256Gcm], Cipher::name, "cipher");
        assert_eq!(none, Err(Error::NoCommonAlgorithm("cipher")));
    }

    #[test]
    fn nist_curves_are_offered_in_compat_mode_only() {
        let mut config = Config::new(Vec::new());
        assert!(Offer::new(&config).kex.iter().all(|k| !k.name().contains("nist")));
        config.compatibility = Compatibility::Compat;
        assert!(Offer::new(&config).kex.contains(&Kex::NistP384));
    }

    #[test]
    fn configured_names_restrict_and_order() {
        let mut config = Config::new(Vec::new());
        config.ciphers = ["aes256-ctr", "nonsense", "aes128-ctr"].map(str::to_owned).to_vec();
        assert_eq!(Offer::new(&config).ciphers, [Cipher::Aes256Ctr, Cipher::Aes128Ctr]);
    }
}
