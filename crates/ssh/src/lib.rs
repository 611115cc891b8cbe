//! The SSH server core: transport, user authentication and channels, without I/O (see `driver` for tokio).
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::cast_possible_truncation,
        reason = "tests fail by panicking"
    )
)]

pub mod algorithm;
mod auth;
mod channel;
pub mod codec;
pub mod connection;
pub mod driver;
pub mod event;
pub mod hostkey;
mod kex;
mod packet;
pub mod transport;

pub use connection::Config;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
