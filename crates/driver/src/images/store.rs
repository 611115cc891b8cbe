//! The store on disk: an OCI image layout whose blobs are shared by all images.
//!
//! ```text
//! <data-dir>/image-store/oci-layout
//!                        /index.json           name -> manifest, in the annotation org.opencontainers.image.ref.name
//!                        /blobs/sha256/<hex>   whole and checked: a blob gets its name when both hold
//!                        /ingest/              blobs that are on their way; emptied when a gateway starts
//!                        /use.lock             shared: somebody relies on what is there; exclusive: somebody removes
//!                        /index.lock           held while index.json is changed
//! ```
//!
//! A crash at any point leaves the old index or the new one, and blobs that are whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::digest;
use oci_spec::image::ImageManifest;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::ImageError;
use crate::image::hex;
use crate::state::lock::OpLock;

/// Largest manifest, index or configuration, in bytes.
pub(super) const MAX_DOCUMENT: u64 = 4 << 20;

/// Most names in the store: with this many, index.json stays below [`MAX_DOCUMENT`].
const MAX_NAMES: usize = 4096;

/// How long the index may be locked by somebody else, who only writes one file.
const INDEX_PATIENCE: Duration = Duration::from_secs(30);

/// How often a waiter for a lock looks again.
const RETRY: Duration = Duration::from_millis(10);

/// How long blobs stay that no image names: a pull that was cut off finds them again.
const KEEP_UNNAMED: Duration = Duration::from_secs(24 * 3600);

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const ADDED: &str = "org.sandgate.image.added";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// An image's manifest as an index names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<EntryPlatform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// The machine an image is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct EntryPlatform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: String,
    manifests: Vec<Entry>,
}

impl Entry {
    /// The name it has in the store, in its canonical form.
    pub(crate) fn name(&self) -> &str {
        self.annotations.get(REF_NAME).map(String::as_str).unwrap_or_default()
    }

    pub(super) fn added(&self) -> SystemTime {
        let seconds = self.annotations.get(ADDED).and_then(|text| text.parse().ok()).unwrap_or(0);
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }
}

/// `sha256:` and 64 lower-case hexadecimal digits; nothing else names a blob, so no path can be made of one.
pub(super) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// The digest of some bytes, as blobs are named.
pub(super) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(digest::digest(&digest::SHA256, bytes).as_ref()))
}

/// Held while something in the store is relied on.
#[derive(Debug)]
pub(crate) struct InUse {
    _file: File,
}

/// The directory.
#[derive(Debug, Clone)]
pub(crate) struct BlobStore {
    root: PathBuf,
}

