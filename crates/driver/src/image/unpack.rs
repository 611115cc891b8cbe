//! Unpacking a tar file that nobody vouches for.
//!
//! Every name is resolved by the kernel with the image's root as the root of all paths (openat2 with `RESOLVE_IN_ROOT`), so
//! neither `..`, nor an absolute name, nor a symbolic link made by an earlier entry leads outside. The last component is
//! never followed. Device nodes are skipped: a sandbox could not open them. Whiteouts follow the OCI image specification,
//! "Layer Filesystem Changeset".

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, chmodat,
    chownat, linkat, mkdirat, mknodat, open, openat, openat2, readlink, statat, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use super::meter::{Meter, Metered};
use crate::shim::message::Failure;

pub(crate) use super::compression::{Compression, decompress};

/// Largest image in bytes once unpacked: against archives that never end.
const MAX_BYTES: u64 = 64 << 30;

/// Most entries of an image.
const MAX_ENTRIES: u64 = 4_000_000;

/// Deepest directory; deeper ones could not be removed with bounded memory.
const MAX_DEPTH: usize = 256;

/// Most bytes of all names of one layer: they are kept in memory until the layer is done.
const MAX_NAME_BYTES: usize = 512 << 20;

/// Ids above this exist in no sandbox.
const MAX_ID: u64 = 65_535;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Unpacks layers one over the other into a directory.
#[derive(Debug)]
pub(crate) struct Unpacker {
    root: OwnedFd,
    /// Components of the root's own path.
    root_depth: usize,
    meter: Rc<Meter>,
    bytes: u64,
    entries: u64,
    devices: u64,
    owners_lost: u64,
}

impl Unpacker {
    pub(crate) fn new(root: &Path) -> Result<Self, Failure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fail = || Failure::io("open the image's directory");
        let root = open(root, flags, Mode::empty()).map_err(fail())?;
        let root_depth = depth_of(&root).map_err(fail())?;
        Ok(Self {
            root,
            root_depth,
            meter: Rc::new(Meter::new(MAX_BYTES)),
            bytes: 0,
            entries: 0,
            devices: 0,
            owners_lost: 0,
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// What was left out, one sentence each.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.devices > 0 {
            remarks.push(format!("{} device nodes of the image were left out.", self.devices));
        }
        if self.owners_lost > 0 {
            remarks.push(format!(
                "{} files of the image belong to ids that do not exist here, and became root's.",
                self.owners_lost
            ));
        }
        remarks
    }

