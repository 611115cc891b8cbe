//! Operation sequences on channels, from both sides and in any order. Nothing may panic, bounds hold, each CLOSE is sent
//! once, and data never exceeds the window that was granted.
#![no_main]

use std::collections::HashMap;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sandgate_ssh::codec::{Reader, Writer};
use sandgate_ssh::connection::pair::Pair;
use sandgate_ssh::connection::{ChannelId, Event, ForwardAnswer, Half, NextRequest, Opened, RequestAnswer, Taken};
use sandgate_ssh::event::{OpenFailure, ServerOpen, StreamKind};

const CHANNELS: usize = 6;
const REQUESTS: [&str; 9] =
    ["pty-req", "env", "shell", "exec", "window-change", "signal", "eow@openssh.com", "x11-req", "nonsense"];
const GLOBALS: [&str; 5] =
    ["tcpip-forward", "keepalive@openssh.com", "no-more-sessions@openssh.com", "cancel-tcpip-forward", "nonsense"];

/// What the client knows of the server's sending.
#[derive(Default)]
struct Seen {
    windows: HashMap<u32, u64>,
    closed: HashMap<u32, u32>,
}

impl Seen {
    fn look(&mut self, payload: &[u8]) {
        let mut reader = Reader::new(&payload[1..]);
        match payload[0] {
            94 | 95 => {
                let number = reader.u32().unwrap();
                if payload[0] == 95 {
                    reader.u32().unwrap();
                }
                let len = reader.string().unwrap().len() as u64;
                let window = self.windows.entry(number).or_default();
                assert!(len > 0 && len <= *window, "the server keeps to the window");
                *window -= len;
                assert!(!self.closed.contains_key(&number), "no data after CLOSE");
            }
            97 => {
                let times = self.closed.entry(reader.u32().unwrap()).or_default();
                *times += 1;
                assert_eq!(*times, 1, "CLOSE is sent once");
            }
            _ => {}
        }
    }
}

static EMPTY: LazyLock<OpenFailure> = LazyLock::new(|| OpenFailure::prohibited("no"));

