//! The filter with hand-made messages.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use proptest::prelude::*;

use super::*;
use crate::testing::{self, fingerprint, key_blob, key_list, login_data, message, messages, put};
use crate::{Login, MAX_TO_AGENT};

const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];

fn filter() -> Filter {
    Filter::new(Config::default())
}

fn only(keys: &[&[u8]]) -> Filter {
    Filter::new(Config { allowed_keys: Some(Arc::new(keys.iter().map(|key| fingerprint(key)).collect())) })
}

fn sign(key: &[u8], data: &[u8]) -> Vec<u8> {
    message(13, &[key, data], &[0; 4])
}

fn signature() -> Vec<u8> {
    message(14, &[b"a signature"], &[])
}

/// Feeds it all; the agent reads at once.
fn ask(filter: &mut Filter, mut bytes: &[u8]) -> Vec<u8> {
    let mut seen = Vec::new();
    while !bytes.is_empty() {
        let taken = filter.guest_input(bytes).unwrap();
        assert!(taken > 0, "stuck");
        bytes = &bytes[taken..];
        seen.extend_from_slice(filter.to_agent());
        filter.consume_to_agent(usize::MAX);
    }
    seen
}

fn answer(filter: &mut Filter, bytes: &[u8]) {
    assert_eq!(filter.agent_input(bytes), Ok(bytes.len()));
}

fn guest_gets(filter: &mut Filter) -> Vec<u8> {
    let seen = filter.to_guest().to_vec();
    filter.consume_to_guest(seen.len());
    seen
}

fn events(filter: &mut Filter) -> Vec<Event> {
    std::iter::from_fn(|| filter.poll_event()).collect()
}

fn signed(filter: &mut Filter) -> Signed {
    match events(filter).as_slice() {
        [Event::Signed(signed)] => (**signed).clone(),
        other => panic!("{other:?}"),
    }
}

/// What comes of signing `data` with key 1 after `before` was asked and taken by the agent.
fn purpose(before: &[Vec<u8>], data: &[u8]) -> Purpose {
    let mut filter = filter();
    for request in before {
        ask(&mut filter, request);
        answer(&mut filter, &message(6, &[], &[]));
    }
    events(&mut filter);
    ask(&mut filter, &sign(&key_blob(1), data));
    answer(&mut filter, &signature());
    signed(&mut filter).purpose
}

fn login(before: &[Vec<u8>], data: &[u8]) -> Login {
    match purpose(before, data) {
        Purpose::Login(login) => *login,
        other => panic!("{other}"),
    }
}

#[test]
fn only_listing_signing_and_binding_reach_the_agent() {
    for number in 0..=255 {
        let mut filter = filter();
        if matches!(number, 11 | 13 | 27) {
            continue;
        }
        assert_eq!(ask(&mut filter, &message(number, &[b"x"], b"yz")), b"", "{number}");
        assert_eq!(guest_gets(&mut filter), FAILURE);
        assert_eq!(events(&mut filter), [Event::Refused(Refused::Message { number })]);
    }
    for name in ["", "session-bind@openssh.com\0", "session-bind", "restrict-destination-v00@openssh.com"] {
        let mut filter = filter();
        assert_eq!(ask(&mut filter, &message(27, &[name.as_bytes()], b"yz")), b"");
        assert_eq!(guest_gets(&mut filter), FAILURE);
        assert!(matches!(events(&mut filter)[..], [Event::Refused(Refused::Extension { .. })]));
    }
}

#[test]
fn a_query_is_answered_with_what_is_passed_on() {
    let mut filter = filter();
    assert_eq!(ask(&mut filter, &message(27, &[b"query"], &[])), b"");
    assert_eq!(guest_gets(&mut filter), message(29, &[b"query", b"session-bind@openssh.com"], &[]));
}

