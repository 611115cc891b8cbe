//! Payloads of control frames. Each type has `encode` (to payload bytes) and `decode` (checked and bounded).

use crate::codec::{Reader, WriteFields};
use crate::frame::MAX_PAYLOAD;
use crate::{DecodeError, VERSION_MAX, VERSION_MIN};

/// First bytes of every link.
pub const MAGIC: [u8; 8] = *b"SANDGATE";
/// Longest software name and version, in bytes.
const MAX_SOFTWARE: usize = 64;
/// Longest explanation of a refusal or an exit, in bytes.
pub const MAX_TEXT: usize = 512;
/// Longest signal name, in bytes (`RTMIN+30` is the longest real one).
pub const MAX_SIGNAL_NAME: usize = 32;
/// Most environment variables in one Open. Linux would take more; no client sends this many.
pub const MAX_ENV: usize = 1024;
/// Most arguments in one Open.
pub const MAX_ARGS: usize = 16 * 1024;

/// The first frame of each side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Oldest version spoken.
    pub version_min: u16,
    /// Newest version spoken.
    pub version_max: u16,
    /// `CAP_*` bits.
    pub capabilities: u64,
    /// Bytes of data that the sender is ready to take on each stream before it gives credit.
    pub window: u32,
    /// Name and version, for logs.
    pub software: String,
}

impl Hello {
    /// The hello of this code.
    pub fn new(software: &str, capabilities: u64) -> Self {
        Self {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            capabilities,
            window: crate::STREAM_WINDOW,
            software: software.to_owned(),
        }
    }

    /// The newest version that both sides speak.
    pub fn agree(&self, peer: &Hello) -> Option<u16> {
        let version = self.version_max.min(peer.version_max);
        (version >= self.version_min && version >= peer.version_min).then_some(version)
    }

    /// Payload bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.put_u16(self.version_min);
        out.put_u16(self.version_max);
        out.put_u64(self.capabilities);
        out.put_u32(self.window);
        out.put_bytes(cut(&self.software, MAX_SOFTWARE));
        out
    }

    /// Bytes after the known fields are ignored here, and only here: later versions may add some.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(payload);
        if r.take(MAGIC.len()) != Ok(&MAGIC) {
            return Err(DecodeError::BadMagic);
        }
        let hello = Self {
            version_min: r.u16()?,
            version_max: r.u16()?,
            capabilities: r.u64()?,
            window: r.u32()?,
            software: r.text(MAX_SOFTWARE)?,
        };
        if hello.version_min > hello.version_max {
            return Err(DecodeError::BadValue);
        }
        Ok(hello)
    }
}

/// What the host asks for on a new stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Open {
    /// Start a process.
    Exec(Box<Exec>),
    /// Say who you are. Answered by Opened and nothing else.
    Info,
    /// A type that this version does not serve (3 SFTP, 4 dial, 5 listen, 6 accept are reserved).
    Unsupported(u8),
}

/// A terminal's size in characters and pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Columns.
    pub cols: u32,
    /// Rows.
    pub rows: u32,
    /// Width in pixels.
    pub xpixel: u32,
    /// Height in pixels.
    pub ypixel: u32,
}

/// The program of an [`Exec`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// The login shell.
    Shell,
    /// A command line for the login shell.
    Command(Vec<u8>),
    /// A program and its arguments.
    Argv(Vec<Vec<u8>>),
}

/// The terminal of an [`Exec`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pty {
    /// TERM.
    pub term: Vec<u8>,
    /// First size.
    pub size: Size,
    /// RFC 4254 section 8.
    pub modes: Vec<u8>,
}

/// A process to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// The three stdio pipes came with this frame.
    pub passed_stdio: bool,
    /// Login name, uid, or uid:gid.
    pub user: Option<Vec<u8>>,
    /// What to run.
    pub program: Program,
    /// Terminal or pipes.
    pub pty: Option<Pty>,
    /// Variables, in order.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Working directory.
    pub cwd: Option<Vec<u8>>,
    /// SSH_CONNECTION.
    pub ssh_connection: Option<Vec<u8>>,
    /// SSH_CLIENT.
    pub ssh_client: Option<Vec<u8>>,
}

