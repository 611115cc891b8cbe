//! The OCI bundle: what any runtime is told about a sandbox.
//!
//! The rules follow Docker's defaults and are stricter where nothing in a sandbox without a network needs more: no
//! `CAP_NET_RAW`, no `CAP_MKNOD`, no 32-bit system calls, no new privileges.

mod seccomp;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxCpuBuilder, LinuxDeviceCgroupBuilder,
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxMemoryBuilder, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, Mount, MountBuilder,
    PosixRlimit, PosixRlimitBuilder, PosixRlimitType, ProcessBuilder, RootBuilder, Spec, SpecBuilder,
    UserBuilder,
};

pub(crate) use seccomp::MaskOrder;

use crate::state::{Identity, Meta};
use crate::{DEFAULT_MEMORY_BYTES, DEFAULT_PIDS, MountAccess, Network, SandboxSpec};

/// Where the agent is inside. The directory is made in the sandbox's own layer, so any image will do.
pub(crate) const AGENT_PLACE: &str = "/.sandgate/agent";

/// Open files of a process inside, unless the gateway's own limit is lower: thousands of sessions, and small enough that
/// programs which close every possible descriptor stay quick.
const MAX_OPEN_FILES: u64 = 65_536;

/// Microseconds in which a cpu quota is counted, the kernel's default.
const CPU_PERIOD: u64 = 100_000;

/// Docker's default set without NET_RAW (there is no network to send raw packets to) and MKNOD (refused in a user namespace).
const CAPABILITIES: [Capability; 12] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::NetBindService,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Files of /proc and /sys that tell about the host or act on it.
const MASKED_PATHS: [&str; 14] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/kmsg",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/kernel/debug",
];

/// Directories of /proc whose files change the kernel.
const READ_ONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The environment where the image names none of these.
const DEFAULT_ENV: [(&str, &str); 2] =
    [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("container", "sandgate")];

/// What the bundle needs to know besides the specification.
#[derive(Debug)]
pub(crate) struct Situation<'a> {
    pub(crate) spec: &'a SandboxSpec,
    pub(crate) meta: &'a Meta,
    /// The merged root file system.
    pub(crate) root: &'a Path,
    /// Directories to bind below the root: where, relative to it, and from where.
    pub(crate) merged: &'a [(String, PathBuf)],
    /// The agent binary as the container's setup sees it.
    pub(crate) agent: &'a Path,
    /// Arguments of the agent.
    pub(crate) agent_args: &'a [&'a str],
    /// Sources of the specification's mounts, in their order.
    pub(crate) mounts: &'a [PathBuf],
    pub(crate) limits: Limits<'a>,
    /// How the runtime reads masked comparisons.
    pub(crate) mask_order: MaskOrder,
    /// RLIMIT_NOFILE of this process, which cannot be raised.
    pub(crate) open_files: u64,
}

