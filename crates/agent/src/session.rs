//! One process in the guest: its pipes or terminal, its end, and what happens when the client goes away.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::termios::{OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};
use sandgate_wire::frame::Kind;
use sandgate_wire::message::{Exec, Exit, Pty, Reason, Size};
use sandgate_wire::mux::Mux;

use crate::detached;
use crate::launch::{Base, Launch, Refusal, prepare};
use crate::sys::{self, Spawn, Terminal};
use crate::terminal::{self, Pair};
use crate::users::Database;

/// Bytes that are still read from a terminal after its shell has ended while somebody else holds it. The kernel keeps far less
/// than this, so everything that the shell's own programs wrote is in it.
const MAX_DRAIN: usize = 1024 * 1024;
/// Bytes moved for one session before the others get their turn.
const MAX_TURN: usize = 256 * 1024;
/// Pipe size asked for, in bytes; the kernel's default stays when it says no.
const PIPE_SIZE: usize = 256 * 1024;

/// What came with a request.
#[derive(Debug)]
pub enum Passed {
    /// Nothing that can be used.
    Nothing,
    /// The child's standard input, output and error.
    Pipes([OwnedFd; 3]),
    /// The child's side of a terminal.
    Terminal(OwnedFd),
}

/// How the process is connected.
#[derive(Debug)]
enum Stdio {
    /// The child has the host's own pipes; no data passes the agent.
    Passed,
    /// The child has a terminal whose master side is the host's.
    PassedTerminal,
    /// Pipes to the child.
    Pipes { stdin: Option<OwnedFd>, stdout: Option<OwnedFd>, stderr: Option<OwnedFd> },
    /// The master side of its terminal; `None` once it is finished.
    Pty { master: Option<OwnedFd> },
}

/// Which descriptor of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Port {
    /// Standard input.
    Stdin,
    /// Standard output, or the terminal in both directions.
    Main,
    /// Standard error.
    Stderr,
}

/// What a session wants to hear of about one descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interest {
    /// Tell when it can be read.
    pub read: bool,
    /// Tell when it can be written.
    pub write: bool,
    /// Tell when the other end goes away.
    pub hangup: bool,
}

/// A running or ending process.
#[derive(Debug)]
pub struct Session {
    /// The link it belongs to.
    pub link: u64,
    /// Its stream there.
    pub stream: u32,
    /// The child; also its process group and session.
    pub pid: i32,
    stdio: Stdio,
    /// How the child ended, once it did.
    exit: Option<Exit>,
    /// The exit was put into the link.
    exit_sent: bool,
    /// Bytes read from the terminal after the child's end.
    drained: usize,
    /// The stdio of the child, to tell members of its group that have left on purpose.
    marks: detached::Marks,
    /// It is one of the agent's own file servers.
    own: bool,
    /// Nobody has the terminal open. Its master is kept until the child ends: to close it is to hang up, and the child may have let go of
    /// its terminal on purpose (`sleep 3 </dev/null >log 2>&1`).
    silent: bool,
}

/// The steps after the client has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// SIGTERM is next.
    Term,
    /// SIGKILL is next.
    Kill,
}

/// A process group that is being ended.
#[derive(Debug)]
pub struct Ending {
    groups: Vec<i32>,
    marks: detached::Marks,
    /// What comes next.
    pub step: Step,
    /// When.
    pub at: Instant,
}

