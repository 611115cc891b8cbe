//! Pulling: from the name to blobs in the store, each checked against the digest by which the one before it named it.

use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::Deserialize;

use super::registry::Registry;
use super::store::{BlobStore, Entry, EntryPlatform, MAX_DOCUMENT, digest_of, is_digest};
use super::{Credentials, ImageError, ImageEvent, ImageProgress, ImageRef, Platform};

/// Most layers of an image; Docker's own limit is 127.
pub(super) const MAX_LAYERS: usize = 512;

/// Largest image, all compressed layers together, in bytes.
const MAX_SIZE: u64 = 64 << 30;

/// How deep an index may point to indexes.
const MAX_INDEX_DEPTH: usize = 4;

/// Layers that are fetched at once; Docker's own number.
const AT_ONCE: usize = 3;

/// Slower than this for a whole window, and the registry is given up: a drip is as bad as silence.
const WINDOW: Duration = Duration::from_secs(60);
const LEAST_PER_WINDOW: u64 = 64 << 10;

/// Bytes between two reports about a layer.
const REPORT_EVERY: u64 = 1 << 20;

/// What to pull, and how to get at it.
#[derive(Debug, Clone)]
pub struct Pull {
    /// The image.
    pub name: ImageRef,
    /// The machine it is to run on.
    pub platform: Platform,
    /// Who we are to the registry.
    pub credentials: Option<Credentials>,
    /// Registries that are reached without TLS, besides those on this machine.
    pub insecure_registries: Vec<String>,
    /// How long a registry may be silent.
    pub stall_timeout: Duration,
}

/// The parts of manifests and indexes that matter here; a document is one or the other.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    #[serde(default)]
    pub(super) schema_version: u32,
    #[serde(default)]
    pub(super) media_type: Option<String>,
    #[serde(default)]
    pub(super) manifests: Vec<Part>,
    #[serde(default)]
    pub(super) config: Option<Part>,
    #[serde(default)]
    pub(super) layers: Vec<Part>,
}

/// A descriptor.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Part {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default)]
    pub(super) platform: Option<EntryPlatform>,
}

/// What of a configuration says what it is for.
#[derive(Debug, Deserialize)]
struct Configuration {
    architecture: String,
    os: String,
    #[serde(default)]
    variant: Option<String>,
}

impl Document {
    /// Reads and checks what does not depend on the registry.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let document: Self = serde_json::from_slice(bytes)
            .map_err(|error| ImageError::image(format!("its manifest is malformed: {error}")))?;
        if document.schema_version != 2 {
            return Err(ImageError::image(
                "its manifest is of a version that is not supported (schema 1 perhaps)",
            ));
        }
        if document.layers.len() > MAX_LAYERS {
            return Err(ImageError::image(format!("it has more than {MAX_LAYERS} layers")));
        }
        if let Some(config) = &document.config {
            let known = [
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.docker.container.image.v1+json",
            ];
            if !known.contains(&config.media_type.as_str()) {
                let kind: String = config.media_type.chars().take(80).collect();
                return Err(ImageError::image(format!(
                    "it is no image of a file system but of the type {kind:?}"
                )));
            }
            if config.size > MAX_DOCUMENT {
                return Err(ImageError::image("its configuration is too large"));
            }
        }
        let sizes = document.layers.iter().try_fold(0u64, |sum, layer| sum.checked_add(layer.size));
        if sizes.is_none_or(|sum| sum > MAX_SIZE) {
            return Err(ImageError::image(format!("it is larger than {} GiB", MAX_SIZE >> 30)));
        }
        let parts = document.manifests.iter().chain(&document.config).chain(&document.layers);
        for part in parts {
            if !is_digest(&part.digest) {
                return Err(ImageError::image(format!(
                    "{:?} is not a SHA-256 digest",
                    part.digest.chars().take(80).collect::<String>()
                )));
            }
        }
        Ok(document)
    }

    /// The manifest of an index that is for this machine.
    pub(super) fn choose(&self, platform: &Platform) -> Result<&Part, ImageError> {
        let fits = |part: &&Part| part.platform.as_ref().is_some_and(|found| platform.fits(found));
        self.manifests.iter().find(fits).ok_or_else(|| {
            let mut there: Vec<String> = self
                .manifests
                .iter()
                .filter_map(|part| part.platform.as_ref())
                .filter(|found| found.os != "unknown")
                .map(|found| format!("{}/{}", found.os, found.architecture))
                .take(16)
                .collect();
            there.dedup();
            ImageError::image(format!("it has nothing for {platform}; there is {}", there.join(", ")))
        })
    }
}

