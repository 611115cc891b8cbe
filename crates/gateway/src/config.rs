//! The gateway's configuration: defaults, the TOML file over them, and flags over that.
//!
//! Reading it has no side effects. An unknown key in the file is an error that names it: a limit that was misspelt and
//! silently not applied would be found out too late.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sandgate_policy::{AcceptEnv, PatternError, TtlPolicy};
use serde::Deserialize;

use crate::limits::Limits;

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
    /// What sessions get.
    pub session: SessionConfig,
    /// The SSH protocol.
    pub ssh: SshConfig,
    /// Who may connect, and how often.
    pub limits: Limits,
    /// What one login may do and how long it may take.
    pub login: LoginConfig,
    /// How long tokens live.
    pub tokens: TtlPolicy,
    /// How long sessions may go on after the gateway was told to stop.
    pub drain_deadline: Duration,
    /// How long a sandbox gets to end before it is killed.
    pub stop_grace: Duration,
}

/// The `[session]` table.
#[derive(Debug, Clone, Default)]
pub struct SessionConfig {
    /// Environment variables that clients may set.
    pub accept_env: AcceptEnv,
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
            // 100 ControlMaster sessions at once must work, with forwards beside them.
            max_channels: 256,
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
            session: SessionConfig::default(),
            ssh: SshConfig::default(),
            limits: Limits::default(),
            login: LoginConfig::default(),
            tokens: TtlPolicy::default(),
            drain_deadline: Duration::from_secs(30),
            stop_grace: Duration::from_secs(10),
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
        let file: File = toml::from_str(text)
            .map_err(|error| ConfigError::Toml(error.to_string().trim_end().to_owned()))?;
        if let Some(listen) = file.ssh.listen {
            self.ssh_listen = listen;
        }
        if let Some(listen) = file.http.listen {
            self.http_listen = Some(listen);
        }
        if let Some(patterns) = file.session.accept_env {
            self.session.accept_env = AcceptEnv::new(patterns).map_err(ConfigError::AcceptEnv)?;
        }
        set(&mut self.ssh.compat, file.ssh.compat);
        if let Some(bytes) = file.ssh.rekey_bytes {
            self.ssh.rekey_bytes = Some(at_least("ssh.rekey_bytes", bytes, MIN_REKEY_BYTES)?);
        }
        if let Some(interval) = file.ssh.rekey_interval {
            self.ssh.rekey_interval = Some(not_zero("ssh.rekey_interval", interval.0)?);
        }
        if let Some(interval) = file.ssh.keepalive {
            self.ssh.keepalive = not_zero("ssh.keepalive", interval.0)?;
        }
        if let Some(missed) = file.ssh.keepalive_missed {
            self.ssh.keepalive_missed = at_least("ssh.keepalive_missed", missed, 1)?;
        }
        if let Some(host) = file.ssh.public_host {
            self.ssh.public_host = Some(host_name(host)?);
        }
        if let Some(port) = file.ssh.public_port {
            self.ssh.public_port = Some(at_least("ssh.public_port", port, 1)?);
        }
        let limits = file.limits;
        set(&mut self.limits.source_penalties, limits.source_penalties);
        if let Some(count) = limits.max_unauthenticated {
            self.limits.max_unauthenticated = at_least("limits.max_unauthenticated", count, 1)?;
        }
        if let Some(count) = limits.max_connections_per_credential {
            self.limits.max_connections_per_credential =
                at_least("limits.max_connections_per_credential", count, 1)?;
        }
        if let Some(deadline) = limits.handshake_deadline {
            self.login.handshake_deadline = not_zero("limits.handshake_deadline", deadline.0)?;
        }
        if let Some(deadline) = limits.login_deadline {
            self.login.login_deadline = not_zero("limits.login_deadline", deadline.0)?;
        }
        if let Some(count) = limits.max_attempts {
            self.login.max_attempts = at_least("limits.max_attempts", count, 1)?;
        }
        if let Some(count) = limits.max_channels {
            self.login.max_channels = at_least("limits.max_channels", count, 1)?;
        }
        if let Some(timeout) = limits.unused_connection_timeout {
            self.login.unused_timeout = Some(not_zero("limits.unused_connection_timeout", timeout.0)?);
        }
        if let Some(ttl) = file.tokens.max_ttl {
            self.tokens.max = span("tokens.max_ttl", ttl.0)?;
        }
        if let Some(ttl) = file.tokens.default_ttl {
            self.tokens.default = span("tokens.default_ttl", ttl.0)?;
        }
        if let Some(deadline) = file.drain.deadline {
            self.drain_deadline = deadline.0;
        }
        if let Some(grace) = file.sandbox.stop_grace {
            self.stop_grace = grace.0;
        }
        Ok(())
    }
}

