//! Checks a host key's signature over a session id, as a session bind carries it. All arithmetic is aws-lc-rs's.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    EcdsaVerificationAlgorithm, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512,
    RsaPublicKeyComponents, UnparsedPublicKey,
};

use crate::codec::{Malformed, Reader};
use crate::key;

/// Whether `signature` is one of `host_key` (or of the key in a host certificate) over `message`. Ed25519, ECDSA and RSA with SHA-2 can
/// be checked; what cannot (SHA-1, RSA beyond 2048 to 8192 bits, security keys as host keys) counts as not verified.
pub(crate) fn verifies(host_key: &[u8], signature: &[u8], message: &[u8]) -> bool {
    let reduced = key::plain(host_key);
    check(reduced.as_deref().unwrap_or(host_key), signature, message).unwrap_or(false)
}

fn check(host_key: &[u8], signature: &[u8], message: &[u8]) -> Result<bool, Malformed> {
    let (mut key, mut outer) = (Reader::new(host_key), Reader::new(signature));
    let key_type = key.string()?;
    let (algorithm, inner) = (outer.string()?, outer.string()?);
    outer.finish()?;
    let good = match (key_type, algorithm) {
        (b"ssh-ed25519", b"ssh-ed25519") => {
            let point = key.string()?;
            UnparsedPublicKey::new(&ED25519, point).verify(message, inner).is_ok()
        }
        (b"ecdsa-sha2-nistp256", b"ecdsa-sha2-nistp256") => {
            ecdsa(&mut key, b"nistp256", 32, &ECDSA_P256_SHA256_FIXED, inner, message)?
        }
        (b"ecdsa-sha2-nistp384", b"ecdsa-sha2-nistp384") => {
            ecdsa(&mut key, b"nistp384", 48, &ECDSA_P384_SHA384_FIXED, inner, message)?
        }
        (b"ecdsa-sha2-nistp521", b"ecdsa-sha2-nistp521") => {
            ecdsa(&mut key, b"nistp521", 66, &ECDSA_P521_SHA512_FIXED, inner, message)?
        }
        (b"ssh-rsa", b"rsa-sha2-256" | b"rsa-sha2-512") => {
            let parameters = match algorithm {
                b"rsa-sha2-256" => &RSA_PKCS1_2048_8192_SHA256,
                _ => &RSA_PKCS1_2048_8192_SHA512,
            };
            let (e, n) = (key.mpint()?, key.mpint()?);
            // Some servers drop leading zeros of the signature.
            let mut padded = vec![0; n.len().saturating_sub(inner.len())];
            padded.extend_from_slice(inner);
            RsaPublicKeyComponents { n, e }.verify(parameters, message, &padded).is_ok()
        }
        _ => false,
    };
    key.finish()?;
    Ok(good)
}

/// `field` is the bytes of each half of the signature.
fn ecdsa(
    key: &mut Reader<'_>,
    curve: &[u8],
    field: usize,
    algorithm: &'static EcdsaVerificationAlgorithm,
    signature: &[u8],
    message: &[u8],
) -> Result<bool, Malformed> {
    if key.string()? != curve {
        return Ok(false);
    }
    let point = key.string()?;
    let mut numbers = Reader::new(signature);
    let mut fixed = Vec::with_capacity(field.saturating_mul(2));
    for _ in 0..2 {
        let number = numbers.mpint()?;
        let padding = field.checked_sub(number.len()).ok_or(Malformed)?;
        fixed.resize(fixed.len().saturating_add(padding), 0);
        fixed.extend_from_slice(number);
    }
    numbers.finish()?;
    Ok(UnparsedPublicKey::new(algorithm, point).verify(message, &fixed).is_ok())
}
