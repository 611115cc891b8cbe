//! Sequences of SFTP requests through three engines: over a real directory held by `openat2`, and twice over a model file system (once
//! one request at a time, once with all requests of a sequence sent before any reply is read). All three must answer the same, and the
//! two models must end the same: the real file system behaves as the simple one, and pipelining changes nothing.
#![no_main]

mod model_fs;

use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::thread::JoinHandle;

use libfuzzer_sys::fuzz_target;
use model_fs::Model;
use sandgate_sftp::audit::Silent;
use sandgate_sftp::codec::{Attrs, Extended, Reply, Request, frame};
use sandgate_sftp::vfs::{OpenFlags, RootedVfs, S_IFDIR, S_IFMT, Vfs};
use sandgate_sftp::{Config, serve};

fuzz_target!(|data: &[u8]| {
    rustix::process::umask(rustix::fs::Mode::empty());
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let real = RootedVfs::new(dir.path().as_os_str().as_bytes()).expect("openat2");
    let mut real = Client::new(Arc::new(real));
    let mut model = Client::new(Arc::new(Model::default()));
    let mut script = Script::default();
    let mut bytes = Bytes(data);
    for _ in 0..200 {
        if bytes.0.is_empty() {
            break;
        }
        let requests = script.next(&mut bytes);
        let (a, b) = (real.call(&requests), model.call(&requests));
        for (request, (a, b)) in requests.iter().zip(a.iter().zip(&b)) {
            assert_eq!(
                told(a),
                told(b),
                "real and model: {:?} after\n{}",
                Request::decode(&request[4..]),
                script
            );
        }
        script.learn(&requests, &b);
    }
    // The same again at once. Handles are given in the same order, so they are the same.
    let mut again = Client::new(Arc::new(Model::default()));
    let replies = again.raw(&script.sent, script.replies.len());
    assert_eq!(replies, script.replies);
    for client in [real, model, again] {
        client.end();
    }
});

/// What is compared of a reply: no times, owners, directory sizes, long names and orders, which are the system's own.
fn told(packet: &[u8]) -> String {
    let attrs = |a: Attrs| {
        let is_dir = a.mode.is_some_and(|mode| mode & S_IFMT == S_IFDIR);
        format!("{:o} {:?}", a.mode.unwrap_or(0), a.size.filter(|_| !is_dir))
    };
    match Reply::decode(packet).expect("a good reply") {
        Reply::Attrs { attrs: a, .. } => attrs(a),
        Reply::Name { names, .. } => {
            // Above the root of the real one is something else.
            let dots = |name: &[u8]| name == b"..";
            let mut all: Vec<String> = names
                .map(|n| {
                    format!(
                        "{} {}",
                        n.name.escape_ascii(),
                        if dots(n.name) { String::new() } else { attrs(n.attrs) }
                    )
                })
                .collect();
            all.sort();
            all.join(", ")
        }
        other => format!("{other:?}"),
    }
}

/// Makes requests of bytes, and remembers the handles that came of them.
#[derive(Default)]
struct Script {
    handles: Vec<Vec<u8>>,
    sent: Vec<u8>,
    count: u32,
    replies: Vec<Vec<u8>>,
}

impl Script {
    /// The next request, or several writes that are sent together; each encoded.
    fn next(&mut self, b: &mut Bytes<'_>) -> Vec<Vec<u8>> {
        let id = self.count;
        let kind = b.u8() % 22;
        let (handle, other) = (&self.handle(b.u8())[..], &self.handle(b.u8())[..]);
        let (path, to) = (&path(b)[..], &path(b)[..]);
        let mode = Attrs { mode: Some(0o600 + u32::from(b.u8() % 8)), ..Attrs::default() };
        let size = Attrs { size: Some(u64::from(b.u8()) * 20), ..Attrs::default() };
        let attrs = if b.u8() % 2 == 0 { mode } else { size };
        let (offset, len) = (u64::from(b.u8()) * 16, b.u8());
        vec![encode(match kind {
            0..=2 => Request::Open { id, path, flags: OpenFlags(u32::from(b.u8() % 64)), attrs: mode },
            3 => Request::Close { id, handle },
            4 | 5 => Request::Read { id, handle, offset, len: u32::from(len) * 9 },
            6..=8 => return writes(id, handle, offset, b),
            9 => Request::Lstat { id, path },
            10 => Request::Fstat { id, handle },
            11 => Request::Setstat { id, path, attrs },
            12 => Request::Fsetstat { id, handle, attrs },
            13 if len % 2 == 0 => Request::Opendir { id, path },
            13 => Request::Readdir { id, handle },
            14 => Request::Remove { id, path },
            15 => Request::Mkdir { id, path, attrs: mode },
            16 => Request::Rmdir { id, path },
            17 if len % 2 == 0 => Request::Realpath { id, path },
            17 => Request::Stat { id, path },
            18 => Request::Rename { id, from: path, to },
            19 => Request::Readlink { id, path },
            20 => Request::Symlink { id, target: path, link: to },
            _ => {
                let request = match len % 4 {
                    0 => Extended::PosixRename { from: path, to },
                    1 => Extended::Hardlink { from: path, to },
                    2 => Extended::Fsync { handle },
                    _ => {
                        let (from_offset, len) = (u64::from(b.u8()) * 7, u64::from(b.u8()) * 11);
                        Extended::CopyData { from: handle, from_offset, len, to: other, to_offset: offset }
                    }
                };
                Request::Extended { id, request }
            }
        })]
    }

