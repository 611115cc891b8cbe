//! The command line that an scp client sends: `scp [-v] [-r] [-p] [-d] -t|-f [--] path...`.
//!
//! sshd gives it to the user's shell, which cuts it into words, expands `~`, `*` and the like, and runs `scp`. Where there is no shell
//! and no `scp`, [`Command::parse`] does the first part and [`crate::expand`] the second. What is not exactly such a command is not
//! for us, and whoever asked goes on to the shell.
//!
//! Known senders: OpenSSH (`scp -r -p -d -t path`, with `-- ` before a path that begins with a dash), PuTTY's pscp and WinSCP (path in
//! double quotes), libssh2 (`scp -pf 'path'`), scp.py for paramiko, libssh, JSch (single quotes), and go-scp (`/usr/bin/scp -qt "path"`).

use crate::words::{self, Word};

/// Longest command line in bytes: what Linux takes as one argument of a program, and so what a shell could get.
pub const MAX_COMMAND: usize = 128 * 1024 - 1;

/// Which way the files go, as seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// `-t`: from the client to us; we are the sink.
    To,
    /// `-f`: from us to the client; we are the source.
    From,
}

/// What the flags ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// `-r`: directories too.
    pub recursive: bool,
    /// `-p`: keep times and modes.
    pub preserve: bool,
    /// `-d`: the target must be a directory.
    pub directory: bool,
}

/// A command line for us, before `~` and patterns are expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Sink or source.
    pub direction: Direction,
    /// Flags.
    pub options: Options,
    /// The paths; a sink must have exactly one, which [`crate::serve`] tells the client.
    pub words: Vec<Word>,
}

impl Command {
    /// Recognises a command line as sent in an exec request. `None`: it needs a shell, or another program.
    ///
    /// Flags are read before expansion, so that a file named `-r` can never become one.
    pub fn parse(line: &[u8]) -> Option<Self> {
        if line.len() > MAX_COMMAND {
            return None;
        }
        let mut words = words::split(line)?.into_iter();
        let program = words.next()?.bytes();
        if program != b"scp" && !(program.starts_with(b"/") && program.ends_with(b"/bin/scp")) {
            return None;
        }
        Self::of(words)
    }

    /// Takes the arguments of a program named `scp`, where a shell has already expanded everything.
    pub fn from_args(args: impl IntoIterator<Item = Vec<u8>>) -> Option<Self> {
        Self::of(args.into_iter().map(|arg| Word::quoted(&arg)))
    }

    fn of(words: impl Iterator<Item = Word>) -> Option<Self> {
        let mut words = words.peekable();
        let mut options = Options::default();
        let mut direction = None;
        // The first word that is no flag ends them, as with BSD's getopt: what follows is a path even with a dash.
        while let Some(flags) = words.next_if(|word| word.0.len() > 1 && word.0[0].byte == b'-') {
            let flags = flags.bytes();
            if flags == b"--" {
                break;
            }
            for flag in &flags[1..] {
                match flag {
                    b'r' => options.recursive = true,
                    b'p' => options.preserve = true,
                    b'd' => options.directory = true,
                    b'f' => direction = Some(Direction::From),
                    // Given both, scp sends.
                    b't' => direction = direction.or(Some(Direction::To)),
                    // For scp's own talk with ssh, which does not take place on this side, and for its progress bar and log.
                    b'v' | b'q' | b'1' | b'2' | b'4' | b'6' | b'3' | b'A' | b'B' | b'C' | b'O' | b'R'
                    | b'T' | b's' => {}
                    _ => return None,
                }
            }
        }
        Some(Self { direction: direction?, options, words: words.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<(Direction, String, Vec<String>)> {
        let command = Command::parse(line.as_bytes())?;
        let Options { recursive, preserve, directory } = command.options;
        let flags = [(recursive, 'r'), (preserve, 'p'), (directory, 'd')];
        let flags = flags.into_iter().filter_map(|(on, flag)| on.then_some(flag)).collect();
        Some((
            command.direction,
            flags,
            command.words.iter().map(|w| String::from_utf8_lossy(&w.bytes()).into()).collect(),
        ))
    }

    #[test]
    fn what_known_clients_send_is_recognised() {
        use Direction::{From, To};
        for (line, direction, flags, words) in [
            ("scp -t /tmp/x", To, "", &["/tmp/x"][..]),
            ("scp -v -r -p -d -t .", To, "rpd", &["."]),
            ("scp -f -- -odd", From, "", &["-odd"]),
            ("scp -r -f 'a b' \"c d\" e\\ f", From, "r", &["a b", "c d", "e f"]),
            ("scp -pf '/it'\\''s'", From, "p", &["/it's"]),
            ("scp -qt \"dir/\"", To, "", &["dir/"]),
            ("/usr/bin/scp -qrt \"x\"", To, "r", &["x"]),
            ("scp -r -p -d -t \"/home/u\"", To, "rpd", &["/home/u"]),
            ("scp -t", To, "", &[]),
            ("scp -t -f x", From, "", &["x"]),
            ("scp -f x -r -- y", From, "", &["x", "-r", "--", "y"]),
            ("scp -f - x", From, "", &["-", "x"]),
            ("scp -t ''", To, "", &[""]),
            ("  scp   -t x \n", To, "", &["x"]),
        ] {
            let words = words.iter().map(|w| w.to_string()).collect();
            assert_eq!(parsed(line), Some((direction, flags.to_string(), words)), "{line}");
        }
    }

    #[test]
    fn anything_else_is_not_for_us() {
        for line in [
            "",
            "scp",
            "scp x y",
            "scp -r x host:y",
            "scp -S /bin/sh -t x",
            "scp -Z -t x",
            "ls",
            "scpx -t x",
            "./scp -t x",
            "exec scp -t x",
            "A=1 scp -t x",
            "scp -t $HOME",
            "scp -t x;id",
            "scp -t 'x",
            "/tmp/scp -t x",
        ] {
            assert_eq!(parsed(line), None, "{line}");
        }
        assert_eq!(Command::parse(&[&b"scp -t "[..], &[b'x'; MAX_COMMAND]].concat()), None);
    }

    #[test]
    fn arguments_of_a_program_are_never_expanded() {
        let args = ["-f", "--", "~", "*"].map(|arg| arg.as_bytes().to_vec());
        let command = Command::from_args(args).map(|c| c.words).unwrap_or_default();
        assert!(command.iter().flat_map(|word| &word.0).all(|c| c.quoted));
    }
}
