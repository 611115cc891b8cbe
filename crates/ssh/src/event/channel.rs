//! Questions of the connection protocol (RFC 4254, OpenSSH PROTOCOL): opens, forwards and channel requests.
//!
//! Everything that the RFC does not promise to be text is bytes.

/// What the client wants to open.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChannelOpen {
    /// `session`: a shell, command or subsystem will be asked for on it.
    Session,
    /// `direct-tcpip` (`ssh -L`, `-W`, `-D`, `-J`): connect from here.
    DirectTcpip {
        /// The host to connect to, as the user typed it.
        host: Vec<u8>,
        /// The port; the core refuses opens whose port is above 65535.
        port: u16,
        /// The address from which the client's own connection came.
        originator: Vec<u8>,
        /// Its port (0 when it makes no sense).
        originator_port: u16,
    },
    /// `direct-streamlocal@openssh.com`: connect to a Unix socket.
    DirectStreamlocal {
        /// The socket's path.
        path: Vec<u8>,
    },
}

/// A channel that we open towards the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerOpen {
    /// `forwarded-tcpip`: somebody connected to a port listened on for the client (RFC 4254 §7.2).
    ForwardedTcpip {
        /// The address as the client asked for it in `tcpip-forward`.
        address: Vec<u8>,
        /// The bound port.
        port: u32,
        /// Who connected.
        originator: Vec<u8>,
        /// From which port.
        originator_port: u32,
    },
    /// `forwarded-streamlocal@openssh.com`.
    ForwardedStreamlocal {
        /// The socket's path as the client asked for it.
        path: Vec<u8>,
    },
    /// `auth-agent@openssh.com`: somebody wants to talk to the client's agent.
    AuthAgent,
    /// `x11` (RFC 4254 §6.3.2).
    X11 {
        /// Who connected.
        originator: Vec<u8>,
        /// From which port.
        originator_port: u32,
    },
}

/// The reason codes of `SSH_MSG_CHANNEL_OPEN_FAILURE` (RFC 4254 §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpenReason {
    /// 1: not allowed.
    AdministrativelyProhibited,
    /// 2: the far end could not be reached.
    ConnectFailed,
    /// 3: nobody knows this channel type.
    UnknownChannelType,
    /// 4: a limit was reached.
    ResourceShortage,
    /// Any other code a peer sent.
    Other(u32),
}

impl OpenReason {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::AdministrativelyProhibited => 1,
            Self::ConnectFailed => 2,
            Self::UnknownChannelType => 3,
            Self::ResourceShortage => 4,
            Self::Other(code) => code,
        }
    }

    /// From the number on the wire.
    #[must_use]
    pub const fn from_code(code: u32) -> Self {
        match code {
            1 => Self::AdministrativelyProhibited,
            2 => Self::ConnectFailed,
            3 => Self::UnknownChannelType,
            4 => Self::ResourceShortage,
            other => Self::Other(other),
        }
    }
}

/// Why a channel could not be opened, in either direction. Stock `ssh` shows the text to the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct OpenFailure {
    /// The code.
    pub reason: OpenReason,
    /// One sentence for the user.
    pub text: String,
}

impl OpenFailure {
    /// A failure with a code and a sentence for the user.
    pub fn new(reason: OpenReason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }

    /// `SSH_OPEN_ADMINISTRATIVELY_PROHIBITED`.
    pub fn prohibited(text: impl Into<String>) -> Self {
        Self::new(OpenReason::AdministrativelyProhibited, text)
    }

    /// `SSH_OPEN_CONNECT_FAILED`.
    pub fn connect_failed(text: impl Into<String>) -> Self {
        Self::new(OpenReason::ConnectFailed, text)
    }

    /// `SSH_OPEN_RESOURCE_SHORTAGE`. The text should name the limit.
    pub fn shortage(text: impl Into<String>) -> Self {
        Self::new(OpenReason::ResourceShortage, text)
    }
}

/// A global request that sets up or removes a listener (`ssh -R`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardRequest {
    /// `tcpip-forward`. With port 0 the answer carries the port chosen.
    Tcpip {
        /// The address to bind, as typed: empty, `*`, `localhost`, an address (RFC 4254 §7.1).
        address: Vec<u8>,
        /// The port, 0 for any; the core refuses values above 65535.
        port: u16,
    },
    /// `cancel-tcpip-forward`.
    CancelTcpip {
        /// As in the request that is cancelled.
        address: Vec<u8>,
        /// The port, the chosen one if 0 was asked for.
        port: u16,
    },
    /// `streamlocal-forward@openssh.com`.
    Streamlocal {
        /// The socket's path.
        path: Vec<u8>,
    },
    /// `cancel-streamlocal-forward@openssh.com`.
    CancelStreamlocal {
        /// The socket's path.
        path: Vec<u8>,
    },
}

/// `pty-req` (RFC 4254 §6.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PtyRequest {
    /// The value for `TERM`.
    pub term: Vec<u8>,
    /// The size.
    pub size: WindowChange,
    /// Terminal modes as encoded on the wire (RFC 4254 §8).
    pub modes: Vec<u8>,
}

/// A terminal size; 0 means that the value is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WindowChange {
    /// Width in characters.
    pub columns: u32,
    /// Height in characters.
    pub rows: u32,
    /// Width in pixels.
    pub x_pixels: u32,
    /// Height in pixels.
    pub y_pixels: u32,
}

/// `x11-req` (RFC 4254 §6.3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X11Request {
    /// One connection only, or many.
    pub connections: X11Connections,
    /// The authentication protocol's name.
    pub protocol: Vec<u8>,
    /// The (fake) cookie, in hexadecimal.
    pub cookie: Vec<u8>,
    /// The screen number.
    pub screen: u32,
}

/// How many X11 connections are to be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum X11Connections {
    /// One, then no more.
    Single,
    /// Any number.
    Many,
}

/// A request of the client on a channel, without its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChannelRequest {
    /// `pty-req`.
    Pty(PtyRequest),
    /// `env`: name and value are bytes.
    Env {
        /// The variable's name.
        name: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
    /// `shell`.
    Shell,
    /// `exec`.
    Exec {
        /// The command line, unchanged.
        command: Vec<u8>,
    },
    /// `subsystem`.
    Subsystem {
        /// Its name, as `sftp`.
        name: Vec<u8>,
    },
    /// `window-change`. Only the newest is kept if several wait to be taken.
    WindowChange(WindowChange),
    /// `signal`: the name without `SIG`.
    Signal {
        /// As `INT` or `TERM`.
        name: Vec<u8>,
    },
    /// `break` (RFC 4335).
    Break {
        /// How long, in milliseconds.
        milliseconds: u32,
    },
    /// `eow@openssh.com`: the client's consumer is gone; it will discard what we send. The program should get SIGPIPE.
    EndOfWrite,
    /// `auth-agent-req@openssh.com`.
    AgentForward,
    /// `x11-req`.
    X11(X11Request),
}

/// Which of the two streams towards the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// Ordinary channel data.
    Stdout,
    /// Extended data of type 1 (RFC 4254 §5.2).
    Stderr,
}

/// `exit-signal` (RFC 4254 §6.10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitSignal {
    /// The name without `SIG`.
    pub name: String,
    /// Whether a core was dumped.
    pub core: CoreDump,
    /// A message, may be empty.
    pub message: String,
}

/// Whether the process left a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoreDump {
    /// It did.
    Dumped,
    /// It did not.
    None,
}
