//! Tests of key exchange values and of the key derivation. That both sides of every method agree is tested with the transport.

use super::*;

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

#[test]
fn values_of_a_wrong_length_are_refused() {
    for kex in Kex::ALL {
        let right = match kex {
            Kex::MlKem768X25519 => MLKEM_PUBLIC_LEN + X25519_LEN,
            Kex::Sntrup761X25519 | Kex::Sntrup761X25519OpenSsh => SNTRUP_PUBLIC_LEN + X25519_LEN,
            Kex::Curve25519 | Kex::Curve25519LibSsh => X25519_LEN,
            Kex::NistP256 => 65,
            Kex::NistP384 => 97,
            Kex::NistP521 => 133,
        };
        for len in [0, 1, right - 1, right + 1, 5000] {
            assert_eq!(respond(kex, &vec![9; len]).err(), Some(Error::BadKeyExchangeValue), "{kex:?} {len}");
        }
    }
}

#[test]
fn points_that_give_nothing_away_are_refused() {
    // RFC 8731 §3: an all-zero result, as from a point of small order, must abort the exchange.
    for kex in [Kex::Curve25519, Kex::MlKem768X25519, Kex::Sntrup761X25519] {
        let mut value = match kex {
            Kex::MlKem768X25519 => vec![0; MLKEM_PUBLIC_LEN],
            Kex::Sntrup761X25519 => vec![0; SNTRUP_PUBLIC_LEN],
            _ => Vec::new(),
        };
        value.extend([0; X25519_LEN]);
        assert_eq!(respond(kex, &value).err(), Some(Error::BadKeyExchangeValue), "{kex:?}");
    }
    // RFC 5656 §4: a point must lie on the curve.
    let mut off_curve = vec![1; 65];
    off_curve[0] = 4;
    assert_eq!(respond(Kex::NistP256, &off_curve).err(), Some(Error::BadKeyExchangeValue));
}

#[test]
fn an_mlkem_key_with_coefficients_out_of_range_is_refused() {
    // FIPS 203 §7.2: the modulus check; 0xfff is larger than q = 3329.
    let mut value = vec![0xff; MLKEM_PUBLIC_LEN];
    value.extend([9; X25519_LEN]);
    assert_eq!(respond(Kex::MlKem768X25519, &value).err(), Some(Error::BadKeyExchangeValue));
}

#[test]
fn numbers_and_strings_are_written_as_the_methods_ask() {
    assert_eq!(*SharedSecret::from_number(&[0, 0x80, 1]).0, [0, 0, 0, 3, 0, 0x80, 1]);
    let hybrid = SharedSecret::from_hybrid(Kex::MlKem768X25519, b"a", b"bc");
    // SHA-256 of "abc", from FIPS 180-2.
    let digest = hex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(*hybrid.0, [&[0, 0, 0, 32][..], &digest].concat());
    assert_eq!(SharedSecret::from_hybrid(Kex::Sntrup761X25519, b"a", b"bc").0.len(), 4 + 64);
}

#[test]
fn long_keys_are_stretched_as_rfc_4253_says() {
    let secret = SharedSecret::from_number(&[5]);
    let schedule =
        KeySchedule { kex: Kex::Curve25519, secret: &secret, exchange_hash: b"H", session_id: b"S" };
    let key = schedule.derive(b'C', 64);
    let sha = |parts: &[&[u8]]| digest::digest(&digest::SHA256, &parts.concat()).as_ref().to_vec();
    let k = [0, 0, 0, 1, 5];
    let first = sha(&[&k, b"H", b"C", b"S"]);
    let second = sha(&[&k, b"H", &first]);
    assert_eq!(key[..32], first);
    assert_eq!(key[32..], second);
    assert_eq!(schedule.derive(b'C', 12)[..], first[..12]);
    assert!(schedule.derive(b'C', 0).is_empty());
}

#[test]
fn the_sntrup_crate_is_deterministic_and_agrees_with_itself() {
    let (public, private) = sntrup::sntrup761::generate_key_deterministic(&[3; 32]);
    let (again, _) = sntrup::sntrup761::generate_key_deterministic(&[3; 32]);
    assert_eq!(public.as_ref(), again.as_ref());
    let mut rng = LibraryRng::default();
    let (ciphertext, secret) = public.encapsulate(&mut rng);
    rng.finish().unwrap();
    assert_eq!(ciphertext.as_ref().len(), SNTRUP_CIPHERTEXT_LEN);
    assert_eq!(private.decapsulate(&ciphertext).as_ref(), secret.as_ref());
    let (_, other) = public.encapsulate(&mut LibraryRng::default());
    assert_ne!(other.as_ref(), secret.as_ref());
}