/// Which limits the machine can enforce.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limits<'a> {
    /// By cgroups below this absolute path.
    Cgroup { path: &'a str, memory: bool, swap: bool, pids: bool, cpu: bool },
    /// By resource limits of each process and user.
    Process { path: &'a str },
}

/// Makes `config.json`'s content.
pub(crate) fn build(situation: &Situation<'_>) -> Result<Spec, OciSpecError> {
    let Situation { spec, meta, .. } = situation;
    let capabilities: HashSet<Capability> = CAPABILITIES.into_iter().collect();
    let mut args = vec![AGENT_PLACE.to_owned()];
    args.extend(situation.agent_args.iter().map(|&arg| arg.to_owned()));
    let process = ProcessBuilder::default()
        .terminal(false)
        .user(UserBuilder::default().uid(0u32).gid(0u32).build()?)
        .args(args)
        .env(environment(spec, meta))
        .cwd("/")
        .capabilities(
            // Ambient and inheritable stay empty: a program run by a user other than root gets nothing.
            LinuxCapabilitiesBuilder::default()
                .bounding(capabilities.clone())
                .effective(capabilities.clone())
                .permitted(capabilities)
                .inheritable(HashSet::new())
                .ambient(HashSet::new())
                .build()?,
        )
        .rlimits(resource_limits(situation)?)
        .no_new_privileges(true)
        .build()?;
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(spec, meta)?)
        .seccomp(seccomp::profile(situation.mask_order)?)
        .masked_paths(MASKED_PATHS.map(str::to_owned).to_vec())
        .readonly_paths(READ_ONLY_PATHS.map(str::to_owned).to_vec())
        .rootfs_propagation("private")
        .devices(Vec::new())
        .build()?;
    let (Limits::Cgroup { path, .. } | Limits::Process { path }) = situation.limits;
    linux.set_cgroups_path(Some(PathBuf::from(path)));
    linux.set_resources(resources(situation)?);
    if let Identity::Mapped { base, size } = meta.identity {
        let map = id_mapping(base, size)?;
        linux.set_uid_mappings(Some(vec![map]));
        linux.set_gid_mappings(Some(vec![map]));
    }
    SpecBuilder::default()
        .version("1.0.2")
        .root(RootBuilder::default().path(situation.root).readonly(false).build()?)
        .hostname(spec.name.clone())
        .mounts(mounts(situation)?)
        .process(process)
        .linux(linux)
        .build()
}

fn id_mapping(base: u32, size: u32) -> Result<LinuxIdMapping, OciSpecError> {
    LinuxIdMappingBuilder::default().container_id(0u32).host_id(base).size(size).build()
}

fn namespaces(spec: &SandboxSpec, meta: &Meta) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network as Net, Pid, User, Uts};
    let mut wanted = vec![Mount, Pid, Ipc, Uts, Cgroup];
    // Without a range of our own the shim has entered the user namespace, and a network of that, already.
    if matches!(meta.identity, Identity::Mapped { .. }) {
        wanted.push(User);
        if spec.network == Network::None {
            wanted.push(Net);
        }
    }
    wanted.into_iter().map(|kind| LinuxNamespaceBuilder::default().typ(kind).build()).collect()
}

pub(crate) fn environment(spec: &SandboxSpec, meta: &Meta) -> Vec<String> {
    let mut env: Vec<(String, String)> =
        DEFAULT_ENV.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let image = meta.image.env.iter().filter_map(|line| line.split_once('='));
    let image = image.map(|(k, v)| (k.to_owned(), v.to_owned()));
    for (key, value) in image.chain(spec.env.iter().cloned()) {
        if key.is_empty() || key.contains('\0') || value.contains('\0') {
            continue;
        }
        match env.iter_mut().find(|(known, _)| *known == key) {
            Some((_, old)) => *old = value,
            None => env.push((key, value)),
        }
    }
    env.into_iter().map(|(key, value)| format!("{key}={value}")).collect()
}

fn resource_limits(situation: &Situation<'_>) -> Result<Vec<PosixRlimit>, OciSpecError> {
    let limit = |kind, value: u64| PosixRlimitBuilder::default().typ(kind).hard(value).soft(value).build();
    let mut limits = vec![
        limit(PosixRlimitType::RlimitNofile, situation.open_files.min(MAX_OPEN_FILES))?,
        // A core file, or worse, the host's core handler fed with the guest's memory, helps nobody.
        limit(PosixRlimitType::RlimitCore, 0)?,
    ];
    if let Limits::Process { .. } = situation.limits {
        let spec = situation.spec;
        limits.push(limit(PosixRlimitType::RlimitNproc, spec.pids.unwrap_or(DEFAULT_PIDS))?);
        // Counts what a process may write to, not what it merely reserves, so that runtimes with large heaps start.
        limits.push(limit(PosixRlimitType::RlimitData, spec.memory_bytes.unwrap_or(DEFAULT_MEMORY_BYTES))?);
    }
    Ok(limits)
}