impl Size {
    fn put(self, out: &mut Vec<u8>) {
        for v in [self.cols, self.rows, self.xpixel, self.ypixel] {
            out.put_u32(v);
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { cols: r.u32()?, rows: r.u32()?, xpixel: r.u32()?, ypixel: r.u32()? })
    }

    /// Payload of a Resize.
    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        self.put(&mut out);
        out
    }

    /// Payload of a Resize.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(payload);
        let size = Self::read(&mut r)?;
        r.finish()?;
        Ok(size)
    }
}

impl Open {
    /// Payload bytes, or `TooLong` when the request exceeds one frame or a count limit.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        let mut out = Vec::new();
        match self {
            Open::Exec(exec) => {
                out.put_u8(1);
                exec.put(&mut out);
            }
            Open::Info => out.put_u8(2),
            Open::Unsupported(kind) => out.put_u8(*kind),
        }
        let counts = match self {
            Open::Exec(exec) => {
                exec.env.len() <= MAX_ENV && !matches!(&exec.program, Program::Argv(a) if a.len() > MAX_ARGS)
            }
            _ => true,
        };
        if out.len() > MAX_PAYLOAD || !counts { Err(DecodeError::TooLong) } else { Ok(out) }
    }

    /// Checked and bounded. Strings that end up in system calls hold no NUL byte.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(payload);
        let open = match r.u8()? {
            1 => Open::Exec(Box::new(Exec::read(&mut r)?)),
            2 => Open::Info,
            other => return Ok(Open::Unsupported(other)),
        };
        r.finish()?;
        Ok(open)
    }
}

impl Exec {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u8(u8::from(self.passed_stdio));
        out.put_opt_bytes(self.user.as_deref());
        match &self.program {
            Program::Shell => out.put_u8(0),
            Program::Command(line) => {
                out.put_u8(1);
                out.put_bytes(line);
            }
            Program::Argv(argv) => {
                out.put_u8(2);
                out.put_u32(u32::try_from(argv.len()).unwrap_or(u32::MAX));
                argv.iter().for_each(|a| out.put_bytes(a));
            }
        }
        match &self.pty {
            None => out.put_u8(0),
            Some(pty) => {
                out.put_u8(1);
                out.put_bytes(&pty.term);
                pty.size.put(out);
                out.put_bytes(&pty.modes);
            }
        }
        out.put_u32(u32::try_from(self.env.len()).unwrap_or(u32::MAX));
        for (name, value) in &self.env {
            out.put_bytes(name);
            out.put_bytes(value);
        }
        out.put_opt_bytes(self.cwd.as_deref());
        out.put_opt_bytes(self.ssh_connection.as_deref());
        out.put_opt_bytes(self.ssh_client.as_deref());
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let passed_stdio = r.flag()?;
        let user = opt_c_bytes(r)?;
        let program = match r.u8()? {
            0 => Program::Shell,
            1 => Program::Command(c_bytes(r)?),
            2 => {
                let n = count(r, MAX_ARGS)?;
                let mut argv = Vec::new();
                for _ in 0..n {
                    argv.push(c_bytes(r)?);
                }
                Program::Argv(argv)
            }
            _ => return Err(DecodeError::BadValue),
        };
        let pty = if r.flag()? {
            Some(Pty { term: c_bytes(r)?, size: Size::read(r)?, modes: r.bytes(MAX_PAYLOAD)?.to_vec() })
        } else {
            None
        };
        let n = count(r, MAX_ENV)?;
        let mut env = Vec::new();
        for _ in 0..n {
            let name = c_bytes(r)?;
            if name.is_empty() || name.contains(&b'=') {
                return Err(DecodeError::BadValue);
            }
            env.push((name, c_bytes(r)?));
        }
        Ok(Self {
            passed_stdio,
            user,
            program,
            pty,
            env,
            cwd: opt_c_bytes(r)?,
            ssh_connection: opt_c_bytes(r)?,
            ssh_client: opt_c_bytes(r)?,
        })
    }
}