    /// Unpacks one layer over what is there.
    pub(crate) fn layer(&mut self, reader: impl Read) -> Result<(), Failure> {
        let meter = self.meter.clone();
        let mut archive = Archive::new(Metered::new(reader, meter.clone()));
        // Names of this layer and the directories above them, which its own markers do not hide.
        let mut fresh = Fresh::default();
        // Written last, since making an entry in a directory changes its time.
        let mut directories = Vec::new();
        meter.expect(0);
        for entry in archive.entries().map_err(malformed)? {
            let mut entry = entry.map_err(malformed)?;
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(Failure::image(format!("it has more than {MAX_ENTRIES} entries")));
            }
            meter.expect(entry.size());
            let Some(path) = clean(&entry.path_bytes())? else {
                meter.expect(entry.size());
                continue;
            };
            let name = path.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
            if name == OPAQUE {
                self.hide_older(path.parent().unwrap_or(Path::new("")), &fresh)?;
            } else if let Some(hidden) = name.strip_prefix(WHITEOUT) {
                let hidden = path.with_file_name(std::ffi::OsStr::from_bytes(hidden));
                if fresh.contains(&hidden) {
                    // Deleted and made anew in one layer, in whatever order the archive tells it.
                    self.hide_older(&hidden, &fresh)?;
                } else if hidden.file_name().is_some_and(|name| name != "." && name != "..") {
                    self.delete(&hidden)?;
                }
            } else {
                self.entry(&mut entry, &path, &mut directories)?;
                fresh.insert(path)?;
            }
            let unread = if has_content(entry.header().entry_type()) { 0 } else { entry.size() };
            meter.expect(unread);
        }
        for (path, time) in directories.into_iter().rev() {
            if let Ok(dir) = self.resolve(&path) {
                let _ = utimensat(&dir, ".", &time, AtFlags::empty());
            }
        }
        Ok(())
    }

    fn entry<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        path: &Path,
        directories: &mut Vec<(PathBuf, Timestamps)>,
    ) -> Result<(), Failure> {
        let kind = entry.header().entry_type();
        let failed = |error: Errno| Failure::image(format!("{} cannot be unpacked: {error}", path.display()));
        let header = Header::of(entry)?;
        let Some(name) = path.file_name() else {
            // The root itself: only its mode matters.
            chmodat(
                CWD,
                self.proc_path(&self.root),
                header.mode | Mode::from_raw_mode(0o711),
                AtFlags::empty(),
            )
            .map_err(failed)?;
            return Ok(());
        };
        let parent = self.make_parent(path)?;
        let existing =
            statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).ok().map(|s| FileType::from_raw_mode(s.st_mode));
        let keeps = existing == Some(FileType::Directory) && kind == EntryType::Directory;
        if existing.is_some() && !keeps {
            self.delete(path)?;
        }
        match kind {
            EntryType::Directory => {
                if !keeps {
                    mkdirat(&parent, name, Mode::from_raw_mode(0o700)).map_err(failed)?;
                }
                directories.push((path.to_owned(), header.time.clone()));
            }
            kind if has_content(kind) => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(&parent, name, flags, Mode::from_raw_mode(0o600)).map_err(failed)?;
                self.copy(entry, &mut File::from(file), path)?;
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| malformed("a link without a target"))?;
                symlinkat(target.as_ref(), &parent, name).map_err(failed)?;
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().ok_or_else(|| malformed("a link without a target"))?;
                let target = clean(&target)?.ok_or_else(|| malformed("a link to nowhere"))?;
                let target_name = target.file_name().ok_or_else(|| malformed("a link to the root"))?;
                let target_parent = self.resolve(target.parent().unwrap_or(Path::new(""))).map_err(failed)?;
                // Without AT_SYMLINK_FOLLOW: a link to a symbolic link is a link to that, not to what it names.
                linkat(&target_parent, target_name, &parent, name, AtFlags::empty()).map_err(failed)?;
                return Ok(());
            }
            EntryType::Fifo => {
                mknodat(&parent, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0).map_err(failed)?;
            }
            EntryType::Char | EntryType::Block => {
                self.devices += 1;
                return Ok(());
            }
            // Extensions that the tar library has used or that carry nothing for us.
            _ => return Ok(()),
        }
        self.attributes(&parent, name, kind, &header).map_err(failed)
    }

    fn attributes(
        &mut self,
        parent: &OwnedFd,
        name: &std::ffi::OsStr,
        kind: EntryType,
        header: &Header,
    ) -> Result<(), Errno> {
        let owner = (Uid::from_raw(header.uid), Gid::from_raw(header.gid));
        match chownat(parent, name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) if !header.owner_lost => {}
            // Not every id is mapped where an ordinary user unpacks.
            Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::OVERFLOW) => self.owners_lost += 1,
            Err(error) => return Err(error),
        }
        if kind != EntryType::Symlink {
            // After the owner, since a change of owner clears the set-id bits. The name is ours and no link: it was just made.
            chmodat(parent, name, header.mode, AtFlags::empty())?;
        }
        utimensat(parent, name, &header.time, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn copy<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        file: &mut File,
        path: &Path,
    ) -> Result<(), Failure> {
        let left = MAX_BYTES.saturating_sub(self.bytes);
        let copied = io::copy(&mut entry.take(left.saturating_add(1)), file)
            .map_err(|error| Failure::image(format!("{} cannot be unpacked: {error}", path.display())))?;
        self.bytes += copied;
        if copied > left {
            return Err(Failure::image(format!("it is larger than {} GiB", MAX_BYTES >> 30)));
        }
        file.flush().map_err(Failure::io("write the image"))
    }

    /// A directory inside, wherever links lead, but never outside.
    fn resolve(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        openat2(&self.root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }

    /// The directory an entry goes to; made where the archive does not name it.
    fn make_parent(&self, path: &Path) -> Result<OwnedFd, Failure> {
        let failed = |error: Errno| Failure::image(format!("{} cannot be unpacked: {error}", path.display()));
        let parent = path.parent().unwrap_or(Path::new(""));
        match self.resolve(parent) {
            Ok(dir) => return self.shallow(dir),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(failed(error)),
        }
        let mut so_far = PathBuf::new();
        let mut dir = self.resolve(&so_far).map_err(failed)?;
        for part in parent.components() {
            so_far.push(part);
            dir = match self.resolve(&so_far) {
                Ok(next) => next,
                Err(Errno::NOENT) => {
                    mkdirat(&dir, part.as_os_str(), Mode::from_raw_mode(0o755)).map_err(failed)?;
                    self.resolve(&so_far).map_err(failed)?
                }
                Err(error) => return Err(failed(error)),
            };
        }
        self.shallow(dir)
    }

    /// A directory that is not too deep. Links can lead deeper than any one name does.
    fn shallow(&self, dir: OwnedFd) -> Result<OwnedFd, Failure> {
        match depth_of(&dir) {
            Ok(depth) if depth <= self.root_depth + MAX_DEPTH => Ok(dir),
            _ => Err(too_deep()),
        }
    }

    /// Removes a file or a whole directory, following nothing.
    fn delete(&self, path: &Path) -> Result<(), Failure> {
        let failed = |error: Errno| Failure::image(format!("{} cannot be replaced: {error}", path.display()));
        let Some(name) = path.file_name() else { return Ok(()) };
        match self.resolve(path.parent().unwrap_or(Path::new(""))) {
            Ok(parent) => remove_tree(&parent, name, 0).map_err(failed),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Removes what lower layers put into a directory.
    fn hide_older(&self, path: &Path, fresh: &Fresh) -> Result<(), Failure> {
        let failed = |error: Errno| Failure::image(format!("{} cannot be emptied: {error}", path.display()));
        let dir = match self.resolve(path) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        for name in list(&dir).map_err(failed)? {
            let child = path.join(&name);
            if !fresh.contains(&child) {
                remove_tree(&dir, &name, 0).map_err(failed)?;
            } else if fresh.only_above(&child) {
                // A directory that this layer passes through without naming it: what is older in it goes all the same.
                self.hide_older(&child, fresh)?;
            }
        }
        Ok(())
    }

    fn proc_path(&self, fd: &OwnedFd) -> PathBuf {
        use std::os::fd::AsRawFd;
        PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
    }
}

/// What an entry says about itself.
#[derive(Debug)]
struct Header {
    mode: Mode,
    uid: u32,
    gid: u32,
    owner_lost: bool,
    time: Timestamps,
}

impl Header {
    fn of<R: Read>(entry: &Entry<'_, R>) -> Result<Self, Failure> {
        let header = entry.header();
        let (uid, gid) = (header.uid().map_err(malformed)?, header.gid().map_err(malformed)?);
        let id = |value: u64| if value > MAX_ID { 0 } else { u32::try_from(value).unwrap_or(0) };
        let owner_lost = uid > MAX_ID || gid > MAX_ID;
        let seconds = i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0);
        let stamp = Timespec { tv_sec: seconds, tv_nsec: 0 };
        Ok(Self {
            // A file whose owner is lost belongs to root: it must not lend root's rights to whoever runs it.
            mode: Mode::from_raw_mode(
                header.mode().map_err(malformed)? & if owner_lost { 0o1777 } else { 0o7777 },
            ),
            uid: id(uid),
            gid: id(gid),
            owner_lost,
            time: Timestamps { last_access: stamp, last_modification: stamp },
        })
    }
}

pub(super) fn malformed(error: impl std::fmt::Display) -> Failure {
    Failure::image(format!("it is not a well-formed tar archive: {error}"))
}

fn too_deep() -> Failure {
    Failure::image(format!("it has directories that are more than {MAX_DEPTH} deep"))
}

/// Whether an entry of this kind has content that is read.
fn has_content(kind: EntryType) -> bool {
    matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse)
}

