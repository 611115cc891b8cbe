//! The remote side of the old scp protocol, the one that `scp -O` talks to: `scp -t` (sink) and `scp -f` (source).
//!
//! Primer: the client runs a command line on the other side and then speaks over its standard input and output. One side is the *source*
//! and sends records (a file, a directory, times; see [`record`]); the other is the *sink* and answers each with one byte: 0 for yes, 1
//! with a line of text for "not this one", 2 with a line of text for the end. The reference is OpenSSH's scp; clients print what we say,
//! so messages use its words.
//!
//! * [`command`]: the command line, for images that have no shell to cut and expand it ([`words`], [`pattern`], [`expand`]).
//! * [`serve`]: carries it out over a file system and two byte streams, synchronously.
//!
//! Memory: one buffer of 256 KiB for either direction; a path of at most 4095 bytes; for each level of directories a few words and, in
//! the source, one open directory with its buffer of some kilobytes (at most 2047 levels, since longer paths do not exist, and never more
//! than the process may have descriptors). Expanding a pattern holds the names that match,
//! at most [`expand::MAX_EXPANSION`] bytes, because a shell puts them in order. Nothing else grows with what is copied.
//!
//! Where this differs from OpenSSH 9.2 on purpose:
//! * Without `-p`, setuid, setgid and sticky bits are dropped, as OpenSSH does since 10.3.
//! * A directory with a newline in its name is sent (encoded); OpenSSH looks for the encoded name and fails. A message about such a name
//!   stays on one line, and no message is longer than a client can take.
//! * Flags are read before words are expanded: a file named `-r` that `*` matches is a file.
//! * A directory that can be listed but not entered, or whose listing fails in the middle, is one error for the directory.
//! * A record of more than 2046 bytes ends the session, instead of being taken for two; `-v` prints nothing.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod command;
pub mod expand;
pub mod pattern;
pub mod program;
pub mod record;
pub mod words;

mod peer;
mod sink;
mod source;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod vis;

use std::io::{Read, Write};

use sandgate_sftp::audit::Audit;
use sandgate_sftp::vfs::Vfs;

use command::{Command, Direction};
use expand::Homes;
use peer::{Peer, Stop};

/// What a transfer takes place in.
pub struct Context<'a> {
    /// The files. What it does not allow does not happen.
    pub vfs: &'a dyn Vfs,
    /// Who is told of changes.
    pub audit: &'a mut dyn Audit,
    /// Where `~` and `~user` point.
    pub homes: &'a dyn Homes,
    /// The umask of the process, which the file system applies to what it makes: modes that are set later are cut by it too.
    pub umask: u32,
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// All was copied.
    Done,
    /// Something was not; the client has been told what, if it was still there.
    Failed,
}

impl Status {
    /// The exit status of scp.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
        }
    }
}

/// Runs one scp command over its standard input and output, to the end.
///
/// `output` is written in whole pieces and is best not buffered again.
pub fn serve(command: &Command, context: Context<'_>, input: impl Read, output: impl Write) -> Status {
    let mut peer = Peer::new(input, output);
    match run(command, context, &mut peer) {
        Ok(()) if !peer.failed() => Status::Done,
        Ok(()) | Err(Stop) => Status::Failed,
    }
}

fn run<R: Read, W: Write>(
    command: &Command,
    context: Context<'_>,
    peer: &mut Peer<R, W>,
) -> Result<(), Stop> {
    let mut paths = Vec::with_capacity(command.words.len());
    let mut room = expand::MAX_EXPANSION;
    for word in &command.words {
        if let Err(error) = expand::expand(word, context.vfs, context.homes, &mut room, &mut paths) {
            peer.complain(error.to_string().as_bytes())?;
            return Err(Stop);
        }
    }
    match command.direction {
        Direction::To => sink::run(command.options, &paths, context, peer),
        Direction::From => source::run(command.options, &paths, context.vfs, peer),
    }
}
