//! Which limits can be enforced here, and the removal of what a killed shim left.
//!
//! libcontainer writes the groups themselves. What it cannot do is to go without: so where no hierarchy can be written, an
//! empty stand-in covers /sys/fs/cgroup in the shim's own mount namespace, and the limits are set per process instead.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::statfs;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, Signal, kill_process};

use super::Target;
use super::message::{Failure, Report};

const ROOT: &str = "/sys/fs/cgroup";

/// The group all our groups are in.
const PARENT: &str = "sandgate";

/// f_type of a version 2 hierarchy (linux/magic.h).
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// How long a killed group may take to empty.
const EMPTY_PATIENCE: Duration = Duration::from_secs(5);

/// What can be limited.
#[derive(Debug, Default)]
pub(crate) struct Cgroups {
    /// The bundle's `cgroupsPath`, absolute within each hierarchy.
    pub(crate) path: String,
    /// The directories that come of it.
    pub(crate) dirs: Vec<PathBuf>,
    pub(crate) memory: bool,
    pub(crate) swap: bool,
    pub(crate) pids: bool,
    pub(crate) cpu: bool,
}

impl Cgroups {
    /// Whether any hierarchy is used.
    pub(crate) fn any(&self) -> bool {
        !self.dirs.is_empty()
    }

    /// Whether the kernel has killed a process of the group for its memory.
    pub(crate) fn out_of_memory(&self) -> bool {
        self.dirs.iter().any(|dir| {
            ["memory.events", "memory.oom_control"].iter().any(|file| {
                let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
                text.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|n| n.trim() != "0"))
            })
        })
    }
}

/// Finds out what can be limited for processes that we put into groups ourselves; nothing, with a warning, where none can be written.
pub(crate) fn find(target: &Target, report: &mut Report) -> Cgroups {
    let name = format!("{}-{}", target.data.tag(), target.id);
    let unified = statfs(ROOT).is_ok_and(|s| s.f_type == CGROUP2_MAGIC);
    match if unified { version_2(&name) } else { version_1(&name) } {
        Ok(cgroups) => cgroups,
        Err(why) => {
            report.warn(format!(
                "No cgroup can be written here ({why}), so what QEMU itself uses is not limited."
            ));
            Cgroups::default()
        }
    }
}

/// Finds out what can be limited, and covers /sys/fs/cgroup where nothing can. To be called in the shim's mount namespace.
pub(crate) fn prepare(target: &Target, report: &mut Report) -> Result<Cgroups, Failure> {
    let name = format!("{}-{}", target.data.tag(), target.id);
    let unified = statfs(ROOT).is_ok_and(|s| s.f_type == CGROUP2_MAGIC);
    let found = if unified { version_2(&name) } else { version_1(&name) };
    match found {
        Ok(cgroups) => {
            let missing: Vec<&str> =
                [("memory", cgroups.memory), ("processes", cgroups.pids), ("cpu", cgroups.cpu)]
                    .iter()
                    .filter_map(|(what, there)| (!there).then_some(*what))
                    .collect();
            if !missing.is_empty() {
                report.warn(format!("The kernel offers no group limit for {} here.", missing.join(", ")));
            }
            Ok(cgroups)
        }
        Err(why) => {
            report.warn(format!(
                "No cgroup can be written here ({why}): memory and processes are limited per process and user only, and cpu not at \
                 all. Run the gateway as root, or in a delegated group (systemd-run --user --scope -p Delegate=yes)."
            ));
            cover(&name)?;
            Ok(Cgroups { path: format!("/{PARENT}/{name}"), ..Cgroups::default() })
        }
    }
}

fn version_1(name: &str) -> Result<Cgroups, String> {
    // The device rules of version 1 are for the host's root alone, whoever owns the directories: root in a user namespace gets as
    // far as devices.deny.
    if !rustix::process::geteuid().is_root() || !super::userns_is_initial() {
        return Err("version 1 hierarchies can be used by the host's root only".into());
    }
    let hierarchies = version_1_mounts();
    if hierarchies.iter().all(|(_, controllers)| controllers.is_empty()) {
        return Err("no hierarchy is mounted".into());
    }
    let mut cgroups = Cgroups { path: format!("/{PARENT}/{name}"), ..Cgroups::default() };
    for (place, controllers) in hierarchies {
        let parent = place.join(PARENT);
        if controllers.is_empty() {
            // Other runtimes make groups here as well.
            cgroups.dirs.push(parent.join(name));
            continue;
        }
        fs::create_dir_all(&parent).map_err(|error| format!("{}: {error}", parent.display()))?;
        let writable = rustix::fs::access(&parent, rustix::fs::Access::WRITE_OK);
        writable.map_err(|error| format!("{}: {error}", parent.display()))?;
        let has = |wanted: &str| controllers.iter().any(|c| c == wanted);
        cgroups.memory |= has("memory");
        cgroups.swap |= has("memory") && parent.join("memory.memsw.limit_in_bytes").exists();
        cgroups.pids |= has("pids");
        cgroups.cpu |= has("cpu");
        cgroups.dirs.push(parent.join(name));
    }
    Ok(cgroups)
}