/// Looks through an archive without unpacking it.
pub(crate) fn check(reader: &mut dyn Read) -> Result<(), Failure> {
    let meter = Rc::new(Meter::new(MAX_BYTES));
    let mut archive = Archive::new(Metered::new(reader, meter.clone()));
    let mut entries = 0u64;
    meter.expect(0);
    for entry in archive.entries().map_err(malformed)? {
        let entry = entry.map_err(malformed)?;
        entries += 1;
        if entries > MAX_ENTRIES {
            return Err(Failure::image(format!("it has more than {MAX_ENTRIES} entries")));
        }
        meter.expect(entry.size());
    }
    if entries == 0 { Err(Failure::image("there are no files in it")) } else { Ok(()) }
}

/// The names that a layer has brought so far.
#[derive(Debug, Default)]
struct Fresh {
    named: HashSet<PathBuf>,
    /// Directories above those, which have no entry of their own perhaps.
    above: HashSet<PathBuf>,
    bytes: usize,
}

impl Fresh {
    fn insert(&mut self, path: PathBuf) -> Result<(), Failure> {
        for parent in path.ancestors().skip(1) {
            if self.above.contains(parent) {
                break;
            }
            self.bytes += parent.as_os_str().len();
            self.above.insert(parent.to_owned());
        }
        self.bytes += path.as_os_str().len();
        self.named.insert(path);
        if self.bytes > MAX_NAME_BYTES {
            return Err(Failure::image("the names in it are too long"));
        }
        Ok(())
    }

