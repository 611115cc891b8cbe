//! `shim vm-jail`: takes away what a process does not need and becomes QEMU or its vsock device.
//!
//! Everything it may see keeps its path, in a root made of nothing but that. It has a mount, network, IPC and host name namespace of its own,
//! the machine's user (when we are root) and cgroups, no new rights, and ends with the shim.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};
use rustix::process::{Resource, Rlimit, Signal, pivot_root, set_parent_process_death_signal, setrlimit};
use rustix::thread::{CapabilitiesSecureBits, set_capabilities_secure_bits, set_no_new_privs};
use serde::{Deserialize, Serialize};

use super::super::message::Failure;

/// What programs of the system need to run.
const PROGRAMS: [&str; 6] = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32"];
/// The cache of the dynamic linker.
const LINKER_CACHE: &str = "/etc/ld.so.cache";
/// What every program may use.
const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];

/// A process to be jailed. Handed over as JSON on the command line: it holds no secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Jail {
    /// An empty directory on which the new root is mounted.
    pub(super) root: PathBuf,
    /// Files that it reads.
    pub(super) reads: Vec<PathBuf>,
    /// Files and devices that it writes.
    pub(super) writes: Vec<PathBuf>,
    /// Devices of the host that it uses.
    pub(super) devices: Vec<PathBuf>,
    /// Where it begins; its files have names relative to it.
    pub(super) directory: PathBuf,
    /// Memory that is its own and vanishes with it.
    pub(super) memory: Option<Memory>,
    /// User and group to become; `None` for an ordinary user, who stays what he is.
    pub(super) user: Option<u32>,
    pub(super) cgroups: Vec<PathBuf>,
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
}

/// A file in memory, as a copy of another.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Memory {
    /// Where it appears: a directory that holds nothing else.
    pub(super) directory: PathBuf,
    pub(super) copy_of: PathBuf,
}

impl Jail {
    /// The command that becomes it.
    pub(super) fn command(&self) -> Result<Command, Failure> {
        let text = serde_json::to_string(self).map_err(Failure::io("describe the jail"))?;
        let mut command = super::super::own_command();
        command.args(["vm-jail", &text]);
        Ok(command)
    }
}

/// Returns only when it could not be done.
pub(crate) fn jail_main(args: &[OsString]) -> Result<(), Failure> {
    let [text] = args else { return Err(Failure::other("vm-jail takes one argument")) };
    let jail: Jail = serde_json::from_slice(text.as_encoded_bytes())
        .map_err(Failure::io("read the description of the jail"))?;
    for dir in &jail.cgroups {
        // Not every hierarchy takes us; those with a limit do.
        if let Err(error) = fs::write(dir.join("cgroup.procs"), "0") {
            eprintln!("cannot join {}: {error}", dir.display());
        }
    }
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(Failure::io("follow the shim"))?;
    match &jail.user {
        Some(user) => {
            enter(&jail, CloneFlags::empty())?;
            let (uid, gid) = (Uid::from_raw(*user), Gid::from_raw(*user));
            setgroups(&[]).map_err(Failure::io("drop the groups"))?;
            setresgid(gid, gid, gid).map_err(Failure::io("become the machine's group"))?;
            setresuid(uid, uid, uid).map_err(Failure::io("become the machine's user"))?;
        }
        None => {
            let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            unshare(CloneFlags::CLONE_NEWUSER).map_err(Failure::io("make a user namespace"))?;
            for (path, map) in [
                ("/proc/self/setgroups", "deny".to_owned()),
                ("/proc/self/uid_map", format!("{uid} {uid} 1")),
                ("/proc/self/gid_map", format!("{gid} {gid} 1")),
            ] {
                fs::write(path, map).map_err(Failure::io(format!("write {path}")))?;
            }
            enter(&jail, CloneFlags::empty())?;
            // A program of uid 0 would have every right in that namespace again.
            let plain = CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED;
            set_capabilities_secure_bits(plain).map_err(Failure::io("give up root's rights"))?;
        }
    }
    // The memory of QEMU is the guest's.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(Failure::io("give up core files"))?;
    set_no_new_privs(true).map_err(Failure::io("give up new rights"))?;
    // Forgotten by the kernel when the user changed.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(Failure::io("follow the shim"))?;
    let error = Command::new(&jail.program).args(&jail.args).env_clear().exec();
    Err(Failure::machine(format!("cannot start {}: {error}", jail.program.display())))
}

