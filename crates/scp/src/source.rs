//! `scp -f`: sends files to the client.
//!
//! Directories are walked in the order in which the file system lists them, one open directory for each level and never a list of names.
//! Symbolic links are followed, as OpenSSH does; a loop of them ends where the kernel says so.

use std::io::{Read, Write};

use rustix::io::Errno;
use sandgate_sftp::vfs::{Follow, MAX_PATH, Metadata, OpenFlags, S_IFMT, Vfs, VfsDir, VfsFile, Wait};

use crate::command::Options;
use crate::peer::{Answer, PIECE, Peer, Stop, about, text};
use crate::record::{entry_record, times_record};
use crate::vis::on_one_line;

/// Type: socket.
const S_IFSOCK: u32 = 0o140_000;

/// Sends all `paths`, one after the other.
pub fn run<R: Read, W: Write>(
    options: Options,
    paths: &[Vec<u8>],
    vfs: &dyn Vfs,
    peer: &mut Peer<R, W>,
) -> Result<(), Stop> {
    // The client says that it is ready; whatever else it says, it is.
    let (Answer::Yes | Answer::No) = peer.answer()?;
    let mut source = Source { peer, vfs, options, path: Vec::new(), levels: Vec::new(), buffer: Vec::new() };
    for path in paths {
        source.path.clone_from(path);
        while source.path.len() > 1 && source.path.ends_with(b"/") {
            source.path.pop();
        }
        source.send()?;
        while source.advance()? {}
    }
    Ok(())
}

struct Source<'a, R, W> {
    peer: &'a mut Peer<R, W>,
    vfs: &'a dyn Vfs,
    options: Options,
    /// What is being sent.
    path: Vec<u8>,
    levels: Vec<Level>,
    buffer: Vec<u8>,
}

/// A directory that is being sent.
struct Level {
    dir: Box<dyn VfsDir>,
    /// Length of its path.
    path: usize,
}

