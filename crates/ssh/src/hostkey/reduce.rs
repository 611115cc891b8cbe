//! `d mod (p - 1)` for big numbers: the one piece of arithmetic that loading an OpenSSH RSA key needs and the
//! cryptography library does not offer. Shift and subtract, without branches on the secret, once per key load.

use zeroize::Zeroizing;

/// `value mod (modulus - 1)`, as big-endian bytes of the modulus's length. `None` when the modulus is even, or empty.
pub(super) fn modulo_minus_one(value: &[u8], modulus: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    // One byte more than the modulus, because the remainder is doubled before it is reduced.
    let mut divisor = Zeroizing::new([&[0], modulus].concat());
    let last = divisor.last_mut()?;
    if *last & 1 == 0 {
        return None;
    }
    *last -= 1;
    if divisor.iter().all(|b| *b == 0) {
        return None;
    }
    let mut remainder = Zeroizing::new(vec![0u8; divisor.len()]);
    let mut difference = Zeroizing::new(vec![0u8; divisor.len()]);
    for byte in value {
        for bit in (0..8).rev() {
            let mut carry = byte >> bit & 1;
            for digit in remainder.iter_mut().rev() {
                let next = *digit >> 7;
                *digit = *digit << 1 | carry;
                carry = next;
            }
            let mut borrow = 0u16;
            for ((out, a), b) in difference.iter_mut().zip(remainder.iter()).zip(divisor.iter()).rev() {
                let sum = u16::from(*a).wrapping_sub(u16::from(*b)).wrapping_sub(borrow);
                [_, *out] = sum.to_be_bytes();
                borrow = sum >> 15;
            }
            // All ones when the subtraction did not borrow, so its result is taken.
            let take = 0u8.wrapping_sub(u8::from(borrow == 0));
            for (digit, reduced) in remainder.iter_mut().zip(difference.iter()) {
                *digit = *digit & !take | *reduced & take;
            }
        }
    }
    Some(Zeroizing::new(remainder.get(1..)?.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_machine_arithmetic(value: u128, modulus in 3u64..) {
            let modulus = modulus | 1;
            let got = modulo_minus_one(&value.to_be_bytes(), &modulus.to_be_bytes()).unwrap();
            let expected = u64::try_from(value % u128::from(modulus - 1)).unwrap();
            prop_assert_eq!(&got[..], &expected.to_be_bytes()[..]);
        }
    }

    #[test]
    fn refuses_what_cannot_be_a_prime() {
        assert!(modulo_minus_one(&[5], &[4]).is_none());
        assert!(modulo_minus_one(&[5], &[1]).is_none());
        assert!(modulo_minus_one(&[5], &[]).is_none());
    }
}
