//! Public keys and signatures of users (RFC 4253 §6.6, RFC 5656 §3, RFC 8332, RFC 8709, OpenSSH PROTOCOL.u2f).
//!
//! All arithmetic is aws-lc-rs's; this file only takes the blobs apart.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents, UnparsedPublicKey,
};

use crate::codec::{DecodeError, Reader, Writer};
use crate::event::SecurityKeyUse;

/// A kind of key, by its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyType {
    Ed25519,
    Ecdsa(Curve),
    Rsa,
    SkEd25519,
    SkEcdsa,
}

/// A NIST curve (RFC 5656 §10.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

/// A signature algorithm a client may use to log in.
#[derive(Debug)]
pub(crate) struct Algorithm {
    /// Its name in the request.
    pub(crate) name: &'static str,
    /// The name inside the key blob.
    pub(crate) blob_name: &'static str,
    /// The name inside the signature.
    pub(crate) signature_name: &'static str,
    pub(crate) key: KeyType,
    /// Whether the blob is a certificate.
    pub(crate) form: Form,
}

/// What a key blob holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Plain,
    Certificate,
}

const fn algorithm(
    name: &'static str,
    blob_name: &'static str,
    signature_name: &'static str,
    key: KeyType,
    form: Form,
) -> Algorithm {
    Algorithm { name, blob_name, signature_name, key, form }
}

const P256: &str = "ecdsa-sha2-nistp256";
const P384: &str = "ecdsa-sha2-nistp384";
const P521: &str = "ecdsa-sha2-nistp521";
const SK_ED: &str = "sk-ssh-ed25519@openssh.com";
const SK_EC: &str = "sk-ecdsa-sha2-nistp256@openssh.com";
const RSA_CERT: &str = "ssh-rsa-cert-v01@openssh.com";

/// Everything accepted. `ssh-rsa` with SHA-1 and DSA are left out on purpose.
const ALGORITHMS: &[Algorithm] = &{
    use Form::{Certificate as Cert, Plain};
    use KeyType::{Ecdsa, Ed25519, Rsa, SkEcdsa, SkEd25519};
    const ED_CERT: &str = "ssh-ed25519-cert-v01@openssh.com";
    const P256_CERT: &str = "ecdsa-sha2-nistp256-cert-v01@openssh.com";
    const P384_CERT: &str = "ecdsa-sha2-nistp384-cert-v01@openssh.com";
    const P521_CERT: &str = "ecdsa-sha2-nistp521-cert-v01@openssh.com";
    const SK_ED_CERT: &str = "sk-ssh-ed25519-cert-v01@openssh.com";
    const SK_EC_CERT: &str = "sk-ecdsa-sha2-nistp256-cert-v01@openssh.com";
    [
        algorithm("ssh-ed25519", "ssh-ed25519", "ssh-ed25519", Ed25519, Plain),
        algorithm(P256, P256, P256, Ecdsa(Curve::P256), Plain),
        algorithm(P384, P384, P384, Ecdsa(Curve::P384), Plain),
        algorithm(P521, P521, P521, Ecdsa(Curve::P521), Plain),
        algorithm("rsa-sha2-256", "ssh-rsa", "rsa-sha2-256", Rsa, Plain),
        algorithm("rsa-sha2-512", "ssh-rsa", "rsa-sha2-512", Rsa, Plain),
        algorithm(SK_ED, SK_ED, SK_ED, SkEd25519, Plain),
        algorithm(SK_EC, SK_EC, SK_EC, SkEcdsa, Plain),
        algorithm(ED_CERT, ED_CERT, "ssh-ed25519", Ed25519, Cert),
        algorithm(P256_CERT, P256_CERT, P256, Ecdsa(Curve::P256), Cert),
        algorithm(P384_CERT, P384_CERT, P384, Ecdsa(Curve::P384), Cert),
        algorithm(P521_CERT, P521_CERT, P521, Ecdsa(Curve::P521), Cert),
        algorithm("rsa-sha2-256-cert-v01@openssh.com", RSA_CERT, "rsa-sha2-256", Rsa, Cert),
        algorithm("rsa-sha2-512-cert-v01@openssh.com", RSA_CERT, "rsa-sha2-512", Rsa, Cert),
        algorithm(SK_ED_CERT, SK_ED_CERT, SK_ED, SkEd25519, Cert),
        algorithm(SK_EC_CERT, SK_EC_CERT, SK_EC, SkEcdsa, Cert),
    ]
};

