//! `/api/v1/sandboxes`.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use sandgate_driver::{AdoptTarget, MountAccess, Network, NoProgress, Runtime, State as Doing, Usage};
use sandgate_gateway::Gateway;
use sandgate_gateway::sandboxes::{Change, Removal, SandboxInfo};
use sandgate_policy::SandboxName;
use serde::Deserialize;
use time::OffsetDateTime;

use crate::api::{Adopt, NewSandbox, SandboxView, UsageView};
use crate::problem::{Problem, parse};
use crate::schema::Refusals;

/// Every sandbox.
#[utoipa::path(
    get, path = "/sandboxes", tag = "sandboxes",
    responses((status = 200, body = Vec<SandboxView>), Refusals)
)]
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>) -> Json<Vec<SandboxView>> {
    Json(gateway.sandboxes.list().await.into_iter().map(view).collect())
}

/// Makes a sandbox.
#[utoipa::path(
    post, path = "/sandboxes", tag = "sandboxes",
    request_body = crate::schema::CreateSandbox,
    responses((status = 201, body = SandboxView), Refusals)
)]
pub(crate) async fn create(
    State(gateway): State<Arc<Gateway>>,
    body: Bytes,
) -> Result<(StatusCode, Json<SandboxView>), Problem> {
    let new: NewSandbox = parse(&body)?;
    Ok((StatusCode::CREATED, Json(view(gateway.sandboxes.create(new).await?))))
}

/// Makes a sandbox of a container that is there already.
#[utoipa::path(
    post, path = "/adopt", tag = "sandboxes",
    request_body = Adopt,
    responses((status = 201, body = SandboxView), Refusals)
)]
pub(crate) async fn adopt(
    State(gateway): State<Arc<Gateway>>,
    body: Bytes,
) -> Result<(StatusCode, Json<SandboxView>), Problem> {
    let new = adopted(parse(&body)?)?;
    Ok((StatusCode::CREATED, Json(view(gateway.sandboxes.create(new).await?))))
}

/// The sandbox that a container is to become.
fn adopted(adopt: Adopt) -> Result<NewSandbox, Problem> {
    let Adopt { target, name, user, forward, record } = adopt;
    let name = match name {
        Some(name) => name,
        None => own_name(&target).ok_or_else(|| {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "the sandbox needs a name: give it with --name")
        })?,
    };
    let driver = target.driver().to_owned();
    Ok(NewSandbox { driver, adopt: Some(target), user, forward, record, ..NewSandbox::new(name) })
}

/// The container's name in the alphabet of ours.
fn own_name(target: &AdoptTarget) -> Option<SandboxName> {
    target.name()?.to_ascii_lowercase().replace(['_', '.'], "-").parse().ok()
}

/// One sandbox.
#[utoipa::path(
    get, path = "/sandboxes/{name}", tag = "sandboxes",
    params(("name" = String, Path)),
    responses((status = 200, body = SandboxView), Refusals)
)]
pub(crate) async fn inspect(
    State(gateway): State<Arc<Gateway>>,
    Path(name): Path<String>,
) -> Result<Json<SandboxView>, Problem> {
    Ok(Json(view(gateway.sandboxes.inspect(&name).await?)))
}

/// Starts a sandbox, and waits until it can be reached.
#[utoipa::path(
    post, path = "/sandboxes/{name}/start", tag = "sandboxes",
    params(("name" = String, Path)),
    responses((status = 200, body = SandboxView), Refusals)
)]
pub(crate) async fn start(
    State(gateway): State<Arc<Gateway>>,
    Path(name): Path<String>,
) -> Result<Json<SandboxView>, Problem> {
    Ok(Json(view(gateway.sandboxes.start(&name, &NoProgress).await?)))
}

/// Stops a sandbox; what it has written stays.
#[utoipa::path(
    post, path = "/sandboxes/{name}/stop", tag = "sandboxes",
    params(("name" = String, Path)),
    responses((status = 200, body = SandboxView), Refusals)
)]
pub(crate) async fn stop(
    State(gateway): State<Arc<Gateway>>,
    Path(name): Path<String>,
) -> Result<Json<SandboxView>, Problem> {
    Ok(Json(view(gateway.sandboxes.stop(&name).await?)))
}

/// Pauses a virtual machine.
#[utoipa::path(
    post, path = "/sandboxes/{name}/pause", tag = "sandboxes",
    params(("name" = String, Path)),
    responses((status = 200, body = SandboxView), Refusals)
)]
pub(crate) async fn pause(
    State(gateway): State<Arc<Gateway>>,
    Path(name): Path<String>,
) -> Result<Json<SandboxView>, Problem> {
    Ok(Json(view(gateway.sandboxes.change(&name, Change::Pause).await?)))
}