#[test]
fn refusals_wait_for_the_answers_before_them() {
    let mut filter = filter();
    let asked = [
        message(22, &[b"pw"], &[]),
        message(11, &[], &[]),
        message(19, &[], &[]),
        message(27, &[b"query"], &[]),
        sign(&key_blob(1), b"data"),
        message(17, &[], &[]),
    ];
    let seen = ask(&mut filter, &asked.concat());
    assert_eq!(seen, [asked[1].clone(), asked[4].clone()].concat());
    assert_eq!(guest_gets(&mut filter), FAILURE);
    assert_eq!(filter.outstanding(), 5);
    let list = key_list(&[(&key_blob(1), b"c")]);
    answer(&mut filter, &list);
    let query = message(29, &[b"query", b"session-bind@openssh.com"], &[]);
    assert_eq!(guest_gets(&mut filter), [list, FAILURE.to_vec(), query].concat());
    answer(&mut filter, &signature());
    assert_eq!(guest_gets(&mut filter), [signature(), FAILURE.to_vec()].concat());
    assert_eq!(filter.outstanding(), 0);
}

#[test]
fn streams_may_be_cut_at_every_byte() {
    let asked = [message(11, &[], &[]), message(18, &[b"k"], &[]), sign(&key_blob(2), b"data")].concat();
    let list = key_list(&[(&key_blob(1), b"one"), (&key_blob(2), b"two")]);
    let answers = [list, signature()].concat();
    for cut in 0..asked.len() {
        let mut filter = filter();
        let seen = [ask(&mut filter, &asked[..cut]), ask(&mut filter, &asked[cut..])].concat();
        assert_eq!(messages(&seen).len(), 2, "{cut}");
        for cut in 0..answers.len() {
            let mut filter = only(&[&key_blob(2)]);
            ask(&mut filter, &asked);
            answer(&mut filter, &answers[..cut]);
            answer(&mut filter, &answers[cut..]);
            let fewer = key_list(&[(&key_blob(2), b"two")]);
            assert_eq!(guest_gets(&mut filter), [fewer, FAILURE.to_vec(), signature()].concat());
            let last = events(&mut filter).pop();
            assert!(matches!(last, Some(Event::Signed(it)) if it.comment.as_ref().unwrap() == "two"));
        }
    }
}

#[test]
fn what_breaks_the_framing_or_a_passed_request_ends_the_stream() {
    let bind = message(27, &[b"session-bind@openssh.com", b"k", b"id", b"s"], &[]);
    let long_id = message(27, &[b"session-bind@openssh.com", b"k", &[1; 129], b"s"], &[0]);
    let mut key_too_long = message(13, &[b"k", b"d"], &[0; 4]);
    key_too_long[8] = 0xff;
    for (bytes, request) in [
        (message(11, &[], b"x"), "A request for the list of keys"),
        (message(13, &[b"k", b"d"], &[]), "A sign request"),
        (message(13, &[b"k", b"d"], &[0; 5]), "A sign request"),
        (key_too_long, "A sign request"),
        (message(27, &[], &[0, 0, 0, 9, 1]), "An extension request"),
        (bind, "A session bind"),
        (long_id, "A session bind"),
    ] {
        let mut filter = filter();
        assert_eq!(filter.guest_input(&bytes), Err(FilterError::Malformed { request }));
        assert_eq!(filter.to_agent(), b"");
        assert_eq!(filter.guest_input(b"x"), Err(FilterError::Malformed { request }));
        assert_eq!(filter.agent_input(b"x"), Err(FilterError::Malformed { request }));
        assert!(!filter.takes_requests() && !filter.takes_answers());
    }
    assert_eq!(filter().guest_input(&[0; 4]), Err(FilterError::EmptyRequest));
    assert_eq!(filter().guest_input(&[0, 4, 0, 1]), Err(FilterError::RequestTooLong { len: 262_145 }));
    assert_eq!(filter().guest_input(&[0xff; 4]), Err(FilterError::RequestTooLong { len: u32::MAX }));
    assert_eq!(filter().agent_input(&[0]), Err(FilterError::Unsolicited));
    let mut asked = filter();
    ask(&mut asked, &message(11, &[], &[]));
    assert_eq!(asked.agent_input(&[0, 4, 0, 1]), Err(FilterError::AnswerTooLong { len: 262_145 }));
    let mut cut = filter();
    assert_eq!(cut.guest_input(&[0, 0]), Ok(2));
    assert_eq!(cut.guest_closed(), Err(FilterError::CutRequest));
    assert_eq!(filter().guest_closed(), Ok(()));
}

