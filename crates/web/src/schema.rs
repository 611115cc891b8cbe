//! Schemas of types that are other crates', for the OpenAPI document alone.
//!
//! A test sends each through the type that it stands for.
#![allow(dead_code, reason = "a schema is read by a macro, and its values are never made")]

use utoipa::{IntoResponses, ToSchema};

use crate::api::ProblemView;

/// What any request may be answered with when it cannot be served.
#[derive(IntoResponses)]
pub(crate) enum Refusals {
    /// The request cannot be read.
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(#[to_schema] ProblemView),
    /// Nobody is known behind the request.
    #[response(status = 401, content_type = "application/problem+json")]
    Unknown(#[to_schema] ProblemView),
    /// The caller's role does not suffice, or the request comes from a page of another origin.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(#[to_schema] ProblemView),
    /// There is no such thing.
    #[response(status = 404, content_type = "application/problem+json")]
    Missing(#[to_schema] ProblemView),
    /// The thing has this method not.
    #[response(status = 405, content_type = "application/problem+json")]
    Method(#[to_schema] ProblemView),
    /// It is there already, its state does not permit it, or the sandbox cannot be started.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(#[to_schema] ProblemView),
    /// The body is too long.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLong(#[to_schema] ProblemView),
    /// The request can be read, and what it asks for makes no sense here.
    #[response(status = 422, content_type = "application/problem+json")]
    Unusable(#[to_schema] ProblemView),
    /// What was presented is not known, and there were too many such failures from this address before.
    #[response(status = 429, content_type = "application/problem+json")]
    Slower(#[to_schema] ProblemView),
    /// The sandbox was lost on the way, or a registry of images does not answer.
    #[response(status = 502, content_type = "application/problem+json")]
    Lost(#[to_schema] ProblemView),
    /// The sandbox is busy, its engine does not answer, or all places are taken.
    #[response(status = 503, content_type = "application/problem+json")]
    NotNow(#[to_schema] ProblemView),
}

/// What a new sandbox is to be.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateSandbox {
    name: Name,
    /// `oci`, `docker`, `qemu` or `external`; `oci` if not said.
    #[serde(default)]
    driver: String,
    /// Who makes the container: `builtin`, `runc`, `crun`, `runsc`, or a path.
    #[serde(default)]
    runtime: String,
    /// Where the root file system comes from: `host`, an absolute path, or the name of an image.
    #[serde(default)]
    image: String,
    /// Login user inside.
    user: Option<String>,
    /// Memory limit in bytes.
    #[schema(minimum = 1)]
    memory_bytes: Option<u64>,
    /// CPU limit in cores.
    cpus: Option<f64>,
    /// Limit of processes and threads.
    #[schema(minimum = 1)]
    pids: Option<u64>,
    /// Size of a virtual machine's disk in bytes.
    #[schema(minimum = 1)]
    disk_bytes: Option<u64>,
    /// The kernel of a virtual machine: an absolute path on the gateway's host.
    kernel: Option<String>,
    /// Environment of every session.
    #[serde(default)]
    env: Vec<Pair>,
    /// Host directories and files to share.
    #[serde(default)]
    mounts: Vec<Mount>,
    /// What of the network it sees.
    #[serde(default)]
    network: NetworkName,
    /// What may be forwarded into it and out of it, whoever comes.
    #[serde(default)]
    forward: Forward,
    /// What of its sessions is recorded at least.
    #[serde(default)]
    record: RecordName,
}

/// A variable: its name and its value.
#[derive(ToSchema)]
#[schema(min_items = 2, max_items = 2)]
pub(crate) struct Pair(Vec<String>);

/// A host path in a sandbox.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mount {
    host: String,
    guest: String,
    access: AccessName,
}

#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
pub(crate) enum AccessName {
    ReadOnly,
    ReadWrite,
}

#[derive(ToSchema, Default)]
#[schema(rename_all = "kebab-case")]
pub(crate) enum NetworkName {
    #[default]
    None,
    Host,
}

/// A name of a sandbox or key: lower-case letters, digits and dashes.
#[derive(ToSchema)]
#[schema(pattern = "^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]
pub(crate) struct Name(String);

/// A text for people.
#[derive(ToSchema)]
#[schema(max_length = 64, pattern = "^[A-Za-z0-9 .,:@/+-]*$")]
pub(crate) struct LabelText(String);

/// What a token is good for.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum ScopeName {
    Shell,
    Exec,
    Sftp,
    Forward,
    Agent,
}

/// What a token is good for: one thing at least.
#[derive(ToSchema)]
#[schema(min_items = 1)]
pub(crate) struct ScopeNames(Vec<ScopeName>);

/// What is recorded.
#[derive(ToSchema, Default)]
#[schema(rename_all = "lowercase")]
pub(crate) enum RecordName {
    #[default]
    Off,
    Terminal,
    All,
}

/// What somebody does at a terminal.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum ModeName {
    Write,
    Watch,
}

/// What an API key is good for.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum RoleName {
    Viewer,
    User,
    Admin,
}

/// What the file servers do for a credential.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Files {
    /// Directory that they show as /.
    root: Option<String>,
    /// Whether they only read.
    #[serde(default)]
    read_only: bool,
}

/// Rules for forwarding in OpenSSH's terms; a list that is not there restricts nothing.
#[derive(ToSchema, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct Forward {
    /// As `PermitOpen`.
    permit_open: Option<Vec<String>>,
    /// As `PermitListen`.
    permit_listen: Option<Vec<String>>,
    /// Sockets that may be connected to.
    permit_socket_open: Option<Vec<String>>,
    /// Sockets that may be listened on.
    permit_socket_listen: Option<Vec<String>>,
    /// `SHA256:…` of keys of a forwarded agent.
    agent_keys: Option<Vec<String>>,
}

/// An authority of certificates.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Authority {
    /// Names that its certificates may hold in place of the sandbox's.
    principals: Vec<String>,
}
