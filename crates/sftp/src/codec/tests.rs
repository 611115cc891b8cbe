use proptest::prelude::*;

use super::*;
use crate::vfs::OpenFlags;

/// Round trip of one packet through the stream form.
fn again(request: Request<'_>) {
    let mut bytes = Vec::new();
    request.encode(&mut bytes);
    let packet = frame(&bytes).unwrap().unwrap();
    assert_eq!(packet.len() + 4, bytes.len());
    assert_eq!(Request::decode(packet), Ok(request));
}

fn attrs() -> Attrs {
    Attrs { size: Some(5 << 30), owner: Some((1, 2)), mode: Some(0o100_644), times: Some((3, 4)) }
}

#[test]
fn every_request_comes_back() {
    let (a, b) = (&b"a\xff\n"[..], &b"/b"[..]);
    for request in [
        Request::Init { version: 3 },
        Request::Open { id: 1, path: a, flags: OpenFlags(0x3f), attrs: attrs() },
        Request::Close { id: 2, handle: a },
        Request::Read { id: 3, handle: a, offset: u64::MAX, len: u32::MAX },
        Request::Write { id: 4, handle: a, offset: 1, data: b"\0\0" },
        Request::Lstat { id: 5, path: a },
        Request::Fstat { id: 6, handle: a },
        Request::Setstat { id: 7, path: a, attrs: attrs() },
        Request::Fsetstat { id: 8, handle: a, attrs: Attrs::default() },
        Request::Opendir { id: 9, path: a },
        Request::Readdir { id: 10, handle: a },
        Request::Remove { id: 11, path: a },
        Request::Mkdir { id: 12, path: a, attrs: Attrs { mode: Some(0o755), ..Attrs::default() } },
        Request::Rmdir { id: 13, path: a },
        Request::Realpath { id: 14, path: b"" },
        Request::Stat { id: 15, path: a },
        Request::Rename { id: 16, from: a, to: b },
        Request::Readlink { id: 17, path: a },
        Request::Symlink { id: u32::MAX, target: a, link: b },
    ] {
        again(request);
    }
    for request in [
        Extended::PosixRename { from: a, to: b },
        Extended::Statvfs { path: a },
        Extended::Fstatvfs { handle: a },
        Extended::Hardlink { from: a, to: b },
        Extended::Fsync { handle: a },
        Extended::Lsetstat { path: a, attrs: Attrs { times: Some((0, u32::MAX)), ..Attrs::default() } },
        Extended::Limits,
        Extended::ExpandPath { path: b"~" },
        Extended::CopyData { from: a, from_offset: 1, len: 0, to: b, to_offset: 2 },
        Extended::HomeDirectory { user: b"" },
        Extended::UsersGroupsById { users: Ids::new(&[0, 0, 0, 1]).unwrap(), groups: Ids::new(&[]).unwrap() },
        Extended::Unknown { name: b"x@y", body: b"\x01\x02" },
    ] {
        again(Request::Extended { id: 20, request });
    }
}

#[test]
fn every_reply_comes_back() {
    let mut names = Vec::new();
    let entry = NameEntry { name: b"n\n", long: b"-rw n\n", attrs: attrs() };
    let mut writer = NamesWriter::new(&mut names, 7);
    writer.push(&entry);
    writer.push(&entry);
    writer.finish();
    let reply = Reply::decode(frame(&names).unwrap().unwrap()).unwrap();
    let Reply::Name { id: 7, names: list } = reply else { panic!("{reply:?}") };
    assert_eq!(list.collect::<Vec<_>>(), [entry, entry]);

    let mut body = Vec::new();
    Limits::new(10).encode(&mut body);
    assert_eq!(Limits::decode(&body), Some(Limits::new(10)));
    for reply in [
        reply,
        Reply::Version { version: 3, extensions: Strings(b"\0\0\0\x01a\0\0\0\x011") },
        Reply::status(1, Status::EOF),
        Reply::Status { id: 2, status: Status(99), message: b"m" },
        Reply::Handle { id: 3, handle: b"\0\0\0\0" },
        Reply::Data { id: 4, data: &[7; 1000] },
        Reply::Attrs { id: 5, attrs: attrs() },
        Reply::Extended { id: 6, body: &body },
    ] {
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        assert_eq!(Reply::decode(frame(&bytes).unwrap().unwrap()), Ok(reply));
    }
}

