//! A small SSH client that may misbehave.
//!
//! Stock clients cannot send a wrong length, overrun a window or show what was on the wire, so the suite has this one: the
//! transport of RFC 4253 with `curve25519-sha256` and `aes128-gcm@openssh.com`, `none` and `publickey` of RFC 4252, and just
//! enough of RFC 4254. It does not check the host key: it only ever talks to the server that the test started.

mod cipher;
pub mod codec;
mod exchange;
mod session;

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

pub use cipher::Damage;
pub use session::{Channel, Ending, pty};

use cipher::Cipher;
use codec::{Reader, Writer};

/// The identification line of this client.
pub const BANNER: &str = "SSH-2.0-sandgate_tests";

/// One connection.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// The server's identification line, without its line end.
    pub server_banner: String,
    seal: Option<Cipher>,
    open: Option<Cipher>,
    session_id: Option<Vec<u8>>,
    /// Number of key exchanges done.
    pub exchanges: u32,
    next_channel: u32,
    /// How long a read may take before it is an error.
    pub patience: Duration,
}

/// How to prove who one is.
pub enum Proof<'a> {
    /// Method `none`: the token is the user name.
    None,
    /// An ed25519 key in OpenSSH's file format.
    Key(&'a std::path::Path),
}

/// A disconnect message in words: its code and text.
fn disconnect(message: &[u8]) -> io::Result<String> {
    let mut reader = Reader::new(&message[1..]);
    let (code, text) = (reader.u32()?, reader.string()?);
    Ok(format!("disconnect {code}: {}", String::from_utf8_lossy(text)))
}

impl Client {
    /// Connects and stops there: not a byte is sent.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn dial(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
            server_banner: String::new(),
            seal: None,
            open: None,
            session_id: None,
            exchanges: 0,
            next_channel: 0,
            patience: Duration::from_secs(20),
        })
    }

    /// Connects, exchanges identification lines and keys.
    ///
    /// # Errors
    /// Those of the socket, and a server that does not follow the protocol.
    pub fn connect(port: u16) -> io::Result<Self> {
        let mut client = Self::dial(port)?;
        client.banners()?;
        client.exchange_keys(None)?;
        Ok(client)
    }

    /// Connects and logs in to the account of this test.
    ///
    /// # Panics
    /// When that fails.
    pub fn login(target: &crate::Target) -> Self {
        let mut client = Self::connect(target.port).expect("key exchange");
        let key = target.key();
        let proof = match target.kind() {
            crate::Kind::Gateway => Proof::None,
            crate::Kind::Sshd => Proof::Key(&key),
        };
        assert!(client.authenticate(&target.login, &proof).expect("authentication"), "login refused");
        client
    }

    /// Exchanges identification lines.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn banners(&mut self) -> io::Result<()> {
        self.write_raw(format!("{BANNER}\r\n").as_bytes())?;
        loop {
            let line = self.read_line()?;
            if line.starts_with("SSH-") {
                self.server_banner = line;
                return Ok(());
            }
        }
    }

    /// Sends bytes as they are, past packets and ciphers.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn write_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads up to a line end.
    ///
    /// # Errors
    /// Those of the socket, and the end of the stream.
    pub fn read_line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        self.stream.set_read_timeout(Some(self.patience))?;
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.buffer.extend_from_slice(&chunk[..count]);
                Ok(())
            }
        }
    }

    /// Sends one message as a packet.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.send_damaged(message, Damage::None)
    }

    /// Sends one message as a packet with something wrong in it.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send_damaged(&mut self, message: &[u8], damage: Damage) -> io::Result<()> {
        let packet = cipher::packet(self.seal.as_mut(), message, damage);
        self.write_raw(&packet)
    }

    /// Packs a message without sending it, to send many in one write.
    pub fn pack(&mut self, message: &[u8]) -> Vec<u8> {
        cipher::packet(self.seal.as_mut(), message, Damage::None)
    }

    /// Reads the next message, whatever it is.
    ///
    /// # Errors
    /// Those of the socket, and a packet that does not open.
    pub fn receive_any(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(message) = cipher::take(self.open.as_mut(), &mut self.buffer)? {
                return Ok(message);
            }
            self.fill()?;
        }
    }

    /// Reads the next message that matters: ignore, debug, unimplemented-free transport chatter, banners and global
    /// requests are passed over, and a key exchange that the server begins is carried out.
    ///
    /// # Errors
    /// Those of the socket; a disconnect is `ConnectionAborted` with its text.
    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let message = self.receive_any()?;
            match message.first() {
                Some(&codec::DISCONNECT) => {
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, disconnect(&message)?));
                }
                Some(&(codec::IGNORE | codec::DEBUG | codec::EXT_INFO | codec::BANNER)) => {}
                Some(&codec::KEXINIT) => self.exchange_keys(Some(message))?,
                Some(&codec::GLOBAL_REQUEST) => {
                    let mut reader = Reader::new(&message[1..]);
                    reader.string()?;
                    if reader.bool()? {
                        self.send(&[codec::REQUEST_FAILURE])?;
                    }
                }
                _ => return Ok(message),
            }
        }
    }

    /// Reads on until the connection ends, and tells how: the text of a disconnect message, or the kind of the error. Nothing is
    /// answered meanwhile, so that no write of ours can fail before the server's last words are read.
    ///
    /// # Errors
    /// A server that keeps the connection open past `deadline`.
    pub fn wait_for_end(&mut self, deadline: Duration) -> Result<String, String> {
        let end = Instant::now() + deadline;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("the server kept the connection open".into());
            }
            self.patience = left;
            match self.receive_any() {
                Ok(message) if message.first() == Some(&codec::DISCONNECT) => {
                    return disconnect(&message).map_err(|err| err.to_string());
                }
                Ok(_) => {}
                Err(err) if matches!(err.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(err) => return Ok(err.to_string()),
            }
        }
    }

    /// Authenticates; true on success, false on a refusal.
    ///
    /// # Errors
    /// Those of the connection.
    ///
    /// # Panics
    /// When the key file cannot be read.
    pub fn authenticate(&mut self, user: &str, proof: &Proof<'_>) -> io::Result<bool> {
        self.request_service("ssh-userauth")?;
        match proof {
            Proof::None => self.send(
                &Writer::new(codec::USERAUTH_REQUEST)
                    .string(user)
                    .string("ssh-connection")
                    .string("none")
                    .done(),
            )?,
            Proof::Key(file) => {
                let request =
                    exchange::signed_request(user, file, self.session_id.as_deref().unwrap_or_default());
                self.send(&request)?;
            }
        }
        loop {
            match self.receive()?.first() {
                Some(&codec::USERAUTH_SUCCESS) => return Ok(true),
                Some(&codec::USERAUTH_FAILURE) => return Ok(false),
                _ => {}
            }
        }
    }

    /// Asks for a service and waits for its acceptance.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn request_service(&mut self, name: &str) -> io::Result<()> {
        self.send(&Writer::new(codec::SERVICE_REQUEST).string(name).done())?;
        while self.receive()?.first() != Some(&codec::SERVICE_ACCEPT) {}
        Ok(())
    }
}
