//! Removing what nobody needs any more, in a process that may touch files of the sandboxes' ids.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use super::ImageError;
use super::store::{BlobStore, Young};
use crate::image::disk;
use crate::shim::message::{Failure, Report};
use crate::state::{DataDir, read_json};

/// How long to wait for pulls and creations to end. They go on for minutes; then a later removal does the work.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long removing may take: millions of files.
const DEADLINE: Duration = Duration::from_secs(300);

/// How long a disk stays that no machine has: making one of the host's /usr takes a while, and the next machine may want it.
const KEEP_DISK: Duration = Duration::from_secs(24 * 3600);

/// Why things are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Somebody removed an image.
    Now,
    /// The gateway starts.
    AtStart,
}

impl When {
    fn word(self) -> &'static str {
        match self {
            Self::Now => "now",
            Self::AtStart => "at-start",
        }
    }
}

/// Runs `shim collect`.
pub(super) async fn start(shim: &Path, data_dir: &Path, when: When) -> Result<(), ImageError> {
    let fail = || ImageError::io("remove what no image needs");
    let child = Command::new(shim)
        .args(["shim", "collect"])
        .arg(data_dir)
        .arg(when.word())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(fail())?;
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await;
    let output = output.map_err(|_| fail()(ErrorKind::TimedOut.into()))?.map_err(fail())?;
    if output.status.success() {
        return Ok(());
    }
    let said: String = String::from_utf8_lossy(&output.stderr).chars().take(400).collect();
    Err(fail()(std::io::Error::other(said.trim().to_owned())))
}

/// `shim collect DATA_DIR WHEN`.
pub(crate) fn collect_main(args: &[OsString], report: &mut Report) -> Result<(), Failure> {
    let [data, when] = args else { return Err(Failure::other("shim collect takes a directory and a word")) };
    let young = if when.as_bytes() == b"now" { Young::Remove } else { Young::Keep };
    let data = DataDir::new(PathBuf::from(data));
    crate::shim::become_owner(report)?;
    let store = BlobStore::new(data.image_store());
    let Some(_alone) = store.alone(PATIENCE).map_err(Failure::io("lock the image store"))? else {
        // Not an error: the name is gone, and the blobs go with the next removal.
        return Ok(());
    };
    store.sweep_blobs(young).map_err(|error| Failure::other(error.to_string()))?;
    sweep_roots(&data, &store)?;
    sweep_disks(&data, young)
}

/// Removes the disks of directories that no machine has and that none has used for long, unless somebody makes a sandbox or pulls an image: then
/// the next removal does it. The files are the gateway's own.
pub(crate) fn collect_disks(data: &DataDir) -> Result<(), Failure> {
    let store = BlobStore::new(data.image_store());
    match store.alone(Duration::ZERO) {
        Ok(Some(_alone)) => sweep_disks(data, Young::Keep),
        Ok(None) => Ok(()),
        // Without a store no machine was made here.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::io("lock the image store")(error)),
    }
}

/// The same for whoever has the store alone.
fn sweep_disks(data: &DataDir, young: Young) -> Result<(), Failure> {
    let mut needed = BTreeSet::new();
    for entry in fs::read_dir(data.sandboxes()).map_err(Failure::io("list the sandboxes"))?.flatten() {
        let path = entry.path().join("disks.json");
        match read_json::<Vec<PathBuf>>(&path) {
            Ok(disks) => needed.extend(disks.iter().filter_map(|disk| disk.file_name().map(OsString::from))),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // As below.
            Err(error) => return Err(Failure::io(format!("read {}", path.display()))(error)),
        }
    }
    let kept = if young == Young::Keep { KEEP_DISK } else { Duration::ZERO };
    disk::sweep(&disk::home(data), &needed, kept)
}

