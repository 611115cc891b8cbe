//! Importing: an image from a file or directory into the store.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::Path;

use aws_lc_rs::digest;
use serde::Deserialize;
use serde_json::json;

use super::pull::{Document, MAX_LAYERS, describe};
use super::store::{BlobStore, Entry, EntryPlatform, is_digest};
use super::{ImageError, ImageRef, Platform};
use crate::image::hex;
use crate::image::layout::{Blobs, DirBlobs, TarBlobs, TarKind};
use crate::image::unpack::{Compression, decompress};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// containerd and new versions of Docker put the whole name here and the tag alone into [`REF_NAME`].
const FULL_NAME: &str = "io.containerd.image.name";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// Largest index or manifest in a file, in bytes.
const MAX_DOCUMENT: u64 = super::store::MAX_DOCUMENT;

/// Brings an image in and gives it its name.
pub(super) fn import(
    store: &BlobStore,
    source: &Path,
    name: Option<ImageRef>,
) -> Result<(ImageRef, Entry), ImageError> {
    let kind = fs::metadata(source).map_err(ImageError::io(format!("open {}", source.display())))?;
    let (found, entry) = if kind.is_dir() {
        if !source.join("index.json").is_file() {
            return Err(ImageError::image(format!(
                "{} is no OCI layout; a root file system in a directory is used where it is: --image {}",
                source.display(),
                source.display()
            )));
        }
        layout(store, &mut DirBlobs::open(source).map_err(failed)?)?
    } else if kind.is_file() {
        let file = File::open(source).map_err(ImageError::io(format!("open {}", source.display())))?;
        match TarBlobs::open(&file).map_err(failed)? {
            TarKind::Layout(mut blobs) => layout(store, &mut blobs)?,
            TarKind::DockerSave(mut blobs) => docker_save(store, &mut blobs)?,
            TarKind::Other => (None, root_file_system(store, file)?),
        }
    } else {
        return Err(ImageError::image(format!("{} is neither a file nor a directory", source.display())));
    };
    let name = match (name, found) {
        (Some(name), _) => name,
        (None, Some(found)) => found.parse()?,
        (None, None) => return Err(ImageError::image("the file does not name it; give a name after it")),
    };
    store.name(&name.canonical(), entry.clone())?;
    Ok((name, entry))
}

/// An OCI layout: the manifest for this machine, with all it points to.
fn layout(store: &BlobStore, blobs: &mut dyn Blobs) -> Result<(Option<String>, Entry), ImageError> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Named>,
    }
    #[derive(Deserialize)]
    struct Named {
        #[serde(default)]
        annotations: BTreeMap<String, String>,
    }
    let top = small(blobs, "index.json")?;
    let named: Index = serde_json::from_slice(&top)
        .map_err(|error| ImageError::image(format!("its index.json is malformed: {error}")))?;
    let annotations = named.manifests.first().map(|first| first.annotations.clone()).unwrap_or_default();
    // A tag alone is no name.
    let whole = |text: &&String| text.contains([':', '/']);
    let name = annotations.get(FULL_NAME).or(annotations.get(REF_NAME).filter(whole)).cloned();

    let chosen = crate::image::layout::resolve(blobs).map_err(failed)?;
    let digest = chosen.digest;
    let manifest = copy(store, blobs, &digest, None)?;
    let document = Document::parse(&store.document(&digest)?)?;
    let Some(config) = &document.config else {
        return Err(ImageError::image("its manifest names no configuration"));
    };
    copy(store, blobs, &config.digest, Some(config.size))?;
    for layer in &document.layers {
        copy(store, blobs, &layer.digest, Some(layer.size))?;
    }
    let platform = describe(&store.document(&config.digest)?)?;
    let media_type = document.media_type.clone().unwrap_or_else(|| MANIFEST_TYPE.to_owned());
    Ok((
        name,
        Entry { media_type, digest, size: manifest, platform: Some(platform), annotations: BTreeMap::new() },
    ))
}

/// Copies a blob into the store and checks it. Returns its size.
fn copy(
    store: &BlobStore,
    blobs: &mut dyn Blobs,
    digest: &str,
    size: Option<u64>,
) -> Result<u64, ImageError> {
    let plain = digest.strip_prefix("sha256:").filter(|_| is_digest(digest));
    let plain = plain.ok_or_else(|| ImageError::image("a digest in it is not SHA-256"))?;
    if let Some(size) = size
        && store.has(digest, size)?
    {
        return Ok(size);
    }
    let reader = blobs.open(&format!("blobs/sha256/{plain}")).map_err(failed)?;
    let mut ingest = store.begin()?;
    pump(reader, |bytes| ingest.write(bytes))?;
    let found = ingest.size();
    if size.is_some_and(|size| size != found) {
        return Err(ImageError::image(format!("the blob {digest} has another size than its manifest says")));
    }
    ingest.finish(digest)?;
    Ok(found)
}