impl<R: Read, W: Write> Source<'_, R, W> {
    /// Goes on with the innermost directory; false when there is none.
    fn advance(&mut self) -> Result<bool, Stop> {
        let Some(level) = self.levels.last_mut() else { return Ok(false) };
        self.path.truncate(level.path);
        let next = level.dir.next_entry();
        match next {
            Ok(Some(entry)) if matches!(&entry.name[..], b"." | b"..") => {}
            Ok(Some(entry)) => {
                self.path.push(b'/');
                self.path.extend_from_slice(&entry.name);
                if self.path.len() > MAX_PATH {
                    self.peer.complain(&about(&self.path, "name too long"))?;
                } else {
                    self.send()?;
                }
            }
            outcome => {
                if let Err(errno) = outcome {
                    self.complain(&text(errno))?;
                }
                self.levels.pop();
                self.peer.send(b"E\n")?;
                let (Answer::Yes | Answer::No) = self.peer.answer()?;
            }
        }
        Ok(true)
    }

    /// Sends what is at the path. A directory is only begun.
    fn send(&mut self) -> Result<(), Stop> {
        let opened = self.vfs.open(&self.path, OpenFlags::READ, 0, Wait::Refused);
        let opened = opened.and_then(|file| file.stat().map(|meta| (file, meta)));
        match opened {
            Ok((file, meta)) if meta.is_file() => self.file(&*file, &meta),
            Ok((_, meta)) if meta.is_dir() && self.options.recursive => self.directory(&meta),
            // Only a socket cannot even be opened; the rest can and is not wanted.
            Err(Errno::WOULDBLOCK) if self.is_socket() => self.complain(&text(Errno::NXIO)),
            Ok(_) | Err(Errno::WOULDBLOCK) => self.complain("not a regular file"),
            Err(errno) => self.complain(&text(errno)),
        }
    }

    fn is_socket(&self) -> bool {
        self.vfs.stat(&self.path, Follow::Yes).is_ok_and(|meta| meta.mode & S_IFMT == S_IFSOCK)
    }

    fn complain(&mut self, what: &str) -> Result<(), Stop> {
        self.peer.complain(&about(&self.path, what))
    }

    /// Announces the file or directory at the path, with its times first where they are wanted.
    fn announce(&mut self, kind: u8, meta: &Metadata, size: u64) -> Result<Answer, Stop> {
        if self.options.preserve {
            self.peer.send(&times_record(meta.mtime, meta.atime))?;
            if self.peer.answer()? == Answer::No {
                return Ok(Answer::No);
            }
        }
        let name = self.path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        self.peer.send(&entry_record(kind, meta.mode, size, &on_one_line(name)))?;
        self.peer.answer()
    }

    fn directory(&mut self, meta: &Metadata) -> Result<(), Stop> {
        let dir = match self.vfs.open_dir(&self.path) {
            Ok(dir) => dir,
            Err(errno) => return self.complain(&text(errno)),
        };
        if self.announce(b'D', meta, 0)? == Answer::No {
            return Ok(());
        }
        self.levels.push(Level { dir, path: self.path.len() });
        // A directory that can be listed and not entered would look empty.
        if let Err(errno) = self.vfs.stat(&[&self.path[..], b"/."].concat(), Follow::Yes) {
            self.complain(&text(errno))?;
        }
        Ok(())
    }

    fn file(&mut self, file: &dyn VfsFile, meta: &Metadata) -> Result<(), Stop> {
        if i64::try_from(meta.size).is_err() {
            return self.complain("Negative file size");
        }
        if self.announce(b'C', meta, meta.size)? == Answer::No {
            return Ok(());
        }
        file.expect_sequential();
        let problem = self.content(file, meta.size)?;
        if let Some(errno) = problem {
            self.complain(&text(errno))?;
        }
        let (Answer::Yes | Answer::No) = self.peer.answer()?;
        Ok(())
    }

    /// Sends exactly `size` bytes, zeros for what cannot be read (any more), and the 0 that says that all of them are right. Without
    /// that, gives what was wrong.
    fn content(&mut self, file: &dyn VfsFile, size: u64) -> Result<Option<Errno>, Stop> {
        // One byte more than a piece: the 0 at the end goes with the last one.
        self.buffer.resize(PIECE + 1, 0);
        let mut problem = None;
        let mut at = 0;
        loop {
            let want = usize::try_from(size - at).unwrap_or(PIECE).min(PIECE);
            let (piece, rest) = self.buffer.split_at_mut(want);
            if problem.is_none() {
                problem = read_exact(file, piece, at).err();
            } else {
                piece.fill(0);
            }
            at += want as u64;
            if at < size {
                self.peer.send(piece)?;
                continue;
            }
            let end = want + usize::from(problem.is_none());
            rest[0] = 0;
            self.peer.send(&self.buffer[..end])?;
            return Ok(problem);
        }
    }
}

