//! One file per subcommand.

pub mod exec;
pub mod key;
pub mod sandbox;
pub mod serve;
pub mod session;
pub mod ssh_config;
pub mod token;
pub mod up;
