//! Files beyond the numbers of 32 bits, and file systems without room. The old protocol sends every byte of a hole, so a real file of this
//! size would take a disk and the time to fill it: here nobody stores anything.
#![allow(clippy::unwrap_used, reason = "tests report by panicking")]

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};

use rustix::io::Errno;
use sandgate_scp::command::Command;
use sandgate_scp::expand::Homes;
use sandgate_scp::{Context, Status, serve};
use sandgate_sftp::audit::{Audit, Event};
use sandgate_sftp::vfs::{
    Follow, FsStat, Metadata, OpenFlags, Owner, Result, S_IFREG, Times, Vfs, VfsDir, VfsFile, Wait,
};

const GIB: u64 = 1 << 30;
/// Zeros but for eight bytes that say where they are, around every place where a number of 32 bits turns over, and at the end.
const MARKS: [u64; 5] = [0, 2 * GIB - 3, 4 * GIB - 3, 5 * GIB + 1, SIZE - 8];
const SIZE: u64 = 5 * GIB + 123;
/// Room to fill a piece for comparison, in bytes; none of ours is longer.
const LONGEST: usize = 1 << 20;

/// Fills `piece` with what the file holds from `at` on.
fn fill(piece: &mut [u8], at: u64) {
    piece.fill(0);
    for mark in MARKS {
        for (place, byte) in (mark..).zip(mark.to_be_bytes().map(|byte| byte | 1)) {
            if let Some(inside) =
                place.checked_sub(at).and_then(|it| piece.get_mut(usize::try_from(it).unwrap()))
            {
                *inside = byte;
            }
        }
    }
}

/// Takes the file's bytes in order and compares them.
struct Seen {
    at: u64,
    expected: Vec<u8>,
}

impl Seen {
    fn new() -> Self {
        Self { at: 0, expected: vec![0; LONGEST] }
    }

    fn take(&mut self, piece: &[u8]) {
        let expected = &mut self.expected[..piece.len()];
        fill(expected, self.at);
        assert!(piece == expected, "other bytes in the {} from {}", piece.len(), self.at);
        self.at += piece.len() as u64;
    }
}

/// A disk with one file. Whoever reads it gets its bytes, and what is written is compared with them.
#[derive(Clone)]
struct Disk(Arc<Mutex<State>>);

struct State {
    /// As far as it is written.
    seen: Seen,
    /// What is there at the beginning or was set at the end.
    size: Option<u64>,
    /// Writes beyond this fail, with that.
    room: (u64, Errno),
}

impl Disk {
    fn new(size: Option<u64>, room: (u64, Errno)) -> Self {
        Self(Arc::new(Mutex::new(State { seen: Seen::new(), size, room })))
    }
}

impl VfsFile for Disk {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let left = usize::try_from(SIZE.saturating_sub(offset)).unwrap();
        let count = buf.len().min(left);
        fill(&mut buf[..count], offset);
        Ok(count)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<usize> {
        let mut state = self.0.lock().unwrap();
        assert_eq!(offset, state.seen.at, "a write that leaves something out or goes back");
        let (room, full) = state.room;
        let count = buf.len().min(usize::try_from(room - offset).unwrap());
        if count == 0 {
            return Err(full);
        }
        state.seen.take(&buf[..count]);
        Ok(count)
    }

    fn stat(&self) -> Result<Metadata> {
        let size = self.0.lock().unwrap().size;
        size.map(|size| Metadata { mode: S_IFREG | 0o644, size, ..Metadata::default() }).ok_or(Errno::NOENT)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.0.lock().unwrap().size = Some(len);
        Ok(())
    }

    fn set_mode(&self, _: u32) -> Result<()> {
        Ok(())
    }

    fn set_times(&self, _: Times) -> Result<()> {
        Ok(())
    }

    fn set_owner(&self, _: Owner) -> Result<()> {
        Err(Errno::NOSYS)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn stat_fs(&self) -> Result<FsStat> {
        Err(Errno::NOSYS)
    }

    fn may_block(&self) -> bool {
        false
    }
}

impl Vfs for Disk {
    fn cwd(&self) -> Result<Vec<u8>> {
        Ok(b"/".to_vec())
    }

    fn open(&self, _: &[u8], _: OpenFlags, _: u32, _: Wait) -> Result<Arc<dyn VfsFile>> {
        Ok(Arc::new(self.clone()))
    }

    fn stat(&self, _: &[u8], _: Follow) -> Result<Metadata> {
        VfsFile::stat(self)
    }

