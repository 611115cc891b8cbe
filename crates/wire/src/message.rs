//! Payloads of control frames. Each type has `encode` (to payload bytes) and `decode` (checked and bounded).

mod exec;
mod forward;
mod machine;

pub use exec::{Exec, FileProtocol, Files, Program, Pty, Size};
pub use forward::{
    Accept, Address, Dial, Incoming, Listen, ListenAddress, Listening, MAX_HOST, MAX_SOCKET_PATH, Peer,
    decode_unwanted,
};
pub use machine::MachineRequest;

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
    /// Connect to something in the guest. Answered when that has succeeded or failed.
    Dial(Dial),
    /// Listen in the guest until the stream is closed.
    Listen(Listen),
    /// Take a connection that a listening stream has announced.
    Accept(Accept),
    /// Do something with the whole machine. Answered when it is done, or begun.
    Machine(MachineRequest),
    /// A type that this version does not serve.
    Unsupported(u8),
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
            Open::Dial(dial) => {
                out.put_u8(4);
                dial.put(&mut out);
            }
            Open::Listen(listen) => {
                out.put_u8(5);
                listen.put(&mut out);
            }
            Open::Accept(accept) => {
                out.put_u8(6);
                accept.put(&mut out);
            }
            Open::Machine(request) => {
                out.put_u8(7);
                request.put(&mut out);
            }
            Open::Unsupported(kind) => out.put_u8(*kind),
        }
        let counts = match self {
            Open::Exec(exec) => {
                exec.env.len() <= MAX_ENV && !matches!(&exec.program, Program::Argv(a) if a.len() > MAX_ARGS)
            }
            Open::Dial(dial) => dial.address.fits(),
            Open::Listen(listen) => listen.fits(),
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
            4 => Open::Dial(Dial::read(&mut r)?),
            5 => Open::Listen(Listen::read(&mut r)?),
            6 => Open::Accept(Accept::read(&mut r)?),
            7 => Open::Machine(MachineRequest::read(&mut r)?),
            other => return Ok(Open::Unsupported(other)),
        };
        r.finish()?;
        Ok(open)
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
        /// It is the agent's own file server, whether or not that was asked for by name. Its standard error holds a line for
        /// each change and nothing for the client.
        own: bool,
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
    /// The connection is made.
    Dial {
        /// Its data travels on the pipes that came with the Open; no data frames follow.
        passed_stdio: bool,
    },
    /// Somebody may connect now.
    Listen(Listening),
    /// The connection is yours.
    Accept {
        /// Its data travels on the pipes that came with the Open; no data frames follow.
        passed_stdio: bool,
    },
    /// It is done; an end has begun.
    Machine,
}

impl Opened {
    /// Payload bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Opened::Exec { passed_stdio, own } => {
                out.put_u8(1);
                out.put_u8(u8::from(*passed_stdio));
                out.put_u8(u8::from(*own));
            }
            Opened::Info { pid, uid, sessions } => {
                out.put_u8(2);
                out.put_u32(*pid);
                out.put_u32(*uid);
                out.put_u32(*sessions);
            }
            Opened::Dial { passed_stdio } => {
                out.put_u8(4);
                out.put_u8(u8::from(*passed_stdio));
            }
            Opened::Listen(listening) => {
                out.put_u8(5);
                listening.put(&mut out);
            }
            Opened::Accept { passed_stdio } => {
                out.put_u8(6);
                out.put_u8(u8::from(*passed_stdio));
            }
            Opened::Machine => out.put_u8(7),
        }
        out
    }

    /// Checked and bounded.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(payload);
        let opened = match r.u8()? {
            1 => Opened::Exec { passed_stdio: r.flag()?, own: r.flag()? },
            2 => Opened::Info { pid: r.u32()?, uid: r.u32()?, sessions: r.u32()? },
            4 => Opened::Dial { passed_stdio: r.flag()? },
            5 => Opened::Listen(Listening::read(&mut r)?),
            6 => Opened::Accept { passed_stdio: r.flag()? },
            7 => Opened::Machine,
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
    /// Nobody listens where the connection should go to.
    ConnectRefused,
    /// There is no way to the host or network.
    NoRoute,
    /// The other side of the connection did not answer in time.
    ConnectTimeout,
    /// The host name cannot be resolved.
    NameNotFound,
    /// There is nothing at the path, or nothing that one can connect to.
    NotFound,
    /// Somebody listens there already, or the address is not one of the guest's.
    AddressInUse,
    /// No such connection waits (any more).
    NotWaiting,
    /// The login user may not connect or listen there.
    AccessDenied,
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
            Reason::ConnectRefused => 11,
            Reason::NoRoute => 12,
            Reason::ConnectTimeout => 13,
            Reason::NameNotFound => 14,
            Reason::NotFound => 15,
            Reason::AddressInUse => 16,
            Reason::NotWaiting => 17,
            Reason::AccessDenied => 18,
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
            11 => Reason::ConnectRefused,
            12 => Reason::NoRoute,
            13 => Reason::ConnectTimeout,
            14 => Reason::NameNotFound,
            15 => Reason::NotFound,
            16 => Reason::AddressInUse,
            17 => Reason::NotWaiting,
            18 => Reason::AccessDenied,
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
mod tests;
