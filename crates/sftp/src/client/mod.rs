//! The client of one session, over any byte stream; without threads and without a runtime.
//!
//! Primer: simple requests are sent and waited for one by one. The bytes of a file go in a window of requests, [`MAX_REQUESTS`] or
//! [`MAX_IN_FLIGHT`] bytes, whichever is less: [`Reader`] keeps that many READs on their way and hands the data out in order, [`Writer`] the
//! same with WRITEs. Requests that are on their way never fill a stream's buffers with their replies, so one thread that writes and then
//! reads cannot block the server for good. What nobody waits for any more, such as the rest of a transfer that was given up, is thrown
//! away when it comes.
//!
//! The server is not trusted: its lengths are bounded, data that was not asked for ends the session, and its texts are cut and escaped
//! before they are shown. Names of a listing are passed on as they come; who makes files of them checks them.

mod link;
mod reader;
mod writer;

use std::io::{self, Read, Write};

use crate::codec::{Attrs, Extended, Limits, MAX_DATA, Reply, Request, Status, VERSION};
use crate::vfs::OpenFlags;

use link::Link;
pub use reader::Reader;
pub use writer::Writer;

/// Requests on their way at once in a transfer.
pub const MAX_REQUESTS: usize = 64;
/// Bytes on their way at once in a transfer.
pub const MAX_IN_FLIGHT: usize = 4 * 1024 * 1024;
/// Bytes in one READ or WRITE for a server that does not tell its limits; the draft's own figure.
const USUAL_DATA: usize = 32 * 1024;
/// Shown of a server's text at most, in characters.
const MAX_MESSAGE: usize = 200;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server said no. The session goes on.
    #[error("{message}")]
    Refused {
        /// The code.
        status: Status,
        /// The server's text, fit to be shown; that of the code where the server has none.
        message: String,
    },
    /// The stream ended or failed.
    #[error("the connection to the file server was lost")]
    Lost(#[source] io::Error),
    /// The server does not keep to the protocol.
    #[error("the file server's answer cannot be understood: {0}")]
    Protocol(&'static str),
}

impl ClientError {
    /// Whether nothing more can be asked.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }

    /// Whether there is no such file.
    #[must_use]
    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { status: Status::NO_SUCH_FILE, .. })
    }

    fn refused(status: Status, message: &[u8]) -> Self {
        let shown: String =
            String::from_utf8_lossy(message).chars().take(MAX_MESSAGE).flat_map(char::escape_debug).collect();
        let message = if shown.is_empty() { status.message().to_owned() } else { shown };
        Self::Refused { status, message }
    }
}

/// What a request came to.
pub type Result<T> = std::result::Result<T, ClientError>;

/// An open file or directory of the server. To be given back to [`Client::close`], or to a [`Reader`] or [`Writer`].
#[derive(Debug, PartialEq, Eq)]
pub struct Handle(Vec<u8>);

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as the server sent it; not yet found to be one.
    pub name: Vec<u8>,
    /// Attributes, of the link where it is one.
    pub attrs: Attrs,
}

/// A session.
#[derive(Debug)]
pub struct Client<S> {
    link: Link<S>,
    max_read: usize,
    max_write: usize,
}

impl<S: Read + Write> Client<S> {
    /// Begins a session.
    ///
    /// # Errors
    /// The stream fails, or the server speaks another version.
    pub fn begin(stream: S) -> Result<Self> {
        let mut client = Self { link: Link::new(stream), max_read: USUAL_DATA, max_write: USUAL_DATA };
        client.link.send_init()?;
        let packet = client.link.receive_version()?;
        let has_limits = match client.link.reply(&packet)? {
            Reply::Version { version: VERSION, mut extensions } => {
                // Names and versions take turns.
                std::iter::from_fn(|| Some((extensions.next()?, extensions.next()?)))
                    .any(|pair| pair == (b"limits@openssh.com", b"1"))
            }
            _ => return Err(ClientError::Protocol("it is not version 3 of the protocol")),
        };
        if has_limits {
            client.ask_limits()?;
        }
        Ok(client)
    }

    fn ask_limits(&mut self) -> Result<()> {
        let limits = self.call(
            |id| Request::Extended { id, request: Extended::Limits },
            |reply| match reply {
                Reply::Extended { body, .. } => Limits::decode(body),
                _ => None,
            },
        )?;
        let length = |limit: u64| match usize::try_from(limit) {
            Ok(0) => USUAL_DATA,
            Ok(limit) => limit.min(MAX_DATA),
            Err(_) => MAX_DATA,
        };
        (self.max_read, self.max_write) = (length(limits.read), length(limits.write));
        Ok(())
    }

