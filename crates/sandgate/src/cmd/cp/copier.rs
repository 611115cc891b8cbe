//! The copying itself: where things go, trees, single files, and going on with one that is partly there.

use std::rc::Rc;

use super::place::{Place, join, last_name, parent};
use super::progress::Progress;
use super::side::{Entry, Fault, Identity, Kept, Kind, Listing, Meta, Side};

/// What the user wants.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub recursive: bool,
    pub preserve: bool,
    pub resume: bool,
}

/// Bytes at the end of a partial copy that have to be those of the source, so that the copy is gone on with.
const TAIL: u64 = 64 * 1024;

/// A connection is gone: nothing more can be copied. It was told already.
#[derive(Debug)]
pub struct Stop;

/// Something that failed, and where.
struct Failure {
    place: String,
    fault: Fault,
}

/// The end of a copy at which it failed.
enum End {
    Source,
    Target,
}

/// Says where a fault belongs.
trait At<T> {
    fn at(self, place: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T> At<T> for Result<T, Fault> {
    fn at(self, place: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|fault| Failure { place: place(), fault })
    }
}

/// The target as it was found.
struct Found {
    path: Vec<u8>,
    is_dir: bool,
}

/// Directories from the source down to one, so that a link back up is seen.
struct Chain {
    identity: Identity,
    above: Option<Rc<Chain>>,
}

impl Chain {
    fn has(&self, identity: &Identity) -> bool {
        let above = std::iter::successors(Some(self), |chain| chain.above.as_deref());
        above.into_iter().any(|chain| chain.identity == *identity)
    }
}

/// A directory that is copied.
struct Dir {
    from: Vec<u8>,
    to: Vec<u8>,
    meta: Meta,
    chain: Rc<Chain>,
}

/// What is left to do in a tree.
enum Step {
    Enter(Dir),
    /// All that is in it was copied; its own mode and times come last.
    Leave {
        dir: Dir,
        made: bool,
    },
}

/// Copies from any side to one target.
pub struct Copier<'a> {
    to: &'a mut dyn Side,
    target: &'a Place,
    found: Found,
    options: Options,
    progress: Progress,
    complained: bool,
}

impl<'a> Copier<'a> {
    pub fn new(to: &'a mut dyn Side, target: &'a Place, options: Options, progress: Progress) -> Self {
        let found = Found { path: target.path().to_vec(), is_dir: false };
        Self { to, target, found, options, progress, complained: false }
    }

    /// Whether nothing failed.
    pub fn is_all_copied(&self) -> bool {
        !self.complained
    }

    /// Looks at the target. False, and told, when so many sources cannot go there.
    pub fn find_target(&mut self, sources: usize) -> bool {
        let found = self.to.resolve(self.target.path()).and_then(|path| {
            let meta = self.to.meta(&path)?;
            Ok((path, meta))
        });
        let fault = match found {
            Ok((path, meta)) => {
                let is_dir = meta.is_some_and(|meta| meta.kind == Kind::Directory);
                self.found = Found { path, is_dir };
                match meta {
                    _ if is_dir || sources == 1 => return true,
                    Some(_) => Fault::new("Not a directory"),
                    None => Fault::missing(),
                }
            }
            Err(fault) => fault,
        };
        let place = self.to.name(self.target.path());
        // Whether a connection is gone makes no difference here.
        let _ = self.complain(Failure { place, fault });
        false
    }

    /// Copies one source.
    ///
    /// # Errors
    /// [`Stop`]. Anything else is told, and the next source may be tried.
    pub fn copy(&mut self, from: &mut dyn Side, source: &Place) -> Result<(), Stop> {
        let begun = from.resolve(source.path()).and_then(|path| {
            let meta = from.meta(&path)?.ok_or_else(Fault::missing)?;
            Ok((path, meta))
        });
        let result = match begun {
            Ok((path, meta)) => self.begin(from, source, path, meta),
            Err(fault) => Err(Failure { place: from.name(source.path()), fault }),
        };
        match result {
            Ok(Some(tree)) => self.tree(from, tree),
            Ok(None) => Ok(()),
            Err(failure) => self.complain(failure),
        }
    }

