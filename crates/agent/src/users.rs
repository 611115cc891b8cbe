//! Who to run as, by `/etc/passwd` and `/etc/group`.

use std::path::Path;

use sandgate_sftp::passwd::{Login, groups, logins, number, read};

/// Supplementary groups at most; Linux allows 65536, nobody has this many.
const MAX_GROUPS: usize = 1024;

/// Numbers to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creds {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups, the primary one included.
    pub groups: Vec<u32>,
}

/// A login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name, or the uid as text when there is none.
    pub name: Vec<u8>,
    /// Numbers.
    pub creds: Creds,
    /// Home directory; `/` when unknown.
    pub home: Vec<u8>,
    /// Whether `home` is what the login has, or taken for want of one.
    pub home_from: HomeFrom,
    /// Login shell; empty when unknown.
    pub shell: Vec<u8>,
}

/// Where a home directory is known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HomeFrom {
    /// `/etc/passwd` names it.
    Passwd,
    /// Nowhere: the login is not in there, or without a home.
    Nowhere,
}

/// The two files.
#[derive(Debug, Default)]
pub struct Database {
    passwd: Vec<u8>,
    group: Vec<u8>,
}

impl Database {
    /// Reads the files below `etc`; what cannot be read counts as empty.
    pub fn load(etc: &Path) -> Self {
        Self { passwd: read(&etc.join("passwd")), group: read(&etc.join("group")) }
    }

    /// The login `name`: a login name, a uid, or `uid:gid`. `None` when there is no such login (a number always is one).
    pub fn find(&self, name: &[u8]) -> Option<User> {
        if let Some(e) = logins(&self.passwd).find(|e| e.name == name) {
            return Some(self.user(e));
        }
        let mut parts = name.splitn(2, |b| *b == b':');
        let uid = number(parts.next()?)?;
        let gid = match parts.next() {
            Some(gid) => Some(number(gid)?),
            None => None,
        };
        let mut user = self.by_uid(uid);
        if let Some(gid) = gid {
            user.creds.gid = gid;
            user.creds.groups = vec![gid];
        }
        Some(user)
    }

    /// The login with this uid, or a nameless one with home `/`.
    pub fn by_uid(&self, uid: u32) -> User {
        match logins(&self.passwd).find(|e| e.uid == uid) {
            Some(e) => self.user(e),
            None => {
                let name = if uid == 0 { b"root".to_vec() } else { uid.to_string().into_bytes() };
                let creds = Creds { uid, gid: uid, groups: vec![uid] };
                User { name, creds, home: b"/".to_vec(), home_from: HomeFrom::Nowhere, shell: Vec::new() }
            }
        }
    }

    fn user(&self, e: Login<'_>) -> User {
        let mut groups_of = vec![e.gid];
        for group in groups(&self.group) {
            if group.has(e.name) && !groups_of.contains(&group.gid) && groups_of.len() < MAX_GROUPS {
                groups_of.push(group.gid);
            }
        }
        let (home, home_from): (&[u8], _) =
            if e.home.is_empty() { (b"/", HomeFrom::Nowhere) } else { (e.home, HomeFrom::Passwd) };
        User {
            name: e.name.to_vec(),
            creds: Creds { uid: e.uid, gid: e.gid, groups: groups_of },
            home: home.to_vec(),
            home_from,
            shell: e.shell.to_vec(),
        }
    }

    /// The gid of a group.
    pub fn group_id(&self, name: &[u8]) -> Option<u32> {
        groups(&self.group).find(|group| group.name == name).map(|group| group.gid)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn db() -> Database {
        Database {
            passwd: b"root:x:0:0:root:/root:/bin/bash\nbroken line\n:x:9:9::/:\nann:x:1000:1000:Ann,,,:/home/ann:/bin/zsh\n\
                      \xff\xfe:x:1001:100::/h:/bin/sh\nbig:x:99999999999:1::/:/bin/sh\nshort:x:7:8\nnul\0:x:5:5::/:/x\n"
                .to_vec(),
            group: b"root:x:0:\ntty:x:5:\nwheel:x:10:bob, ann\nann:x:1000:\nbad\nx:y:z:ann\nsudo:x:27:ann,bob\n".to_vec(),
        }
    }

    #[test]
    fn finds_by_name_number_and_pair() {
        let ann = db().find(b"ann").unwrap();
        assert_eq!(ann.creds, Creds { uid: 1000, gid: 1000, groups: vec![1000, 10, 27] });
        assert_eq!((ann.home.as_slice(), ann.shell.as_slice()), (&b"/home/ann"[..], &b"/bin/zsh"[..]));
        assert_eq!(db().find(b"1000").unwrap(), ann);
        let pair = db().find(b"1000:44").unwrap();
        assert_eq!(pair.creds, Creds { uid: 1000, gid: 44, groups: vec![44] });
        assert_eq!(db().find(b"\xff\xfe").unwrap().creds.uid, 1001);
        assert_eq!(db().find(b"short").unwrap().home, b"/");
    }

    #[test]
    fn unknown_numbers_are_logins_and_unknown_names_are_not() {
        let user = db().find(b"4242").unwrap();
        assert_eq!(
            (user.name.as_slice(), user.creds.gid, user.home.as_slice()),
            (&b"4242"[..], 4242, &b"/"[..])
        );
        for bad in [&b"nobody"[..], b"", b"big", b"1:2:3", b"-1", b"1:", b"nul"] {
            assert_eq!(db().find(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn no_files_at_all() {
        let db = Database::load(Path::new("/nonexistent"));
        let root = db.by_uid(0);
        assert_eq!(
            (root.name.as_slice(), root.home.as_slice(), root.shell.len()),
            (&b"root"[..], &b"/"[..], 0)
        );
        assert_eq!(db.group_id(b"tty"), None);
    }

    #[test]
    fn group_by_name() {
        assert_eq!(db().group_id(b"tty"), Some(5));
        assert_eq!(db().group_id(b"bad"), None);
    }
}
