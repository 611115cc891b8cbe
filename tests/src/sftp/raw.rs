//! The raw client: requests are bytes, replies are taken when the test wants them.
//!
//! Its numbers and packets are its own, written from the draft, and not those of `sandgate-sftp`: a mistake in one of them would be made on
//! both sides and not be found.

use std::io::{self, Read as _, Write as _};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use crate::process::Guard;
use crate::raw::codec::{Reader, Writer};

/// Packet types.
#[allow(missing_docs, reason = "the draft's own names")]
pub mod kind {
    pub const INIT: u8 = 1;
    pub const VERSION: u8 = 2;
    pub const OPEN: u8 = 3;
    pub const CLOSE: u8 = 4;
    pub const READ: u8 = 5;
    pub const WRITE: u8 = 6;
    pub const LSTAT: u8 = 7;
    pub const FSTAT: u8 = 8;
    pub const OPENDIR: u8 = 11;
    pub const READDIR: u8 = 12;
    pub const REMOVE: u8 = 13;
    pub const MKDIR: u8 = 14;
    pub const RMDIR: u8 = 15;
    pub const REALPATH: u8 = 16;
    pub const STAT: u8 = 17;
    pub const RENAME: u8 = 18;
    pub const READLINK: u8 = 19;
    pub const SYMLINK: u8 = 20;
    pub const STATUS: u8 = 101;
    pub const HANDLE: u8 = 102;
    pub const DATA: u8 = 103;
    pub const NAME: u8 = 104;
    pub const ATTRS: u8 = 105;
}

/// Status codes.
#[allow(missing_docs, reason = "the draft's own names")]
pub mod code {
    pub const OK: u32 = 0;
    pub const EOF: u32 = 1;
    pub const NO_SUCH_FILE: u32 = 2;
    pub const PERMISSION_DENIED: u32 = 3;
    pub const FAILURE: u32 = 4;
    pub const BAD_MESSAGE: u32 = 5;
}

/// Flags of OPEN.
#[allow(missing_docs, reason = "the draft's own names")]
pub mod open {
    pub const READ: u32 = 1;
    pub const WRITE: u32 = 2;
    pub const CREAT: u32 = 8;
    pub const TRUNC: u32 = 16;
}

/// One reply.
#[derive(Debug)]
pub struct Reply {
    /// The packet type.
    pub kind: u8,
    /// The request's number.
    pub id: u32,
    /// What follows the number.
    pub body: Vec<u8>,
}

/// What a STATUS says; as an error it is anything but OK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// See [`code`].
    pub code: u32,
    /// The server's words.
    pub words: String,
}

/// Attributes that the tests ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attrs {
    /// Size in bytes.
    pub size: u64,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Type and mode.
    pub mode: u32,
    /// Access and change, seconds.
    pub times: (u32, u32),
}

/// One entry of a directory.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: Vec<u8>,
    /// What `ls -l` shows.
    pub long: Vec<u8>,
    /// Its attributes.
    pub attrs: Attrs,
}

/// The client. Its `ssh` is killed with it.
pub struct Sftp {
    process: Guard,
    input: Option<ChildStdin>,
    output: ChildStdout,
    next: u32,
}

impl Sftp {
    /// Starts `command` (`ssh -s box sftp`, or a server itself) and begins the session.
    ///
    /// # Panics
    /// When that fails; the command's own words are on standard error.
    pub fn start(command: &mut Command) -> Self {
        let mut process = Guard::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let input = process.child().stdin.take();
        let output = process.child().stdout.take().unwrap();
        let mut client = Self { process, input, output, next: 0 };
        client.write(&packet(Writer::new(kind::INIT).u32(3))).expect("INIT is taken");
        let version = client.packet().expect("the server answers INIT");
        assert_eq!(version[..5], [kind::VERSION, 0, 0, 0, 3]);
        client
    }

    /// The process that carries the session.
    pub fn process(&mut self) -> &mut Guard {
        &mut self.process
    }

    /// Ends the input, as a client does that has done.
    pub fn hang_up(&mut self) {
        self.input = None;
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// Those of the pipe.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.input.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.write_all(bytes)
    }

    /// A request as bytes, and its number. `body` is what follows the number.
    pub fn pack(&mut self, kind: u8, body: &[u8]) -> (u32, Vec<u8>) {
        self.next += 1;
        (self.next, packet(Writer::new(kind).u32(self.next).raw(body)))
    }