/// Mount points below /sys/fs/cgroup of a version 1 or hybrid system, with their controllers: none for what limits nothing,
/// a named hierarchy or the version 2 one beside them.
fn version_1_mounts() -> Vec<(PathBuf, Vec<String>)> {
    let info = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    parse_version_1(&info)
}

fn parse_version_1(info: &str) -> Vec<(PathBuf, Vec<String>)> {
    info.lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let place = left.split(' ').nth(4)?;
            let mut right = right.split(' ');
            let (kind, options) = (right.next()?, right.nth(1)?);
            let controllers: Vec<String> = options.split(',').map(str::to_owned).collect();
            let limits = kind == "cgroup" && !controllers.iter().any(|c| c.starts_with("name="));
            let controllers = if limits { controllers } else { Vec::new() };
            let ours = matches!(kind, "cgroup" | "cgroup2") && Path::new(place).starts_with(ROOT);
            ours.then(|| (PathBuf::from(place), controllers))
        })
        .collect()
}

fn version_2(name: &str) -> Result<Cgroups, String> {
    let is_root = rustix::process::geteuid().is_root() && super::userns_is_initial();
    let base = if is_root { PathBuf::from(ROOT) } else { delegated()? };
    let parent = base.join(PARENT);
    fs::create_dir_all(&parent).map_err(|error| format!("{}: {error}", parent.display()))?;
    for dir in [&base, &parent] {
        for controller in ["+memory", "+pids", "+cpu"] {
            // What does not work shows in what is read back.
            let _ = fs::write(dir.join("cgroup.subtree_control"), controller);
        }
    }
    let enabled = fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default();
    let has = |wanted: &str| enabled.split_whitespace().any(|c| c == wanted);
    let dir = parent.join(name);
    // Moving a process needs the right to write here, which a directory made by somebody else may not give.
    fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let path = dir.strip_prefix(ROOT).map_err(|error| error.to_string())?;
    Ok(Cgroups {
        path: format!("/{}", path.display()),
        memory: has("memory"),
        swap: has("memory") && dir.join("memory.swap.max").exists(),
        pids: has("pids"),
        cpu: has("cpu"),
        dirs: vec![dir],
    })
}

/// The group above our own, where it was given to this user.
fn delegated() -> Result<PathBuf, String> {
    let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).ok_or("no version 2 group")?;
    let own = Path::new(ROOT).join(own.trim_start_matches('/'));
    let above = own.parent().filter(|dir| dir.starts_with(ROOT)).ok_or("at the top of the hierarchy")?;
    let writable = rustix::fs::access(above.join("cgroup.procs"), rustix::fs::Access::WRITE_OK);
    writable.map_err(|error| format!("{}: {error}", above.display()))?;
    Ok(above.to_owned())
}

/// Covers /sys/fs/cgroup with something libcontainer can write to without any effect.
fn cover(name: &str) -> Result<(), Failure> {
    let hierarchies = version_1_mounts();
    let mut mounted =
        mount("tmpfs", ROOT, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None);
    if mounted.is_err() && !Path::new(ROOT).exists() {
        mounted = Ok(());
    }
    mounted.map_err(Failure::io(format!("cover {ROOT}")))?;
    for (place, controllers) in hierarchies {
        if controllers.is_empty() {
            continue;
        }
        let dir = place.join(PARENT).join(name);
        fs::create_dir_all(&dir).map_err(Failure::io("make a stand-in group"))?;
        let ancestors = [place.clone(), place.join(PARENT), dir];
        for dir in &ancestors {
            // cpuset groups have to name processors and memory nodes before they take a process.
            for (file, text) in [("cgroup.procs", ""), ("cpuset.cpus", "0"), ("cpuset.mems", "0")] {
                fs::write(dir.join(file), text).map_err(Failure::io("make a stand-in group"))?;
            }
        }
    }
    fs::set_permissions(ROOT, fs::Permissions::from_mode(0o755)).map_err(Failure::io("open up the stand-in"))
}

/// Kills what is left in these groups and removes them. Used after a shim was killed.
pub(crate) fn remove_leftovers(dirs: &[PathBuf]) {
    let deadline = Instant::now() + EMPTY_PATIENCE;
    for dir in dirs {
        // The record is ours, but a damaged one must not make us remove other directories.
        let ours =
            dir.starts_with(ROOT) && dir.parent().and_then(Path::file_name).is_some_and(|n| n == PARENT);
        while ours && dir.exists() {
            let pids = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            for pid in pids.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
            if fs::remove_dir(dir).is_ok() || Instant::now() > deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_hierarchies_are_found_in_mountinfo() {
        let info = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
            42 31 0:39 / /elsewhere rw,relatime - cgroup cgroup rw,memory\n";
        let found = parse_version_1(info);
        assert_eq!(found.len(), 3);
        assert!(found[1].1.is_empty() && found[2].1.is_empty());
        assert_eq!(found[0].0, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert!(found[0].1.contains(&"cpuacct".to_owned()));
    }

    #[test]
    fn only_our_own_groups_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("sandgate").join("x");
        fs::create_dir_all(&group).unwrap();
        remove_leftovers(std::slice::from_ref(&group));
        assert!(group.exists());
    }
}
