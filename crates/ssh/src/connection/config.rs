//! The settings of a connection above the transport.

use std::sync::Arc;
use std::time::Duration;

use crate::transport;

/// Settings shared by all connections of a listener.
#[derive(Debug, Clone)]
pub struct Config {
    /// Identification, host keys, algorithms, rekeying.
    pub transport: Arc<transport::Config>,
    /// The whole login, key exchange included, must be complete after this time (sshd's `LoginGraceTime`).
    pub login_timeout: Duration,
    /// Failed attempts after which the connection ends (sshd's `MaxAuthTries`). Probes of public keys, a first `none`
    /// and partial successes do not count.
    pub max_auth_tries: u32,
    /// Authentication requests of any kind, probes included, after which the connection ends.
    pub max_auth_requests: u32,
    /// The methods named in failures ("can continue"), in order.
    pub auth_methods: Vec<String>,
    /// Receive window per channel in bytes. OpenSSH uses 2 MiB.
    pub window: u32,
    /// The most data in one packet towards us, in bytes. OpenSSH uses 32 KiB.
    pub max_packet: u32,
    /// Channels of one connection at a time, both directions and opens not yet answered included.
    pub max_channels: usize,
    /// Receive windows of all channels of a connection together, in bytes. When much of it is given out, further
    /// channels get smaller windows, but never less than 64 KiB: memory for input that the application does not take is
    /// bounded by this plus 64 KiB per channel.
    pub window_budget: u32,
    /// Channel writers wait when this much output is waiting for the socket, in bytes. Smaller means less latency for
    /// a key echo beside a bulk transfer, larger means fewer system calls. OpenSSH uses 128 KiB.
    pub output_high_water: usize,
    /// Nothing is read from the client while this much output waits, in bytes, so that a client that sends requests and
    /// reads no replies cannot make us grow.
    pub output_stop_input: usize,
}

impl Config {
    /// Defaults above the given transport settings.
    #[must_use]
    pub fn new(transport: Arc<transport::Config>) -> Self {
        Self {
            transport,
            login_timeout: Duration::from_secs(120),
            max_auth_tries: 6,
            max_auth_requests: 128,
            auth_methods: ["publickey", "password", "keyboard-interactive"].map(str::to_owned).to_vec(),
            window: 2 * 1024 * 1024,
            max_packet: 32 * 1024,
            max_channels: 512,
            window_budget: 64 * 1024 * 1024,
            output_high_water: 256 * 1024,
            output_stop_input: 512 * 1024,
        }
    }
}
