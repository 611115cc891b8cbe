//! What a shell makes of a word: `~` becomes a home directory, a pattern becomes the names that match it (XCU 2.6.1 and 2.6.6).

use std::cell::OnceCell;
use std::path::Path;

use sandgate_sftp::names::Names;
use sandgate_sftp::vfs::{Follow, MAX_PATH, Vfs};

use crate::pattern::Pattern;
use crate::words::{Char, Word};

/// Bytes that all words together may become: what Linux takes as the arguments of a program.
pub const MAX_EXPANSION: usize = 2 * 1024 * 1024;

/// What each name costs beyond its bytes: a vector and its allocation.
const NAME_COST: usize = 32;

/// Where home directories are.
pub trait Homes {
    /// Of the user who is logged in, for `~`.
    fn own(&self) -> Option<Vec<u8>>;

    /// Of the user with this login name, for `~name`.
    fn of(&self, user: &[u8]) -> Option<Vec<u8>>;
}

/// The homes of the machine, from `/etc/passwd`.
#[derive(Debug)]
pub struct SystemHomes {
    own: Vec<u8>,
    names: OnceCell<Names>,
}

impl SystemHomes {
    /// `own` is the home of the user who is logged in. The file is read when somebody else's is asked for.
    pub fn new(own: Vec<u8>) -> Self {
        Self { own, names: OnceCell::new() }
    }
}

impl Homes for SystemHomes {
    fn own(&self) -> Option<Vec<u8>> {
        Some(self.own.clone())
    }

    fn of(&self, user: &[u8]) -> Option<Vec<u8>> {
        self.names.get_or_init(|| Names::load(Path::new("/etc"))).home(user).map(<[u8]>::to_vec)
    }
}

/// One home and no others: what there is below a root directory, where paths of `/etc/passwd` mean nothing.
#[derive(Debug, Clone)]
pub struct OneHome(pub Vec<u8>);

impl Homes for OneHome {
    fn own(&self) -> Option<Vec<u8>> {
        Some(self.0.clone())
    }

