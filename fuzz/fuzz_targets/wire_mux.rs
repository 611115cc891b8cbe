//! Sequences of operations on both ends of a link, on a relay between them, and hostile bytes thrown in: no panic, honest ends
//! never see an error, nothing grows beyond its bound.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandgate_wire::{CAP_PING, STREAM_WINDOW};
use sandgate_wire::frame::Kind;
use sandgate_wire::message::{CloseReason, Exit, Hello, Open, Opened, Reason, Size};
use sandgate_wire::mux::{Event, Mux, Role};
use sandgate_wire::relay::Relay;

/// Most bytes that may wait in any output: the high-water mark, one chunk, and control frames of one input.
const MAX_OUTPUT: usize = 3 * 1024 * 1024;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, ops)) = data.split_first() else { return };
    match mode % 3 {
        0 => honest(ops),
        1 => hostile(ops),
        _ => hostile_relay(ops),
    }
});

fn pair() -> (Mux, Mux) {
    (Mux::new(Role::Host, Hello::new("h", CAP_PING)), Mux::new(Role::Agent, Hello::new("a", 1 | CAP_PING)))
}

fn carry(from: &mut Mux, to: &mut Mux, n: usize) {
    let n = n.min(from.output().len());
    let taken = to.input(&from.output()[..n]).expect("honest ends agree");
    from.consume_output(taken);
}

fn honest(ops: &[u8]) {
    let (mut h, mut a) = pair();
    let chunk = vec![0u8; 40_000];
    for op in ops.chunks_exact(3) {
        let id = u32::from(op[1] % 5);
        let n = usize::from(op[2]) * 300;
        match op[0] % 16 {
            0 if h.stream_count() < 8 => drop(h.open(&Open::Info)),
            1 => drop(h.send_data(id, Kind::Stdin, &chunk[..n.min(40_000)])),
            2 => drop(a.send_data(id, Kind::Stdout, &chunk[..n.min(40_000)])),
            3 => drop(a.send_with(id, Kind::Stderr, |room| Ok::<_, ()>(n.min(room.len())))),
            4 => h.take(id, Kind::Stdout, n),
            5 => h.take(id, Kind::Stderr, n),
            6 => a.take(id, Kind::Stdin, n),
            7 => h.close(id, CloseReason::Gone),
            8 => a.send_exit(id, &Exit::Code(1)),
            9 => a.reader_gone(id),
            10 => h.send_eof(id),
            11 => h.send_resize(id, Size::default()),
            12 => carry(&mut h, &mut a, n * 8),
            13 if h.output().len() < MAX_OUTPUT / 2 => drop(h.ping(u32::from(op[2]))),
            14 if a.output().len() < MAX_OUTPUT / 2 => drop(a.ping(0)),
            _ => carry(&mut a, &mut h, n * 8),
        }
        while let Some(event) = a.poll_event() {
            if let Event::Open(id, _) = event {
                if id % 4 == 0 {
                    a.refuse(id, Reason::TooMany, "no");
                } else {
                    a.opened(id, &Opened::Exec { passed_stdio: false, own: false });
                }
            }
        }
        while h.poll_event().is_some() {}
        assert!(h.output().len() < MAX_OUTPUT && a.output().len() < MAX_OUTPUT);
        for id in 0..5 {
            let (out, err) = h.readable(id);
            assert!(out + err <= STREAM_WINDOW as usize && a.readable(id).0 <= STREAM_WINDOW as usize);
        }
    }
}

/// A valid beginning, then frames made from the input with plausible headers.
fn frames(ops: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    ops.chunks(12).map(|op| {
        let kind = Kind::from_u8(op[0] % 20).unwrap_or(Kind::Eof);
        let payload = op.get(2..).unwrap_or_default();
        let len = payload.len().min(kind.max_payload());
        let mut out = u32::from(op.get(1).copied().unwrap_or(1) % 4).to_be_bytes().to_vec();
        out.push(op[0] % 20);
        out.extend_from_slice(&u32::try_from(len).unwrap().to_be_bytes()[1..]);
        out.extend_from_slice(&payload[..len]);
        out
    })
}

fn hostile(ops: &[u8]) {
    let (mut h, mut a) = pair();
    for _ in 0..2 {
        h.open(&Open::Info).unwrap();
    }
    carry(&mut h, &mut a, usize::MAX);
    a.opened(1, &Opened::Exec { passed_stdio: false, own: false });
    carry(&mut a, &mut h, usize::MAX);
    let (mut h_ok, mut a_ok) = (true, true);
    for frame in frames(ops) {
        h_ok = h_ok && h.input(&frame).is_ok();
        a_ok = a_ok && a.input(&frame).is_ok();
        while h.poll_event().is_some() {}
        while a.poll_event().is_some() {}
        assert!(h.output().len() < MAX_OUTPUT && a.output().len() < MAX_OUTPUT);
    }
}

fn hostile_relay(ops: &[u8]) {
    let mut relay = Relay::new("r");
    let agent = Mux::new(Role::Agent, Hello::new("a", 1 | CAP_PING));
    relay.trunk_input(agent.output()).unwrap();
    let conns = [relay.accept().unwrap(), relay.accept().unwrap()];
    for id in conns {
        let mut h = Mux::new(Role::Host, Hello::new("h", 0));
        h.open(&Open::Info).unwrap();
        relay.conn_input(id, h.output()).unwrap();
    }
    for (i, frame) in frames(ops).enumerate() {
        match i % 3 {
            0 => {
                if relay.trunk_input(&frame).is_err() {
                    relay.trunk_closed();
                    return;
                }
            }
            n => {
                if relay.conn_input(conns[n - 1], &frame).is_err() {
                    relay.conn_closed(conns[n - 1]);
                }
            }
        }
        if i % 64 == 63 {
            relay.ping(0);
        }
        if i % 512 == 511 {
            relay.agent_is_silent("silent");
        }
        while relay.poll_ready().is_some() {}
        relay.consume_trunk_output(usize::MAX);
        for id in conns {
            assert!(relay.conn_output(id).len() < MAX_OUTPUT);
        }
    }
}
