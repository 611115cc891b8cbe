//! The control socket: where it lies, who may use it, and its routes.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::middleware::from_fn;
use axum::routing::post;
use axum::serve::Listener;
use axum::{Extension, Router};
use sandgate_gateway::Gateway;
use tokio::net::{UnixListener, UnixStream};

use crate::caller::as_owner;
use crate::{link, routes, sftp, terminal};

/// The socket's name below the data directory.
pub const SOCKET_NAME: &str = "control.sock";
/// `sun_path` holds 108 bytes with the closing NUL.
const MAX_PATH: usize = 107;
/// Pause after a failed accept, so that the loop does not spin while descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where the control socket of a data directory lies.
#[must_use]
pub fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join(SOCKET_NAME)
}

/// A bound control socket.
pub struct ControlSocket {
    listener: OwnerOnly,
}

impl ControlSocket {
    /// Binds the socket below `data_dir`, in place of one that a killed gateway has left. The caller holds the data
    /// directory's lock ([`Gateway::build`] takes it), so nobody else is behind the old one.
    ///
    /// # Errors
    /// The path is too long for a Unix socket, or the file cannot be made.
    pub fn bind(data_dir: &Path) -> Result<ControlSocket, ControlError> {
        let path = socket_path(data_dir);
        let length = path.as_os_str().len();
        if length > MAX_PATH {
            return Err(ControlError::PathTooLong { path, length });
        }
        let failed = |source| ControlError::Bind { path: path.clone(), source };
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let socket = UnixListener::bind(&path).map_err(failed)?;
        // Until this line the directory's mode 0700 keeps others away, and the user check always does.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let owner = own_uid();
        Ok(ControlSocket { listener: OwnerOnly { socket, owner } })
    }

    /// Serves until `stop` resolves, then finishes what was begun.
    ///
    /// # Errors
    /// None that can be foreseen; the type is axum's.
    pub async fn serve(
        self,
        gateway: Arc<Gateway>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        axum::serve(self.listener, router(gateway)).with_graceful_shutdown(stop).await
    }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The API for the owner, and with it what only the command line uses: links and file servers on upgraded connections.
fn router(gateway: Arc<Gateway>) -> Router {
    let (api, document) = routes::api();
    let upgrades = Router::new()
        .route("/sandboxes/{name}/link", post(link::start))
        .route("/sandboxes/{name}/sftp", post(sftp::start));
    let all = api
        .merge(upgrades)
        .merge(terminal::socket())
        .merge(routes::document(document))
        .layer(from_fn(as_owner));
    routes::mount(all)
        .fallback(routes::not_found)
        .layer(Extension(Arc::<link::Waiting>::default()))
        .with_state(gateway)
}

/// Accepts connections of the gateway's own user and of root, and closes all others.
struct OwnerOnly {
    socket: UnixListener,
    owner: u32,
}

impl Listener for OwnerOnly {
    type Io = UnixStream;
    type Addr = ();

    async fn accept(&mut self) -> (UnixStream, ()) {
        loop {
            match self.socket.accept().await {
                Ok((stream, _)) => match stream.peer_cred().map(|peer| peer.uid()) {
                    Ok(uid) if uid == 0 || uid == self.owner => return (stream, ()),
                    Ok(uid) => tracing::warn!(uid, "another user at the control socket was turned away"),
                    Err(error) => {
                        tracing::warn!(%error, "a peer of the control socket could not be identified")
                    }
                },
                Err(error) => {
                    tracing::warn!(%error, "a connection to the control socket could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Why the control socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Over what a Unix socket's address holds.
    #[error(
        "the path {path} is too long for a Unix socket ({length} bytes, at most {MAX_PATH}): choose a shorter data directory"
    )]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// The file.
    #[error("the control socket {path} cannot be made: {source}")]
    Bind {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
