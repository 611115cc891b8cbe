//! Names of signals (RFC 4254 section 6.10, without `SIG`) and how a process ended.

use rustix::process::WaitStatus;
use sandgate_wire::message::Exit;

const NAMES: [(&str, i32); 31] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

/// First real-time signal as programs count them (the C library keeps two).
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number of a name; a leading `SIG` is tolerated.
pub fn number(name: &str) -> Option<i32> {
    let name = name.strip_prefix("SIG").unwrap_or(name);
    if let Some((_, number)) = NAMES.iter().find(|(n, _)| *n == name) {
        return Some(*number);
    }
    let offset: i32 = name.strip_prefix("RTMIN+")?.parse().ok()?;
    (0..=RTMAX - RTMIN).contains(&offset).then_some(RTMIN + offset)
}

fn name(number: i32) -> String {
    match NAMES.iter().find(|(_, n)| *n == number) {
        Some((name, _)) => (*name).to_owned(),
        None => format!("RTMIN+{}", number - RTMIN),
    }
}

/// What a wait status means.
pub fn exit_of(status: WaitStatus) -> Exit {
    match status.terminating_signal() {
        Some(signal) => Exit::Signal {
            name: name(signal),
            core_dumped: status.as_raw() & 0x80 != 0,
            message: String::new(),
        },
        None => Exit::Code(status.exit_status().and_then(|c| u32::try_from(c).ok()).unwrap_or(255)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, signal) in NAMES {
            assert_eq!(number(text), Some(signal));
            assert_eq!(name(signal), text);
        }
        assert_eq!(number("SIGTERM"), Some(15));
        assert_eq!(number("RTMIN+2"), Some(36));
        assert_eq!(name(36), "RTMIN+2");
        for bad in ["", "term", "RTMIN+31", "RTMIN+-1", "9"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }
}