#[test]
fn the_largest_message_passes_in_both_directions() {
    let mut filter = filter();
    let overhead = sign(&key_blob(1), b"").len();
    let request = sign(&key_blob(1), &vec![7; MAX_TO_AGENT - overhead]);
    assert_eq!(request.len(), MAX_TO_AGENT);
    assert_eq!(ask(&mut filter, &request), request);
    let large = message(14, &[&vec![9; MAX_MESSAGE - 5]], &[]);
    answer(&mut filter, &large);
    assert_eq!(guest_gets(&mut filter), large);
    assert_eq!(signed(&mut filter).purpose, Purpose::Opaque { len: MAX_TO_AGENT - overhead });
}

#[test]
fn nothing_is_taken_while_something_piles_up() {
    let list = message(11, &[], &[]);
    let mut filter = filter();
    // The agent does not read: one message is held.
    assert_eq!(filter.guest_input(&list.repeat(3)), Ok(list.len()));
    assert!(!filter.takes_requests());
    // The agent reads and does not answer.
    filter.consume_to_agent(usize::MAX);
    for _ in 1..MAX_OUTSTANDING {
        ask(&mut filter, &list);
    }
    assert_eq!((filter.guest_input(&list), filter.to_agent()), (Ok(0), &b""[..]));
    // The guest does not read its answers.
    let large = key_list(&[(&key_blob(1), &[b'c'; 2000])]);
    assert_eq!(filter.agent_input(&large.repeat(2)), Ok(large.len()));
    assert!(!filter.takes_requests() && !filter.takes_answers());
    filter.consume_to_guest(usize::MAX);
    assert!(filter.takes_requests() && filter.takes_answers());
    // Nobody takes the events.
    let mut filter = self::filter();
    let lock = message(22, &[], &[]).repeat(1000);
    let taken = filter.guest_input(&lock).unwrap();
    assert_eq!(taken, lock.len() / 1000 * EVENTS_WAITING);
    filter.consume_to_guest(usize::MAX);
    assert!(!filter.takes_requests());
    events(&mut filter);
    assert!(filter.takes_requests());
}

#[test]
fn a_guest_sees_and_uses_the_allowed_keys_alone() {
    let mut filter = only(&[&key_blob(1), &key_blob(3)]);
    ask(&mut filter, &message(11, &[], &[]));
    let certificate = certificate(&key_blob(3));
    let (one, two, three) = (key_blob(1), key_blob(2), key_blob(3));
    answer(&mut filter, &key_list(&[(&one, b"1"), (&two, b"2"), (&three, b"3"), (&certificate, b"c")]));
    assert_eq!(guest_gets(&mut filter), key_list(&[(&one, b"1"), (&three, b"3"), (&certificate, b"c")]));
    assert_eq!(ask(&mut filter, &sign(&two, b"data")), b"");
    assert_eq!(guest_gets(&mut filter), FAILURE);
    let refused = signed(&mut filter);
    assert_eq!((refused.outcome, refused.key.fingerprint), (Outcome::NotAllowed, fingerprint(&two)));
    // A certificate goes by its key, and has its own comment.
    let request = sign(&certificate, b"data");
    assert_eq!(ask(&mut filter, &request), request);
    answer(&mut filter, &signature());
    let by_certificate = signed(&mut filter);
    assert_eq!(by_certificate.key.fingerprint, fingerprint(&three));
    assert_eq!(
        by_certificate.to_string(),
        format!(
            "signed: {} type \"ssh-ed25519-cert-v01@openssh.com\" comment \"c\": opaque, 4 bytes",
            fingerprint(&three)
        )
    );
    // Neither does what only begins like an allowed key.
    let longer = [one.clone(), vec![0]].concat();
    assert_eq!(ask(&mut filter, &sign(&longer, b"data")), b"");
    // Nothing allowed is nothing, not everything.
    assert_eq!(ask(&mut only(&[]), &sign(&one, b"data")), b"");
}

