//! How much of an archive may be read at a time.
//!
//! The tar library reads long names and extended headers into memory, as long as they say they are. Between two entries it may read what
//! is left of the last one and a bounded amount of headers, and no more.

use std::cell::Cell;
use std::io::{self, Read, Seek, SeekFrom};
use std::rc::Rc;

/// Most bytes of headers for one entry. A name has 4 KiB; extended attributes have 64 KiB each.
const MAX_HEADERS: u64 = 2 << 20;

/// Blocks are 512 bytes, so content has that much padding at most.
const PADDING: u64 = 512;

/// What may be read, shared by the reader and whoever knows what comes.
#[derive(Debug)]
pub(super) struct Meter {
    now: Cell<u64>,
    in_all: Cell<u64>,
}

impl Meter {
    /// For content of at most `bytes` in all, with room for the headers of many small files.
    pub(super) fn new(bytes: u64) -> Self {
        Self { now: Cell::new(0), in_all: Cell::new(bytes.saturating_add(bytes / 4)) }
    }

    /// Content of so many bytes comes, and then headers.
    pub(super) fn expect(&self, content: u64) {
        self.now.set(content.saturating_add(PADDING + MAX_HEADERS));
    }
}

/// A reader that stops with an error where more is read than was expected.
#[derive(Debug)]
pub(super) struct Metered<R> {
    inner: R,
    meter: Rc<Meter>,
}

impl<R> Metered<R> {
    pub(super) fn new(inner: R, meter: Rc<Meter>) -> Self {
        Self { inner, meter }
    }
}

impl<R: Seek> Seek for Metered<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        let read = n as u64;
        let (now, in_all) = (self.meter.now.get(), self.meter.in_all.get());
        if read > now {
            return Err(io::Error::other("its headers are too long"));
        }
        if read > in_all {
            return Err(io::Error::other("it never ends"));
        }
        self.meter.now.set(now - read);
        self.meter.in_all.set(in_all - read);
        Ok(n)
    }
}
