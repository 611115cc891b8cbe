//! Names of users and groups, by their numbers.

use std::collections::HashMap;
use std::path::Path;

use crate::passwd::{groups, logins, read};

/// The two files, read once.
#[derive(Debug, Default)]
pub struct Names {
    users: HashMap<u32, Vec<u8>>,
    groups: HashMap<u32, Vec<u8>>,
    homes: HashMap<Vec<u8>, Vec<u8>>,
}

impl Names {
    /// Reads `passwd` and `group` below `etc`; what cannot be read counts as empty.
    pub fn load(etc: &Path) -> Self {
        let mut names = Self::default();
        for login in logins(&read(&etc.join("passwd"))) {
            names.users.entry(login.uid).or_insert_with(|| login.name.to_vec());
            names.homes.entry(login.name.to_vec()).or_insert_with(|| login.home.to_vec());
        }
        for group in groups(&read(&etc.join("group"))) {
            names.groups.entry(group.gid).or_insert_with(|| group.name.to_vec());
        }
        names
    }

    /// The login name of a uid.
    pub fn user(&self, uid: u32) -> Option<&[u8]> {
        self.users.get(&uid).map(Vec::as_slice)
    }

    /// The name of a gid.
    pub fn group(&self, gid: u32) -> Option<&[u8]> {
        self.groups.get(&gid).map(Vec::as_slice)
    }

    /// The home directory of a login name.
    pub fn home(&self, user: &[u8]) -> Option<&[u8]> {
        self.homes.get(user).map(Vec::as_slice)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn the_first_good_line_of_a_number_counts() {
        let etc = tempfile::tempdir().unwrap();
        std::fs::write(
            etc.path().join("passwd"),
            b"bad\nx:x:y:0::/x:\n:x:5:5::/:\nroot:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/toor:\nu\xff:x:7:7::/h:\n",
        )
        .unwrap();
        std::fs::write(etc.path().join("group"), b"+\nwheel:x:10:a,b\nshort:x\n").unwrap();
        let names = Names::load(etc.path());
        assert_eq!(names.user(0), Some(&b"root"[..]));
        assert_eq!(names.user(7), Some(&b"u\xff"[..]));
        assert_eq!(names.user(5), None);
        assert_eq!(names.home(b"toor"), Some(&b"/toor"[..]));
        assert_eq!(names.group(10), Some(&b"wheel"[..]));
        assert_eq!(names.group(0), None);
    }

    #[test]
    fn without_files_nobody_has_a_name() {
        let names = Names::load(Path::new("/nonexistent"));
        assert_eq!((names.user(0), names.group(0)), (None, None));
    }
}