    fn contains(&self, path: &Path) -> bool {
        self.named.contains(path) || self.above.contains(path)
    }

    fn only_above(&self, path: &Path) -> bool {
        self.above.contains(path) && !self.named.contains(path)
    }
}

/// A relative path without `.` and `..`; `None` for a name that means nothing. `..` at the root stays at the root, as in any
/// file system.
fn clean(bytes: &[u8]) -> Result<Option<PathBuf>, Failure> {
    if bytes.contains(&0) {
        return Ok(None);
    }
    let mut path = PathBuf::new();
    for part in Path::new(std::ffi::OsStr::from_bytes(bytes)).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => {
                path.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if path.components().count() > MAX_DEPTH { Err(too_deep()) } else { Ok(Some(path)) }
}

/// How many directories stand above one. A path that is too long to be told is an error.
fn depth_of(dir: &OwnedFd) -> Result<usize, Errno> {
    use std::os::fd::AsRawFd;
    let path = readlink(format!("/proc/self/fd/{}", dir.as_raw_fd()), Vec::new())?;
    Ok(path.to_bytes().iter().filter(|byte| **byte == b'/').count())
}

fn list(dir: &OwnedFd) -> Result<Vec<std::ffi::OsString>, Errno> {
    let readable = openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&readable)? {
        let name = std::ffi::OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

fn remove_tree(parent: &OwnedFd, name: &std::ffi::OsStr, depth: usize) -> Result<(), Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = openat(parent, name, flags, Mode::empty())?;
    for child in list(&dir)? {
        remove_tree(&dir, &child, depth + 1)?;
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn entry(kind: EntryType, path: &str, link: Option<&str>, data: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        // Written raw, since the library's own setters refuse what we want to test.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        if let Some(link) = link {
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().div_ceil(512) * 512, 0);
        bytes
    }

    fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes: Vec<u8> = entries.concat();
        bytes.extend_from_slice(&[0; 1024]);
        bytes
    }

    fn unpack(layers: &[&[Vec<u8>]]) -> (tempfile::TempDir, Result<(), Failure>) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("rootfs");
        fs::create_dir(&root).unwrap();
        fs::write(dir.path().join("outside"), "untouched").unwrap();
        let mut unpacker = Unpacker::new(&root).unwrap();
        let result = layers.iter().try_for_each(|layer| unpacker.layer(archive(layer).as_slice()));
        (dir, result)
    }

    #[test]
    fn no_name_leads_outside() {
        use EntryType::{Link, Regular, Symlink};
        let (dir, result) = unpack(&[&[
            entry(Regular, "../outside", None, b"one"),
            entry(Regular, "/abs/file", None, b"two"),
            entry(Symlink, "up", Some("../.."), b""),
            entry(Regular, "up/escaped", None, b"three"),
            entry(Symlink, "rootlink", Some("/"), b""),
            entry(Regular, "rootlink/at-root", None, b"four"),
            entry(Symlink, "outside-link", Some("../outside"), b""),
            entry(Regular, "outside-link", None, b"five"),
        ]]);
        result.unwrap();
        let root = dir.path().join("rootfs");
        assert_eq!(fs::read(dir.path().join("outside")).unwrap(), b"untouched");
        assert!(!dir.path().join("escaped").exists());
        assert_eq!(fs::read(root.join("outside")).unwrap(), b"one");
        assert_eq!(fs::read(root.join("abs/file")).unwrap(), b"two");
        assert_eq!(fs::read(root.join("escaped")).unwrap(), b"three");
        assert_eq!(fs::read(root.join("at-root")).unwrap(), b"four");
        assert_eq!(fs::read(root.join("outside-link")).unwrap(), b"five");

        let (dir, result) = unpack(&[&[entry(Link, "stolen", Some("../../outside"), b"")]]);
        assert!(result.is_err());
        assert!(!dir.path().join("rootfs/stolen").exists());
    }

    #[test]
    fn a_hard_link_to_a_symbolic_link_does_not_follow_it() {
        use EntryType::{Link, Symlink};
        let (dir, result) =
            unpack(&[&[entry(Symlink, "a", Some("/etc/passwd"), b""), entry(Link, "b", Some("a"), b"")]]);
        result.unwrap();
        assert!(fs::symlink_metadata(dir.path().join("rootfs/b")).unwrap().is_symlink());
    }

    #[test]
    fn whiteouts_hide_lower_layers_only() {
        use EntryType::Regular;
        let (dir, result) = unpack(&[
            &[
                entry(Regular, "a/one", None, b"1"),
                entry(Regular, "a/two", None, b"2"),
                entry(Regular, "b/one", None, b"1"),
                entry(Regular, "b/sub/deep", None, b"1"),
            ],
            &[
                entry(Regular, "a/.wh.one", None, b""),
                entry(Regular, "b/new", None, b"n"),
                entry(Regular, "b/.wh..wh..opq", None, b""),
            ],
        ]);
        result.unwrap();
        let root = dir.path().join("rootfs");
        assert!(!root.join("a/one").exists());
        assert!(root.join("a/two").exists());
        assert!(!root.join("b/one").exists());
        assert!(!root.join("b/sub").exists());
        assert!(root.join("b/new").exists());
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut unpacker = Unpacker::new(dir.path()).unwrap();
        let failure = unpacker.layer(&[0x55u8; 4096][..]).unwrap_err();
        assert!(failure.reason.contains("tar"), "{}", failure.reason);
    }

    #[test]
    fn what_is_deleted_and_made_anew_in_one_layer_is_new_in_any_order() {
        use EntryType::{Directory, Regular};
        let lower = [
            entry(Regular, "d/old", None, b"1"),
            entry(Regular, "d/sub/old", None, b"1"),
            entry(Regular, "f", None, b"1"),
        ];
        let new = [
            entry(Directory, "d", None, b""),
            entry(Regular, "d/new", None, b"2"),
            entry(Regular, "d/sub/new", None, b"2"),
            entry(Regular, "f", None, b"2"),
        ];
        let gone = [entry(Regular, ".wh.d", None, b""), entry(Regular, ".wh.f", None, b"")];
        for upper in [[&gone[..], &new[..]].concat(), [&new[..], &gone[..]].concat()] {
            let (dir, result) = unpack(&[&lower, &upper]);
            result.unwrap();
            let root = dir.path().join("rootfs");
            assert!(!root.join("d/old").exists() && !root.join("d/sub/old").exists());
            assert_eq!(fs::read(root.join("d/new")).unwrap(), b"2");
            assert_eq!(fs::read(root.join("d/sub/new")).unwrap(), b"2");
            assert_eq!(fs::read(root.join("f")).unwrap(), b"2");
        }
    }

    #[test]
    fn whiteouts_do_not_lead_outside() {
        use EntryType::{Regular, Symlink};
        let (dir, result) = unpack(&[&[
            entry(Symlink, "up", Some("../.."), b""),
            entry(Symlink, "abs", Some("/../.."), b""),
            entry(Regular, "up/.wh.outside", None, b""),
            entry(Regular, "abs/.wh.outside", None, b""),
            entry(Regular, "../.wh.outside", None, b""),
            entry(Regular, ".wh...", None, b""),
            entry(Regular, ".wh.", None, b""),
            entry(Regular, "up/.wh..wh..opq", None, b""),
        ]]);
        result.unwrap();
        assert_eq!(fs::read(dir.path().join("outside")).unwrap(), b"untouched");
        assert!(dir.path().join("rootfs").exists());
    }

    #[test]
    fn a_link_across_layers_is_the_same_file() {
        use EntryType::{Link, Regular};
        use std::os::unix::fs::MetadataExt;
        let (dir, result) = unpack(&[
            &[entry(Regular, "a/one", None, b"1")],
            &[entry(Link, "two", Some("/a/../a/one"), b"")],
        ]);
        result.unwrap();
        let ino = |name: &str| fs::metadata(dir.path().join("rootfs").join(name)).unwrap().ino();
        assert_eq!(ino("a/one"), ino("two"));
    }

    #[test]
    fn headers_that_never_end_are_refused() {
        use EntryType::Regular;
        for kind in [EntryType::GNULongName, EntryType::XHeader] {
            let long = entry(kind, "long", None, &vec![b'a'; 8 << 20]);
            let (_dir, result) = unpack(&[&[long, entry(Regular, "f", None, b"1")]]);
            let reason = result.unwrap_err().reason;
            assert!(reason.contains("headers"), "{reason}");
        }
        // An entry without content that claims to have some makes no room for them.
        let mut hollow = entry(EntryType::Directory, "d", None, b"");
        hollow.splice(124..136, *b"77777777777\0");
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes().copy_from_slice(&hollow[..512]);
        header.set_cksum();
        let (_dir, result) = unpack(&[&[header.as_bytes().to_vec()]]);
        assert!(result.is_err());
    }

    #[test]
    fn links_do_not_lead_deeper_than_names_may() {
        use EntryType::{Directory, Symlink};
        let hop = "a/".repeat(40);
        let mut entries = vec![];
        let mut place = String::new();
        for n in 0..8 {
            entries.push(entry(Directory, &format!("{place}{hop}"), None, b""));
            let link = format!("l{n}");
            entries.push(entry(Symlink, &link, Some(&format!("/{place}{hop}")), b""));
            place = format!("{link}/");
        }
        let (dir, result) = unpack(&[&entries]);
        assert!(result.unwrap_err().reason.contains("deep"));
        fs::remove_dir_all(dir.path().join("rootfs")).unwrap();
    }

    #[test]
    fn a_lost_owner_lends_no_rights() {
        use std::os::unix::fs::PermissionsExt;
        let mut header = tar::Header::new_gnu();
        header.set_path("su").unwrap();
        header.set_entry_type(EntryType::Regular);
        header.set_size(0);
        header.set_mode(0o6755);
        header.set_uid(70_000);
        header.set_gid(0);
        header.set_cksum();
        let (dir, result) = unpack(&[&[header.as_bytes().to_vec()]]);
        result.unwrap();
        let mode = fs::metadata(dir.path().join("rootfs/su")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
    }
}
