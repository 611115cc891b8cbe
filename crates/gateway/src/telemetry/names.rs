//! What spans and their attributes are called: OpenTelemetry's semantic conventions where they have a name, `sandgate.` before the rest.

use sandgate_guest::GuestError;

/// One SSH connection, from accept to end.
pub(super) const CONNECTION: &str = "ssh.connection";
/// From accept to the first request to log in: the key exchange.
pub(super) const CONNECT: &str = "connect";
/// One attempt to log in.
pub(super) const AUTH: &str = "auth";
/// One program in a sandbox, from the request for it to its end.
pub(super) const SESSION: &str = "session";
/// A sandbox that did not run is started or resumed.
pub(super) const WAKE: &str = "wake";
/// From dialling the guest agent to its answer that the program runs.
pub(super) const LINK: &str = "link";
/// From the request for a program to the first byte that it writes.
pub(super) const FIRST_BYTE: &str = "first_byte";

pub(super) const SERVICE_VERSION: &str = "service.version";
pub(super) const HOST_NAME: &str = "host.name";
pub(super) const CLIENT_ADDRESS: &str = "client.address";
pub(super) const CLIENT_PORT: &str = "client.port";
pub(super) const PROTOCOL_NAME: &str = "network.protocol.name";
/// A word for each kind of failure; never its text.
pub(super) const ERROR_TYPE: &str = "error.type";
/// As a shell has it: 128 and its number for a signal.
pub(super) const EXIT_CODE: &str = "process.exit.code";

pub(super) const SANDBOX: &str = "sandgate.sandbox.name";
/// `token`, `key`, `certificate`, `api_key` or `local`.
pub(super) const CREDENTIAL: &str = "sandgate.credential.kind";
pub(super) const AUTH_METHOD: &str = "sandgate.auth.method";
/// `accepted`, `refused` or `probed`.
pub(super) const AUTH_OUTCOME: &str = "sandgate.auth.outcome";
pub(super) const SESSION_ID: &str = "sandgate.session.id";
/// `shell`, `exec`, `sftp` or `scp`.
pub(super) const SESSION_KIND: &str = "sandgate.session.kind";
pub(super) const SESSION_TERMINAL: &str = "sandgate.session.terminal";
/// `exited`, `signalled`, `link_lost`, `ended` (from our side) or `client_gone`.
pub(super) const SESSION_OUTCOME: &str = "sandgate.session.outcome";
pub(super) const BYTES_IN: &str = "sandgate.session.bytes_in";
pub(super) const BYTES_OUT: &str = "sandgate.session.bytes_out";

/// A word for what went wrong with a guest; its text may be the guest's own.
pub(crate) fn guest_failure(error: &GuestError) -> &'static str {
    match error {
        GuestError::SandboxGone => "sandbox_gone",
        GuestError::Dial(_) => "not_reached",
        GuestError::Timeout { .. } | GuestError::NotResponding { .. } => "timeout",
        GuestError::Refused { .. } => "refused",
        GuestError::Version(_) | GuestError::Protocol(_) => "protocol",
        GuestError::Reset | GuestError::LinkLost => "link_lost",
        GuestError::Limit(_) => "limit",
        _ => "other",
    }
}