#[test]
fn an_open_packet_has_the_bytes_of_the_draft() {
    let mut bytes = Vec::new();
    let attrs = Attrs { mode: Some(0o644), ..Attrs::default() };
    Request::Open { id: 9, path: b"/a", flags: OpenFlags(0x1a), attrs }.encode(&mut bytes);
    assert_eq!(bytes, b"\0\0\0\x17\x03\0\0\0\x09\0\0\0\x02/a\0\0\0\x1a\0\0\0\x04\0\0\x01\xa4");
}

#[test]
fn a_packet_that_is_not_all_there_waits_and_one_too_long_does_not() {
    assert_eq!(frame(b"\0\0\0"), Ok(None));
    assert_eq!(frame(b"\0\0\0\x02a"), Ok(None));
    assert_eq!(frame(b"\0\0\0\x02abc"), Ok(Some(&b"ab"[..])));
    assert_eq!(frame(b"\0\x04\0\0"), Ok(None));
    assert_eq!(frame(b"\0\x04\0\x01"), Err(DecodeError::TooLong));
    assert_eq!(frame(b"\xff\xff\xff\xff"), Err(DecodeError::TooLong));
}

#[test]
fn bad_packets_say_what_can_be_answered() {
    assert_eq!(Request::decode(b""), Err(DecodeError::TooShort));
    assert_eq!(Request::decode(b"\x04\0\0"), Err(DecodeError::TooShort));
    assert_eq!(Request::decode(b"\x04\0\0\0\x05"), Err(DecodeError::Field { id: 5 }));
    assert_eq!(Request::decode(b"\x04\0\0\0\x05\xff\xff\xff\xff"), Err(DecodeError::Field { id: 5 }));
    assert_eq!(Request::decode(b"\x63\0\0\0\x05"), Err(DecodeError::Kind { id: 5, kind: 0x63 }));
    // A NUL in a path.
    assert_eq!(Request::decode(b"\x11\0\0\0\x05\0\0\0\x03a\0b"), Err(DecodeError::Field { id: 5 }));
    // Half a number of a user.
    let bad = b"\xc8\0\0\0\x05\0\0\0\x1eusers-groups-by-id@openssh.com\0\0\0\x03abc\0\0\0\0";
    assert_eq!(Request::decode(bad), Err(DecodeError::Field { id: 5 }));
}

#[test]
fn extended_attributes_are_skipped_and_bounded() {
    let packet = b"\x09\0\0\0\x01\0\0\0\x01a\x80\0\0\x04\0\0\x01\xa4\0\0\0\x01\0\0\0\x01x\0\0\0\x02yz";
    let attrs = Attrs { mode: Some(0o644), ..Attrs::default() };
    assert_eq!(Request::decode(packet), Ok(Request::Setstat { id: 1, path: b"a", attrs }));
    let many = b"\x09\0\0\0\x01\0\0\0\x01a\x80\0\0\0\xff\xff\xff\xff";
    assert_eq!(Request::decode(many), Err(DecodeError::Field { id: 1 }));
}

#[test]
fn a_handle_longer_than_allowed_names_nothing() {
    let long = vec![0; MAX_HANDLE + 1];
    let mut bytes = Vec::new();
    Request::Close { id: 1, handle: &long }.encode(&mut bytes);
    assert_eq!(Request::decode(&bytes[4..]), Ok(Request::Close { id: 1, handle: b"" }));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_what_decodes_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = frame(&bytes);
        if let Ok(request) = Request::decode(&bytes) {
            again(request);
        }
        if let Ok(reply) = Reply::decode(&bytes) {
            let mut out = Vec::new();
            reply.encode(&mut out);
            let packet = frame(&out).unwrap().unwrap();
            let mut twice = Vec::new();
            Reply::decode(packet).unwrap().encode(&mut twice);
            prop_assert_eq!(&out, &twice);
        }
    }
}
