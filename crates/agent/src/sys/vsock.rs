//! Vsock (AF_VSOCK): the socket between a virtual machine and its host.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Links that wait to be accepted.
const BACKLOG: i32 = 128;
/// `sizeof(struct sockaddr_vm)`, 16 bytes.
#[allow(clippy::cast_possible_truncation, reason = "a constant that fits")]
const ADDRESS_LEN: libc::socklen_t = mem::size_of::<libc::sockaddr_vm>() as libc::socklen_t;
/// The family as it is written in an address.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a constant that fits")]
const FAMILY: libc::sa_family_t = libc::AF_VSOCK as libc::sa_family_t;

/// Who is at the other end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A process of this machine or of the one that shares its sockets with it.
    Unix,
    /// The host of this virtual machine.
    Host,
    /// Something else of this virtual machine, or another guest. Nobody who should be served.
    Stranger,
}

/// Listens on a vsock port of this machine.
pub fn vsock_listener(port: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked and owned by nobody else.
    let fd = unsafe {
        let fd = libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: sockaddr_vm is plain data; all zeros is a valid value.
    let mut address: libc::sockaddr_vm = unsafe { mem::zeroed() };
    address.svm_family = FAMILY;
    address.svm_cid = libc::VMADDR_CID_ANY;
    address.svm_port = port;
    // SAFETY: the address lives across the call, and its length is that of its type.
    let done = unsafe {
        libc::bind(fd.as_raw_fd(), (&raw const address).cast(), ADDRESS_LEN) == 0
            && libc::listen(fd.as_raw_fd(), BACKLOG) == 0
    };
    if done { Ok(fd) } else { Err(io::Error::last_os_error()) }
}

/// Who is at the other end of an accepted connection. An unprivileged process in here may reach our port by the machine's own address, and
/// other guests may by a host that forwards them.
pub fn peer(fd: BorrowedFd<'_>) -> Peer {
    // SAFETY: sockaddr_vm is plain data; all zeros is a valid value.
    let mut address: libc::sockaddr_vm = unsafe { mem::zeroed() };
    let mut length = ADDRESS_LEN;
    // SAFETY: both live across the call; the kernel writes at most `length` bytes.
    let done = unsafe { libc::getpeername(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut length) };
    match i32::from(address.svm_family) {
        libc::AF_VSOCK if done == 0 && address.svm_cid == libc::VMADDR_CID_HOST => Peer::Host,
        libc::AF_UNIX if done == 0 => Peer::Unix,
        _ => Peer::Stranger,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_unix_socket_is_known_for_one() {
        let (one, _other) = UnixStream::pair().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(peer(one.as_fd()), Peer::Unix);
    }
}
