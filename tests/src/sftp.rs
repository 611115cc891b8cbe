//! SFTP: the stock `sftp` and `scp` against a target, OpenSSH's own `sftp-server` to compare with, and a small client that pipelines,
//! dawdles and vanishes.
//!
//! [`Ground`] is a target and a directory that has the same path on both sides, so a test sees on the host what the server did. The
//! raw client ([`Sftp`]) speaks version 3 (draft-ietf-secsh-filexfer-02) over the pipes of `ssh -s box sftp`.

mod ground;
mod raw;

pub use ground::{Ground, ORACLE, is_root};
pub use raw::{Attrs, Entry, Reply, Sftp, Status, code, kind, open, read_body, write_body};
