//! The sans-IO server side of one SSH connection: authentication and channels on top of the transport.

mod config;

pub use config::Config;