    fn open_dir(&self, _: &[u8]) -> Result<Box<dyn VfsDir>> {
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

/// A client that sends the file.
struct Upload {
    head: Vec<u8>,
    at: u64,
    size: u64,
}

impl Read for Upload {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.head.is_empty() {
            let count = buf.len().min(self.head.len());
            buf[..count].copy_from_slice(&self.head[..count]);
            self.head.drain(..count);
            return Ok(count);
        }
        if self.at < self.size {
            let count = buf.len().min(usize::try_from(self.size - self.at).unwrap());
            fill(&mut buf[..count], self.at);
            self.at += count as u64;
            return Ok(count);
        }
        // The client's word that it could read all of it, then the end.
        let last = usize::from(self.at == self.size);
        buf[..last].fill(0);
        self.at = u64::MAX;
        Ok(last)
    }
}

/// A client that takes the file.
struct Download {
    record: Vec<u8>,
    seen: Seen,
    rest: Vec<u8>,
}

impl Write for Download {
    fn write(&mut self, mut buf: &[u8]) -> io::Result<usize> {
        let len = buf.len();
        if self.record.last() != Some(&b'\n') {
            let end = buf.iter().position(|byte| *byte == b'\n').map_or(len, |at| at + 1);
            self.record.extend_from_slice(&buf[..end]);
            buf = &buf[end..];
        }
        let content = buf.len().min(usize::try_from(SIZE - self.seen.at).unwrap());
        self.seen.take(&buf[..content]);
        self.rest.extend_from_slice(&buf[content..]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct Log(Vec<String>);

impl Audit for Log {
    fn record(&mut self, event: &Event<'_>) -> io::Result<()> {
        self.0.push(String::from_utf8(event.format()).unwrap());
        Ok(())
    }
}

struct Nobody;

impl Homes for Nobody {
    fn own(&self) -> Option<Vec<u8>> {
        None
    }

    fn of(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

fn run(command: &str, disk: &Disk, input: impl Read, output: impl Write) -> (Status, Vec<String>) {
    let mut log = Log::default();
    let context = Context { vfs: disk, audit: &mut log, homes: &Nobody, umask: 0o022 };
    let status = serve(&Command::parse(command.as_bytes()).unwrap(), context, input, output);
    (status, log.0)
}

#[test]
fn more_than_five_gib_come_in() {
    let disk = Disk::new(None, (u64::MAX, Errno::NOSPC));
    let client = Upload { head: format!("C0644 {SIZE} big\n").into_bytes(), at: 0, size: SIZE };
    let mut answers = Vec::new();
    let (status, log) = run("scp -t /big", &disk, client, &mut answers);
    assert_eq!((status, &answers[..]), (Status::Done, &[0; 3][..]));
    assert_eq!(log, ["opened 0 /big".to_owned(), format!("wrote {SIZE} /big {SIZE}")]);
    let state = disk.0.lock().unwrap();
    assert_eq!((state.seen.at, state.size), (SIZE, Some(SIZE)));
}

#[test]
fn more_than_five_gib_go_out() {
    let disk = Disk::new(Some(SIZE), (0, Errno::NOSPC));
    let mut client = Download { record: Vec::new(), seen: Seen::new(), rest: Vec::new() };
    // Ready, yes to the record, yes to the content.
    let (status, log) = run("scp -f /big", &disk, &[0; 3][..], &mut client);
    assert_eq!((status, log.len()), (Status::Done, 0));
    assert_eq!(String::from_utf8(client.record).unwrap(), format!("C0644 {SIZE} big\n"));
    assert_eq!((client.seen.at, &client.rest[..]), (SIZE, &[0][..]));
}

/// The rest is taken from the client all the same, who then hears why it was in vain; what there was room for stays.
#[test]
fn no_room_is_told_in_the_systems_words() {
    for (full, words) in [(Errno::NOSPC, "No space left on device"), (Errno::DQUOT, "Disk quota exceeded")] {
        let (size, room) = (10 << 20, (4 << 20) + 5);
        let disk = Disk::new(None, (room, full));
        let client = Upload { head: format!("C0644 {size} big\n").into_bytes(), at: 0, size };
        let mut answers = Vec::new();
        let (status, log) = run("scp -t /big", &disk, client, &mut answers);
        assert_eq!(status, Status::Failed);
        let answers = String::from_utf8(answers).unwrap();
        assert_eq!(answers, format!("\0\0\x01scp: /big: {words}\n"));
        assert_eq!(log, ["opened 0 /big".to_owned(), format!("wrote {room} /big")]);
        let state = disk.0.lock().unwrap();
        assert_eq!((state.seen.at, state.size), (room, None), "what was written stays as it is");
    }
}
