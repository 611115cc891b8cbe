//! Where the agent of a machine that is not ours is met, as the owner writes it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::InvalidSpec;

/// The longest link, in bytes: a long command fits.
const MAX_LINK: usize = 8192;
/// The longest path of a Unix socket in bytes (`sun_path` without its final zero).
const MAX_SOCKET_PATH: usize = 107;
/// The addresses of vsock that name no guest: the hypervisor, the machine itself (loopback), its host.
const FIRST_GUEST_CID: u32 = 3;

/// A way to an agent that somebody else has started. As text: `unix:/PATH`, `hybrid:/PATH:PORT`, `vsock:CID:PORT`, `exec:COMMAND`,
/// `tcp:HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ExternalLink {
    /// A Unix socket on which the agent listens. Whoever can replace the socket decides where sessions go.
    Unix(PathBuf),
    /// A vsock port behind the Unix socket of a virtual machine monitor, as Firecracker and Cloud Hypervisor have it: `CONNECT PORT`
    /// and a line with `OK` come first.
    Hybrid {
        /// The monitor's socket.
        socket: PathBuf,
        /// The agent's port.
        port: u32,
    },
    /// A vsock port, by the kernel's own vhost-vsock.
    Vsock {
        /// The guest's address.
        cid: u32,
        /// The agent's port.
        port: u32,
    },
    /// A program whose standard input and output are those of an agent with `--stdio`. Split into words as a shell does, and run without one.
    Exec(String),
    /// A TCP port, with TLS in which both sides show a certificate.
    Tcp {
        /// Name or address; the certificate must be for it.
        host: String,
        /// The port.
        port: u16,
    },
}

/// The files of mutual TLS, PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Whom to trust: the authorities that sign the guest's certificate, and no others.
    pub ca: PathBuf,
    /// Our certificate, and those between it and its authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// How a sandbox of the driver `external` is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct External {
    /// The way.
    pub link: ExternalLink,
    /// For `tcp:` and for nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFiles>,
}

impl External {
    /// Checks what can be checked without looking at the machine.
    ///
    /// # Errors
    /// A TCP link without TLS, or another with it; a file whose path is relative.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        let refuse = |reason| Err(InvalidSpec::Link { link: self.link.to_string(), reason });
        match (&self.link, &self.tls) {
            (ExternalLink::Tcp { .. }, None) => {
                refuse("a TCP link needs mutual TLS: an authority, a certificate and its key")
            }
            (ExternalLink::Tcp { .. }, Some(tls)) => {
                if [&tls.ca, &tls.cert, &tls.key].iter().all(|path| path.is_absolute()) {
                    Ok(())
                } else {
                    refuse("the files of TLS need absolute paths")
                }
            }
            (_, Some(_)) => refuse("only a TCP link has TLS"),
            (_, None) => Ok(()),
        }
    }
}

impl ExternalLink {
    /// The words of an `exec:` link.
    pub(crate) fn words(command: &str) -> Option<Vec<String>> {
        shlex::split(command)
            .filter(|words| !words.is_empty() && !words.iter().any(|word| word.contains('\0')))
    }
}

