//! Tests of the transport against the client of `testing`.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::algorithm::{Cipher, Kex, Mac, SERVER_SIG_ALGS, STRICT_CLIENT};
use crate::codec::Writer;
use crate::testing::{
    ClientOptions, ClientTransport, all_host_keys, compat_config, feed, server_config, verify_signature,
};

fn server(config: Config) -> Transport {
    Transport::new(Arc::new(config), Instant::now())
}

fn pair(options: ClientOptions, config: Config) -> (ClientTransport, Transport) {
    let mut client = ClientTransport::with_options(options);
    let mut server = server(config);
    client.handshake(&mut server);
    (client, server)
}

fn established() -> (ClientTransport, Transport) {
    pair(ClientOptions::default(), server_config())
}

fn not_strict() -> ClientOptions {
    ClientOptions { markers: Vec::new(), ..ClientOptions::default() }
}

/// A message of the connection protocol with something to recognize it by.
fn message(number: u32, len: usize) -> Vec<u8> {
    let mut w = Writer::message(94);
    w.u32(number).string(vec![0x5a; len]);
    w.into_vec()
}

fn echo(client: &mut ClientTransport, server: &mut Transport) {
    for (number, len) in [(1, 0), (2, 1), (3, 100), (4, 32 * 1024), (5, MAX_PAYLOAD - 9)] {
        let question = message(number, len);
        client.send(&question);
        assert_eq!(client.exchange(server), Ok(vec![question.clone()]));
        server.send(&question).unwrap();
        // The head is the message up to the length of its string.
        let (head, data) = (&question[..5], &question[9..]);
        let room = data.len() + usize::from(len < 1000);
        let sent = server.send_data::<Error>(head, room, room, |packets| {
            packets[0][..data.len()].copy_from_slice(data);
            Ok(data.len())
        });
        assert_eq!(sent, Ok(data.len()));
        if data.is_empty() {
            server.send(&question).unwrap();
        }
        assert_eq!(client.exchange(server), Ok(vec![]));
        assert_eq!(client.poll_payload().as_ref(), Some(&question));
        assert_eq!(client.poll_payload(), Some(question));
    }
}

#[test]
fn every_kex_with_every_cipher_and_mac() {
    for kex in Kex::ALL {
        let (mut client, mut server) =
            pair(ClientOptions { kex: vec![kex], ..ClientOptions::default() }, compat_config());
        assert_eq!(server.negotiated().unwrap().kex, kex.name());
        assert_eq!(server.session_id().unwrap(), client.session_id());
        echo(&mut client, &mut server);
    }
    for cipher in Cipher::ALL {
        for mac in Mac::ALL {
            let options =
                ClientOptions { ciphers: vec![cipher], macs: vec![mac], ..ClientOptions::default() };
            for options in [options.clone(), ClientOptions { markers: Vec::new(), ..options }] {
                let (mut client, mut server) = pair(options, server_config());
                let negotiated = server.negotiated().unwrap();
                assert_eq!(negotiated.cipher_in, cipher.name());
                assert_eq!(negotiated.mac_out, if cipher.is_aead() { "<implicit>" } else { mac.name() });
                echo(&mut client, &mut server);
                client.rekey();
                echo(&mut client, &mut server);
                server.rekey_now().unwrap();
                echo(&mut client, &mut server);
                assert_eq!(client.exchanges, 3);
            }
        }
    }
}

#[test]
fn every_host_key_algorithm() {
    for key in all_host_keys() {
        for algorithm in key.algorithms() {
            let options = ClientOptions { host_key: vec![*algorithm], ..ClientOptions::default() };
            let (_, server) = pair(options, compat_config());
            assert_eq!(server.negotiated().unwrap().host_key, algorithm.name());
            assert_eq!(server.host_key_blob(), Some(key.public_blob()));
        }
    }
}

#[test]
fn what_is_not_offered_cannot_be_agreed() {
    let refused = |options: ClientOptions, kind| {
        let mut client = ClientTransport::with_options(options);
        let error = client.exchange(&mut server(server_config())).unwrap_err();
        assert_eq!(error, Error::NoCommonAlgorithm(kind));
        assert_eq!(client.disconnected.unwrap(), (3, format!("No matching {kind} found.")));
    };
    refused(ClientOptions { kex: vec![Kex::NistP256], ..not_strict() }, "key exchange method");
    refused(ClientOptions { host_key: vec![HostKeyAlgorithm::EcdsaP256], ..not_strict() }, "host key type");
    refused(ClientOptions { ciphers: Vec::new(), ..not_strict() }, "cipher");
    refused(ClientOptions { ciphers: vec![Cipher::Aes128Ctr], macs: Vec::new(), ..not_strict() }, "MAC");
}