    fn of(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

/// The word became too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Argument list too long")]
pub struct TooLong;

/// Expands one word and appends what comes of it to `out`, taking its size from `room`. A pattern that nothing matches stays as it is.
///
/// # Errors
/// `room` is used up.
pub fn expand(
    word: &Word,
    vfs: &dyn Vfs,
    homes: &dyn Homes,
    room: &mut usize,
    out: &mut Vec<Vec<u8>>,
) -> Result<(), TooLong> {
    let word = tilde(word, homes);
    let names = glob(&word, vfs, *room)?;
    let names = if names.is_empty() { vec![word.bytes()] } else { names };
    *room = room.checked_sub(names.iter().map(|name| cost(name)).sum()).ok_or(TooLong)?;
    out.extend(names);
    Ok(())
}

fn cost(name: &[u8]) -> usize {
    name.len() + NAME_COST
}

/// Replaces `~` or `~user` at the start. What it becomes is not special any more.
fn tilde(word: &Word, homes: &dyn Homes) -> Word {
    let chars = &word.0;
    if !chars.first().is_some_and(|c| c.is_bare(b'~')) {
        return word.clone();
    }
    let end = chars.iter().position(|c| c.is_bare(b'/')).unwrap_or(chars.len());
    let user = &chars[1..end];
    if user.iter().any(|c| c.quoted) {
        return word.clone();
    }
    let user: Vec<u8> = user.iter().map(|c| c.byte).collect();
    let home = if user.is_empty() { homes.own() } else { homes.of(&user) };
    let Some(mut home) = home.filter(|home| !home.is_empty()) else { return word.clone() };
    // `~/x` with the home `/` is `/x`.
    if end < chars.len() && home.ends_with(b"/") {
        home.pop();
    }
    let mut expanded = Word::quoted(&home);
    expanded.0.extend_from_slice(&chars[end..]);
    expanded
}

/// The names that match, in order; none when the word is no pattern.
fn glob(word: &Word, vfs: &dyn Vfs, room: usize) -> Result<Vec<Vec<u8>>, TooLong> {
    let components: Vec<&[Char]> = word.0.split(|c| c.byte == b'/').collect();
    let patterns: Vec<Option<Pattern>> = components.iter().map(|c| Pattern::compile(c)).collect();
    if patterns.iter().all(Option::is_none) {
        return Ok(Vec::new());
    }
    // What the components so far have become; grows by one component in each round.
    let mut found = vec![Vec::new()];
    for (index, (component, pattern)) in components.iter().zip(&patterns).enumerate() {
        let mut next = Vec::new();
        let mut left = room;
        for mut path in found {
            if index > 0 {
                path.push(b'/');
            }
            let Some(pattern) = pattern else {
                path.extend(component.iter().map(|c| c.byte));
                keep(path, &mut left, &mut next)?;
                continue;
            };
            // What cannot be listed matches nothing, as in a shell.
            let Ok(mut dir) = vfs.open_dir(if path.is_empty() { b"." } else { &path }) else { continue };
            while let Ok(Some(entry)) = dir.next_entry() {
                let plain = !matches!(&entry.name[..], b"." | b"..");
                if plain && path.len() + entry.name.len() <= MAX_PATH && pattern.matches(&entry.name) {
                    keep([&path[..], &entry.name].concat(), &mut left, &mut next)?;
                }
            }
        }
        found = next;
    }
    // A last component without a pattern (`*/x`, `*/`) has not been looked at yet.
    if patterns.last().is_some_and(Option::is_none) {
        found.retain(|path| vfs.stat(path, Follow::No).is_ok());
    }
    found.sort_unstable();
    Ok(found)
}

fn keep(path: Vec<u8>, left: &mut usize, next: &mut Vec<Vec<u8>>) -> Result<(), TooLong> {
    *left = left.checked_sub(cost(&path)).ok_or(TooLong)?;
    next.push(path);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Memory, Nobody};
    use crate::words::split;

    struct House;

    impl Homes for House {
        fn own(&self) -> Option<Vec<u8>> {
            Some(b"/home/me".to_vec())
        }

        fn of(&self, user: &[u8]) -> Option<Vec<u8>> {
            match user {
                b"root" => Some(b"/".to_vec()),
                b"odd" => Some(b"/home/*".to_vec()),
                _ => None,
            }
        }
    }

    fn tree() -> Memory {
        let memory = Memory::new();
        for dir in ["/home", "/home/me", "/home/me/d1", "/home/me/d2", "/home/me/.h", "/work"] {
            memory.make_dir(dir.as_bytes(), 0o755).unwrap();
        }
        for file in [
            "/home/me/a.txt",
            "/home/me/b.txt",
            "/home/me/d1/x",
            "/home/me/d2/y",
            "/home/me/.h/z",
            "/work/sp ace",
        ] {
            memory.put(file.as_bytes(), b"");
        }
        memory
    }

    fn expanded(line: &str) -> Vec<String> {
        let (memory, mut room, mut out) = (tree(), MAX_EXPANSION, Vec::new());
        for word in split(line.as_bytes()).unwrap() {
            expand(&word, &memory, &House, &mut room, &mut out).unwrap();
        }
        out.into_iter().map(|path| String::from_utf8(path).unwrap()).collect()
    }

    #[test]
    fn tildes_are_expanded_only_at_the_start_and_bare() {
        for (line, path) in [
            ("~", "/home/me"),
            ("~/x", "/home/me/x"),
            ("~root", "/"),
            ("~root/x", "/x"),
            ("~nobody/x", "~nobody/x"),
            ("'~'/x", "~/x"),
            ("\\~", "~"),
            ("~r'oot'", "~root"),
            ("x~", "x~"),
            ("~odd/me", "/home/*/me"),
        ] {
            assert_eq!(expanded(line), [path], "{line}");
        }
    }

    #[test]
    fn patterns_become_sorted_names_and_stay_when_nothing_matches() {
        for (line, paths) in [
            ("~/*.txt", &["/home/me/a.txt", "/home/me/b.txt"][..]),
            ("~/d?/*", &["/home/me/d1/x", "/home/me/d2/y"]),
            ("/home/me/*/x", &["/home/me/d1/x"]),
            ("/home/me/*/", &["/home/me/d1/", "/home/me/d2/"]),
            ("/home/me/.h*/z", &["/home/me/.h/z"]),
            ("/home/me/.*", &["/home/me/.h"]),
            ("*", &["home", "work"]),
            ("w*/sp\\ *", &["work/sp ace"]),
            ("/home/me/'*'.txt", &["/home/me/*.txt"]),
            ("/none/*", &["/none/*"]),
            ("/work/[123]", &["/work/[123]"]),
            ("/home//me//[ab].txt", &["/home//me//a.txt", "/home//me//b.txt"]),
            ("/home/me/a.txt/*", &["/home/me/a.txt/*"]),
        ] {
            assert_eq!(expanded(line), paths, "{line}");
        }
    }

    #[test]
    fn an_expansion_is_bounded() {
        let memory = tree();
        let word = &split(b"/home/me/*").unwrap()[0];
        let (mut room, mut out) = (2 * NAME_COST, Vec::new());
        assert_eq!(expand(word, &memory, &Nobody, &mut room, &mut out), Err(TooLong));
        assert!(out.is_empty());
    }
}
