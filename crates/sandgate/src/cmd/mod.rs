//! One file per subcommand.

pub mod agent_install;
pub mod api_key;
pub mod audit;
pub mod cp;
pub mod exec;
pub mod forward_rules;
pub mod image;
pub mod key;
pub mod listing;
pub mod recording;
pub mod sandbox;
pub mod serve;
pub mod session;
pub mod ssh;
pub mod ssh_config;
pub mod token;
pub mod up;