/// The beginning of a certificate; a filter reads no further.
fn certificate(key: &[u8]) -> Vec<u8> {
    let mut blob = Vec::new();
    put(&mut blob, b"ssh-ed25519-cert-v01@openssh.com");
    put(&mut blob, b"nonce");
    blob.extend_from_slice(&key[15..]);
    blob.extend_from_slice(b"serial and the rest");
    blob
}

#[test]
fn answers_of_the_wrong_kind_become_failures() {
    let bind = || message(27, &[b"session-bind@openssh.com", b"k", b"id", b"s"], &[0]);
    let list = || message(11, &[], &[]);
    let sign = || sign(&key_blob(1), b"d");
    for (request, wrong) in [
        (list(), signature()),
        (list(), message(6, &[], &[])),
        (list(), message(12, &[], &[0, 0, 0, 1])),
        (list(), message(12, &[], &[0xff; 4])),
        (list(), message(12, &[], &[0, 0, 0, 0, 0])),
        (list(), message(12, &[], &[[0, 0, 8, 1].as_slice(), &[0; 2049 * 8]].concat())),
        (sign(), key_list(&[])),
        (sign(), message(14, &[], &[])),
        (sign(), message(14, &[b"s"], &[0])),
        (sign(), message(28, &[], &[])),
        (sign(), message(5, &[], &[0])),
        (bind(), key_list(&[])),
        (bind(), signature()),
        (bind(), message(29, &[b"query"], &[])),
        (list(), message(255, &[], &[])),
    ] {
        let mut filter = filter();
        ask(&mut filter, &request);
        answer(&mut filter, &wrong);
        assert_eq!(guest_gets(&mut filter), FAILURE, "{wrong:?}");
        let events = events(&mut filter);
        assert!(matches!(events[0], Event::Warning(_)), "{events:?}");
        match (request[4], &events[1..]) {
            (11, []) => {}
            (13, [Event::Signed(signed)]) => assert_eq!(signed.outcome, Outcome::BadAnswer),
            (27, [Event::Bound(bound)]) => assert!(!bound.binding.accepted),
            other => panic!("{other:?}"),
        }
        // The stream goes on.
        ask(&mut filter, &list());
        answer(&mut filter, &key_list(&[]));
        assert_eq!(guest_gets(&mut filter), key_list(&[]));
    }
    for good in
        [message(5, &[], &[]), message(28, &[], &[]), message(29, &[b"session-bind@openssh.com"], b"x")]
    {
        let mut filter = filter();
        ask(&mut filter, &bind());
        answer(&mut filter, &good);
        assert_eq!(guest_gets(&mut filter), good);
        assert!(matches!(&events(&mut filter)[..], [Event::Bound(bound)] if !bound.binding.accepted));
    }
}

#[test]
fn a_login_is_told_with_user_and_session() {
    let key = key_blob(1);
    let found = login(&[], &login_data(&[7; 32], b"git", &key, None));
    assert!(found.user == *"git" && found.service == *"ssh-connection");
    assert_eq!(found.session_id.as_bytes(), [7; 32]);
    assert_eq!((found.host_key, found.other_key, &found.binding), (None, None, &None));
    assert_eq!(
        Purpose::Login(Box::new(found)).to_string(),
        format!("login as \"git\" service \"ssh-connection\" session {} not bound", "07".repeat(32))
    );
    let bound = login(&[], &login_data(&[7; 32], b"git", &key, Some(&key_blob(9))));
    assert_eq!(bound.host_key, Some(fingerprint(&key_blob(9))));
    // A client may have the certificate in a file and only the key in the agent.
    let certified = login(&[], &login_data(&[7; 32], b"git", &certificate(&key), None));
    assert_eq!(certified.other_key, None);
    // Somebody who wants a login to look like none gets no further than this.
    let odd = login(&[], &login_data(&[7; 32], b"git", &key_blob(2), None));
    assert_eq!(odd.other_key, Some(fingerprint(&key_blob(2))));
}

