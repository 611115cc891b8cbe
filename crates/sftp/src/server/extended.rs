//! OpenSSH's requests by name.

use std::os::fd::AsFd;
use std::sync::Arc;

use crate::audit::Verb;
use crate::codec::{Extended, Ids, Limits, MAX_PACKET, Reply, Status};
use crate::vfs::FsStat;

use super::Homes;
use super::copy::Copy;
use super::pool::Job;
use super::session::{Outcome, Session};

impl<O: AsFd> Session<O> {
    pub(super) fn extended(&mut self, id: u32, request: Extended<'_>) -> Outcome {
        match request {
            Extended::PosixRename { from, to } => {
                let size = self.size_of(from);
                let result = self.vfs.rename(from, to);
                self.renamed(id, result, from, to, size)
            }
            Extended::Hardlink { from, to } => {
                let result = self.vfs.link(from, to);
                self.done_pair(id, result, Verb::Linked, from, to)
            }
            Extended::Statvfs { path } => {
                let result = self.vfs.stat_fs(path);
                self.statvfs(id, result)
            }
            Extended::Fstatvfs { handle } => match self.handles.file(self.handles.find(handle)) {
                Some(open) => {
                    let result = open.file.stat_fs();
                    self.statvfs(id, result)
                }
                None => self.status(id, Status::FAILURE),
            },
            Extended::Fsync { handle } => self.fsync(id, handle),
            Extended::Lsetstat { path, attrs } => self.lsetstat(id, path, attrs),
            Extended::Limits => {
                let mut body = Vec::new();
                Limits::new(self.handles.max()).encode(&mut body);
                self.reply(&Reply::Extended { id, body: &body })
            }
            Extended::ExpandPath { path } => self.expand_path(id, path),
            Extended::CopyData { .. } => self.copy_data(id, request),
            Extended::HomeDirectory { user } => self.home_directory(id, user),
            Extended::UsersGroupsById { users, groups } => self.names_by_id(id, users, groups),
            Extended::Unknown { .. } => self.status(id, Status::OP_UNSUPPORTED),
        }
    }

    fn statvfs(&mut self, id: u32, result: crate::vfs::Result<FsStat>) -> Outcome {
        match result {
            Ok(stat) => {
                let mut body = Vec::new();
                stat.encode(&mut body);
                self.reply(&Reply::Extended { id, body: &body })
            }
            Err(e) => self.status(id, e.into()),
        }
    }

    fn fsync(&mut self, id: u32, handle: &[u8]) -> Outcome {
        let key = self.handles.find(handle);
        let (Some(open), Some(key)) = (self.handles.file(key), key) else {
            return self.status(id, Status::NO_SUCH_FILE);
        };
        let file = Arc::clone(&open.file);
        self.submit(id, &[key], Job::Sync { id, key, file })
    }

    /// Realpath after `~` is replaced: alone by where relative paths start, with a name by that user's home.
    fn expand_path(&mut self, id: u32, path: &[u8]) -> Outcome {
        let full = match path.split_first() {
            None => b".".to_vec(),
            Some((b'~', rest)) => {
                let slash = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
                let (user, below) = rest.split_at(slash);
                let home = if user.is_empty() { self.vfs.cwd().ok() } else { self.home_of(user) };
                let Some(mut home) = home else {
                    return self.reply(&Reply::Status {
                        id,
                        status: Status::NO_SUCH_FILE,
                        message: b"no such user",
                    });
                };
                home.extend_from_slice(below);
                home
            }
            Some(_) => path.to_vec(),
        };
        self.realpath(id, &full)
    }

    fn home_directory(&mut self, id: u32, user: &[u8]) -> Outcome {
        let home = match (user, self.config.homes) {
            (b"", Homes::All) => Some(self.config.home.clone()),
            (b"", Homes::Own) => self.vfs.cwd().ok(),
            _ => self.home_of(user),
        };
        match home {
            Some(home) => self.name(id, &home),
            None => self.status(id, Status::FAILURE),
        }
    }

    fn home_of(&mut self, user: &[u8]) -> Option<Vec<u8>> {
        match self.config.homes {
            Homes::All => self.names().home(user).map(<[u8]>::to_vec),
            Homes::Own => None,
        }
    }

    fn copy_data(&mut self, id: u32, request: Extended<'_>) -> Outcome {
        let Extended::CopyData { from, from_offset, len, to, to_offset } = request else { return Ok(()) };
        let keys = (self.handles.find(from), self.handles.find(to));
        let (Some(from_file), Some(to_file)) = (self.handles.file(keys.0), self.handles.file(keys.1)) else {
            return self.status(id, Status::NO_SUCH_FILE);
        };
        let (Some(from), Some(to)) = keys else { return self.status(id, Status::NO_SUCH_FILE) };
        let (a, b) = match (from_file.file.stat(), to_file.file.stat()) {
            (Ok(a), Ok(b)) => (a, b),
            (Err(e), _) | (_, Err(e)) => return self.status(id, e.into()),
        };
        let path = |key| self.handles.get(key).map(|h| &h.path);
        let same_inode = a.dev != 0 && a.ino != 0 && a.dev == b.dev && a.ino == b.ino;
        // Nothing that may wait for good: the thread of a copy must end.
        if from == to || path(from) == path(to) || same_inode || a.may_block() || b.may_block() {
            return self.status(id, Status::FAILURE);
        }
        let copy = Copy {
            from: Arc::clone(&from_file.file),
            from_offset,
            len,
            to: Arc::clone(&to_file.file),
            to_offset,
            to_flags: to_file.flags,
        };
        self.submit(id, &[from, to], Job::Copy { id, from, to, copy })
    }

    fn names_by_id(&mut self, id: u32, users: Ids<'_>, groups: Ids<'_>) -> Outcome {
        let names = self.names();
        let mut body = Vec::new();
        list(&mut body, users.map(|uid| names.user(uid).unwrap_or_default()));
        list(&mut body, groups.map(|gid| names.group(gid).unwrap_or_default()));
        // Many numbers with long names: asked in smaller pieces they are answered.
        if body.len() > MAX_PACKET - 64 {
            return self.status(id, Status::FAILURE);
        }
        self.reply(&Reply::Extended { id, body: &body })
    }
}

/// A string that holds strings.
fn list<'n>(body: &mut Vec<u8>, names: impl Iterator<Item = &'n [u8]>) {
    let start = body.len();
    body.extend([0; 4]);
    for name in names {
        // Past the longest reply nothing is sent anyway.
        if body.len() > MAX_PACKET {
            break;
        }
        body.extend(u32::try_from(name.len()).unwrap_or(0).to_be_bytes());
        body.extend_from_slice(name);
    }
    let len = u32::try_from(body.len() - start - 4).unwrap_or(0);
    if let Some(field) = body.get_mut(start..start + 4) {
        field.copy_from_slice(&len.to_be_bytes());
    }
}