/// Moves into a root that holds nothing but what the jail names.
fn enter(jail: &Jail, more: CloneFlags) -> Result<(), Failure> {
    let own = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    unshare(own | more).map_err(Failure::io("make the jail's namespaces"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(Failure::io("make the mounts private"))?;
    let safe = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", &jail.root, "tmpfs", safe, Some(c"mode=0755,size=1m"))
        .map_err(Failure::io("mount the jail's root"))?;
    let show = Show { root: &jail.root };
    for path in PROGRAMS.iter().map(Path::new) {
        show.program_dir(path)?;
    }
    let files = DEVICES.map(|path| (path, Access::Write)).into_iter().chain([(LINKER_CACHE, Access::Read)]);
    for (path, access) in files.map(|(path, access)| (Path::new(path), access)) {
        if path.exists() {
            show.bind(path, access)?;
        }
    }
    show.bind(&jail.program, Access::Read)?;
    for path in &jail.reads {
        show.bind(path, Access::Read)?;
    }
    show.bind(&jail.directory, Access::Write)?;
    for path in &jail.writes {
        show.bind(path, Access::Write)?;
    }
    for path in &jail.devices {
        show.device(path, jail.user)?;
    }
    if let Some(memory) = &jail.memory {
        copy_memory(memory, &show, jail.user)?;
    }
    mount_remount(&jail.root, safe | MountFlags::RDONLY, c"")
        .map_err(Failure::io("make the jail's root read-only"))?;
    std::env::set_current_dir(&jail.root).map_err(Failure::io("enter the jail"))?;
    pivot_root(".", ".").map_err(Failure::io("change the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(Failure::io("leave the old root"))?;
    std::env::set_current_dir(&jail.directory).map_err(Failure::io("enter the machine's directory"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// Makes files of the host visible below a new root.
struct Show<'a> {
    root: &'a Path,
}

impl Show<'_> {
    /// A directory of programs: itself, or on a system with a merged /usr the link that it is.
    fn program_dir(&self, path: &Path) -> Result<(), Failure> {
        if let Ok(target) = fs::read_link(path) {
            return std::os::unix::fs::symlink(target, self.place(path)).map_err(Failure::io("make a link"));
        }
        if path.is_dir() { self.bind(path, Access::Read) } else { Ok(()) }
    }

    fn bind(&self, path: &Path, access: Access) -> Result<(), Failure> {
        // Through links: what is named is what is shown, under the name it has.
        let source = fs::canonicalize(path).map_err(Failure::io(format!("find {}", path.display())))?;
        let place = self.place(path);
        if place.exists() && fs::canonicalize(&place).is_ok_and(|found| !found.starts_with(self.root)) {
            return Err(Failure::other(format!("{} leads out of the jail", path.display())));
        }
        if source.is_dir() {
            self.make_dir(&place)?;
        } else if place.exists() {
            return Ok(());
        } else {
            self.make_dir(place.parent().unwrap_or(self.root))?;
            File::create(&place).map_err(Failure::io(format!("make a place for {}", path.display())))?;
        }
        mount_bind_recursive(&source, &place).map_err(Failure::io(format!("show {}", path.display())))?;
        if access == Access::Read {
            // The flags that a user namespace may not take off have to stay.
            let mut flags = MountFlags::RDONLY | MountFlags::BIND | MountFlags::NOSUID;
            let seen = rustix::fs::statvfs(&place).map_err(Failure::io("look at a mount"))?.f_flag;
            if seen.contains(rustix::fs::StatVfsMountFlags::NODEV) {
                flags |= MountFlags::NODEV;
            }
            if seen.contains(rustix::fs::StatVfsMountFlags::NOEXEC) {
                flags |= MountFlags::NOEXEC;
            }
            mount_remount(&place, flags, c"")
                .map_err(Failure::io(format!("make {} read-only", path.display())))?;
        }
        Ok(())
    }

    /// A device. A user who is nobody outside gets it as his own, whoever may use it there.
    fn device(&self, path: &Path, user: Option<u32>) -> Result<(), Failure> {
        let Some(user) = user else { return self.bind(path, Access::Write) };
        self.make_dir(self.place(path).parent().unwrap_or(self.root))?;
        self.own_device(path, user).map_err(Failure::io(format!("make the jail's {}", path.display())))
    }

    fn own_device(&self, path: &Path, user: u32) -> std::io::Result<()> {
        let number = fs::metadata(path)?.rdev();
        // The new root itself takes no devices.
        let makings = self.root.join(".devices");
        fs::create_dir(&makings)?;
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        mount("tmpfs", &makings, "tmpfs", flags, Some(c"mode=0755,size=64k"))?;
        let node = makings.join("node");
        mknodat(CWD, &node, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, number)?;
        chown(&node, Some(user), Some(user))?;
        let place = self.place(path);
        File::create(&place)?;
        mount_bind_recursive(&node, &place)?;
        Ok(unmount(&makings, UnmountFlags::DETACH)?)
    }

    fn place(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn make_dir(&self, place: &Path) -> Result<(), Failure> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(place)
            .map_err(Failure::io(format!("make {}", place.display())))
    }
}

/// A file system in memory that no other process sees, and the copy in it.
fn copy_memory(memory: &Memory, show: &Show<'_>, user: Option<u32>) -> Result<(), Failure> {
    let place = show.place(&memory.directory);
    show.make_dir(&place)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // Without a limit of its own, which would be half of the host's memory: that of the control group holds.
    mount("tmpfs", &place, "tmpfs", flags, Some(c"mode=0700,size=0"))
        .map_err(Failure::io("mount the machine's memory"))?;
    let name = memory.copy_of.file_name().ok_or_else(|| Failure::other("the memory has no name"))?;
    let copy = place.join(name);
    super::template::compact(&memory.copy_of, &copy).map_err(Failure::io("copy the memory"))?;
    for path in [&place, &copy] {
        chown(path, user, user).map_err(Failure::io("give the memory away"))?;
    }
    Ok(())
}
