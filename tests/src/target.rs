//! The server under test: the gateway, or `sshd` as the oracle.

use std::path::{Path, PathBuf};

use crate::gateway::Gateway;
use crate::sshd::Sshd;

/// Which server is under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `sandgate serve` with one sandbox.
    Gateway,
    /// Debian's `sshd`.
    Sshd,
}

impl Kind {
    /// Reads `SANDGATE_TEST_TARGET`.
    ///
    /// # Panics
    /// On an unknown value.
    pub fn from_env() -> Self {
        match std::env::var("SANDGATE_TEST_TARGET").as_deref() {
            Err(_) | Ok("" | "gateway") => Self::Gateway,
            Ok("sshd") => Self::Sshd,
            Ok(other) => panic!("SANDGATE_TEST_TARGET is gateway or sshd, not {other:?}"),
        }
    }
}

/// What a test wants to be different from the default server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Patterns of environment variables that the server takes from a client.
    pub accept_env: Vec<String>,
    /// Seconds between keepalives from the server; three missed ones end the connection.
    pub keepalive_seconds: Option<u32>,
    /// The server begins a new key exchange after so many bytes.
    pub rekey_bytes: Option<u64>,
    /// Seconds until an unauthenticated connection is dropped.
    pub login_grace_seconds: Option<u32>,
    /// Whether failed logins slow their source down; most tests share one address and turn it off.
    pub source_penalties: bool,
    /// Whether a file at the path of a forwarded socket is removed first.
    pub stream_local_bind_unlink: bool,
    /// Whether sshd forwards X11; the gateway always does.
    pub x11: bool,
    /// More `[section]` tables for the gateway's configuration.
    pub extra_toml: String,
    /// More arguments for `sandbox create`.
    pub create_args: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            accept_env: ["LANG", "LC_*"].map(str::to_owned).to_vec(),
            keepalive_seconds: None,
            rekey_bytes: None,
            login_grace_seconds: None,
            source_penalties: false,
            stream_local_bind_unlink: false,
            x11: false,
            extra_toml: String::new(),
            create_args: Vec::new(),
        }
    }
}

enum Server {
    Gateway(Gateway),
    Sshd(Sshd),
}

/// A running server, an account on it, and a client configuration in which the host `box` is that account.
pub struct Target {
    server: Server,
    dir: tempfile::TempDir,
    /// TCP port on 127.0.0.1.
    pub port: u16,
    /// The user name to log in with: `root` for sshd, a token for the gateway.
    pub login: String,
}

impl Target {
    /// Starts the server that `SANDGATE_TEST_TARGET` names.
    pub fn start() -> Self {
        Self::start_with(&Options::default())
    }

    /// As [`Target::start`], with differences.
    pub fn start_with(options: &Options) -> Self {
        let dir = short_dir();
        crate::client::make_key(&dir.path().join("id"));
        let (server, port, login) = match Kind::from_env() {
            Kind::Sshd => {
                let sshd = Sshd::start(dir.path(), options);
                let port = sshd.port;
                (Server::Sshd(sshd), port, "root".to_owned())
            }
            Kind::Gateway => {
                let gateway = Gateway::start(&dir.path().join("d"), options);
                let arguments: Vec<&str> = options.create_args.iter().map(String::as_str).collect();
                gateway.create_sandbox("box", &arguments);
                gateway.start_sandbox("box");
                let login = gateway.token("box", &[]).token;
                let port = gateway.port;
                (Server::Gateway(gateway), port, login)
            }
        };
        crate::client::write_config(&dir.path().join("ssh_config"), port, &login, &dir.path().join("id"));
        Self { server, dir, port, login }
    }

    /// Which server this is.
    pub fn kind(&self) -> Kind {
        match self.server {
            Server::Gateway(_) => Kind::Gateway,
            Server::Sshd(_) => Kind::Sshd,
        }
    }

    /// The gateway.
    ///
    /// # Panics
    /// When the oracle is under test.
    pub fn gateway(&self) -> &Gateway {
        match &self.server {
            Server::Gateway(gateway) => gateway,
            Server::Sshd(_) => panic!("this test needs the gateway; it should have skipped"),
        }
    }

    /// The gateway, to restart it.
    ///
    /// # Panics
    /// When the oracle is under test.
    pub fn gateway_mut(&mut self) -> &mut Gateway {
        match &mut self.server {
            Server::Gateway(gateway) => gateway,
            Server::Sshd(_) => panic!("this test needs the gateway; it should have skipped"),
        }
    }

    /// Process id of the listening server.
    pub fn pid(&self) -> u32 {
        match &self.server {
            Server::Gateway(gateway) => gateway.pid(),
            Server::Sshd(sshd) => sshd.pid(),
        }
    }

    /// The scratch directory of this test, short enough for sockets.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The client configuration in which `box` is the account under test.
    pub fn config(&self) -> PathBuf {
        self.dir().join("ssh_config")
    }

    /// The private key of this test (the account key for sshd, an unknown one for the gateway).
    pub fn key(&self) -> PathBuf {
        self.dir().join("id")
    }

    /// All that the server has logged.
    pub fn log(&self) -> String {
        match &self.server {
            Server::Gateway(gateway) => gateway.log(),
            Server::Sshd(_) => std::fs::read_to_string(self.dir().join("sshd.log")).unwrap_or_default(),
        }
    }
}

/// A temporary directory with a path short enough for Unix sockets below it.
pub fn short_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("sg").rand_bytes(6).tempdir_in("/tmp").expect("temporary directory")
}
