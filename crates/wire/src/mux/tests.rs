//! Two ends joined by hand, and hostile input.

use super::*;
use crate::frame::{HEADER_LEN, Header};
use crate::message::{Exec, Program};
use proptest::prelude::*;

fn pair() -> (Mux, Mux) {
    (Mux::new(Role::Host, Hello::new("host", 0)), Mux::new(Role::Agent, Hello::new("agent", 0)))
}

fn exec() -> Open {
    Open::Exec(Box::new(Exec {
        passed_stdio: false,
        user: None,
        program: Program::Shell,
        pty: None,
        env: Vec::new(),
        cwd: None,
        ssh_connection: None,
        ssh_client: None,
    }))
}

/// Moves at most `n` bytes of output from one end to the other.
fn carry(from: &mut Mux, to: &mut Mux, n: usize) -> Result<usize, MuxError> {
    let bytes = from.output();
    let n = n.min(bytes.len());
    let taken = to.input(&bytes[..n])?;
    from.consume_output(taken);
    Ok(taken)
}

fn settle(a: &mut Mux, b: &mut Mux) {
    while carry(a, b, usize::MAX).unwrap() + carry(b, a, usize::MAX).unwrap() > 0 {}
}

fn events(m: &mut Mux) -> Vec<Event> {
    std::iter::from_fn(|| m.poll_event()).collect()
}

fn running() -> (Mux, Mux, u32) {
    let (mut h, mut a) = pair();
    let id = h.open(&exec()).unwrap();
    settle(&mut h, &mut a);
    assert_eq!(events(&mut a), vec![Event::Hello, Event::Open(id, exec())]);
    a.opened(id, &Opened::Exec { passed_stdio: false, own: false });
    settle(&mut h, &mut a);
    assert_eq!(
        events(&mut h),
        vec![Event::Hello, Event::Opened(id, Opened::Exec { passed_stdio: false, own: false })]
    );
    (h, a, id)
}

#[test]
fn hello_and_open_leave_in_one_piece() {
    let (mut h, mut a) = pair();
    h.open(&Open::Info).unwrap();
    let first = h.output().to_vec();
    assert_eq!(a.input(&first), Ok(first.len()));
    assert_eq!(events(&mut a), vec![Event::Hello, Event::Open(1, Open::Info)]);
}

#[test]
fn stdin_stops_at_the_window_and_goes_on_when_taken() {
    let (mut h, mut a, id) = running();
    let data = vec![7u8; 100_000];
    let mut sent = 0;
    for _ in 0..100 {
        sent += h.send_data(id, Kind::Stdin, &data);
        settle(&mut h, &mut a);
    }
    assert_eq!(sent, STREAM_WINDOW as usize);
    assert_eq!(events(&mut a), vec![Event::Readable(id)], "told once");
    // A signal is not behind the data.
    assert!(h.send_signal(id, "INT"));
    settle(&mut h, &mut a);
    assert_eq!(events(&mut a), vec![Event::Signal(id, "INT".into())]);
    assert_eq!(a.readable(id).0, STREAM_WINDOW as usize);
    a.take(id, Kind::Stdin, STREAM_WINDOW as usize / 4);
    settle(&mut h, &mut a);
    assert_eq!(events(&mut h), vec![Event::Writable(id)]);
    assert_eq!(h.send_capacity(id), MAX_CHUNK);
}

#[test]
fn overrunning_the_window_is_an_error() {
    let (mut h, mut a, id) = running();
    let frame =
        |n: usize| [&Header { stream: id, kind: Kind::Stdout, len: n }.encode()[..], &vec![0; n]].concat();
    assert!(h.input(&frame(STREAM_WINDOW as usize)).is_ok());
    assert_eq!(h.input(&frame(1)), Err(MuxError::Credit));
    let stdin =
        [&Header { stream: id, kind: Kind::Stdin, len: 200_000 }.encode()[..], &[0; 200_000]].concat();
    assert!(a.input(&stdin).is_ok());
    assert_eq!(a.input(&stdin), Err(MuxError::Credit));
}