    /// Copies a file, or says how a tree begins.
    fn begin(
        &mut self,
        from: &mut dyn Side,
        source: &Place,
        path: Vec<u8>,
        meta: Meta,
    ) -> Result<Option<Dir>, Failure> {
        let refuse = |fault: Fault| Err(Failure { place: from.name(&path), fault });
        let name = last_name(source.path());
        let to = match (name, meta.kind) {
            (_, Kind::Directory) if !self.options.recursive => {
                return refuse(Fault::new("is a directory; -r copies it"));
            }
            (Some(name), _) if self.found.is_dir => join(&self.found.path, name),
            (None, Kind::File) if self.found.is_dir => {
                return refuse(Fault::new("has no name of its own; name the target's file"));
            }
            _ => self.found.path.clone(),
        };
        if meta.kind != Kind::Directory && !self.found.is_dir && to.ends_with(b"/") {
            return Err(Fault::new("Not a directory")).at(|| self.to.name(&to));
        }
        if source.sandbox().is_some() && source.sandbox() == self.target.sandbox() {
            self.refuse_itself(from, &path, &to, meta.kind)?;
        }
        if meta.kind != Kind::Directory {
            self.file(from, &path, &to, &meta)?;
            return Ok(None);
        }
        let identity = from.identity(&path, None).at(|| from.name(&path))?;
        Ok(Some(Dir { from: path, to, meta, chain: Rc::new(Chain { identity, above: None }) }))
    }

    /// In one sandbox: a file must not be cut by its own copy, nor a tree grow into itself.
    fn refuse_itself(
        &mut self,
        from: &mut dyn Side,
        path: &[u8],
        to: &[u8],
        kind: Kind,
    ) -> Result<(), Failure> {
        let source = from.identity(path, None).at(|| from.name(path))?;
        let there = self.to.meta(to).at(|| self.to.name(to))?.is_some();
        let inside = match (there, kind) {
            (true, _) => self.to.identity(to, None),
            (false, Kind::Directory) => self.to.identity(parent(to), None),
            (false, _) => return Ok(()),
        };
        let (Identity::Path(source), Ok(Identity::Path(inside))) = (source, inside) else {
            // A target that cannot be looked at is noticed when it is made.
            return Ok(());
        };
        if inside == source || kind == Kind::Directory && inside.starts_with(&join(&source, b"")) {
            return Err(Fault::new("cannot be copied onto or into itself")).at(|| from.name(path));
        }
        Ok(())
    }

    /// Copies a directory with all that is in it.
    fn tree(&mut self, from: &mut dyn Side, top: Dir) -> Result<(), Stop> {
        let mut steps = vec![Step::Enter(top)];
        while let Some(step) = steps.pop() {
            let result = match step {
                Step::Enter(dir) => self.enter(from, dir, &mut steps)?,
                Step::Leave { dir, made } => self.leave(&dir, made),
            };
            if let Err(failure) = result {
                self.complain(failure)?;
            }
        }
        Ok(())
    }

    fn enter(
        &mut self,
        from: &mut dyn Side,
        dir: Dir,
        steps: &mut Vec<Step>,
    ) -> Result<Result<(), Failure>, Stop> {
        let made = match self.make_dir(&dir) {
            Ok(made) => made,
            Err(failure) => return Ok(Err(failure)),
        };
        let mut listing = match from.open_dir(&dir.from).at(|| from.name(&dir.from)) {
            Ok(listing) => listing,
            Err(failure) => return Ok(Err(failure)),
        };
        let mut below = Vec::new();
        let listed = self.entries(from, &dir, &mut listing, &mut below);
        from.close_dir(listing);
        steps.push(Step::Leave { dir, made });
        steps.extend(below.into_iter().rev().map(Step::Enter));
        listed
    }

    /// Copies the files of a directory and collects its directories. One page of entries is held at a time.
    fn entries(
        &mut self,
        from: &mut dyn Side,
        dir: &Dir,
        listing: &mut Listing,
        below: &mut Vec<Dir>,
    ) -> Result<Result<(), Failure>, Stop> {
        loop {
            let page = match from.entries(listing).at(|| from.name(&dir.from)) {
                Ok(Some(page)) => page,
                Ok(None) => return Ok(Ok(())),
                Err(failure) => return Ok(Err(failure)),
            };
            for entry in page {
                match self.entry(from, dir, &entry) {
                    Ok(found) => below.extend(found),
                    Err(failure) => self.complain(failure)?,
                }
            }
        }
    }

