#![allow(clippy::unwrap_used, reason = "tests")]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512,
};

use super::*;
use crate::connection::Event;
use crate::connection::pair::Pair;
use crate::event::EndReason;
use crate::testing::host_key;

/// A signing key of the client.
enum Key {
    Ed(Ed25519KeyPair),
    Ec(&'static str, &'static str, EcdsaKeyPair),
    Rsa(&'static str, RsaKeyPair),
    Sk(Ed25519KeyPair, u8),
}

impl Key {
    fn ed() -> Self {
        Self::Ed(Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap())
    }

    fn ec(name: &'static str, curve: &'static str, algorithm: &'static EcdsaSigningAlgorithm) -> Self {
        Self::Ec(name, curve, EcdsaKeyPair::generate(algorithm).unwrap())
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Ed(_) => "ssh-ed25519",
            Self::Ec(name, ..) | Self::Rsa(name, _) => name,
            Self::Sk(..) => "sk-ssh-ed25519@openssh.com",
        }
    }

    /// The fields after the name in the blob.
    fn fields(&self) -> Vec<u8> {
        let mut blob = Writer::new();
        match self {
            Self::Ed(key) => blob.string(key.public_key().as_ref()),
            Self::Ec(_, curve, key) => blob.string(curve).string(key.public_key().as_ref()),
            Self::Rsa(_, key) => {
                let [n, e] = rsa_numbers(key.public_key().as_ref());
                blob.mpint(e).mpint(n)
            }
            Self::Sk(key, _) => blob.string(key.public_key().as_ref()).string("ssh:"),
        };
        blob.into_vec()
    }

    fn blob(&self) -> Vec<u8> {
        let name = if matches!(self, Self::Rsa(..)) { "ssh-rsa" } else { self.algorithm() };
        let mut blob = Writer::new();
        blob.string(name).raw(&self.fields());
        blob.into_vec()
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let mut signature = Writer::new();
        signature.string(self.algorithm());
        match self {
            Self::Ed(key) => signature.string(key.sign(message).as_ref()),
            Self::Ec(_, _, key) => {
                let fixed = key.sign(&SystemRandom::new(), message).unwrap();
                let (r, s) = fixed.as_ref().split_at(fixed.as_ref().len() / 2);
                let mut inner = Writer::new();
                inner.mpint(r).mpint(s);
                signature.string(inner.into_vec())
            }
            Self::Rsa(name, key) => {
                let how = if *name == "rsa-sha2-256" { &RSA_PKCS1_SHA256 } else { &RSA_PKCS1_SHA512 };
                let mut out = vec![0; key.public_modulus_len()];
                key.sign(how, &SystemRandom::new(), message, &mut out).unwrap();
                signature.string(out)
            }
            Self::Sk(key, flags) => {
                use aws_lc_rs::digest::{SHA256, digest};
                let mut signed = Writer::new();
                signed.raw(digest(&SHA256, b"ssh:").as_ref()).byte(*flags).u32(9);
                signed.raw(digest(&SHA256, message).as_ref());
                signature.string(key.sign(signed.as_slice()).as_ref()).byte(*flags).u32(9)
            }
        };
        signature.into_vec()
    }
}

/// Modulus and exponent from the DER form of an RSA public key, whose lengths all have two bytes or one.
fn rsa_numbers(der: &[u8]) -> [&[u8]; 2] {
    let (header, rest) = der.split_at(4);
    assert_eq!(header[..2], [0x30, 0x82]);
    assert_eq!(rest[..2], [2, 0x82]);
    let len = usize::from(rest[2]) << 8 | usize::from(rest[3]);
    let (n, rest) = rest[4..].split_at(len);
    assert_eq!((rest[0], usize::from(rest[1])), (2, rest.len() - 2));
    [n, &rest[2..]]
}

/// What a request does with its key.
#[derive(Clone, Copy, PartialEq)]
enum Use {
    Probe,
    Sign,
    SignBadly,
}

