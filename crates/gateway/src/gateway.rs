//! The gateway as a whole: what it owns, and how it is built.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::FlockOperation;
use sandgate_driver::{
    DockerConfig, DockerDriver, Driver, DriverError, ExternalConfig, ExternalDriver, ImageError, OciConfig,
    OciDriver, QemuConfig, QemuDriver,
};
use sandgate_ssh::hostkey::HostKey;
use sandgate_store::{Store, StoreError};
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use crate::access::Access;
use crate::api_keys::ApiKeys;
use crate::audit::Audit;
use crate::config::Config;
use crate::drain::Drainer;
use crate::hostkeys::{self, HostKeySet, HostKeysError};
use crate::images::Images;
use crate::keys::Keys;
use crate::limits::{Penalties, PerCredential, Unauthenticated};
use crate::metrics::Metrics;
use crate::recording::{RecordingError, Recordings};
use crate::sandboxes::{SandboxError, Sandboxes};
use crate::session::Registry;
use crate::telemetry::{Telemetry, TelemetryError};
use crate::terminal::Terminals;
use crate::tokens::Tokens;

/// The database below the data directory.
const DATABASE: &str = "sandgate.db";
/// The directory of host keys below the data directory.
const HOST_KEYS: &str = "host_keys";
/// Commands at once that one request runs to their end. Each may hold 16 MiB of output here, and again as JSON.
const MAX_ONE_SHOTS: usize = 16;
/// Commands over a WebSocket at once, those included that were not said yet.
const MAX_STREAMS: usize = 512;
/// The file whose lock says that a gateway works on the data directory.
const LOCK: &str = "gateway.lock";

/// Everything that serves connections. Front doors hold it in an `Arc`.
pub struct Gateway {
    /// What it was built from.
    pub config: Config,
    /// What outlives it.
    pub store: Arc<Store>,
    /// Who gets in.
    pub access: Arc<Access>,
    /// The sandboxes.
    pub sandboxes: Arc<Sandboxes>,
    /// The images that sandboxes can be made of by name.
    pub images: Images,
    /// The tokens.
    pub tokens: Tokens,
    /// The public keys.
    pub keys: Keys,
    /// The keys of the HTTP API.
    pub api_keys: ApiKeys,
    /// The audit trail.
    pub audit: Arc<Audit>,
    /// The recordings of sessions.
    pub recordings: Arc<Recordings>,
    /// What is counted.
    pub metrics: Metrics,
    /// What is traced.
    pub telemetry: Telemetry,
    /// Live connections and sessions.
    pub registry: Arc<Registry>,
    /// Terminals of browsers.
    pub terminals: Arc<Terminals>,
    /// Sources that have failed too often.
    pub penalties: Penalties,
    /// Connections that have not logged in.
    pub unauthenticated: Arc<Unauthenticated>,
    /// Connections counted by credential.
    pub per_credential: Arc<PerCredential>,
    /// Places for commands that one request runs to their end, whichever listener it came by.
    pub one_shots: Arc<Semaphore>,
    /// Places for commands over a WebSocket, which is no connection of the listener's any more.
    pub streams: Arc<Semaphore>,
    /// The way to end gracefully.
    pub drainer: Drainer,
    /// The host keys, the preferred first.
    pub host_keys: Vec<Arc<HostKey>>,
    /// When it was built.
    pub started_at: OffsetDateTime,
    ssh_address: OnceLock<SocketAddr>,
    http_address: OnceLock<SocketAddr>,
    /// Held for its lock, until the process ends.
    _lock: File,
}

