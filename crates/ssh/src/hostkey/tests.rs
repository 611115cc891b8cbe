//! Tests of host keys.

use super::*;
use crate::testing::verify_signature;

const KINDS: [HostKeyKind; 5] = [
    HostKeyKind::Ed25519,
    HostKeyKind::Rsa3072,
    HostKeyKind::EcdsaP256,
    HostKeyKind::EcdsaP384,
    HostKeyKind::EcdsaP521,
];

#[test]
fn generated_keys_survive_a_file_and_sign() {
    for kind in KINDS {
        let made = HostKey::generate(kind, "box").unwrap();
        let read = HostKey::parse(made.encode().unwrap().as_bytes()).unwrap();
        assert_eq!(made.public_blob(), read.public_blob(), "{kind:?}");
        assert_eq!(made.fingerprint(), read.fingerprint());
        assert!(read.public_line().unwrap().ends_with(" box"));
        for algorithm in read.algorithms() {
            let signature = read.sign(*algorithm, b"message").unwrap();
            assert!(verify_signature(made.public_blob(), b"message", &signature), "{kind:?} {algorithm:?}");
            assert!(!verify_signature(made.public_blob(), b"massage", &signature));
        }
    }
}

#[test]
fn a_key_signs_only_with_its_own_algorithms() {
    let key = HostKey::generate(HostKeyKind::Ed25519, "").unwrap();
    assert!(key.sign(HostKeyAlgorithm::RsaSha256, b"x").is_none());
    assert!(key.sign(HostKeyAlgorithm::EcdsaP256, b"x").is_none());
}

#[test]
fn rfc_8032_test_1_gives_the_published_public_key_and_signature() {
    let seed = hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
    let key = HostKey::from_ed25519_seed(seed.as_slice().try_into().unwrap(), "").unwrap();
    assert!(
        key.public_blob().ends_with(&hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"))
    );
    let signature = key.sign(HostKeyAlgorithm::Ed25519, b"").unwrap();
    assert!(signature.ends_with(&hex(
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )));
}

#[test]
fn damaged_and_foreign_keys_are_refused() {
    assert!(matches!(HostKey::parse("nonsense"), Err(HostKeyError::Format(_))));
    let key = HostKey::generate(HostKeyKind::Ed25519, "").unwrap();
    let text = key.encode().unwrap();
    assert!(HostKey::parse(&text.as_bytes()[..text.len() / 2]).is_err());
    assert!(!format!("{key:?}").contains("PRIVATE"));
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}
