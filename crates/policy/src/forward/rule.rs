//! Single rules: what each kind looks like, and what it permits.

use std::net::Ipv6Addr;

use crate::env::matches;

/// Longest host name in a rule, in bytes: that of the DNS.
const MAX_HOST: usize = 255;
/// Longest path of a socket, in bytes: Linux's `sun_path` without its NUL.
const MAX_PATH: usize = 107;

/// A port, or every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    Any,
    Number(u16),
}

impl Port {
    fn parse(text: &str) -> Option<Port> {
        if text == "*" {
            return Some(Port::Any);
        }
        let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        number.filter(|port| *port != 0).map(Port::Number)
    }

    fn permits(self, port: u16) -> bool {
        match self {
            Port::Any => true,
            Port::Number(number) => number == port,
        }
    }
}

/// A place: the text as it was written, and what it means.
pub(super) trait Rule: Sized {
    fn parse(text: &str) -> Option<Self>;
    /// The text to show.
    fn text(&self) -> &str;
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct TcpRule {
    text: String,
    host: String,
    port: Port,
}

/// Host and port of `HOST:PORT` or `[V6]:PORT`.
fn host_and_port(text: &str) -> Option<(&str, Port)> {
    let (host, port) = text.rsplit_once(':')?;
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').filter(|host| host.parse::<Ipv6Addr>().is_ok())?,
        None => host,
    };
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"[]/,\"'\\".contains(&byte);
    let good = !bare.is_empty() && bare.len() <= MAX_HOST && bare.bytes().all(plain);
    (good && (bare.len() != host.len() || !bare.contains(':'))).then_some((bare, Port::parse(port)?))
}

/// A rule of PermitOpen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Open(TcpRule);

impl Rule for Open {
    fn parse(text: &str) -> Option<Open> {
        let (host, port) = host_and_port(text)?;
        // sshd would compare these literally, and so never permit anything.
        let wild = host != "*" && host.contains(['*', '?']);
        (!wild).then(|| Open(TcpRule { text: text.to_owned(), host: host.to_owned(), port }))
    }

    fn text(&self) -> &str {
        &self.0.text
    }
}

impl Open {
    pub(super) fn permits(&self, host: &[u8], port: u16) -> bool {
        self.0.port.permits(port) && (self.0.host == "*" || self.0.host.as_bytes() == host)
    }
}

/// A rule of PermitListen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listen(TcpRule);

impl Rule for Listen {
    fn parse(text: &str) -> Option<Listen> {
        let (host, port) = match Port::parse(text) {
            Some(port) => ("*", port),
            None => host_and_port(text)?,
        };
        Some(Listen(TcpRule { text: text.to_owned(), host: host.to_owned(), port }))
    }

    fn text(&self) -> &str {
        &self.0.text
    }
}

impl Listen {
    pub(super) fn permits(&self, host: &[u8], port: u16) -> bool {
        self.0.port.permits(port) && matches(self.0.host.as_bytes(), host)
    }
}

/// A rule for the path of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Socket(String);

/// Whether a path means one thing whatever is on the disk, as far as its text can say.
pub(super) fn is_plain(path: &[u8]) -> bool {
    path.strip_prefix(b"/").is_some_and(|rest| {
        rest.split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b"..")) && !rest.contains(&0)
    })
}

impl Rule for Socket {
    fn parse(text: &str) -> Option<Socket> {
        let wild = text.strip_suffix("/*").unwrap_or(text);
        let good = text.len() <= MAX_PATH
            && (is_plain(wild.as_bytes()) || (wild.is_empty() && !text.is_empty()))
            && !wild.contains('*')
            && !text.chars().any(char::is_control);
        good.then(|| Socket(text.to_owned()))
    }

    fn text(&self) -> &str {
        &self.0
    }
}

impl Socket {
    /// `path` is absolute and plain.
    pub(super) fn permits(&self, path: &[u8]) -> bool {
        let directly_in = |directory: &str| {
            path.strip_prefix(directory.as_bytes())
                .and_then(|rest| rest.strip_prefix(b"/"))
                .is_some_and(|name| !name.is_empty() && !name.contains(&b'/'))
        };
        match self.0.strip_suffix("/*") {
            Some(directory) => directly_in(directory),
            None => path == self.0.as_bytes(),
        }
    }
}

/// The fingerprint of a key, `SHA256:…` as `ssh-add -l` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AgentKey(String);

impl Rule for AgentKey {
    fn parse(text: &str) -> Option<AgentKey> {
        let hash = text.strip_prefix("SHA256:")?;
        let base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/".contains(&byte);
        // The last of the 43 characters stands for 4 bits and two zeroes.
        let ends_well = hash.bytes().last().is_some_and(|byte| b"AEIMQUYcgkosw048".contains(&byte));
        (hash.len() == 43 && hash.bytes().all(base64) && ends_well).then(|| AgentKey(text.to_owned()))
    }

    fn text(&self) -> &str {
        &self.0
    }
}