impl Gateway {
    /// Makes the data directory where it is missing, locks it, opens the store, loads (on first start makes) the host
    /// keys, and finds the sandboxes that outlived an earlier gateway. Opens no listener.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub async fn build(config: Config) -> Result<Arc<Gateway>, BuildError> {
        let lock = prepare_data_dir(&config.data_dir)?;
        let mut oci = OciConfig::new(&config.data_dir, &config.agent_path);
        oci.ready_timeout = config.start_timeout;
        let oci = OciDriver::new(oci).map_err(BuildError::Driver)?;
        let mut qemu = QemuConfig::new(&config.data_dir, &config.agent_path);
        qemu.ready_timeout = qemu.ready_timeout.max(config.start_timeout);
        qemu.machine = config.qemu.clone();
        let qemu = QemuDriver::new(qemu).map_err(BuildError::Driver)?;
        let mut external = ExternalConfig::new(&config.data_dir);
        external.ready_timeout = config.start_timeout;
        let external = ExternalDriver::new(external).map_err(BuildError::Driver)?;
        let mut docker = DockerConfig::new(&config.data_dir, &config.agent_path);
        docker.socket.clone_from(&config.docker_socket);
        docker.ready_timeout = config.start_timeout;
        docker.keepalive = config.guest_keepalive;
        let docker = DockerDriver::new(docker).map_err(BuildError::Driver)?;
        let drivers: Vec<Arc<dyn Driver>> =
            vec![Arc::new(oci), Arc::new(qemu), Arc::new(external), Arc::new(docker)];
        let gateway = Gateway::assemble(config, lock, drivers).await?;
        gateway.images.tidy();
        Ok(gateway)
    }

    /// As [`Gateway::build`], with other drivers: for tests and for programs that bring their own.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub async fn build_with_drivers(
        config: Config,
        drivers: Vec<Arc<dyn Driver>>,
    ) -> Result<Arc<Gateway>, BuildError> {
        let lock = prepare_data_dir(&config.data_dir)?;
        Gateway::assemble(config, lock, drivers).await
    }

    async fn assemble(
        config: Config,
        lock: File,
        drivers: Vec<Arc<dyn Driver>>,
    ) -> Result<Arc<Gateway>, BuildError> {
        let started_at = OffsetDateTime::now_utc();
        let key_directory = config.data_dir.join(HOST_KEYS);
        let key_set = if config.ssh.compat { HostKeySet::Compat } else { HostKeySet::Modern };
        let host_keys =
            tokio::task::spawn_blocking(move || hostkeys::load_or_generate(&key_directory, key_set));
        let store = Arc::new(Store::open(&config.data_dir.join(DATABASE), started_at).await?);
        crate::forget::start(&store, config.store);
        let recordings = Recordings::open(&config.data_dir, store.clone(), config.recording.clone()).await?;
        let registry = Arc::new(Registry::default());
        let audit = Arc::new(Audit::new(store.clone()));
        let access = Arc::new(Access::new(store.clone(), registry.clone()));
        let sandboxes = Arc::new(
            Sandboxes::load(
                store.clone(),
                access.clone(),
                registry.clone(),
                audit.clone(),
                drivers,
                config.stop_grace,
                config.guest_keepalive,
            )
            .await?,
        );
        let images = Images::open(&config.data_dir, sandboxes.clone(), audit.clone(), config.images.clone())?;
        let tokens =
            Tokens::new(store.clone(), access.clone(), sandboxes.clone(), audit.clone(), config.tokens);
        let keys = Keys::new(store.clone(), access.clone(), sandboxes.clone(), audit.clone());
        let api_keys = ApiKeys::new(store.clone(), access.clone(), audit.clone());
        let host_keys = host_keys.await.map_err(|_| BuildError::BrokenOff)??;
        let telemetry = Telemetry::start(config.telemetry.as_ref())?;
        Ok(Arc::new(Gateway {
            config,
            store,
            access,
            sandboxes,
            images,
            tokens,
            keys,
            api_keys,
            audit,
            recordings,
            metrics: Metrics::default(),
            telemetry,
            registry,
            terminals: Arc::default(),
            penalties: Penalties::default(),
            unauthenticated: Arc::default(),
            per_credential: Arc::default(),
            one_shots: Arc::new(Semaphore::new(MAX_ONE_SHOTS)),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            drainer: Drainer::default(),
            host_keys,
            started_at,
            ssh_address: OnceLock::new(),
            http_address: OnceLock::new(),
            _lock: lock,
        }))
    }

    /// Notes where SSH is really served (the configured port may be 0). Only the first call counts.
    pub fn set_ssh_address(&self, address: SocketAddr) {
        // A second listener does not change what clients are told.
        let _ = self.ssh_address.set(address);
    }

    /// Where SSH is served.
    pub fn ssh_address(&self) -> SocketAddr {
        self.ssh_address.get().copied().unwrap_or(self.config.ssh_listen)
    }

    /// Notes where HTTP is really served. Only the first call counts.
    pub fn set_http_address(&self, address: SocketAddr) {
        // As above.
        let _ = self.http_address.set(address);
    }

    /// Where browsers are told to go, without a slash at the end; `None` where HTTP is not served.
    pub fn http_url(&self) -> Option<String> {
        let address = *self.http_address.get()?;
        if let Some(url) = &self.config.http.public_url {
            return Some(url.clone());
        }
        let scheme = if self.config.http.tls.is_some() { "https" } else { "http" };
        let host = match address.ip() {
            ip if ip.is_unspecified() => rustix::system::uname().nodename().to_string_lossy().into_owned(),
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Some(format!("{scheme}://{host}:{}", address.port()))
    }

    /// Host and port that clients are told to use: the configured public address, else the listening one, with this
    /// machine's name in place of "any address".
    pub fn advertised(&self) -> (String, u16) {
        let address = self.ssh_address();
        let host = match (&self.config.ssh.public_host, address.ip()) {
            (Some(host), _) => host.clone(),
            (None, ip) if ip.is_unspecified() => {
                rustix::system::uname().nodename().to_string_lossy().into_owned()
            }
            (None, IpAddr::V4(ip)) => ip.to_string(),
            (None, IpAddr::V6(ip)) => ip.to_string(),
        };
        (host, self.config.ssh.public_port.unwrap_or(address.port()))
    }

    /// Writes out what is still queued for the store and closes it; sends the last traces meanwhile. The last thing to do.
    pub async fn close(&self) {
        let stored = async {
            self.recordings.close().await;
            self.store.close().await;
        };
        tokio::join!(stored, self.telemetry.close());
    }
}

