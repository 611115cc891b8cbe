//! The sandbox's root file system, put together in a mount namespace of the shim's own.
//!
//! Nothing is mounted where the host could see it, so nothing can be left behind: when the shim and the container are gone, so
//! are their mounts, however they ended. Everything the container needs is gathered below one small tmpfs, because the
//! container's root is an id without rights outside and could not even walk down to the data directory.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use libcontainer::syscall::linux::MountAttr;
use libcontainer::syscall::syscall::create_syscall;
use nix::sched::{CloneFlags, unshare};
use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_change, move_mount,
    open_tree,
};

use super::Target;
use super::message::{Failure, Report};
use super::userns;
use crate::SandboxSpec;
use crate::state::{Identity, LayerOwner, Meta};

/// Directories that exist on any Linux system, are open to all, and may be covered in our own mount namespace.
const STAGING_PLACES: [&str; 7] = ["/mnt", "/srv", "/media", "/opt", "/run", "/var/tmp", "/tmp"];

/// Attribute flags of mount_setattr(2), from the kernel's interface (linux/mount.h).
const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_NOSUID: u64 = 0x2;
const MOUNT_ATTR_NODEV: u64 = 0x4;
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// Where things are for the container's setup.
#[derive(Debug)]
pub(crate) struct Staged {
    /// The merged root file system.
    pub(crate) root: PathBuf,
    /// Merged directories that belong below the root: where, relative to it, and what.
    pub(crate) merged: Vec<(String, PathBuf)>,
    /// The agent binary.
    pub(crate) agent: PathBuf,
    /// One for each of the specification's mounts.
    pub(crate) mounts: Vec<PathBuf>,
    /// An empty directory for the runtime's own state.
    pub(crate) state: PathBuf,
}

/// Enters a new mount namespace and assembles everything.
pub(crate) fn stage(
    target: &Target,
    spec: &SandboxSpec,
    meta: &Meta,
    report: &mut Report,
) -> Result<Staged, Failure> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(Failure::io("make a mount namespace"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(Failure::io("make the mounts private"))?;

    // Taken hold of before the staging place covers anything.
    let agent = clone_tree(&target.agent)?;
    let layers = clone_tree(&target.dir.layers())?;
    let mut shared = Vec::with_capacity(spec.mounts.len());
    for wanted in &spec.mounts {
        let tree = clone_tree(&wanted.host)?;
        let is_dir = fs::metadata(&wanted.host)
            .map_err(Failure::io(format!("read {}", wanted.host.display())))?
            .is_dir();
        shared.push((tree, is_dir));
    }
    let lowers = lower_trees(meta, report)?;

    let staging = choose_place(target)?;
    mount(
        "tmpfs",
        &staging,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        Some(CString::new("mode=0711,size=16m").map_err(Failure::io("name the options"))?.as_c_str()),
    )
    .map_err(Failure::io(format!("mount a tmpfs on {}", staging.display())))?;

    let root = make_dir(&staging, "rootfs")?;
    let state = make_dir(&staging, "state")?;
    let rw = make_dir(&staging, "rw")?;
    attach(&layers, &rw)?;
    let agent_place = staging.join("agent");
    fs::write(&agent_place, "").map_err(Failure::io("make the agent's mount point"))?;
    attach(&agent, &agent_place)?;
    let mut mounts = Vec::with_capacity(shared.len());
    for (n, (tree, is_dir)) in shared.iter().enumerate() {
        let place = staging.join(format!("mount{n}"));
        if *is_dir {
            make_dir(&staging, &format!("mount{n}"))?;
        } else {
            fs::write(&place, "").map_err(Failure::io("make a mount point"))?;
        }
        attach(tree, &place)?;
        mounts.push(place);
    }

    let mut merged = Vec::new();
    for (n, (layer, tree)) in meta.image.layers.iter().zip(&lowers).enumerate() {
        let lower = make_dir(&staging, &format!("lower{n}"))?;
        attach(tree, &lower)?;
        if layer.target.is_empty() {
            overlay(&lower, &rw.join(n.to_string()), &root, meta)?;
        } else {
            // Not mounted below the root here: the guest wrote there, and the runtime knows how to walk such paths.
            let place = make_dir(&staging, &format!("merged{n}"))?;
            overlay(&lower, &rw.join(n.to_string()), &place, meta)?;
            merged.push((layer.target.clone(), place));
        }
    }
    Ok(Staged { root, merged, agent: agent_place, mounts, state })
}

fn make_dir(parent: &Path, name: &str) -> Result<PathBuf, Failure> {
    let path = parent.join(name);
    fs::create_dir(&path).map_err(Failure::io(format!("make {}", path.display())))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o711))
        .map_err(Failure::io("open up a directory"))?;
    Ok(path)
}