fn count(r: &mut Reader<'_>, max: usize) -> Result<usize, DecodeError> {
    usize::try_from(r.u32()?).ok().filter(|n| *n <= max).ok_or(DecodeError::TooLong)
}

/// A byte string without NUL.
fn c_bytes(r: &mut Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    let bytes = r.bytes(MAX_PAYLOAD)?;
    if bytes.contains(&0) { Err(DecodeError::BadValue) } else { Ok(bytes.to_vec()) }
}

fn opt_c_bytes(r: &mut Reader<'_>) -> Result<Option<Vec<u8>>, DecodeError> {
    match r.opt_bytes(MAX_PAYLOAD)? {
        Some(bytes) if bytes.contains(&0) => Err(DecodeError::BadValue),
        other => Ok(other),
    }
}

/// The agent's yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// A process runs.
    Exec {
        /// It runs on the pipes that came with the Open; no data frames follow.
        passed_stdio: bool,
    },
    /// The answer to [`Open::Info`].
    Info {
        /// Process id of the agent, in its own namespace.
        pid: u32,
        /// User id of the agent, in its own namespace.
        uid: u32,
        /// Running sessions.
        sessions: u32,
    },
}

impl Opened {
    /// Payload bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Opened::Exec { passed_stdio } => {
                out.put_u8(1);
                out.put_u8(u8::from(*passed_stdio));
            }
            Opened::Info { pid, uid, sessions } => {
                out.put_u8(2);
                out.put_u32(*pid);
                out.put_u32(*uid);
                out.put_u32(*sessions);
            }
        }
        out
    }

    /// Checked and bounded.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(payload);
        let opened = match r.u8()? {
            1 => Opened::Exec { passed_stdio: r.flag()? },
            2 => Opened::Info { pid: r.u32()?, uid: r.u32()?, sessions: r.u32()? },
            _ => return Err(DecodeError::BadValue),
        };
        r.finish()?;
        Ok(opened)
    }
}

/// Why something was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// No common protocol version.
    Version,
    /// The agent does not do this.
    Unsupported,
    /// No such login.
    NoSuchUser,
    /// No terminal can be had.
    NoPty,
    /// Too many sessions or streams.
    TooMany,
    /// Out of descriptors, processes or memory.
    Resources,
    /// The request makes no sense.
    BadRequest,
    /// The agent may not become that user.
    NotPermitted,
    /// The agent is ending.
    ShuttingDown,
    /// A relay on the way has lost the agent.
    Unreachable,
    /// A number from a newer version.
    Other(u16),
}

impl Reason {
    /// The number on the wire.
    pub fn code(self) -> u16 {
        match self {
            Reason::Version => 1,
            Reason::Unsupported => 2,
            Reason::NoSuchUser => 3,
            Reason::NoPty => 4,
            Reason::TooMany => 5,
            Reason::Resources => 6,
            Reason::BadRequest => 7,
            Reason::NotPermitted => 8,
            Reason::ShuttingDown => 9,
            Reason::Unreachable => 10,
            Reason::Other(n) => n,
        }
    }

    /// The reason with this number.
    pub fn from_code(n: u16) -> Self {
        match n {
            1 => Reason::Version,
            2 => Reason::Unsupported,
            3 => Reason::NoSuchUser,
            4 => Reason::NoPty,
            5 => Reason::TooMany,
            6 => Reason::Resources,
            7 => Reason::BadRequest,
            8 => Reason::NotPermitted,
            9 => Reason::ShuttingDown,
            10 => Reason::Unreachable,
            n => Reason::Other(n),
        }
    }
}

/// The agent's no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// For programs.
    pub reason: Reason,
    /// For people; printable once decoded.
    pub text: String,
}