/// The format of `docker save` before version 25: a list of configurations and layers, by path.
fn docker_save(store: &BlobStore, blobs: &mut dyn Blobs) -> Result<(Option<String>, Entry), ImageError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Saved {
        config: String,
        #[serde(default)]
        repo_tags: Option<Vec<String>>,
        layers: Vec<String>,
    }
    let list: Vec<Saved> = serde_json::from_slice(&small(blobs, "manifest.json")?)
        .map_err(|error| ImageError::image(format!("its manifest.json is malformed: {error}")))?;
    let mut list = list.into_iter();
    let (Some(saved), None) = (list.next(), list.next()) else {
        return Err(ImageError::image("it does not hold exactly one image; save them one by one"));
    };
    if saved.layers.len() > MAX_LAYERS {
        return Err(ImageError::image(format!("it has more than {MAX_LAYERS} layers")));
    }
    let config = small(blobs, &saved.config)?;
    let diff_ids = diff_ids(&config)?;
    if diff_ids.len() != saved.layers.len() {
        return Err(ImageError::image("its configuration and its list of layers do not belong together"));
    }
    let mut layers = Vec::new();
    for (path, wanted) in saved.layers.iter().zip(&diff_ids) {
        let reader = blobs.open(path).map_err(failed)?;
        let (digest, size, suffix, diff_id) = keep_layer(store, reader)?;
        if diff_id != *wanted {
            return Err(ImageError::image(format!("the layer {wanted} does not match its digest")));
        }
        layers.push(json!({ "mediaType": format!("{LAYER_TYPE}{suffix}"), "digest": digest, "size": size }));
    }
    let name = saved.repo_tags.and_then(|tags| tags.into_iter().next());
    Ok((name, assemble(store, &config, layers)?))
}

/// A root file system becomes an image of one layer.
fn root_file_system(store: &BlobStore, mut file: File) -> Result<Entry, ImageError> {
    file.rewind().map_err(ImageError::io("read the file"))?;
    let (digest, size, suffix, diff_id) = keep_layer(store, Box::new(file))?;
    let platform = Platform::host();
    let config = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    let layer = json!({ "mediaType": format!("{LAYER_TYPE}{suffix}"), "digest": digest, "size": size });
    let config = serde_json::to_vec(&config).map_err(|error| ImageError::image(error.to_string()))?;
    assemble(store, &config, vec![layer])
}

fn assemble(store: &BlobStore, config: &[u8], layers: Vec<serde_json::Value>) -> Result<Entry, ImageError> {
    let platform: EntryPlatform = describe(config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": { "mediaType": CONFIG_TYPE, "digest": store.put(config)?, "size": config.len() },
        "layers": layers,
    });
    let bytes = serde_json::to_vec(&manifest).map_err(|error| ImageError::image(error.to_string()))?;
    Ok(Entry {
        media_type: MANIFEST_TYPE.to_owned(),
        digest: store.put(&bytes)?,
        size: bytes.len() as u64,
        platform: Some(platform),
        annotations: BTreeMap::new(),
    })
}

/// Keeps a layer as it is, after looking through all of it: its digest and size, the suffix of its media type, and the digest of what is in it.
fn keep_layer<'a>(
    store: &BlobStore,
    reader: Box<dyn Read + 'a>,
) -> Result<(String, u64, &'static str, String), ImageError> {
    let mut ingest = store.begin()?;
    let mut failure = None;
    let tee = Tee { inner: reader, ingest: &mut ingest, failure: &mut failure };
    let (plain, compression) = decompress(tee).map_err(failed)?;
    let mut hashed = Hashed { inner: plain, context: digest::Context::new(&digest::SHA256) };
    let checked = crate::image::unpack::check(&mut hashed);
    // What stands behind the archive's end belongs to both digests.
    let rest = checked.map_err(failed).and_then(|()| pump(&mut hashed, |_| Ok(())));
    let diff_id = format!("sha256:{}", hex(hashed.context.clone().finish().as_ref()));
    drop(hashed);
    if let Some(failure) = failure {
        return Err(failure);
    }
    rest?;
    let (digest, size) = (ingest.digest(), ingest.size());
    ingest.finish(&digest)?;
    let suffix = match compression {
        Compression::None => "",
        Compression::Gzip => "+gzip",
        Compression::Zstd => "+zstd",
    };
    Ok((digest, size, suffix, diff_id))
}

fn diff_ids(config: &[u8]) -> Result<Vec<String>, ImageError> {
    #[derive(Deserialize)]
    struct Config {
        rootfs: RootFs,
    }
    #[derive(Deserialize)]
    struct RootFs {
        diff_ids: Vec<String>,
    }
    let config: Config = serde_json::from_slice(config)
        .map_err(|error| ImageError::image(format!("its configuration is malformed: {error}")))?;
    Ok(config.rootfs.diff_ids)
}

fn small(blobs: &mut dyn Blobs, path: &str) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    let reader = blobs.open(path).map_err(failed)?;
    reader
        .take(MAX_DOCUMENT + 1)
        .read_to_end(&mut bytes)
        .map_err(ImageError::io(format!("read {path:?}")))?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(ImageError::image(format!("{path:?} is too large")));
    }
    Ok(bytes)
}

fn pump(
    mut reader: impl Read,
    mut take: impl FnMut(&[u8]) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    let mut buffer = vec![0u8; 128 << 10];
    loop {
        let n = reader.read(&mut buffer).map_err(ImageError::io("read the image"))?;
        match buffer.get(..n) {
            Some([]) | None => return Ok(()),
            Some(bytes) => take(bytes)?,
        }
    }
}

fn failed(failure: crate::shim::message::Failure) -> ImageError {
    ImageError::Image(failure.reason)
}

/// Keeps what is read.
struct Tee<'a, R> {
    inner: R,
    ingest: &'a mut super::store::Ingest,
    /// Why it could not be kept; the reader can only say that something went wrong.
    failure: &'a mut Option<ImageError>,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        if let Err(error) = self.ingest.write(buffer.get(..n).unwrap_or_default()) {
            *self.failure = Some(error);
            return Err(std::io::Error::other("the image cannot be kept"));
        }
        Ok(n)
    }
}

/// The digest of what is read.
struct Hashed<R> {
    inner: R,
    context: digest::Context,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.context.update(buffer.get(..n).unwrap_or_default());
        Ok(n)
    }
}