/// Finds the algorithm of a request.
pub(crate) fn algorithm_named(name: &[u8]) -> Option<&'static Algorithm> {
    ALGORITHMS.iter().find(|a| a.name.as_bytes() == name)
}

/// Finds the plain key type of a key blob and the algorithm a signature names, as for a CA's key.
pub(crate) fn algorithm_of(blob: &[u8], signature: &[u8]) -> Option<&'static Algorithm> {
    let blob_name = Reader::new(blob).string().ok()?;
    let signature_name = Reader::new(signature).string().ok()?;
    ALGORITHMS.iter().find(|a| {
        a.form == Form::Plain
            && a.blob_name.as_bytes() == blob_name
            && a.signature_name.as_bytes() == signature_name
    })
}

/// Why a key or signature was not accepted. Not shown to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("The key or signature is malformed.")]
    Malformed(#[from] DecodeError),
    #[error("The name inside of the key or signature is not the announced one.")]
    WrongName,
    #[error("The key is too short or outside of the supported sizes.")]
    Size,
    #[error("The signature does not verify.")]
    BadSignature,
    #[error("The security key was used without the user's presence.")]
    NotPresent,
    #[error("The certificate is not a user certificate.")]
    NotForUsers,
}

/// The fields of a public key, borrowed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum KeyFields<'a> {
    Ed25519 { point: &'a [u8] },
    Ecdsa { curve: Curve, point: &'a [u8] },
    Rsa { e: &'a [u8], n: &'a [u8] },
    SkEd25519 { point: &'a [u8], application: &'a [u8] },
    SkEcdsa { point: &'a [u8], application: &'a [u8] },
}

impl Curve {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::P256 => b"nistp256",
            Self::P384 => b"nistp384",
            Self::P521 => b"nistp521",
        }
    }

    /// Bytes of a coordinate and of each half of a signature.
    const fn field_len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    const fn verification(self) -> &'static signature::EcdsaVerificationAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_FIXED,
            Self::P384 => &ECDSA_P384_SHA384_FIXED,
            Self::P521 => &ECDSA_P521_SHA512_FIXED,
        }
    }
}