impl Refused {
    /// Payload bytes; the text is cut to its limit.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u16(self.reason.code());
        out.put_bytes(cut(&self.text, MAX_TEXT));
        out
    }

    /// Checked and bounded.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(payload);
        let refused = Self { reason: Reason::from_code(r.u16()?), text: r.text(MAX_TEXT)? };
        r.finish()?;
        Ok(refused)
    }
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// By itself.
    Code(u32),
    /// By a signal.
    Signal {
        /// Name without `SIG`.
        name: String,
        /// Whether a core image was written.
        core_dumped: bool,
        /// For people.
        message: String,
    },
}

impl Exit {
    /// Payload bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Exit::Code(code) => {
                out.put_u8(0);
                out.put_u32(*code);
            }
            Exit::Signal { name, core_dumped, message } => {
                out.put_u8(1);
                out.put_u8(u8::from(*core_dumped));
                out.put_bytes(cut(name, MAX_SIGNAL_NAME));
                out.put_bytes(cut(message, MAX_TEXT));
            }
        }
        out
    }

    /// Checked and bounded; the signal name consists of letters, digits and `+-@._`.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(payload);
        let exit = match r.u8()? {
            0 => Exit::Code(r.u32()?),
            1 => Exit::Signal {
                core_dumped: r.flag()?,
                name: signal_name(r.bytes(MAX_SIGNAL_NAME)?)?,
                message: r.text(MAX_TEXT)?,
            },
            _ => return Err(DecodeError::BadValue),
        };
        r.finish()?;
        Ok(exit)
    }
}

/// Checks a signal name (payload of a Signal frame; RFC 4254 section 6.9, without `SIG`).
pub fn signal_name(bytes: &[u8]) -> Result<String, DecodeError> {
    let ok = |b: &u8| b.is_ascii_alphanumeric() || b"+-@._".contains(b);
    if bytes.is_empty() || bytes.len() > MAX_SIGNAL_NAME || !bytes.iter().all(ok) {
        return Err(DecodeError::BadValue);
    }
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// Why a stream was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// Everything was said and taken.
    Done,
    /// The other end of the stream has gone away; what runs on it is to be ended.
    Gone,
}

impl CloseReason {
    /// Payload bytes.
    pub fn encode(self) -> [u8; 1] {
        match self {
            CloseReason::Done => [0],
            CloseReason::Gone => [1],
        }
    }

    /// Anything but "done" counts as gone.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        match payload {
            [0] => Ok(CloseReason::Done),
            [_] => Ok(CloseReason::Gone),
            _ => Err(DecodeError::Truncated),
        }
    }
}

/// The payload of Credit and Break: one u32.
pub fn decode_u32(payload: &[u8]) -> Result<u32, DecodeError> {
    let mut r = Reader::new(payload);
    let n = r.u32()?;
    r.finish()?;
    Ok(n)
}

