//! The root file system: read-only layers, a disk for what is written, an overlay of both.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_move, mount_remount, unmount};

use super::config::Config;
use super::disks::Disks;
use super::{Failed, doing};

/// Where the pieces are before they are the root.
const LAYERS: &str = "/layers";
const DATA: &str = "/data";
const ROOT: &str = "/root";

/// File systems that a layer may have, the usual one first.
const LAYER_TYPES: [&str; 2] = ["erofs", "ext4"];

/// What the kernel shows of itself, in the initramfs.
pub(super) fn mount_kernel_files() -> Result<(), Failed> {
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for (kind, place, flags) in [
        ("proc", "/proc", plain),
        ("sysfs", "/sys", plain),
        ("devtmpfs", "/dev", MountFlags::NOSUID | MountFlags::NOEXEC),
    ] {
        make(Path::new(place), 0o755)?;
        match mount(kind, place, kind, flags, None::<&CStr>) {
            // The kernel may have mounted its /dev itself.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => return Err(doing(format!("mount {place}"))(error)),
        }
    }
    Ok(())
}

/// Puts the root together and makes it this process's.
pub(super) fn enter(config: &Config, disks: &Disks) -> Result<(), Failed> {
    let data = disks.get("data").ok_or(Failed("the disk for what is written is missing".into()))?;
    make(Path::new(DATA), 0o755)?;
    mount(data, DATA, "ext4", MountFlags::NODEV | MountFlags::NOATIME, None::<&CStr>)
        .map_err(doing("mount the disk for what is written"))?;
    for (number, target) in config.layers.iter().enumerate() {
        let lower = Path::new(LAYERS).join(number.to_string());
        make(&lower, 0o755)?;
        let disk =
            disks.get(&format!("layer{number}")).ok_or(Failed(format!("layer {number} is missing")))?;
        mount_layer(disk, &lower)?;
        let place = if target.is_empty() {
            PathBuf::from(ROOT)
        } else {
            Path::new(ROOT).join(OsStr::from_bytes(target))
        };
        overlay(&lower, &Path::new(DATA).join(number.to_string()), &place)?;
    }
    let inside = |name: &str| Path::new(ROOT).join(name);
    for name in ["proc", "sys", "dev"] {
        make(&inside(name), 0o755)?;
        mount_move(Path::new("/").join(name), inside(name)).map_err(doing(format!("move /{name}")))?;
    }
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for (kind, name, flags, options) in [
        ("devpts", "dev/pts", MountFlags::NOSUID | MountFlags::NOEXEC, c"gid=5,mode=620,ptmxmode=666"),
        ("tmpfs", "dev/shm", safe, c"mode=1777"),
        ("mqueue", "dev/mqueue", safe, c""),
    ] {
        make(&inside(name), 0o755)?;
        mount(kind, inside(name), kind, flags, Some(options)).map_err(doing(format!("mount /{name}")))?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        let _ = std::os::unix::fs::symlink(target, inside("dev").join(name));
    }
    switch()
}

/// Before the machine is switched off: what is written is on its disk, in a state that needs no repair.
pub(super) fn let_go() {
    // Programs that were killed a moment ago may still hold files; the journal is for those.
    let _ = mount_remount("/", MountFlags::RDONLY, c"");
    let _ = unmount("/", UnmountFlags::DETACH);
    rustix::fs::sync();
}

fn mount_layer(disk: &Path, place: &Path) -> Result<(), Failed> {
    let mut last = Errno::NODEV;
    for kind in LAYER_TYPES {
        match mount(disk, place, kind, MountFlags::RDONLY | MountFlags::NODEV, None::<&CStr>) {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(doing(format!("mount {}", disk.display()))(last))
}

fn overlay(lower: &Path, written: &Path, place: &Path) -> Result<(), Failed> {
    let (upper, work) = (written.join("upper"), written.join("work"));
    make(&work, 0o700)?;
    make_like(lower, &upper)?;
    make(place, 0o755)?;
    // Names made here; none needs quoting.
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let options = CString::new(options).map_err(doing("name the layers"))?;
    mount("overlay", place, "overlay", MountFlags::empty(), Some(options.as_c_str()))
        .map_err(doing(format!("put together {}", place.display())))
}

/// The upper directory's owner and mode are those of the merged directory.
fn make_like(model: &Path, path: &Path) -> Result<(), Failed> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    let model = fs::metadata(model).map_err(doing("look at a layer"))?;
    match DirBuilder::new().create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(doing(format!("make {}", path.display()))(error)),
    }
    std::os::unix::fs::chown(path, Some(model.uid()), Some(model.gid()))
        .map_err(doing("give a layer its owner"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(model.mode() & 0o7777))
        .map_err(doing("give a layer its mode"))
}

fn make(path: &Path, mode: u32) -> Result<(), Failed> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(doing(format!("make {}", path.display())))
}

/// The new root takes the place of the initramfs, whose files stay in memory: this program and nothing else.
fn switch() -> Result<(), Failed> {
    std::env::set_current_dir(ROOT).map_err(doing("enter the root file system"))?;
    mount_move(".", "/").map_err(doing("move the root file system"))?;
    rustix::process::chroot(".").map_err(doing("change the root"))?;
    std::env::set_current_dir("/").map_err(doing("enter the new root"))
}
