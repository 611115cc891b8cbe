//! The kernel that a machine runs, and where its modules are.

mod image;

use std::fs::{self, File, Metadata};
use std::io::{self, Seek as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::super::message::{Failure, FailureKind};
use super::super::userns_is_initial;
use super::{machines, memo};
use crate::image::{hex, sha256};
use crate::state::DataDir;
use image::Unusable;

const BOOT: &str = "/boot";
const PREFIX: &str = "vmlinuz-";
/// In the name of a kernel that its distribution has made for machines like ours.
const CLOUD: &str = "cloud";
/// Where distributions put modules.
const MODULES: &str = "/lib/modules";
/// The list of what is known about kernels, in the directory of machines.
const KNOWN: &str = "kernels.json";
/// Largest file that is taken for a kernel, in bytes.
const MAX_IMAGE: u64 = 1 << 30;
/// Of a file's mode: everybody may read it.
const READABLE: u32 = 0o004;

/// Who has chosen a machine's kernel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Choice<'a> {
    /// Whoever made the sandbox.
    Sandbox(&'a Path),
    /// The host's operator, or nobody.
    Host(Option<&'a Path>),
}

/// A kernel.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    /// As `uname -r` says it.
    pub(super) version: String,
    /// SHA-256 of the file, in hexadecimal.
    pub(super) digest: String,
    /// The directory with its modules, if there is one.
    pub(super) modules: Option<PathBuf>,
    /// Of errors about it.
    pub(super) kind: FailureKind,
}

/// What is in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    version: String,
    digest: String,
}

impl Kernel {
    /// That it cannot be used, and why.
    pub(super) fn failure(&self, reason: impl std::fmt::Display) -> Failure {
        failure(self.kind, &self.image, &reason)
    }

    /// Where its modules are looked for.
    pub(super) fn places(&self) -> [PathBuf; 3] {
        let beside = self.image.parent().unwrap_or(Path::new("/"));
        let places = [
            PathBuf::from(MODULES),
            // As in an unpacked package: boot/vmlinuz-VERSION and lib/modules/VERSION.
            beside.join("../lib/modules"),
            beside.join("modules"),
        ];
        places.map(|place| place.join(&self.version))
    }

    /// What it was built from, as its distribution puts it beside it.
    pub(super) fn config(&self) -> PathBuf {
        self.image.with_file_name(format!("config-{}", self.version))
    }

    #[cfg(test)]
    pub(super) fn known(digest: &str, image: &str) -> Self {
        Self { digest: digest.to_owned(), image: image.into(), ..Self::with_modules(Path::new("/")) }
    }

    #[cfg(test)]
    pub(super) fn with_modules(modules: &Path) -> Self {
        let (version, digest) = ("6.1".to_owned(), "00".to_owned());
        let (image, modules) = (modules.join("vmlinuz"), Some(modules.to_owned()));
        Self { image, version, digest, modules, kind: FailureKind::Kernel }
    }
}

/// The one that was chosen, or the newest on this host.
pub(super) fn find(data: &DataDir, choice: Choice<'_>) -> Result<Kernel, Failure> {
    let (kind, named) = match choice {
        Choice::Sandbox(path) => (FailureKind::Kernel, Some(path.to_owned())),
        Choice::Host(path) => (FailureKind::Machine, path.map(Path::to_owned)),
    };
    let image = named.or_else(|| newest(Path::new(BOOT))).ok_or_else(|| {
        Failure::machine(
            "there is no kernel in /boot to run machines with; install the package linux-image-cloud-amd64, or name a kernel with \
             [qemu] kernel",
        )
    })?;
    let image = resolved(image);
    let Content { version, digest } =
        content(&machines(data)?.join(KNOWN), &image).map_err(|reason| failure(kind, &image, &reason))?;
    let mut kernel = Kernel { image, version, digest, modules: None, kind };
    kernel.modules = kernel.places().into_iter().find(|dir| dir.is_dir());
    Ok(kernel)
}

fn failure(kind: FailureKind, image: &Path, reason: &dyn std::fmt::Display) -> Failure {
    Failure::new(kind, format!("the kernel {} cannot be used: {reason}", image.display()))
}