    fn learn(&mut self, requests: &[Vec<u8>], replies: &[Vec<u8>]) {
        self.sent.extend(requests.concat());
        self.count += u32::try_from(requests.len()).expect("few");
        for reply in replies {
            if let Ok(Reply::Handle { handle, .. }) = Reply::decode(reply) {
                self.handles.push(handle.to_vec());
            }
        }
        self.replies.extend_from_slice(replies);
    }

    /// One of the last handles, open or not.
    fn handle(&self, choice: u8) -> Vec<u8> {
        let at = self.handles.len().wrapping_sub(1 + usize::from(choice % 4));
        self.handles.get(at).cloned().unwrap_or_else(|| b"none".to_vec())
    }
}

impl std::fmt::Display for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut rest = &self.sent[..];
        while let Ok(Some(packet)) = frame(rest) {
            writeln!(f, "  {:?}", Request::decode(packet))?;
            rest = &rest[packet.len() + 4..];
        }
        Ok(())
    }
}

/// Writes of which most go on where the one before ended.
fn writes(id: u32, handle: &[u8], mut offset: u64, b: &mut Bytes<'_>) -> Vec<Vec<u8>> {
    let count = 1 + u32::from(b.u8() % 6);
    (id..id + count)
        .map(|id| {
            let data = vec![b.u8(); usize::from(b.u8())];
            let request = encode(Request::Write { id, handle, offset, data: &data });
            offset += if b.u8() % 8 == 1 { 3 } else { data.len() as u64 };
            request
        })
        .collect()
}

/// One to three components of few names, so that they often meet.
fn path(b: &mut Bytes<'_>) -> Vec<u8> {
    const NAMES: [&[u8]; 8] = [b"a", b"b", b"c", b"a", b"b", b"\xff\n", b"..", b"."];
    let shape = b.u8();
    let mut path = if shape & 64 != 0 { b"/".to_vec() } else { Vec::new() };
    for _ in 0..shape % 3 {
        path.extend_from_slice(NAMES[usize::from(b.u8() % 8)]);
        path.push(b'/');
    }
    // How `.` and `..` fail as a last component is the kernel's own affair.
    path.extend_from_slice(NAMES[usize::from(b.u8() % 6)]);
    path
}

fn encode(request: Request<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    request.encode(&mut bytes);
    bytes
}

/// Bytes of the fuzzer; zeros after the end.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn u8(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }
}

struct Client {
    to: PipeWriter,
    from: PipeReader,
    bytes: Vec<u8>,
    server: JoinHandle<()>,
}

impl Client {
    fn new(vfs: Arc<dyn Vfs>) -> Self {
        let (input, to) = std::io::pipe().expect("a pipe");
        let (from, output) = std::io::pipe().expect("a pipe");
        let server = std::thread::spawn(move || {
            serve(Config::default(), vfs, Box::new(Silent), input, output).expect("a session without fault");
        });
        let mut client = Self { to, from, bytes: Vec::new(), server };
        client.call(&[encode(Request::Init { version: 3 })]);
        client
    }

    /// Sends requests and gives their replies, by id.
    fn call(&mut self, requests: &[Vec<u8>]) -> Vec<Vec<u8>> {
        self.raw(&requests.concat(), requests.len())
    }

    fn raw(&mut self, requests: &[u8], count: usize) -> Vec<Vec<u8>> {
        let mut to = self.to.try_clone().expect("a descriptor");
        std::thread::scope(|scope| {
            // A long sequence fills both pipes.
            if requests.len() > 60_000 {
                scope.spawn(move || to.write_all(requests).expect("the server reads"));
            } else {
                to.write_all(requests).expect("the server reads");
            }
            let mut replies: Vec<Vec<u8>> = (0..count).map(|_| self.reply()).collect();
            replies.sort_by_key(|reply| u32::from_be_bytes(reply[1..5].try_into().expect("four bytes")));
            replies
        })
    }

    fn reply(&mut self) -> Vec<u8> {
        loop {
            if let Some(packet) = frame(&self.bytes).expect("a good reply") {
                let packet = packet.to_vec();
                self.bytes.drain(..packet.len() + 4);
                return packet;
            }
            let mut buf = [0; 1 << 16];
            let n = match self.from.read(&mut buf) {
                // The fuzzer's own timer.
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                read => read.expect("the server answers"),
            };
            assert_ne!(n, 0, "the server has ended");
            self.bytes.extend_from_slice(&buf[..n]);
        }
    }

    fn end(self) {
        let Self { to, from, server, .. } = self;
        drop(to);
        server.join().expect("the server ends well");
        drop(from);
    }
}