fuzz_target!(|data: &[u8]| {
    let mut pair = Pair::logged_in(|config| {
        config.max_channels = CHANNELS;
        config.window = 5000;
        config.output_stop_input = 4096;
    });
    let mut seen = Seen::default();
    let mut next_number = 0u32;
    let mut channels: Vec<ChannelId> = Vec::new();
    let mut answers: Vec<RequestAnswer> = Vec::new();
    let mut rest = data;
    while let [operation, choice, value, tail @ ..] = rest {
        rest = tail;
        let small = u32::from(*choice % 8);
        let number = u32::from(*value);
        let wants_reply = choice & 0x80 != 0;
        let pick = |list: &[&'static str]| list[usize::from(*value) % list.len()];
        let id = (!channels.is_empty()).then(|| channels[usize::from(*choice) % channels.len()]);
        let mut message = Writer::new();
        match operation % 24 {
            0 | 1 => {
                message.byte(90).string(if number < 240 { "session" } else { "x" });
                message.u32(next_number).u32(number * 64).u32(1 + number);
                seen.windows.insert(next_number, u64::from(number) * 64);
                next_number += 1;
            }
            2 => drop(message.byte(94).u32(small).string(vec![1; usize::from(*value) * 8])),
            3 => drop(message.byte(95).u32(small).u32(1).string(vec![1; usize::from(*value)])),
            4 => drop(message.byte(96).u32(small)),
            5 => drop(message.byte(97).u32(small)),
            6 => {
                // The client's numbers are not ours: the window that grows is that of our channel `small`. It is
                // accounted for generously, for all.
                message.byte(93).u32(small).u32(number);
                seen.windows.values_mut().for_each(|window| *window += u64::from(number));
            }
            7 | 8 => {
                message.byte(98).u32(small).string(pick(&REQUESTS)).bool(wants_reply);
                match pick(&REQUESTS) {
                    "pty-req" => drop(message.string("t").u32(1).u32(1).u32(1).u32(1).string("")),
                    "env" => drop(message.string("n").string("v")),
                    "exec" | "signal" => drop(message.string("c")),
                    "window-change" => drop(message.u32(1).u32(1).u32(1).u32(1)),
                    _ => {}
                }
            }
            9 => {
                message.byte(80).string(pick(&GLOBALS)).bool(wants_reply);
                if pick(&GLOBALS).ends_with("tcpip-forward") {
                    message.string("").u32(number);
                }
            }
            10 => {
                message.byte(91).u32(small).u32(next_number).u32(number).u32(1 + number);
                seen.windows.insert(next_number, u64::from(number));
                next_number += 1;
            }
            11 => drop(message.byte(92).u32(small).u32(number).string("t").string("")),
            12 => drop(message.byte(82)),
            13 => {
                if let Ok(id) = pair.server.open(&ServerOpen::AuthAgent) {
                    channels.push(id);
                }
            }
            14 => id.into_iter().for_each(|id| {
                if matches!(pair.server.opened(id), Opened::Pending) && wants_reply {
                    pair.server.abandon(id);
                }
            }),
            15 => id.into_iter().for_each(|id| match pair.server.take_data(id) {
                Taken::Data(mut segment) => {
                    let len = segment.advance(usize::MAX);
                    pair.server.give_back(id, len, Some(segment));
                }
                Taken::Eof | Taken::Pending | Taken::Reset => {}
            }),
            16 => id.into_iter().for_each(|id| {
                let _ = pair.server.fill(id, StreamKind::Stdout, usize::from(*value), |packets| Ok(packets.iter().map(|p| p.len()).sum()));
                let _ = pair.server.fill(id, StreamKind::Stderr, usize::from(*value), |packets| Ok(packets.iter().map(|p| p.len()).sum()));
            }),
            17 => id.into_iter().for_each(|id| pair.server.eof(id)),
            18 => id.into_iter().for_each(|id| pair.server.close(id)),
            19 => id.into_iter().for_each(|id| {
                let half = [Half::Requests, Half::Reader, Half::Writer][usize::from(*value) % 3];
                pair.server.release(id, half);
            }),
            20 => id.into_iter().for_each(|id| {
                if let NextRequest::Some(_, answer) = pair.server.next_request(id) {
                    answers.push(answer);
                }
                pair.server.exit_status(id, number);
            }),
            21 => {
                if !answers.is_empty() {
                    let answer = answers.swap_remove(usize::from(*value) % answers.len());
                    pair.server.answer_request(answer, if wants_reply { Ok(()) } else { Err(()) });
                }
            }
            22 => pair.server.rekey(),
            _ => drop(pair.server.send_keepalive()),
        }
        if !message.as_slice().is_empty() {
            pair.client.send(message.as_slice());
        }
        // Sometimes bytes go one way only.
        match choice % 3 {
            0 => pair.push(),
            1 => pair.pull(usize::from(*value)),
            _ => pair.settle(),
        }
        while let Some(event) = pair.server.poll_event() {
            match event {
                Event::Open { channel, .. } if value % 5 == 0 => pair.server.refuse_open(channel, &EMPTY),
                Event::Open { channel, .. } => {
                    assert!(pair.server.accept_open(channel) || pair.server.ended().is_some());
                    channels.push(channel);
                }
                Event::Forward { id, .. } => pair.server.answer_forward(id, ForwardAnswer::Yes),
                _ => {}
            }
        }
        pair.server.take_notices().for_each(drop);
        assert!(pair.server.channels() <= CHANNELS);
        pair.take().iter().for_each(|payload| seen.look(payload));
        if pair.server.ended().is_some() {
            break;
        }
    }
    // Whatever happened: when the application lets go and the connection ends, nothing is left.
    pair.server.end(sandgate_ssh::event::EndReason::Abandoned);
    for id in channels {
        for half in [Half::Requests, Half::Reader, Half::Writer] {
            pair.server.release(id, half);
        }
        let _ = pair.server.opened(id);
    }
    assert_eq!(pair.server.channels(), 0);
});
