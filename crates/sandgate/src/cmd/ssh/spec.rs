//! What `-L` and `-R` say, in ssh's own writing.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;

use sandgate_guest::Address;

/// One forward: where to listen, and where to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    pub listen: Listen,
    pub connect: Address,
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `bind`: `None` for loopback; empty or `*` for all addresses.
    Tcp {
        bind: Option<Vec<u8>>,
        port: u16,
    },
    Unix {
        path: Vec<u8>,
    },
}

/// All values of an option.
pub fn parse_all(option: &str, values: &[OsString]) -> anyhow::Result<Vec<Forward>> {
    let one = |value: &OsString| {
        parse(value.as_bytes())
            .map_err(|error| anyhow::anyhow!("{option} {}: {error}", value.to_string_lossy()))
    };
    values.iter().map(one).collect()
}

/// `[BIND:]PORT:HOST:HOSTPORT`, where a path (it holds a slash) may stand for `[BIND:]PORT` and for `HOST:HOSTPORT`, and an IPv6 address
/// stands in brackets.
pub fn parse(text: &[u8]) -> Result<Forward, &'static str> {
    let fields = split(text)?;
    let fields: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
    let (listen, connect) = match *fields.as_slice() {
        [bind, at, host, to] => (tcp(Some(bind), at)?, address(host, to)?),
        [at, host, to] if is_path(at) => (path(at), address(host, to)?),
        [bind, at, to] if is_path(to) => (tcp(Some(bind), at)?, socket(to)),
        [at, host, to] => (tcp(None, at)?, address(host, to)?),
        [at, to] if is_path(at) && is_path(to) => (path(at), socket(to)),
        [at, to] if is_path(to) => (tcp(None, at)?, socket(to)),
        _ => return Err("write [BIND:]PORT:HOST:HOSTPORT, or the path of a socket on either side"),
    };
    Ok(Forward { listen, connect })
}

/// Cuts at colons outside of brackets, and takes the brackets off.
fn split(text: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    let mut fields = vec![Vec::new()];
    let mut bracket = false;
    for &byte in text {
        match (byte, bracket) {
            (b'[', false) if fields.last().is_none_or(Vec::is_empty) => bracket = true,
            (b']', true) => bracket = false,
            (b':', false) => fields.push(Vec::new()),
            _ => {
                if let Some(field) = fields.last_mut() {
                    field.push(byte);
                }
            }
        }
    }
    if bracket { Err("a bracket is not closed") } else { Ok(fields) }
}

fn is_path(field: &[u8]) -> bool {
    field.contains(&b'/')
}

fn path(field: &[u8]) -> Listen {
    Listen::Unix { path: field.to_vec() }
}

fn socket(field: &[u8]) -> Address {
    Address::Unix { path: field.to_vec() }
}

fn tcp(bind: Option<&[u8]>, at: &[u8]) -> Result<Listen, &'static str> {
    Ok(Listen::Tcp { bind: bind.map(<[u8]>::to_vec), port: port(at)? })
}

fn address(host: &[u8], to: &[u8]) -> Result<Address, &'static str> {
    match (host, port(to)?) {
        (b"", _) => Err("there is no host to connect to"),
        (_, 0) => Err("there is no port 0 to connect to"),
        (host, port) => Ok(Address::Tcp { host: host.to_vec(), port }),
    }
}

fn port(field: &[u8]) -> Result<u16, &'static str> {
    let digits =
        std::str::from_utf8(field).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).ok_or("a port is a number up to 65535")
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp { bind: None, port } => write!(f, "localhost:{port}"),
            Listen::Tcp { bind: Some(bind), port } if bind.is_empty() => write!(f, "*:{port}"),
            Listen::Tcp { bind: Some(bind), port } => write!(f, "{}", Shown(bind, *port)),
            Listen::Unix { path } => write!(f, "{}", path.escape_ascii()),
        }
    }
}

/// An address for people.
pub fn shown(address: &Address) -> String {
    match address {
        Address::Tcp { host, port } => Shown(host, *port).to_string(),
        Address::Unix { path } => path.escape_ascii().to_string(),
    }
}

struct Shown<'a>(&'a [u8], u16);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.0.escape_ascii();
        if self.0.contains(&b':') { write!(f, "[{host}]:{}", self.1) } else { write!(f, "{host}:{}", self.1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(text: &str) -> (String, String) {
        let forward = parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
        (forward.listen.to_string(), shown(&forward.connect))
    }

    fn pair(listen: &str, connect: &str) -> (String, String) {
        (listen.to_owned(), connect.to_owned())
    }

    #[test]
    fn every_form_of_ssh_is_read() {
        assert_eq!(good("80:db:5432"), pair("localhost:80", "db:5432"));
        assert_eq!(good("*:80:db:5432"), pair("*:80", "db:5432"));
        assert_eq!(good(":80:db:5432"), pair("*:80", "db:5432"));
        assert_eq!(good("127.0.0.2:80:db:5432"), pair("127.0.0.2:80", "db:5432"));
        assert_eq!(good("[::1]:80:[fe80::1]:5432"), pair("[::1]:80", "[fe80::1]:5432"));
        assert_eq!(good("80:/run/db"), pair("localhost:80", "/run/db"));
        assert_eq!(good("::1:80:/run/db".replace("::1", "[::1]").as_str()), pair("[::1]:80", "/run/db"));
        assert_eq!(good("/tmp/a:db:5432"), pair("/tmp/a", "db:5432"));
        assert_eq!(good("./a:/tmp/b"), pair("./a", "/tmp/b"));
        assert_eq!(good("0:localhost:80"), pair("localhost:0", "localhost:80"));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "80",
            "80:db",
            "80:db:",
            "x:db:80",
            "80:db:65536",
            "80:db:0",
            "80::1",
            "1:2:3:4:5",
            "[::1:80:a:1",
            "+8:a:1",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
