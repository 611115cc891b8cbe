//! Requests to connect and to listen inside the guest, and what is said about them (Open types 4 to 6).

use super::{c_bytes, opt_c_bytes};
use crate::DecodeError;
use crate::codec::{Reader, WriteFields};

/// Longest host name or address, in bytes: the longest name of the DNS in text form is 253.
pub const MAX_HOST: usize = 255;
/// Longest path of a Unix socket, in bytes: what the kernel takes, without the NUL byte.
pub const MAX_SOCKET_PATH: usize = 107;
/// Longest path that is decoded, in bytes. The agent refuses those over [`MAX_SOCKET_PATH`], with a text that says so.
const MAX_PATH: usize = 4096;

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A TCP port.
    Tcp {
        /// A name or a literal address.
        host: Vec<u8>,
        /// The port.
        port: u16,
    },
    /// A Unix stream socket.
    Unix {
        /// Its path.
        path: Vec<u8>,
    },
}

/// Connect to something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dial {
    /// The two pipes for the data came with this frame.
    pub passed_stdio: bool,
    /// As whom: login name, uid, or uid:gid.
    pub user: Option<Vec<u8>>,
    /// Where to.
    pub address: Address,
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// A TCP port.
    Tcp {
        /// Which addresses, as in RFC 4254 section 7.1: empty or `*` for all, `localhost` for loopback, or a literal.
        host: Vec<u8>,
        /// The port; 0 lets the guest's kernel choose.
        port: u16,
    },
    /// A Unix socket.
    Unix {
        /// Its path.
        path: Vec<u8>,
        /// Permission bits that the socket does not get.
        mask: u32,
        /// Remove what is at the path first.
        unlink: bool,
    },
    /// A Unix socket for the connections to a forwarded agent, in a new directory of its own.
    AgentSocket,
}

/// Listen somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// As whom: login name, uid, or uid:gid.
    pub user: Option<Vec<u8>>,
    /// Where.
    pub address: ListenAddress,
    /// Connections that wait in the kernel; 0 for the agent's own choice.
    pub backlog: u32,
}

/// Take a connection that an [`Incoming`] has announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accept {
    /// The two pipes for the data came with this frame.
    pub passed_stdio: bool,
    /// The number of the connection.
    pub id: u64,
}

/// Who has connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Somebody on a Unix socket.
    Unix,
    /// Somebody on a TCP port.
    Tcp {
        /// A literal address; printable once decoded.
        host: String,
        /// The port.
        port: u16,
    },
}

/// Somebody has connected to a listening stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// The number of the connection; never used twice by an agent, and growing.
    pub id: u64,
    /// Who it is.
    pub peer: Peer,
}

impl Address {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Address::Tcp { host, port } => {
                out.put_u8(1);
                out.put_bytes(host);
                out.put_u16(*port);
            }
            Address::Unix { path } => {
                out.put_u8(2);
                out.put_bytes(path);
            }
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match r.u8()? {
            1 => Ok(Address::Tcp { host: host(r)?, port: r.u16()? }),
            2 => Ok(Address::Unix { path: path(r)? }),
            _ => Err(DecodeError::BadValue),
        }
    }

    pub(super) fn fits(&self) -> bool {
        match self {
            Address::Tcp { host, .. } => host.len() <= MAX_HOST,
            Address::Unix { path } => path.len() <= MAX_PATH,
        }
    }
}

impl Dial {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.put_u8(u8::from(self.passed_stdio));
        out.put_opt_bytes(self.user.as_deref());
        self.address.put(out);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { passed_stdio: r.flag()?, user: opt_c_bytes(r)?, address: Address::read(r)? })
    }
}

impl Listen {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.put_opt_bytes(self.user.as_deref());
        match &self.address {
            ListenAddress::Tcp { host, port } => {
                out.put_u8(1);
                out.put_bytes(host);
                out.put_u16(*port);
            }
            ListenAddress::Unix { path, mask, unlink } => {
                out.put_u8(2);
                out.put_bytes(path);
                out.put_u32(*mask);
                out.put_u8(u8::from(*unlink));
            }
            ListenAddress::AgentSocket => out.put_u8(3),
        }
        out.put_u32(self.backlog);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let user = opt_c_bytes(r)?;
        let address = match r.u8()? {
            1 => ListenAddress::Tcp { host: host(r)?, port: r.u16()? },
            2 => ListenAddress::Unix { path: path(r)?, mask: r.u32()?, unlink: r.flag()? },
            3 => ListenAddress::AgentSocket,
            _ => return Err(DecodeError::BadValue),
        };
        Ok(Self { user, address, backlog: r.u32()? })
    }

    pub(super) fn fits(&self) -> bool {
        match &self.address {
            ListenAddress::Tcp { host, .. } => host.len() <= MAX_HOST,
            ListenAddress::Unix { path, .. } => path.len() <= MAX_PATH,
            ListenAddress::AgentSocket => true,
        }
    }
}

impl Accept {
    pub(super) fn put(self, out: &mut Vec<u8>) {
        out.put_u8(u8::from(self.passed_stdio));
        out.put_u64(self.id);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { passed_stdio: r.flag()?, id: r.u64()? })
    }
}

