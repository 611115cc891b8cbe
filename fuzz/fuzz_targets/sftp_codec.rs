//! SFTP packets and audit lines from arbitrary bytes: no panic, no length beyond the bound, and whatever decodes encodes to the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandgate_sftp::audit::Event;
use sandgate_sftp::codec::{DecodeError, Limits, MAX_PACKET, Reply, Request, frame};
use sandgate_sftp::vfs::FsStat;

fuzz_target!(|data: &[u8]| {
    if let Ok(event) = Event::parse(data) {
        assert_eq!(event.format(), data);
    }
    // As a stream of packets, and the whole as one packet.
    let mut rest = data;
    loop {
        match frame(rest) {
            Ok(Some(packet)) => {
                assert!(packet.len() <= MAX_PACKET && packet.len() + 4 <= rest.len());
                one(packet);
                rest = &rest[packet.len() + 4..];
            }
            Ok(None) => break,
            Err(e) => {
                assert_eq!(e, DecodeError::TooLong);
                break;
            }
        }
    }
    one(data);
});

fn one(packet: &[u8]) {
    if let Ok(request) = Request::decode(packet) {
        let mut bytes = Vec::new();
        request.encode(&mut bytes);
        assert_eq!(Request::decode(&bytes[4..]), Ok(request));
        assert_eq!(u32::from_be_bytes(bytes[..4].try_into().expect("four bytes")) as usize, bytes.len() - 4);
    }
    if let Ok(reply) = Reply::decode(packet) {
        let (mut once, mut twice) = (Vec::new(), Vec::new());
        reply.encode(&mut once);
        Reply::decode(&once[4..]).expect("our own reply decodes").encode(&mut twice);
        assert_eq!(once, twice);
        match reply {
            Reply::Name { names, .. } => assert!(names.count() * 12 <= packet.len()),
            Reply::Extended { body, .. } => drop((Limits::decode(body), FsStat::decode(body))),
            _ => {}
        }
    }
}