/// Fills `piece`; with zeros from where the file fails or ends. An end is a broken pipe, as it is to OpenSSH.
fn read_exact(file: &dyn VfsFile, piece: &mut [u8], at: u64) -> Result<(), Errno> {
    let mut done = 0;
    while done < piece.len() {
        let problem = match file.read_at(&mut piece[done..], at + done as u64) {
            Ok(count @ 1..) => {
                done = piece.len().min(done + count);
                continue;
            }
            Ok(0) => Errno::PIPE,
            Err(errno) => errno,
        };
        piece[done..].fill(0);
        return Err(problem);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::testing::{Memory, Nobody};
    use crate::{Context, Status, serve};
    use sandgate_sftp::audit::Silent;

    fn talk(memory: &Memory, command: &str, client: &[u8]) -> (String, Status) {
        let mut sent = Vec::new();
        let context = Context { vfs: memory, audit: &mut Silent, homes: &Nobody, umask: 0o022 };
        let status = serve(&Command::parse(command.as_bytes()).unwrap(), context, client, &mut sent);
        (sent.escape_ascii().to_string(), status)
    }

    fn tree() -> Memory {
        let memory = Memory::new();
        memory.make_dir(b"/d", 0o750).unwrap();
        memory.make_dir(b"/d/e", 0o755).unwrap();
        memory.put(b"/d/a", b"hello");
        memory.put(b"/d/e/b", b"");
        memory
    }

    #[test]
    fn files_go_with_mode_length_and_last_name() {
        let (sent, status) = talk(&tree(), "scp -f /d/a d/e/b", &[0; 5]);
        assert_eq!(sent, "C0644 5 a\\nhello\\x00C0644 0 b\\n\\x00");
        assert_eq!(status, Status::Done);
    }

    #[test]
    fn directories_go_with_all_that_is_in_them() {
        let (sent, status) = talk(&tree(), "scp -r -p -f /d///", &[0; 100]);
        let times = "T0 0 0 0\\n";
        let file = format!("{times}C0644 5 a\\nhello\\x00");
        let inner = format!("{times}D0755 0 e\\n{times}C0644 0 b\\n\\x00E\\n");
        assert_eq!(sent, format!("{times}D0750 0 d\\n{file}{inner}E\\n"));
        assert_eq!(status, Status::Done);
    }

    #[test]
    fn what_cannot_be_sent_is_reported_and_the_rest_goes_on() {
        let (sent, status) = talk(&tree(), "scp -f /none /d d/a/ 'x\ny' /d/a", &[0; 100]);
        let expected = "\\x01scp: /none: No such file or directory\\n\\x01scp: /d: not a regular file\\nC0644 5 a\\nhello\\x00\
                        \\x01scp: x\\\\^Jy: No such file or directory\\nC0644 5 a\\nhello\\x00";
        assert_eq!(sent, expected);
        assert_eq!(status, Status::Failed);
    }

    #[test]
    fn names_with_a_newline_go_encoded_in_files_and_directories() {
        let memory = Memory::new();
        memory.make_dir(b"/d\n", 0o755).unwrap();
        memory.put(b"/d\n/a\nb", b"");
        memory.put(b"/d\n/c\\", b"");
        let (sent, status) = talk(&memory, "scp -r -f /d*", &[0; 100]);
        assert_eq!(sent, r"D0755 0 d\\^J\nC0644 0 a\\^Jb\n\x00C0644 0 c\\\n\x00E\n");
        assert_eq!(status, Status::Done);
    }

    #[test]
    fn what_the_client_refuses_is_left_out() {
        // Yes to begin, no to the directory, yes to the file and its end.
        let (sent, status) = talk(&tree(), "scp -r -f /d /d/a", b"\0\x01no\n\0\0");
        assert_eq!(sent, "D0750 0 d\\nC0644 5 a\\nhello\\x00");
        assert_eq!(status, Status::Failed);
        let (sent, status) = talk(&tree(), "scp -r -f /d /d/a", b"\0\x02no\n\0\0");
        assert_eq!((&sent[..], status), ("D0750 0 d\\n", Status::Failed));
    }

    #[test]
    fn nothing_is_sent_to_a_client_that_is_gone() {
        assert_eq!(talk(&tree(), "scp -f /d/a", b""), (String::new(), Status::Failed));
        assert_eq!(talk(&tree(), "scp -f", b"\0"), (String::new(), Status::Done));
    }

    #[test]
    fn too_much_for_a_shell_is_refused() {
        let memory = Memory::new();
        memory.make_dir(b"/d", 0o755).unwrap();
        for name in 0..400 {
            memory.put(format!("/d/{name:0250}").as_bytes(), b"");
        }
        let command = format!("scp -f {}", "/d/* ".repeat(40));
        let (sent, status) = talk(&memory, &command, &[0; 10]);
        assert_eq!((&sent[..], status), ("\\x01scp: Argument list too long\\n", Status::Failed));
    }

    #[test]
    fn a_file_that_shrinks_is_padded_and_reported() {
        let memory = tree();
        let file = memory.open(b"/d/a", OpenFlags::READ, 0, Wait::Refused).unwrap();
        let send = |size: usize| {
            let mut sent = Vec::new();
            let mut peer = Peer::new(&b""[..], &mut sent);
            let mut source = Source {
                peer: &mut peer,
                vfs: &memory,
                options: Options::default(),
                path: Vec::new(),
                levels: Vec::new(),
                buffer: Vec::new(),
            };
            let problem = source.content(&*file, size as u64).unwrap();
            assert!(sent.starts_with(b"hello") && sent[5..].iter().all(|byte| *byte == 0));
            (sent.len(), problem)
        };
        assert_eq!(send(5), (6, None));
        assert_eq!(send(6), (6, Some(Errno::PIPE)));
        let size = PIECE * 2 + 100;
        assert_eq!(send(size), (size, Some(Errno::PIPE)));
    }
}
