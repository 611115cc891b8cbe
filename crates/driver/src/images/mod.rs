//! The images that sandboxes can be made of by name: pulled from a registry, or imported from a file.

mod auth;
mod collect;
mod import;
mod name;
mod pull;
mod registry;
pub(crate) mod store;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

pub use auth::Credentials;
pub use name::ImageRef;
pub use pull::Pull;

pub(crate) use collect::{collect_disks, collect_main};

use crate::state::DataDir;
use store::{BlobStore, Entry, EntryPlatform};

/// How long something that needs the store waits for a removal to end.
pub(crate) const USE_PATIENCE: Duration = Duration::from_secs(120);

/// What is told while an image is fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum ImageEvent {
    /// The manifest is known.
    Resolved {
        /// Its digest.
        digest: String,
        /// How many layers it names.
        layers: usize,
    },
    /// A layer begins.
    Layer {
        /// Its digest.
        digest: String,
        /// Its size in bytes.
        size: u64,
    },
    /// A layer was there already.
    Present {
        /// Its digest.
        digest: String,
        /// Its size in bytes.
        size: u64,
    },
    /// More of a layer has come.
    Bytes {
        /// Its digest.
        digest: String,
        /// Bytes so far.
        done: u64,
    },
    /// A layer is whole and checked.
    Done {
        /// Its digest.
        digest: String,
    },
}

/// Is told what happens. Called from the task that does the work, so it must not block.
pub trait ImageProgress: Send + Sync {
    /// Something happened.
    fn event(&self, event: ImageEvent);
}

/// A kind of machine, as `linux/amd64` or `linux/arm64/v8`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl Platform {
    /// What this machine is.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    pub(crate) fn fits(&self, found: &EntryPlatform) -> bool {
        found.os == self.os
            && found.architecture == self.architecture
            && (self.variant.is_none() || found.variant == self.variant)
    }
}

impl FromStr for Platform {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let refuse = || ImageError::Platform(text.chars().take(64).collect());
        let plain = |part: &str| {
            !part.is_empty() && part.len() <= 32 && part.bytes().all(|b| b.is_ascii_alphanumeric())
        };
        let mut parts = text.split('/');
        let (Some("linux"), Some(architecture), variant, None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(refuse());
        };
        if !plain(architecture) || !variant.is_none_or(plain) {
            return Err(refuse());
        }
        Ok(Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// An image of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// Its name.
    pub name: ImageRef,
    /// The digest of its manifest.
    pub digest: String,
    /// All its layers, compressed, in bytes.
    pub size: u64,
    /// How many layers it has.
    pub layers: usize,
    /// What it is for, as `linux/amd64`.
    pub platform: String,
    /// When it was pulled or imported.
    pub added_at: SystemTime,
}

/// The images of one data directory.
#[derive(Debug, Clone)]
pub struct Images {
    data: DataDir,
    store: BlobStore,
    /// The program that is the shim when its arguments begin with `shim`.
    shim_exe: PathBuf,
}

impl Images {
    /// Opens the store and removes what a killed gateway was writing. There is one gateway on a data directory.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub fn open(data_dir: &Path) -> Result<Self, ImageError> {
        let fail = || ImageError::io("open the image store");
        let root = std::fs::canonicalize(data_dir).map_err(fail())?;
        let data = DataDir::new(root);
        let store = BlobStore::new(data.image_store());
        store.prepare().and_then(|()| store.sweep_ingest()).map_err(fail())?;
        Ok(Self { data, store, shim_exe: PathBuf::from("/proc/self/exe") })
    }

