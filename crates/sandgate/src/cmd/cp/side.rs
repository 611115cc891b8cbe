//! What a copy needs of the place that it comes from and of the one that it goes to.

use std::fmt;
use std::io;

use sandgate_sftp::client::{ClientError, Handle};

/// Bytes moved at once.
pub const PIECE: usize = 255 * 1024;
/// The mode bits that are copied: a file from elsewhere never brings set-uid, as with scp.
pub const MODE_BITS: u32 = 0o777;

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    /// A symbolic link, in a listing; elsewhere links are followed.
    Link,
    Other,
}

/// What is known about a file.
#[derive(Debug, Clone, Copy)]
pub struct Meta {
    pub kind: Kind,
    /// In bytes; 0 where it is not known.
    pub size: u64,
    /// [`MODE_BITS`].
    pub mode: u32,
    pub times: Option<Times>,
}

/// Last access and last change, in seconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub accessed: i64,
    pub modified: i64,
}

/// What is set on a copy.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    pub mode: u32,
    pub times: Option<Times>,
}

/// An entry of a directory.
#[derive(Debug)]
pub struct Entry {
    pub name: Vec<u8>,
    pub meta: Meta,
}

/// An open directory.
#[derive(Debug)]
pub enum Listing {
    Local(std::fs::ReadDir),
    Remote(Handle),
}

/// Tells a directory from all others of its side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Device and inode.
    Inode(u64, u64),
    /// The path without links.
    Path(Vec<u8>),
}

/// Where files are. Paths are bytes; links are followed everywhere but in a listing.
pub trait Side {
    /// A path as it is shown to people.
    fn name(&self, path: &[u8]) -> String;
    /// The path that is worked with: `~user` is a home directory in a sandbox.
    fn resolve(&mut self, path: &[u8]) -> Result<Vec<u8>, Fault> {
        Ok(path.to_vec())
    }
    /// What is there; `None` when nothing is.
    fn meta(&mut self, path: &[u8]) -> Result<Option<Meta>, Fault>;
    fn open_dir(&mut self, path: &[u8]) -> Result<Listing, Fault>;
    /// The next entries; `None` at the end.
    fn entries(&mut self, listing: &mut Listing) -> Result<Option<Vec<Entry>>, Fault>;
    fn close_dir(&mut self, listing: Listing);
    /// Of a directory. One that is no link may be told from its parent's and its name.
    fn identity(&mut self, path: &[u8], parent: Option<(&Identity, &[u8])>) -> Result<Identity, Fault>;
    /// Makes a directory with `mode` less the umask of that side.
    fn make_dir(&mut self, path: &[u8], mode: u32) -> Result<(), Fault>;
    fn set(&mut self, path: &[u8], kept: Kept) -> Result<(), Fault>;
    /// A file's bytes from `start` on. `meta` is what is known of it.
    fn read<'a>(&'a mut self, path: &[u8], start: u64, meta: &Meta) -> Result<Box<dyn Source + 'a>, Fault>;
    /// A file to be written from `start` on. What was there is cut off at 0 only: otherwise the file ends at `start`.
    fn write<'a>(&'a mut self, path: &[u8], start: u64, mode: u32) -> Result<Box<dyn Target + 'a>, Fault>;
}

/// An open file that is read.
pub trait Source {
    /// The next bytes; `None` at the end.
    fn next(&mut self) -> Result<Option<&[u8]>, Fault>;
}

/// An open file that is written.
pub trait Target {
    fn write(&mut self, data: &[u8]) -> Result<(), Fault>;
    /// Waits until all is written.
    fn finish(self: Box<Self>, kept: Option<Kept>) -> Result<(), Fault>;
}

/// Why something failed.
#[derive(Debug)]
pub struct Fault {
    text: String,
    /// Nothing more can be done on this side.
    pub is_fatal: bool,
}

impl Fault {
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_fatal: false }
    }

    /// In the words of the system.
    pub fn missing() -> Self {
        Self::new("No such file or directory")
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        let text = error.to_string();
        // The number says nothing that the words do not.
        Self::new(text.split(" (os error ").next().unwrap_or_default())
    }
}

impl From<ClientError> for Fault {
    fn from(error: ClientError) -> Self {
        if error.is_missing() {
            return Self::missing();
        }
        Self { is_fatal: error.is_fatal(), text: error.to_string() }
    }
}
