//! The contract of all drivers: one list of behaviours, run against each of them. What a run finds goes to
//! `target/contract/*.tsv`, from which `tests/driver_contract/table.py` makes the table in `docs/drivers.md`.
//!
//! A test is a driver and a group of behaviours, which share one gateway and sandbox. A behaviour that fails does not hide the
//! ones after it: all run, and the test fails at its end with the list.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

#[path = "driver_contract/files.rs"]
mod files;
#[path = "driver_contract/forwards.rs"]
mod forwards;
#[path = "driver_contract/ground.rs"]
mod ground;
#[path = "driver_contract/guest.rs"]
mod guest;
#[path = "driver_contract/hostile.rs"]
mod hostile;
#[path = "driver_contract/lifecycle.rs"]
mod lifecycle;
#[path = "driver_contract/report.rs"]
mod report;
#[path = "driver_contract/sessions.rs"]
mod sessions;

use ground::Kind;

macro_rules! contract {
    ($($driver:ident = $kind:expr),* $(,)?) => {
        mod contract {
            $(
                mod $driver {
                    use crate::*;

                    #[test]
                    fn sessions() {
                        report::group($kind, "sessions", sessions::ALL);
                    }

                    #[test]
                    fn files() {
                        report::group($kind, "files", files::ALL);
                    }

                    #[test]
                    fn forwards() {
                        report::group($kind, "forwards", forwards::ALL);
                    }

                    #[test]
                    fn lifecycle() {
                        report::group($kind, "lifecycle", lifecycle::ALL);
                    }

                    #[test]
                    fn hostile() {
                        report::group($kind, "hostile", hostile::ALL);
                    }
                }
            )*
        }
    };
}

contract! {
    oci_builtin = Kind::Oci("builtin"),
    oci_runc = Kind::Oci("runc"),
    oci_crun = Kind::Oci("crun"),
    oci_runsc = Kind::Oci("runsc"),
    external_unix = Kind::ExternalUnix,
    external_hybrid = Kind::ExternalHybrid,
    external_exec = Kind::ExternalExec,
    docker = Kind::Docker,
    podman = Kind::Podman,
    qemu = Kind::Qemu,
}
