//! From the gateway's configuration to the SSH core's.

use std::sync::Arc;

use sandgate_ssh::hostkey::HostKey;
use sandgate_ssh::transport::{self, Compatibility};

use crate::config::{Config, SshConfig};

use super::Keepalive;

impl SshConfig {
    /// How dead clients are found.
    pub(super) fn keepalive(&self) -> Keepalive {
        Keepalive { interval: self.keepalive, max_missed: self.keepalive_missed }
    }
}

/// The settings that all connections of the SSH listener share.
pub fn server_config(config: &Config, host_keys: Vec<Arc<HostKey>>) -> Arc<sandgate_ssh::Config> {
    let mut transport = transport::Config::new(host_keys);
    if config.ssh.compat {
        transport.compatibility = Compatibility::Compat;
    }
    if let Some(bytes) = config.ssh.rekey_bytes {
        transport.rekey_bytes = bytes;
    }
    if let Some(interval) = config.ssh.rekey_interval {
        transport.rekey_after = interval;
    }
    transport.handshake_timeout = config.login.handshake_deadline;

    let mut ssh = sandgate_ssh::Config::new(Arc::new(transport));
    ssh.login_timeout = config.login.login_deadline;
    ssh.max_auth_tries = config.login.max_attempts;
    ssh.max_channels = config.login.max_channels;
    ssh.auth_methods = ["publickey", "password"].map(str::to_owned).to_vec();
    Arc::new(ssh)
}
