//! Files of this machine.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps};

use super::place::shown;
use super::side::{
    Entry, Fault, Identity, Kept, Kind, Listing, MODE_BITS, Meta, PIECE, Side, Source, Target, Times,
};

/// Entries of a directory taken at once.
const PAGE: usize = 256;

pub struct Local;

fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

fn meta_of(meta: &fs::Metadata) -> Meta {
    let kind = match meta.file_type() {
        kind if kind.is_file() => Kind::File,
        kind if kind.is_dir() => Kind::Directory,
        kind if kind.is_symlink() => Kind::Link,
        _ => Kind::Other,
    };
    let times = Times { accessed: meta.atime(), modified: meta.mtime() };
    Meta { kind, size: meta.size(), mode: meta.mode() & MODE_BITS, times: Some(times) }
}

fn timestamps(times: Times) -> Timestamps {
    let at = |seconds| Timespec { tv_sec: seconds, tv_nsec: 0 };
    Timestamps { last_access: at(times.accessed), last_modification: at(times.modified) }
}

impl Side for Local {
    fn name(&self, path: &[u8]) -> String {
        shown(path)
    }

    fn meta(&mut self, path: &[u8]) -> Result<Option<Meta>, Fault> {
        match fs::metadata(path_of(path)) {
            Ok(meta) => Ok(Some(meta_of(&meta))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn open_dir(&mut self, path: &[u8]) -> Result<Listing, Fault> {
        Ok(Listing::Local(fs::read_dir(path_of(path))?))
    }

    fn entries(&mut self, listing: &mut Listing) -> Result<Option<Vec<Entry>>, Fault> {
        let Listing::Local(directory) = listing else { return Ok(None) };
        let mut page = Vec::new();
        for entry in directory.take(PAGE) {
            let entry = entry?;
            let meta = meta_of(&entry.metadata()?);
            page.push(Entry { name: entry.file_name().into_vec(), meta });
        }
        Ok((!page.is_empty()).then_some(page))
    }

    fn close_dir(&mut self, listing: Listing) {
        drop(listing);
    }

    fn identity(&mut self, path: &[u8], _: Option<(&Identity, &[u8])>) -> Result<Identity, Fault> {
        let meta = fs::metadata(path_of(path))?;
        Ok(Identity::Inode(meta.dev(), meta.ino()))
    }

    fn make_dir(&mut self, path: &[u8], mode: u32) -> Result<(), Fault> {
        Ok(fs::DirBuilder::new().mode(mode).create(path_of(path))?)
    }

    fn set(&mut self, path: &[u8], kept: Kept) -> Result<(), Fault> {
        let path = path_of(path);
        if let Some(times) = kept.times {
            rustix::fs::utimensat(CWD, path, &timestamps(times), AtFlags::empty())
                .map_err(io::Error::from)?;
        }
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(kept.mode))?)
    }

    fn read<'a>(&'a mut self, path: &[u8], start: u64, _: &Meta) -> Result<Box<dyn Source + 'a>, Fault> {
        // Not to wait for whoever might write to a pipe.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path_of(path))?;
        if !file.metadata()?.is_file() {
            return Err(Fault::new("not a regular file"));
        }
        file.seek(SeekFrom::Start(start))?;
        Ok(Box::new(Reading { file, buffer: vec![0; PIECE] }))
    }

    fn write<'a>(&'a mut self, path: &[u8], start: u64, mode: u32) -> Result<Box<dyn Target + 'a>, Fault> {
        let mut options = OpenOptions::new();
        let anew = start == 0;
        let mut file = options.write(true).create(anew).truncate(anew).mode(mode).open(path_of(path))?;
        if !anew {
            file.seek(SeekFrom::Start(start))?;
        }
        Ok(Box::new(Writing(file)))
    }
}

struct Reading {
    file: File,
    buffer: Vec<u8>,
}

impl Source for Reading {
    fn next(&mut self) -> Result<Option<&[u8]>, Fault> {
        loop {
            match self.file.read(&mut self.buffer) {
                Ok(0) => return Ok(None),
                Ok(read) => return Ok(Some(&self.buffer[..read])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

struct Writing(File);

impl Target for Writing {
    fn write(&mut self, data: &[u8]) -> Result<(), Fault> {
        Ok(self.0.write_all(data)?)
    }

    fn finish(self: Box<Self>, kept: Option<Kept>) -> Result<(), Fault> {
        let Some(kept) = kept else { return Ok(()) };
        rustix::fs::fchmod(&self.0, Mode::from_raw_mode(kept.mode)).map_err(io::Error::from)?;
        if let Some(times) = kept.times {
            rustix::fs::futimens(&self.0, &timestamps(times)).map_err(io::Error::from)?;
        }
        Ok(())
    }
}