#[test]
fn ext_info_is_sent_to_those_who_ask() {
    let (client, _) = established();
    let ext_info = client.ext_info.unwrap();
    let mut r = Reader::new(&ext_info[1..]);
    assert_eq!(r.u32(), Ok(3));
    assert_eq!((r.text(), r.text()), (Ok("server-sig-algs"), Ok(SERVER_SIG_ALGS)));
    assert_eq!((r.text(), r.text()), (Ok("publickey-hostbound@openssh.com"), Ok("0")));
    assert_eq!((r.text(), r.text()), (Ok("ping@openssh.com"), Ok("0")));
    r.finish().unwrap();
    let (mut client, mut server) = pair(not_strict(), server_config());
    assert_eq!(client.ext_info, None);
    client.rekey();
    client.exchange(&mut server).unwrap();
    assert_eq!(client.ext_info, None);
}

#[test]
fn ping_is_answered_with_its_data() {
    let (mut client, mut server) = established();
    let mut ping = Writer::message(MSG_PING);
    ping.string("abc");
    client.send(ping.as_slice());
    assert_eq!(client.exchange(&mut server), Ok(vec![]));
    assert_eq!(client.transport_messages, [b"\xc1\0\0\0\x03abc".to_vec()]);
}

#[test]
fn transport_messages_are_swallowed_and_unknown_ones_are_answered() {
    let (mut client, mut server) = established();
    client.send(&[MSG_IGNORE, 0, 0, 0, 0]);
    client.send(&[MSG_DEBUG, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    client.send(&[MSG_UNIMPLEMENTED, 0, 0, 0, 1]);
    let sequence = client.sequence_out;
    client.send(&[200]);
    client.send(&[8]);
    assert_eq!(client.exchange(&mut server), Ok(vec![]));
    let mut expected = Vec::new();
    for sequence in [sequence, sequence + 1] {
        let mut w = Writer::message(MSG_UNIMPLEMENTED);
        w.u32(sequence);
        expected.push(w.into_vec());
    }
    assert_eq!(client.transport_messages, expected);
}

#[test]
fn the_clients_goodbye_is_passed_on_in_printable_form() {
    let (mut client, mut server) = established();
    let mut w = Writer::message(MSG_DISCONNECT);
    w.u32(11).string("bye\x1b[2J\nbye").string("");
    client.send(w.as_slice());
    let error = client.exchange(&mut server).unwrap_err();
    assert_eq!(error, Error::Disconnected { reason: 11, text: "bye [2J bye".to_owned() });
    assert_eq!(server.send(&message(1, 1)), Err(Error::Closed));
    assert_eq!(server.poll_payload(Instant::now()).unwrap_err(), Error::Closed);
}

#[test]
fn disconnect_tells_the_client_and_ends_everything() {
    let (mut client, mut server) = established();
    server.disconnect(DisconnectReason::ByApplication, "Your token expired.");
    let output = server.output().to_vec();
    client.receive(&output);
    assert_eq!(client.poll_payload(), None);
    assert_eq!(client.disconnected, Some((11, "Your token expired.".to_owned())));
    assert!(!server.can_send_data());
    assert_eq!(server.poll_timeout(), None);
    assert_eq!(server.send_data::<Error>(&[94], 10, 10, |_| Ok(10)), Err(Error::Closed));
}

// Strict key exchange.

#[test]
fn an_injected_ignore_before_newkeys_fails_the_strict_exchange() {
    // The Terrapin attack: a man in the middle adds a packet to the unprotected part of the exchange, so that a later,
    // protected packet can be cut off without the sequence numbers showing it.
    let mut client = ClientTransport::new();
    let mut server = server(server_config());
    client.send_now(&[MSG_IGNORE, 0, 0, 0, 0]);
    assert_eq!(client.exchange(&mut server), Err(Error::StrictKexViolation(MSG_IGNORE)));
    assert_eq!(client.disconnected.unwrap().0, DisconnectReason::KeyExchangeFailed.code());
}

#[test]
fn a_packet_before_kexinit_fails_the_strict_exchange() {
    let mut client = ClientTransport::new();
    let real = client.take_output();
    let split = real.iter().position(|b| *b == b'\n').unwrap() + 1;
    // A clear IGNORE packet: length 12, padding 6.
    let injected = [0, 0, 0, 12, 6, MSG_IGNORE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let bytes = [&real[..split], &injected, &real[split..]].concat();
    let mut strict = server(server_config());
    assert_eq!(feed(&mut strict, &bytes, &mut Vec::new()), Err(Error::StrictKexViolation(MSG_KEXINIT)));
}

#[test]
fn without_strict_the_same_packets_are_harmless() {
    let mut client = ClientTransport::with_options(not_strict());
    let mut server = server(server_config());
    client.send_now(&[MSG_IGNORE, 0, 0, 0, 0]);
    client.handshake(&mut server);
    assert!(!server.negotiated().unwrap().strict);
    echo(&mut client, &mut server);
}

#[test]
fn sequence_numbers_begin_again_only_with_strict() {
    for (options, strict) in [(ClientOptions::default(), true), (not_strict(), false)] {
        let (mut client, mut server) = pair(options, server_config());
        assert_eq!(server.negotiated().unwrap().strict, strict);
        // With ChaCha20 a wrong number would be a wrong nonce; here the number is told in the answer.
        client.send(&[200]);
        client.exchange(&mut server).unwrap();
        let answer = client.transport_messages.pop().unwrap();
        // KEXINIT, ECDH_INIT and NEWKEYS came before.
        assert_eq!(answer[1..], (if strict { 0u32 } else { 3 }).to_be_bytes());
    }
}

#[test]
fn upper_layer_messages_before_the_first_keys_are_refused() {
    for kind in [5, 50, 90, MSG_EXT_INFO, MSG_PING] {
        let mut client = ClientTransport::with_options(not_strict());
        client.send_now(&[kind, 0, 0, 0, 0]);
        assert_eq!(client.exchange(&mut server(server_config())), Err(Error::UnexpectedMessage(kind)));
    }
}

#[test]
fn key_exchange_messages_out_of_order_are_refused() {
    for kind in [MSG_NEWKEYS, MSG_KEX_ECDH_REPLY, 34] {
        let (mut client, mut server) = established();
        client.send_now(&[kind]);
        assert_eq!(client.exchange(&mut server), Err(Error::UnexpectedMessage(kind)));
    }
    let mut client = ClientTransport::new();
    let mut server = server(server_config());
    client.send_now(&[MSG_NEWKEYS]);
    assert_eq!(client.exchange(&mut server), Err(Error::UnexpectedMessage(MSG_NEWKEYS)));
}

// Guessed packets.

fn guessing(kex: Vec<Kex>, config: Config) -> Result<Vec<Vec<u8>>, Error> {
    // The guess is an ECDH_INIT for a method that the server does not speak; were it used, the exchange would fail.
    let options =
        ClientOptions { kex, guess: Some(b"\x1e\0\0\0\x03bad".to_vec()), ..ClientOptions::default() };
    let mut client = ClientTransport::with_options(options);
    client.exchange(&mut server(config))
}

#[test]
fn a_wrong_guess_is_skipped_and_a_right_one_is_used() {
    let config = || Config {
        kex: vec!["mlkem768x25519-sha256".to_owned(), "curve25519-sha256".to_owned()],
        ..server_config()
    };
    assert_eq!(
        guessing(vec![Kex::Curve25519], config()),
        Ok(vec![]),
        "our first method is another, so the guess is wrong"
    );
    let first = Config { kex: vec!["curve25519-sha256".to_owned()], ..server_config() };
    assert_eq!(guessing(vec![Kex::Curve25519], first), Err(Error::BadKeyExchangeValue), "the guess counts");
}

// Rekeying.

#[test]
fn rekeying_under_load_in_both_directions_loses_nothing() {
    for (cipher, strict) in
        [(Cipher::ChaCha20Poly1305, true), (Cipher::Aes256Gcm, false), (Cipher::Aes128Ctr, true)]
    {
        let markers = if strict { vec![STRICT_CLIENT] } else { Vec::new() };
        let options = ClientOptions { ciphers: vec![cipher], markers, ..ClientOptions::default() };
        let (mut client, mut server) = pair(options, Config { rekey_bytes: 50_000, ..server_config() });
        let (mut sent_up, mut sent_down) = (Vec::new(), Vec::new());
        let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
        for round in 0..400u32 {
            let up = message(round, usize::try_from(round * 37 % 3000).unwrap());
            client.send(&up);
            sent_up.push(up);
            if round % 41 == 0 {
                client.rekey();
            }
            let down = message(round, usize::try_from(round * 53 % 3000).unwrap());
            if round % 3 == 0 || server.can_send_data() {
                if round % 3 == 0 || down.len() == 9 {
                    server.send(&down).unwrap();
                } else {
                    server
                        .send_data::<Error>(&down[..5], down.len(), down.len(), |packets| {
                            packets[0][..down.len() - 9].copy_from_slice(&down[9..]);
                            Ok(down.len() - 9)
                        })
                        .unwrap();
                }
                sent_down.push(down);
            }
            if round % 67 == 0 {
                server.rekey_now().unwrap();
            }
            // Bytes travel in pieces that have nothing to do with packets, so the exchanges spread over many rounds.
            let bytes = client.take_output();
            let (now, later) = bytes.split_at((bytes.len() * 2).div_ceil(3));
            feed(&mut server, now, &mut got_up).unwrap();
            client.output_mut().splice(0..0, later.iter().copied());
            let output = server.output();
            let piece = output[..(output.len() * 3).div_ceil(4)].to_vec();
            server.consume_output(piece.len());
            client.receive(&piece);
            while let Some(payload) = client.poll_payload() {
                got_down.push(payload);
            }
        }
        got_up.extend(client.exchange(&mut server).unwrap());
        while let Some(payload) = client.poll_payload() {
            got_down.push(payload);
        }
        assert!(client.exchanges > 10, "only {} exchanges", client.exchanges);
        assert!(got_up == sent_up, "{cipher:?}: everything sent up arrived in order");
        assert!(got_down == sent_down, "{cipher:?}: everything sent down arrived in order");
    }
}

#[test]
fn packets_laid_out_together_arrive_apart_and_a_due_exchange_follows_them() {
    for (cipher, filled) in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305, Cipher::Aes128Ctr]
        .into_iter()
        .flat_map(|cipher| [1usize, 999, 1000, 1001, 2500, 3500].map(|filled| (cipher, filled)))
    {
        let options = ClientOptions { ciphers: vec![cipher], ..ClientOptions::default() };
        // The handshake counts, so the second or third packet passes the limit.
        let (mut client, mut server) = pair(options, Config { rekey_bytes: 2300, ..server_config() });
        let data: Vec<u8> = (0..filled).map(|i| (i % 251) as u8).collect();
        let sent = server.send_data::<Error>(&[94, 0, 0, 0, 9], 1000, 3500, |packets| {
            assert_eq!(packets.iter().map(|p| p.len()).collect::<Vec<_>>(), [1000, 1000, 1000, 500]);
            for (packet, piece) in packets.iter_mut().zip(data.chunks(1000)) {
                packet[..piece.len()].copy_from_slice(piece);
            }
            Ok(filled)
        });
        assert_eq!(sent, Ok(filled));
        client.exchange(&mut server).unwrap();
        assert_eq!(client.exchanges, if filled > 2000 { 2 } else { 1 }, "{cipher:?} {filled}");
        for piece in data.chunks(1000) {
            let mut expected = Writer::message(94);
            expected.u32(9).string(piece);
            assert_eq!(client.poll_payload(), Some(expected.into_vec()), "{cipher:?} {filled}");
        }
        assert_eq!(client.poll_payload(), None);
    }
}

#[test]
fn simultaneous_key_exchanges_become_one() {
    let (mut client, mut server) = established();
    client.rekey();
    server.rekey_now().unwrap();
    client.exchange(&mut server).unwrap();
    assert_eq!(client.exchanges, 2);
    echo(&mut client, &mut server);
}

#[test]
fn during_our_exchange_data_is_refused_messages_wait_and_input_still_flows() {
    let (mut client, mut server) = established();
    let old_session = server.session_id().unwrap().to_vec();
    server.rekey_now().unwrap();
    assert!(!server.can_send_data());
    assert_eq!(
        server.send_data::<Error>(&[94], 10, 10, |_| panic!("must not be asked")),
        Err(Error::Rekeying)
    );
    server.send(&message(1, 10)).unwrap();
    server.send(&message(2, 10)).unwrap();
    // The client has not seen our KEXINIT: its data is still welcome.
    client.send(&message(3, 10));
    let mut got = Vec::new();
    feed(&mut server, &client.take_output(), &mut got).unwrap();
    assert_eq!(got, [message(3, 10)]);
    client.exchange(&mut server).unwrap();
    assert_eq!(client.poll_payload(), Some(message(1, 10)));
    assert_eq!(client.poll_payload(), Some(message(2, 10)));
    assert!(server.can_send_data());
    assert_eq!(server.session_id(), Some(&old_session[..]), "the session identifier never changes");
}

#[test]
fn messages_held_back_are_bounded() {
    let (_, mut server) = pair(ClientOptions::default(), Config { pending_limit: 1000, ..server_config() });
    server.rekey_now().unwrap();
    let mut sent = 0;
    let error = loop {
        match server.send(&message(0, 91)) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((sent, error), (9, Error::PendingOverflow));
}

#[test]
fn output_is_bounded_for_those_who_do_not_read() {
    let (mut client, mut server) = established();
    let mut ping = Writer::message(MSG_PING);
    ping.string(vec![0; 200_000]);
    let mut result = Ok(());
    for _ in 0..100 {
        client.send(ping.as_slice());
        result = feed(&mut server, &client.take_output(), &mut Vec::new());
        if result.is_err() {
            break;
        }
    }
    assert_eq!(result, Err(Error::PendingOverflow));
    assert!(server.output_len() < OUTPUT_LIMIT + 300_000);
}

#[test]
fn keys_are_renewed_by_packets_and_by_age() {
    let (mut client, mut server) = pair(
        ClientOptions::default(),
        Config { rekey_packets: 10, rekey_after: Duration::from_secs(60), ..server_config() },
    );
    for number in 0..10 {
        client.send(&message(number, 1));
    }
    client.exchange(&mut server).unwrap();
    assert_eq!(client.exchanges, 2);
    let at = server.poll_timeout().unwrap();
    server.handle_timeout(at - Duration::from_secs(1)).unwrap();
    assert!(server.can_send_data());
    server.handle_timeout(at).unwrap();
    assert!(!server.can_send_data());
    assert_eq!(server.poll_timeout(), None, "nothing to wait for while the exchange runs");
    client.exchange(&mut server).unwrap();
    assert_eq!(client.exchanges, 3);
    assert!(server.poll_timeout().is_some());
}

// Deadlines, identification, host keys.

#[test]
fn a_slow_handshake_is_given_up() {
    let mut server = server(server_config());
    let at = server.poll_timeout().unwrap();
    assert_eq!(server.handle_timeout(at - Duration::from_millis(1)), Ok(()));
    assert_eq!(server.handle_timeout(at), Err(Error::HandshakeTimeout));
    let mut client = ClientTransport::new();
    let mut late = Transport::new(Arc::new(server_config()), Instant::now());
    feed(&mut late, &client.take_output(), &mut Vec::new()).unwrap();
    assert_eq!(late.handle_timeout(at + Duration::from_secs(60)), Err(Error::HandshakeTimeout));
}

#[test]
fn a_client_that_does_not_speak_ssh_gets_a_line() {
    for (line, error) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], Error::BadIdentification),
        (b"SSH-1.5-old\r\n", Error::VersionNotSupported),
        (&[b'S'; 1], Error::BadIdentification),
    ] {
        let mut server = server(server_config());
        let line =
            if line.len() == 1 { [b"SSH-2.0-".to_vec(), vec![b'x'; 400]].concat() } else { line.to_vec() };
        let error = if line.len() > 300 { Error::IdentificationTooLong } else { error };
        assert_eq!(feed(&mut server, &line, &mut Vec::new()), Err(error.clone()));
        let expected = format!("SSH-2.0-{}\r\n{error}\r\n", server_config().software_version);
        assert_eq!(String::from_utf8_lossy(server.output()), expected);
    }
}

