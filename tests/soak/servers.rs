//! Servers at both ends of forwards, and the visits that tell whether every byte and each half-close arrived.
//!
//! *Hash*: reads to the end of what comes, then answers with its SHA-256 and closes: right only if the end of one direction was passed on while
//! the other lived. *Speak*: says 100,000 bytes, ends its direction, then reads to the end.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use sandgate_tests::process::Guard;
use sandgate_tests::{data, wait};

use crate::ground::{Dice, Ground};

/// Port of the first kind of server inside; the second has the next one. The first has a socket, too.
pub const INSIDE: u16 = 7101;
/// The socket of the first kind inside.
pub const INSIDE_SOCKET: &str = "/tmp/soak.sock";
/// What the second kind says.
const SPEECH: usize = 100_000;
/// Longest time for one visit.
const PATIENCE: Duration = Duration::from_secs(60);

const PYTHON: &str = r#"
import socket,threading,hashlib,os
def hash(c):
    h=hashlib.sha256()
    while 1:
        d=c.recv(65536)
        if not d: break
        h.update(d)
    c.sendall(h.hexdigest().encode())
def speak(c):
    c.sendall(b"s"*100000)
    c.shutdown(socket.SHUT_WR)
    while c.recv(65536): pass
def one(c,f):
    try: f(c)
    except OSError: pass
    c.close()
def serve(l,f):
    while 1:
        c,_=l.accept()
        threading.Thread(target=one,args=(c,f),daemon=True).start()
u=socket.socket(socket.AF_UNIX)
if os.path.exists("/tmp/soak.sock"): os.unlink("/tmp/soak.sock")
u.bind("/tmp/soak.sock"); u.listen(256)
for l,f in ((socket.create_server(("127.0.0.1",7101),backlog=256),hash),(socket.create_server(("127.0.0.1",7102),backlog=256),speak),(u,hash)):
    threading.Thread(target=serve,args=(l,f)).start()
print("ready",flush=True)
import sys
sys.stdin.read()
os._exit(0)
"#;

/// The servers inside, which end with this.
pub struct Inside {
    _process: Guard,
}

impl Inside {
    /// Starts them.
    pub fn start(ground: &Ground) -> Self {
        let mut command = ground.target.gateway().command(&["exec", "box", "--", "python3", "-c", PYTHON]);
        let mut process = Guard::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let mut word = [0; 6];
        process.child().stdout.as_mut().unwrap().read_exact(&mut word).expect("servers inside");
        Self { _process: process }
    }
}

/// The same on this machine: their ports.
pub fn here() -> (u16, u16) {
    let serve = |answer: fn(&mut TcpStream) -> std::io::Result<()>| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                std::thread::spawn(move || {
                    let _ = stream.set_read_timeout(Some(PATIENCE));
                    let _ = answer(&mut stream);
                });
            }
        });
        port
    };
    let hash = serve(|stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        stream.write_all(data::sha256(&all).as_bytes())
    });
    let speak = serve(|stream| {
        stream.write_all(&vec![b's'; SPEECH])?;
        stream.shutdown(Shutdown::Write)?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    });
    (hash, speak)
}

/// A connection of either kind.
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// To a port of this machine, which may still be opening.
    pub fn tcp(port: u16) -> Result<Self, String> {
        let mut stream = None;
        wait::until(Duration::from_secs(20), || {
            stream = TcpStream::connect(("127.0.0.1", port)).ok();
            stream.is_some()
        });
        let stream = stream.ok_or_else(|| format!("nobody listens on port {port}"))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        Ok(Self::Tcp(stream))
    }

    /// To a socket of this machine, which may still be opening.
    pub fn unix(path: &std::path::Path) -> Result<Self, String> {
        let mut stream = None;
        wait::until(Duration::from_secs(20), || {
            stream = UnixStream::connect(path).ok();
            stream.is_some()
        });
        let stream = stream.ok_or_else(|| format!("nobody listens at {}", path.display()))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        Ok(Self::Unix(stream))
    }

    /// As `write_all`.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
        }
    }

    fn end(&mut self) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// As `read_exact`.
    pub fn receive(&mut self, buffer: &mut [u8]) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.read_exact(buffer),
            Self::Unix(stream) => stream.read_exact(buffer),
        }
    }

    fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        let mut all = Vec::new();
        match self {
            Self::Tcp(stream) => stream.read_to_end(&mut all)?,
            Self::Unix(stream) => stream.read_to_end(&mut all)?,
        };
        Ok(all)
    }
}

/// A visit to the first kind of server.
pub fn visit_hash(mut stream: Stream, dice: &mut Dice) -> Result<(), String> {
    let bytes = data::random(dice.roll(1 << 40), dice.roll(300_000) as usize);
    let asked = stream.send(&bytes).and_then(|()| stream.end()).and_then(|()| stream.rest());
    match asked {
        Ok(answer) if answer == data::sha256(&bytes).as_bytes() => Ok(()),
        Ok(answer) => Err(format!("{} bytes: answered {:?}", bytes.len(), String::from_utf8_lossy(&answer))),
        Err(error) => Err(format!("{} bytes: {error}", bytes.len())),
    }
}

/// A visit to the second.
pub fn visit_speech(mut stream: Stream) -> Result<(), String> {
    match stream.rest() {
        Ok(speech) if speech.len() == SPEECH => {
            // It has ended its direction; ours still lives.
            stream.send(&[b'x'; 1000]).map_err(|error| format!("after the speech: {error}"))
        }
        Ok(speech) => Err(format!("heard {} bytes of {SPEECH}", speech.len())),
        Err(error) => Err(format!("while listening: {error}")),
    }
}

/// Connections that are left in the middle of something.
pub fn dangling(mut streams: Vec<Stream>, dice: &mut Dice) -> Vec<Stream> {
    for stream in &mut streams {
        let _ = stream.send(&vec![b'd'; dice.roll(200_000) as usize]);
        if dice.roll(3) == 0 {
            let _ = stream.end();
        }
    }
    streams
}
