//! Raw bytes at a server, before and after the key exchange: nothing may panic, and buffers stay bounded.
//!
//! The first byte chooses the cipher and the stage, the second how the rest is cut into reads. After the exchange the rest is
//! read as a list of operations: honest packets with any payload, damaged packets, and bytes out of nowhere.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use sandgate_ssh::algorithm::{Cipher, Mac};
use sandgate_ssh::testing::{ClientOptions, ClientTransport, feed, server_config};
use sandgate_ssh::transport::{Config, OUTPUT_LIMIT, Transport};

static CONFIG: LazyLock<Arc<Config>> = LazyLock::new(|| Arc::new(server_config()));

fuzz_target!(|data: &[u8]| {
    let [choice, cut, rest @ ..] = data else { return };
    let mut server = Transport::new(Arc::clone(&CONFIG), Instant::now());
    let cipher = Cipher::ALL[usize::from(choice % 5)];
    let mac = Mac::ALL[usize::from(choice / 5 % 2)];
    let mut client =
        ClientTransport::with_options(ClientOptions { ciphers: vec![cipher], macs: vec![mac], ..ClientOptions::default() });
    let mut wire = Vec::new();
    if choice & 0x80 != 0 {
        wire.extend_from_slice(rest);
    } else {
        client.handshake(&mut server);
        for operation in rest.chunks(24) {
            match operation {
                [0..=0x9f, payload @ ..] if !payload.is_empty() => client.send_now(payload),
                [0xa0..=0xdf, at, bit, payload @ ..] if !payload.is_empty() => {
                    let before = client.output_mut().len();
                    client.send_now(payload);
                    let output = client.output_mut();
                    let at = before + usize::from(*at) % (output.len() - before);
                    output[at] ^= bit;
                }
                [_, bytes @ ..] => client.output_mut().extend_from_slice(bytes),
                [] => {}
            }
        }
        wire = client.take_output();
    }
    for piece in wire.chunks(usize::from(*cut).max(1)) {
        if feed(&mut server, piece, &mut Vec::new()).is_err() {
            assert!(server.poll_payload(Instant::now()).is_err(), "an error ends the connection");
            break;
        }
    }
    assert!(server.output_len() <= OUTPUT_LIMIT + 512 * 1024);
});
