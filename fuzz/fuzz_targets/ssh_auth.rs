//! Login messages in any order, with answers of the application at any time: nothing may panic, and nobody is logged in
//! whom the application did not accept.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandgate_ssh::codec::Writer;
use sandgate_ssh::connection::pair::Pair;
use sandgate_ssh::connection::{AuthId, Event, Verdict};
use sandgate_ssh::event::{AuthMethod, Echo, Prompt};

const METHODS: [&str; 6] = [
    "none",
    "password",
    "publickey",
    "keyboard-interactive",
    "publickey-hostbound-v00@openssh.com",
    "hostbased",
];
const ALGORITHMS: [&str; 6] = [
    "ssh-ed25519",
    "rsa-sha2-512",
    "ecdsa-sha2-nistp256",
    "sk-ssh-ed25519@openssh.com",
    "ssh-ed25519-cert-v01@openssh.com",
    "ssh-rsa",
];

fuzz_target!(|data: &[u8]| {
    let mut pair = Pair::new(|config| config.max_auth_tries = 20);
    let mut asked: Vec<AuthId> = Vec::new();
    let mut accepted = false;
    let mut rest = data;
    while let [operation, choice, len, tail @ ..] = rest {
        let (body, tail) = tail.split_at(usize::from(*len).min(tail.len()));
        rest = tail;
        let pick = |list: &[&'static str]| list[usize::from(*choice) % list.len()];
        match operation % 8 {
            0 => pair.ask_for_login(),
            1 | 2 => {
                let mut message = Writer::message(50);
                message.string([b'a' + choice % 2]).string("ssh-connection").string(pick(&METHODS));
                if operation % 8 == 1 {
                    message.raw(body);
                } else {
                    message.bool(choice & 0x80 != 0).string(pick(&ALGORITHMS)).string(body).string(body);
                }
                pair.send(message);
            }
            3 => {
                let mut message = Writer::message(61);
                message.raw(body);
                pair.send(message);
            }
            4 if !body.is_empty() => {
                let mut message = Writer::new();
                message.raw(body);
                // Transport messages have their own targets, and the test client cannot follow them.
                if body[0] >= 50 {
                    pair.send(message);
                }
            }
            5 => {
                if let Some(id) = asked.get(usize::from(*choice) % asked.len().max(1)) {
                    let prompts = vec![Prompt { text: "?".to_owned(), echo: Echo::Off }; usize::from(choice % 4)];
                    let _ = pair.server.auth_prompt(*id, "n", "i", &prompts);
                    let _ = pair.server.take_auth_responses(*id);
                }
            }
            6 | 7 => {
                let verdict = match choice % 4 {
                    0 => Verdict::Accept,
                    1 => Verdict::Partial(vec!["password".to_owned()]),
                    _ => Verdict::Reject(None),
                };
                if let Some(id) = asked.pop() {
                    accepted |= verdict == Verdict::Accept;
                    pair.server.answer_auth(id, verdict);
                }
            }
            _ => {}
        }
        pair.settle();
        while let Some(event) = pair.server.poll_event() {
            if let Event::Auth(request) = event {
                // Nobody can guess a signature.
                assert!(!matches!(request.method, AuthMethod::PublicKey { .. }));
                asked.push(request.id);
            }
        }
        assert!(accepted || !pair.server.is_authenticated());
        if pair.server.ended().is_some() || pair.server.is_authenticated() {
            return;
        }
    }
});
