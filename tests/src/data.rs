//! Test data: pseudo-random bytes and their hashes.

use aws_lc_rs::digest;

/// Bytes of xorshift64*: every value occurs, and the same seed gives the same bytes.
pub fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// All 256 byte values, over and over, in an order that changes with each round.
pub fn all_values(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 256) as u8 ^ (i / 256 % 256) as u8).collect()
}

/// SHA-256 as `sha256sum` prints it.
pub fn sha256(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A shell pipeline that prints `len` reproducible random bytes at several hundred MiB/s; `openssl` must be there.
pub fn shell_generator(len: u64) -> String {
    format!(
        "head -c {len} /dev/zero | openssl enc -aes-128-ctr -nosalt -K 000102030405060708090a0b0c0d0e0f -iv 00000000000000000000000000000000"
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn hash_of_a_known_text() {
        let hash = super::sha256(b"abc");
        assert_eq!(hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn every_value_occurs() {
        for bytes in [super::random(1, 65536), super::all_values(512)] {
            let mut seen = [false; 256];
            bytes.iter().for_each(|&byte| seen[byte as usize] = true);
            assert!(seen.iter().all(|&it| it));
        }
    }
}