    /// Sends a request and does not wait.
    ///
    /// # Panics
    /// When the pipe is gone.
    pub fn send(&mut self, kind: u8, body: Writer) -> u32 {
        let (id, bytes) = self.pack(kind, &body.done());
        self.write(&bytes).expect("the session takes requests");
        id
    }

    /// Sends all these requests at once and collects their replies meanwhile. They are given in the order of the requests.
    ///
    /// # Panics
    /// When the session ends, or answers a request twice or one that was never sent.
    #[track_caller]
    pub fn pipeline(&mut self, requests: impl IntoIterator<Item = (u8, Writer)>) -> Vec<Reply> {
        let first = self.next + 1;
        let packets: Vec<u8> =
            requests.into_iter().flat_map(|(kind, body)| self.pack(kind, &body.done()).1).collect();
        let count = (self.next + 1 - first) as usize;
        let mut input = self.input.take().expect("the session takes requests");
        let writer = std::thread::spawn(move || input.write_all(&packets).map(|()| input));
        let replies = self.collect(first, count);
        self.input = Some(writer.join().expect("the writer").expect("the session takes requests"));
        replies
    }

    /// Collects the replies of `count` requests from the one with this number on, in the order of the requests.
    ///
    /// # Panics
    /// When the session ends, or answers a request twice or one that was never sent.
    #[track_caller]
    pub fn collect(&mut self, first: u32, count: usize) -> Vec<Reply> {
        let mut replies: Vec<Option<Reply>> = (0..count).map(|_| None).collect();
        for _ in 0..count {
            let reply = self.reply().expect("a reply");
            let place = reply.id.checked_sub(first).and_then(|it| replies.get_mut(it as usize));
            let place = place.unwrap_or_else(|| panic!("a reply to no request: {}", reply.id));
            assert!(place.is_none(), "request {} was answered twice", reply.id);
            *place = Some(reply);
        }
        replies.into_iter().flatten().collect()
    }

    /// The next reply.
    ///
    /// # Errors
    /// Those of the pipe, and the end of the stream.
    pub fn reply(&mut self) -> io::Result<Reply> {
        let packet = self.packet()?;
        let mut reader = Reader::new(&packet);
        let (kind, id) = (reader.byte()?, reader.u32()?);
        Ok(Reply { kind, id, body: packet[5..].to_vec() })
    }

    fn packet(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.output.read_exact(&mut length)?;
        let mut packet = vec![0; u32::from_be_bytes(length) as usize];
        self.output.read_exact(&mut packet)?;
        Ok(packet)
    }

    /// Sends a request and waits for its reply, which must be the next.
    #[track_caller]
    fn ask(&mut self, kind: u8, body: Writer) -> Reply {
        let id = self.send(kind, body);
        let reply = self.reply().expect("a reply");
        assert_eq!(reply.id, id, "the reply of another request");
        reply
    }

    /// A request whose only answer is a status.
    ///
    /// # Errors
    /// The status, when it is not OK.
    #[track_caller]
    pub fn tell(&mut self, kind: u8, body: Writer) -> Result<(), Status> {
        let status = self.ask(kind, body).status();
        if status.code == code::OK { Ok(()) } else { Err(status) }
    }

    /// OPEN, with mode 0644.
    ///
    /// # Errors
    /// The status.
    #[track_caller]
    pub fn open(&mut self, path: &[u8], flags: u32) -> Result<Vec<u8>, Status> {
        let body = Writer::default().string(path).u32(flags).u32(4).u32(0o644);
        self.ask(kind::OPEN, body).handle()
    }

    /// CLOSE.
    ///
    /// # Errors
    /// The status.
    #[track_caller]
    pub fn close(&mut self, handle: &[u8]) -> Result<(), Status> {
        self.tell(kind::CLOSE, Writer::default().string(handle))
    }

    /// One READ.
    ///
    /// # Errors
    /// The status; the end of the file is one.
    #[track_caller]
    pub fn read(&mut self, handle: &[u8], offset: u64, len: u32) -> Result<Vec<u8>, Status> {
        self.ask(kind::READ, read_body(handle, offset, len)).data()
    }

