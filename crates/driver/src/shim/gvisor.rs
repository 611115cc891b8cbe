//! gVisor's link: the agent's standard input and output.
//!
//! No descriptor of a listening socket can be handed into gVisor's own kernel, so one pair of pipes carries every connection,
//! and the shim joins them to the socket that the gateway dials.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use tokio::net::unix::pipe::{Receiver, Sender};

use super::message::Failure;

/// Serves the sandbox's socket by what comes and goes through the agent's pipes, on a thread of its own until the agent ends.
/// To be called after the last fork.
pub(crate) fn bridge(listener: UnixListener, to_agent: OwnedFd, from_agent: OwnedFd) -> Result<(), Failure> {
    listener.set_nonblocking(true).map_err(Failure::io("watch the socket"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::io("make the bridge's event loop"))?;
    let serve = async move {
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let sender = Sender::from_file(File::from(to_agent))?;
        let receiver = Receiver::from_file(File::from(from_agent))?;
        sandgate_guest::bridge::run(listener, tokio::io::join(receiver, sender)).await
    };
    std::thread::Builder::new()
        .name("bridge".into())
        .spawn(move || {
            if let Err(error) = runtime.block_on(serve) {
                eprintln!("the link to the agent ended: {error}");
            }
        })
        .map_err(Failure::io("start the bridge"))?;
    Ok(())
}
