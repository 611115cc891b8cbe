//! Files of a sandbox.

use std::os::unix::net::UnixStream;

use sandgate_sftp::client::{Client, Reader, Writer};
use sandgate_sftp::codec::Attrs;
use sandgate_sftp::vfs::OpenFlags;

use super::place::{join, shown};
use super::side::{
    Entry, Fault, Identity, Kept, Kind, Listing, MODE_BITS, Meta, Side, Source, Target, Times,
};

pub struct Remote {
    sandbox: String,
    session: Client<UnixStream>,
}

impl Remote {
    pub fn new(sandbox: String, session: Client<UnixStream>) -> Self {
        Self { sandbox, session }
    }
}

fn meta_of(attrs: &Attrs) -> Meta {
    let kind = match attrs.mode.map(|mode| mode & 0o170_000) {
        Some(0o100_000) => Kind::File,
        Some(0o040_000) => Kind::Directory,
        Some(0o120_000) => Kind::Link,
        _ => Kind::Other,
    };
    Meta {
        kind,
        size: attrs.size.unwrap_or(0),
        mode: attrs.mode.unwrap_or(0o644) & MODE_BITS,
        times: attrs
            .times
            .map(|(accessed, modified)| Times { accessed: accessed.into(), modified: modified.into() }),
    }
}

fn attrs_of(kept: Kept) -> Attrs {
    // The protocol's times have 32 bits.
    let seconds = |time: i64| u32::try_from(time.max(0)).unwrap_or(u32::MAX);
    Attrs {
        mode: Some(kept.mode),
        times: kept.times.map(|times| (seconds(times.accessed), seconds(times.modified))),
        ..Attrs::default()
    }
}

impl Side for Remote {
    fn name(&self, path: &[u8]) -> String {
        format!("{}:{}", self.sandbox, shown(path))
    }

    fn resolve(&mut self, path: &[u8]) -> Result<Vec<u8>, Fault> {
        if path.starts_with(b"~") { Ok(self.session.expand(path)?) } else { Ok(path.to_vec()) }
    }

    fn meta(&mut self, path: &[u8]) -> Result<Option<Meta>, Fault> {
        match self.session.stat(path) {
            Ok(attrs) => Ok(Some(meta_of(&attrs))),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn open_dir(&mut self, path: &[u8]) -> Result<Listing, Fault> {
        Ok(Listing::Remote(self.session.open_dir(path)?))
    }

    fn entries(&mut self, listing: &mut Listing) -> Result<Option<Vec<Entry>>, Fault> {
        let Listing::Remote(directory) = listing else { return Ok(None) };
        let page = self.session.entries(directory)?;
        let entry = |it: sandgate_sftp::client::Entry| Entry { name: it.name, meta: meta_of(&it.attrs) };
        Ok(page.map(|page| page.into_iter().map(entry).collect()))
    }

    fn close_dir(&mut self, listing: Listing) {
        if let Listing::Remote(directory) = listing {
            // A stream that fails is noticed with the next request.
            let _ = self.session.close(directory);
        }
    }

    fn identity(&mut self, path: &[u8], parent: Option<(&Identity, &[u8])>) -> Result<Identity, Fault> {
        Ok(Identity::Path(match parent {
            Some((Identity::Path(parent), name)) => join(parent, name),
            _ => self.session.real_path(path)?,
        }))
    }

    fn make_dir(&mut self, path: &[u8], mode: u32) -> Result<(), Fault> {
        Ok(self.session.make_dir(path, mode)?)
    }

    fn set(&mut self, path: &[u8], kept: Kept) -> Result<(), Fault> {
        Ok(self.session.set(path, attrs_of(kept))?)
    }

    fn read<'a>(&'a mut self, path: &[u8], start: u64, meta: &Meta) -> Result<Box<dyn Source + 'a>, Fault> {
        let handle = self.session.open(path, OpenFlags::READ, 0)?;
        Ok(Box::new(Reader::new(&mut self.session, handle, start, meta.size)))
    }

    fn write<'a>(&'a mut self, path: &[u8], start: u64, mode: u32) -> Result<Box<dyn Target + 'a>, Fault> {
        let anew = OpenFlags::CREATE.with(OpenFlags::TRUNCATE);
        let flags = if start == 0 { OpenFlags::WRITE.with(anew) } else { OpenFlags::WRITE };
        let handle = self.session.open(path, flags, mode)?;
        Ok(Box::new(Writer::new(&mut self.session, handle, start)))
    }
}

impl Source for Reader<'_, UnixStream> {
    fn next(&mut self) -> Result<Option<&[u8]>, Fault> {
        Ok(self.next_piece()?)
    }
}

impl Target for Writer<'_, UnixStream> {
    fn write(&mut self, data: &[u8]) -> Result<(), Fault> {
        Ok(Writer::write(self, data)?)
    }

    fn finish(self: Box<Self>, kept: Option<Kept>) -> Result<(), Fault> {
        Ok(Writer::finish(*self, kept.map(attrs_of))?)
    }
}
