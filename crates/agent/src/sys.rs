//! The system calls that have no safe wrapper: fork and exec, signal masks, signalfd, network flags.
//!
//! This is the only module with `unsafe`. The agent has one thread, so between fork and exec no lock can be held by somebody
//! else; even so the child only makes async-signal-safe calls on memory that was prepared before the fork.
#![allow(unsafe_code)]

mod entropy;
mod identity;
mod vsock;

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use crate::users::Creds;

pub use entropy::reseed;
pub use identity::as_user;
pub use vsock::{Peer, peer, vsock_listener};

/// A directory to change to, tried in order until one works.
pub struct Chdir {
    /// Where to.
    pub path: CString,
    /// Written to standard error, followed by the reason, when it does not work; may be empty.
    pub complaint: Vec<u8>,
}

/// Whether the child gets a controlling terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// Standard input becomes the controlling terminal of the new session.
    Controlling,
    /// Three pipes.
    None,
}

/// Everything that a child needs, prepared before the fork.
pub struct Spawn<'a> {
    /// Standard input, output, error.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Terminal or pipes.
    pub terminal: Terminal,
    /// Whom to become; `None` to stay.
    pub creds: Option<&'a Creds>,
    /// Working directories to try.
    pub chdirs: &'a [Chdir],
    /// Files to execute, tried in order.
    pub programs: &'a [CString],
    /// Arguments, the first of which is the name.
    pub argv: &'a [CString],
    /// Environment.
    pub envp: &'a [CString],
    /// Soft limit of open files to set (the agent raises its own).
    pub nofile: Option<(u64, u64)>,
    /// The line to write when there is nothing to execute, or the program's name for other failures.
    pub failure: &'a Failure,
}

/// What a child says when it cannot execute anything.
pub struct Failure {
    /// Begins each line: `NAME: `.
    pub prefix: Vec<u8>,
    /// The whole rest of the line when no file exists.
    pub missing: Vec<u8>,
}

/// Exit code for a program that does not exist, as shells use it.
const EXIT_MISSING: i32 = 127;
/// Exit code for a program that cannot be executed, as shells use it.
const EXIT_UNUSABLE: i32 = 126;

/// Forks and executes; returns the child's process id, which is also its session and process group.
pub fn spawn(plan: &Spawn<'_>) -> io::Result<i32> {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
    };
    let argv = pointers(plan.argv);
    let envp = pointers(plan.envp);
    // SAFETY: sigset_t is plain data; an all-zero value is a valid argument to be overwritten.
    let (mut all, mut old): (libc::sigset_t, libc::sigset_t) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    // SAFETY: both sets are valid for writing. No handler can run in the child before it has reset them.
    unsafe {
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &all, &mut old);
    }
    // SAFETY: the process has one thread; the child goes straight into `child`, which makes async-signal-safe calls only and
    // never returns.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: this is the child; `argv` and `envp` are null-terminated arrays of pointers into CStrings that outlive it.
        unsafe { child(plan, &argv, &envp) }
    }
    let error = io::Error::last_os_error();
    // SAFETY: `old` was filled in by sigprocmask above.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &old, ptr::null_mut()) };
    if pid < 0 { Err(error) } else { Ok(pid) }
}