fn start(change: impl FnOnce(&mut Config)) -> Pair {
    let mut pair = Pair::new(change);
    pair.ask_for_login();
    assert_eq!(pair.take_kinds(), [msg::SERVICE_ACCEPT]);
    pair
}

fn request(user: &str, method: &str) -> Writer {
    let mut request = Writer::message(msg::USERAUTH_REQUEST);
    request.string(user).string("ssh-connection").string(method);
    request
}

fn send_key(pair: &mut Pair, how: Use, key: &Key, algorithm: &str, blob: &[u8], host_key: Option<&[u8]>) {
    let method = if host_key.is_some() { "publickey-hostbound-v00@openssh.com" } else { "publickey" };
    let mut request = request("u", method);
    request.bool(how != Use::Probe).string(algorithm).string(blob);
    if let Some(host_key) = host_key {
        request.string(host_key);
    }
    if how != Use::Probe {
        let mut message = Writer::new();
        message.string(pair.client.session_id()).raw(request.as_slice());
        let mut signature = key.sign(message.as_slice());
        if how == Use::SignBadly {
            *signature.last_mut().unwrap() ^= 1;
        }
        request.string(signature);
    }
    pair.send(request);
}

fn question(pair: &mut Pair) -> Option<AuthRequest> {
    match pair.server.poll_event() {
        Some(Event::Auth(request)) => Some(request),
        _ => None,
    }
}

fn failure(methods: &str, partial: bool) -> Vec<u8> {
    let mut message = Writer::message(msg::USERAUTH_FAILURE);
    message.string(methods).bool(partial);
    message.into_vec()
}

const DEFAULT: &str = "publickey,password,keyboard-interactive";