/// Below this, a connection would do little but exchange keys.
const MIN_REKEY_BYTES: u64 = 64 * 1024;

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn at_least<T: PartialOrd + std::fmt::Display>(
    key: &'static str,
    value: T,
    least: T,
) -> Result<T, ConfigError> {
    if value < least {
        return Err(ConfigError::TooSmall { key, least: least.to_string() });
    }
    Ok(value)
}

fn not_zero(key: &'static str, value: Duration) -> Result<Duration, ConfigError> {
    if value.is_zero() { Err(ConfigError::TooSmall { key, least: "1ms".to_owned() }) } else { Ok(value) }
}

fn span(key: &'static str, value: Duration) -> Result<time::Duration, ConfigError> {
    let value = not_zero(key, value)?;
    time::Duration::try_from(value).map_err(|_| ConfigError::TooSmall { key, least: "1s".to_owned() })
}

/// A host name is printed into command lines and ssh_config, so it must be one plain word.
fn host_name(host: String) -> Result<String, ConfigError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:_".contains(&byte);
    if host.is_empty() || host.len() > 253 || host.starts_with('-') || !host.bytes().all(plain) {
        return Err(ConfigError::HostName(host));
    }
    Ok(host)
}

/// The file as written. Every field is optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    session: FileSession,
    ssh: FileSsh,
    http: FileHttp,
    limits: FileLimits,
    tokens: FileTokens,
    drain: FileDrain,
    sandbox: FileSandbox,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileSession {
    accept_env: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileSsh {
    listen: Option<SocketAddr>,
    compat: Option<bool>,
    rekey_bytes: Option<u64>,
    rekey_interval: Option<Span>,
    keepalive: Option<Span>,
    keepalive_missed: Option<u32>,
    public_host: Option<String>,
    public_port: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileHttp {
    listen: Option<SocketAddr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileLimits {
    source_penalties: Option<bool>,
    max_unauthenticated: Option<usize>,
    max_connections_per_credential: Option<usize>,
    handshake_deadline: Option<Span>,
    login_deadline: Option<Span>,
    max_attempts: Option<u32>,
    max_channels: Option<usize>,
    unused_connection_timeout: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileTokens {
    default_ttl: Option<Span>,
    max_ttl: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileDrain {
    deadline: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileSandbox {
    stop_grace: Option<Span>,
}

/// A length of time, written `"30s"`, `"1h 30m"` or `"7days"`.
#[derive(Debug)]
struct Span(Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let text = String::deserialize(deserializer)?;
        let span = humantime::parse_duration(&text).map_err(|error| {
            serde::de::Error::custom(format!(
                "\"{text}\" is not a length of time such as \"30s\" or \"1h\" ({error})"
            ))
        })?;
        Ok(Span(span))
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
                public_host = "box.example.org"
                public_port = 22
                [http]
                listen = "[::1]:8022"
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
                [drain]
                deadline = "1s"
                [sandbox]
                stop_grace = "6s"
                "#,
            )
            .expect("a file");
        assert!(changed.session.accept_env.accepts(b"FOO_1") && !changed.session.accept_env.accepts(b"LANG"));
        assert_eq!(changed.ssh_listen.port(), 2200);
        assert!(changed.ssh.compat);
        assert_eq!(changed.ssh.rekey_bytes, Some(16 << 20));
        assert_eq!(changed.ssh.rekey_interval, Some(Duration::from_secs(3600)));
        assert_eq!((changed.ssh.keepalive, changed.ssh.keepalive_missed), (Duration::from_secs(2), 5));
        assert_eq!(
            (changed.ssh.public_host.as_deref(), changed.ssh.public_port),
            (Some("box.example.org"), Some(22))
        );
        assert_eq!(changed.http_listen.map(|address| address.port()), Some(8022));
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
        assert_eq!(
            (changed.drain_deadline, changed.stop_grace),
            (Duration::from_secs(1), Duration::from_secs(6))
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (text, says) in [
            ("[limits]\nsource_penaltys = true", "source_penaltys"),
            ("[limit]\nx = 1", "limit"),
            ("[ssh]\nkeepalive = \"soon\"", "soon"),
            ("[ssh]\nkeepalive = \"0s\"", "ssh.keepalive"),
            ("[ssh]\nrekey_bytes = 1", "65536"),
            ("[ssh]\npublic_host = \"a b\"", "public_host"),
            ("[session]\naccept_env = [\"A=B\"]", "A=B"),
            ("[limits]\nmax_channels = -1", "max_channels"),
        ] {
            let error = config().apply_toml(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text:?} gave {error}");
        }
    }
}
