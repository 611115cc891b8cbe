//! The gateway's configuration: defaults, the TOML file over them, and flags over that.
//!
//! Reading it has no side effects. An unknown key in the file is an error that names it: a limit that was misspelt and
//! silently not applied would be found out too late.

mod file;
mod telemetry;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sandgate_driver::{DockerConfig, MachineSettings};
use sandgate_guest::Keepalive;
use sandgate_policy::{AcceptEnv, PatternError, TtlPolicy};
use sandgate_store::Keep;

use crate::images::ImagesConfig;
use crate::limits::Limits;
use crate::recording::RecordingConfig;
use crate::telemetry::{InvalidTelemetry, TelemetryConfig};
use file::File;

/// Everything that [`crate::Gateway::build`] needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where state, keys and the control socket live. Made 0700.
    pub data_dir: PathBuf,
    /// The static agent binary that goes into every sandbox.
    pub agent_path: PathBuf,
    /// Where SSH is served; port 0 takes a free one.
    pub ssh_listen: SocketAddr,
    /// Where HTTP is served, if it is.
    pub http_listen: Option<SocketAddr>,
    /// How HTTP is served.
    pub http: HttpConfig,
    /// Where `/healthz`, `/readyz` and `/metrics` are served; beside the API, if nowhere else.
    pub operations_listen: Option<SocketAddr>,
    /// What sessions get.
    pub session: SessionConfig,
    /// The SSH protocol.
    pub ssh: SshConfig,
    /// Terminals of browsers.
    pub terminal: TerminalConfig,
    /// When a guest that has fallen silent is given up.
    pub guest_keepalive: Keepalive,
    /// When a client of the control socket that has fallen silent is given up.
    pub control_keepalive: Keepalive,
    /// Who may connect, and how often.
    pub limits: Limits,
    /// What one login may do and how long it may take.
    pub login: LoginConfig,
    /// How long tokens live.
    pub tokens: TtlPolicy,
    /// How long records are kept.
    pub store: Keep,
    /// What is recorded.
    pub recording: RecordingConfig,
    /// Where traces go, if there are any.
    pub telemetry: Option<TelemetryConfig>,
    /// How long sessions may go on after the gateway was told to stop.
    pub drain_deadline: Duration,
    /// How long a sandbox gets to end before it is killed.
    pub stop_grace: Duration,
    /// How virtual machines are made.
    pub qemu: MachineSettings,
    /// How long the agent of a sandbox that starts may take to answer.
    pub start_timeout: Duration,
    /// Registries and logins.
    pub images: ImagesConfig,
    /// Where Docker or Podman listens, for the driver `docker`.
    pub docker_socket: PathBuf,
}

/// The `[session]` table.
#[derive(Debug, Clone, Default)]
pub struct SessionConfig {
    /// Environment variables that clients may set.
    pub accept_env: AcceptEnv,
}

