//! The sandbox's own network, for the gateway to connect and listen in.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;

use rustix::fs::{Mode, OFlags, open, stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::lend::lend;

/// The network namespace of one container.
#[derive(Debug)]
pub(crate) struct GuestNetwork(OwnedFd);

impl GuestNetwork {
    /// To be called when `init` is in its namespaces and before any code of the guest runs. `None` where it has the host's network, or no socket can
    /// be made in it; then the agent connects and listens.
    pub(crate) fn find(init: i32) -> Option<Self> {
        let path = format!("/proc/{init}/ns/net");
        let found = (|| {
            let own = stat("/proc/self/ns/net")?;
            let its = stat(&*path)?;
            if (own.st_dev, own.st_ino) == (its.st_dev, its.st_ino) {
                return Ok(None);
            }
            let network = Self(open(&*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?);
            network.socket(AddressFamily::INET)?;
            Ok(Some(network))
        })();
        found.unwrap_or_else(|error: Errno| {
            eprintln!("connections will be made by the agent: the container's network: {error}");
            None
        })
    }

    /// A thread of its own goes there and comes back no more.
    fn socket(&self, family: AddressFamily) -> Result<OwnedFd, Errno> {
        let make = || {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            socket_with(family, SocketType::STREAM, flags, None)
        };
        thread::scope(|scope| {
            let thread = thread::Builder::new().spawn_scoped(scope, make).map_err(|_| Errno::AGAIN)?;
            thread.join().unwrap_or(Err(Errno::AGAIN))
        })
    }
}

/// Answers the gateway: a socket of this family, or that there is none.
pub(crate) fn answer(network: Option<&GuestNetwork>, family: AddressFamily, asker: &UnixStream) {
    match network.map(|network| network.socket(family)) {
        Some(Ok(socket)) => lend(asker, "socket\n", Some(socket.as_fd())),
        Some(Err(error)) => {
            eprintln!("no socket can be made in the container's network: {error}");
            lend(asker, "none\n", None);
        }
        None => lend(asker, "none\n", None),
    }
}
