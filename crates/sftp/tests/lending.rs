//! Large pieces of files, which are not copied on their way into a large pipe.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use common::*;
use sandgate_sftp::codec::*;

/// Bytes that tell where they stand.
fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 251 + at) as u8).collect()
}

fn data(answer: &Answer) -> Vec<u8> {
    match answer.reply() {
        Reply::Data { data, .. } => data.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_read_in_pieces_of_any_size_arrives_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = at(dir.path(), b"large");
    // The last page is not full.
    let content = content((3 << 20) + 1234);
    std::fs::write(dir.path().join("large"), &content).unwrap();
    for piece in [65_536, 100_001, MAX_DATA, MAX_DATA + 1] {
        let mut client = Client::at_large_pipe();
        let handle = client.open(&path, READ).unwrap();
        let mut all = Vec::new();
        loop {
            match client.read(&handle, all.len() as u64, piece as u32) {
                Ok(data) => all.extend(data),
                Err(status) => break assert_eq!(status, Status::EOF),
            }
        }
        assert!(all == content, "in pieces of {piece}");
        // What comes after it is in step.
        assert_eq!(client.read(&handle, 0, 10).unwrap(), content[..10]);
        assert_eq!(client.close(&handle), Status::OK);
        client.end().unwrap();
    }
}

#[test]
fn a_write_does_not_change_what_was_read_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = at(dir.path(), b"file");
    let old = content(2 * MAX_DATA);
    std::fs::write(dir.path().join("file"), &old).unwrap();
    let mut client = Client::at_large_pipe();
    let reader = client.open(&path, READ).unwrap();
    let writer = client.open(&path, WRITE).unwrap();
    let second = MAX_DATA as u64;
    let read = |id, offset| Request::Read { id, handle: &reader, offset, len: MAX_DATA as u32 };
    let zeros = vec![0; MAX_DATA];
    // All at once, and the replies are left alone for a while.
    let mut to = client.take_writer();
    let mut bytes = Vec::new();
    for request in [
        read(1, 0),
        read(2, second),
        Request::Write { id: 3, handle: &writer, offset: second, data: &zeros },
        read(4, second),
    ] {
        request.encode(&mut bytes);
    }
    let sender = std::thread::spawn(move || std::io::Write::write_all(&mut to, &bytes).map(|()| to));
    std::thread::sleep(Duration::from_millis(200));
    let file = std::fs::File::open(dir.path().join("file")).unwrap();
    let mut now = vec![1; 10];
    file.read_exact_at(&mut now, second).unwrap();
    assert_eq!(now, old[MAX_DATA..MAX_DATA + 10], "the write waits for the client");
    assert!(data(&client.receive().unwrap()) == old[..MAX_DATA]);
    assert!(data(&client.receive().unwrap()) == old[MAX_DATA..]);
    assert_eq!(client.receive().unwrap().status(), Status::OK);
    assert!(data(&client.receive().unwrap()) == zeros);
    drop(sender.join().unwrap().unwrap());
    client.end().unwrap();
}

#[test]
fn a_client_that_vanishes_while_a_write_waits_ends_the_session() {
    let dir = tempfile::tempdir().unwrap();
    let path = at(dir.path(), b"file");
    std::fs::write(dir.path().join("file"), content(2 * MAX_DATA)).unwrap();
    let mut client = Client::at_large_pipe();
    let reader = client.open(&path, READ).unwrap();
    let writer = client.open(&path, WRITE).unwrap();
    let read = |id, offset| Request::Read { id, handle: &reader, offset, len: MAX_DATA as u32 };
    client.send(&[
        read(1, 0),
        read(2, MAX_DATA as u64),
        Request::Write { id: 3, handle: &writer, offset: 0, data: b"never" },
    ]);
    std::thread::sleep(Duration::from_millis(50));
    client.vanish().unwrap();
    assert!(std::fs::read(dir.path().join("file")).unwrap() == content(2 * MAX_DATA));
}
