//! What may take long holds up nobody else, and what is bounded stays bounded.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use common::*;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use sandgate_sftp::codec::*;
use sandgate_sftp::vfs::OpenFlags;

const APPEND: OpenFlags = OpenFlags(2 | 4);

fn fifo(dir: &Path, name: &str) -> Vec<u8> {
    mknodat(CWD, dir.join(name), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    at(dir, name.as_bytes())
}

fn open<'a>(id: u32, path: &'a [u8], flags: OpenFlags) -> Request<'a> {
    Request::Open { id, path, flags, attrs: Attrs::default() }
}

#[test]
fn opening_a_pipe_that_nobody_writes_holds_up_no_other_request() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path(), "p");
    let mut client = Client::new();
    client.send(&[open(1, &path, READ), Request::Realpath { id: 2, path: b"/" }]);
    assert_eq!(client.receive().unwrap().id(), 2);
    assert!(client.list(&at(dir.path(), b"")).len() == 3);
    // The other end comes: now the open is done.
    let writer = std::fs::OpenOptions::new().write(true).open(dir.path().join("p")).unwrap();
    let answer = client.receive().unwrap();
    assert_eq!(answer.id(), 1);
    let Reply::Handle { handle, .. } = answer.reply() else { panic!() };
    // A pipe has no offsets: as with OpenSSH, it cannot be read.
    assert_eq!(client.read(handle, 0, 1), Err(Status::FAILURE));
    drop(writer);
    assert_eq!(client.close(handle), Status::OK);
    client.end().unwrap();
}

#[test]
fn opening_a_pipe_does_not_disturb_the_process_at_its_other_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path(), "p");
    let mut client = Client::new();
    let other = dir.path().join("p");
    let writer = std::thread::spawn(move || {
        let mut pipe = std::fs::OpenOptions::new().write(true).open(other).unwrap();
        pipe.write_all(b"x")
    });
    std::thread::sleep(Duration::from_millis(50));
    let attrs = Attrs { size: Some(0), ..Attrs::default() };
    assert_eq!(client.call(Request::Setstat { id: 1, path: &path, attrs }).status(), Status::BAD_MESSAGE);
    assert!(!writer.is_finished());
    let handle = client.open(&path, READ).unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(client.close(&handle), Status::OK);
}

#[test]
fn requests_on_one_slow_handle_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path(), "p");
    let mut reader = std::fs::OpenOptions::new().read(true).write(true).open(dir.path().join("p")).unwrap();
    let mut client = Client::new();
    let handle = client.open(&path, APPEND).unwrap();
    // More than a pipe holds: the first write waits, the others and the close wait behind it.
    let big: Vec<u8> = (0..100_000_u32).map(|i| i as u8).collect();
    client.send(&[
        Request::Write { id: 1, handle: &handle, offset: 0, data: &big },
        Request::Write { id: 2, handle: &handle, offset: 0, data: b"second" },
        Request::Close { id: 3, handle: &handle },
        Request::Write { id: 4, handle: &handle, offset: 0, data: b"late" },
        Request::Realpath { id: 5, path: b"/" },
    ]);
    assert_eq!(client.receive().unwrap().id(), 5);
    let mut got = vec![0; 100_006];
    reader.read_exact(&mut got).unwrap();
    assert!(got[..100_000] == big && got[100_000..] == *b"second");
    for (id, status) in [(1, Status::OK), (2, Status::OK), (3, Status::OK), (4, Status::FAILURE)] {
        let answer = client.receive().unwrap();
        assert_eq!((answer.id(), answer.status()), (id, status));
    }
    client.end().unwrap();
    assert!(client.recorded().last().unwrap().starts_with("wrote 100006 "));
}

#[test]
fn more_pipes_than_threads_are_refused_and_fsync_still_finds_a_thread() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path(), "p");
    let mut client = Client::new();
    let ids: Vec<u32> = (100..120).collect();
    client.send(&ids.iter().map(|id| open(*id, &path, READ)).collect::<Vec<_>>());
    let mut refused = 0;
    for _ in 0..8 {
        let answer = client.receive().unwrap();
        assert_eq!(answer.status(), Status::FAILURE);
        refused += 1;
    }
    assert_eq!(refused, 8);
    let handle = client.open(&at(dir.path(), b"f"), NEW).unwrap();
    assert_eq!(client.extended(Extended::Fsync { handle: &handle }).status(), Status::OK);
    assert_eq!(client.extended(Extended::Fsync { handle: b"none" }).status(), Status::NO_SUCH_FILE);
    // The client goes while 12 opens wait: the session ends.
    client.end().unwrap();
}

#[test]
fn devices_are_read_and_their_errors_told() {
    let mut client = Client::new();
    let zero = client.open(b"/dev/zero", READ).unwrap();
    let requests: Vec<_> =
        (0..200).map(|id| Request::Read { id, handle: &zero, offset: 7, len: 1000 }).collect();
    client.send(&requests);
    for id in 0..200 {
        let answer = client.receive().unwrap();
        assert!(matches!(answer.reply(), Reply::Data { id: i, data } if i == id && data == [0; 1000]));
    }
    let full = client.open(b"/dev/full", WRITE).unwrap();
    assert_eq!(client.write(&full, 0, b"x"), Status::FAILURE);
    let null = client.open(b"/dev/null", READ.with(WRITE)).unwrap();
    assert_eq!(client.write(&null, 0, b"x"), Status::OK);
    assert_eq!(client.read(&null, 0, 1), Err(Status::EOF));
}

