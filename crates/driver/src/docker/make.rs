//! What a container of ours is: a specification in the words of the engine's API.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountBindOptions,
    MountBindOptionsPropagationEnum, MountType, RestartPolicy, RestartPolicyNameEnum,
};

use super::{DATA_DIR_LABEL, NAME, SANDBOX_LABEL};
use crate::spec::{DEFAULT_MEMORY_BYTES, DEFAULT_PIDS};
use crate::{ImageSource, InvalidSpec, MountAccess, Network, Runtime, SandboxSpec};

/// Where the agent lies in a container.
pub(super) const AGENT: &str = "/.sandgate/agent";
/// Taken from Docker's default set, as the driver `oci` does. Podman does not have them to begin with.
const DROPPED: [&str; 2] = ["NET_RAW", "MKNOD"];
/// CPU limits are in units of a billionth of a core.
const NANO: f64 = 1e9;

/// What this driver cannot do, and the name of the image.
pub(super) fn check(spec: &SandboxSpec) -> Result<&str, InvalidSpec> {
    spec.validate()?;
    if spec.external.is_some() {
        return Err(InvalidSpec::Pointless { driver: NAME, what: "a link: it makes its own" });
    }
    if spec.kernel.is_some() {
        return Err(InvalidSpec::Pointless {
            driver: NAME,
            what: "a kernel: its containers run on the host's",
        });
    }
    match &spec.image {
        ImageSource::Named(name) => Ok(name.as_str()),
        ImageSource::Host => Err(InvalidSpec::Missing {
            driver: NAME,
            what: "the name of an image that the engine has, such as --image debian:12; \"host\" is for the driver oci",
        }),
        ImageSource::Path(_) => Err(InvalidSpec::Pointless {
            driver: NAME,
            what: "the path of an image: load it with docker load or docker import, and give its name",
        }),
    }
}

/// What is asked of a container that somebody else has made: nothing but who logs in.
pub(super) fn check_adopted(spec: &SandboxSpec) -> Result<(), InvalidSpec> {
    spec.validate()?;
    let pointless = [
        (spec.memory_bytes.is_some(), "a memory limit: the container has its own"),
        (spec.cpus.is_some(), "a cpu limit: the container has its own"),
        (spec.pids.is_some(), "a process limit: the container has its own"),
        (spec.kernel.is_some(), "a kernel: containers run on the host's"),
        (!spec.env.is_empty(), "variables: the container has its own"),
        (!spec.mounts.is_empty(), "mounts: the container has its own"),
        (spec.network != Network::default(), "a network: the container has its own"),
        (spec.image != ImageSource::default(), "an image: the container has its own"),
        (spec.runtime != Runtime::default(), "a runtime: the container has its own"),
        (spec.external.is_some(), "a link: it makes its own"),
    ];
    match pointless.into_iter().find(|(asked, _)| *asked) {
        Some((_, what)) => Err(InvalidSpec::Pointless { driver: NAME, what }),
        None => Ok(()),
    }
}

/// The container. Its first process is our agent, which holds it open and reaps; sessions are in agents of their own beside it.
pub(super) fn container(spec: &SandboxSpec, image: &str, tag: &str) -> ContainerCreateBody {
    let labels = [(SANDBOX_LABEL, spec.id.as_str()), (DATA_DIR_LABEL, tag), ("io.sandgate.name", &spec.name)];
    let labels: HashMap<_, _> = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    ContainerCreateBody {
        image: Some(image.to_owned()),
        hostname: Some(spec.name.clone()),
        // The agent becomes the login user of each session, so it begins as root inside, by number since an image may have no names.
        user: Some("0:0".to_owned()),
        entrypoint: Some(vec![AGENT.to_owned(), "--hold".to_owned()]),
        cmd: Some(Vec::new()),
        env: Some(spec.env.iter().map(|(key, value)| format!("{key}={value}")).collect()),
        // An image's own check would run programs that nobody asked for, an image's own signal the agent might not know.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        stop_signal: Some("SIGTERM".to_owned()),
        labels: Some(labels),
        host_config: Some(host(spec)),
        ..ContainerCreateBody::default()
    }
}

fn host(spec: &SandboxSpec) -> HostConfig {
    let limit = |value: Option<u64>, default: u64| i64::try_from(value.unwrap_or(default)).ok();
    let memory = limit(spec.memory_bytes, DEFAULT_MEMORY_BYTES);
    #[expect(clippy::cast_possible_truncation, reason = "at most 4096 cores, checked before")]
    let nano_cpus = spec.cpus.map(|cores| (cores * NANO) as i64);
    HostConfig {
        memory,
        // The same figure for both together: no swap beyond the memory.
        memory_swap: memory,
        nano_cpus,
        pids_limit: limit(spec.pids, DEFAULT_PIDS),
        network_mode: Some(match spec.network {
            Network::None => "none".to_owned(),
            Network::Host => "host".to_owned(),
        }),
        runtime: spec.runtime.program().map(|program| program.display().to_string()),
        cap_drop: Some(DROPPED.map(str::to_owned).to_vec()),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        privileged: Some(false),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        // What is written to the first process's output is the guest's, without end.
        log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
        mounts: Some(spec.mounts.iter().map(mount).collect()),
        ..HostConfig::default()
    }
}

fn mount(mount: &crate::BindMount) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(mount.host.display().to_string()),
        target: Some(mount.guest.display().to_string()),
        read_only: Some(mount.access == MountAccess::ReadOnly),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> SandboxSpec {
        let mut spec = SandboxSpec::new("a".parse().unwrap(), "demo");
        spec.image = "debian:12".parse().unwrap();
        spec
    }

    #[test]
    fn only_images_that_the_engine_has_are_taken() {
        assert_eq!(check(&spec()), Ok("debian:12"));
        for (image, word) in [("host", "debian:12"), ("/a.tar", "docker load")] {
            let mut spec = spec();
            spec.image = image.parse().unwrap();
            assert!(check(&spec).unwrap_err().to_string().contains(word), "{image}");
        }
    }

    #[test]
    fn a_container_is_closed_unless_it_is_opened() {
        let host = container(&spec(), "debian:12", "tag").host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!((host.memory, host.memory_swap), (Some(1 << 30), Some(1 << 30)));
        assert_eq!((host.pids_limit, host.nano_cpus, host.runtime), (Some(1024), None, None));
        assert_eq!(host.security_opt, Some(vec!["no-new-privileges".to_owned()]));
        assert_eq!(host.privileged, Some(false));
        let mut open = spec();
        (open.cpus, open.runtime) = (Some(0.5), "kata".parse().unwrap());
        let host = container(&open, "debian:12", "tag").host_config.unwrap();
        assert_eq!((host.nano_cpus, host.runtime.as_deref()), (Some(500_000_000), Some("kata")));
    }

    #[test]
    fn an_adopted_container_keeps_its_own() {
        let plain = SandboxSpec::new("a".parse().unwrap(), "demo");
        assert_eq!(check_adopted(&plain), Ok(()));
        let mut limited = plain;
        limited.pids = Some(100);
        assert!(check_adopted(&limited).is_err());
    }
}
