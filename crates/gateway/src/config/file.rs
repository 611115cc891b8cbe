//! The configuration file: its tables and keys as they are written, and how they are laid over a configuration.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use sandgate_driver::{AccelMode, MachineSettings, StartMode};
use sandgate_guest::Keepalive;
use sandgate_policy::{AcceptEnv, RecordMode};
use serde::Deserialize;

use super::telemetry::FileTelemetry;
use super::{Config, ConfigError, HttpConfig, TlsFiles};
use crate::images::{ImagesConfig, RegistryLogin};

/// Below this, a connection would do little but exchange keys.
const MIN_REKEY_BYTES: u64 = 64 * 1024;

/// Below this, a recording would hold little but its own frame, in bytes.
const LEAST_RECORDING: u64 = 64 * 1024;

/// The file as written. Every field is optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    session: FileSession,
    ssh: FileSsh,
    terminal: FileTerminal,
    guest: FileKeepalive,
    control: FileKeepalive,
    http: FileHttp,
    operations: FileOperations,
    limits: FileLimits,
    tokens: FileTokens,
    store: FileStore,
    recording: FileRecording,
    drain: FileDrain,
    sandbox: FileSandbox,
    qemu: FileQemu,
    images: FileImages,
    docker: FileDocker,
    telemetry: FileTelemetry,
}

