//! The server of one session: requests in, replies out, until the client is gone.
//!
//! Primer: one thread reads requests in large gulps, answers all that are complete, and writes the replies together. Regular files are
//! read and written right there: READ straight into the reply buffer, or for large pieces not through this process at all (`lend`), WRITE
//! straight from the request buffer, neighbouring WRITEs in one system call. What may wait for long goes to a few threads; while a thread works for a handle, requests on that handle wait, all others do
//! not, and their replies may overtake.
//!
//! Memory of a session, all bounds: 513 KiB for requests and 513 KiB for replies (touched only as far as used), 1,024 handles of about
//! 200 bytes and a path (a directory: about 10 KiB more), [`MAX_DEFERRED`] for waiting requests, 16 threads with at most 512 KiB
//! each; two pipes of 256 KiB, and two of 512 KiB where files are read
//! in large pieces. A client that does not read its replies stops the thread in `write`; nothing grows meanwhile.
//!
//! Differences from OpenSSH's server, on purpose: replies of different handles may overtake; a malformed request is answered with "Bad
//! message", one of an unknown type with "Operation unsupported", where OpenSSH ends the session or stays silent; a closed handle never
//! names a later one; a listing brings up to 256 entries at a time; `copy-data` takes regular files only and says EOF when the source is
//! shorter than asked; times in long names are in UTC; a pipe or a device is served by a thread, and refused when 12 others wait already.

mod buffers;
mod copy;
mod dirs;
mod extended;
mod files;
mod lend;
mod paths;
mod pool;
mod session;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::{io, path::PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};

use crate::audit::Audit;
use crate::codec::{DecodeError, frame};
use crate::handles::MAX_HANDLES;
use crate::requests::Permitted;
use crate::vfs::Vfs;

use buffers::Input;
use session::{Session, Step};

/// Bytes of requests that may wait for threads. More are not read, or refused where a thread may wait for good.
pub const MAX_DEFERRED: usize = 4 * 1024 * 1024;

/// What our pipes should hold, in bytes. Better than 64 KiB, with which the two sides wait for each other 50 times as often, and than 1 MiB, which
/// leaves the processor's cache.
const PIPE: usize = 256 * 1024;

/// How a session is served.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which requests are served.
    pub permitted: Permitted,
    /// Open handles at most, up to [`MAX_HANDLES`]. [`Config::default`] takes what the limit of file descriptors leaves.
    pub max_handles: usize,
    /// Where `passwd` and `group` are.
    pub etc: PathBuf,
    /// The home directory of the user, for `home-directory` without a name.
    pub home: Vec<u8>,
    /// Whether `~` and home directories of others are told; not inside a root.
    pub homes: Homes,
}

/// Whose home directories a client may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Homes {
    /// Everybody's, from `passwd`.
    All,
    /// The user's own, which is where relative paths start.
    Own,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            permitted: Permitted::default(),
            max_handles: handles_by_limit(),
            etc: PathBuf::from("/etc"),
            home: b"/".to_vec(),
            homes: Homes::All,
        }
    }
}

/// Why a session ended before the client closed it.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A packet that cannot be followed or answered.
    #[error("The client sent something that is no SFTP packet.")]
    Packet(#[source] DecodeError),
    /// Another request than INIT came first.
    #[error("The client sent a request before it began the session.")]
    NotBegun,
    /// The client's requests cannot be read.
    #[error("Reading requests failed.")]
    Input(#[source] io::Error),
    /// Replies cannot be written; a client that is gone is no error.
    #[error("Writing replies failed.")]
    Output(#[source] io::Error),
    /// A change could not be recorded.
    #[error("Recording a change failed.")]
    Audit(#[source] io::Error),
    /// The system gives no event descriptor.
    #[error("Preparing the session failed.")]
    Setup(#[source] io::Error),
}

/// Serves until the client closes its side. At the end every handle is closed and every request that was complete has been done, but for
/// those that wait for a pipe or a device.
///
/// # Errors
/// [`ServeError`]. That the client is gone without reading all replies is none.
pub fn serve(
    config: Config,
    vfs: Arc<dyn Vfs>,
    audit: Box<dyn Audit>,
    input: impl AsFd,
    output: impl AsFd,
) -> Result<(), ServeError> {
    let setup = |e: Errno| ServeError::Setup(e.into());
    widen(input.as_fd());
    widen(output.as_fd());
    let mut session = Session::new(config, vfs, audit, output).map_err(setup)?;
    let ended = requests(&mut session, &input);
    // What was written is recorded however the session ended.
    let closed = session.close();
    match ended.and(closed) {
        Err(ServeError::Output(e) | ServeError::Input(e)) if is_gone(&e) => Ok(()),
        other => other,
    }
}

/// Whether a stream's error says that the client is not there any more.
fn is_gone(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// Makes a pipe hold more, so that one system call moves more. What is no pipe, or may not grow, stays as it is.
fn widen(fd: BorrowedFd<'_>) {
    if fcntl_getpipe_size(fd).is_ok_and(|size| size < PIPE) {
        let _ = fcntl_setpipe_size(fd, PIPE);
    }
}

/// The loop.
fn requests<O: AsFd>(session: &mut Session<O>, from: &impl AsFd) -> Result<(), ServeError> {
    let from = from.as_fd();
    let mut input = Input::new();
    loop {
        let mut stuck = false;
        while frame(input.bytes()).map_err(ServeError::Packet)?.is_some() {
            match session.handle(input.bytes())? {
                Step::Used(n) => input.consume(n),
                Step::Stuck => {
                    stuck = true;
                    break;
                }
            }
        }
        session.flush()?;
        if stuck {
            session.wait()?;
            continue;
        }
        if session.is_working() && !wait_for_input(session, from)? {
            continue;
        }
        if input.fill(from).map_err(ServeError::Input)? == 0 {
            break;
        }
    }
    while session.has_ending() {
        session.wait()?;
    }
    session.flush()
}

/// Waits until there is input or a thread is done; collects what is done. Tells whether there is input.
fn wait_for_input<O: AsFd>(session: &mut Session<O>, from: BorrowedFd<'_>) -> Result<bool, ServeError> {
    let (ready, done) = {
        let event = session.event();
        let mut fds =
            [PollFd::from_borrowed_fd(from, PollFlags::IN), PollFd::from_borrowed_fd(event, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(ServeError::Input(e.into())),
        }
        (!fds[0].revents().is_empty(), !fds[1].revents().is_empty())
    };
    if done {
        session.collect()?;
    }
    Ok(ready)
}

/// What the limit of file descriptors leaves after the streams, the pool's event and one for a moment.
fn handles_by_limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.map_or(MAX_HANDLES, |n| usize::try_from(n).unwrap_or(MAX_HANDLES));
    limit.saturating_sub(8).clamp(1, MAX_HANDLES)
}
