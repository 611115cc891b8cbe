//! Sandboxes.

use sandgate_driver::AdoptTarget;
use sandgate_policy::{ForwardRules, RecordMode, SandboxName};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// A sandbox, as `sandbox ls` and `sandbox inspect` show it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SandboxView {
    /// Identifier.
    pub id: String,
    /// Name.
    pub name: String,
    /// `created`, `starting`, `running`, `paused`, `stopped` or `unknown`.
    pub state: String,
    /// Why it is stopped or unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Process id of the agent on the host, while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// When it was started, or when it stopped.
    #[serde(with = "time::serde::rfc3339::option", default, skip_serializing_if = "Option::is_none")]
    pub since: Option<OffsetDateTime>,
    /// Who runs a virtual machine's processors, while it runs: `kvm`, or `tcg` for QEMU in software.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accel: Option<String>,
    /// How a virtual machine came up, while it runs: `warm`, as a copy of one that had booted, or `cold`, by booting itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// What this machine could not give it.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What it uses of the machine while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageView>,
    /// Live sessions in it.
    pub sessions: usize,
    /// The driver that made it.
    pub driver: String,
    /// Who makes the container.
    pub runtime: String,
    /// Where the root file system comes from.
    pub image: String,
    /// Login user inside, if one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Memory limit in bytes, if one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// CPU limit in cores, if one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Size of a virtual machine's disk in bytes, if one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// The kernel of a virtual machine, if one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Host paths that are shared, as `HOST:GUEST:ro` or `HOST:GUEST:rw`.
    #[serde(default)]
    pub mounts: Vec<String>,
    /// `none` or `host`.
    pub network: String,
    /// The container that it was before it was adopted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<String>,
    /// The container engine that runs it, and its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// The way to its agent, of the driver `external`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// What may be forwarded into it and out of it, whoever comes; empty restricts nothing.
    #[serde(default)]
    #[schema(value_type = crate::schema::Forward)]
    pub forward: ForwardRules,
    /// What of its sessions is recorded at least.
    #[serde(default)]
    #[schema(value_type = crate::schema::RecordName)]
    pub record: RecordMode,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// What a running sandbox uses of the machine. What its driver cannot tell is not there.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UsageView {
    /// Memory in bytes, without files that the kernel would drop first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Most of it, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// Seconds on processors since its start, over all cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
    /// Most of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes_limit: Option<u64>,
}

/// `POST /api/v1/adopt`: makes a sandbox of a container that is there already.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Adopt {
    /// Which one.
    #[schema(value_type = String)]
    pub target: AdoptTarget,
    /// What it is to be called; the container's name if not said.
    #[serde(default)]
    #[schema(value_type = Option<crate::schema::Name>)]
    pub name: Option<SandboxName>,
    /// Login user inside; the container's if not said.
    #[serde(default)]
    pub user: Option<String>,
    /// What may be forwarded into it and out of it, whoever comes.
    #[serde(default)]
    #[schema(value_type = crate::schema::Forward)]
    pub forward: ForwardRules,
    /// What of its sessions is recorded at least.
    #[serde(default)]
    #[schema(value_type = crate::schema::RecordName)]
    pub record: RecordMode,
}
