//! `scp -t`: takes files from the client.
//!
//! Directories may lie in each other as deep as a path can be long, so their state is a stack of its own and not the program's.

use std::io::{Read, Write};

use rustix::io::Errno;
use sandgate_sftp::audit::{Audit, Event, Verb};
use sandgate_sftp::vfs::{self, Follow, MAX_PATH, Metadata, OpenFlags, Vfs, VfsFile, Wait};

use crate::Context;
use crate::command::Options;
use crate::peer::{Answer, Line, Peer, Stop, about, text};
use crate::record::{self, Entry, Record, RecordError, Times};

/// Owner may write; owner may do all.
const OWNER_WRITE: u32 = 0o200;
const OWNER_ALL: u32 = 0o700;
/// setuid, setgid and sticky bit: kept with `-p` only.
const SPECIAL_BITS: u32 = 0o7000;

/// Takes what the client sends into the one path of `paths`.
pub fn run<R: Read, W: Write>(
    options: Options,
    paths: &[Vec<u8>],
    context: Context<'_>,
    peer: &mut Peer<R, W>,
) -> Result<(), Stop> {
    let [target] = paths else {
        peer.complain(b"ambiguous target")?;
        return Err(Stop);
    };
    let found = context.vfs.stat(target, Follow::Yes);
    let is_dir = found.is_ok_and(|meta| meta.is_dir());
    if options.directory && !is_dir {
        peer.complain(&about(target, &text(found.err().unwrap_or(Errno::NOTDIR))))?;
        return Err(Stop);
    }
    let mut sink = Sink {
        vfs: context.vfs,
        audit: context.audit,
        options,
        mask: if options.preserve { 0 } else { context.umask | SPECIAL_BITS },
        umask: context.umask,
        base: if target.starts_with(b"/") { Vec::new() } else { context.vfs.cwd().unwrap_or_default() },
        path: target.clone(),
        target_is_dir: is_dir,
        levels: Vec::new(),
        times: None,
        fresh: true,
        peer,
    };
    sink.peer.agree()?;
    while sink.record()? {}
    Ok(())
}

struct Sink<'a, R, W> {
    peer: &'a mut Peer<R, W>,
    vfs: &'a dyn Vfs,
    audit: &'a mut dyn Audit,
    options: Options,
    /// Bits that received modes lose.
    mask: u32,
    umask: u32,
    /// What makes `path` absolute, for the audit.
    base: Vec<u8>,
    /// The target, or the directory that is being filled.
    path: Vec<u8>,
    target_is_dir: bool,
    levels: Vec<Level>,
    /// From the last `T`, for the next file or directory.
    times: Option<Times>,
    /// No record yet in this directory.
    fresh: bool,
}

/// A directory that is being filled.
struct Level {
    /// Length of the path that it lies in.
    outer: usize,
    /// To set when it is full; before, it might not be writable.
    mode: Option<u32>,
    times: Option<Times>,
}