#[test]
fn every_key_type_is_verified() {
    let keys = [
        Key::ed(),
        Key::ec("ecdsa-sha2-nistp256", "nistp256", &ECDSA_P256_SHA256_FIXED_SIGNING),
        Key::ec("ecdsa-sha2-nistp384", "nistp384", &ECDSA_P384_SHA384_FIXED_SIGNING),
        Key::ec("ecdsa-sha2-nistp521", "nistp521", &ECDSA_P521_SHA512_FIXED_SIGNING),
        Key::Rsa("rsa-sha2-256", RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
        Key::Rsa("rsa-sha2-512", RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
        Key::Sk(Ed25519KeyPair::from_seed_unchecked(&[2; 32]).unwrap(), 1),
    ];
    for key in &keys {
        let name = key.algorithm();
        let mut pair = start(|_| {});
        send_key(&mut pair, Use::Probe, key, name, &key.blob(), None);
        let probe = question(&mut pair).unwrap();
        assert!(matches!(probe.method, AuthMethod::PublicKeyProbe { .. }), "{name}");
        pair.server.answer_auth(probe.id, Verdict::Accept);
        pair.settle();
        let mut expected = Writer::message(msg::USERAUTH_PK_OK);
        expected.string(name).string(key.blob());
        assert_eq!(pair.take(), [expected.into_vec()], "{name}");

        send_key(&mut pair, Use::SignBadly, key, name, &key.blob(), None);
        assert!(question(&mut pair).is_none(), "{name}");
        assert_eq!(pair.take(), [failure(DEFAULT, false)], "{name}");

        send_key(&mut pair, Use::Sign, key, name, &key.blob(), None);
        let proof = question(&mut pair).unwrap_or_else(|| panic!("{name}"));
        match &proof.method {
            AuthMethod::PublicKey { key: used, security_key, host_bound: false, certificate: None } => {
                assert_eq!(used.blob, key.blob());
                assert_eq!(security_key.is_some(), matches!(key, Key::Sk(..)));
            }
            other => panic!("{other:?}"),
        }
        pair.server.answer_auth(proof.id, Verdict::Accept);
        pair.settle();
        assert_eq!(pair.take_kinds(), [msg::USERAUTH_SUCCESS, msg::GLOBAL_REQUEST], "{name}");
        assert!(pair.server.is_authenticated());
    }
}

#[test]
fn security_key_needs_the_users_presence() {
    let key = Key::Sk(Ed25519KeyPair::from_seed_unchecked(&[2; 32]).unwrap(), 4);
    let mut pair = start(|_| {});
    send_key(&mut pair, Use::Sign, &key, key.algorithm(), &key.blob(), None);
    assert!(question(&mut pair).is_none());
    assert_eq!(pair.take(), [failure(DEFAULT, false)]);
}

#[test]
fn host_bound_signatures_name_our_host_key() {
    let key = Key::ed();
    let ours = host_key().public_blob().to_vec();
    let mut pair = start(|_| {});
    send_key(&mut pair, Use::Sign, &key, key.algorithm(), &key.blob(), Some(b"another"));
    assert!(question(&mut pair).is_none());
    assert_eq!(pair.take(), [failure(DEFAULT, false)]);
    send_key(&mut pair, Use::Sign, &key, key.algorithm(), &key.blob(), Some(&ours));
    let proof = question(&mut pair).unwrap();
    assert!(matches!(proof.method, AuthMethod::PublicKey { host_bound: true, .. }));
}

#[test]
fn weak_keys_and_old_algorithms_are_refused() {
    let key = Key::ed();
    let mut short = Writer::new();
    short.string("ssh-rsa").mpint(&[1, 0, 1]).mpint(&[0xff; 128]);
    let mut pair = start(|_| {});
    for (algorithm, blob) in [
        ("rsa-sha2-256", short.as_slice()),
        ("ssh-rsa", short.as_slice()),
        ("ssh-dss", b"x".as_slice()),
        ("ecdsa-sha2-nistp256", &key.blob()),
        ("ssh-ed25519", b"".as_slice()),
    ] {
        send_key(&mut pair, Use::Probe, &key, algorithm, blob, None);
        assert!(question(&mut pair).is_none(), "{algorithm}");
        assert_eq!(pair.take(), [failure(DEFAULT, false)], "{algorithm}");
    }
}

fn certificate(key: &Key, ca: &Key, kind: u32) -> Vec<u8> {
    let mut option = Writer::new();
    let mut command = Writer::new();
    command.string("ls");
    option.string("force-command").string(command.into_vec());
    let mut extensions = Writer::new();
    extensions.string("permit-pty").string("");
    let mut principals = Writer::new();
    principals.string("box").string(b"b\xff");
    let mut cert = Writer::new();
    cert.string("ssh-ed25519-cert-v01@openssh.com").string([5; 32]).raw(&key.fields());
    cert.u64(3).u32(kind).string("id").string(principals.into_vec()).u64(100).u64(200);
    cert.string(option.into_vec()).string(extensions.into_vec()).string("").string(ca.blob());
    let signature = ca.sign(cert.as_slice());
    cert.string(signature);
    cert.into_vec()
}

#[test]
fn certificates_are_opened_and_their_signature_checked() {
    let key = Key::ed();
    let ca = Key::ec("ecdsa-sha2-nistp256", "nistp256", &ECDSA_P256_SHA256_FIXED_SIGNING);
    let name = "ssh-ed25519-cert-v01@openssh.com";
    let mut pair = start(|_| {});

    let blob = certificate(&key, &ca, 1);
    send_key(&mut pair, Use::Sign, &key, name, &blob, None);
    let Some(AuthMethod::PublicKey { key: inner, certificate: Some(cert), .. }) =
        question(&mut pair).map(|q| q.method)
    else {
        panic!("a certificate is expected")
    };
    assert_eq!((inner.blob, inner.algorithm.as_str()), (key.blob(), "ssh-ed25519"));
    assert_eq!((cert.serial, cert.key_id.as_slice(), cert.ca.blob.clone()), (3, b"id".as_slice(), ca.blob()));
    assert_eq!(cert.critical_options, [(b"force-command".to_vec(), b"ls".to_vec())]);
    assert_eq!(cert.extensions, [(b"permit-pty".to_vec(), Vec::new())]);
    use crate::event::CertificateRefused as Refused;
    assert_eq!(cert.check(150, b"b\xff", &["force-command"]), Ok(()));
    assert_eq!(cert.check(200, b"box", &["force-command"]), Err(Refused::Time));
    assert_eq!(cert.check(99, b"box", &["force-command"]), Err(Refused::Time));
    assert_eq!(cert.check(150, b"root", &["force-command"]), Err(Refused::Principal));
    assert_eq!(cert.check(150, b"box", &["source-address"]), Err(Refused::CriticalOption));

    let mut forged = certificate(&key, &ca, 1);
    let at = forged.windows(3).position(|w| w == b"box").unwrap();
    forged[at] = b'B';
    for bad in [forged, certificate(&key, &ca, 2)] {
        let mut pair = start(|_| {});
        send_key(&mut pair, Use::Sign, &key, name, &bad, None);
        assert!(question(&mut pair).is_none());
        assert_eq!(pair.take(), [failure(DEFAULT, false)]);
    }
}

#[test]
fn failures_are_counted_as_sshd_does() {
    let mut pair = start(|c| c.max_auth_tries = 3);
    // The first "none" and probes are free.
    pair.send(request("u", "none"));
    let id = question(&mut pair).unwrap().id;
    pair.server.answer_auth(id, Verdict::Reject(None));
    for _ in 0..10 {
        let key = Key::ed();
        send_key(&mut pair, Use::Probe, &key, key.algorithm(), &key.blob(), None);
        let id = question(&mut pair).unwrap().id;
        pair.server.answer_auth(id, Verdict::Reject(None));
        pair.settle();
    }
    for _ in 0..2 {
        let mut password = request("u", "password");
        password.bool(false).string("wrong");
        pair.send(password);
        let id = question(&mut pair).unwrap().id;
        pair.server.answer_auth(id, Verdict::Reject(None));
        pair.settle();
    }
    assert_eq!(pair.take(), vec![failure(DEFAULT, false); 13]);
    pair.send(request("u", "none"));
    let id = question(&mut pair).unwrap().id;
    pair.server.answer_auth(id, Verdict::Reject(None));
    pair.settle();
    assert!(matches!(pair.server.ended().unwrap().reason, EndReason::TooManyAuthFailures));
    assert_eq!(pair.client.disconnected, Some((2, "Too many authentication failures".to_owned())));
}

#[test]
fn endless_probing_ends() {
    let mut pair = start(|c| c.max_auth_requests = 20);
    for _ in 0..21 {
        let key = Key::ed();
        send_key(&mut pair, Use::Probe, &key, "ssh-dss", b"", None);
    }
    assert!(matches!(pair.server.ended().unwrap().reason, EndReason::TooManyAuthFailures));
}

#[test]
fn partial_success_counts_for_one_user_only() {
    let mut pair = start(|_| {});
    let key = Key::ed();
    send_key(&mut pair, Use::Sign, &key, key.algorithm(), &key.blob(), None);
    let id = question(&mut pair).unwrap().id;
    pair.server.answer_auth(id, Verdict::Partial(vec!["password".to_owned()]));
    pair.settle();
    assert_eq!(pair.take(), [failure("password", true)]);
    let mut password = request("u", "password");
    password.bool(false).string("p");
    pair.client.send(password.as_slice());
    // Pipelined behind it: looked at only when the first is answered.
    pair.send(request("other", "none"));
    let first = question(&mut pair).unwrap();
    assert_eq!((first.user.as_slice(), first.completed), (b"u".as_slice(), 1));
    assert!(question(&mut pair).is_none());
    pair.server.answer_auth(first.id, Verdict::Reject(None));
    pair.settle();
    assert_eq!(pair.take(), [failure("password", false)]);
    let second = question(&mut pair).unwrap();
    assert_eq!((second.user.as_slice(), second.completed), (b"other".as_slice(), 0));
    pair.server.answer_auth(second.id, Verdict::Reject(None));
    pair.settle();
    assert_eq!(pair.take(), [failure(DEFAULT, false)]);
}

#[test]
fn keyboard_interactive_asks_and_is_given_up() {
    let mut pair = start(|_| {});
    let ask = || {
        let mut message = request("u", "keyboard-interactive");
        message.string("").string("");
        message
    };
    pair.send(ask());
    let id = question(&mut pair).unwrap().id;
    let prompts = [Prompt { text: "A?".to_owned(), echo: Echo::Off }];
    pair.server.auth_banner(id, "hello\n");
    assert_eq!(pair.server.auth_prompt(id, "n", "i", &prompts), Ok(()));
    assert_eq!(pair.server.take_auth_responses(id), Ok(None));
    pair.settle();
    assert_eq!(pair.take_kinds(), [msg::USERAUTH_BANNER, msg::USERAUTH_INFO_REQUEST]);
    let mut answer = Writer::message(msg::USERAUTH_INFO_RESPONSE);
    answer.u32(1).string("x");
    pair.send(answer);
    let answers = pair.server.take_auth_responses(id).unwrap().unwrap();
    assert_eq!(answers[0].as_slice(), b"x");
    // Another round, which the client gives up by a new request: no answer may be sent for the old one.
    assert_eq!(pair.server.auth_prompt(id, "n", "i", &prompts), Ok(()));
    pair.settle();
    pair.take();
    pair.send(ask());
    assert_eq!(pair.server.take_auth_responses(id), Err(Stale));
    pair.server.answer_auth(id, Verdict::Accept);
    pair.settle();
    assert!(!pair.server.is_authenticated());
    assert_eq!(pair.take(), Vec::<Vec<u8>>::new());
    let next = question(&mut pair).unwrap().id;
    // A wrong number of answers fails the attempt.
    assert_eq!(pair.server.auth_prompt(next, "", "", &prompts), Ok(()));
    pair.settle();
    pair.take();
    let mut answer = Writer::message(msg::USERAUTH_INFO_RESPONSE);
    answer.u32(0);
    pair.send(answer);
    assert_eq!(pair.server.take_auth_responses(next), Err(Stale));
    assert_eq!(pair.take(), [failure(DEFAULT, false)]);
}

#[test]
fn messages_out_of_phase_end_the_connection() {
    let mut open = Writer::message(msg::CHANNEL_OPEN);
    open.string("session").u32(0).u32(1000).u32(1000);
    let mut response = Writer::message(msg::USERAUTH_INFO_RESPONSE);
    response.u32(0);
    for message in [open, response] {
        let mut pair = start(|_| {});
        pair.send(message);
        assert!(matches!(pair.server.ended().unwrap().reason, EndReason::Protocol(_)));
        assert_eq!(pair.client.disconnected.as_ref().unwrap().0, 2);
    }
    // A login without the service.
    let mut pair = Pair::new(|_| {});
    pair.send(request("u", "none"));
    assert!(pair.server.ended().is_some());
    // Another service.
    let mut pair = Pair::new(|_| {});
    let mut service = Writer::message(msg::SERVICE_REQUEST);
    service.string("ssh-connection");
    pair.send(service);
    assert_eq!(pair.client.disconnected.as_ref().unwrap().0, 7);
}

#[test]
fn requests_after_success_are_ignored() {
    let mut pair = Pair::logged_in(|_| {});
    pair.send(request("u", "none"));
    assert!(question(&mut pair).is_none());
    assert!(pair.take().is_empty() && pair.server.ended().is_none());
}

#[test]
fn the_login_has_a_deadline() {
    let mut pair = start(|c| c.login_timeout = std::time::Duration::from_secs(5));
    let deadline = pair.server.poll_timeout().unwrap();
    assert!(deadline <= pair.now + std::time::Duration::from_secs(5));
    pair.now += std::time::Duration::from_secs(5);
    pair.server.handle_timeout(pair.now);
    pair.settle();
    assert!(matches!(pair.server.ended().unwrap().reason, EndReason::LoginTimeout));
    assert!(pair.client.disconnected.is_some());
}

#[test]
fn fingerprint_has_the_form_of_openssh() {
    // SHA-256 of nothing, as `openssl dgst -sha256 -binary </dev/null | base64` without padding.
    assert_eq!(fingerprint(b""), "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU");
}
