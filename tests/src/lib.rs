//! Harness of the acceptance suite.
//!
//! Every test starts the real thing, a `sandgate serve` process on a free loopback port with a data directory of its own, and
//! talks to it with clients that other people wrote. With `SANDGATE_TEST_TARGET=sshd` the same session tests run against Debian's
//! `sshd` instead: that is the oracle, and an expectation that does not hold there is wrong by definition.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `SANDGATE_TEST_TARGET` | `gateway` (default) or `sshd` |
//! | `SANDGATE_BIN` | the binary under test; else `target/release/sandgate`, then `target/debug/sandgate` |
//! | `SANDGATE_TEST_SCALE` | divides the large repetition counts, for a quick look; 1 is the contract |
//!
//! A test that this machine cannot run calls [`skip::because`], which prints `skipped: <reason>` and notes it in
//! `target/test-skips.txt`.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "a test harness reports by panicking"
)]

pub mod agent;
pub mod client;
pub mod data;
pub mod engine;
pub mod files;
pub mod foreign;
pub mod forward;
pub mod gateway;
pub mod http;
pub mod left_behind;
pub mod machine;
pub mod paths;
pub mod process;
pub mod raw;
pub mod rootfs;
pub mod sftp;
pub mod skip;
pub mod sshd;
pub mod target;
pub mod terminal;
pub mod wait;

pub use process::{Feed, Output, run};
pub use target::{Kind, Options, Target};
