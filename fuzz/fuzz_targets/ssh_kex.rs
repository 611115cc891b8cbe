//! Key exchange messages in any order and with any content, at any time: nothing may panic, and keys are in use on the
//! server only after an exchange that the client has completed as well.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use sandgate_ssh::algorithm::{HostKeyAlgorithm, Kex};
use sandgate_ssh::testing::{ClientOptions, ClientTransport, feed, server_config};
use sandgate_ssh::transport::{Compatibility, Config, Transport};

static CONFIG: LazyLock<Arc<Config>> = LazyLock::new(|| Arc::new(Config { compatibility: Compatibility::Compat, ..server_config() }));

fuzz_target!(|data: &[u8]| {
    let [choice, rest @ ..] = data else { return };
    let markers = if choice & 0x40 == 0 { vec!["ext-info-c", "kex-strict-c-v00@openssh.com"] } else { Vec::new() };
    let options = ClientOptions {
        kex: vec![Kex::ALL[usize::from(choice % 8)]],
        host_key: vec![HostKeyAlgorithm::Ed25519],
        markers,
        ..ClientOptions::default()
    };
    let mut client = ClientTransport::with_options(options);
    let mut server = Transport::new(Arc::clone(&CONFIG), Instant::now());
    if choice & 0x80 != 0 {
        client.handshake(&mut server);
    }
    // The test client panics when a server breaks the protocol, so it may only listen as long as it has kept to it itself.
    let mut honest = true;
    let mut operations = rest;
    while let [operation, len, tail @ ..] = operations {
        let (body, tail) = tail.split_at(usize::from(*len).min(tail.len()));
        operations = tail;
        honest &= operation % 8 <= 2 || operation % 8 == 7;
        match operation % 8 {
            0 => client.rekey(),
            1 => drop(server.rekey_now()),
            // An honest step: all bytes both ways. An error ends the run.
            2 if honest => {
                if client.exchange(&mut server).is_err() {
                    assert!(server.poll_payload(Instant::now()).is_err());
                    return;
                }
                assert_eq!(server.is_established(), client.is_established());
            }
            // A KEXINIT whose lists are the input.
            3 => client.send_now(&[&[20][..], &[0; 16], body].concat()),
            4 => client.send_now(&[&[30][..], &(body.len() as u32).to_be_bytes(), body].concat()),
            5 => client.send_now(&[21]),
            6 if !body.is_empty() => client.send_now(body),
            _ => drop(server.send(&[&[94][..], body].concat())),
        }
        // One way only: what the client says reaches the server, not the other way round.
        if (operation & 0x80 != 0 || !honest) && feed(&mut server, &client.take_output(), &mut Vec::new()).is_err() {
            return;
        }
    }
});
