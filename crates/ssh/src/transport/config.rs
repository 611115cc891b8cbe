//! The settings of a transport.

use std::sync::Arc;
use std::time::Duration;

use crate::hostkey::HostKey;

/// Which generation of algorithms is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compatibility {
    /// Only what auditors accept today: no NIST curves in key exchange, no ecdsa host keys.
    #[default]
    Modern,
    /// Also `ecdh-sha2-nistp256/384/521` and ecdsa host keys, for old clients.
    Compat,
}

/// Settings shared by all connections of a listener.
#[derive(Debug, Clone)]
pub struct Config {
    /// The software version in `SSH-2.0-OpenSSH_sandgate_<version>`; printable ASCII without spaces or `-`.
    pub software_version: String,
    /// The host keys, in order of preference. At least one.
    pub host_keys: Vec<Arc<HostKey>>,
    /// Which algorithms are offered.
    pub compatibility: Compatibility,
    /// Names of kex algorithms to offer, in order; empty means all that `compatibility` allows. For tests and operators.
    pub kex: Vec<String>,
    /// Names of ciphers to offer, in order; empty means all.
    pub ciphers: Vec<String>,
    /// Names of MACs to offer, in order; empty means all.
    pub macs: Vec<String>,
    /// Begin a key exchange after this many bytes in either direction. RFC 4253 §9 recommends 1 GiB; the RFC 4344
    /// §3.2 limit of the cipher applies on top.
    pub rekey_bytes: u64,
    /// Begin a key exchange after this time (RFC 4253 §9 recommends an hour).
    pub rekey_after: Duration,
    /// Begin a key exchange after this many packets in either direction. At most 2^31 (RFC 4344 §3.1).
    pub rekey_packets: u32,
    /// The first key exchange must be complete after this time.
    pub handshake_timeout: Duration,
    /// The most bytes of messages held back during a key exchange; beyond it the connection ends.
    pub pending_limit: usize,
}

impl Config {
    /// Defaults with the given host keys.
    #[must_use]
    pub fn new(host_keys: Vec<Arc<HostKey>>) -> Self {
        Self {
            // The stock client tells a server that its output is no longer wanted (`eow@openssh.com`), and that no more
            // sessions will follow, only if its version begins with `OpenSSH`. No number of theirs is claimed.
            software_version: concat!("OpenSSH_sandgate_", env!("CARGO_PKG_VERSION")).to_owned(),
            host_keys,
            compatibility: Compatibility::Modern,
            kex: Vec::new(),
            ciphers: Vec::new(),
            macs: Vec::new(),
            rekey_bytes: 1 << 30,
            rekey_after: Duration::from_secs(3600),
            rekey_packets: 1 << 31,
            handshake_timeout: Duration::from_secs(30),
            pending_limit: 256 * 1024,
        }
    }
}