fn resources(situation: &Situation<'_>) -> Result<Option<LinuxResources>, OciSpecError> {
    let Limits::Cgroup { memory, swap, pids, cpu, .. } = situation.limits else { return Ok(None) };
    let spec = situation.spec;
    // The user namespace refuses mknod already; this is the second fence where there is a version 1 device controller.
    let mut builder = LinuxResourcesBuilder::default()
        .devices(vec![LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build()?]);
    if memory {
        let bytes = i64::try_from(spec.memory_bytes.unwrap_or(DEFAULT_MEMORY_BYTES)).unwrap_or(i64::MAX);
        let mut limit = LinuxMemoryBuilder::default().limit(bytes);
        if swap {
            // Memory and swap together: none beyond the memory.
            limit = limit.swap(bytes);
        }
        builder = builder.memory(limit.build()?);
    }
    if pids {
        let count = i64::try_from(spec.pids.unwrap_or(DEFAULT_PIDS)).unwrap_or(i64::MAX);
        builder = builder.pids(LinuxPidsBuilder::default().limit(count).build()?);
    }
    if let (true, Some(cores)) = (cpu, spec.cpus) {
        #[expect(clippy::cast_possible_truncation, reason = "validated to be at most 4096 cores")]
        #[expect(clippy::cast_precision_loss, reason = "the period is a small number")]
        let quota = (cores * CPU_PERIOD as f64) as i64;
        builder = builder.cpu(LinuxCpuBuilder::default().quota(quota).period(CPU_PERIOD).build()?);
    }
    builder.build().map(Some)
}