#[test]
fn a_gone_reader_discards_but_credit_still_counts() {
    let (mut h, mut a, id) = running();
    h.send_data(id, Kind::Stdin, &[1; 30_000]);
    settle(&mut h, &mut a);
    a.reader_gone(id);
    settle(&mut h, &mut a);
    assert_eq!(events(&mut h), vec![Event::ReaderGone(id)]);
    let mut sent = 30_000;
    for _ in 0..100 {
        sent += h.send_data(id, Kind::Stdin, &[1; 30_000]);
        settle(&mut h, &mut a);
    }
    assert!(sent > 4 * STREAM_WINDOW as usize, "a host that goes on sending is not stuck");
    assert_eq!(a.readable(id).0, 0);
}

#[test]
fn a_host_may_want_no_more_output_but_errors() {
    let (mut h, mut a, id) = running();
    a.send_data(id, Kind::Stdout, &[1; 30_000]);
    settle(&mut h, &mut a);
    h.reader_gone(id);
    settle(&mut h, &mut a);
    assert!(events(&mut a).contains(&Event::ReaderGone(id)));
    assert_eq!(h.readable(id), (0, 0), "what was there is thrown away");
    let mut sent = 0;
    for _ in 0..100 {
        sent += a.send_data(id, Kind::Stdout, &[1; 30_000]);
        settle(&mut h, &mut a);
    }
    assert!(sent > 4 * STREAM_WINDOW as usize, "what crosses the notice is given back as credit");
    a.send_data(id, Kind::Stderr, b"why");
    a.send_exit(id, &Exit::Code(1));
    settle(&mut h, &mut a);
    let mut buf = [0; 8];
    assert_eq!(h.read(id, Kind::Stderr, &mut buf), 3);
    assert_eq!(events(&mut h).last(), Some(&Event::Exit(id, Exit::Code(1))));
}

#[test]
fn exit_comes_after_data_and_close_is_final() {
    let (mut h, mut a, id) = running();
    a.send_data(id, Kind::Stdout, b"out");
    a.send_data(id, Kind::Stderr, b"err");
    a.send_exit(id, &Exit::Code(7));
    settle(&mut h, &mut a);
    assert_eq!(events(&mut h), vec![Event::Readable(id), Event::Exit(id, Exit::Code(7))]);
    let mut buf = [0; 8];
    assert_eq!(h.read(id, Kind::Stderr, &mut buf), 3);
    assert_eq!(h.read(id, Kind::Stdout, &mut buf), 3);
    h.close(id, CloseReason::Done);
    settle(&mut h, &mut a);
    assert_eq!(events(&mut a).last(), Some(&Event::Closed(id, CloseReason::Done)));
    assert_eq!((h.stream_count(), a.stream_count()), (0, 0));
}

#[test]
fn frames_that_cross_a_close_are_ignored() {
    let (mut h, mut a, id) = running();
    a.send_data(id, Kind::Stdout, b"late");
    a.send_exit(id, &Exit::Code(0));
    h.close(id, CloseReason::Gone);
    settle(&mut h, &mut a);
    assert_eq!(events(&mut h), vec![]);
}

#[test]
fn a_version_mismatch_is_told_clearly() {
    let old = Hello { version_min: 7, version_max: 9, ..Hello::new("old-host 7", 0) };
    let mut h = Mux::new(Role::Host, old);
    let mut a = Mux::new(Role::Agent, Hello::new("agent", 0));
    let error = carry(&mut h, &mut a, usize::MAX).unwrap_err();
    assert!(error.to_string().contains("old-host 7) speaks 7 to 9"), "{error}");
    let error = carry(&mut a, &mut h, usize::MAX).unwrap_err();
    assert!(matches!(error, MuxError::Version { min: 1, max: 1, .. }), "{error}");
}

#[test]
fn unknown_and_bad_requests_are_refused_and_the_link_lives() {
    let (mut h, mut a) = pair();
    let one = h.open(&Open::Unsupported(50)).unwrap();
    settle(&mut h, &mut a);
    assert!(events(&mut a).contains(&Event::Open(one, Open::Unsupported(50))));
    let bad = [&Header { stream: 2, kind: Kind::Open, len: 1 }.encode()[..], &[1]].concat();
    assert!(a.input(&bad).is_ok());
    a.refuse(one, Reason::Unsupported, "no");
    assert!(a.output().len() > 2 * HEADER_LEN);
    assert_eq!(a.stream_count(), 0);
}

