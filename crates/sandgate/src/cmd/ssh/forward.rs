//! The forwards of one `sandgate ssh`: this program is the client, so it listens and connects on this machine itself.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::process::umask;
use sandgate_gateway::tcp;
use sandgate_guest::{Address, DialSpec, Guest, GuestError, Incoming, ListenAddress, ListenSpec, Listener};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::agent;
use super::bridge::join;
use super::spec::{Forward, Listen, shown};
use crate::session::{Notices, words};

/// Connections at once, of all forwards together; the rest wait in the kernel's queues.
const MAX_CONNECTIONS: usize = 1024;
/// Pause after a failed accept (out of descriptors), so that it is not repeated without end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Permission bits that a socket of `-L` and `-R` does not get, as ssh's StreamLocalBindMask.
const BIND_MASK: u32 = 0o177;
/// First pause before a listener inside is tried again that was lost with its guest, and the longest; doubled in between.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// What a forward that cannot be set up means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    GoOn,
    End,
}

/// All forwards. They end with it.
pub struct Forwards {
    shared: Arc<Shared>,
    on_failure: OnFailure,
    lines: Vec<String>,
    tasks: tokio::task::JoinSet<()>,
    /// Sockets to remove at the end.
    sockets: Vec<PathBuf>,
}

struct Shared {
    guest: Guest,
    user: Option<Vec<u8>>,
    notices: Arc<Notices>,
    slots: Arc<Semaphore>,
    /// Connections that are open now.
    open: watch::Sender<usize>,
}

/// A connection, from when it was taken to its end.
struct Taken {
    shared: Arc<Shared>,
    _slot: OwnedSemaphorePermit,
}

impl Forwards {
    pub fn new(guest: Guest, user: Option<Vec<u8>>, notices: Arc<Notices>, on_failure: OnFailure) -> Self {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let shared = Arc::new(Shared { guest, user, notices, slots, open: watch::Sender::new(0) });
        Self {
            shared,
            on_failure,
            lines: Vec::new(),
            tasks: tokio::task::JoinSet::new(),
            sockets: Vec::new(),
        }
    }

    /// What there is, for people.
    pub fn lines(&self) -> Vec<String> {
        if self.lines.is_empty() { vec!["There are no forwards.".to_owned()] } else { self.lines.clone() }
    }

    /// Waits until no connection is open. One more may come meanwhile, and counts.
    pub async fn idle(&self) {
        let mut open = self.shared.open.subscribe();
        // The other end is ours, and lives.
        drop(open.wait_for(|count| *count == 0).await);
    }

    /// Listens here and connects inside.
    pub async fn local(&mut self, forward: &Forward) -> anyhow::Result<()> {
        let to = forward.connect.clone();
        self.lines.push(format!("-L {} -> {} inside", forward.listen, shown(&to)));
        let bound = match &forward.listen {
            Listen::Tcp { bind, port } => bind_tcp(bind.as_deref(), *port).await.map(|listeners| {
                for listener in listeners {
                    self.tasks.spawn(serve_tcp(self.shared.clone(), listener, to.clone()));
                }
            }),
            Listen::Unix { path } => bind_unix(path).map(|listener| {
                self.sockets.push(PathBuf::from(std::ffi::OsStr::from_bytes(path)));
                self.tasks.spawn(serve_unix(self.shared.clone(), listener, to.clone()));
            }),
        };
        let result = bound.map_err(|error| format!("cannot listen on {}: {error}", forward.listen));
        self.settle(result)
    }

    /// Listens inside and connects here.
    pub async fn remote(&mut self, forward: &Forward) -> anyhow::Result<()> {
        let to = forward.connect.clone();
        let spec = self.shared.listen_spec(&forward.listen);
        let result = match self.shared.guest.listen(spec.clone()).await {
            Ok(listener) => {
                let mut at = forward.listen.to_string();
                if let Listen::Tcp { port: 0, .. } = forward.listen {
                    at = format!("port {}", listener.port());
                    self.shared.notices.plain(&format!(
                        "Allocated port {} for remote forward to {}",
                        listener.port(),
                        shown(&to)
                    ));
                }
                self.lines.push(format!("-R {at} inside -> {}", shown(&to)));
                self.tasks.spawn(serve_remote(self.shared.clone(), listener, spec, to));
                Ok(())
            }
            Err(error) => Err(format!("remote forwarding failed for {}: {}", forward.listen, words(&error))),
        };
        self.settle(result)
    }

    /// Forwards the agent behind the socket `path`. Gives the path inside.
    pub async fn agent(&mut self, path: &Path) -> anyhow::Result<Vec<u8>> {
        let mut spec = ListenSpec::agent_socket();
        spec.user.clone_from(&self.shared.user);
        let listener =
            self.shared.guest.listen(spec).await.map_err(|error| anyhow::Error::msg(words(&error)))?;
        let inside = listener.path().to_vec();
        self.lines.push(format!("-A {} inside -> {}", inside.escape_ascii(), path.display()));
        self.tasks.spawn(agent::serve(listener, path.to_owned(), self.shared.notices.clone()));
        Ok(inside)
    }

    fn settle(&self, result: Result<(), String>) -> anyhow::Result<()> {
        match (result, self.on_failure) {
            (Ok(()), _) => Ok(()),
            (Err(text), OnFailure::End) => anyhow::bail!(text),
            (Err(text), OnFailure::GoOn) => {
                self.shared.notices.say(&text);
                Ok(())
            }
        }
    }
}

impl Drop for Forwards {
    fn drop(&mut self) {
        for socket in &self.sockets {
            // Somebody else may have removed it.
            let _ = std::fs::remove_file(socket);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.shared.open.send_modify(|count| *count -= 1);
    }
}

impl Shared {
    async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        self.slots.clone().acquire_owned().await.ok()
    }