impl BlobStore {
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Makes what is missing.
    pub(super) fn prepare(&self) -> io::Result<()> {
        for dir in [self.blobs(), self.ingest()] {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let layout = self.root.join("oci-layout");
        if !layout.exists() {
            write_whole(&layout, b"{\"imageLayoutVersion\":\"1.0.0\"}\n")?;
        }
        Ok(())
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    fn ingest(&self) -> PathBuf {
        self.root.join("ingest")
    }

    fn index_path(&self) -> PathBuf {
        self.root.join("index.json")
    }

    /// Where a blob is or would be.
    pub(super) fn blob(&self, digest: &str) -> Result<PathBuf, ImageError> {
        match digest.strip_prefix("sha256:") {
            Some(hex) if is_digest(digest) => Ok(self.blobs().join(hex)),
            _ => Err(ImageError::image(format!(
                "{:?} is not a SHA-256 digest",
                digest.chars().take(80).collect::<String>()
            ))),
        }
    }

    /// Whether a blob of that size is there. Its content was checked before it got its name.
    pub(super) fn has(&self, digest: &str, size: u64) -> Result<bool, ImageError> {
        Ok(fs::metadata(self.blob(digest)?).is_ok_and(|meta| meta.is_file() && meta.len() == size))
    }

    /// A small blob: a manifest or a configuration.
    pub(super) fn document(&self, digest: &str) -> Result<Vec<u8>, ImageError> {
        let path = self.blob(digest)?;
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes))
            .map_err(ImageError::io(format!("read {}", path.display())))?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(ImageError::image(format!("{digest} is too large for a manifest")));
        }
        Ok(bytes)
    }

    /// Keeps a small blob.
    pub(super) fn put(&self, bytes: &[u8]) -> Result<String, ImageError> {
        let name = digest_of(bytes);
        if !self.has(&name, bytes.len() as u64)? {
            let mut ingest = self.begin()?;
            ingest.write(bytes)?;
            ingest.finish(&name)?;
        }
        Ok(name)
    }

    /// Begins a blob; dropped unfinished it leaves nothing.
    pub(super) fn begin(&self) -> Result<Ingest, ImageError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = self.ingest().join(format!("{}-{n}", std::process::id()));
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(ImageError::io(format!("make {}", path.display())))?;
        let context = digest::Context::new(&digest::SHA256);
        Ok(Ingest { store: self.clone(), path, file, context, size: 0 })
    }

    /// Takes the store in use, so that nothing is removed from it.
    pub(crate) fn in_use(&self, patience: Duration) -> io::Result<Option<InUse>> {
        self.lock(FlockOperation::NonBlockingLockShared, patience)
    }

    /// Takes the store alone, if nobody uses it within `patience`.
    pub(super) fn alone(&self, patience: Duration) -> io::Result<Option<InUse>> {
        self.lock(FlockOperation::NonBlockingLockExclusive, patience)
    }

    fn lock(&self, how: FlockOperation, patience: Duration) -> io::Result<Option<InUse>> {
        let path = self.root.join("use.lock");
        let file =
            File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let deadline = Instant::now() + patience;
        loop {
            match flock(&file, how) {
                Ok(()) => return Ok(Some(InUse { _file: file })),
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => {
                    std::thread::sleep(RETRY)
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What has a name.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>, ImageError> {
        let fail = || ImageError::io(format!("read {}", self.index_path().display()));
        let file = match File::open(self.index_path()) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(fail()(error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT).read_to_end(&mut bytes).map_err(fail())?;
        let index: Index = serde_json::from_slice(&bytes).map_err(|error| fail()(error.into()))?;
        Ok(index.manifests)
    }

    /// Gives an image a name, in place of the image that had it. Its blobs are there already.
    pub(super) fn name(&self, name: &str, mut entry: Entry) -> Result<(), ImageError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        entry.annotations =
            BTreeMap::from([(REF_NAME.to_owned(), name.to_owned()), (ADDED.to_owned(), now.to_string())]);
        self.change(|entries| {
            entries.retain(|old| old.name() != name);
            if entries.len() >= MAX_NAMES {
                return Err(ImageError::image(format!("the store has {MAX_NAMES} images already")));
            }
            entries.push(entry);
            Ok(())
        })
    }

    /// Takes a name away. `false` if nobody has it.
    pub(super) fn forget(&self, name: &str) -> Result<bool, ImageError> {
        let mut found = false;
        self.change(|entries| {
            let before = entries.len();
            entries.retain(|old| old.name() != name);
            found = entries.len() < before;
            Ok(())
        })?;
        Ok(found)
    }

    fn change(&self, edit: impl FnOnce(&mut Vec<Entry>) -> Result<(), ImageError>) -> Result<(), ImageError> {
        let fail = || ImageError::io(format!("write {}", self.index_path().display()));
        let lock = OpLock::acquire(&self.root.join("index.lock"), INDEX_PATIENCE).map_err(fail())?;
        let Some(_lock) = lock else { return Err(fail()(ErrorKind::TimedOut.into())) };
        let mut manifests = self.entries()?;
        edit(&mut manifests)?;
        let index = Index { schema_version: 2, media_type: INDEX_TYPE.to_owned(), manifests };
        let bytes = serde_json::to_vec_pretty(&index).map_err(|error| fail()(error.into()))?;
        write_whole(&self.index_path(), &bytes).map_err(fail())
    }

    /// Removes what a killed gateway was writing.
    pub(super) fn sweep_ingest(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.ingest())? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// Removes the blobs that no image needs. The caller has the store alone.
    pub(super) fn sweep_blobs(&self, young: Young) -> Result<(), ImageError> {
        let mut needed = BTreeSet::new();
        for entry in self.entries()? {
            let bytes = self.document(&entry.digest)?;
            let manifest: ImageManifest = serde_json::from_slice(&bytes).map_err(|error| {
                ImageError::image(format!("the manifest {} is malformed: {error}", entry.digest))
            })?;
            let parts = manifest.layers().iter().chain([manifest.config()]);
            needed.extend(parts.map(|part| part.digest().to_string()));
            needed.insert(entry.digest);
        }
        let fail = || ImageError::io("list the blobs of the image store");
        for entry in fs::read_dir(self.blobs()).map_err(fail())? {
            let entry = entry.map_err(fail())?;
            let is_young = || {
                let age = entry.metadata().and_then(|meta| meta.modified()).map(|at| at.elapsed());
                young == Young::Keep && !matches!(age, Ok(Ok(age)) if age > KEEP_UNNAMED)
            };
            if !needed.contains(&format!("sha256:{}", entry.file_name().to_string_lossy())) && !is_young() {
                fs::remove_file(entry.path())
                    .map_err(ImageError::io(format!("remove {}", entry.path().display())))?;
            }
        }
        Ok(())
    }
}

/// What to do with blobs without a name that came within the last day, from a pull that was cut off perhaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Young {
    Keep,
    Remove,
}

/// A blob on its way.
pub(super) struct Ingest {
    store: BlobStore,
    path: PathBuf,
    file: File,
    context: digest::Context,
    size: u64,
}

impl Ingest {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.context.update(bytes);
        self.size += bytes.len() as u64;
        self.file.write_all(bytes).map_err(ImageError::io(format!("write {}", self.path.display())))
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The digest so far.
    pub(super) fn digest(&self) -> String {
        format!("sha256:{}", hex(self.context.clone().finish().as_ref()))
    }

    /// Gives the blob its name, if it is the one that was wanted.
    pub(super) fn finish(self, wanted: &str) -> Result<(), ImageError> {
        let found = self.digest();
        if found != wanted {
            return Err(ImageError::image(format!(
                "the blob {wanted} does not match its digest: it is {found}"
            )));
        }
        let place = self.store.blob(wanted)?;
        let fail = || ImageError::io(format!("keep {}", place.display()));
        self.file.sync_all().map_err(fail())?;
        fs::rename(&self.path, &place).map_err(fail())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // After a success it has another name and nothing is here.
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes beside and renames, with the content on the disk first: the index must outlive a crash of the machine.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, BlobStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::new(dir.path().join("image-store"));
        store.prepare().unwrap();
        (dir, store)
    }

    fn image(store: &BlobStore, layers: &[&[u8]]) -> Entry {
        let part = |bytes: &[u8], kind: &str| serde_json::json!({ "mediaType": kind, "digest": store.put(bytes).unwrap(), "size": bytes.len() });
        let layers: Vec<_> =
            layers.iter().map(|bytes| part(bytes, "application/vnd.oci.image.layer.v1.tar")).collect();
        let config = part(b"{}", "application/vnd.oci.image.config.v1+json");
        let manifest = serde_json::to_vec(
            &serde_json::json!({ "schemaVersion": 2, "config": config, "layers": layers }),
        )
        .unwrap();
        Entry {
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            digest: store.put(&manifest).unwrap(),
            size: manifest.len() as u64,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn blobs_go_with_the_last_image_that_needs_them() {
        let (_dir, store) = store();
        store.name("one", image(&store, &[b"shared", b"only one"])).unwrap();
        store.name("two", image(&store, &[b"shared"])).unwrap();
        assert!(store.forget("one").unwrap());
        assert!(!store.forget("one").unwrap());
        store.sweep_blobs(Young::Keep).unwrap();
        assert!(
            store.has(&digest_of(b"only one"), 8).unwrap(),
            "young blobs may belong to a pull that goes on"
        );
        store.sweep_blobs(Young::Remove).unwrap();
        assert!(!store.has(&digest_of(b"only one"), 8).unwrap());
        assert!(store.has(&digest_of(b"shared"), 6).unwrap());
        store.forget("two").unwrap();
        store.sweep_blobs(Young::Remove).unwrap();
        assert_eq!(fs::read_dir(store.blobs()).unwrap().count(), 0);
    }

    #[test]
    fn a_blob_that_is_not_what_it_should_be_gets_no_name() {
        let (_dir, store) = store();
        let mut ingest = store.begin().unwrap();
        ingest.write(b"something").unwrap();
        let error = ingest.finish(&digest_of(b"something else")).unwrap_err();
        assert!(error.to_string().contains("does not match its digest"), "{error}");
        drop(store.begin().unwrap());
        assert_eq!(fs::read_dir(store.ingest()).unwrap().count(), 0);
        assert_eq!(fs::read_dir(store.blobs()).unwrap().count(), 0);
        assert!(store.blob("sha256:../../../etc/passwd").is_err());
    }

    #[test]
    fn who_uses_the_store_keeps_others_from_removing() {
        let (_dir, store) = store();
        let one = store.in_use(Duration::ZERO).unwrap().unwrap();
        let two = store.in_use(Duration::ZERO).unwrap().unwrap();
        assert!(store.alone(Duration::from_millis(30)).unwrap().is_none());
        drop((one, two));
        assert!(store.alone(Duration::ZERO).unwrap().is_some());
    }
}
