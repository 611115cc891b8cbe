//! The absolute name of a path, as OpenSSH's server gives it: links resolved, and the last component need not exist.

use rustix::io::Errno;

use super::{Follow, MAX_PATH, Result, Vfs};

/// Links followed at most; OpenSSH takes as many.
const MAX_LINKS: usize = 32;

/// Resolves `path` by looking at one component after another.
pub(super) fn resolve<V: Vfs + ?Sized>(vfs: &V, path: &[u8]) -> Result<Vec<u8>> {
    if path.is_empty() {
        return Err(Errno::NOENT);
    }
    let mut done = if path[0] == b'/' { b"/".to_vec() } else { vfs.cwd()? };
    // What is left, as it stood in a path or in a link's text.
    let mut left = path.to_vec();
    let mut links = 0;
    if left.len() > MAX_PATH || done.len() > MAX_PATH {
        return Err(Errno::NAMETOOLONG);
    }
    while !left.is_empty() {
        let slash = left.iter().position(|b| *b == b'/');
        let (name, rest) = match slash {
            Some(at) => (left[..at].to_vec(), left[at + 1..].to_vec()),
            None => (std::mem::take(&mut left), Vec::new()),
        };
        match &name[..] {
            b"" | b"." => {}
            b".." => pop(&mut done),
            _ => {
                push(&mut done, &name);
                if done.len() > MAX_PATH {
                    return Err(Errno::NAMETOOLONG);
                }
                let meta = match vfs.stat(&done, Follow::No) {
                    Ok(meta) => meta,
                    Err(Errno::NOENT) if slash.is_none() => return Ok(done),
                    Err(e) => return Err(e),
                };
                if meta.is_symlink() {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP);
                    }
                    let target = vfs.read_link(&done)?;
                    if target.first() == Some(&b'/') {
                        done = b"/".to_vec();
                    } else {
                        pop(&mut done);
                    }
                    left = target;
                    if slash.is_some() {
                        left.push(b'/');
                        left.extend_from_slice(&rest);
                    }
                    if left.len() > MAX_PATH {
                        return Err(Errno::NAMETOOLONG);
                    }
                    continue;
                }
            }
        }
        left = rest;
    }
    Ok(done)
}

/// Appends a component.
fn push(path: &mut Vec<u8>, name: &[u8]) {
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

/// Takes the last component away; `/` stays.
fn pop(path: &mut Vec<u8>) {
    let keep = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
    path.truncate(keep.max(1));
}