/// The `[http]` table, but for the address.
#[derive(Debug, Clone, Default)]
pub struct HttpConfig {
    /// Origins besides our own whose pages may use the API with a browser's login.
    pub origins: Vec<String>,
    /// The certificate; without one, HTTP is served in clear.
    pub tls: Option<TlsFiles>,
    /// Origins whose pages may show the page for embedding in a frame.
    pub frame_ancestors: Vec<String>,
    /// What browsers are told to use, where it is not the listening address: `https://box.example`.
    pub public_url: Option<String>,
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those of its issuers after it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The `[terminal]` table.
#[derive(Debug, Clone)]
pub struct TerminalConfig {
    /// How long a shell whose page has gone waits for somebody to come back.
    pub grace: Duration,
}

impl Default for TerminalConfig {
    fn default() -> TerminalConfig {
        TerminalConfig { grace: Duration::from_secs(300) }
    }
}

/// The `[ssh]` table.
#[derive(Debug, Clone)]
pub struct SshConfig {
    /// Also offer NIST-curve key exchange and ecdsa host keys, for old clients.
    pub compat: bool,
    /// Bytes in one direction after which we begin a key exchange; `None` leaves it to the cipher's own bound.
    pub rekey_bytes: Option<u64>,
    /// Time after which we begin a key exchange; `None` leaves it to the protocol core.
    pub rekey_interval: Option<Duration>,
    /// Silence after which the client is asked whether it is still there.
    pub keepalive: Duration,
    /// Unanswered keepalives that end a connection.
    pub keepalive_missed: u32,
    /// Remove what is at the path of a socket before listening on it (sshd's `StreamLocalBindUnlink`).
    pub stream_local_bind_unlink: bool,
    /// Host name that clients are told to use, where it is not the listening address.
    pub public_host: Option<String>,
    /// Port that clients are told to use, where it is not the listening one.
    pub public_port: Option<u16>,
}

impl Default for SshConfig {
    fn default() -> SshConfig {
        SshConfig {
            compat: false,
            rekey_bytes: None,
            rekey_interval: None,
            keepalive: Duration::from_secs(30),
            keepalive_missed: 3,
            stream_local_bind_unlink: false,
            public_host: None,
            public_port: None,
        }
    }
}

/// The part of the `[limits]` table that is about a single connection.
#[derive(Debug, Clone)]
pub struct LoginConfig {
    /// Time from accept to the end of the first key exchange.
    pub handshake_deadline: Duration,
    /// Time from accept to a successful login (sshd's `LoginGraceTime`).
    pub login_deadline: Duration,
    /// Failed authentication attempts that end a connection. A key probe is not an attempt.
    pub max_attempts: u32,
    /// Channels open at once on one connection.
    pub max_channels: usize,
    /// Time after which a connection without any channel is closed (sshd's `UnusedConnectionTimeout`); `None` for never.
    pub unused_timeout: Option<Duration>,
}

impl Default for LoginConfig {
    fn default() -> LoginConfig {
        LoginConfig {
            handshake_deadline: Duration::from_secs(30),
            login_deadline: Duration::from_secs(120),
            max_attempts: 6,
            // 1,000 forwarded connections at once must work, in each direction. A window is 64 KiB where there are many.
            max_channels: 2048,
            unused_timeout: None,
        }
    }
}

impl Config {
    /// The defaults, for a data directory and an agent binary.
    pub fn new(data_dir: impl Into<PathBuf>, agent_path: impl Into<PathBuf>) -> Config {
        Config {
            data_dir: data_dir.into(),
            agent_path: agent_path.into(),
            ssh_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 2222)),
            http_listen: None,
            http: HttpConfig::default(),
            operations_listen: None,
            session: SessionConfig::default(),
            ssh: SshConfig::default(),
            terminal: TerminalConfig::default(),
            guest_keepalive: Keepalive::default(),
            control_keepalive: Keepalive::default(),
            limits: Limits::default(),
            login: LoginConfig::default(),
            tokens: TtlPolicy::default(),
            store: Keep::default(),
            recording: RecordingConfig::default(),
            telemetry: None,
            drain_deadline: Duration::from_secs(30),
            stop_grace: Duration::from_secs(10),
            qemu: MachineSettings::default(),
            start_timeout: Duration::from_secs(30),
            images: ImagesConfig::default(),
            docker_socket: DockerConfig::DEFAULT_SOCKET.into(),
        }
    }

    /// Lays a TOML file over this configuration.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, holds an unknown key or a value that makes no sense.
    pub fn apply_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        self.apply_toml(&text)
            .map_err(|error| ConfigError::InFile { path: path.to_owned(), error: Box::new(error) })
    }

    /// Lays TOML text over this configuration.
    ///
    /// # Errors
    /// As [`Config::apply_file`].
    pub fn apply_toml(&mut self, text: &str) -> Result<(), ConfigError> {
        let file: File =
            toml::from_str(text).map_err(|error| ConfigError::Toml(telemetry::complaint(text, &error)))?;
        file.lay_over(self)
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("the configuration file {path} cannot be read: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something in a file is wrong.
    #[error("in the configuration file {path}: {error}")]
    InFile {
        /// Which file.
        path: PathBuf,
        /// What.
        error: Box<ConfigError>,
    },
    /// Not TOML, a key that does not exist, or a value of the wrong kind; the text shows the place.
    #[error("{0}")]
    Toml(String),
    /// A bad pattern in `session.accept_env`.
    #[error("session.accept_env: {0}")]
    AcceptEnv(PatternError),
    /// Not a host name or address.
    #[error("ssh.public_host: \"{0}\" is neither a host name nor an address")]
    HostName(String),
    /// One half of two.
    #[error("{given} is of no use without {missing}")]
    Half {
        /// The key that is there.
        given: &'static str,
        /// The key that is not.
        missing: &'static str,
    },
    /// Not what browsers send as `Origin`.
    #[error("{key}: \"{text}\" is not an origin, such as https://box.example:8443")]
    Origin {
        /// The key.
        key: &'static str,
        /// What is there.
        text: String,
    },
    /// A path that depends on where the gateway was started.
    #[error("{key}: the path {path} is not absolute")]
    RelativePath {
        /// The key.
        key: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// The `[telemetry]` table.
    #[error(transparent)]
    Telemetry(#[from] InvalidTelemetry),
    /// A number or time below what makes sense.
    #[error("{key} must be at least {least}")]
    TooSmall {
        /// The key.
        key: &'static str,
        /// The least value.
        least: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::new("/nowhere", "/nowhere/agent")
    }

    #[test]
    fn an_empty_file_changes_nothing() {
        let mut changed = config();
        changed.apply_toml("").expect("a file");
        assert_eq!(format!("{changed:?}"), format!("{:?}", config()));
    }

    #[test]
    fn every_key_arrives() {
        let mut changed = config();
        changed
            .apply_toml(
                r#"
                [session]
                accept_env = ["FOO_*"]
                [ssh]
                listen = "127.0.0.1:2200"
                compat = true
                rekey_bytes = 16777216
                rekey_interval = "1h"
                keepalive = "2s"
                keepalive_missed = 5
                stream_local_bind_unlink = true
                public_host = "box.example.org"
                public_port = 22
                [terminal]
                grace = "11s"
                [guest]
                keepalive = "3s"
                keepalive_missed = 6
                [control]
                keepalive = "4s"
                keepalive_missed = 7
                [http]
                listen = "[::1]:8022"
                origins = ["https://portal.example:8443"]
                frame_ancestors = ["https://portal.example"]
                public_url = "https://box.example"
                tls_certificate = "/tls/cert.pem"
                tls_key = "/tls/key.pem"
                [operations]
                listen = "127.0.0.1:9022"
                [limits]
                source_penalties = false
                max_unauthenticated = 7
                max_connections_per_credential = 8
                handshake_deadline = "3s"
                login_deadline = "4s"
                max_attempts = 9
                max_channels = 10
                unused_connection_timeout = "5s"
                [tokens]
                default_ttl = "10m"
                max_ttl = "2days"
                [store]
                keep_sessions = "3days"
                keep_audit = "forever"
                keep_recordings = "forever"
                [recording]
                default = "terminal"
                input = true
                required = true
                max_bytes = 65536
                [drain]
                deadline = "1s"
                [sandbox]
                stop_grace = "6s"
                start_timeout = "8s"
                [qemu]
                kernel = "/k"
                program = "/q"
                vhost_device_vsock = "/v"
                start = "cold"
                accel = "tcg"
                [images]
                insecure_registries = ["registry.lan:5000"]
                auth_file = "/etc/docker.json"
                auth."ghcr.io" = { username = "me", password_file = "/etc/pw" }
                stall_timeout = "9s"
                [docker]
                socket = "/run/podman/podman.sock"
                [telemetry]
                otlp_endpoint = "https://collector.example/otlp"
                service_name = "door"
                sample_ratio = 0.25
                headers = { x-api-key = "hush" }
                "#,
            )
            .expect("a file");
        assert!(changed.session.accept_env.accepts(b"FOO_1") && !changed.session.accept_env.accepts(b"LANG"));
        assert_eq!(changed.ssh_listen.port(), 2200);
        assert!(changed.ssh.compat && changed.ssh.stream_local_bind_unlink);
        assert_eq!(changed.ssh.rekey_bytes, Some(16 << 20));
        assert_eq!(changed.ssh.rekey_interval, Some(Duration::from_secs(3600)));
        assert_eq!((changed.ssh.keepalive, changed.ssh.keepalive_missed), (Duration::from_secs(2), 5));
        let keepalive =
            |seconds, max_missed| Keepalive { interval: Duration::from_secs(seconds), max_missed };
        assert_eq!((changed.guest_keepalive, changed.control_keepalive), (keepalive(3, 6), keepalive(4, 7)));
        assert_eq!(
            (changed.ssh.public_host.as_deref(), changed.ssh.public_port),
            (Some("box.example.org"), Some(22))
        );
        assert_eq!(changed.http_listen.map(|address| address.port()), Some(8022));
        assert_eq!(changed.http.origins, ["https://portal.example:8443"]);
        assert_eq!(changed.http.frame_ancestors, ["https://portal.example"]);
        assert_eq!(changed.http.public_url.as_deref(), Some("https://box.example"));
        let tls = TlsFiles { certificate: "/tls/cert.pem".into(), key: "/tls/key.pem".into() };
        assert_eq!(changed.http.tls, Some(tls));
        assert_eq!(changed.operations_listen.map(|address| address.port()), Some(9022));
        assert_eq!(changed.terminal.grace, Duration::from_secs(11));
        assert!(!changed.limits.source_penalties);
        assert_eq!(
            (changed.limits.max_unauthenticated, changed.limits.max_connections_per_credential),
            (7, 8)
        );
        assert_eq!(changed.login.handshake_deadline, Duration::from_secs(3));
        assert_eq!(changed.login.login_deadline, Duration::from_secs(4));
        assert_eq!((changed.login.max_attempts, changed.login.max_channels), (9, 10));
        assert_eq!(changed.login.unused_timeout, Some(Duration::from_secs(5)));
        assert_eq!(changed.tokens.default, time::Duration::minutes(10));
        assert_eq!(changed.tokens.max, time::Duration::days(2));
        assert_eq!(changed.docker_socket, Path::new("/run/podman/podman.sock"));
        let recording = &changed.recording;
        assert_eq!((recording.default, recording.keep), (sandgate_policy::RecordMode::Terminal, None));
        assert!(recording.input && recording.required);
        assert_eq!(recording.max_bytes, 65536);
        assert_eq!(changed.store, Keep { sessions: Some(time::Duration::days(3)), audit: None });
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(
            changed.qemu,
            MachineSettings {
                kernel: path("/k"),
                qemu: path("/q"),
                vhost_device_vsock: path("/v"),
                start: sandgate_driver::StartMode::Cold,
                accel: sandgate_driver::AccelMode::Tcg,
            }
        );
        assert_eq!(
            (changed.drain_deadline, changed.stop_grace, changed.start_timeout),
            (Duration::from_secs(1), Duration::from_secs(6), Duration::from_secs(8))
        );
        let images = &changed.images;
        assert_eq!(images.insecure_registries, ["registry.lan:5000"]);
        assert_eq!(images.auth_file.as_deref(), Some(Path::new("/etc/docker.json")));
        assert_eq!(images.auth["ghcr.io"].username, "me");
        assert_eq!(images.stall_timeout, Duration::from_secs(9));
        let mut telemetry = TelemetryConfig::new("https://collector.example/otlp").expect("an endpoint");
        telemetry.set_service_name("door".to_owned()).expect("a name");
        telemetry.set_sample_ratio(0.25).expect("a ratio");
        telemetry.set_header("x-api-key", "hush").expect("a header");
        assert_eq!(changed.telemetry, Some(telemetry));
        assert!(!format!("{changed:?}").contains("hush"), "{changed:?}");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, says) in [
            ("[limits]\nsource_penaltys = true", "source_penaltys"),
            ("[limit]\nx = 1", "limit"),
            ("[ssh]\nkeepalive = \"soon\"", "soon"),
            ("[ssh]\nkeepalive = \"0s\"", "ssh.keepalive"),
            ("[store]\nkeep_audit = \"always\"", "always"),
            ("[recording]\ndefault = \"everything\"", "everything"),
            ("[store]\nkeep_sessions = \"0d\"", "store.keep_sessions"),
            ("[guest]\nkeepalive = \"0s\"", "guest.keepalive"),
            ("[control]\nkeepalive_missed = 0", "control.keepalive_missed"),
            ("[ssh]\nrekey_bytes = 1", "65536"),
            ("[ssh]\npublic_host = \"a b\"", "public_host"),
            ("[session]\naccept_env = [\"A=B\"]", "A=B"),
            ("[limits]\nmax_channels = -1", "max_channels"),
            ("[qemu]\nstart = \"hot\"", "hot"),
            ("[http]\norigins = [\"box.example\"]", "http.origins"),
            ("[http]\npublic_url = \"https://box.example/\"", "http.public_url"),
            ("[http]\ntls_key = \"/k\"", "http.tls_certificate"),
            ("[http]\ntls_key = \"k\"\ntls_certificate = \"/c\"", "not absolute"),
            ("[telemetry]\notlp_endpoint = \"collector:4317\"", "telemetry.otlp_endpoint"),
            ("[telemetry]\nservice_name = \"x\"", "telemetry.otlp_endpoint"),
            ("[telemetry]\notlp_endpoint = \"http://x\"\nsample_ratio = 2", "telemetry.sample_ratio"),
            ("[telemetry]\nendpoint = \"http://x\"", "otlp_endpoint"),
        ] {
            let error = config().apply_toml(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text:?} gave {error}");
        }
    }
}