#[test]
fn host_keys_are_announced_and_proved() {
    let (_, server) = pair(ClientOptions::default(), Config::new(all_host_keys()));
    let announcement = server.host_keys_announcement();
    let mut r = Reader::new(&announcement);
    assert_eq!((r.byte(), r.text(), r.bool()), (Ok(80), Ok("hostkeys-00@openssh.com"), Ok(false)));
    let request = r.rest();
    let blobs = [r.string().unwrap(), r.string().unwrap()];
    assert!(r.is_empty(), "ecdsa keys are not told outside compat mode");
    let reply = server.host_keys_proof(request).unwrap();
    let mut r = Reader::new(&reply);
    assert_eq!(r.byte(), Ok(81));
    for blob in blobs {
        let mut message = Writer::new();
        message.string("hostkeys-prove-00@openssh.com").string(server.session_id().unwrap()).string(blob);
        assert!(verify_signature(blob, message.as_slice(), r.string().unwrap()));
    }
    r.finish().unwrap();
    for bad in [&b""[..], b"\0\0\0\x01x", b"\0\0\0\x09", &[request, request].concat()] {
        assert_eq!(server.host_keys_proof(bad), None);
    }
}

// Bad input.

#[test]
fn a_flipped_bit_anywhere_in_a_packet_ends_the_connection() {
    for cipher in Cipher::ALL {
        let options = ClientOptions { ciphers: vec![cipher], ..ClientOptions::default() };
        for at in [0, 3, 4, 5, 20, 50, 60] {
            let (mut client, mut server) = pair(options.clone(), server_config());
            client.send(&message(1, 40));
            let output = client.output_mut();
            let at = at.min(output.len() - 1);
            output[at] ^= 1;
            // The rest of a packet that only claims to be longer.
            output.extend_from_slice(&[0; 70_000]);
            let result = client.exchange(&mut server);
            match result {
                Err(Error::BadMac | Error::BadPacketLength(_)) => {}
                Ok(got) => assert!(got.is_empty() && at < 4, "{cipher:?} {at}: waits for a longer packet"),
                Err(error) => panic!("{cipher:?} {at}: {error}"),
            }
        }
    }
}

