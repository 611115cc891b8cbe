//! Neighbouring WRITEs that are here together reach the file system together. What lands in the file does not tell (it is the same one by
//! one), so the calls are counted, in a file system that holds one file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::io::IoSlice;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use common::*;
use rustix::io::Errno;
use sandgate_sftp::Config;
use sandgate_sftp::codec::*;
use sandgate_sftp::vfs::{
    Follow, FsStat, Metadata, OpenFlags, Owner, Result, S_IFREG, Times, Vfs, VfsDir, VfsFile, Wait,
};

/// What was written with one call.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    offset: u64,
    /// Bytes of each piece.
    pieces: Vec<usize>,
}

/// The file. Its first write waits until it is told to go on.
struct Counted {
    content: Mutex<Vec<u8>>,
    calls: Mutex<Vec<Call>>,
    /// A call writes no more than this.
    at_most: usize,
    reached: Sender<()>,
    gate: Mutex<Option<Receiver<()>>>,
}

impl Counted {
    fn put(&self, pieces: &[&[u8]], offset: u64) -> Result<usize> {
        self.calls.lock().unwrap().push(Call { offset, pieces: pieces.iter().map(|it| it.len()).collect() });
        let gate = self.gate.lock().unwrap().take();
        if let Some(gate) = gate {
            self.reached.send(()).unwrap();
            gate.recv().unwrap();
        }
        let mut bytes = pieces.concat();
        bytes.truncate(self.at_most);
        let (mut content, start) = (self.content.lock().unwrap(), offset as usize);
        let end = content.len().max(start + bytes.len());
        content.resize(end, 0);
        content[start..start + bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }
}

struct Handle(Arc<Counted>);

impl VfsFile for Handle {
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<usize> {
        self.0.put(&[buf], offset)
    }
    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<usize> {
        self.0.put(&bufs.iter().map(|it| &**it).collect::<Vec<_>>(), offset)
    }
    fn stat(&self) -> Result<Metadata> {
        Ok(Metadata { mode: S_IFREG | 0o644, ..Metadata::default() })
    }
    fn may_block(&self) -> bool {
        false
    }
    fn read_at(&self, _: &mut [u8], _: u64) -> Result<usize> {
        Err(Errno::NOSYS)
    }
    fn set_len(&self, _: u64) -> Result<()> {
        Err(Errno::NOSYS)
    }
    fn set_mode(&self, _: u32) -> Result<()> {
        Err(Errno::NOSYS)
    }
    fn set_times(&self, _: Times) -> Result<()> {
        Err(Errno::NOSYS)
    }
    fn set_owner(&self, _: Owner) -> Result<()> {
        Err(Errno::NOSYS)
    }
    fn sync(&self) -> Result<()> {
        Err(Errno::NOSYS)
    }
    fn stat_fs(&self) -> Result<FsStat> {
        Err(Errno::NOSYS)
    }
}

/// Opens the file, whatever the path.
struct OneFile(Arc<Counted>);

impl Vfs for OneFile {
    fn open(&self, _: &[u8], _: OpenFlags, _: u32, _: Wait) -> Result<Arc<dyn VfsFile>> {
        Ok(Arc::new(Handle(Arc::clone(&self.0))))
    }
    fn cwd(&self) -> Result<Vec<u8>> {
        Ok(b"/".to_vec())
    }
    fn open_dir(&self, _: &[u8]) -> Result<Box<dyn VfsDir>> {
        Err(Errno::NOSYS)
    }
    fn stat(&self, _: &[u8], _: Follow) -> Result<Metadata> {
        Err(Errno::NOSYS)
    }
    fn set_len(&self, _: &[u8], _: u64) -> Result<()> {
        Err(Errno::NOSYS)
    }
    fn set_mode(&self, _: &[u8], _: u32, _: Follow) -> Result<()> {
        Err(Errno::NOSYS)
    }
    fn set_times(&self, _: &[u8], _: Times, _: Follow) -> Result<()> {
        Err(Errno::NOSYS)
    }
    fn set_owner(&self, _: &[u8], _: Owner, _: Follow) -> Result<()> {
        Err(Errno::NOSYS)
    }
    fn make_dir(&self, _: &[u8], _: u32) -> Result<()> {
        Err(Errno::NOSYS)
    }
    fn remove_dir(&self, _: &[u8]) -> Result<()> {
        Err(Errno::NOSYS)
    }
    fn remove_file(&self, _: &[u8]) -> Result<()> {
        Err(Errno::NOSYS)
    }
    fn rename(&self, _: &[u8], _: &[u8]) -> Result<()> {
        Err(Errno::NOSYS)
    }
    fn link(&self, _: &[u8], _: &[u8]) -> Result<()> {
        Err(Errno::NOSYS)
    }
    fn symlink(&self, _: &[u8], _: &[u8]) -> Result<()> {
        Err(Errno::NOSYS)
    }
    fn read_link(&self, _: &[u8]) -> Result<Vec<u8>> {
        Err(Errno::NOSYS)
    }
    fn stat_fs(&self, _: &[u8]) -> Result<FsStat> {
        Err(Errno::NOSYS)
    }
}

/// Sends one WRITE of a byte at 0, and while the file takes it, one of 100 bytes at each of `offsets`: these lie in the pipe together when
/// the server reads the next time. Gives the calls after the first, and what the file holds.
fn written(at_most: usize, offsets: &[u64]) -> (Vec<Call>, Vec<u8>) {
    let ((reached, wait_reached), (go_on, gate)) = (channel(), channel());
    let file = Arc::new(Counted {
        content: Mutex::default(),
        calls: Mutex::default(),
        at_most,
        reached,
        gate: Mutex::new(Some(gate)),
    });
    let mut client = Client::with(Config::default(), Arc::new(OneFile(Arc::clone(&file))));
    let handle = client.open(b"/f", NEW).unwrap();
    client.send(&[Request::Write { id: 1000, handle: &handle, offset: 0, data: b"x" }]);
    wait_reached.recv().unwrap();
    let pieces: Vec<Vec<u8>> = (0..offsets.len()).map(|number| vec![number as u8; 100]).collect();
    let requests: Vec<_> = (0..)
        .zip(offsets.iter().zip(&pieces))
        .map(|(id, (offset, data))| Request::Write { id, handle: &handle, offset: *offset, data })
        .collect();
    client.send(&requests);
    go_on.send(()).unwrap();
    for id in [1000].into_iter().chain(0..offsets.len() as u32) {
        let answer = client.receive().unwrap();
        assert_eq!((answer.id(), answer.status()), (id, Status::OK));
    }
    client.end().unwrap();
    let calls = std::mem::take(&mut *file.calls.lock().unwrap());
    let content = file.content.lock().unwrap().clone();
    (calls.into_iter().skip(1).collect(), content)
}

fn call(offset: u64, pieces: usize) -> Call {
    Call { offset, pieces: vec![100; pieces] }
}

#[test]
fn neighbouring_writes_that_are_here_together_are_one_call() {
    let offsets: Vec<u64> = (0..100).map(|number| 1 + number * 100).collect();
    let (calls, content) = written(usize::MAX, &offsets);
    // 64 at most, and the rest.
    assert_eq!(calls, [call(1, 64), call(6401, 36)]);
    assert!(
        content.len() == 10_001
            && content[1..].iter().enumerate().all(|(at, byte)| *byte as usize == at / 100)
    );
}

#[test]
fn writes_that_do_not_go_on_where_the_last_ended_are_calls_of_their_own() {
    // Ten, then one a byte further on, then one that goes back.
    let mut offsets: Vec<u64> = (0..10).map(|number| number * 100).collect();
    offsets.extend([1001, 0]);
    let (calls, content) = written(usize::MAX, &offsets);
    assert_eq!(calls, [call(0, 10), call(1001, 1), call(0, 1)]);
    assert_eq!((content.len(), content[0], content[100], content[1000], content[1001]), (1101, 11, 1, 0, 10));
}

#[test]
fn what_a_call_did_not_take_is_written_piece_by_piece() {
    let offsets = [0, 100, 200, 300];
    let (calls, content) = written(250, &offsets);
    let rest = Call { offset: 250, pieces: vec![50] };
    assert_eq!(calls, [call(0, 4), rest, call(300, 1)]);
    assert!(content.iter().enumerate().all(|(at, byte)| *byte as usize == at / 100));
}