/// Resumes a virtual machine.
#[utoipa::path(
    post, path = "/sandboxes/{name}/resume", tag = "sandboxes",
    params(("name" = String, Path)),
    responses((status = 200, body = SandboxView), Refusals)
)]
pub(crate) async fn resume(
    State(gateway): State<Arc<Gateway>>,
    Path(name): Path<String>,
) -> Result<Json<SandboxView>, Problem> {
    Ok(Json(view(gateway.sandboxes.change(&name, Change::Resume).await?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RemoveQuery {
    #[serde(default)]
    force: bool,
}

/// Removes a sandbox with all that it has written.
#[utoipa::path(
    delete, path = "/sandboxes/{name}", tag = "sandboxes",
    params(("name" = String, Path), ("force" = Option<bool>, Query, description = "Stop it first")),
    responses((status = 204), Refusals)
)]
pub(crate) async fn remove(
    State(gateway): State<Arc<Gateway>>,
    Path(name): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Result<StatusCode, Problem> {
    let how = if query.force { Removal::Force } else { Removal::IfStopped };
    gateway.sandboxes.remove(&name, how).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn view(info: SandboxInfo) -> SandboxView {
    let (mut pid, mut since, mut warnings, mut reason) = (None, None, Vec::new(), None);
    let (mut accel, mut start) = (None, None);
    let state = match info.state {
        Ok(Doing::Created) => "created",
        Ok(Doing::Starting) => "starting",
        Ok(Doing::Running { pid: agent, started_at, accel: runs, start: how, warnings: lacks }) => {
            accel = runs.map(|accel| accel.to_string());
            start = how.map(|how| how.to_string());
            (pid, since, warnings) = (Some(agent).filter(|pid| *pid != 0), date(started_at), lacks);
            "running"
        }
        Ok(Doing::Paused { started_at }) => {
            since = date(started_at);
            "paused"
        }
        Ok(Doing::Stopped { cause, at }) => {
            (since, reason) = (date(at), Some(cause.to_string()));
            "stopped"
        }
        Err(error) => {
            reason = Some(error);
            "unknown"
        }
    };
    let spec = info.spec;
    let mounts = spec.mounts.iter().map(|mount| {
        let access = match mount.access {
            MountAccess::ReadOnly => "ro",
            MountAccess::ReadWrite => "rw",
        };
        format!("{}:{}:{access}", mount.host.display(), mount.guest.display())
    });
    SandboxView {
        id: spec.id.to_string(),
        state: state.to_owned(),
        reason,
        pid,
        since,
        accel,
        start,
        warnings,
        usage: info.usage.map(used),
        sessions: info.sessions,
        // An engine has a default of its own.
        runtime: match spec.runtime {
            Runtime::Builtin if info.driver == "docker" => "default".to_owned(),
            runtime => runtime.to_string(),
        },
        driver: info.driver,
        image: spec.image.to_string(),
        user: spec.user,
        memory_bytes: spec.memory_bytes,
        cpus: spec.cpus,
        disk_bytes: spec.disk_bytes,
        kernel: spec.kernel.map(|path| path.display().to_string()),
        mounts: mounts.collect(),
        network: match spec.network {
            Network::None => "none".to_owned(),
            Network::Host => "host".to_owned(),
        },
        adopted: spec.adopt.map(|target| target.to_string()),
        engine: info.engine,
        link: spec.external.map(|external| external.link.to_string()),
        forward: info.forward,
        record: info.record,
        name: spec.name,
        created_at: info.created_at,
    }
}

fn used(usage: Usage) -> UsageView {
    let Usage { memory, memory_limit, cpu, processes, processes_limit } = usage;
    UsageView {
        memory_bytes: memory,
        memory_limit_bytes: memory_limit,
        cpu_seconds: cpu.map(|time| time.as_secs_f64()),
        processes,
        processes_limit,
    }
}

/// A time as the API writes it; one before 1970 or after 9999 is left out.
fn date(at: SystemTime) -> Option<OffsetDateTime> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    OffsetDateTime::from_unix_timestamp(i64::try_from(since.as_secs()).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use sandgate_policy::RecordMode;

    use super::*;

    #[test]
    fn what_is_said_of_a_container_holds_for_its_sandbox() {
        let read = |text: &str| parse::<Adopt>(&Bytes::from(text.to_owned())).and_then(adopted);
        let text =
            r#"{"target":"docker:My_Web","user":"me","forward":{"permit_open":[]},"record":"terminal"}"#;
        let new = read(text).expect("a sandbox");
        assert_eq!((new.name.to_string().as_str(), new.driver.as_str()), ("my-web", "docker"));
        assert_eq!((new.user.as_deref(), new.record), (Some("me"), RecordMode::Terminal));
        assert_eq!(new.adopt.map(|target| target.to_string()).as_deref(), Some("docker:My_Web"));
        let plain = read(r#"{"target":"docker:web","name":"box"}"#).expect("a sandbox");
        assert_eq!((plain.name.to_string().as_str(), plain.record), ("box", RecordMode::Off));
        for bad in [r#"{"target":"docker:web","record":"everything"}"#, r#"{"target":"docker:a=b"}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
