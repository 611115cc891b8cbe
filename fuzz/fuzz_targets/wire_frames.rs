//! Frames and messages from arbitrary bytes, cut at arbitrary places: no panic, and whatever decodes encodes to the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandgate_wire::frame::{Decoder, HEADER_LEN, Item, Kind, MAX_PAYLOAD, OutBuf};
use sandgate_wire::message::{CloseReason, Exit, Hello, Open, Opened, Refused, Size, decode_u32, signal_name};

fuzz_target!(|data: &[u8]| {
    let Some((&cut, data)) = data.split_first() else { return };
    messages(data);
    let step = usize::from(cut) + 1;
    let mut decoder = Decoder::new();
    let mut out = OutBuf::default();
    'all: for mut piece in data.chunks(step) {
        loop {
            match decoder.next(&mut piece) {
                Ok(None) => break,
                Ok(Some(Item::Data { stream, kind, chunk })) => {
                    assert!(!chunk.is_empty() && kind.is_data());
                    out.push_data(stream, kind, chunk);
                }
                Ok(Some(Item::Control { stream, kind, payload })) => {
                    assert!(payload.len() <= kind.max_payload() && payload.len() <= MAX_PAYLOAD);
                    messages_of(kind, payload);
                    out.push_control(stream, kind, payload);
                }
                Err(_) => break 'all,
            }
        }
        assert!(piece.is_empty());
    }
    // What was decoded and encoded again decodes without error.
    let bytes = out.output().to_vec();
    let mut decoder = Decoder::new();
    let mut rest = &bytes[..];
    let mut frames = 0;
    while decoder.next(&mut rest).expect("our own frames decode").is_some() {
        frames += 1;
    }
    assert!(rest.is_empty() && frames * HEADER_LEN <= bytes.len());
});

fn messages_of(kind: Kind, payload: &[u8]) {
    match kind {
        Kind::Hello => drop(Hello::decode(payload)),
        Kind::Open => drop(Open::decode(payload)),
        _ => {}
    }
}

fn messages(data: &[u8]) {
    if let Ok(open) = Open::decode(data) {
        let bytes = open.encode().expect("what was decoded fits");
        assert_eq!(Open::decode(&bytes), Ok(open));
    }
    if let Ok(hello) = Hello::decode(data) {
        assert!(!hello.software.chars().any(char::is_control));
    }
    if let Ok(refused) = Refused::decode(data) {
        assert!(!refused.text.chars().any(char::is_control));
    }
    if let Ok(exit) = Exit::decode(data) {
        let _ = exit.encode();
    }
    let _ = (Opened::decode(data), Size::decode(data), CloseReason::decode(data), decode_u32(data), signal_name(data));
}