impl<'a> KeyFields<'a> {
    /// Reads the fields that follow the name in a blob.
    pub(crate) fn read(kind: KeyType, reader: &mut Reader<'a>) -> Result<Self, KeyError> {
        let curve_and_point = |reader: &mut Reader<'a>, curve: Curve| {
            if reader.string()? != curve.name() {
                return Err(KeyError::WrongName);
            }
            let point = reader.string()?;
            // Uncompressed only (RFC 5656 §3.1).
            let len = curve.field_len().saturating_mul(2).saturating_add(1);
            if point.len() == len && point.first() == Some(&4) { Ok(point) } else { Err(KeyError::Size) }
        };
        let ed_point = |reader: &mut Reader<'a>| {
            let point = reader.string()?;
            if point.len() == 32 { Ok(point) } else { Err(KeyError::Size) }
        };
        Ok(match kind {
            KeyType::Ed25519 => Self::Ed25519 { point: ed_point(reader)? },
            KeyType::Ecdsa(curve) => Self::Ecdsa { curve, point: curve_and_point(reader, curve)? },
            KeyType::Rsa => {
                let (e, n) = (reader.mpint()?, reader.mpint()?);
                let bits = n
                    .len()
                    .saturating_mul(8)
                    .saturating_sub(n.first().map_or(0, |b| b.leading_zeros()) as usize);
                // 16384 bits is OpenSSH's upper bound; aws-lc stops at 8192.
                if !(2048..=8192).contains(&bits) || e.is_empty() {
                    return Err(KeyError::Size);
                }
                Self::Rsa { e, n }
            }
            KeyType::SkEd25519 => Self::SkEd25519 { point: ed_point(reader)?, application: reader.string()? },
            KeyType::SkEcdsa => {
                Self::SkEcdsa { point: curve_and_point(reader, Curve::P256)?, application: reader.string()? }
            }
        })
    }

    /// Reads a whole plain blob whose name must be `name`.
    pub(crate) fn from_blob(name: &str, kind: KeyType, blob: &'a [u8]) -> Result<Self, KeyError> {
        let mut reader = Reader::new(blob);
        if reader.string()? != name.as_bytes() {
            return Err(KeyError::WrongName);
        }
        let fields = Self::read(kind, &mut reader)?;
        reader.finish()?;
        Ok(fields)
    }

    /// Checks a signature blob over `message`.
    pub(crate) fn verify(
        &self,
        algorithm: &Algorithm,
        signature: &[u8],
        message: &[u8],
    ) -> Result<Option<SecurityKeyUse>, KeyError> {
        let mut reader = Reader::new(signature);
        if reader.string()? != algorithm.signature_name.as_bytes() {
            return Err(KeyError::WrongName);
        }
        let inner = reader.string()?;
        let used = match self {
            Self::SkEd25519 { .. } | Self::SkEcdsa { .. } => Some((reader.byte()?, reader.u32()?)),
            _ => None,
        };
        reader.finish()?;
        let bad = |_| KeyError::BadSignature;
        match *self {
            Self::Ed25519 { point } => {
                UnparsedPublicKey::new(&ED25519, point).verify(message, inner).map_err(bad)?;
            }
            Self::Ecdsa { curve, point } => verify_ecdsa(curve, point, inner, message)?,
            Self::Rsa { e, n } => {
                let parameters = match algorithm.signature_name {
                    "rsa-sha2-256" => &RSA_PKCS1_2048_8192_SHA256,
                    "rsa-sha2-512" => &RSA_PKCS1_2048_8192_SHA512,
                    _ => return Err(KeyError::WrongName),
                };
                // Some clients drop leading zeros of the signature; OpenSSH accepts that.
                let mut padded = vec![0; n.len().saturating_sub(inner.len())];
                padded.extend_from_slice(inner);
                RsaPublicKeyComponents { n, e }.verify(parameters, message, &padded).map_err(bad)?;
            }
            Self::SkEd25519 { point, application } => {
                let signed = security_key_message(application, used, message);
                UnparsedPublicKey::new(&ED25519, point).verify(&signed, inner).map_err(bad)?;
            }
            Self::SkEcdsa { point, application } => {
                let signed = security_key_message(application, used, message);
                verify_ecdsa(Curve::P256, point, inner, &signed)?;
            }
        }
        match used {
            None => Ok(None),
            // Bit 0: the user was present; bit 2: the user was verified.
            Some((flags, _)) if flags & 1 == 0 => Err(KeyError::NotPresent),
            Some((flags, counter)) => Ok(Some(SecurityKeyUse { user_verified: flags & 4 != 0, counter })),
        }
    }
}

fn verify_ecdsa(curve: Curve, point: &[u8], signature: &[u8], message: &[u8]) -> Result<(), KeyError> {
    let mut reader = Reader::new(signature);
    let len = curve.field_len();
    let mut fixed = Vec::with_capacity(len.saturating_mul(2));
    for _ in 0..2 {
        let number = reader.mpint()?;
        let padding = len.checked_sub(number.len()).ok_or(KeyError::BadSignature)?;
        fixed.resize(fixed.len().saturating_add(padding), 0);
        fixed.extend_from_slice(number);
    }
    reader.finish()?;
    UnparsedPublicKey::new(curve.verification(), point)
        .verify(message, &fixed)
        .map_err(|_| KeyError::BadSignature)
}

/// What a security key really signs: hashes of application and message around its own flags and counter.
fn security_key_message(application: &[u8], used: Option<(u8, u32)>, message: &[u8]) -> Vec<u8> {
    let (flags, counter) = used.unwrap_or_default();
    let mut signed = Writer::new();
    signed
        .raw(digest::digest(&digest::SHA256, application).as_ref())
        .byte(flags)
        .u32(counter)
        .raw(digest::digest(&digest::SHA256, message).as_ref());
    signed.into_vec()
}

/// `SHA256:` and the unpadded base64 of the blob's SHA-256, as OpenSSH prints it.
pub(crate) fn fingerprint(blob: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("SHA256:");
    for chunk in digest::digest(&digest::SHA256, blob).as_ref().chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            let index = (bits >> (18 - 6 * place)) & 63;
            text.extend(ALPHABET.get(index as usize).map(|c| char::from(*c)));
        }
    }
    text
}