/// The child's way from fork to exec.
///
/// # Safety
/// Only in a freshly forked child. `argv` and `envp` must be null-terminated arrays of valid C strings.
unsafe fn child(plan: &Spawn<'_>, argv: &[*const libc::c_char], envp: &[*const libc::c_char]) -> ! {
    // SAFETY: all calls below are async-signal-safe, with pointers to live memory of the right type.
    unsafe {
        // The kernel's struct sigaction: handler (0 is the default), flags, restorer, mask. The C library's own wrapper refuses
        // two signals that somebody above may have left ignored.
        let action = [0usize; 4];
        for signal in 1..=64 {
            // Fails for SIGKILL and SIGSTOP; rightly so.
            libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), ptr::null_mut::<usize>(), 8usize);
        }
        libc::setsid();
        for (target, fd) in (0..).zip(plan.stdio) {
            // The sources are all above 2 (see `keep_std_fds_busy`), so none is overwritten; dup2 clears close-on-exec.
            libc::dup2(fd.as_raw_fd(), target);
        }
        if plan.terminal == Terminal::Controlling {
            libc::ioctl(0, libc::TIOCSCTTY, 0);
        }
        if let Some((soft, hard)) = plan.nofile {
            libc::setrlimit(libc::RLIMIT_NOFILE, &libc::rlimit { rlim_cur: soft, rlim_max: hard });
        }
        if let Some(creds) = plan.creds
            && !become_user(creds)
        {
            complain(b"sandgate: cannot become the login user: ", errno());
            libc::_exit(EXIT_UNUSABLE);
        }
        libc::umask(0o022);
        for dir in plan.chdirs {
            if libc::chdir(dir.path.as_ptr()) == 0 {
                break;
            }
            if !dir.complaint.is_empty() {
                complain(&dir.complaint, errno());
            }
        }
        let mut empty: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut empty);
        libc::sigprocmask(libc::SIG_SETMASK, &empty, ptr::null_mut());
        // As execvp: a file that may not be executed is remembered while the search goes on.
        let mut reason = libc::ENOENT;
        for program in plan.programs {
            libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr());
            match errno() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => reason = libc::EACCES,
                other => {
                    reason = other;
                    break;
                }
            }
        }
        write_all(&plan.failure.prefix);
        if reason == libc::ENOENT {
            write_all(&plan.failure.missing);
            libc::_exit(EXIT_MISSING);
        }
        complain(b"", reason);
        libc::_exit(EXIT_UNUSABLE)
    }
}

/// Groups first, then gid, then uid. The raw system calls act on this thread, which is the only one.
///
/// # Safety
/// Only in a freshly forked child.
unsafe fn become_user(creds: &Creds) -> bool {
    // SAFETY: the pointer and length describe a live slice.
    unsafe {
        let groups = libc::syscall(libc::SYS_setgroups, creds.groups.len(), creds.groups.as_ptr());
        // A user namespace may forbid setgroups; there are no other groups to get rid of in one.
        (groups == 0 || errno() == libc::EPERM)
            && libc::syscall(libc::SYS_setresgid, creds.gid, creds.gid, creds.gid) == 0
            && libc::syscall(libc::SYS_setresuid, creds.uid, creds.uid, creds.uid) == 0
    }
}

fn errno() -> i32 {
    // SAFETY: the C library returns a valid pointer to this thread's errno.
    unsafe { *libc::__errno_location() }
}

/// Writes to standard error; a failure is nobody's business.
fn write_all(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        // SAFETY: pointer and length describe a live slice.
        let n = unsafe { libc::write(2, bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(n) {
            Ok(n) if n > 0 => bytes = bytes.get(n..).unwrap_or_default(),
            _ => return,
        }
    }
}

fn complain(prefix: &[u8], errno: i32) {
    write_all(prefix);
    write_all(errno_text(errno).as_bytes());
    write_all(b"\n");
}

/// The usual words for the errors that starting a program or connecting can meet. No allocation: it is used between fork and exec.
pub fn errno_text(errno: i32) -> &'static str {
    match errno {
        libc::ENOENT => "No such file or directory",
        libc::EACCES => "Permission denied",
        libc::EPERM => "Operation not permitted",
        libc::ENOTDIR => "Not a directory",
        libc::EISDIR => "Is a directory",
        libc::ELOOP => "Too many levels of symbolic links",
        libc::ENAMETOOLONG => "File name too long",
        libc::E2BIG => "Argument list too long",
        libc::ENOEXEC => "Exec format error",
        libc::ETXTBSY => "Text file busy",
        libc::ENOMEM => "Cannot allocate memory",
        libc::EIO => "Input/output error",
        libc::EAGAIN => "Resource temporarily unavailable",
        libc::EMFILE | libc::ENFILE => "Too many open files",
        libc::ENOSPC => "No space left on device",
        libc::EROFS => "Read-only file system",
        libc::EEXIST => "File exists",
        libc::EINVAL => "Invalid argument",
        libc::EPIPE => "Broken pipe",
        libc::ENOTSOCK => "Socket operation on non-socket",
        libc::EPROTOTYPE => "Protocol wrong type for socket",
        libc::EAFNOSUPPORT => "Address family not supported by protocol",
        libc::EADDRINUSE => "Address already in use",
        libc::EADDRNOTAVAIL => "Cannot assign requested address",
        libc::ENETDOWN => "Network is down",
        libc::ENETUNREACH => "Network is unreachable",
        libc::ECONNABORTED => "Software caused connection abort",
        libc::ECONNRESET => "Connection reset by peer",
        libc::ENOBUFS => "No buffer space available",
        libc::ETIMEDOUT => "Connection timed out",
        libc::ECONNREFUSED => "Connection refused",
        libc::EHOSTDOWN => "Host is down",
        libc::EHOSTUNREACH => "No route to host",
        _ => "Unknown error",
    }
}

