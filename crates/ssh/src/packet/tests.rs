//! Tests of single packets.

use super::*;

/// Key material that is the same on both sides, as long as the cipher wants it.
fn keys(cipher: Cipher, mac: Option<Mac>) -> (SealKey, OpenKey) {
    let sizes = cipher.sizes();
    let iv: Vec<u8> = (0..sizes.iv as u8).collect();
    let key: Vec<u8> = (0..sizes.key as u8).map(|b| b.wrapping_mul(3)).collect();
    let mac_key = vec![0xaa; mac.map_or(0, Mac::tag_len)];
    let material = KeyMaterial { iv: &iv, key: &key, mac: &mac_key };
    (SealKey::new(cipher, mac, &material).unwrap(), OpenKey::new(cipher, mac, &material).unwrap())
}

fn all() -> Vec<(Cipher, Option<Mac>)> {
    let mut all = Vec::new();
    for cipher in Cipher::ALL {
        if cipher.is_aead() {
            all.push((cipher, None));
        } else {
            all.extend(Mac::ALL.map(|mac| (cipher, Some(mac))));
        }
    }
    all
}

fn seal(key: &mut SealKey, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut buf = vec![0xee; HEADER + payload.len() + MAX_TRAILER];
    buf[HEADER..][..payload.len()].copy_from_slice(payload);
    let len = key.seal(sequence, &mut buf, payload.len()).unwrap();
    buf.truncate(len);
    buf
}

#[test]
fn every_length_survives_every_cipher() {
    for (cipher, mac) in all() {
        let (mut sealing, mut opening) = keys(cipher, mac);
        for (sequence, len) in (1..70).chain([2047, 2048, 4096, 32_777, MAX_PAYLOAD]).enumerate() {
            let sequence = u32::try_from(sequence).unwrap();
            let payload: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let mut packet = seal(&mut sealing, sequence, &payload);
            let head = *packet.first_chunk().unwrap();
            assert_eq!(opening.wire_length(sequence, head), Ok(packet.len()), "{cipher:?} {len}");
            let range = opening.open(sequence, &mut packet).unwrap();
            assert!(packet[range] == payload, "{cipher:?} {mac:?} {len}");
        }
    }
}

#[test]
fn clear_packets_have_the_shape_of_rfc_4253() {
    // 4 + 1 + 1 + padding is a multiple of 8, with at least 4 bytes of padding, all zero.
    assert_eq!(seal(&mut SealKey::Clear, 0, &[21]), [0, 0, 0, 12, 10, 21, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for len in 1..40 {
        let packet = seal(&mut SealKey::Clear, 0, &vec![7; len]);
        assert_eq!(packet.len() % 8, 0);
        assert!((4..12).contains(&packet[4]));
    }
}

#[test]
fn aes_gcm_has_the_published_tag() {
    // The NIST test case for AES-128-GCM with a zero key and nonce gives the key stream 0388dace60b6a392f328c2b971b2fe78 for
    // the first block. Our first block is padding length 14, payload byte 0x15 and fourteen zeros.
    let zero = KeyMaterial { iv: &[0; 12], key: &[0; 16], mac: &[] };
    let packet = seal(&mut SealKey::new(Cipher::Aes128Gcm, None, &zero).unwrap(), 0, &[0x15]);
    let stream =
        [0x03, 0x88, 0xda, 0xce, 0x60, 0xb6, 0xa3, 0x92, 0xf3, 0x28, 0xc2, 0xb9, 0x71, 0xb2, 0xfe, 0x78];
    assert_eq!(packet[..4], [0, 0, 0, 16], "the length is in clear");
    assert_eq!(packet[4] ^ stream[0], 14);
    assert_eq!(packet[5] ^ stream[1], 0x15);
    assert_eq!(packet[6..20], stream[2..]);
    assert_eq!(packet.len(), 4 + 16 + 16);
}

#[test]
fn the_gcm_nonce_counts_in_its_last_eight_bytes() {
    let mut iv = [0xff; 12];
    iv[..4].copy_from_slice(&[1, 2, 3, 4]);
    let mut nonce = GcmNonce::new(&iv).unwrap();
    assert_eq!(nonce.next().as_ref(), &iv);
    assert_eq!(nonce.next().as_ref(), &[1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0], "the fixed part takes no carry");
    assert_eq!(nonce.next().as_ref()[11], 1);
}

#[test]
fn aes_ctr_has_the_published_key_stream() {
    // NIST SP 800-38A F.5.5 (CTR-AES256): counter block f0..ff, first block of the key stream.
    let key = [
        0x60, 0x3d, 0xeb, 0x10, 0x15, 0xca, 0x71, 0xbe, 0x2b, 0x73, 0xae, 0xf0, 0x85, 0x7d, 0x77, 0x81, 0x1f,
        0x35, 0x2c, 0x07, 0x3b, 0x61, 0x08, 0xd7, 0x2d, 0x98, 0x10, 0xa3, 0x09, 0x14, 0xdf, 0xf4,
    ];
    let iv: Vec<u8> = (0xf0..=0xff).collect();
    let material = KeyMaterial { iv: &iv, key: &key, mac: &[0; 32] };
    let packet =
        seal(&mut SealKey::new(Cipher::Aes256Ctr, Some(Mac::HmacSha256Etm), &material).unwrap(), 0, &[0; 1]);
    let stream =
        [0x0b, 0xdf, 0x7d, 0xf1, 0x59, 0x17, 0x16, 0x33, 0x5e, 0x9a, 0x8b, 0x15, 0xc8, 0x60, 0xc5, 0x02];
    assert_eq!(packet[4] ^ stream[0], 14);
    assert_eq!(packet[5..20], stream[1..]);
    assert_eq!(packet.len(), 4 + 16 + 32);
}

#[test]
fn a_wrong_sequence_number_is_a_wrong_mac() {
    for (cipher, mac) in all() {
        let (mut sealing, mut opening) = keys(cipher, mac);
        let mut packet = seal(&mut sealing, 7, b"payload");
        let result = opening.open(8, &mut packet);
        // GCM counts by itself and does not know the sequence number.
        let expected =
            if matches!(cipher, Cipher::Aes128Gcm | Cipher::Aes256Gcm) { None } else { Some(Error::BadMac) };
        assert_eq!(result.err(), expected, "{cipher:?}");
    }
}

#[test]
fn a_packet_opens_only_once() {
    for (cipher, mac) in all() {
        let (mut sealing, mut opening) = keys(cipher, mac);
        let packet = seal(&mut sealing, 0, b"payload");
        assert!(opening.open(0, &mut packet.clone()).is_ok());
        assert_eq!(opening.open(1, &mut packet.clone()), Err(Error::BadMac), "{cipher:?}");
    }
}

#[test]
fn truncated_packets_do_not_panic() {
    for (cipher, mac) in all() {
        let (mut sealing, mut opening) = keys(cipher, mac);
        let packet = seal(&mut sealing, 0, b"payload");
        for len in 0..packet.len() {
            assert!(opening.open(0, &mut packet[..len].to_vec()).is_err());
        }
    }
}

#[test]
fn a_packet_too_large_is_not_sealed() {
    let (mut sealing, _) = keys(Cipher::Aes128Gcm, None);
    let mut buf = vec![0; MAX_PACKET_LENGTH + 200];
    assert_eq!(sealing.seal(0, &mut buf, MAX_PACKET_LENGTH), Err(Error::MessageTooLarge));
    assert_eq!(sealing.seal(0, &mut buf[..20], 10), Err(Error::MessageTooLarge));
}