#[test]
fn copy_data_copies_and_orders_what_comes_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i >> 3) as u8).collect();
    std::fs::write(dir.path().join("a"), &data).unwrap();
    let mut client = Client::new();
    let from = client.open(&at(dir.path(), b"a"), READ).unwrap();
    let to = client.open(&at(dir.path(), b"b"), NEW.with(READ)).unwrap();
    let copy = |from_offset, len, to_offset| Extended::CopyData {
        from: &from,
        from_offset,
        len,
        to: &to,
        to_offset,
    };
    client.send(&[
        Request::Extended { id: 1, request: copy(0, 0, 0) },
        Request::Write { id: 2, handle: &to, offset: 0, data: b"XX" },
        Request::Read { id: 3, handle: &from, offset: 0, len: 2 },
    ]);
    let mut ids: Vec<u32> = (0..3).map(|_| client.receive().unwrap().id()).collect();
    assert_eq!(ids[0], 1);
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3]);
    let got = std::fs::read(dir.path().join("b")).unwrap();
    assert!(got.len() == data.len() && got[..2] == *b"XX" && got[2..] == data[2..]);
    assert_eq!(client.extended(copy(5, 10, 4_000_000)).status(), Status::OK);
    assert_eq!(client.read(&to, 4_000_000, 99).unwrap(), &data[5..15]);
    assert_eq!(client.extended(copy(2_999_999, 10, 0)).status(), Status::EOF);
    let same = Extended::CopyData { from: &from, from_offset: 0, len: 1, to: &from, to_offset: 9 };
    assert_eq!(client.extended(same).status(), Status::FAILURE);
    let proc = client.open(b"/proc/self/status", READ).unwrap();
    let append = client.open(&at(dir.path(), b"c"), APPEND.with(OpenFlags::CREATE)).unwrap();
    let tail = |from| Extended::CopyData { from, from_offset: 0, len: 0, to: &append, to_offset: 0 };
    assert_eq!(client.extended(tail(&proc)).status(), Status::OK);
    assert_eq!(client.extended(tail(&from)).status(), Status::OK);
    let got = std::fs::read(dir.path().join("c")).unwrap();
    assert!(got.starts_with(b"Name:") && got.ends_with(&data));
}

#[test]
fn thousands_of_requests_at_once_are_all_answered() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), vec![7; 100_000]).unwrap();
    let mut client = Client::new();
    let handle = client.open(&at(dir.path(), b"f"), READ).unwrap();
    let requests: Vec<_> = (0..4096)
        .map(|id| Request::Read { id, handle: &handle, offset: u64::from(id), len: 32_768 })
        .collect();
    client.send(&requests);
    for id in 0..4096 {
        let answer = client.receive().unwrap();
        assert!(matches!(answer.reply(), Reply::Data { id: i, data } if i == id && data.len() == 32_768));
    }
}

#[test]
fn a_client_that_does_not_read_stops_the_server_and_nothing_grows() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), vec![7; 1 << 20]).unwrap();
    let mut client = Client::new();
    let handle = client.open(&at(dir.path(), b"f"), READ).unwrap();
    let mut requests = Vec::new();
    for id in 0..60_000 {
        Request::Read { id, handle: &handle, offset: 0, len: 4096 }.encode(&mut requests);
    }
    // The server stops taking requests long before the 1.7 MB of these are sent: the write must block.
    let (done, blocked) = channel();
    let mut to = client.take_writer();
    let sender = std::thread::spawn(move || {
        let result = to.write_all(&requests);
        let _ = done.send(());
        result.map(|()| to)
    });
    assert!(blocked.recv_timeout(Duration::from_millis(300)).is_err());
    for id in 0..60_000 {
        assert_eq!(client.receive().unwrap().id(), id);
    }
    drop(sender.join().unwrap().unwrap());
    client.end().unwrap();
}

#[test]
fn a_client_that_vanishes_ends_the_session_with_its_handles_closed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), vec![7; 1 << 20]).unwrap();
    let mut client = Client::new();
    let read = client.open(&at(dir.path(), b"f"), READ).unwrap();
    let write = client.open(&at(dir.path(), b"g"), NEW).unwrap();
    let mut half = Vec::new();
    Request::Write { id: 1, handle: &write, offset: 0, data: b"whole" }.encode(&mut half);
    Request::Write { id: 1, handle: &write, offset: 5, data: &[1; 10_000] }.encode(&mut half);
    half.truncate(half.len() - 1);
    client.send(
        &(0..100).map(|id| Request::Read { id, handle: &read, offset: 0, len: 32_768 }).collect::<Vec<_>>(),
    );
    client.send_bytes(&half);
    let record = client.record.clone();
    client.vanish().unwrap();
    let mut entries: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    entries.sort();
    assert_eq!(entries, ["f", "g"]);
    let held = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|e| std::fs::read_link(e.unwrap().path()).ok());
    assert_eq!(held.filter(|target| target.starts_with(dir.path())).count(), 0);
    assert!(record.0.lock().unwrap().last().unwrap().starts_with("wrote "));
}

#[test]
fn non_blocking_streams_are_waited_for() {
    use std::os::unix::net::UnixStream;
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let server = std::thread::spawn(move || {
        let audit = Box::new(Record::default());
        let vfs = std::sync::Arc::new(sandgate_sftp::vfs::OsVfs::new());
        sandgate_sftp::serve(sandgate_sftp::Config::default(), vfs, audit, theirs.as_fd(), theirs.as_fd())
    });
    let mut bytes = Vec::new();
    Request::Init { version: 3 }.encode(&mut bytes);
    std::thread::sleep(Duration::from_millis(50));
    (&ours).write_all(&bytes).unwrap();
    let mut header = [0; 5];
    (&ours).read_exact(&mut header).unwrap();
    assert_eq!(header[4], 2);
    drop(ours);
    server.join().unwrap().unwrap();
}