/// Removes unpacked roots, and the disks made of them, that neither an image of the store nor a sandbox uses.
fn sweep_roots(data: &DataDir, store: &BlobStore) -> Result<(), Failure> {
    let mut needed = BTreeSet::new();
    for entry in store.entries().map_err(|error| Failure::other(error.to_string()))? {
        needed.insert(entry.digest.replace(':', "-"));
    }
    for entry in fs::read_dir(data.sandboxes()).map_err(Failure::io("list the sandboxes"))?.flatten() {
        let path = entry.path().join("meta.json");
        match read_json::<Value>(&path) {
            Ok(meta) => roots_in(&meta, &data.images(), &mut needed),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // Better to keep too much than to take a sandbox's files away.
            Err(error) => return Err(Failure::io(format!("read {}", path.display()))(error)),
        }
    }
    for entry in fs::read_dir(data.images()).map_err(Failure::io("list the unpacked images"))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = name.starts_with("sha256-") || name.starts_with("tar-");
        if ours && !needed.contains(&name) {
            let path = entry.path();
            // The record first: without it the rest counts as half made.
            remove_if_there(&path.join("image.json"), |path| fs::remove_file(path))?;
            remove_if_there(&data.images().join("disks").join(format!("{name}.erofs")), |path| {
                fs::remove_file(path)
            })?;
            remove_if_there(&path, |path| fs::remove_dir_all(path))?;
        }
    }
    Ok(())
}

/// The unpacked images that are named anywhere in a record, whichever driver wrote it.
fn roots_in(value: &Value, images: &Path, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            if let Ok(rest) = Path::new(text).strip_prefix(images)
                && let Some(first) = rest.components().next()
            {
                found.insert(first.as_os_str().to_string_lossy().into_owned());
            }
        }
        Value::Array(values) => values.iter().for_each(|value| roots_in(value, images, found)),
        Value::Object(values) => values.values().for_each(|value| roots_in(value, images, found)),
        _ => {}
    }
}

fn remove_if_there(path: &Path, remove: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<(), Failure> {
    match remove(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Failure::io(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_stays_while_an_image_or_a_sandbox_needs_it() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path());
        let store = BlobStore::new(data.image_store());
        store.prepare().unwrap();
        for name in ["sha256-used", "sha256-unused", "tar-unused", "disks"] {
            fs::create_dir_all(data.images().join(name).join("rootfs")).unwrap();
        }
        fs::write(data.images().join("disks/sha256-unused.erofs"), "").unwrap();
        let sandbox = data.sandboxes().join("sb-1");
        fs::create_dir_all(&sandbox).unwrap();
        let source = data.images().join("sha256-used/rootfs");
        fs::write(
            sandbox.join("meta.json"),
            serde_json::json!({ "image": { "layers": [{ "source": source }] } }).to_string(),
        )
        .unwrap();
        sweep_roots(&data, &store).unwrap();
        let left = |name: &str| data.images().join(name).exists();
        assert!(left("sha256-used") && left("disks"));
        assert!(!left("sha256-unused") && !left("tar-unused") && !left("disks/sha256-unused.erofs"));
        fs::write(sandbox.join("meta.json"), "half").unwrap();
        assert!(sweep_roots(&data, &store).is_err());
        assert!(left("sha256-used"));
    }

    #[test]
    fn a_disk_stays_while_a_machine_has_it_or_one_is_being_made() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path());
        let (home, sandbox) = (disk::home(&data), data.sandboxes().join("sb-1"));
        for dir in [&home, &sandbox, &data.image_store()] {
            fs::create_dir_all(dir).unwrap();
        }
        let old = std::time::SystemTime::now() - 2 * KEEP_DISK;
        for name in ["dir-used.erofs", "dir-unused.erofs"] {
            fs::write(home.join(name), "").unwrap();
            fs::File::open(home.join(name)).unwrap().set_modified(old).unwrap();
        }
        let left = || ["dir-used.erofs", "dir-unused.erofs"].map(|name| home.join(name).exists());
        let disks = sandbox.join("disks.json");
        fs::write(&disks, serde_json::json!([home.join("dir-used.erofs")]).to_string()).unwrap();
        // Whoever makes a machine, also of the host's directories, has the store in use until its disks are recorded.
        let making = BlobStore::new(data.image_store()).in_use(Duration::ZERO).unwrap().unwrap();
        collect_disks(&data).unwrap();
        assert_eq!(left(), [true, true]);
        drop(making);
        collect_disks(&data).unwrap();
        assert_eq!(left(), [true, false]);
        fs::write(&disks, "half").unwrap();
        assert!(sweep_disks(&data, Young::Remove).is_err());
        fs::remove_file(&disks).unwrap();
        sweep_disks(&data, Young::Remove).unwrap();
        assert_eq!(left(), [false, false]);
    }
}