    /// Copies a file, or gives the directory that is to be copied.
    fn entry(&mut self, from: &mut dyn Side, dir: &Dir, entry: &Entry) -> Result<Option<Dir>, Failure> {
        let name = &entry.name[..];
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
            // A sandbox is not trusted to stay inside the target.
            return Err(Fault::new("this is no name of a file")).at(|| from.name(&join(&dir.from, name)));
        }
        let (path, to) = (join(&dir.from, name), join(&dir.to, name));
        let is_link = entry.meta.kind == Kind::Link;
        let meta = match is_link {
            true => {
                from.meta(&path).and_then(|meta| meta.ok_or_else(Fault::missing)).at(|| from.name(&path))?
            }
            false => entry.meta,
        };
        if meta.kind != Kind::Directory {
            self.file(from, &path, &to, &meta)?;
            return Ok(None);
        }
        let parent = (!is_link).then_some((&dir.chain.identity, name));
        let identity = from.identity(&path, parent).at(|| from.name(&path))?;
        if dir.chain.has(&identity) {
            return Err(Fault::new("a link to a directory that it is in; left out")).at(|| from.name(&path));
        }
        let chain = Rc::new(Chain { identity, above: Some(dir.chain.clone()) });
        Ok(Some(Dir { from: path, to, meta, chain }))
    }

    /// Makes the directory, and tells whether it was not there.
    fn make_dir(&mut self, dir: &Dir) -> Result<bool, Failure> {
        // Until all is in it, its owner has to be able to write to it.
        let Err(fault) = self.to.make_dir(&dir.to, dir.meta.mode | 0o700) else { return Ok(true) };
        match self.to.meta(&dir.to) {
            Ok(Some(meta)) if meta.kind == Kind::Directory => Ok(false),
            Ok(Some(_)) => Err(Fault::new("Not a directory")),
            Ok(None) | Err(_) => Err(fault),
        }
        .at(|| self.to.name(&dir.to))
    }

    fn leave(&mut self, dir: &Dir, made: bool) -> Result<(), Failure> {
        let (mode, times) = (dir.meta.mode, dir.meta.times);
        let set = if self.options.preserve {
            self.to.set(&dir.to, Kept { mode, times })
        } else if made && mode & 0o700 != 0o700 {
            // What the umask took away when it was made stays away.
            let masked = self.to.meta(&dir.to).map(|meta| meta.map_or(mode, |meta| meta.mode & mode));
            masked.and_then(|mode| self.to.set(&dir.to, Kept { mode, times: None }))
        } else {
            Ok(())
        };
        set.at(|| self.to.name(&dir.to))
    }

    /// Copies one file.
    fn file(&mut self, from: &mut dyn Side, path: &[u8], to: &[u8], meta: &Meta) -> Result<(), Failure> {
        if meta.kind != Kind::File {
            return Err(Fault::new("not a regular file")).at(|| from.name(path));
        }
        let kept = self.options.preserve.then_some(Kept { mode: meta.mode, times: meta.times });
        let start = if self.options.resume { self.there_already(from, path, to, meta)? } else { 0 };
        if start > 0 && start == meta.size {
            return kept.map_or(Ok(()), |kept| self.to.set(to, kept)).at(|| self.to.name(to));
        }
        self.progress.begin(|| from.name(path), meta.size, start);
        match self.bytes(from, path, to, start, meta, kept) {
            Ok(()) => self.progress.done(),
            Err((End::Source, fault)) => return Err(fault).at(|| from.name(path)),
            Err((End::Target, fault)) => return Err(fault).at(|| self.to.name(to)),
        }
        Ok(())
    }

    /// Copies the bytes of a file from `start` on.
    fn bytes(
        &mut self,
        from: &mut dyn Side,
        path: &[u8],
        to: &[u8],
        start: u64,
        meta: &Meta,
        kept: Option<Kept>,
    ) -> Result<(), (End, Fault)> {
        let source_failed = |fault| (End::Source, fault);
        let target_failed = |fault| (End::Target, fault);
        let mut source = from.read(path, start, meta).map_err(source_failed)?;
        let mut target = self.to.write(to, start, meta.mode).map_err(target_failed)?;
        while let Some(data) = source.next().map_err(source_failed)? {
            target.write(data).map_err(target_failed)?;
            self.progress.add(data.len());
        }
        target.finish(kept).map_err(target_failed)
    }

    /// How much of a file the target has already: all or a beginning of it, as far as its size and its last bytes say.
    fn there_already(
        &mut self,
        from: &mut dyn Side,
        path: &[u8],
        to: &[u8],
        meta: &Meta,
    ) -> Result<u64, Failure> {
        let there = self.to.meta(to).at(|| self.to.name(to))?;
        let Some(there) = there.filter(|it| it.kind == Kind::File && (1..=meta.size).contains(&it.size))
        else {
            return Ok(0);
        };
        let start = there.size.saturating_sub(TAIL);
        let theirs = match read_range(self.to, to, start, &there) {
            Ok(bytes) => bytes,
            Err(fault) if fault.is_fatal => return Err(fault).at(|| self.to.name(to)),
            // One that may be written but not read is copied anew.
            Err(_) => return Ok(0),
        };
        let same_size = Meta { size: there.size, ..*meta };
        let ours = read_range(from, path, start, &same_size).at(|| from.name(path))?;
        Ok(if ours == theirs { there.size } else { 0 })
    }

    fn complain(&mut self, failure: Failure) -> Result<(), Stop> {
        self.complained = true;
        self.progress.complain(&format!("{}: {}", failure.place, failure.fault));
        if failure.fault.is_fatal { Err(Stop) } else { Ok(()) }
    }
}

