//! The SSH server core: transport, user authentication and channels, without I/O (see `driver` for tokio).
#![forbid(unsafe_code)]

pub mod codec;
pub mod hostkey;
pub mod transport;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
