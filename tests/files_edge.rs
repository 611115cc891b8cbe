//! Files with hard names, sizes, links, owners and places, with the stock `sftp` and `scp`; the words of failures are those of
//! OpenSSH's server, which runs beside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

#[path = "files_edge/links.rs"]
mod links;
#[path = "files_edge/names.rs"]
mod names;
#[path = "files_edge/owners.rs"]
mod owners;
#[path = "files_edge/sizes.rs"]
mod sizes;
#[path = "files_edge/space.rs"]
mod space;