/// Fetches everything and gives it its name. The caller keeps the store in use.
pub(super) async fn pull(
    store: &BlobStore,
    pull: &Pull,
    progress: &dyn ImageProgress,
) -> Result<Entry, ImageError> {
    let registry =
        Registry::new(&pull.name, &pull.insecure_registries, pull.credentials.clone(), pull.stall_timeout)?;
    let (bytes, media_type, document) = find_manifest(&registry, pull).await?;
    let Some(config) = document.config.clone() else {
        return Err(ImageError::image("its manifest names no configuration"));
    };
    let digest = digest_of(&bytes);
    progress.event(ImageEvent::Resolved { digest: digest.clone(), layers: document.layers.len() });

    fetch(store, &registry, &config, &Silent).await?;
    let described = describe(&store.document(&config.digest)?)?;
    if !pull.platform.fits(&described) {
        return Err(ImageError::image(format!(
            "it is for {}/{}, not for {}",
            described.os, described.architecture, pull.platform
        )));
    }
    // An image may name one layer twice.
    let mut layers = document.layers.clone();
    layers.sort_by(|one, other| one.digest.cmp(&other.digest));
    layers.dedup_by(|one, other| one.digest == other.digest);
    let registry = &registry;
    stream::iter(layers)
        .map(|layer| async move { fetch(store, registry, &layer, progress).await })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;

    let entry = Entry {
        media_type,
        digest,
        size: bytes.len() as u64,
        platform: Some(described),
        annotations: std::collections::BTreeMap::new(),
    };
    store.put(&bytes)?;
    store.name(&pull.name.canonical(), entry.clone())?;
    Ok(entry)
}

/// What a configuration says it is for.
pub(super) fn describe(config: &[u8]) -> Result<EntryPlatform, ImageError> {
    let found: Configuration = serde_json::from_slice(config)
        .map_err(|error| ImageError::image(format!("its configuration is malformed: {error}")))?;
    Ok(EntryPlatform { architecture: found.architecture, os: found.os, variant: found.variant })
}

async fn find_manifest(registry: &Registry, pull: &Pull) -> Result<(Vec<u8>, String, Document), ImageError> {
    let mut wanted = pull.name.wanted().to_owned();
    let mut digest = pull.name.digest().map(str::to_owned);
    for _ in 0..MAX_INDEX_DEPTH {
        let (bytes, header) = registry.manifest(&wanted).await?;
        if let Some(digest) = &digest
            && digest_of(&bytes) != *digest
        {
            return Err(
                registry.fail(format!("the manifest that it gives for {digest} does not match its digest"))
            );
        }
        let document = Document::parse(&bytes)?;
        if document.manifests.is_empty() {
            let media_type = document.media_type.clone().unwrap_or(header);
            return Ok((bytes, media_type, document));
        }
        let chosen = document.choose(&pull.platform)?;
        wanted = chosen.digest.clone();
        digest = Some(chosen.digest.clone());
    }
    Err(ImageError::image("its indexes point to indexes without end"))
}

/// Gets one blob, unless it is there.
async fn fetch(
    store: &BlobStore,
    registry: &Registry,
    part: &Part,
    progress: &dyn ImageProgress,
) -> Result<(), ImageError> {
    let name = || part.digest.clone();
    if store.has(&part.digest, part.size)? {
        progress.event(ImageEvent::Present { digest: name(), size: part.size });
        return Ok(());
    }
    progress.event(ImageEvent::Layer { digest: name(), size: part.size });
    let mut response = registry.blob(&part.digest).await?;
    let mut ingest = store.begin()?;
    let (mut reported, mut window, mut at_window) = (0u64, Instant::now(), 0u64);
    while let Some(chunk) = response.chunk().await.map_err(|error| registry.broke(&error))? {
        // A chunk is at most a read of the connection; writing it is as quick as the page cache.
        ingest.write(&chunk)?;
        let size = ingest.size();
        if size > part.size {
            return Err(registry.fail(format!("the blob {} is longer than it should be", part.digest)));
        }
        if size - reported >= REPORT_EVERY {
            reported = size;
            progress.event(ImageEvent::Bytes { digest: name(), done: size });
        }
        if window.elapsed() >= WINDOW {
            if size - at_window < LEAST_PER_WINDOW {
                return Err(registry.fail("it has become too slow"));
            }
            (window, at_window) = (Instant::now(), size);
        }
    }
    if ingest.size() != part.size {
        return Err(registry.fail(format!("the blob {} is shorter than it should be", part.digest)));
    }
    let wanted = name();
    let finished = tokio::task::spawn_blocking(move || ingest.finish(&wanted)).await;
    finished.map_err(|_| ImageError::BrokenOff)??;
    progress.event(ImageEvent::Done { digest: name() });
    Ok(())
}

struct Silent;

impl ImageProgress for Silent {
    fn event(&self, _event: ImageEvent) {}
}
