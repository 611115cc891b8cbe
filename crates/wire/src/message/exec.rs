//! A process to start, its terminal, and the agent's own file servers (Open type 1).

use super::{MAX_ARGS, MAX_ENV, c_bytes, count, opt_c_bytes};
use crate::DecodeError;
use crate::codec::{Reader, WriteFields};
use crate::frame::MAX_PAYLOAD;

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
    /// The agent's own file server, as the login user.
    Files(Files),
}

/// A file server of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// What it speaks.
    pub protocol: FileProtocol,
    /// The directory that the client sees as `/`; relative to the user's home. `None`: no restriction.
    pub root: Option<Vec<u8>>,
    /// Every change is refused.
    pub read_only: bool,
}

/// What a file server speaks on its standard input and output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileProtocol {
    /// SFTP version 3.
    Sftp,
    /// The old protocol of scp, for the command line that the client sent.
    Scp(Vec<u8>),
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
    /// What the process runs on came with this frame: the three stdio pipes, or its side of the terminal.
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

impl Exec {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
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
            Program::Files(files) => {
                out.put_u8(3);
                match &files.protocol {
                    FileProtocol::Sftp => out.put_opt_bytes(None),
                    FileProtocol::Scp(line) => out.put_opt_bytes(Some(line)),
                }
                out.put_opt_bytes(files.root.as_deref());
                out.put_u8(u8::from(files.read_only));
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

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
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
            3 => {
                let protocol = opt_c_bytes(r)?.map_or(FileProtocol::Sftp, FileProtocol::Scp);
                Program::Files(Files { protocol, root: opt_c_bytes(r)?, read_only: r.flag()? })
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