fn mounts(situation: &Situation<'_>) -> Result<Vec<Mount>, OciSpecError> {
    let make = |destination: &str, kind: &str, source: &Path, options: &[&str]| {
        MountBuilder::default()
            .destination(destination)
            .typ(kind)
            .source(source)
            .options(options.iter().map(|&option| option.to_owned()).collect::<Vec<_>>())
            .build()
    };
    // Group 5 is tty in every distribution; without it the terminal belongs to the user's own group, as in a plain devpts.
    let mut devpts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if situation.meta.identity.size() > 5 {
        devpts.push("gid=5");
    }
    let mut list = Vec::with_capacity(16);
    for (target, source) in situation.merged {
        list.push(make(&format!("/{target}"), "bind", source, &["bind", "rw", "nosuid", "nodev"])?);
    }
    list.extend([
        make("/proc", "proc", Path::new("proc"), &["nosuid", "noexec", "nodev"])?,
        make("/dev", "tmpfs", Path::new("tmpfs"), &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        make("/dev/pts", "devpts", Path::new("devpts"), &devpts)?,
        make("/dev/shm", "tmpfs", Path::new("shm"), &["nosuid", "noexec", "nodev", "mode=1777", "size=64m"])?,
        make("/dev/mqueue", "mqueue", Path::new("mqueue"), &["nosuid", "noexec", "nodev"])?,
        match situation.spec.network {
            Network::None => make("/sys", "sysfs", Path::new("sysfs"), &["nosuid", "noexec", "nodev", "ro"])?,
            // The kernel lends no sysfs to who does not own the network, and the host's own would tell too much.
            Network::Host => make(
                "/sys",
                "tmpfs",
                Path::new("tmpfs"),
                &["nosuid", "noexec", "nodev", "ro", "mode=755", "size=4k"],
            )?,
        },
        make(AGENT_PLACE, "bind", situation.agent, &["bind", "ro", "nosuid", "nodev"])?,
    ]);
    for (mount, source) in situation.spec.mounts.iter().zip(situation.mounts) {
        let access = match mount.access {
            MountAccess::ReadOnly => "ro",
            MountAccess::ReadWrite => "rw",
        };
        list.push(
            MountBuilder::default()
                .destination(mount.guest.clone())
                .typ("bind")
                .source(source)
                .options(["rbind", access, "nosuid", "nodev"].map(str::to_owned).to_vec())
                .build()?,
        );
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::ImageMeta;

    fn situation<'a>(spec: &'a SandboxSpec, meta: &'a Meta) -> Situation<'a> {
        Situation {
            spec,
            meta,
            root: Path::new("/mnt/rootfs"),
            merged: &[],
            agent: Path::new("/mnt/agent"),
            agent_args: &["--listen-fd", "0"],
            mounts: &[],
            limits: Limits::Cgroup { path: "/sandgate/x", memory: true, swap: true, pids: true, cpu: true },
            mask_order: MaskOrder::MaskFirst,
            open_files: 20_000,
        }
    }

    fn meta(identity: Identity) -> Meta {
        Meta { identity, image: ImageMeta::default(), warnings: Vec::new() }
    }

    #[test]
    fn a_bundle_has_every_fence() {
        let mut spec = SandboxSpec::new("a".parse().unwrap(), "box");
        spec.cpus = Some(1.5);
        let meta = meta(Identity::Mapped { base: 1 << 30, size: 65_536 });
        let bundle = build(&situation(&spec, &meta)).unwrap();
        let linux = bundle.linux().as_ref().unwrap();
        let kinds: HashSet<_> =
            linux.namespaces().as_ref().unwrap().iter().map(LinuxNamespace::typ).collect();
        assert_eq!(kinds.len(), 7, "{kinds:?}");
        assert!(linux.seccomp().is_some());
        let process = bundle.process().as_ref().unwrap();
        assert_eq!(process.no_new_privileges(), Some(true));
        let bounding = process.capabilities().as_ref().unwrap().bounding().as_ref().unwrap().clone();
        for forbidden in
            [Capability::SysAdmin, Capability::SysPtrace, Capability::NetAdmin, Capability::SysModule]
        {
            assert!(!bounding.contains(&forbidden), "{forbidden:?}");
        }
        let resources = linux.resources().as_ref().unwrap();
        assert_eq!(resources.memory().as_ref().unwrap().limit(), Some(1 << 30));
        assert_eq!(resources.pids().as_ref().unwrap().limit(), 1024);
        let cpu = resources.cpu().as_ref().unwrap();
        let period = cpu.period().unwrap();
        assert_eq!(cpu.quota().map(|quota| quota * 2), i64::try_from(period * 3).ok());
    }

    #[test]
    fn without_cgroups_the_limits_are_the_processes() {
        let spec = SandboxSpec::new("a".parse().unwrap(), "box");
        let meta = meta(Identity::Single);
        let mut situation = situation(&spec, &meta);
        situation.limits = Limits::Process { path: "/sandgate/x" };
        let bundle = build(&situation).unwrap();
        let limits = bundle.process().as_ref().unwrap().rlimits().as_ref().unwrap().clone();
        assert!(limits.iter().any(|l| l.typ() == PosixRlimitType::RlimitNproc && l.hard() == DEFAULT_PIDS));
        assert!(bundle.linux().as_ref().unwrap().resources().is_none());
        let pts = bundle
            .mounts()
            .as_ref()
            .unwrap()
            .iter()
            .find(|m| m.destination() == Path::new("/dev/pts"))
            .unwrap();
        assert!(!pts.options().as_ref().unwrap().contains(&"gid=5".to_owned()));
    }

    #[test]
    fn the_owner_s_environment_wins_over_the_image_s() {
        let mut spec = SandboxSpec::new("a".parse().unwrap(), "box");
        spec.env = vec![("A".into(), "owner".into()), ("C".into(), "3".into())];
        let mut meta = meta(Identity::Single);
        meta.image.env = vec!["A=image".into(), "B=2".into(), "PATH=/x".into(), "broken".into()];
        let env = environment(&spec, &meta);
        for expected in ["A=owner", "B=2", "C=3", "PATH=/x"] {
            assert!(env.contains(&expected.to_owned()), "{expected} in {env:?}");
        }
        assert_eq!(env.iter().filter(|line| line.starts_with("A=")).count(), 1);
    }
}