/// Makes the data directory (0700) and takes its lock.
fn prepare_data_dir(directory: &Path) -> Result<File, BuildError> {
    let failed = |source| BuildError::DataDir { path: directory.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let mode = fs::metadata(directory).map_err(failed)?.permissions().mode() & 0o777;
    if mode != 0o700 {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    let path = directory.join(LOCK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|source| BuildError::DataDir { path: path.clone(), source })?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        // Who holds it is only for the message.
        let _ = (&file).take(32).read_to_string(&mut pid);
        let pid = Some(pid.trim().to_owned()).filter(|pid| !pid.is_empty());
        return Err(BuildError::InUse {
            path: directory.to_owned(),
            pid: pid.unwrap_or_else(|| "unknown".to_owned()),
        });
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(|source| BuildError::DataDir { path, source })?;
    Ok(file)
}

/// Why a gateway could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The data directory.
    #[error("the data directory cannot be used: {path}: {source}")]
    DataDir {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another gateway is there.
    #[error("another gateway (process {pid}) works on the data directory {path}")]
    InUse {
        /// The data directory.
        path: PathBuf,
        /// Its process, as far as known.
        pid: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The host keys.
    #[error(transparent)]
    HostKeys(#[from] HostKeysError),
    /// The driver.
    #[error("{0}")]
    Driver(DriverError),
    /// The recordings.
    #[error("the recordings: {0}")]
    Recordings(#[from] RecordingError),
    /// The sandboxes.
    #[error(transparent)]
    Sandboxes(#[from] SandboxError),
    /// The images.
    #[error(transparent)]
    Images(#[from] ImageError),
    /// The traces.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// A defect on our side.
    #[error("the start broke off")]
    BrokenOff,
}
