//! The requests by the names that `sftp-server -p`, `-P` and `-Q requests` use, and which of them a session permits.

use crate::codec::{Extended, Request};

/// A request as far as permission goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The name for people.
    pub name: &'static str,
    /// Of an extension: the name and version that the server advertises.
    pub extension: Option<(&'static str, &'static str)>,
    /// Refused when the session is read-only. `open` is looked at more closely.
    pub writes: bool,
}

const fn plain(name: &'static str, writes: bool) -> Kind {
    Kind { name, extension: None, writes }
}

const fn extension(name: &'static str, wire: &'static str, version: &'static str, writes: bool) -> Kind {
    Kind { name, extension: Some((wire, version)), writes }
}

/// All of them, extensions in the order in which they are advertised.
pub const ALL: [Kind; 29] = [
    plain("open", false),
    plain("close", false),
    plain("read", false),
    plain("write", true),
    plain("lstat", false),
    plain("fstat", false),
    plain("setstat", true),
    plain("fsetstat", true),
    plain("opendir", false),
    plain("readdir", false),
    plain("remove", true),
    plain("mkdir", true),
    plain("rmdir", true),
    plain("realpath", false),
    plain("stat", false),
    plain("rename", true),
    plain("readlink", false),
    plain("symlink", true),
    extension("posix-rename", "posix-rename@openssh.com", "1", true),
    extension("statvfs", "statvfs@openssh.com", "2", false),
    extension("fstatvfs", "fstatvfs@openssh.com", "2", false),
    extension("hardlink", "hardlink@openssh.com", "1", true),
    extension("fsync", "fsync@openssh.com", "1", true),
    extension("lsetstat", "lsetstat@openssh.com", "1", true),
    extension("limits", "limits@openssh.com", "1", false),
    extension("expand-path", "expand-path@openssh.com", "1", false),
    extension("copy-data", "copy-data", "1", true),
    extension("home-directory", "home-directory", "1", false),
    extension("users-groups-by-id", "users-groups-by-id@openssh.com", "1", false),
];

/// Which requests are answered with more than "Permission denied".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permitted {
    bits: u32,
    read_only: bool,
}

impl Default for Permitted {
    fn default() -> Self {
        Self { bits: u32::MAX, read_only: false }
    }
}

impl Permitted {
    /// Nothing that changes anything.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self.keep(|kind| !kind.writes);
        self
    }

    /// Without those of a comma-separated list; names that nobody has count for nothing, as with OpenSSH.
    pub fn deny(mut self, list: &str) -> Self {
        self.keep(|kind| !list.split(',').any(|name| name == kind.name));
        self
    }

    /// Only those of a comma-separated list.
    pub fn only(mut self, list: &str) -> Self {
        self.keep(|kind| list.split(',').any(|name| name == kind.name));
        self
    }

    /// Whether an open that changes something is refused.
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The extensions to advertise.
    pub(crate) fn extensions(&self) -> impl Iterator<Item = (&'static str, &'static str)> + '_ {
        ALL.iter()
            .enumerate()
            .filter(|(at, _)| self.bits & 1 << at != 0)
            .filter_map(|(_, kind)| kind.extension)
    }

    /// Whether this request is served. An unknown one is: it is answered with "unsupported".
    pub(crate) fn has(&self, request: &Request<'_>) -> bool {
        index(request).is_none_or(|at| self.bits & 1 << at != 0)
    }

    fn keep(&mut self, keep: impl Fn(&Kind) -> bool) {
        for (at, kind) in ALL.iter().enumerate() {
            if !keep(kind) {
                self.bits &= !(1 << at);
            }
        }
    }
}

/// The place of a request in [`ALL`].
fn index(request: &Request<'_>) -> Option<usize> {
    let name = match request {
        Request::Init { .. } => return None,
        Request::Open { .. } => 0,
        Request::Close { .. } => 1,
        Request::Read { .. } => 2,
        Request::Write { .. } => 3,
        Request::Lstat { .. } => 4,
        Request::Fstat { .. } => 5,
        Request::Setstat { .. } => 6,
        Request::Fsetstat { .. } => 7,
        Request::Opendir { .. } => 8,
        Request::Readdir { .. } => 9,
        Request::Remove { .. } => 10,
        Request::Mkdir { .. } => 11,
        Request::Rmdir { .. } => 12,
        Request::Realpath { .. } => 13,
        Request::Stat { .. } => 14,
        Request::Rename { .. } => 15,
        Request::Readlink { .. } => 16,
        Request::Symlink { .. } => 17,
        Request::Extended { request: Extended::Unknown { .. }, .. } => return None,
        Request::Extended { request, .. } => {
            let wire = request.name();
            return ALL
                .iter()
                .position(|kind| kind.extension.is_some_and(|(name, _)| name.as_bytes() == wire));
        }
    };
    Some(name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    const WRITE: Request<'_> = Request::Write { id: 1, handle: b"", offset: 0, data: b"" };
    const STAT: Request<'_> = Request::Stat { id: 1, path: b"" };
    const FSYNC: Request<'_> = Request::Extended { id: 1, request: Extended::Fsync { handle: b"" } };

    #[test]
    fn lists_and_read_only_narrow_what_is_served() {
        let all = Permitted::default();
        assert!(all.has(&WRITE) && all.has(&STAT) && all.has(&FSYNC));
        assert_eq!(all.extensions().count(), 11);
        let ro = all.clone().read_only();
        assert!(!ro.has(&WRITE) && ro.has(&STAT) && !ro.has(&FSYNC));
        assert!(ro.extensions().all(|(name, _)| !name.starts_with("fsync")));
        let deny = all.clone().deny("stat,nonsense");
        assert!(deny.has(&WRITE) && !deny.has(&STAT));
        let only = all.only("stat,fsync").deny("stat");
        assert!(!only.has(&WRITE) && !only.has(&STAT) && only.has(&FSYNC));
    }

    #[test]
    fn each_request_is_found_under_its_name() {
        for (request, name) in [(&WRITE, "write"), (&STAT, "stat"), (&FSYNC, "fsync")] {
            assert_eq!(ALL[index(request).unwrap()].name, name);
        }
    }
}
