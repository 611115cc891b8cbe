//! Completes key exchange with real clients: `cargo run -p sandgate-ssh --example kexprobe -- 127.0.0.1:2200`, then
//! `ssh -p 2200 -o KexAlgorithms=… -o Ciphers=… -o MACs=… 127.0.0.1`.
//!
//! Prints what was agreed and the first upper-layer message, accepts the service request so that the client comes to the
//! point of authentication, and refuses every method. With a number of bytes as second argument keys are renewed that
//! often. Anything that the client sends as `SSH_MSG_IGNORE` counts, so `RekeyLimit` can be tried as well.
#![allow(clippy::unwrap_used, missing_docs, reason = "a tool for the developer's own machine")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use sandgate_ssh::codec::{Reader, Writer};
use sandgate_ssh::hostkey::{HostKey, HostKeyKind};
use sandgate_ssh::transport::{Compatibility, Config, Transport};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:2200".to_owned());
    let kinds = [
        HostKeyKind::Ed25519,
        HostKeyKind::Rsa3072,
        HostKeyKind::EcdsaP256,
        HostKeyKind::EcdsaP384,
        HostKeyKind::EcdsaP521,
    ];
    let keys = kinds.map(|kind| Arc::new(HostKey::generate(kind, "kexprobe").unwrap()));
    let mut config = Config::new(keys.to_vec());
    config.compatibility = Compatibility::Compat;
    if let Some(bytes) = arguments.next() {
        config.rekey_bytes = bytes.parse().unwrap();
    }
    let config = Arc::new(config);
    let listener = TcpListener::bind(&address).unwrap();
    println!("listening on {address}");
    for stream in listener.incoming() {
        let config = Arc::clone(&config);
        std::thread::spawn(move || serve(stream.unwrap(), config));
    }
}

fn serve(mut stream: TcpStream, config: Arc<Config>) {
    let mut transport = Transport::new(config, Instant::now());
    let mut told = false;
    loop {
        let output = transport.output();
        if stream.write_all(output).is_err() {
            return;
        }
        let len = output.len();
        transport.consume_output(len);
        let Ok(len @ 1..) = stream.read(transport.input_space()) else { return };
        transport.commit_input(len);
        loop {
            match transport.poll_payload_split(Instant::now()) {
                Ok(Some((payload, sender))) => {
                    let mut answer = Writer::new();
                    match payload.kind() {
                        // SSH_MSG_SERVICE_REQUEST
                        5 => {
                            answer.byte(6).string(Reader::new(payload.body()).string().unwrap());
                        }
                        // SSH_MSG_USERAUTH_REQUEST
                        50 => {
                            answer.byte(51).name_list(["publickey"]).bool(false);
                        }
                        _ => continue,
                    }
                    sender.send(answer.as_slice()).unwrap();
                }
                Ok(None) => break,
                Err(error) => {
                    println!("end: {error}");
                    let _ = stream.write_all(transport.output());
                    return;
                }
            }
        }
        if let (false, Some(negotiated)) = (told, transport.negotiated()) {
            println!("{negotiated:?}");
            told = true;
        }
    }
}