    /// One WRITE.
    ///
    /// # Errors
    /// The status.
    #[track_caller]
    pub fn write_at(&mut self, handle: &[u8], offset: u64, data: &[u8]) -> Result<(), Status> {
        self.tell(kind::WRITE, write_body(handle, offset, data))
    }

    /// STAT or LSTAT.
    ///
    /// # Errors
    /// The status.
    #[track_caller]
    pub fn stat(&mut self, kind: u8, path: &[u8]) -> Result<Attrs, Status> {
        let reply = self.ask(kind, Writer::default().string(path));
        match reply.kind {
            kind::ATTRS => Ok(attrs(&mut Reader::new(&reply.body)).expect("attributes")),
            _ => Err(reply.status()),
        }
    }

    /// Lists a directory, handing over each piece that the server sends.
    ///
    /// # Errors
    /// The status.
    #[track_caller]
    pub fn list(&mut self, path: &[u8], mut each: impl FnMut(Vec<Entry>)) -> Result<(), Status> {
        let handle = self.ask(kind::OPENDIR, Writer::default().string(path)).handle()?;
        loop {
            let reply = self.ask(kind::READDIR, Writer::default().string(&handle));
            match reply.kind {
                kind::NAME => each(reply.entries()),
                _ if reply.status().code == code::EOF => return self.close(&handle),
                _ => return Err(reply.status()),
            }
        }
    }

    /// READLINK or REALPATH.
    ///
    /// # Errors
    /// The status.
    #[track_caller]
    pub fn name(&mut self, kind: u8, path: &[u8]) -> Result<Vec<u8>, Status> {
        let reply = self.ask(kind, Writer::default().string(path));
        match reply.kind {
            kind::NAME => Ok(reply.entries().remove(0).name),
            _ => Err(reply.status()),
        }
    }
}

/// The body of a READ.
pub fn read_body(handle: &[u8], offset: u64, len: u32) -> Writer {
    Writer::default().string(handle).raw(&offset.to_be_bytes()).u32(len)
}

/// The body of a WRITE.
pub fn write_body(handle: &[u8], offset: u64, data: &[u8]) -> Writer {
    Writer::default().string(handle).raw(&offset.to_be_bytes()).string(data)
}

fn packet(message: Writer) -> Vec<u8> {
    Writer::default().string(message.done()).done()
}

impl Reply {
    /// What a STATUS says.
    ///
    /// # Panics
    /// When it is another reply.
    #[track_caller]
    pub fn status(&self) -> Status {
        assert_eq!(self.kind, kind::STATUS, "not a status: {self:?}");
        let mut reader = Reader::new(&self.body);
        Status { code: reader.u32().unwrap(), words: reader.text().unwrap() }
    }

    /// The data of a DATA, or what the STATUS in its place says.
    ///
    /// # Errors
    /// The status.
    #[track_caller]
    pub fn data(&self) -> Result<Vec<u8>, Status> {
        match self.kind {
            kind::DATA => Ok(Reader::new(&self.body).string().expect("data").to_vec()),
            _ => Err(self.status()),
        }
    }

    #[track_caller]
    fn handle(&self) -> Result<Vec<u8>, Status> {
        match self.kind {
            kind::HANDLE => Ok(Reader::new(&self.body).string().expect("a handle").to_vec()),
            _ => Err(self.status()),
        }
    }

    #[track_caller]
    fn entries(&self) -> Vec<Entry> {
        let mut reader = Reader::new(&self.body);
        let count = reader.u32().expect("a count");
        let mut entry = || {
            let (name, long) = (reader.string()?.to_vec(), reader.string()?.to_vec());
            Ok::<_, io::Error>(Entry { name, long, attrs: attrs(&mut reader)? })
        };
        (0..count).map(|_| entry().expect("an entry")).collect()
    }
}

fn attrs(reader: &mut Reader<'_>) -> io::Result<Attrs> {
    let flags = reader.u32()?;
    let mut attrs = Attrs::default();
    if flags & 1 != 0 {
        attrs.size = u64::from(reader.u32()?) << 32 | u64::from(reader.u32()?);
    }
    if flags & 2 != 0 {
        attrs.owner = (reader.u32()?, reader.u32()?);
    }
    if flags & 4 != 0 {
        attrs.mode = reader.u32()?;
    }
    if flags & 8 != 0 {
        attrs.times = (reader.u32()?, reader.u32()?);
    }
    Ok(attrs)
}