impl Incoming {
    /// Payload bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u64(self.id);
        match &self.peer {
            Peer::Unix => out.put_u8(2),
            Peer::Tcp { host, port } => {
                out.put_u8(1);
                out.put_bytes(&host.as_bytes()[..host.len().min(MAX_HOST)]);
                out.put_u16(*port);
            }
        }
        out
    }

    /// Checked and bounded.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(payload);
        let id = r.u64()?;
        let peer = match r.u8()? {
            1 => Peer::Tcp { host: r.text(MAX_HOST)?, port: r.u16()? },
            2 => Peer::Unix,
            _ => return Err(DecodeError::BadValue),
        };
        r.finish()?;
        Ok(Self { id, peer })
    }
}

/// The payload of an Incoming frame in the other direction: the number of a connection that the host does not want.
pub fn decode_unwanted(payload: &[u8]) -> Result<u64, DecodeError> {
    let mut r = Reader::new(payload);
    let id = r.u64()?;
    r.finish()?;
    Ok(id)
}

fn host(r: &mut Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    let host = c_bytes(r)?;
    if host.len() > MAX_HOST { Err(DecodeError::TooLong) } else { Ok(host) }
}

fn path(r: &mut Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    let path = c_bytes(r)?;
    if path.len() > MAX_PATH { Err(DecodeError::TooLong) } else { Ok(path) }
}

/// What the answer to a Listen says: where the listener is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// The TCP port; 0 for Unix sockets.
    pub port: u16,
    /// The path of the Unix socket; empty for TCP.
    pub path: Vec<u8>,
}

impl Listening {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.put_u16(self.port);
        out.put_bytes(&self.path);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let port = r.u16()?;
        let path = r.bytes(MAX_SOCKET_PATH)?;
        if path.contains(&0) { Err(DecodeError::BadValue) } else { Ok(Self { port, path: path.to_vec() }) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::super::{Open, Opened};
    use super::*;
    use proptest::prelude::*;

    fn c_string() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(1..=255u8, 0..40)
    }

    fn user() -> impl Strategy<Value = Option<Vec<u8>>> {
        proptest::option::of(c_string())
    }

    fn arb_open() -> impl Strategy<Value = Open> {
        let address = prop_oneof![
            (c_string(), any::<u16>()).prop_map(|(host, port)| Address::Tcp { host, port }),
            c_string().prop_map(|path| Address::Unix { path }),
        ];
        let listen =
            prop_oneof![
                (c_string(), any::<u16>()).prop_map(|(host, port)| ListenAddress::Tcp { host, port }),
                (c_string(), any::<u32>(), any::<bool>())
                    .prop_map(|(path, mask, unlink)| ListenAddress::Unix { path, mask, unlink }),
                Just(ListenAddress::AgentSocket),
            ];
        prop_oneof![
            (any::<bool>(), user(), address).prop_map(|(passed_stdio, user, address)| Open::Dial(Dial {
                passed_stdio,
                user,
                address
            })),
            (user(), listen, any::<u32>()).prop_map(|(user, address, backlog)| Open::Listen(Listen {
                user,
                address,
                backlog
            })),
            (any::<bool>(), any::<u64>())
                .prop_map(|(passed_stdio, id)| Open::Accept(Accept { passed_stdio, id })),
        ]
    }

    proptest! {
        #[test]
        fn requests_round_trip_and_no_prefix_decodes(open in arb_open()) {
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
        fn answers_round_trip(id in any::<u64>(), host in "[0-9a-f:.]{0,40}", port in any::<u16>(), path in c_string()) {
            for peer in [Peer::Unix, Peer::Tcp { host: host.clone(), port }] {
                let incoming = Incoming { id, peer };
                prop_assert_eq!(Incoming::decode(&incoming.encode()), Ok(incoming));
            }
            for opened in [
                Opened::Dial { passed_stdio: true },
                Opened::Listen(Listening { port, path: path.clone() }),
                Opened::Accept { passed_stdio: false },
            ] {
                prop_assert_eq!(Opened::decode(&opened.encode()), Ok(opened));
            }
            prop_assert_eq!(decode_unwanted(&id.to_be_bytes()), Ok(id));
        }

        #[test]
        fn random_payloads_never_panic(kind in 4..7u8, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (Incoming::decode(&bytes), decode_unwanted(&bytes));
            let bytes = [&[kind][..], &bytes].concat();
            let _ = (Open::decode(&bytes), Opened::decode(&bytes));
        }
    }

    #[test]
    fn long_and_nul_holding_names_are_refused() {
        let dial = |host: Vec<u8>| {
            let address = Address::Tcp { host, port: 1 };
            Open::Dial(Dial { passed_stdio: false, user: None, address })
        };
        assert!(dial(vec![b'a'; MAX_HOST]).encode().is_ok());
        assert_eq!(dial(vec![b'a'; MAX_HOST + 1]).encode(), Err(DecodeError::TooLong));
        let nul = dial(b"a\0b".to_vec()).encode().unwrap();
        assert_eq!(Open::decode(&nul), Err(DecodeError::BadValue));
    }

    #[test]
    fn a_hostile_peer_name_cannot_steer_a_terminal() {
        let peer = Peer::Tcp { host: "\x1b[2J\n".into(), port: 1 };
        let Peer::Tcp { host, .. } = Incoming::decode(&Incoming { id: 1, peer }.encode()).unwrap().peer
        else {
            panic!("another peer")
        };
        assert_eq!(host, "?[2J?");
    }
}