#[test]
fn what_is_not_quite_a_login_or_an_sshsig_is_opaque() {
    let good = login_data(&[7; 32], b"git", &key_blob(1), None);
    let mut sshsig = b"SSHSIG".to_vec();
    for field in [b"git".as_slice(), b"", b"sha512", &[1; 64]] {
        put(&mut sshsig, field);
    }
    assert_eq!(
        purpose(&[], &sshsig),
        Purpose::SshSig { namespace: Text::new(b"git"), hash: Text::new(b"sha512") }
    );
    assert_eq!(purpose(&[], &sshsig).to_string(), "SSHSIG namespace \"git\" hash \"sha512\"");
    let mut other_type = good.clone();
    other_type[36] = 51;
    let empty_id = login_data(&[], b"git", &key_blob(1), None);
    let long_id = login_data(&[1; 129], b"git", &key_blob(1), None);
    let opaque = |data: &[u8]| assert_eq!(purpose(&[], data), Purpose::Opaque { len: data.len() });
    [&b""[..], b"SSHSIG", &other_type, &empty_id, &long_id].into_iter().for_each(opaque);
    for whole in [good, sshsig] {
        (0..whole.len()).for_each(|len| opaque(&whole[..len]));
        opaque(&[whole, vec![0]].concat());
    }
}

/// A bind with a good signature.
fn bind(key: &Ed25519KeyPair, session_id: &[u8], forwarding: u8) -> Vec<u8> {
    let mut signature = Vec::new();
    put(&mut signature, b"ssh-ed25519");
    put(&mut signature, key.sign(session_id).as_ref());
    message(27, &[b"session-bind@openssh.com", &host_key(key), session_id, &signature], &[forwarding])
}

fn host_key(key: &Ed25519KeyPair) -> Vec<u8> {
    let mut blob = Vec::new();
    put(&mut blob, b"ssh-ed25519");
    put(&mut blob, key.public_key().as_ref());
    blob
}

#[test]
fn a_login_to_a_bound_session_names_the_bound_host() {
    let key = Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap();
    let data = login_data(&[7; 32], b"git", &key_blob(1), Some(&host_key(&key)));
    let before = [bind(&key, &[6; 32], 1), bind(&key, &[7; 32], 0)];
    let found = login(&before, &data);
    let host_key = fingerprint(&host_key(&key));
    assert_eq!(found.host_key, Some(host_key));
    let binding = Binding { host_key, forwarding: false, verified: true, accepted: true };
    assert_eq!(found.binding, Some(binding));
    let line = Purpose::Login(Box::new(found)).to_string();
    let end = format!(
        "host key {host_key} bound for login to host key {host_key} (verified, accepted by the agent)"
    );
    assert!(line.ends_with(&end), "{line}");
    // The bind of another session is none of this one.
    assert_eq!(login(&before[..1], &data).binding, None);
    assert!(login(&[bind(&key, &[7; 32], 1)], &data).binding.unwrap().forwarding);
}

#[test]
fn a_bind_without_a_good_signature_is_passed_on_and_reported_as_such() {
    let key = Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap();
    let mut forged = bind(&key, &[7; 32], 0);
    let last = forged.len() - 2;
    forged[last] ^= 1;
    let mut filter = filter();
    assert_eq!(ask(&mut filter, &forged), forged);
    answer(&mut filter, &message(28, &[], &[]));
    assert_eq!(guest_gets(&mut filter), message(28, &[], &[]));
    let [Event::Bound(bound)] = &events(&mut filter)[..] else { panic!() };
    assert!(!bound.binding.verified && !bound.binding.accepted);
    let data = login_data(&[7; 32], b"git", &key_blob(1), None);
    let found = login(&[forged.clone()], &data).binding.unwrap();
    assert!(!found.verified && found.to_string().contains("NOT verified"));
    // A good one takes its place.
    assert!(login(&[forged, bind(&key, &[7; 32], 0)], &data).binding.unwrap().verified);
}