    fn taken(self: &Arc<Self>, slot: OwnedSemaphorePermit) -> Taken {
        self.open.send_modify(|count| *count += 1);
        Taken { shared: self.clone(), _slot: slot }
    }

    fn listen_spec(&self, listen: &Listen) -> ListenSpec {
        let address = match listen {
            // What ssh sends when no address is named.
            Listen::Tcp { bind, port } => ListenAddress::Tcp {
                host: bind.clone().unwrap_or_else(|| b"localhost".to_vec()),
                port: *port,
            },
            Listen::Unix { path } => {
                ListenAddress::Unix { path: path.clone(), mask: BIND_MASK, unlink: false }
            }
        };
        ListenSpec { user: self.user.clone(), address, backlog: 0 }
    }

    /// Connects inside and joins. A failure is a line for the user; the one who connected here sees his connection end.
    async fn carry(&self, local: impl tokio::io::AsyncRead + tokio::io::AsyncWrite, to: Address) {
        let text = shown(&to);
        let spec = DialSpec { user: self.user.clone(), address: to };
        let result = match self.guest.dial(spec).await {
            Ok(connection) => join(local, connection).await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            self.notices.say(&format!("{text}: {}", words(&error)));
        }
    }
}

/// One socket for each address of the name; both families of loopback unless said otherwise.
async fn bind_tcp(bind: Option<&[u8]>, port: u16) -> io::Result<Vec<TcpListener>> {
    if port == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no port 0 to listen on"));
    }
    let hosts: Vec<String> = match bind {
        None | Some(b"localhost") => ["127.0.0.1", "::1"].map(str::to_owned).to_vec(),
        Some(b"" | b"*") => ["0.0.0.0", "::"].map(str::to_owned).to_vec(),
        Some(host) => vec![String::from_utf8_lossy(host).into_owned()],
    };
    let mut listeners = Vec::new();
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for host in hosts {
        match bind_one(&host, port).await {
            Ok(bound) => listeners.extend(bound),
            // A family that this machine lacks is left out; a port that is taken in one is refused as a whole.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            Err(error) => failure = error,
        }
    }
    if listeners.is_empty() { Err(failure) } else { Ok(listeners) }
}

async fn bind_one(host: &str, port: u16) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in tokio::net::lookup_host((host, port)).await? {
        let family = if address.is_ipv6() { socket2::Domain::IPV6 } else { socket2::Domain::IPV4 };
        let socket = socket2::Socket::new(family, socket2::Type::STREAM, None)?;
        if address.is_ipv6() {
            // The other family has a socket of its own.
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(128)?;
        listeners.push(TcpListener::from_std(socket.into())?);
    }
    Ok(listeners)
}

fn bind_unix(path: &[u8]) -> io::Result<UnixListener> {
    // Nothing else of this program makes files meanwhile.
    let before = umask(Mode::from_raw_mode(BIND_MASK));
    let bound = UnixListener::bind(Path::new(std::ffi::OsStr::from_bytes(path)));
    umask(before);
    bound
}

async fn serve_tcp(shared: Arc<Shared>, listener: TcpListener, to: Address) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Some(slot) = shared.slot().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                // One that is gone already says so when it is read.
                let _ = tcp::tune(&stream);
                let (taken, to) = (shared.taken(slot), to.clone());
                connections.spawn(async move {
                    taken.shared.carry(stream, to).await;
                    drop(taken);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn serve_unix(shared: Arc<Shared>, listener: UnixListener, to: Address) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Some(slot) = shared.slot().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (taken, to) = (shared.taken(slot), to.clone());
                connections.spawn(async move {
                    taken.shared.carry(stream, to).await;
                    drop(taken);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn serve_remote(shared: Arc<Shared>, mut listener: Listener, spec: ListenSpec, to: Address) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Some(slot) = shared.slot().await else { return };
        match listener.accept().await {
            Ok(incoming) => {
                let (taken, to) = (shared.taken(slot), to.clone());
                connections.spawn(async move {
                    if let Err(text) = answer(incoming, &to).await {
                        taken.shared.notices.say(&format!("{}: {text}", shown(&to)));
                    }
                    drop(taken);
                });
            }
            Err(error) => {
                drop(slot);
                shared.notices.say(&format!("a listener inside was lost: {}", words(&error)));
                listener = listen_again(&shared, &spec).await;
            }
        }
    }
}

/// Connects here first, so that somebody inside is not told yes by a connection that leads nowhere.
async fn answer(incoming: Incoming, to: &Address) -> Result<(), String> {
    let joined = match to {
        Address::Tcp { host, port } => {
            let host = String::from_utf8_lossy(host);
            let local =
                TcpStream::connect((host.as_ref(), *port)).await.map_err(|error| error.to_string())?;
            // As in `serve_tcp`.
            let _ = tcp::tune(&local);
            join(local, incoming.accept().await.map_err(|error| words(&error))?).await
        }
        Address::Unix { path } => {
            let path = Path::new(std::ffi::OsStr::from_bytes(path));
            let local = UnixStream::connect(path).await.map_err(|error| error.to_string())?;
            join(local, incoming.accept().await.map_err(|error| words(&error))?).await
        }
    };
    joined.map_err(|error: GuestError| words(&error))
}

async fn listen_again(shared: &Shared, spec: &ListenSpec) -> Listener {
    let mut pause = FIRST_PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
        match shared.guest.listen(spec.clone()).await {
            Ok(listener) => return listener,
            Err(error) => {
                shared.notices.say(&format!("a listener inside is still missing: {}", words(&error)))
            }
        }
    }
}