impl FromStr for ExternalLink {
    type Err = InvalidSpec;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |reason| InvalidSpec::Link { link: text.chars().take(128).collect(), reason };
        if text.len() > MAX_LINK {
            return Err(refuse("it is too long"));
        }
        let (kind, rest) = text.split_once(':').ok_or_else(|| refuse(FORMS))?;
        match kind {
            "unix" => Ok(Self::Unix(socket(rest).map_err(refuse)?)),
            "hybrid" => {
                let (path, port) =
                    rest.rsplit_once(':').ok_or_else(|| refuse("it needs a path and a port"))?;
                let port = vsock_port(port).map_err(refuse)?;
                Ok(Self::Hybrid { socket: socket(path).map_err(refuse)?, port })
            }
            "vsock" => {
                let (cid, port) =
                    rest.split_once(':').ok_or_else(|| refuse("it needs a guest and a port"))?;
                let cid: u32 = cid.parse().map_err(|_| refuse("the guest is no number"))?;
                if cid < FIRST_GUEST_CID || cid == u32::MAX {
                    return Err(refuse("this number names no guest"));
                }
                Ok(Self::Vsock { cid, port: vsock_port(port).map_err(refuse)? })
            }
            "exec" => match Self::words(rest) {
                Some(_) => Ok(Self::Exec(rest.to_owned())),
                None => Err(refuse("there is no command, or its quotes do not match")),
            },
            "tcp" => {
                let (host, port) =
                    rest.rsplit_once(':').ok_or_else(|| refuse("it needs a host and a port"))?;
                let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
                let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '_' | '%');
                if host.is_empty() || host.len() > 253 || !host.chars().all(plain) {
                    return Err(refuse("the host is neither a name nor an address"));
                }
                match port.parse() {
                    Ok(port) if port > 0 => Ok(Self::Tcp { host: host.to_owned(), port }),
                    _ => Err(refuse("the port is no number from 1 to 65535")),
                }
            }
            _ => Err(refuse(FORMS)),
        }
    }
}

const FORMS: &str =
    "it is none of unix:/PATH, hybrid:/PATH:PORT, vsock:CID:PORT, exec:COMMAND and tcp:HOST:PORT";

fn socket(path: &str) -> Result<PathBuf, &'static str> {
    if !Path::new(path).is_absolute() || path.contains('\0') {
        return Err("the path of the socket is not absolute");
    }
    if path.len() > MAX_SOCKET_PATH {
        return Err("the path of the socket is longer than the 107 bytes that an address can hold");
    }
    Ok(PathBuf::from(path))
}

fn vsock_port(text: &str) -> Result<u32, &'static str> {
    match text.parse() {
        Ok(port) if port != u32::MAX => Ok(port),
        _ => Err("the port is no number below 4294967295"),
    }
}

impl fmt::Display for ExternalLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Hybrid { socket, port } => write!(f, "hybrid:{}:{port}", socket.display()),
            Self::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
            Self::Exec(command) => write!(f, "exec:{command}"),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
        }
    }
}

impl TryFrom<String> for ExternalLink {
    type Error = InvalidSpec;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ExternalLink> for String {
    fn from(link: ExternalLink) -> Self {
        link.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_written() {
        for text in [
            "unix:/run/agent.sock",
            "hybrid:/run/vm.vsock:1024",
            "vsock:3:1024",
            "exec:docker exec -i 'my box' /sandgate-agent --stdio",
            "tcp:vm.example:9000",
            "tcp:[fd00::1]:9000",
        ] {
            assert_eq!(text.parse::<ExternalLink>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_cannot_be_reached_is_refused() {
        let long = format!("unix:/{}", "x".repeat(107));
        for text in [
            "",
            "unix",
            "unix:relative",
            &long,
            "hybrid:/vm.vsock",
            "hybrid:/vm.vsock:4294967295",
            "vsock:2:1024",
            "vsock:3",
            "exec:",
            "exec:echo 'open",
            "tcp:host",
            "tcp:host:0",
            "tcp:a b:1",
            "ssh:host:22",
        ] {
            assert!(text.parse::<ExternalLink>().is_err(), "{text}");
        }
    }

    #[test]
    fn tcp_without_mutual_tls_is_refused() {
        let link: ExternalLink = "tcp:vm:1".parse().unwrap();
        let tls = TlsFiles { ca: "/ca".into(), cert: "/cert".into(), key: "/key".into() };
        assert!(External { link: link.clone(), tls: None }.validate().is_err());
        assert_eq!(External { link, tls: Some(tls.clone()) }.validate(), Ok(()));
        let other = External { link: "vsock:3:1".parse().unwrap(), tls: Some(tls) };
        assert!(other.validate().is_err());
    }
}
