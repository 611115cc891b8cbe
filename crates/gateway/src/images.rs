//! The owner's hand on images: pulling, importing, listing and removing them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sandgate_driver::{
    Credentials, ImageError, ImageProgress, ImageRef, Images as Store, Platform, Pull, StoredImage,
};

use crate::audit::Audit;
use crate::sandboxes::Sandboxes;

/// Longest file with a login that is read, in bytes.
const MAX_AUTH_FILE: u64 = 1 << 20;

/// The `[images]` table.
#[derive(Debug, Clone)]
pub struct ImagesConfig {
    /// Registries (`host:port`) that are reached without TLS, besides those on this machine.
    pub insecure_registries: Vec<String>,
    /// A Docker `config.json` with logins.
    pub auth_file: Option<PathBuf>,
    /// Logins by registry: a user, and the file that holds the password. These come before those of `auth_file`.
    pub auth: BTreeMap<String, RegistryLogin>,
    /// How long a registry may be silent.
    pub stall_timeout: Duration,
}

impl Default for ImagesConfig {
    fn default() -> ImagesConfig {
        ImagesConfig {
            insecure_registries: Vec::new(),
            auth_file: None,
            auth: BTreeMap::new(),
            stall_timeout: Duration::from_secs(30),
        }
    }
}

/// A login for one registry.
#[derive(Debug, Clone)]
pub struct RegistryLogin {
    /// The user.
    pub username: String,
    /// The file whose first line is the password.
    pub password_file: PathBuf,
}

/// What is to be pulled.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// The image.
    pub name: ImageRef,
    /// What it is to run on; this machine, if not said.
    pub platform: Option<Platform>,
    /// Who we are to the registry; what the configuration says, if not said.
    pub credentials: Option<Credentials>,
}

/// The images of a gateway.
pub struct Images {
    store: Store,
    sandboxes: Arc<Sandboxes>,
    audit: Arc<Audit>,
    config: ImagesConfig,
}

impl Images {
    pub(crate) fn open(
        data_dir: &Path,
        sandboxes: Arc<Sandboxes>,
        audit: Arc<Audit>,
        config: ImagesConfig,
    ) -> Result<Images, ImageError> {
        Ok(Images { store: Store::open(data_dir)?, sandboxes, audit, config })
    }

    /// Removes what a crash has left, in the background. Only where this program is the shim too.
    pub(crate) fn tidy(&self) {
        let store = self.store.clone();
        tokio::spawn(async move {
            if let Err(error) = store.tidy().await {
                tracing::warn!(%error, "what no image needs could not be removed");
            }
        });
    }

    /// Every image, by name.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn list(&self) -> Result<Vec<StoredImage>, ImageError> {
        self.store.list().await
    }

    /// Pulls an image. Dropping the future gives it up.
    ///
    /// # Errors
    /// The registry's, or what is wrong with the image.
    pub async fn pull(
        &self,
        request: PullRequest,
        progress: &dyn ImageProgress,
    ) -> Result<StoredImage, ImageError> {
        let credentials = match request.credentials {
            Some(credentials) => Some(credentials),
            None => self.configured(request.name.registry()).await?,
        };
        let pull = Pull {
            name: request.name,
            platform: request.platform.unwrap_or_else(Platform::host),
            credentials,
            insecure_registries: self.config.insecure_registries.clone(),
            stall_timeout: self.config.stall_timeout,
        };
        let image = self.store.pull(&pull, progress).await?;
        self.audit.owner_did("image.pull", None, format!("{} {}", image.name, image.digest)).await;
        Ok(image)
    }

    /// Takes an image from a file.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub async fn import(&self, source: &Path, name: Option<ImageRef>) -> Result<StoredImage, ImageError> {
        let image = self.store.import(source, name).await?;
        let detail = format!("{} {} from {}", image.name, image.digest, source.display());
        self.audit.owner_did("image.import", None, detail).await;
        Ok(image)
    }

    /// Removes an image that no sandbox names.
    ///
    /// # Errors
    /// [`RemoveError::InUse`], or the store's.
    pub async fn remove(&self, name: &ImageRef) -> Result<(), RemoveError> {
        if let Some(sandbox) = self.sandboxes.made_of(name) {
            return Err(RemoveError::InUse { image: name.to_string(), sandbox });
        }
        self.store.remove(name).await?;
        self.audit.owner_did("image.remove", None, name.to_string()).await;
        Ok(())
    }

    /// What the configuration says about a registry.
    async fn configured(&self, registry: &str) -> Result<Option<Credentials>, ImageError> {
        let (login, auth_file) = (self.config.auth.get(registry).cloned(), self.config.auth_file.clone());
        let registry = registry.to_owned();
        let work = move || {
            if let Some(login) = login {
                let text = read(&login.password_file)?;
                let password = text.lines().next().unwrap_or_default().to_owned();
                return Ok(Some(Credentials { username: login.username, password }));
            }
            auth_file.map_or(Ok(None), |path| Credentials::from_docker_config(&read(&path)?, &registry))
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| ImageError::BrokenOff)?
    }
}

fn read(path: &Path) -> Result<String, ImageError> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_AUTH_FILE).read_to_string(&mut text))
        .map_err(|error| ImageError::Credentials(format!("{}: {error}", path.display())))?;
    Ok(text)
}

/// Why an image was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// A sandbox is made of it.
    #[error("the image {image} is used by the sandbox \"{sandbox}\"; remove that first")]
    InUse {
        /// The image.
        image: String,
        /// One of the sandboxes.
        sandbox: String,
    },
    /// The store's reason.
    #[error(transparent)]
    Store(#[from] ImageError),
}