/// Blocks the signals that the event loop handles and returns a descriptor that reports them.
pub fn signal_fd() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialized by sigemptyset before use; the returned descriptor is new and ours alone.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in [
            libc::SIGCHLD,
            libc::SIGTERM,
            libc::SIGINT,
            libc::SIGHUP,
            libc::SIGQUIT,
            libc::SIGPWR,
            libc::SIGUSR1,
            libc::SIGUSR2,
        ] {
            libc::sigaddset(&mut set, signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            fd if fd < 0 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Size of one record that [`signal_fd`] yields, in bytes; the first four are the signal number.
pub const SIGINFO_LEN: usize = size_of::<libc::signalfd_siginfo>();

/// Sends any signal, real-time ones too. `target` as in kill(2): negative for a process group, -1 for everybody.
pub fn kill(target: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill has no memory effects.
    if unsafe { libc::kill(target, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes over a descriptor that was inherited under a number.
///
/// The caller must not use the same number twice. It is checked to be open and set to close on exec.
pub fn inherited_fd(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl has no memory effects with these commands.
    if number < 0 || unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the descriptor is open; it was inherited for this purpose and nothing else in the process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes sure that 0, 1 and 2 are open, so that no later descriptor gets one of these numbers.
pub fn keep_std_fds_busy() {
    for number in 0..3 {
        // SAFETY: fcntl and open have no memory effects besides reading the literal paths.
        unsafe {
            if libc::fcntl(number, libc::F_GETFD) < 0
                && libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) < 0
                && libc::open(c"/".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY) < 0
            {
                return;
            }
        }
    }
}

/// Puts something harmless in the place of a standard descriptor whose meaning was taken over by [`inherited_fd`]'s like.
pub fn neutralize_std_fd(number: RawFd) {
    // SAFETY: only descriptors are touched; 0 and 1 are owned by nobody in this process.
    unsafe {
        let mut fd = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        if fd < 0 {
            fd = libc::open(c"/".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC);
        }
        if fd >= 0 && fd != number {
            libc::dup2(fd, number);
            libc::close(fd);
        }
    }
}

/// Brings the loopback interface up.
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: the socket is closed again; `request` is a zeroed ifreq with a terminated name and lives across both calls.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = OwnedFd::from_raw_fd(fd);
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = from.cast_signed();
        }
        if libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFFLAGS, &mut request) != 0 {
            return Err(io::Error::last_os_error());
        }
        request.ifr_ifru.ifru_flags |= 0x1 | 0x40; // IFF_UP, IFF_RUNNING
        if libc::ioctl(fd.as_raw_fd(), libc::SIOCSIFFLAGS, &request) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// Returns freed heap memory to the system: sessions come in bursts, and the agent counts against the sandbox's limit.
pub fn trim_heap() {
    // SAFETY: no preconditions.
    unsafe { libc::malloc_trim(0) };
}

/// Whether a C string names an existing regular file with an execute bit.
pub fn is_executable(path: &CStr) -> bool {
    match rustix::fs::stat(path) {
        Ok(stat) => {
            let regular =
                rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile;
            regular && stat.st_mode & 0o111 != 0
        }
        Err(_) => false,
    }
}
