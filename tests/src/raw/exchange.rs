//! RFC 8731 key exchange and RFC 8032 signatures.

use std::io;
use std::path::Path;

use aws_lc_rs::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::Ed25519KeyPair;

use super::cipher::Cipher;
use super::codec::{self, Reader, Writer};
use super::{BANNER, Client};

/// What this client offers, in the order of KEXINIT.
pub fn kexinit() -> Vec<u8> {
    let cipher = "aes128-gcm@openssh.com";
    let mac = "hmac-sha2-256";
    Writer::new(codec::KEXINIT)
        .raw(&[7; 16])
        .string("curve25519-sha256,ext-info-c,kex-strict-c-v00@openssh.com")
        .string("ssh-ed25519")
        .string(cipher)
        .string(cipher)
        .string(mac)
        .string(mac)
        .string("none")
        .string("none")
        .string("")
        .string("")
        .byte(0)
        .u32(0)
        .done()
}

impl Client {
    /// Exchanges keys; `theirs` is the server's KEXINIT if it came first.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn exchange_keys(&mut self, theirs: Option<Vec<u8>>) -> io::Result<()> {
        let ours = kexinit();
        self.send(&ours)?;
        let theirs = match theirs {
            Some(theirs) => theirs,
            None => self.receive_number(codec::KEXINIT)?,
        };
        let private = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).unwrap();
        let public = private.compute_public_key().unwrap();
        self.send(&Writer::new(codec::ECDH_INIT).string(public.as_ref()).done())?;
        let reply = self.receive_number(codec::ECDH_REPLY)?;
        let mut reader = Reader::new(&reply[1..]);
        let (host_key, server_public) = (reader.string()?, reader.string()?);
        let secret = agree_ephemeral(
            private,
            UnparsedPublicKey::new(&X25519, server_public),
            io::Error::from(io::ErrorKind::InvalidData),
            |bytes| Ok(bytes.to_vec()),
        )?;
        let secret = Writer::default().mpint(&secret).done();
        let text = Writer::default()
            .string(BANNER)
            .string(&self.server_banner)
            .string(&ours)
            .string(&theirs)
            .string(host_key)
            .string(public.as_ref())
            .string(server_public)
            .raw(&secret)
            .done();
        let hash = digest(&SHA256, &text).as_ref().to_vec();
        let session_id = self.session_id.get_or_insert_with(|| hash.clone()).clone();
        let derive = |letter: u8, length: usize| {
            let text = [secret.as_slice(), &hash, &[letter], &session_id].concat();
            digest(&SHA256, &text).as_ref()[..length].to_vec()
        };
        self.send(&[codec::NEWKEYS])?;
        self.seal = Some(Cipher::new(&derive(b'C', 16), &derive(b'A', 12)));
        self.receive_number(codec::NEWKEYS)?;
        self.open = Some(Cipher::new(&derive(b'D', 16), &derive(b'B', 12)));
        self.exchanges += 1;
        Ok(())
    }

    fn receive_number(&mut self, number: u8) -> io::Result<Vec<u8>> {
        loop {
            let message = self.receive_any()?;
            match message.first() {
                Some(&found) if found == number => return Ok(message),
                Some(&codec::DISCONNECT) => {
                    return Err(io::Error::new(
                        io::ErrorKind::ConnectionAborted,
                        "disconnect during the key exchange",
                    ));
                }
                _ => {}
            }
        }
    }
}

/// A `publickey` request with its signature, RFC 4252 §7 and RFC 8709.
pub fn signed_request(user: &str, file: &Path, session_id: &[u8]) -> Vec<u8> {
    let key = ssh_key::PrivateKey::from_openssh(std::fs::read(file).unwrap()).unwrap();
    let pair = key.key_data().ed25519().expect("an ed25519 key");
    let public = Writer::default().string("ssh-ed25519").string(pair.public.0).done();
    let request = Writer::new(codec::USERAUTH_REQUEST)
        .string(user)
        .string("ssh-connection")
        .string("publickey")
        .byte(1)
        .string("ssh-ed25519")
        .string(&public)
        .done();
    let text = Writer::default().string(session_id).raw(&request).done();
    let signer = Ed25519KeyPair::from_seed_unchecked(&pair.private.to_bytes()).unwrap();
    let signature = Writer::default().string("ssh-ed25519").string(signer.sign(&text).as_ref()).done();
    Writer::default().raw(&request).string(signature).done()
}