impl File {
    /// Replaces what the file names.
    pub(super) fn lay_over(self, config: &mut Config) -> Result<(), ConfigError> {
        if let Some(listen) = self.ssh.listen {
            config.ssh_listen = listen;
        }
        if let Some(listen) = self.http.listen {
            config.http_listen = Some(listen);
        }
        self.http.apply(&mut config.http)?;
        if let Some(listen) = self.operations.listen {
            config.operations_listen = Some(listen);
        }
        if let Some(patterns) = self.session.accept_env {
            config.session.accept_env = AcceptEnv::new(patterns).map_err(ConfigError::AcceptEnv)?;
        }
        set(&mut config.ssh.compat, self.ssh.compat);
        if let Some(bytes) = self.ssh.rekey_bytes {
            config.ssh.rekey_bytes = Some(at_least("ssh.rekey_bytes", bytes, MIN_REKEY_BYTES)?);
        }
        if let Some(interval) = self.ssh.rekey_interval {
            config.ssh.rekey_interval = Some(not_zero("ssh.rekey_interval", interval.0)?);
        }
        if let Some(interval) = self.ssh.keepalive {
            config.ssh.keepalive = not_zero("ssh.keepalive", interval.0)?;
        }
        if let Some(missed) = self.ssh.keepalive_missed {
            config.ssh.keepalive_missed = at_least("ssh.keepalive_missed", missed, 1)?;
        }
        set(&mut config.ssh.stream_local_bind_unlink, self.ssh.stream_local_bind_unlink);
        if let Some(host) = self.ssh.public_host {
            config.ssh.public_host = Some(host_name(host)?);
        }
        if let Some(port) = self.ssh.public_port {
            config.ssh.public_port = Some(at_least("ssh.public_port", port, 1)?);
        }
        if let Some(grace) = self.terminal.grace {
            config.terminal.grace = grace.0;
        }
        self.guest.apply("guest.keepalive", "guest.keepalive_missed", &mut config.guest_keepalive)?;
        self.control.apply("control.keepalive", "control.keepalive_missed", &mut config.control_keepalive)?;
        self.qemu.apply(&mut config.qemu);
        let limits = self.limits;
        set(&mut config.limits.source_penalties, limits.source_penalties);
        if let Some(count) = limits.max_unauthenticated {
            config.limits.max_unauthenticated = at_least("limits.max_unauthenticated", count, 1)?;
        }
        if let Some(count) = limits.max_connections_per_credential {
            config.limits.max_connections_per_credential =
                at_least("limits.max_connections_per_credential", count, 1)?;
        }
        if let Some(deadline) = limits.handshake_deadline {
            config.login.handshake_deadline = not_zero("limits.handshake_deadline", deadline.0)?;
        }
        if let Some(deadline) = limits.login_deadline {
            config.login.login_deadline = not_zero("limits.login_deadline", deadline.0)?;
        }
        if let Some(count) = limits.max_attempts {
            config.login.max_attempts = at_least("limits.max_attempts", count, 1)?;
        }
        if let Some(count) = limits.max_channels {
            config.login.max_channels = at_least("limits.max_channels", count, 1)?;
        }
        if let Some(timeout) = limits.unused_connection_timeout {
            config.login.unused_timeout = Some(not_zero("limits.unused_connection_timeout", timeout.0)?);
        }
        if let Some(ttl) = self.tokens.max_ttl {
            config.tokens.max = span("tokens.max_ttl", ttl.0)?;
        }
        if let Some(ttl) = self.tokens.default_ttl {
            config.tokens.default = span("tokens.default_ttl", ttl.0)?;
        }
        if let Some(kept) = self.store.keep_sessions {
            config.store.sessions = keep("store.keep_sessions", &kept)?;
        }
        if let Some(kept) = self.store.keep_audit {
            config.store.audit = keep("store.keep_audit", &kept)?;
        }
        if let Some(kept) = self.store.keep_recordings {
            config.recording.keep = keep("store.keep_recordings", &kept)?;
        }
        set(&mut config.recording.default, self.recording.default);
        set(&mut config.recording.input, self.recording.input);
        set(&mut config.recording.required, self.recording.required);
        if let Some(bytes) = self.recording.max_bytes {
            config.recording.max_bytes = at_least("recording.max_bytes", bytes, LEAST_RECORDING)?;
        }
        if let Some(deadline) = self.drain.deadline {
            config.drain_deadline = deadline.0;
        }
        self.images.apply(&mut config.images)?;
        if let Some(timeout) = self.sandbox.start_timeout {
            config.start_timeout = timeout.0;
        }
        if let Some(grace) = self.sandbox.stop_grace {
            config.stop_grace = grace.0;
        }
        if let Some(socket) = self.docker.socket {
            if !socket.is_absolute() {
                return Err(ConfigError::RelativePath { key: "docker.socket", path: socket });
            }
            config.docker_socket = socket;
        }
        self.telemetry.apply(&mut config.telemetry)?;
        Ok(())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileSession {
    accept_env: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileTerminal {
    grace: Option<Span>,
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
    stream_local_bind_unlink: Option<bool>,
    public_host: Option<String>,
    public_port: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileKeepalive {
    keepalive: Option<Span>,
    keepalive_missed: Option<u32>,
}

impl FileKeepalive {
    fn apply(
        self,
        interval_key: &'static str,
        missed_key: &'static str,
        to: &mut Keepalive,
    ) -> Result<(), ConfigError> {
        if let Some(interval) = self.keepalive {
            to.interval = not_zero(interval_key, interval.0)?;
        }
        if let Some(missed) = self.keepalive_missed {
            to.max_missed = at_least(missed_key, missed, 1)?;
        }
        Ok(())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileHttp {
    listen: Option<SocketAddr>,
    origins: Option<Vec<String>>,
    frame_ancestors: Option<Vec<String>>,
    public_url: Option<String>,
    tls_certificate: Option<PathBuf>,
    tls_key: Option<PathBuf>,
}

impl FileHttp {
    fn apply(self, config: &mut HttpConfig) -> Result<(), ConfigError> {
        for text in self.origins.iter().flatten() {
            origin("http.origins", text)?;
        }
        set(&mut config.origins, self.origins);
        for text in self.frame_ancestors.iter().flatten() {
            origin("http.frame_ancestors", text)?;
        }
        set(&mut config.frame_ancestors, self.frame_ancestors);
        if let Some(url) = self.public_url {
            origin("http.public_url", &url)?;
            config.public_url = Some(url);
        }
        config.tls = match (self.tls_certificate, self.tls_key) {
            (None, None) => config.tls.take(),
            (Some(certificate), Some(key)) => {
                for (name, path) in [("http.tls_certificate", &certificate), ("http.tls_key", &key)] {
                    if !path.is_absolute() {
                        return Err(ConfigError::RelativePath { key: name, path: path.clone() });
                    }
                }
                Some(TlsFiles { certificate, key })
            }
            (Some(_), None) => {
                return Err(ConfigError::Half { given: "http.tls_certificate", missing: "http.tls_key" });
            }
            (None, Some(_)) => {
                return Err(ConfigError::Half { given: "http.tls_key", missing: "http.tls_certificate" });
            }
        };
        Ok(())
    }
}

/// Whether browsers could send this as `Origin`: a scheme, a host and perhaps a port, and nothing after them.
fn origin(key: &'static str, text: &str) -> Result<(), ConfigError> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let fits = |host: &str| {
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte))
    };
    match host {
        Some(host) if fits(host) => Ok(()),
        _ => Err(ConfigError::Origin { key, text: text.to_owned() }),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileOperations {
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
struct FileStore {
    keep_sessions: Option<Kept>,
    keep_audit: Option<Kept>,
    keep_recordings: Option<Kept>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileRecording {
    default: Option<RecordMode>,
    input: Option<bool>,
    required: Option<bool>,
    max_bytes: Option<u64>,
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
    start_timeout: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileImages {
    insecure_registries: Option<Vec<String>>,
    auth_file: Option<PathBuf>,
    auth: BTreeMap<String, FileLogin>,
    stall_timeout: Option<Span>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLogin {
    username: String,
    password_file: PathBuf,
}

impl FileImages {
    fn apply(self, images: &mut ImagesConfig) -> Result<(), ConfigError> {
        set(&mut images.insecure_registries, self.insecure_registries);
        images.auth_file = self.auth_file.or(images.auth_file.take());
        let logins = self.auth.into_iter();
        images.auth.extend(logins.map(|(registry, login)| {
            (registry, RegistryLogin { username: login.username, password_file: login.password_file })
        }));
        if let Some(timeout) = self.stall_timeout {
            images.stall_timeout = not_zero("images.stall_timeout", timeout.0)?;
        }
        Ok(())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileDocker {
    socket: Option<PathBuf>,
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

/// `[qemu]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileQemu {
    kernel: Option<PathBuf>,
    program: Option<PathBuf>,
    vhost_device_vsock: Option<PathBuf>,
    start: Option<StartMode>,
    accel: Option<AccelMode>,
}

impl FileQemu {
    fn apply(self, settings: &mut MachineSettings) {
        settings.kernel = self.kernel.or(settings.kernel.take());
        settings.qemu = self.program.or(settings.qemu.take());
        settings.vhost_device_vsock = self.vhost_device_vsock.or(settings.vhost_device_vsock.take());
        set(&mut settings.start, self.start);
        set(&mut settings.accel, self.accel);
    }
}

/// A length of time, or `"forever"`.
#[derive(Debug)]
struct Kept(Option<Duration>);

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Kept, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "forever" {
            return Ok(Kept(None));
        }
        let Span(kept) = Span::deserialize(serde::de::value::StringDeserializer::<D::Error>::new(text))?;
        Ok(Kept(Some(kept)))
    }
}

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

fn keep(key: &'static str, kept: &Kept) -> Result<Option<time::Duration>, ConfigError> {
    kept.0.map(|kept| span(key, kept)).transpose()
}

/// A host name is printed into command lines and ssh_config, so it must be one plain word.
fn host_name(host: String) -> Result<String, ConfigError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:_".contains(&byte);
    if host.is_empty() || host.len() > 253 || host.starts_with('-') || !host.bytes().all(plain) {
        return Err(ConfigError::HostName(host));
    }
    Ok(host)
}
