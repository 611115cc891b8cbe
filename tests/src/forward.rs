//! Servers on the far side of a forward, and the near end of it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{ChildStdout, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::process::Guard;
use crate::target::Target;

/// How long anything on a forward may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Runs inside the server's side (in the sandbox, with the gateway), until its input ends. Arguments: what to do, and a port or a path
/// to do it on.
///
/// * `echo`: gives back what it reads; ends its direction when the client has ended its own.
/// * `collect`: reads to the end, then says how many bytes and their SHA-256.
/// * `farewell`: says `bye`, ends its direction, and prints what it still reads, to the end.
/// * `flood`: sends without end.
/// * `hold`: says nothing, until the client has ended its direction.
const SERVER: &str = r#"
import hashlib, os, resource, socket, sys, threading
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
threading.stack_size(256 * 1024)
what, where = sys.argv[1], sys.argv[2]
if where.isdigit():
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(where)))
    where = str(listener.getsockname()[1])
else:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(where)
listener.listen(4096)
print("ready", where, flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
def rest(c):
    while True:
        d = c.recv(1 << 16)
        if not d: return
        yield d
def serve(c):
    try:
        if what == "echo":
            for d in rest(c): c.sendall(d)
        elif what == "collect":
            h, n = hashlib.sha256(), 0
            for d in rest(c):
                h.update(d); n += len(d)
            c.sendall(("%d %s" % (n, h.hexdigest())).encode())
        elif what == "farewell":
            c.sendall(b"bye")
            c.shutdown(socket.SHUT_WR)
            b = b"".join(rest(c))
            print("read", b.decode(), flush=True)
        elif what == "flood":
            while True: c.sendall(b"x" * 65536)
        elif what == "hold":
            for d in rest(c): pass
    except OSError as e:
        print("error", e, flush=True)
    c.close()
while True:
    c, _ = listener.accept()
    threading.Thread(target=serve, args=(c,), daemon=True).start()
"#;

/// A server on the far side. It ends with this value.
pub struct Server {
    _session: Guard,
    lines: BufReader<ChildStdout>,
    /// The port, as text, or the path.
    pub at: String,
}

impl Server {
    /// Starts one; port `0` takes a free one.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(target: &Target, what: &str, at: &str) -> Self {
        assert!(!SERVER.contains('\''), "it is quoted for the shell");
        let command = format!("exec python3 -u -c '{SERVER}' {what} {at}");
        let mut session =
            Guard::spawn(target.ssh(&["box", &command]).stdin(Stdio::piped()).stdout(Stdio::piped()));
        let mut lines = BufReader::new(session.child().stdout.take().unwrap());
        let mut first = String::new();
        lines.read_line(&mut first).unwrap();
        let at = first.trim().strip_prefix("ready ").unwrap_or_else(|| panic!("no server: {first:?}"));
        Self { _session: session, at: at.to_owned(), lines }
    }

    /// The next line that it prints.
    ///
    /// # Panics
    /// When it ends without.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.lines.read_line(&mut line).unwrap() > 0, "the server has ended");
        line.trim_end().to_owned()
    }
}

/// Either end of a connection: TCP or a Unix socket.
pub enum Near {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

impl Near {
    /// Connects to the near end of a forward: a port on loopback, or a path.
    ///
    /// # Panics
    /// When nobody listens there within the time.
    pub fn connect(at: &str) -> Self {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            let near = match at.parse::<u16>() {
                Ok(port) => TcpStream::connect(("127.0.0.1", port)).map(Self::Tcp),
                Err(_) => UnixStream::connect(at).map(Self::Unix),
            };
            match near {
                Ok(near) => return near.patient(),
                Err(error) if std::time::Instant::now() > end => panic!("nobody listens on {at}: {error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn patient(self) -> Self {
        match &self {
            Self::Tcp(it) => it.set_read_timeout(Some(PATIENCE)).unwrap(),
            Self::Unix(it) => it.set_read_timeout(Some(PATIENCE)).unwrap(),
        }
        self
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// As the socket.
    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Tcp(it) => it.write_all(bytes),
            Self::Unix(it) => it.write_all(bytes),
        }
    }

    /// Ends our direction.
    ///
    /// # Panics
    /// When the socket is gone.
    pub fn end(&self) {
        match self {
            Self::Tcp(it) => it.shutdown(Shutdown::Write),
            Self::Unix(it) => it.shutdown(Shutdown::Write),
        }
        .unwrap();
    }

    /// Reads exactly so many bytes.
    ///
    /// # Errors
    /// As the socket; the time is bounded.
    pub fn read(&mut self, count: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        match self {
            Self::Tcp(it) => it.read_exact(&mut bytes),
            Self::Unix(it) => it.read_exact(&mut bytes),
        }?;
        Ok(bytes)
    }

    /// Reads to the end of the other direction.
    ///
    /// # Errors
    /// As the socket; the time is bounded.
    pub fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match self {
            Self::Tcp(it) => it.read_to_end(&mut bytes),
            Self::Unix(it) => it.read_to_end(&mut bytes),
        }?;
        Ok(bytes)
    }
}

/// A listener of ours, as the target of a remote forward.
pub enum Home {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

impl Home {
    /// On a port on loopback that was free, and which that is.
    ///
    /// # Panics
    /// When there is none.
    pub fn tcp() -> (Self, u16) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        (Self::Tcp(listener), port)
    }

