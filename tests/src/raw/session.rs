//! Session channels, RFC 4254 §5 and §6.

use std::io;

use super::Client;
use super::codec::{self, Reader, Writer};

/// An open channel: our number and the server's, and what it let us send.
#[derive(Clone, Copy, Debug)]
pub struct Channel {
    /// Our number for it.
    pub ours: u32,
    /// The server's number for it.
    pub theirs: u32,
    /// Bytes that the server is ready to take.
    pub window: u32,
    /// Largest data message that the server takes.
    pub max_packet: u32,
}

/// All that came over a channel until it was closed, in order.
#[derive(Debug, Default)]
pub struct Ending {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// `exit-status`.
    pub status: Option<u32>,
    /// `exit-signal`: name without SIG, and whether a core was dumped.
    pub signal: Option<(String, bool)>,
    /// The kinds of message in the order of their first coming: `data`, `stderr`, `eof`, `exit`, `close`.
    pub order: Vec<&'static str>,
}

impl Client {
    /// Opens a session channel with a window of 2 MiB.
    ///
    /// # Errors
    /// A refusal is `PermissionDenied` with the reason.
    pub fn open_session(&mut self) -> io::Result<Channel> {
        self.open_channel("session", 2 << 20, 32 * 1024, &[])
    }

    /// Opens a channel of any type.
    ///
    /// # Errors
    /// A refusal is `PermissionDenied` with `code: reason`.
    pub fn open_channel(
        &mut self,
        kind: &str,
        window: u32,
        max_packet: u32,
        rest: &[u8],
    ) -> io::Result<Channel> {
        let ours = self.next_channel;
        self.next_channel += 1;
        let open =
            Writer::new(codec::CHANNEL_OPEN).string(kind).u32(ours).u32(window).u32(max_packet).raw(rest);
        self.send(&open.done())?;
        loop {
            let message = self.receive()?;
            let mut reader = Reader::new(&message[1..]);
            match message[0] {
                codec::CHANNEL_OPEN_CONFIRMATION if reader.u32()? == ours => {
                    let (theirs, window, max_packet) = (reader.u32()?, reader.u32()?, reader.u32()?);
                    return Ok(Channel { ours, theirs, window, max_packet });
                }
                codec::CHANNEL_OPEN_FAILURE if reader.u32()? == ours => {
                    let text = format!("{}: {}", reader.u32()?, reader.text()?);
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
                }
                _ => {}
            }
        }
    }

    /// Sends a channel request and does not wait.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn request_later(
        &mut self,
        channel: Channel,
        name: &str,
        want_reply: u8,
        rest: &[u8],
    ) -> io::Result<()> {
        let request =
            Writer::new(codec::CHANNEL_REQUEST).u32(channel.theirs).string(name).byte(want_reply).raw(rest);
        self.send(&request.done())
    }

    /// Sends a channel request and returns whether it was granted.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn request(&mut self, channel: Channel, name: &str, rest: &[u8]) -> io::Result<bool> {
        self.request_later(channel, name, 1, rest)?;
        self.reply(channel)
    }

    /// Waits for the next reply to a channel request, passing over output.
    ///
    /// # Errors
    /// Those of the connection, and a channel that is closed instead.
    pub fn reply(&mut self, channel: Channel) -> io::Result<bool> {
        loop {
            let message = self.receive()?;
            if Reader::new(&message[1..]).u32().ok() != Some(channel.ours) {
                continue;
            }
            match message[0] {
                codec::CHANNEL_SUCCESS => return Ok(true),
                codec::CHANNEL_FAILURE => return Ok(false),
                codec::CHANNEL_CLOSE => return Err(io::ErrorKind::BrokenPipe.into()),
                _ => {}
            }
        }
    }

    /// Opens a session and runs a command in it.
    ///
    /// # Errors
    /// Those of the connection, and a refusal.
    pub fn exec(&mut self, command: impl AsRef<[u8]>) -> io::Result<Channel> {
        let channel = self.open_session()?;
        if !self.request(channel, "exec", &Writer::default().string(command).done())? {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "exec refused"));
        }
        Ok(channel)
    }

    /// Sends data, heedless of the window.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn data(&mut self, channel: Channel, bytes: &[u8]) -> io::Result<()> {
        self.send(&Writer::new(codec::CHANNEL_DATA).u32(channel.theirs).string(bytes).done())
    }

    /// Sends EOF for a channel.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn eof(&mut self, channel: Channel) -> io::Result<()> {
        self.send(&Writer::new(codec::CHANNEL_EOF).u32(channel.theirs).done())
    }

    /// Gives the server window for a channel.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn adjust(&mut self, channel: Channel, bytes: u32) -> io::Result<()> {
        self.send(&Writer::new(codec::CHANNEL_WINDOW_ADJUST).u32(channel.theirs).u32(bytes).done())
    }

    /// Reads one channel to its close, giving window back as data comes, and closes our side.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn finish(&mut self, channel: Channel) -> io::Result<Ending> {
        let mut ending = Ending::default();
        loop {
            let message = self.receive()?;
            let mut reader = Reader::new(&message[1..]);
            if reader.u32().ok() != Some(channel.ours) {
                continue;
            }
            let kind = match message[0] {
                codec::CHANNEL_DATA => {
                    let bytes = reader.string()?;
                    ending.stdout.extend_from_slice(bytes);
                    self.adjust(channel, bytes.len() as u32)?;
                    "data"
                }
                codec::CHANNEL_EXTENDED_DATA => {
                    reader.u32()?;
                    let bytes = reader.string()?;
                    ending.stderr.extend_from_slice(bytes);
                    self.adjust(channel, bytes.len() as u32)?;
                    "stderr"
                }
                codec::CHANNEL_EOF => "eof",
                codec::CHANNEL_REQUEST => {
                    let name = reader.text()?;
                    reader.bool()?;
                    match name.as_str() {
                        "exit-status" => ending.status = Some(reader.u32()?),
                        "exit-signal" => ending.signal = Some((reader.text()?, reader.bool()?)),
                        _ => continue,
                    }
                    "exit"
                }
                codec::CHANNEL_CLOSE => {
                    ending.order.push("close");
                    self.send(&Writer::new(codec::CHANNEL_CLOSE).u32(channel.theirs).done())?;
                    return Ok(ending);
                }
                _ => continue,
            };
            if !ending.order.contains(&kind) {
                ending.order.push(kind);
            }
        }
    }
}

/// The payload of `pty-req`.
pub fn pty(term: &str, columns: u32, rows: u32, modes: &[u8]) -> Vec<u8> {
    Writer::default().string(term).u32(columns).u32(rows).u32(columns * 8).u32(rows * 16).string(modes).done()
}