#[test]
fn small_input_portions_bound_the_events() {
    let (mut h, _, id) = running();
    let one = [&Header { stream: id, kind: Kind::ReaderGone, len: 0 }.encode()[..]].concat();
    let flood = one.repeat(5 * MAX_EVENTS);
    let taken = h.input(&flood).unwrap();
    assert_eq!(taken, MAX_EVENTS * HEADER_LEN);
    assert!(!h.wants_input());
    assert_eq!(events(&mut h).len(), MAX_EVENTS);
}

#[derive(Debug, Clone)]
enum Op {
    Open,
    HostSend(u32, usize),
    AgentSend(u32, usize, bool),
    HostRead(u32, usize),
    AgentRead(u32, usize),
    CarryDown(usize),
    CarryUp(usize),
    HostEof(u32),
    HostClose(u32),
    Gone(u32),
    Exit(u32),
}

fn arb_op() -> impl Strategy<Value = Op> {
    let id = 1..4u32;
    prop_oneof![
        1 => Just(Op::Open),
        6 => (id.clone(), 0..70_000usize).prop_map(|(i, n)| Op::HostSend(i, n)),
        6 => (id.clone(), 0..70_000usize, any::<bool>()).prop_map(|(i, n, e)| Op::AgentSend(i, n, e)),
        4 => (id.clone(), 0..90_000usize).prop_map(|(i, n)| Op::HostRead(i, n)),
        4 => (id.clone(), 0..90_000usize).prop_map(|(i, n)| Op::AgentRead(i, n)),
        6 => (0..200_000usize).prop_map(Op::CarryDown),
        6 => (0..200_000usize).prop_map(Op::CarryUp),
        1 => id.clone().prop_map(Op::HostEof),
        1 => id.clone().prop_map(Op::HostClose),
        1 => id.clone().prop_map(Op::Gone),
        1 => id.prop_map(Op::Exit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Two honest ends never see an error, never lose or reorder a byte, and never hold more than their bounds.
    #[test]
    fn honest_ends_agree(ops in proptest::collection::vec(arb_op(), 1..200)) {
        let (mut h, mut a) = pair();
        let mut sent: HashMap<(u32, Kind), u8> = HashMap::new();
        let mut read: HashMap<(u32, Kind), u8> = HashMap::new();
        let bytes = |next: &mut u8, n: usize| -> Vec<u8> {
            (0..n).map(|_| { *next = next.wrapping_mul(5).wrapping_add(3); *next }).collect()
        };
        for op in ops {
            match op {
                Op::Open => { if h.stream_count() < 3 { h.open(&exec()).unwrap(); } }
                Op::HostSend(id, n) => {
                    let n = n.min(h.send_capacity(id));
                    let data = bytes(sent.entry((id, Kind::Stdin)).or_default(), n);
                    prop_assert_eq!(h.send_data(id, Kind::Stdin, &data), n);
                }
                Op::AgentSend(id, n, err) => {
                    let kind = if err { Kind::Stderr } else { Kind::Stdout };
                    let n = n.min(a.send_capacity(id));
                    let data = bytes(sent.entry((id, kind)).or_default(), n);
                    prop_assert_eq!(a.send_data(id, kind, &data), n);
                }
                Op::HostRead(id, n) => for kind in [Kind::Stdout, Kind::Stderr] {
                    let mut buf = vec![0; n];
                    let n = h.read(id, kind, &mut buf);
                    prop_assert_eq!(&buf[..n], &bytes(read.entry((id, kind)).or_default(), n)[..]);
                },
                Op::AgentRead(id, n) => {
                    let mut buf = vec![0; n];
                    let n = a.read(id, Kind::Stdin, &mut buf);
                    prop_assert_eq!(&buf[..n], &bytes(read.entry((id, Kind::Stdin)).or_default(), n)[..]);
                }
                Op::CarryDown(n) => { prop_assert!(carry(&mut h, &mut a, n).is_ok()); }
                Op::CarryUp(n) => { prop_assert!(carry(&mut a, &mut h, n).is_ok()); }
                Op::HostEof(id) => h.send_eof(id),
                Op::HostClose(id) => h.close(id, CloseReason::Gone),
                Op::Gone(id) => a.reader_gone(id),
                Op::Exit(id) => a.send_exit(id, &Exit::Code(id)),
            }
            while let Some(event) = a.poll_event() {
                if let Event::Open(id, _) = event { a.opened(id, &Opened::Exec { passed_stdio: false, own: false }); }
            }
            while h.poll_event().is_some() {}
            prop_assert!(h.output().len() <= OUTPUT_HIGH_WATER + 2 * MAX_CHUNK);
            prop_assert!(a.output().len() <= OUTPUT_HIGH_WATER + 2 * MAX_CHUNK);
        }
    }

    /// A hostile peer cannot make either end panic or hold more than one window per stream.
    #[test]
    fn hostile_frames(frames in proptest::collection::vec((0..4u32, 0..20u8, proptest::collection::vec(any::<u8>(), 0..40)), 0..60),
                      host in any::<bool>()) {
        let (mut h, mut a, _) = running();
        let victim = if host { &mut h } else { &mut a };
        for (stream, kind, payload) in frames {
            let mut bytes = stream.to_be_bytes().to_vec();
            bytes.push(kind);
            bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
            bytes.extend_from_slice(&payload);
            if victim.input(&bytes).is_err() { break; }
            while victim.poll_event().is_some() {}
        }
        prop_assert!(victim.readable(1).0 + victim.readable(1).1 <= STREAM_WINDOW as usize);
    }
}

#[test]
fn a_ping_is_answered_by_itself_and_counts_as_being_heard() {
    let mut host = Mux::new(Role::Host, Hello::new("host", CAP_PING));
    let mut agent = Mux::new(Role::Agent, Hello::new("agent", CAP_PING));
    assert!(!host.ping(1), "nobody is known yet");
    settle(&mut host, &mut agent);
    events(&mut host);
    events(&mut agent);
    let heard = host.heard();
    assert!(host.ping(90_000));
    settle(&mut host, &mut agent);
    assert!(host.heard() > heard);
    assert_eq!(events(&mut agent), [Event::Pinged(90_000)]);
    assert_eq!(events(&mut host), []);
    assert!(agent.ping(0), "either side may ask");
    settle(&mut host, &mut agent);
    assert_eq!(events(&mut host), [Event::Pinged(0)]);
}

#[test]
fn who_does_not_know_pings_is_never_sent_one() {
    let (mut host, mut agent) = pair();
    settle(&mut host, &mut agent);
    assert!(!host.answers_pings() && !host.ping(1));
    assert!(host.output().is_empty());
}

#[test]
fn a_flood_of_pings_fills_nothing() {
    let mut agent = Mux::new(Role::Agent, Hello::new("agent", CAP_PING));
    let mut host = Mux::new(Role::Host, Hello::new("host", CAP_PING));
    settle(&mut host, &mut agent);
    events(&mut agent);
    let mut ping = Header { stream: 0, kind: Kind::Ping, len: 4 }.encode().to_vec();
    ping.extend_from_slice(&7u32.to_be_bytes());
    let flood = ping.repeat(100_000);
    let mut rest = &flood[..];
    while !rest.is_empty() && agent.wants_input() {
        let taken = agent.input(rest).unwrap();
        rest = &rest[taken..];
    }
    assert!(agent.output().len() <= OUTPUT_HARD_LIMIT + HEADER_LEN, "{}", agent.output().len());
    assert_eq!(events(&mut agent), [Event::Pinged(7)], "the newest promise only");
    // On a stream it makes no sense.
    let mut odd = Header { stream: 1, kind: Kind::Ping, len: 4 }.encode().to_vec();
    odd.extend_from_slice(&[0; 4]);
    let mut agent = Mux::new(Role::Agent, Hello::new("agent", CAP_PING));
    agent.input(Mux::new(Role::Host, Hello::new("host", 0)).output()).unwrap();
    assert_eq!(agent.input(&odd), Err(MuxError::Unexpected(Kind::Ping)));
}