#[test]
fn a_bind_to_an_ecdsa_host_is_verified_through_its_certificate_too() {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    for _ in 0..20 {
        let fixed = key.sign(&random, &[7; 32]).unwrap();
        let (mut numbers, mut signature) = (Vec::new(), Vec::new());
        for half in fixed.as_ref().chunks(48) {
            let trimmed: Vec<u8> = half.iter().skip_while(|byte| **byte == 0).copied().collect();
            let sign_byte = if trimmed[0] & 0x80 == 0 { vec![] } else { vec![0] };
            put(&mut numbers, &[sign_byte, trimmed].concat());
        }
        put(&mut signature, b"ecdsa-sha2-nistp384");
        put(&mut signature, &numbers);
        let (mut plain, mut certificate) = (Vec::new(), Vec::new());
        put(&mut plain, b"ecdsa-sha2-nistp384");
        put(&mut certificate, b"ecdsa-sha2-nistp384-cert-v01@openssh.com");
        put(&mut certificate, b"nonce");
        for blob in [&mut plain, &mut certificate] {
            put(blob, b"nistp384");
            put(blob, key.public_key().as_ref());
        }
        certificate.extend_from_slice(b"serial and the rest");
        assert!(verifies(&plain, &signature, &[7; 32]) && verifies(&certificate, &signature, &[7; 32]));
        assert!(!verifies(&plain, &signature, &[8; 32]));
        assert_eq!(fingerprint(&plain), fingerprint(&certificate));
    }
}

#[test]
fn an_agent_that_is_gone_fails_at_once_what_waits_and_what_comes() {
    let mut filter = filter();
    let first = [sign(&key_blob(1), b"d"), message(22, &[], &[]), message(11, &[], &[])].concat();
    ask(&mut filter, &first);
    assert_eq!(filter.agent_input(&[0, 0]), Ok(2));
    events(&mut filter);
    filter.agent_closed();
    assert_eq!(guest_gets(&mut filter), FAILURE.repeat(3));
    assert_eq!(filter.outstanding(), 0);
    let told = events(&mut filter);
    assert_eq!(told[0], Event::Warning(Warning::CutAnswer));
    assert!(matches!(&told[1..], [Event::Signed(it)] if it.outcome == Outcome::Unanswered));
    assert_eq!(ask(&mut filter, &first), b"");
    assert_eq!(guest_gets(&mut filter), FAILURE.repeat(3));
    assert_eq!(events(&mut filter).len(), 2);
}

#[test]
fn a_sign_request_without_an_answer_is_told_when_the_connection_ends() {
    for end in [Filter::close, |it: &mut Filter| assert!(it.guest_input(&[0; 4]).is_err())] {
        let mut filter = filter();
        ask(&mut filter, &sign(&key_blob(1), b"d"));
        end(&mut filter);
        assert_eq!(signed(&mut filter).outcome, Outcome::Unanswered);
        filter.close();
        assert!(filter.poll_event().is_none());
    }
}

#[test]
fn refusals_by_the_agent_are_told_as_such() {
    let mut filter = filter();
    ask(&mut filter, &sign(&key_blob(1), b"d"));
    answer(&mut filter, &FAILURE);
    assert_eq!(guest_gets(&mut filter), FAILURE);
    assert_eq!(signed(&mut filter).outcome, Outcome::Failed);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn honest_peers_get_everything_in_order(operations in proptest::collection::vec(any::<u8>(), 0..600)) {
        testing::honest(&operations);
    }

    #[test]
    fn hostile_peers_get_nothing_through(operations in proptest::collection::vec(any::<u8>(), 0..600)) {
        testing::hostile(&operations);
    }
}
