//! `/etc/passwd` and `/etc/group` without NSS: bounded, tolerant of bad lines. The agent's logins and the file server's names come from here.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes read of each file at most; real ones are a few kilobytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// A line of `passwd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Login<'a> {
    /// Login name; not empty.
    pub name: &'a [u8],
    /// User number.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Home directory; empty when the line is cut short.
    pub home: &'a [u8],
    /// Login shell; empty when the line is cut short.
    pub shell: &'a [u8],
}

/// A line of `group`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group<'a> {
    /// Its name; not empty.
    pub name: &'a [u8],
    /// Its number.
    pub gid: u32,
    members: &'a [u8],
}

impl Group<'_> {
    /// Whether a login is among the members.
    pub fn has(&self, name: &[u8]) -> bool {
        self.members.split(|b| *b == b',').any(|member| member.trim_ascii() == name)
    }
}

/// Reads one of the files; what cannot be read counts as empty.
pub fn read(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        // A file that fails halfway still gives its first lines.
        let _ = file.take(MAX_FILE).read_to_end(&mut bytes);
    }
    bytes
}

/// The usable lines of `passwd`.
pub fn logins(passwd: &[u8]) -> impl Iterator<Item = Login<'_>> {
    lines(passwd).filter_map(|line| {
        let mut fields = line.split(|b| *b == b':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (number(fields.next()?)?, number(fields.next()?)?);
        let _comment = fields.next();
        let (home, shell) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        (!name.is_empty()).then_some(Login { name, uid, gid, home, shell })
    })
}

/// The usable lines of `group`.
pub fn groups(group: &[u8]) -> impl Iterator<Item = Group<'_>> {
    lines(group).filter_map(|line| {
        let mut fields = line.split(|b| *b == b':');
        let (name, _password, gid) = (fields.next()?, fields.next()?, number(fields.next()?)?);
        let members = fields.next().unwrap_or_default();
        (!name.is_empty()).then_some(Group { name, gid, members })
    })
}

/// A decimal number and nothing else.
pub fn number(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|b| *b == b'\n').filter(|line| !line.contains(&0))
}
