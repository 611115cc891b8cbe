//! The pipes that a process without terminal or a connection is given, made on the host side.
//!
//! The host makes them and keeps its own ends, so a hostile guest cannot slip in another kind of file. The guest's ends are
//! separate open files: nothing that the guest does to them (non-blocking mode, reopening through /proc, keeping them open for ever)
//! changes ours; it can only starve or feed itself.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::Mode;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::net::unix::pipe::{Receiver, Sender};

use crate::Terminal;
use crate::terminal::Master;

/// Size of the pipes for input and output, in bytes. The kernel's default of 64 KiB costs a wake-up for every 64 KiB; it stays
/// when the kernel says no (pipe-max-size, pipe-user-pages-soft). Standard error keeps the default.
const PIPE_SIZE: usize = 1024 * 1024;

/// Size of the pipes of a connection, in bytes. There may be thousands of them.
const CONNECTION_PIPE_SIZE: usize = 256 * 1024;
/// Smallest pipe that is worth it, in bytes. Past the limit of pipe memory of its user, the kernel makes pipes of a page or two, and frames are
/// faster than those.
const SMALLEST: usize = 64 * 1024;

/// Our ends of what a process runs on.
pub(crate) enum HostEnds {
    Pipes { stdin: Sender, stdout: Receiver, stderr: Receiver },
    Terminal(Master),
}

/// Our ends of a connection's pipes.
pub(crate) struct ConnectionEnds {
    pub(crate) input: Sender,
    pub(crate) output: Receiver,
}

/// The guest's ends, at most three: read, write, write for a process, or its terminal; read, write for a connection.
pub(crate) struct GuestEnds(Vec<OwnedFd>);

/// Makes the two pipes of a connection.
pub(crate) fn make_two() -> io::Result<(ConnectionEnds, GuestEnds)> {
    let (in_r, in_w) = one(Some(CONNECTION_PIPE_SIZE))?;
    let (out_r, out_w) = one(Some(CONNECTION_PIPE_SIZE))?;
    if fcntl_getpipe_size(&in_r)?.min(fcntl_getpipe_size(&out_r)?) < SMALLEST {
        return Err(io::ErrorKind::QuotaExceeded.into());
    }
    let host =
        ConnectionEnds { input: Sender::from_owned_fd(in_w)?, output: Receiver::from_owned_fd(out_r)? };
    Ok((host, GuestEnds(vec![in_r, out_w])))
}

/// Makes the three pipes of a process.
pub(crate) fn make() -> io::Result<(HostEnds, GuestEnds)> {
    let (in_r, in_w) = one(Some(PIPE_SIZE))?;
    let (out_r, out_w) = one(Some(PIPE_SIZE))?;
    let (err_r, err_w) = one(None)?;
    let host = HostEnds::Pipes {
        stdin: Sender::from_owned_fd(in_w)?,
        stdout: Receiver::from_owned_fd(out_r)?,
        stderr: Receiver::from_owned_fd(err_r)?,
    };
    Ok((host, GuestEnds(vec![in_r, out_w, err_w])))
}

/// The two sides of a terminal that was made already.
pub(crate) fn of_terminal(terminal: Terminal) -> io::Result<(HostEnds, GuestEnds)> {
    let Terminal { master, slave } = terminal;
    Ok((HostEnds::Terminal(Master::new(master)?), GuestEnds(vec![slave])))
}

fn one(size: Option<usize>) -> io::Result<(OwnedFd, OwnedFd)> {
    let (r, w) = pipe_with(PipeFlags::CLOEXEC)?;
    if let Some(size) = size {
        let _ = fcntl_setpipe_size(&r, size);
    }
    // The login user must be able to open /dev/stdout. The pipe has no name: only who may trace a process that holds it gets there.
    let _ = rustix::fs::fchmod(&r, Mode::from_raw_mode(0o666));
    Ok((r, w))
}

/// Sends the first bytes of a link together with the guest's ends. Returns how many bytes went out (at least one).
pub(crate) async fn send(socket: &UnixStream, bytes: &[u8], ends: GuestEnds) -> io::Result<usize> {
    let fds: Vec<BorrowedFd<'_>> = ends.0.iter().map(AsFd::as_fd).collect();
    socket
        .async_io(Interest::WRITABLE, || {
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let iov = [io::IoSlice::new(bytes)];
            Ok(rustix::net::sendmsg(socket, &iov, &mut control, SendFlags::NOSIGNAL)?)
        })
        .await
}