/// A copy of the mount tree at a path, attached nowhere yet.
fn clone_tree(path: &Path) -> Result<OwnedFd, Failure> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, path, flags).map_err(Failure::io(format!("take hold of {}", path.display())))
}

fn attach(tree: &OwnedFd, place: &Path) -> Result<(), Failure> {
    move_mount(tree, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(Failure::io(format!("attach {}", place.display())))
}

/// The read-only directories below the overlays, with the owners the sandbox has to see.
fn lower_trees(meta: &Meta, report: &mut Report) -> Result<Vec<OwnedFd>, Failure> {
    let mut namespace = None;
    let mut trees = Vec::with_capacity(meta.image.layers.len());
    let mut told = false;
    for layer in &meta.image.layers {
        let Identity::Mapped { base, size } = meta.identity else {
            trees.push(clone_tree(&layer.source)?);
            continue;
        };
        // Without the mounts below: an overlay does not look into them, and their owners cannot be translated as one.
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, &layer.source, flags)
            .map_err(Failure::io(format!("take hold of {}", layer.source.display())))?;
        let mut attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
        let mut userns_fd = 0;
        if layer.owner == LayerOwner::Literal {
            if namespace.is_none() {
                namespace = Some(userns::describe(base, size)?);
            }
            if let Some(namespace) = &namespace {
                attr_set |= MOUNT_ATTR_IDMAP;
                userns_fd = u64::try_from(namespace.as_raw_fd()).map_err(Failure::io("name a descriptor"))?;
            }
        }
        if let Err(error) = set_attributes(&tree, attr_set, userns_fd) {
            if attr_set & MOUNT_ATTR_IDMAP == 0 {
                return Err(Failure::other(format!("cannot make the image read-only: {error}")));
            }
            set_attributes(&tree, attr_set & !MOUNT_ATTR_IDMAP, 0)
                .map_err(Failure::io("make the image read-only"))?;
            if !told {
                report.warn(format!(
                    "The image's files appear as owned by nobody: this kernel or file system has no id-mapped mounts ({error})."
                ));
                told = true;
            }
        }
        trees.push(tree);
    }
    Ok(trees)
}

fn set_attributes(tree: &OwnedFd, attr_set: u64, userns_fd: u64) -> Result<(), String> {
    /// AT_EMPTY_PATH: the descriptor itself is meant.
    const EMPTY_PATH: u32 = 0x1000;
    let attributes = MountAttr { attr_set, attr_clr: 0, propagation: 0, userns_fd };
    create_syscall()
        .mount_setattr(tree.as_fd(), Path::new(""), EMPTY_PATH, &attributes, size_of::<MountAttr>())
        .map_err(|error| error.to_string())
}

/// A directory to cover that hides nothing we still need by name.
fn choose_place(target: &Target) -> Result<PathBuf, Failure> {
    let data = fs::canonicalize(target.data.root()).map_err(Failure::io("resolve the data directory"))?;
    STAGING_PLACES
        .iter()
        .map(Path::new)
        .find(|place| {
            let plain =
                fs::symlink_metadata(place).is_ok_and(|m| m.is_dir() && m.permissions().mode() & 0o001 != 0);
            plain && !data.starts_with(place)
        })
        .map(Path::to_owned)
        .ok_or_else(|| {
            Failure::machine(format!("none of {} is a directory that can be used", STAGING_PLACES.join(", ")))
        })
}

fn overlay(lower: &Path, rw: &Path, place: &Path, meta: &Meta) -> Result<(), Failure> {
    // All of these are names made here, so none needs quoting.
    let mut options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        rw.join("upper").display(),
        rw.join("work").display()
    );
    if !matches!(meta.identity, Identity::Mapped { .. }) {
        // trusted.* attributes belong to the machine's root alone.
        options.push_str(",userxattr");
    }
    let options = CString::new(options).map_err(Failure::io("name the layers"))?;
    mount("overlay", place, "overlay", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str())).map_err(|error| {
        Failure::machine(format!(
            "the overlay cannot be mounted ({error}); the data directory has to be on a file system that can hold an overlay's \
             upper layer, such as ext4, xfs, btrfs or tmpfs, and without root the kernel has to be 5.11 or newer"
        ))
    })
}