/// The same file by a path without `..`, which a jail needs.
fn resolved(image: PathBuf) -> PathBuf {
    let parts = image.parent().and_then(|dir| fs::canonicalize(dir).ok()).zip(image.file_name());
    parts.map(|(dir, name)| dir.join(name)).unwrap_or(image)
}

fn newest(dir: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    entries
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX)))
        .max_by_key(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name.contains(CLOUD), numbers(&name))
        })
}

/// The numbers in a name, so that 6.10 is newer than 6.9.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// What is in a kernel's file. It is read when it is new or has changed, and remembered in `known`: each start asks, and it has ten million bytes or more.
fn content(known: &Path, path: &Path) -> Result<Content, Unusable> {
    // Without waiting: a pipe would keep us until somebody writes into it.
    let how = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(path, how, Mode::empty()).map_err(io::Error::from)?);
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(Unusable::NotAFile);
    }
    if meta.len() > MAX_IMAGE {
        return Err(Unusable::TooLarge);
    }
    if meta.mode() & READABLE == 0 && rustix::process::geteuid().is_root() && userns_is_initial() {
        return Err(Unusable::Private);
    }
    let identity = identity(path, &meta);
    if let Some(content) = memo::recall(known, &identity) {
        return Ok(content);
    }
    let version = image::version(&mut file)?;
    file.rewind()?;
    let digest = sha256(&mut file).map_err(|failure| io::Error::other(failure.reason))?;
    let content = Content { version, digest };
    memo::note(known, &identity, content.clone());
    Ok(content)
}

/// Another one for a file of other content, however it came about.
fn identity(path: &Path, meta: &Metadata) -> String {
    let text = format!(
        "{} {} {} {} {}.{} {}.{}",
        path.display(),
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec()
    );
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    hex(hash.as_ref().get(..16).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_cloud_kernel_is_taken_before_others_and_the_newest_of_them() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "vmlinuz-6.9.0-2-cloud-amd64",
            "vmlinuz-6.10.0-1-cloud-amd64",
            "vmlinuz-7.0.0-1-amd64",
            "config-9",
        ] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(newest(dir.path()), Some(dir.path().join("vmlinuz-6.10.0-1-cloud-amd64")));
    }

    #[test]
    fn a_kernel_is_known_by_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path().join("data"));
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let found = |path: &Path| find(&data, Choice::Sandbox(path));
        for path in [&one, &two] {
            fs::write(path, image::sample("6.1.0-a")).unwrap();
        }
        let first = found(&one).unwrap();
        assert_eq!((first.version.as_str(), first.digest.len()), ("6.1.0-a", 64));
        assert_eq!(found(&two).unwrap().digest, first.digest);
        assert_eq!(found(&one).unwrap().digest, first.digest, "what was remembered differs");
        // As long as before, and later by what a file's time can tell.
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(&one, image::sample("6.1.0-b")).unwrap();
        let changed = found(&one).unwrap();
        assert_eq!(changed.version, "6.1.0-b");
        assert_ne!(changed.digest, first.digest);
        assert_eq!(changed.modules, None);
        fs::create_dir_all(dir.path().join("modules/6.1.0-b")).unwrap();
        assert_eq!(found(&one).unwrap().modules, Some(dir.path().join("modules/6.1.0-b")));
    }

    #[test]
    fn a_refusal_names_the_file_and_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path().join("data"));
        let file = dir.path().join("file");
        fs::write(&file, "text").unwrap();
        for (path, word) in [
            (file.clone(), "neither a bzImage"),
            (dir.path().to_owned(), "not a file"),
            (dir.path().join("none"), "No such file"),
        ] {
            let failure = find(&data, Choice::Sandbox(&path)).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Kernel);
            let reason = failure.reason;
            assert!(reason.contains(path.to_str().unwrap()) && reason.contains(word), "{reason}");
            let failure = find(&data, Choice::Host(Some(&path))).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Machine);
        }
        if rustix::process::geteuid().is_root() && userns_is_initial() {
            fs::write(&file, image::sample("6.1")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            let failure = find(&data, Choice::Sandbox(&file)).unwrap_err();
            assert!(failure.reason.contains("chmod a+r"), "{}", failure.reason);
        }
    }
}