    /// Attributes of a path, links followed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn stat(&mut self, path: &[u8]) -> Result<Attrs> {
        self.call(
            |id| Request::Stat { id, path },
            |reply| match reply {
                Reply::Attrs { attrs, .. } => Some(attrs),
                _ => None,
            },
        )
    }

    /// The absolute form of a path, links followed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn real_path(&mut self, path: &[u8]) -> Result<Vec<u8>> {
        self.call(|id| Request::Realpath { id, path }, one_name)
    }

    /// A path that begins with `~`, with the home directory in its place.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn expand(&mut self, path: &[u8]) -> Result<Vec<u8>> {
        self.call(|id| Request::Extended { id, request: Extended::ExpandPath { path } }, one_name)
    }

    /// Makes a directory with `mode` less the server's umask.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn make_dir(&mut self, path: &[u8], mode: u32) -> Result<()> {
        let attrs = Attrs { mode: Some(mode), ..Attrs::default() };
        self.done(|id| Request::Mkdir { id, path, attrs })
    }

    /// Sets attributes, links followed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn set(&mut self, path: &[u8], attrs: Attrs) -> Result<()> {
        self.done(|id| Request::Setstat { id, path, attrs })
    }

    /// Opens a file; `mode`, less the server's umask, counts when it is made.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn open(&mut self, path: &[u8], flags: OpenFlags, mode: u32) -> Result<Handle> {
        let attrs = Attrs { mode: flags.has(OpenFlags::CREATE).then_some(mode), ..Attrs::default() };
        self.call(|id| Request::Open { id, path, flags, attrs }, handle)
    }

    /// Opens a directory for [`Self::entries`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn open_dir(&mut self, path: &[u8]) -> Result<Handle> {
        self.call(|id| Request::Opendir { id, path }, handle)
    }

    /// The next entries of a directory, without `.` and `..`; `None` at its end.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn entries(&mut self, directory: &Handle) -> Result<Option<Vec<Entry>>> {
        let asked = self.call(
            |id| Request::Readdir { id, handle: &directory.0 },
            |reply| match reply {
                Reply::Name { names, .. } => Some(
                    names
                        .filter(|entry| !matches!(entry.name, b"." | b".."))
                        .map(|entry| Entry { name: entry.name.to_vec(), attrs: entry.attrs })
                        .collect(),
                ),
                _ => None,
            },
        );
        match asked {
            Err(ClientError::Refused { status: Status::EOF, .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Gives a handle back without waiting for the answer, which says nothing about a handle that was only read from.
    ///
    /// # Errors
    /// The stream fails.
    pub fn close(&mut self, handle: Handle) -> Result<()> {
        let id = self.link.send(|id| Request::Close { id, handle: &handle.0 })?;
        self.link.forget(id);
        Ok(())
    }

    /// A request that is answered by a STATUS.
    fn done<'r>(&mut self, request: impl FnOnce(u32) -> Request<'r>) -> Result<()> {
        self.call(request, |reply| match reply {
            Reply::Status { status: Status::OK, .. } => Some(()),
            _ => None,
        })
    }

    /// Sends a request and waits for its reply. `take` finds in it what is wanted; a STATUS that it does not want is a refusal.
    fn call<'r, T>(
        &mut self,
        request: impl FnOnce(u32) -> Request<'r>,
        take: impl FnOnce(Reply<'_>) -> Option<T>,
    ) -> Result<T> {
        let id = self.link.send(request)?;
        let (answered, packet) = self.link.receive()?;
        if answered != id {
            return Err(ClientError::Protocol("a reply to nothing that was asked"));
        }
        let reply = self.link.reply(&packet)?;
        match take(reply) {
            Some(wanted) => Ok(wanted),
            None => Err(refusal(reply)),
        }
    }
}

/// How many requests of so many bytes may be on their way.
fn window(length: usize) -> usize {
    (MAX_IN_FLIGHT / length.max(1)).clamp(1, MAX_REQUESTS)
}

/// Why a reply is not the wanted one.
fn refusal(reply: Reply<'_>) -> ClientError {
    match reply {
        Reply::Status { status, message, .. } if status != Status::OK => {
            ClientError::refused(status, message)
        }
        _ => ClientError::Protocol("a reply of the wrong kind"),
    }
}

fn one_name(reply: Reply<'_>) -> Option<Vec<u8>> {
    match reply {
        Reply::Name { mut names, .. } => names.next().map(|entry| entry.name.to_vec()),
        _ => None,
    }
}

fn handle(reply: Reply<'_>) -> Option<Handle> {
    match reply {
        Reply::Handle { handle, .. } => Some(Handle(handle.to_vec())),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;
