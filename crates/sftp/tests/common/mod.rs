//! A client for tests: one request, one reply, or several at once, over pipes to a server thread.
#![allow(dead_code, reason = "each test file uses a part")]

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use sandgate_sftp::audit::{Audit, Event};
use sandgate_sftp::codec::{Attrs, Extended, Reply, Request, Status, frame};
use sandgate_sftp::vfs::{OpenFlags, OsVfs, RootedVfs, Vfs};
use sandgate_sftp::{Config, ServeError, serve};

pub const READ: OpenFlags = OpenFlags::READ;
pub const WRITE: OpenFlags = OpenFlags::WRITE;
pub const NEW: OpenFlags = OpenFlags(2 | 8 | 16);

/// Keeps what is recorded.
#[derive(Clone, Default)]
pub struct Record(pub Arc<Mutex<Vec<String>>>);

impl Audit for Record {
    fn record(&mut self, event: &Event<'_>) -> std::io::Result<()> {
        self.0.lock().unwrap().push(String::from_utf8(event.format()).unwrap());
        Ok(())
    }
}

/// A reply that owns its bytes.
pub struct Answer(Vec<u8>);

impl Answer {
    pub fn reply(&self) -> Reply<'_> {
        Reply::decode(&self.0).unwrap()
    }

    /// The code of a STATUS.
    #[track_caller]
    pub fn status(&self) -> Status {
        match self.reply() {
            Reply::Status { status, message, .. } => {
                assert_eq!(message, status.message().as_bytes());
                status
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn id(&self) -> u32 {
        u32::from_be_bytes(self.0[1..5].try_into().unwrap())
    }
}

pub struct Client {
    to: Option<PipeWriter>,
    from: PipeReader,
    bytes: Vec<u8>,
    server: Option<JoinHandle<Result<(), ServeError>>>,
    pub record: Record,
}

impl Client {
    pub fn new() -> Self {
        Self::with(Config::default(), Arc::new(OsVfs::new()))
    }

    pub fn rooted(root: &Path) -> Self {
        use std::os::unix::ffi::OsStrExt;
        Self::with(Config::default(), Arc::new(RootedVfs::new(root.as_os_str().as_bytes()).unwrap()))
    }

    pub fn with(config: Config, vfs: Arc<dyn Vfs>) -> Self {
        Self::over(std::io::pipe().unwrap(), config, vfs)
    }

    /// At a pipe as large as the gateway makes them, so that large pieces of files are not copied.
    pub fn at_large_pipe() -> Self {
        let pipe = std::io::pipe().unwrap();
        rustix::pipe::fcntl_setpipe_size(&pipe.1, 1 << 20).unwrap();
        Self::over(pipe, Config::default(), Arc::new(OsVfs::new()))
    }

    fn over((from, output): (PipeReader, PipeWriter), config: Config, vfs: Arc<dyn Vfs>) -> Self {
        let (input, to) = std::io::pipe().unwrap();
        let record = Record::default();
        let audit = Box::new(record.clone());
        let server = std::thread::spawn(move || serve(config, vfs, audit, input, output));
        let mut client = Self { to: Some(to), from, bytes: Vec::new(), server: Some(server), record };
        client.send(&[Request::Init { version: 3 }]);
        assert!(matches!(client.receive().unwrap().reply(), Reply::Version { version: 3, .. }));
        client
    }

    /// Sends requests without waiting.
    pub fn send(&mut self, requests: &[Request<'_>]) {
        let mut bytes = Vec::new();
        requests.iter().for_each(|request| request.encode(&mut bytes));
        self.send_bytes(&bytes);
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.to.as_ref().unwrap().write_all(bytes).unwrap();
    }

    /// The next reply; `None` at the end.
    pub fn receive(&mut self) -> Option<Answer> {
        loop {
            if let Some(packet) = frame(&self.bytes).unwrap() {
                let packet = packet.to_vec();
                self.bytes.drain(..packet.len() + 4);
                return Some(Answer(packet));
            }
            let mut buf = vec![0; 1 << 16];
            let n = self.from.read(&mut buf).unwrap();
            if n == 0 {
                return None;
            }
            self.bytes.extend_from_slice(&buf[..n]);
        }
    }

    pub fn call(&mut self, request: Request<'_>) -> Answer {
        self.send(&[request]);
        let answer = self.receive().unwrap();
        assert_eq!(answer.id(), request.id());
        answer
    }

    pub fn extended(&mut self, request: Extended<'_>) -> Answer {
        self.call(Request::Extended { id: 9, request })
    }

    #[track_caller]
    pub fn open(&mut self, path: &[u8], flags: OpenFlags) -> Result<Vec<u8>, Status> {
        self.handle(Request::Open { id: 1, path, flags, attrs: Attrs::default() })
    }

    #[track_caller]
    pub fn opendir(&mut self, path: &[u8]) -> Result<Vec<u8>, Status> {
        self.handle(Request::Opendir { id: 1, path })
    }

    #[track_caller]
    fn handle(&mut self, request: Request<'_>) -> Result<Vec<u8>, Status> {
        let answer = self.call(request);
        match answer.reply() {
            Reply::Handle { handle, .. } => Ok(handle.to_vec()),
            Reply::Status { status, .. } => Err(status),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn read(&mut self, handle: &[u8], offset: u64, len: u32) -> Result<Vec<u8>, Status> {
        let answer = self.call(Request::Read { id: 2, handle, offset, len });
        match answer.reply() {
            Reply::Data { data, .. } => Ok(data.to_vec()),
            Reply::Status { status, .. } => Err(status),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn write(&mut self, handle: &[u8], offset: u64, data: &[u8]) -> Status {
        self.call(Request::Write { id: 3, handle, offset, data }).status()
    }

    #[track_caller]
    pub fn close(&mut self, handle: &[u8]) -> Status {
        self.call(Request::Close { id: 4, handle }).status()
    }

    #[track_caller]
    pub fn attrs(&mut self, request: Request<'_>) -> Result<Attrs, Status> {
        let answer = self.call(request);
        match answer.reply() {
            Reply::Attrs { attrs, .. } => Ok(attrs),
            Reply::Status { status, .. } => Err(status),
            other => panic!("{other:?}"),
        }
    }

    /// The one name of a NAME reply.
    #[track_caller]
    pub fn name(&mut self, request: Request<'_>) -> Result<Vec<u8>, Status> {
        let answer = self.call(request);
        match answer.reply() {
            Reply::Name { mut names, .. } => Ok(names.next().unwrap().name.to_vec()),
            Reply::Status { status, .. } => Err(status),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn realpath(&mut self, path: &[u8]) -> Result<Vec<u8>, Status> {
        self.name(Request::Realpath { id: 5, path })
    }

    /// All names and long names of a directory.
    #[track_caller]
    pub fn list(&mut self, path: &[u8]) -> Vec<(Vec<u8>, Vec<u8>, Attrs)> {
        let handle = self.opendir(path).unwrap();
        let mut all = Vec::new();
        loop {
            let answer = self.call(Request::Readdir { id: 6, handle: &handle });
            match answer.reply() {
                Reply::Name { names, .. } => {
                    all.extend(names.map(|n| (n.name.to_vec(), n.long.to_vec(), n.attrs)))
                }
                Reply::Status { status, .. } => {
                    assert_eq!(status, Status::EOF);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(self.close(&handle), Status::OK);
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Takes the sending side, to use it on a thread.
    pub fn take_writer(&mut self) -> PipeWriter {
        self.to.take().unwrap()
    }

    /// Closes our side and gives how the server ended.
    pub fn end(&mut self) -> Result<(), ServeError> {
        self.to = None;
        while self.receive().is_some() {}
        self.server.take().unwrap().join().unwrap()
    }

    /// Closes our side without reading what is left.
    pub fn vanish(self) -> Result<(), ServeError> {
        let Self { to, from, mut server, .. } = self;
        drop((to, from));
        server.take().unwrap().join().unwrap()
    }

    pub fn recorded(&self) -> Vec<String> {
        self.record.0.lock().unwrap().clone()
    }
}

/// A path below a directory, as bytes.
pub fn at(dir: &Path, name: &[u8]) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    [dir.as_os_str().as_bytes(), b"/", name].concat()
}

/// Says why a test did nothing, and notes it where `make test` looks for skips.
pub fn skip(reason: &str) {
    println!("skipped: {reason}");
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    // target/<profile>/sandgate-sftp-server
    let program = Path::new(env!("CARGO_BIN_EXE_sandgate-sftp-server"));
    let Some(target) = program.ancestors().nth(2) else { return };
    let file = std::fs::File::options().create(true).append(true).open(target.join("test-skips.txt"));
    // One write, so that lines of parallel tests do not mix.
    let _ = file.and_then(|mut file| file.write_all(format!("{name}: {reason}\n").as_bytes()));
}
