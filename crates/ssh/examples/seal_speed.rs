//! How fast packets are sealed and opened, per cipher, and what a handshake costs the server, per method: `cargo run --release -p sandgate-ssh --example seal_speed`.
//!
//! Prints GiB of payload per second of one core, with payloads of 32 KiB as bulk data has, and of 64 bytes. The whole path is
//! measured, buffers included: `send_with` into the output, and from `input_space`, with one copy in place of read(2), to
//! `poll_payload`. Payload bytes are not touched.
#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "a tool for the developer's own machine"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use sandgate_ssh::algorithm::{Cipher, HostKeyAlgorithm, Kex, Mac};
use sandgate_ssh::testing::{ClientOptions, ClientTransport, compat_config, feed, server_config};
use sandgate_ssh::transport::{Error, Transport};

/// Packets per batch: 256 KiB of bulk data, as much as one read or write moves.
const BATCH: usize = 8;

fn main() {
    println!("{:32} {:30} {:>7} {:>11} {:>11}", "cipher", "mac", "payload", "seal GiB/s", "open GiB/s");
    for cipher in Cipher::ALL {
        let macs = if cipher.is_aead() { &[Mac::HmacSha256Etm][..] } else { &Mac::ALL };
        for mac in macs {
            for payload in [32 * 1024, 64] {
                let packets = if payload > 1000 { 16 * 1024 } else { 400_000 };
                let (sealing, opening) = measure(cipher, *mac, payload, packets);
                let gib = (packets * payload) as f64 / f64::from(1 << 30);
                println!(
                    "{:32} {:30} {payload:>7} {:>11.2} {:>11.2}",
                    cipher.name(),
                    if cipher.is_aead() { "" } else { mac.name() },
                    gib / sealing.as_secs_f64(),
                    gib / opening.as_secs_f64()
                );
            }
        }
    }
    println!("\n{:36} {:14} {:>10}", "key exchange", "host key", "server");
    for (kex, host_key) in Kex::ALL.map(|kex| (kex, HostKeyAlgorithm::Ed25519)).into_iter().chain([
        (Kex::Curve25519, HostKeyAlgorithm::RsaSha512),
        (Kex::Curve25519, HostKeyAlgorithm::EcdsaP256),
    ]) {
        println!("{:36} {:14} {:>8.0?}", kex.name(), host_key.name(), handshake(kex, host_key, 200));
    }
}

/// The mean time that the server needs for one handshake.
fn handshake(kex: Kex, host_key: HostKeyAlgorithm, rounds: u32) -> Duration {
    let config = Arc::new(compat_config());
    let mut total = Duration::ZERO;
    for _ in 0..rounds {
        let options = ClientOptions { kex: vec![kex], host_key: vec![host_key], ..ClientOptions::default() };
        let mut client = ClientTransport::with_options(options);
        let mut server = Transport::new(Arc::clone(&config), Instant::now());
        while !(server.is_established() && client.is_established()) {
            let bytes = client.take_output();
            let start = Instant::now();
            feed(&mut server, &bytes, &mut Vec::new()).unwrap();
            total += start.elapsed();
            client.receive(server.output());
            server.consume_output(server.output_len());
            assert!(client.poll_payload().is_none());
        }
    }
    total / rounds
}

fn measure(cipher: Cipher, mac: Mac, payload: usize, packets: usize) -> (Duration, Duration) {
    let mut client = ClientTransport::with_options(ClientOptions {
        ciphers: vec![cipher],
        macs: vec![mac],
        ..ClientOptions::default()
    });
    let mut config = server_config();
    config.rekey_bytes = u64::MAX;
    let mut server = Transport::new(Arc::new(config), Instant::now());
    client.handshake(&mut server);
    let message = vec![94; payload];
    let (mut sealing, mut opening) = (Duration::ZERO, Duration::ZERO);
    for batch in 0..packets / BATCH {
        let start = Instant::now();
        for _ in 0..BATCH {
            server
                .send_data::<Error>(&[94], payload - 5, payload - 5, |packets| Ok(packets[0].len()))
                .unwrap();
        }
        server.consume_output(server.output_len());
        let sealed = start.elapsed();

        (0..BATCH).for_each(|_| client.send(&message));
        let bytes = client.take_output();
        let start = Instant::now();
        let (mut rest, mut got) = (&bytes[..], 0);
        while !rest.is_empty() {
            let space = server.input_space();
            let len = rest.len().min(space.len());
            space[..len].copy_from_slice(&rest[..len]);
            server.commit_input(len);
            rest = &rest[len..];
            while server.poll_payload(start).unwrap().is_some() {
                got += 1;
            }
        }
        assert_eq!(got, BATCH);
        // The first batches grow the buffers.
        if batch >= 4 {
            sealing += sealed;
            opening += start.elapsed();
        }
    }
    (sealing, opening)
}