impl<R: Read, W: Write> Sink<'_, R, W> {
    /// Reads and carries out one record; false at the end.
    fn record(&mut self) -> Result<bool, Stop> {
        let line = match self.peer.line()? {
            Line::Whole(line) => line,
            Line::End => {
                // The client is gone without an `E`: what has come is still put right.
                while self.leave() {}
                return Ok(false);
            }
            Line::Cut => return self.malformed("lost connection"),
            Line::Long => return self.malformed("record too long"),
        };
        let fresh = std::mem::take(&mut self.fresh);
        match record::parse(&line) {
            Ok(Record::File(entry)) => self.file(&entry)?,
            Ok(Record::Directory(entry)) => self.directory(&entry)?,
            Ok(Record::Times(times)) => {
                self.times = Some(times);
                self.peer.agree()?;
            }
            Ok(Record::End) => {
                self.peer.agree()?;
                return Ok(self.leave());
            }
            Ok(Record::Warning) => self.peer.set_failed(),
            Ok(Record::Fatal) => return Err(Stop),
            // Not scp but something that prints: the client may as well see what.
            Err(RecordError::Unknown) if fresh => {
                self.peer.complain(&line)?;
                return Err(Stop);
            }
            Err(error @ RecordError::Name) => {
                let name = line.splitn(3, |b| *b == b' ').nth(2).unwrap_or_default();
                self.peer.complain(&[error.to_string().as_bytes(), b": ", name].concat())?;
                return Err(Stop);
            }
            Err(error) => {
                self.peer.complain(error.to_string().as_bytes())?;
                return Err(Stop);
            }
        }
        Ok(true)
    }

    fn malformed(&mut self, why: &'static str) -> Result<bool, Stop> {
        self.peer.complain(RecordError::Malformed(why).to_string().as_bytes())?;
        Err(Stop)
    }

    /// Where something with this name goes.
    fn place(&self, name: &[u8]) -> Vec<u8> {
        if !self.target_is_dir {
            return self.path.clone();
        }
        let slash: &[u8] = if self.path == b"/" { b"" } else { b"/" };
        [&self.path, slash, name].concat()
    }

    fn look(&self, place: &[u8]) -> Result<Option<Metadata>, Errno> {
        if place.len() > MAX_PATH {
            return Err(Errno::NAMETOOLONG);
        }
        Ok(self.vfs.stat(place, Follow::Yes).ok())
    }

    fn directory(&mut self, entry: &Entry<'_>) -> Result<(), Stop> {
        if !self.options.recursive {
            return self.malformed("received directory without -r").map(|_| ());
        }
        let place = self.place(entry.name);
        let mode = entry.mode & !self.mask;
        let times = self.times.take();
        let opened = self.look(&place).and_then(|found| match found {
            Some(meta) if !meta.is_dir() => Err(Errno::NOTDIR),
            Some(_) => Ok(Verb::Changed),
            None => self.vfs.make_dir(&place, mode | OWNER_ALL).map(|()| Verb::MadeDir),
        });
        let verb = match opened {
            Ok(verb) => verb,
            Err(errno) => return self.peer.complain(&about(&place, &text(errno))),
        };
        let made = verb == Verb::MadeDir;
        if made || self.options.preserve {
            self.tell(verb, 0, &place, None)?;
        }
        if self.options.preserve && !made {
            // As in OpenSSH: if it cannot be done, that shows when the files come.
            let _ = self.vfs.set_mode(&place, mode, Follow::Yes);
        }
        let mode = (made || self.options.preserve).then_some(mode);
        self.levels.push(Level { outer: self.path.len(), mode, times });
        self.path = place;
        self.target_is_dir = true;
        self.fresh = true;
        self.peer.agree()
    }

    /// Ends a directory; false when there is none to end. Time and mode of a directory are best effort, as in OpenSSH.
    fn leave(&mut self) -> bool {
        let Some(level) = self.levels.pop() else { return false };
        if let Some(times) = level.times {
            let _ = self.vfs.set_times(&self.path, for_vfs(times), Follow::Yes);
        }
        if let Some(mode) = level.mode {
            let _ = self.vfs.set_mode(&self.path, mode, Follow::Yes);
        }
        self.path.truncate(level.outer);
        self.times = None;
        true
    }

    fn file(&mut self, entry: &Entry<'_>) -> Result<(), Stop> {
        let place = self.place(entry.name);
        let times = self.times.take();
        let found = self.look(&place);
        let opened = found.and_then(|found| {
            // A pipe or a device takes bytes in order, not at offsets.
            let stream = found.is_some_and(|meta| meta.may_block());
            let order = if stream { OpenFlags::APPEND } else { OpenFlags::default() };
            let flags = OpenFlags::WRITE.with(OpenFlags::CREATE).with(order);
            let mode = entry.mode & !self.mask | OWNER_WRITE;
            Ok((self.vfs.open(&place, flags, mode, Wait::Allowed)?, found))
        });
        let (file, found) = match opened {
            Ok(opened) => opened,
            Err(errno) => return self.peer.complain(&about(&place, &text(errno))),
        };
        self.tell(Verb::Opened, 0, &place, None)?;
        self.peer.agree()?;
        let mut written = 0;
        let received = self.content(&*file, entry.size, &mut written);
        // Also when the client vanished in the middle: what is there is there.
        let problem = received.map(|outcome| self.finish(&*file, entry, found, outcome.err()));
        let size = file.stat().ok().and_then(|meta| meta.file_size());
        self.tell(Verb::Wrote, written, &place, size)?;
        let problem = problem?;
        if problem.is_some() {
            self.peer.set_failed();
        }
        let complete = written == entry.size;
        // The client's word on its own side of the copy. After "no" the bytes are as good as they will get, and it goes on.
        let (Answer::Yes | Answer::No) = self.peer.answer()?;
        let late = times.filter(|_| complete).and_then(|times| file.set_times(for_vfs(times)).err());
        let late = late.map(|errno| format!("set times: {}", text(errno)));
        match problem.or(late) {
            None => self.peer.agree(),
            Some(problem) => self.peer.complain(&about(&place, &problem)),
        }
    }

    /// Receives `size` bytes. After an error of the file the rest is read and dropped, so that the stream stays in step.
    fn content(
        &mut self,
        file: &dyn VfsFile,
        size: u64,
        written: &mut u64,
    ) -> Result<Result<(), Errno>, Stop> {
        let mut outcome = Ok(());
        let mut left = size;
        while left > 0 {
            let Some(piece) = self.peer.piece(left)? else {
                self.peer.complain(b"dropped connection")?;
                return Err(Stop);
            };
            if outcome.is_ok() {
                outcome = write_all(file, piece, written);
            }
            let count = piece.len();
            left -= count as u64;
            self.peer.taken(count);
        }
        Ok(outcome)
    }

    /// Length and mode of a file whose bytes have come. Gives the first problem, `failed` being the one before all others.
    fn finish(
        &self,
        file: &dyn VfsFile,
        entry: &Entry<'_>,
        found: Option<Metadata>,
        failed: Option<Errno>,
    ) -> Option<String> {
        let mut problem = failed.map(text);
        if problem.is_none()
            && found.is_none_or(|meta| meta.is_file())
            && let Err(errno) = file.set_len(entry.size)
        {
            problem = Some(format!("truncate: {}", text(errno)));
        }
        let mode = entry.mode & !self.mask;
        let as_made = (mode | OWNER_WRITE) & !self.umask;
        let set = if self.options.preserve {
            // What was there keeps its mode otherwise; what was made has lost the umask.
            found.is_some() || as_made != mode
        } else {
            found.is_none() && mode | OWNER_WRITE != mode
        };
        if set && let Err(errno) = file.set_mode(mode) {
            problem.get_or_insert(format!("set mode: {}", text(errno)));
        }
        problem
    }

    /// Records a change, with the size of the whole file where it is known.
    fn tell(&mut self, verb: Verb, size: u64, place: &[u8], file_size: Option<u64>) -> Result<(), Stop> {
        let slash: &[u8] = if self.base.is_empty() || self.base.ends_with(b"/") { b"" } else { b"/" };
        let path = [&self.base, slash, place].concat();
        self.audit.record(&Event::new(verb, size, &path).of_size(file_size)).map_err(|_| Stop)
    }
}

fn write_all(file: &dyn VfsFile, mut bytes: &[u8], at: &mut u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match file.write_at(bytes, *at)? {
            // Nothing taken and no reason given.
            0 => return Err(Errno::PIPE),
            count => {
                let count = count.min(bytes.len());
                *at += count as u64;
                bytes = &bytes[count..];
            }
        }
    }
    Ok(())
}

fn for_vfs(times: Times) -> vfs::Times {
    vfs::Times {
        atime: times.accessed.seconds,
        atime_nsec: times.accessed.micros * 1000,
        mtime: times.modified.seconds,
        mtime_nsec: times.modified.micros * 1000,
    }
}

#[cfg(test)]
mod tests;