#[test]
fn lengths_out_of_bounds_are_refused_before_anything_is_buffered() {
    for length in [0u32, 1, 5, 11, 35_000, 262_145, u32::MAX] {
        let mut server = server(server_config());
        let bytes = [&b"SSH-2.0-x\r\n"[..], &length.to_be_bytes()].concat();
        assert_eq!(feed(&mut server, &bytes, &mut Vec::new()), Err(Error::BadPacketLength(length)));
    }
}

#[test]
fn padding_that_eats_the_packet_is_refused() {
    for padding in [0, 3, 11, 12, 255] {
        let mut server = server(server_config());
        let mut packet = vec![0, 0, 0, 12, padding, MSG_IGNORE];
        packet.resize(16, 0);
        let bytes = [&b"SSH-2.0-x\r\n"[..], &packet].concat();
        assert_eq!(feed(&mut server, &bytes, &mut Vec::new()), Err(Error::BadPadding), "{padding}");
    }
}

#[test]
fn idle_connections_hold_no_buffers_and_wake_up() {
    let (mut client, mut server) = established();
    server.release_idle_memory();
    echo(&mut client, &mut server);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_chunking_gives_the_same_messages(
        chunks in proptest::collection::vec(1usize..600, 1..40),
        lens in proptest::collection::vec(0usize..2000, 1..12),
        cipher in 0usize..5,
    ) {
        let options = ClientOptions { ciphers: vec![Cipher::ALL[cipher]], ..ClientOptions::default() };
        let (mut client, mut server) = pair(options, server_config());
        let sent: Vec<_> = (0u32..).zip(&lens).map(|(number, len)| message(number, *len)).collect();
        sent.iter().for_each(|payload| client.send(payload));
        let bytes = client.take_output();
        let mut got = Vec::new();
        let (mut rest, mut chunks) = (&bytes[..], chunks.iter().cycle());
        while !rest.is_empty() {
            let (now, later) = rest.split_at((*chunks.next().unwrap()).min(rest.len()));
            feed(&mut server, now, &mut got).unwrap();
            rest = later;
        }
        prop_assert_eq!(got, sent);
    }

    #[test]
    fn garbage_never_panics(garbage in proptest::collection::vec(any::<u8>(), 0..400), stage in 0u8..4) {
        let mut client = ClientTransport::new();
        let mut server = server(server_config());
        let prefix = match stage {
            0 => Vec::new(),
            1 => b"SSH-2.0-x\r\n".to_vec(),
            2 => client.take_output(),
            _ => { client.handshake(&mut server); Vec::new() }
        };
        let result = feed(&mut server, &prefix, &mut Vec::new());
        if result.is_ok() && feed(&mut server, &garbage, &mut Vec::new()).is_err() {
            prop_assert_eq!(server.poll_payload(Instant::now()).unwrap_err(), Error::Closed);
        }
    }

    #[test]
    fn any_payload_at_any_time_never_panics(
        payloads in proptest::collection::vec((0u8..=255, proptest::collection::vec(any::<u8>(), 0..80)), 1..8),
        early: bool,
    ) {
        let mut client = ClientTransport::with_options(not_strict());
        let mut server = server(server_config());
        if !early {
            client.handshake(&mut server);
        }
        for (kind, body) in payloads {
            client.send_now(&[&[kind], &body[..]].concat());
        }
        let bytes = client.take_output();
        let _ = feed(&mut server, &bytes, &mut Vec::new());
    }
}