/// Starts a process for `exec`.
pub fn start(
    base: &Base,
    nofile: Option<(u64, u64)>,
    exec: &Exec,
    passed: Passed,
    link: u64,
    stream: u32,
) -> Result<Session, Refusal> {
    let db = Database::load(std::path::Path::new("/etc"));
    if let Some(pty) = &exec.pty {
        let terminal = match passed {
            Passed::Terminal(slave) => terminal::of_host(slave),
            Passed::Nothing | Passed::Pipes(_) => None,
        };
        let terminal = match terminal {
            Some(terminal) => terminal,
            None => terminal::make()?,
        };
        return start_pty(base, nofile, exec, pty, terminal, &db, link, stream);
    }
    let launch = prepare(base, exec, &db, None)?;
    let (child_ends, stdio) = match passed {
        Passed::Pipes(fds) => (fds, Stdio::Passed),
        Passed::Nothing | Passed::Terminal(_) => {
            let (in_r, in_w) = make_pipe(OurEnd::Write)?;
            let (out_r, out_w) = make_pipe(OurEnd::Read)?;
            let (err_r, err_w) = make_pipe(OurEnd::Read)?;
            (
                [in_r, out_w, err_w],
                Stdio::Pipes { stdin: Some(in_w), stdout: Some(out_r), stderr: Some(err_r) },
            )
        }
    };
    let marks = detached::Marks::of([child_ends[1].as_fd(), child_ends[2].as_fd()]);
    let pid = fork(&launch, child_ends.each_ref().map(AsFd::as_fd), Terminal::None, nofile)?;
    Ok(Session::new(&launch, link, stream, pid, stdio, marks))
}

#[allow(clippy::too_many_arguments, reason = "the request and where it came from")]
fn start_pty(
    base: &Base,
    nofile: Option<(u64, u64)>,
    exec: &Exec,
    pty: &Pty,
    terminal: Pair,
    db: &Database,
    link: u64,
    stream: u32,
) -> Result<Session, Refusal> {
    let Pair { master, slave, path } = terminal;
    let launch = prepare(base, exec, db, Some(path.to_bytes()))?;
    if base.uid == 0 {
        // As login does: the user owns the terminal, group tty may write to it. A failure costs `write` and `mesg`, nothing else.
        let tty_group = db.group_id(b"tty");
        let gid = Gid::from_raw(tty_group.unwrap_or(launch.user.creds.gid));
        let _ = rustix::fs::fchown(&slave, Some(Uid::from_raw(launch.user.creds.uid)), Some(gid));
        let _ =
            rustix::fs::fchmod(&slave, Mode::from_raw_mode(if tty_group.is_some() { 0o620 } else { 0o600 }));
    }
    if let Ok(mut termios) = tcgetattr(&slave) {
        crate::modes::apply(&mut termios, &pty.modes);
        let _ = tcsetattr(&slave, OptionalActions::Now, &termios);
    }
    let _ = tcsetwinsize(&slave, winsize(pty.size));
    let marks = detached::Marks::of([slave.as_fd(), slave.as_fd()]);
    let pid = fork(&launch, [slave.as_fd(); 3], Terminal::Controlling, nofile)?;
    let stdio = match master {
        Some(master) => Stdio::Pty { master: Some(master) },
        None => Stdio::PassedTerminal,
    };
    Ok(Session::new(&launch, link, stream, pid, stdio, marks))
}