    /// On a path.
    ///
    /// # Panics
    /// When it cannot be.
    pub fn unix(path: &Path) -> Self {
        Self::Unix(UnixListener::bind(path).unwrap())
    }

    /// A display of the X Window System: where it listens, and its name.
    ///
    /// # Panics
    /// When there is no port for one.
    pub fn display() -> (Self, String) {
        let listen = |number: u16| Some((TcpListener::bind(("127.0.0.1", 6000 + number)).ok()?, number));
        let (listener, number) = (20..999).find_map(listen).expect("no port for a display");
        (Self::Tcp(listener), format!("127.0.0.1:{number}"))
    }

    /// The next connection.
    ///
    /// # Panics
    /// When nobody comes in time.
    pub fn accept(&self) -> Near {
        let listener = match self {
            Self::Tcp(it) => it.as_fd(),
            Self::Unix(it) => it.as_fd(),
        };
        let patience = Timespec::try_from(PATIENCE).unwrap();
        let came = poll(&mut [PollFd::new(&listener, PollFlags::IN)], Some(&patience)).unwrap();
        assert!(came > 0, "nobody came within {PATIENCE:?}");
        match self {
            Self::Tcp(it) => Near::Tcp(it.accept().unwrap().0),
            Self::Unix(it) => Near::Unix(it.accept().unwrap().0),
        }
        .patient()
    }
}

/// A program for the far side that connects to a port or path there: sends `hello`, ends its direction, prints what it reads.
pub fn visitor(at: &str) -> String {
    let connect = if at.parse::<u16>().is_ok() {
        format!("s = socket.create_connection((\"127.0.0.1\", {at}))")
    } else {
        format!("s = socket.socket(socket.AF_UNIX); s.connect(\"{at}\")")
    };
    format!(
        "exec python3 -u -c 'import socket
{connect}
s.settimeout(20)
s.sendall(b\"hello\")
s.shutdown(socket.SHUT_WR)
b = b\"\"
while True:
    d = s.recv(65536)
    if not d: break
    b += d
print(b.decode())'"
    )
}

/// Descriptors of a process.
///
/// # Panics
/// When it is gone.
pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Which end of a connection inside is ours.
#[derive(Clone, Copy)]
pub enum Side {
    /// The one that connected to a port.
    Dialled,
    /// The one that a listener on a port has taken.
    Taken,
}

/// How many connections of that port have an end of ours inside the sandbox, and in how many of those the kernel keeps watch for a peer that has
/// vanished.
///
/// # Panics
/// When the sandbox cannot be asked.
pub fn watched(target: &Target, side: Side, port: u16) -> (usize, usize) {
    let table = target.exec("cat /proc/net/tcp /proc/net/tcp6").ok();
    let port = format!(":{port:04X}");
    let ours = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).filter(|fields| {
        let end = match side {
            Side::Dialled => fields[2],
            Side::Taken => fields[1],
        };
        // Established, or with an end from the other side.
        end.ends_with(&port) && matches!(fields[3], "01" | "08")
    });
    let timers: Vec<bool> = ours.map(|fields| fields[5].starts_with("02:")).collect();
    (timers.len(), timers.iter().filter(|is_on| **is_on).count())
}