/// The bytes of a file from `start` to the size that `meta` gives.
fn read_range(side: &mut dyn Side, path: &[u8], start: u64, meta: &Meta) -> Result<Vec<u8>, Fault> {
    let length = usize::try_from(meta.size.saturating_sub(start)).unwrap_or(usize::MAX);
    let mut source = side.read(path, start, meta)?;
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let Some(piece) = source.next()? else { break };
        bytes.extend_from_slice(piece);
    }
    bytes.truncate(length);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::super::local::Local;
    use super::super::side::{Source, Target};
    use super::*;

    /// A sandbox that lists whatever names it likes in each directory, all of them files with a byte.
    struct Hostile(Vec<&'static [u8]>);

    struct OneByte(bool);

    impl Source for OneByte {
        fn next(&mut self) -> Result<Option<&[u8]>, Fault> {
            Ok(std::mem::take(&mut self.0).then_some(b"x"))
        }
    }

    fn meta(kind: Kind) -> Meta {
        Meta { kind, size: 1, mode: 0o644, times: None }
    }

    impl Side for Hostile {
        fn name(&self, path: &[u8]) -> String {
            path.escape_ascii().to_string()
        }
        fn meta(&mut self, _: &[u8]) -> Result<Option<Meta>, Fault> {
            Ok(Some(meta(Kind::Directory)))
        }
        fn open_dir(&mut self, _: &[u8]) -> Result<Listing, Fault> {
            Ok(Listing::Local(std::fs::read_dir("/")?))
        }
        fn entries(&mut self, _: &mut Listing) -> Result<Option<Vec<Entry>>, Fault> {
            let names = std::mem::take(&mut self.0).into_iter();
            let page: Vec<Entry> =
                names.map(|name| Entry { name: name.to_vec(), meta: meta(Kind::File) }).collect();
            Ok((!page.is_empty()).then_some(page))
        }
        fn close_dir(&mut self, _: Listing) {}
        fn identity(&mut self, path: &[u8], _: Option<(&Identity, &[u8])>) -> Result<Identity, Fault> {
            Ok(Identity::Path(path.to_vec()))
        }
        fn make_dir(&mut self, _: &[u8], _: u32) -> Result<(), Fault> {
            Err(Fault::missing())
        }
        fn set(&mut self, _: &[u8], _: Kept) -> Result<(), Fault> {
            Err(Fault::missing())
        }
        fn read<'a>(&'a mut self, _: &[u8], _: u64, _: &Meta) -> Result<Box<dyn Source + 'a>, Fault> {
            Ok(Box::new(OneByte(true)))
        }
        fn write<'a>(&'a mut self, _: &[u8], _: u64, _: u32) -> Result<Box<dyn Target + 'a>, Fault> {
            Err(Fault::missing())
        }
    }

    #[test]
    fn names_from_a_sandbox_do_not_lead_out_of_the_target() {
        let top = tempfile::tempdir().expect("a directory");
        let inner = top.path().join("inner");
        std::fs::create_dir(&inner).expect("made");
        let target = Place::Local(inner.as_os_str().as_bytes().to_vec());
        let options = Options { recursive: true, preserve: false, resume: false };
        let names: Vec<&[u8]> = vec![b"..", b".", b"", b"../out", b"/tmp/out", b"a/b", b"a\0b", b"good"];
        let mut local = Local;
        let mut copier = Copier::new(&mut local, &target, options, Progress::new(true));
        assert!(copier.find_target(1));
        let source = Place::Sandbox { name: "box".to_owned(), path: b"dir".to_vec() };
        copier.copy(&mut Hostile(names), &source).expect("it goes on");
        assert!(!copier.is_all_copied());
        let list = |path: &std::path::Path| -> Vec<_> {
            let entries = std::fs::read_dir(path).expect("a listing");
            entries.map(|entry| entry.expect("an entry").file_name()).collect()
        };
        assert_eq!((list(top.path()), list(&inner)), (vec!["inner".into()], vec!["dir".into()]));
        assert_eq!(list(&inner.join("dir")), ["good"]);
    }
}
