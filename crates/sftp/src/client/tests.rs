use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::audit::Silent;
use crate::codec::{Strings, frame};
use crate::vfs::OsVfs;
use crate::{Config, serve};

const NEW: OpenFlags = OpenFlags::WRITE.with(OpenFlags::CREATE).with(OpenFlags::TRUNCATE);

/// A session with our own server in a thread.
fn real() -> Client<UnixStream> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::thread::spawn(move || {
        serve(Config::default(), Arc::new(OsVfs::new()), Box::new(Silent), &theirs, &theirs).unwrap();
    });
    Client::begin(ours).unwrap()
}

/// A session with a server that answers each batch of requests as it likes. It has no limits to tell.
fn odd(mut answer: impl FnMut(&[Request<'_>], &mut Vec<u8>) + Send + 'static) -> Client<UnixStream> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    std::thread::spawn(move || {
        let mut input = Vec::new();
        loop {
            let mut piece = vec![0; 1 << 16];
            match theirs.read(&mut piece) {
                Ok(0) | Err(_) => return,
                Ok(read) => input.extend_from_slice(&piece[..read]),
            }
            let (mut packets, mut rest) = (Vec::new(), &input[..]);
            while let Some(packet) = frame(rest).unwrap() {
                packets.push(Request::decode(packet).unwrap());
                rest = &rest[4 + packet.len()..];
            }
            let mut output = Vec::new();
            match packets[..] {
                [Request::Init { .. }] => {
                    Reply::Version { version: 3, extensions: Strings(b"") }.encode(&mut output);
                }
                _ => answer(&packets, &mut output),
            }
            let left = rest.len();
            input.drain(..input.len() - left);
            if theirs.write_all(&output).is_err() {
                return;
            }
        }
    });
    Client::begin(ours).unwrap()
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ (at >> 8) ^ (at >> 16)).to_le_bytes()[0]).collect()
}

fn path(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn read_all<S: Read + Write>(mut reader: Reader<'_, S>) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(piece) = reader.next_piece()? {
        all.extend_from_slice(piece);
    }
    Ok(all)
}

#[test]
fn a_file_goes_there_and_back() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a\n\u{ff}");
    let mut client = real();
    for len in [0, 1, 32 * 1024, 255 * 1024, 255 * 1024 + 1, 9_000_001] {
        let sent = bytes(len);
        let handle = client.open(path(&file), NEW, 0o600).unwrap();
        let mut writer = Writer::new(&mut client, handle, 0);
        sent.chunks(100_000).for_each(|piece| writer.write(piece).unwrap());
        let attrs = Attrs { mode: Some(0o640), times: Some((5, 6)), ..Attrs::default() };
        writer.finish(Some(attrs)).unwrap();
        let attrs = client.stat(path(&file)).unwrap();
        assert_eq!((attrs.size, attrs.mode, attrs.times), (Some(len as u64), Some(0o100_640), Some((5, 6))));
        assert!(std::fs::read(&file).unwrap() == sent);
        // Whatever size is expected, and from any place.
        for (start, expected) in [(0, len as u64), (0, 0), (0, 1 << 40), (len / 2, len as u64 / 3)] {
            let handle = client.open(path(&file), OpenFlags::READ, 0).unwrap();
            let got = read_all(Reader::new(&mut client, handle, start as u64, expected)).unwrap();
            assert!(got == sent[start..], "{len} from {start}, {expected} expected: {}", got.len());
        }
    }
}

#[test]
fn directories_are_made_and_listed() {
    let directory = tempfile::tempdir().unwrap();
    let inside = directory.path().join("d");
    let mut client = real();
    client.make_dir(path(&inside), 0o700).unwrap();
    for number in 0..1000 {
        std::fs::write(inside.join(format!("{number}")), "").unwrap();
    }
    let handle = client.open_dir(path(&inside)).unwrap();
    let mut count = 0;
    while let Some(entries) = client.entries(&handle).unwrap() {
        count += entries.len();
    }
    client.close(handle).unwrap();
    assert_eq!(count, 1000);
    client.set(path(&inside), Attrs { mode: Some(0o755), ..Attrs::default() }).unwrap();
    assert_eq!(client.stat(path(&inside)).unwrap().mode, Some(0o40755));
    let real = std::fs::canonicalize(&inside).unwrap();
    assert_eq!(client.real_path(&[path(&inside), b"/../d"].concat()).unwrap(), path(&real));
}

#[test]
fn a_refusal_is_told_and_the_session_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut client = real();
    let error = client.stat(path(&directory.path().join("none"))).unwrap_err();
    assert!(error.is_missing() && !error.is_fatal());
    assert_eq!(error.to_string(), "No such file");
    assert!(client.open(path(directory.path()), NEW, 0o600).is_err());
    let full = Path::new("/dev/full");
    let handle = client.open(path(full), OpenFlags::WRITE, 0).unwrap();
    let mut writer = Writer::new(&mut client, handle, 0);
    let error = writer.write(&bytes(20 << 20)).and_then(|()| writer.finish(None)).unwrap_err();
    assert!(!error.is_fatal(), "{error}");
    client.stat(path(directory.path())).unwrap();
}

