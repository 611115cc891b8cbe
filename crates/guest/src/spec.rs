//! What to run, and how it ended.

use sandgate_wire::message::Program;

/// A terminal's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WindowSize {
    /// Columns, in characters.
    pub cols: u32,
    /// Rows, in characters.
    pub rows: u32,
    /// Width in pixels; 0 when unknown.
    pub xpixel: u32,
    /// Height in pixels; 0 when unknown.
    pub ypixel: u32,
}

/// The terminal that a client asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PtySpec {
    /// The value of TERM.
    pub term: Vec<u8>,
    /// Columns, in characters.
    pub cols: u32,
    /// Rows, in characters.
    pub rows: u32,
    /// Width in pixels; 0 when unknown.
    pub xpixel: u32,
    /// Height in pixels; 0 when unknown.
    pub ypixel: u32,
    /// Encoded terminal modes, exactly as in RFC 4254 section 8.
    pub modes: Vec<u8>,
}

/// A process to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecSpec {
    /// Login name, `uid` or `uid:gid`; `None` for the agent's default user.
    pub user: Option<Vec<u8>>,
    /// What to run.
    pub program: Program,
    /// The terminal; `None` for three pipes.
    pub pty: Option<PtySpec>,
    /// Client variables, already filtered; applied last, in order.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Working directory; `None` for the user's home, falling back to `/`.
    pub cwd: Option<Vec<u8>>,
    /// The value of SSH_CONNECTION (`client-ip client-port server-ip server-port`).
    pub ssh_connection: Option<Vec<u8>>,
    /// The value of SSH_CLIENT (`client-ip client-port server-port`).
    pub ssh_client: Option<Vec<u8>>,
}

impl ExecSpec {
    /// A process without terminal, environment or user; set the public fields for more.
    pub fn new(program: Program) -> Self {
        Self {
            user: None,
            program,
            pty: None,
            env: Vec::new(),
            cwd: None,
            ssh_connection: None,
            ssh_client: None,
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitStatus {
    /// It ended by itself with this code.
    Code(u32),
    /// A signal ended it.
    Signal {
        /// Name without `SIG`, as in RFC 4254 section 6.10 (`KILL`, `TERM`, …); real-time signals as `RTMIN+n`.
        name: String,
        /// Whether a core image was written.
        core_dumped: bool,
        /// A sentence for people; may be empty.
        message: String,
    },
}