    /// Every image, by name.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn list(&self) -> Result<Vec<StoredImage>, ImageError> {
        let store = self.store.clone();
        let work = move || {
            let entries = store.entries()?;
            let mut images =
                entries.iter().map(|entry| view(&store, entry)).collect::<Result<Vec<_>, _>>()?;
            images.sort_by_key(|image| image.name.canonical());
            Ok(images)
        };
        spawn_blocking(work).await.map_err(|_| ImageError::BrokenOff)?
    }

    /// Pulls an image. Dropped before its end it leaves whole blobs, which a later pull finds.
    ///
    /// # Errors
    /// The registry's, or what is wrong with the image.
    pub async fn pull(&self, pull: &Pull, progress: &dyn ImageProgress) -> Result<StoredImage, ImageError> {
        let _in_use = self.in_use().await?;
        let entry = pull::pull(&self.store, pull, progress).await?;
        self.added(&pull.name, entry)
    }

    /// Takes an image from a file: an OCI layout (directory or tar), an archive of `docker save`, or a root file system as tar. The name may
    /// be left out where the file has one.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub async fn import(&self, source: &Path, name: Option<ImageRef>) -> Result<StoredImage, ImageError> {
        let _in_use = self.in_use().await?;
        let (store, source) = (self.store.clone(), source.to_owned());
        let work = move || import::import(&store, &source, name);
        let (name, entry) = spawn_blocking(work).await.map_err(|_| ImageError::BrokenOff)??;
        self.added(&name, entry)
    }

    /// Takes a name away, and removes what no other image and no sandbox needs. The caller has made sure that no sandbox is to be made of it.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], or why the store cannot be changed.
    pub async fn remove(&self, name: &ImageRef) -> Result<(), ImageError> {
        let (store, canonical) = (self.store.clone(), name.canonical());
        let found =
            spawn_blocking(move || store.forget(&canonical)).await.map_err(|_| ImageError::BrokenOff)??;
        if !found {
            return Err(ImageError::NotFound(name.familiar()));
        }
        self.collect(collect::When::Now).await
    }

    /// Removes what a crash has left: blobs without a name that are older than a day, roots that nobody uses.
    ///
    /// # Errors
    /// Why it cannot be removed.
    pub async fn tidy(&self) -> Result<(), ImageError> {
        self.collect(collect::When::AtStart).await
    }

    async fn collect(&self, when: collect::When) -> Result<(), ImageError> {
        collect::start(&self.shim_exe, self.data.root(), when).await
    }

    async fn in_use(&self) -> Result<store::InUse, ImageError> {
        let store = self.store.clone();
        let taken =
            spawn_blocking(move || store.in_use(USE_PATIENCE)).await.map_err(|_| ImageError::BrokenOff)?;
        taken.map_err(ImageError::io("lock the image store"))?.ok_or(ImageError::Busy)
    }

    fn added(&self, name: &ImageRef, entry: Entry) -> Result<StoredImage, ImageError> {
        let mut image = view_as(&self.store, &entry, name.clone())?;
        image.added_at = SystemTime::now();
        Ok(image)
    }
}

fn view(store: &BlobStore, entry: &Entry) -> Result<StoredImage, ImageError> {
    view_as(store, entry, entry.name().parse()?)
}

fn view_as(store: &BlobStore, entry: &Entry, name: ImageRef) -> Result<StoredImage, ImageError> {
    let manifest = pull::Document::parse(&store.document(&entry.digest)?)?;
    let platform = entry.platform.as_ref().map(|p| format!("{}/{}", p.os, p.architecture));
    Ok(StoredImage {
        name,
        digest: entry.digest.clone(),
        size: manifest.layers.iter().map(|layer| layer.size).sum(),
        layers: manifest.layers.len(),
        platform: platform.unwrap_or_default(),
        added_at: entry.added(),
    })
}

/// What can go wrong with images.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Not a name.
    #[error("{name:?} is not the name of an image: {reason}")]
    Name {
        /// As it was written, cut short.
        name: String,
        /// Why.
        reason: String,
    },
    /// Not a platform.
    #[error("{0:?} is not a platform such as linux/amd64")]
    Platform(String),
    /// Not there.
    #[error("there is no image {0}")]
    NotFound(String),
    /// What a Docker configuration holds cannot be used. Never names a secret.
    #[error("the file with the login cannot be used: {0}")]
    Credentials(String),
    /// The registry does not give it.
    #[error("the registry {registry}: {reason}")]
    Registry {
        /// Which.
        registry: String,
        /// Why, without a final full stop.
        reason: String,
    },
    /// What was given is no usable image.
    #[error("the image cannot be used: {0}")]
    Image(String),
    /// Somebody has been using the store alone for too long.
    #[error("the image store is busy: another operation on it has not finished")]
    Busy,
    /// A defect on our side.
    #[error("the operation broke off; the gateway's log says why")]
    BrokenOff,
    /// The operating system refused something.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was being done.
        action: String,
        /// The cause.
        source: io::Error,
    },
}

impl ImageError {
    fn image(reason: impl Into<String>) -> Self {
        Self::Image(reason.into())
    }

    fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}