/// At most `max` bytes of `text`.
fn cut(text: &str, max: usize) -> &[u8] {
    &text.as_bytes()[..text.len().min(max)]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn c_string() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(1..=255u8, 0..40)
    }

    fn arb_exec() -> impl Strategy<Value = Exec> {
        let program = prop_oneof![
            Just(Program::Shell),
            c_string().prop_map(Program::Command),
            proptest::collection::vec(c_string(), 0..5).prop_map(Program::Argv)
        ];
        let pty = (c_string(), any::<[u32; 4]>(), proptest::collection::vec(any::<u8>(), 0..60)).prop_map(
            |(term, [cols, rows, xpixel, ypixel], modes)| Pty {
                term,
                size: Size { cols, rows, xpixel, ypixel },
                modes,
            },
        );
        let name = proptest::collection::vec(b'A'..=b'Z', 1..9);
        (
            any::<bool>(),
            proptest::option::of(c_string()),
            program,
            proptest::option::of(pty),
            proptest::collection::vec((name, c_string()), 0..6),
            proptest::option::of(c_string()),
            proptest::option::of(c_string()),
            proptest::option::of(c_string()),
        )
            .prop_map(|(passed_stdio, user, program, pty, env, cwd, ssh_connection, ssh_client)| {
                Exec { passed_stdio, user, program, pty, env, cwd, ssh_connection, ssh_client }
            })
    }

    proptest! {
        #[test]
        fn exec_round_trip_and_no_prefix_decodes(exec in arb_exec()) {
            let open = Open::Exec(Box::new(exec));
            let bytes = open.encode().unwrap();
            for n in 0..bytes.len() {
                prop_assert!(Open::decode(&bytes[..n]).is_err(), "a prefix of {} bytes decoded", n);
            }
            let mut longer = bytes.clone();
            longer.push(0);
            prop_assert_eq!(Open::decode(&longer), Err(DecodeError::TrailingBytes));
            prop_assert_eq!(Open::decode(&bytes), Ok(open));
        }

        #[test]
        fn random_payloads_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (Open::decode(&bytes), Opened::decode(&bytes), Hello::decode(&bytes), Refused::decode(&bytes));
            let _ = (Exit::decode(&bytes), Size::decode(&bytes), CloseReason::decode(&bytes), decode_u32(&bytes));
        }
    }

    #[test]
    fn small_messages_round_trip() {
        let hello = Hello::new("test 1", 5);
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello.clone()));
        let mut later = hello.encode();
        later.extend_from_slice(b"new field");
        assert_eq!(Hello::decode(&later), Ok(hello));
        for exit in [
            Exit::Code(255),
            Exit::Signal { name: "KILL".into(), core_dumped: true, message: "Killed".into() },
        ] {
            assert_eq!(Exit::decode(&exit.encode()), Ok(exit));
        }
        for opened in [Opened::Exec { passed_stdio: true }, Opened::Info { pid: 1, uid: 2, sessions: 3 }] {
            assert_eq!(Opened::decode(&opened.encode()), Ok(opened));
        }
        for n in 0..12 {
            let refused = Refused { reason: Reason::from_code(n), text: "no".into() };
            assert_eq!(refused.reason.code(), n);
            assert_eq!(Refused::decode(&refused.encode()), Ok(refused));
        }
    }

    #[test]
    fn hostile_text_is_made_harmless() {
        let refused = Refused { reason: Reason::Resources, text: "a\x1b[2J\r\nb\u{9b}".into() };
        assert_eq!(Refused::decode(&refused.encode()).unwrap().text, "a?[2J??b?");
        assert!(signal_name(b"KILL\n").is_err());
        assert!(signal_name(b"").is_err());
        assert_eq!(signal_name(b"RTMIN+3").unwrap(), "RTMIN+3");
    }

    #[test]
    fn versions_agree_on_the_newest_common_one() {
        let with = |version_min, version_max| Hello { version_min, version_max, ..Hello::new("x", 0) };
        assert_eq!(with(1, 3).agree(&with(2, 5)), Some(3));
        assert_eq!(with(1, 1).agree(&with(1, 1)), Some(1));
        assert_eq!(with(1, 2).agree(&with(3, 4)), None);
        assert_eq!(with(3, 4).agree(&with(1, 2)), None);
    }

    #[test]
    fn environment_rules() {
        let with = |name: &[u8], value: &[u8]| {
            let exec = Exec {
                passed_stdio: false,
                user: None,
                program: Program::Shell,
                pty: None,
                env: vec![(name.to_vec(), value.to_vec())],
                cwd: None,
                ssh_connection: None,
                ssh_client: None,
            };
            Open::decode(&Open::Exec(Box::new(exec)).encode().unwrap())
        };
        assert!(with(b"LC_X", b"\xff").is_ok());
        assert!(with(b"A=B", b"x").is_err());
        assert!(with(b"", b"x").is_err());
        assert!(with(b"A", b"x\0y").is_err());
    }
}