fn fork(
    launch: &Launch,
    stdio: [BorrowedFd<'_>; 3],
    terminal: Terminal,
    nofile: Option<(u64, u64)>,
) -> Result<i32, Refusal> {
    let plan = Spawn {
        stdio,
        terminal,
        creds: launch.creds.as_ref(),
        chdirs: &launch.chdirs,
        programs: &launch.programs,
        argv: &launch.argv,
        envp: &launch.envp,
        nofile,
        failure: &launch.failure,
    };
    sys::spawn(&plan).map_err(|e| {
        let text = sys::errno_text(e.raw_os_error().unwrap_or_default());
        Refusal::new(Reason::Resources, format!("the sandbox cannot start another process: {text}"))
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OurEnd {
    Read,
    Write,
}

/// A pipe (read end, write end) whose end that stays here does not block.
fn make_pipe(ours: OurEnd) -> Result<(OwnedFd, OwnedFd), Refusal> {
    let make = || -> Result<(OwnedFd, OwnedFd), Errno> {
        let (r, w) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(if ours == OurEnd::Read { &r } else { &w }, true)?;
        let _ = rustix::pipe::fcntl_setpipe_size(&r, PIPE_SIZE);
        // The user must be able to open /dev/stdout; only who may trace the process can reach it that way.
        let _ = rustix::fs::fchmod(&r, Mode::from_raw_mode(0o666));
        Ok((r, w))
    };
    make().map_err(|e| {
        let text = sys::errno_text(e.raw_os_error());
        Refusal::new(Reason::Resources, format!("the sandbox has no more descriptors for pipes: {text}"))
    })
}

fn winsize(size: Size) -> Winsize {
    let cut = |v: u32| u16::try_from(v).unwrap_or(u16::MAX);
    Winsize {
        ws_row: cut(size.rows),
        ws_col: cut(size.cols),
        ws_xpixel: cut(size.xpixel),
        ws_ypixel: cut(size.ypixel),
    }
}

impl Session {
    fn new(launch: &Launch, link: u64, stream: u32, pid: i32, stdio: Stdio, marks: detached::Marks) -> Self {
        Self {
            link,
            stream,
            pid,
            stdio,
            exit: None,
            exit_sent: false,
            drained: 0,
            marks,
            own: launch.own,
            silent: false,
        }
    }

    /// Whether the child is one of the agent's own file servers.
    pub fn is_own(&self) -> bool {
        self.own
    }

    /// Whether the child runs on what the host has made.
    pub fn is_passed(&self) -> bool {
        matches!(self.stdio, Stdio::Passed | Stdio::PassedTerminal)
    }

    /// Whether output may still come although the child has ended: a background child may hold the host's pipes. With a terminal the
    /// session ends with its shell.
    pub fn may_have_output(&self) -> bool {
        matches!(self.stdio, Stdio::Passed)
    }

    /// Whether the child has ended and left a terminal that is to be read empty. Whoever else holds it keeps it from saying so by itself.
    pub fn has_screen_left(&self) -> bool {
        self.exit.is_some() && matches!(self.stdio, Stdio::Pty { master: Some(_) })
    }

    /// Whether the child has ended and the exit has been put into the link.
    pub fn is_over(&self) -> bool {
        self.exit_sent
    }

    /// The child has been reaped.
    pub fn set_exit(&mut self, exit: Exit) {
        self.exit = Some(exit);
    }

    /// The descriptor behind a port, if it is still open.
    pub fn port(&self, port: Port) -> Option<BorrowedFd<'_>> {
        let fd = match (&self.stdio, port) {
            (Stdio::Pipes { stdin, .. }, Port::Stdin) => stdin,
            (Stdio::Pipes { stdout, .. }, Port::Main) => stdout,
            (Stdio::Pipes { stderr, .. }, Port::Stderr) => stderr,
            (Stdio::Pty { master }, Port::Main) => master,
            _ => return None,
        };
        fd.as_ref().map(AsFd::as_fd)
    }

    /// What to watch on a port now.
    pub fn interest(&self, port: Port, mux: &Mux) -> Interest {
        let can_send = mux.send_capacity(self.stream) > 0;
        let has_input = mux.readable(self.stream).0 > 0;
        match (&self.stdio, port) {
            (Stdio::Pipes { stdin: Some(_), .. }, Port::Stdin) => {
                Interest { read: false, write: has_input, hangup: true }
            }
            (Stdio::Pipes { .. }, Port::Main | Port::Stderr) => {
                Interest { read: can_send, ..Interest::default() }
            }
            // It would report its hangup without end.
            (Stdio::Pty { .. }, Port::Main) if self.silent && self.exit.is_none() => Interest::default(),
            (Stdio::Pty { .. }, Port::Main) => {
                Interest { read: can_send, write: has_input && self.exit.is_none(), hangup: false }
            }
            _ => Interest::default(),
        }
    }

    /// Moves client data to the child.
    pub fn pump_input(&mut self, mux: &mut Mux) {
        let is_pty = matches!(&self.stdio, Stdio::Pty { .. });
        let fd = match &mut self.stdio {
            Stdio::Pipes { stdin, .. } => stdin,
            Stdio::Pty { master } => master,
            Stdio::Passed | Stdio::PassedTerminal => return,
        };
        let mut gone = fd.is_none();
        while let Some(out) = fd.as_ref() {
            let data = mux.peek(self.stream, Kind::Stdin);
            if data.is_empty() {
                break;
            }
            match rustix::io::write(out, data) {
                Ok(n) => mux.take(self.stream, Kind::Stdin, n),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    gone = true;
                    break;
                }
            }
        }
        if gone {
            mux.reader_gone(self.stream);
            if !is_pty {
                *fd = None;
            }
        } else if !is_pty && mux.peer_eof(self.stream) && mux.readable(self.stream).0 == 0 {
            // On a terminal the client's end of input means nothing, as with sshd.
            *fd = None;
        }
    }

    /// The reader of the child's standard input has gone away.
    pub fn input_hung_up(&mut self, mux: &mut Mux) {
        if let Stdio::Pipes { stdin, .. } = &mut self.stdio {
            *stdin = None;
            mux.reader_gone(self.stream);
        }
    }

    /// Nobody reads the child's standard output any more: it gets SIGPIPE, or EPIPE if it ignores that, when it next writes. Standard
    /// error is read on, and a terminal has no such thing.
    pub fn output_unwanted(&mut self) {
        if let Stdio::Pipes { stdout, .. } = &mut self.stdio {
            *stdout = None;
        }
    }

    /// Moves the child's output into the link as far as credit and output room go.
    pub fn pump_output(&mut self, port: Port, mux: &mut Mux) {
        let is_pty = matches!(self.stdio, Stdio::Pty { .. });
        let (fd, kind) = match (&mut self.stdio, port) {
            (Stdio::Pipes { stdout, .. }, Port::Main) => (stdout, Kind::Stdout),
            (Stdio::Pipes { stderr, .. }, Port::Stderr) => (stderr, Kind::Stderr),
            (Stdio::Pty { master }, Port::Main) => (master, Kind::Stdout),
            _ => return,
        };
        let mut moved = 0;
        while let Some(from) = fd.as_ref() {
            if moved >= MAX_TURN || mux.send_capacity(self.stream) == 0 {
                // Asking with an empty room notes that credit is wanted.
                mux.send_with(self.stream, kind, |_| Ok::<_, ()>(0)).unwrap_or_default();
                break;
            }
            let exited = self.exit.is_some();
            let read = |room: &mut [u8]| match (is_pty, exited) {
                (false, _) => rustix::io::read(from, room),
                (true, false) => terminal::read(from, room),
                (true, true) => terminal::read_last(from, room),
            };
            match mux.send_with(self.stream, kind, read) {
                Ok(0) => *fd = None,
                Ok(n) => {
                    moved += n;
                    if is_pty && exited {
                        self.drained += n;
                        if self.drained > MAX_DRAIN {
                            *fd = None;
                        }
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if is_pty && exited {
                        // The shell has ended and the terminal is empty: a background child that holds it does not count.
                        *fd = None;
                    }
                    break;
                }
                // A terminal whose last user has gone reads as EIO.
                Err(_) if is_pty && !exited => {
                    self.silent = true;
                    break;
                }
                Err(_) => *fd = None,
            }
        }
    }

    /// Sends the exit when everything before it has been sent. Returns whether the session is over.
    pub fn finish(&mut self, mux: &mut Mux) -> bool {
        if self.exit_sent {
            return true;
        }
        let Some(exit) = &self.exit else { return false };
        let drained = match &self.stdio {
            Stdio::Passed | Stdio::PassedTerminal => true,
            Stdio::Pipes { stdout, stderr, .. } => stdout.is_none() && stderr.is_none(),
            Stdio::Pty { master } => master.is_none(),
        };
        if drained {
            mux.send_exit(self.stream, exit);
            self.exit_sent = true;
            if let Stdio::Pipes { stdin, .. } = &mut self.stdio {
                *stdin = None;
            }
        }
        drained
    }

    /// New terminal size.
    pub fn resize(&self, size: Size) {
        if let Stdio::Pty { master: Some(master) } = &self.stdio {
            let _ = tcsetwinsize(master, winsize(size));
        }
    }

    /// A break on the line.
    pub fn send_break(&self) {
        if let Stdio::Pty { master: Some(master) } = &self.stdio {
            let _ = rustix::termios::tcsendbreak(master);
        }
    }

    /// A signal from the client: to the terminal's foreground group, or to the session's own.
    pub fn signal(&self, number: i32) {
        let foreground = self.foreground().filter(|g| sys::kill(-g, 0).is_ok());
        match foreground {
            Some(group) => drop(sys::kill(-group, number)),
            None => self.signal_group(self.pid, number),
        }
    }

    /// Signals a group of the session. A child that was forked a moment ago may not lead its group yet. It holds signals back until it executes the program, so
    /// one that is sent to it alone is not lost.
    pub fn signal_group(&self, group: i32, number: i32) {
        if sys::kill(-group, number).is_err() && group == self.pid && self.exit.is_none() {
            let _ = sys::kill(self.pid, number);
        }
    }

    fn foreground(&self) -> Option<i32> {
        match &self.stdio {
            Stdio::Pty { master: Some(master) } => {
                rustix::termios::tcgetpgrp(master).ok().map(|p| p.as_raw_nonzero().get())
            }
            // Only the host has the master side, but the kernel tells the group of any process on the terminal.
            Stdio::PassedTerminal if self.exit.is_none() => terminal::foreground_of(self.pid),
            _ => None,
        }
    }

    /// The client has gone: SIGHUP now (closing the terminal does the same to its foreground group), more later.
    pub fn hang_up(self, grace: Duration) -> Ending {
        let mut groups = vec![self.pid];
        groups.extend(self.foreground().filter(|g| *g != self.pid && *g > 1));
        for group in &groups {
            self.signal_group(*group, libc::SIGHUP);
            // A stopped process would not see it.
            self.signal_group(*group, libc::SIGCONT);
        }
        Ending { groups, marks: self.marks, step: Step::Term, at: Instant::now() + grace }
    }
}

impl Ending {
    /// The next step is due. Returns whether there is another one.
    pub fn advance(&mut self, grace: Duration) -> bool {
        let signal = match self.step {
            Step::Term => libc::SIGTERM,
            Step::Kill => libc::SIGKILL,
        };
        let mut alive = false;
        for group in &self.groups {
            alive |= detached::kill_members(*group, signal, &self.marks);
        }
        let more = alive && self.step == Step::Term;
        self.step = Step::Kill;
        self.at = Instant::now() + grace;
        more
    }

    /// A new process has this id, so the old group of that id was empty.
    pub fn forget_group(&mut self, pid: i32) {
        self.groups.retain(|g| *g != pid);
    }

    /// Whether any group still has members.
    pub fn is_alive(&self) -> bool {
        self.groups.iter().any(|g| sys::kill(-g, 0).is_ok())
    }
}

/// Reads a whole record from the signal descriptor; `None` when there is none.
pub fn read_signal(fd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let mut record = [0u8; sys::SIGINFO_LEN];
    match rustix::io::read(fd, &mut record) {
        Ok(n) if n == record.len() => {
            Ok(record.first_chunk::<4>().map(|b| i32::try_from(u32::from_ne_bytes(*b)).unwrap_or(0)))
        }
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(e) => Err(e.into()),
    }
}