#[test]
fn a_transfer_that_is_given_up_leaves_the_session_usable() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("f");
    std::fs::write(&file, bytes(20 << 20)).unwrap();
    let mut client = real();
    for _ in 0..50 {
        let handle = client.open(path(&file), OpenFlags::READ, 0).unwrap();
        let mut reader = Reader::new(&mut client, handle, 0, 20 << 20);
        assert!(reader.next_piece().unwrap().is_some());
        drop(reader);
        assert_eq!(client.stat(path(&file)).unwrap().size, Some(20 << 20));
    }
    assert!(client.link.is_idle(), "a reply is still waited for");
}

/// Answers READs of `content`, the last one of a batch first and never more than 1,000 bytes at once.
fn backwards(content: Vec<u8>) -> impl FnMut(&[Request<'_>], &mut Vec<u8>) + Send {
    move |requests, output| {
        for request in requests.iter().rev() {
            let Request::Read { id, offset, len, .. } = *request else {
                Reply::status(request.id(), Status::OK).encode(output);
                continue;
            };
            let start = usize::try_from(offset).unwrap().min(content.len());
            let end = content.len().min(start + 1000.min(len as usize));
            if start == end {
                Reply::status(id, Status::EOF).encode(output);
            } else {
                Reply::Data { id, data: &content[start..end] }.encode(output);
            }
        }
    }
}

#[test]
fn replies_in_any_order_and_of_any_length_come_out_in_order() {
    for expected in [0, 777, 300_000, 5 << 20] {
        let content = bytes(300_000);
        let mut client = odd(backwards(content.clone()));
        let reader = Reader::new(&mut client, Handle(b"h".to_vec()), 0, expected);
        assert!(read_all(reader).unwrap() == content, "{expected} expected");
    }
}

#[test]
fn a_failed_write_cuts_the_file_before_the_gap() {
    let (cuts, cut) = std::sync::mpsc::channel();
    let mut client = odd(move |requests, output| {
        for request in requests {
            let status = match request {
                Request::Write { offset: 131_072..262_144, .. } => Status::FAILURE,
                Request::Fsetstat { attrs, .. } => {
                    cuts.send(attrs.size).unwrap();
                    Status::OK
                }
                _ => Status::OK,
            };
            Reply::status(request.id(), status).encode(output);
        }
    });
    let mut writer = Writer::new(&mut client, Handle(b"h".to_vec()), 0);
    let error = writer.write(&bytes(1 << 20)).and_then(|()| writer.finish(None)).unwrap_err();
    assert_eq!(error.to_string(), "Failure");
    assert_eq!(client.set(b"x", Attrs::default()).ok(), Some(()), "the session goes on");
    assert_eq!(cut.try_iter().collect::<Vec<_>>(), [Some(131_072)]);
}

#[test]
fn what_was_not_asked_for_ends_the_session() {
    type Answer = fn(&[Request<'_>], &mut Vec<u8>);
    let answers: [Answer; 5] = [
        // Another id.
        |requests, output| Reply::Data { id: requests[0].id().wrapping_add(1000), data: b"x" }.encode(output),
        // More than was asked for, and nothing.
        |requests, output| Reply::Data { id: requests[0].id(), data: &[0; 40_000] }.encode(output),
        |requests, output| Reply::Data { id: requests[0].id(), data: b"" }.encode(output),
        // Another kind, and no packet at all.
        |requests, output| Reply::Handle { id: requests[0].id(), handle: b"x" }.encode(output),
        |_, output| output.extend_from_slice(&[0xff; 100]),
    ];
    for answer in answers {
        let mut client = odd(answer);
        let error = read_all(Reader::new(&mut client, Handle(Vec::new()), 0, 10_000_000)).unwrap_err();
        assert!(matches!(error, ClientError::Protocol(_)), "{error}");
    }
    let mut client = odd(|_, _| panic!("the server is gone"));
    assert!(matches!(client.stat(b"/"), Err(ClientError::Lost(_))));
}

#[test]
fn a_text_of_the_server_is_cut_and_escaped() {
    let mut client = odd(|requests, output| {
        let message = [&b"\x1b[2J\n\xff"[..], &[b'x'; 100_000]].concat();
        let id = requests[0].id();
        Reply::Status { id, status: Status::FAILURE, message: &message }.encode(output);
    });
    let text = client.stat(b"/").unwrap_err().to_string();
    assert!(text.starts_with("\\u{1b}[2J\\n\u{fffd}xxx") && text.len() < 300, "{text}");
}
