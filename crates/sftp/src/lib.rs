//! SFTP version 3 with OpenSSH's extensions, over a small file system trait.
//!
//! Primer: the server is an ordinary synchronous program over two byte streams. It reads requests in large gulps, answers regular files on
//! its one thread, and hands whatever may block for long (pipes, devices, fsync, copy-data) to a few threads, so that a request on one
//! handle never waits for another handle. Paths are bytes. References: draft-ietf-secsh-filexfer-02 and OpenSSH's `PROTOCOL`, section 4.
//!
//! * [`vfs`]: the file system as the server sees it; the real one, one held inside a directory, one that cannot be changed.
//! * [`codec`]: packets on byte slices, for servers and clients.
//! * `client`: the other side, with the feature of that name, so that the agent does not carry it.
//! * [`audit`]: what was changed, one line each.
#![forbid(unsafe_code)]

pub mod audit;
#[cfg(any(test, feature = "client"))]
pub mod client;
pub mod codec;
mod handles;
mod longname;
pub mod names;
pub mod passwd;
pub mod program;
pub mod requests;
pub mod server;
pub mod vfs;

pub use handles::MAX_HANDLES;
pub use server::{Config, Homes, ServeError, serve};
