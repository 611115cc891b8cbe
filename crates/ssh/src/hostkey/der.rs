//! Just enough DER to take an RSA private key apart: `PrivateKeyInfo` (RFC 5208) around `RSAPrivateKey` (RFC 8017 §A.1.2).
//! It only ever reads what the cryptography library has just written.

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

/// Splits the contents of the first element, which must have the given tag, from what follows.
fn element(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    if found != tag {
        return None;
    }
    let (len, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        // Lengths up to 65535 bytes; a 4096 bit key needs about 2400.
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if digits.len() > 2 {
            return None;
        }
        (digits.iter().fold(0, |len, b| len << 8 | usize::from(*b)), rest)
    };
    rest.split_at_checked(len)
}

/// `n, e, d, p, q, q^-1 mod p`.
pub(super) fn rsa_components(pkcs8: &[u8]) -> Option<[&[u8]; 6]> {
    let (info, _) = element(pkcs8, SEQUENCE)?;
    let (_version, info) = element(info, INTEGER)?;
    let (_algorithm, info) = element(info, SEQUENCE)?;
    let (key, _) = element(info, OCTET_STRING)?;
    let (mut key, _) = element(key, SEQUENCE)?;
    let mut numbers = [&[][..]; 9];
    for number in &mut numbers {
        (*number, key) = element(key, INTEGER)?;
    }
    let [_version, n, e, d, p, q, _d_p, _d_q, q_inv] = numbers;
    Some([n, e, d, p, q, q_inv])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_and_wrong_input_is_refused() {
        assert!(rsa_components(&[]).is_none());
        assert!(rsa_components(&[SEQUENCE, 0x83, 1, 1, 1]).is_none());
        assert!(rsa_components(&[SEQUENCE, 3, INTEGER, 1, 0]).is_none());
        assert_eq!(element(&[INTEGER, 0x82, 0, 1, 9, 7], INTEGER), Some((&[9][..], &[7][..])));
    }
}
