//! A short boot, to see whether KVM runs a kernel.
//!
//! QEMU prints the machine's console on its standard output and its own words on standard error. Where KVM fails it may end, stop without ending, or
//! go on for ever without a sign; so there is a deadline, and what it has said is the reason.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;

use super::super::message::Failure;
use super::accel::Verdict;

/// How long a kernel may take to our init. With KVM it takes less than a second, and some on a busy host.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// What our init prints then (`crates/agent/src/machine/mod.rs`).
const BOOTED: &[u8] = b"sandgate: the probe has booted";
/// What QEMU says when KVM has given up. It halts the machine then and does not end.
const BROKEN: &[u8] = b"KVM internal error";
/// Kept of what is said on either side, in bytes.
const MAX_SAID: usize = 64 << 10;
/// Longest reason, in characters.
const MAX_REASON: usize = 200;

/// What a boot has shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) verdict: Verdict,
    /// It was KVM that decided. A busy host may be too slow, and others may end QEMU: that says nothing of the next time.
    pub(super) lasting: bool,
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Booted,
    Ended,
    Broken,
    Late,
}

/// Starts QEMU, watches it, and ends it in any case.
pub(super) fn watch(command: &mut Command, patience: Duration) -> Result<Finding, Failure> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Failure::io("start QEMU"))?;
    // Open until the end: QEMU reads the console's input from it.
    let input = child.stdin.take();
    let heard = listen(&mut child, patience);
    let _ = child.kill();
    let status = child.wait().map_err(Failure::io("wait for QEMU"))?;
    drop(input);
    let (outcome, errors) = heard?;
    let said = telling(&errors);
    let lasting = match outcome {
        Outcome::Booted | Outcome::Broken => true,
        Outcome::Ended => said.is_some() && status.signal() != Some(Signal::KILL.as_raw()),
        Outcome::Late => false,
    };
    Ok(Finding { verdict: verdict(outcome, status, said, patience), lasting })
}

fn verdict(outcome: Outcome, status: ExitStatus, said: Option<String>, patience: Duration) -> Verdict {
    let said = said.map(|line| format!(": {line}")).unwrap_or_default();
    Verdict::tcg(match outcome {
        Outcome::Booted => return Verdict::Kvm,
        Outcome::Ended => format!("under KVM QEMU ended before the kernel was up ({status}){said}"),
        Outcome::Broken => format!("KVM gave up before the kernel was up{said}"),
        Outcome::Late => {
            format!("under KVM the kernel was not up after {} s{said}", patience.as_secs_f32())
        }
    })
}

/// Until it is clear how it goes. With that, what QEMU has said on standard error.
fn listen(child: &mut Child, patience: Duration) -> Result<(Outcome, Vec<u8>), Failure> {
    let pipe = |fd: Option<OwnedFd>| fd.map(Pipe::new).ok_or_else(|| Failure::other("QEMU has no output"));
    let mut console = pipe(child.stdout.take().map(OwnedFd::from))?;
    let mut errors = pipe(child.stderr.take().map(OwnedFd::from))?;
    let deadline = Instant::now() + patience;
    let outcome = loop {
        if console.has(BOOTED) {
            break Outcome::Booted;
        }
        if errors.has(BROKEN) {
            break Outcome::Broken;
        }
        if console.fd.is_none() && errors.fd.is_none() {
            break Outcome::Ended;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break Outcome::Late;
        }
        let open: Vec<_> = [&console, &errors].into_iter().filter_map(|pipe| pipe.fd.as_ref()).collect();
        wait(&open, left)?;
        console.read();
        errors.read();
    };
    // Its last words may be behind those that told.
    errors.read();
    Ok((outcome, errors.said))
}

/// Until there is something, or an end, or the time is over.
fn wait(open: &[&OwnedFd], patience: Duration) -> Result<(), Failure> {
    let mut fds: Vec<_> = open.iter().map(|fd| PollFd::new(*fd, PollFlags::IN)).collect();
    match poll(&mut fds, Timespec::try_from(patience).ok().as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(Failure::io("wait for QEMU's words")(error)),
    }
}

/// One side of what is said.
struct Pipe {
    /// `None` after its end.
    fd: Option<OwnedFd>,
    said: Vec<u8>,
}

impl Pipe {
    fn new(fd: OwnedFd) -> Self {
        Self { fd: Some(fd), said: Vec::new() }
    }

    fn has(&self, words: &[u8]) -> bool {
        self.said.windows(words.len()).any(|window| window == words)
    }

    /// Takes what is there now, and keeps the beginning of all.
    fn read(&mut self) {
        let Some(fd) = &self.fd else { return };
        if !readable(fd) {
            return;
        }
        let mut chunk = [0u8; 4096];
        match rustix::io::read(fd, &mut chunk) {
            Ok(0) => self.fd = None,
            Ok(n) => {
                let room = MAX_SAID.saturating_sub(self.said.len());
                self.said.extend_from_slice(chunk.get(..n.min(room)).unwrap_or_default());
            }
            Err(Errno::INTR) => {}
            Err(_) => self.fd = None,
        }
    }
}

fn readable(fd: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// The line that tells most, as one for people.
fn telling(errors: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(errors);
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line =
        lines().find(|line| line.contains("rror") || line.contains("ailed")).or_else(|| lines().next())?;
    // Before that is the program's name.
    let line = line.split_once("qemu-system-x86_64: ").map_or(line, |(_, rest)| rest);
    let line: String = line.chars().take(MAX_REASON).map(|c| if c.is_control() { ' ' } else { c }).collect();
    Some(line.trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found of a program that does this in QEMU's place.
    fn finding(script: &str, patience: Duration) -> Finding {
        watch(Command::new("sh").args(["-c", script]), patience).unwrap()
    }

    fn of(script: &str, patience: Duration) -> Verdict {
        finding(script, patience).verdict
    }

    #[test]
    fn only_what_kvm_decided_holds_for_the_next_time() {
        let patience = Duration::from_secs(30);
        for script in [
            "echo sandgate: the probe has booted",
            "echo 'failed to set MSR' >&2; kill -ABRT $$",
            "printf 'KVM internal error. Suberror: 1\n' >&2; exec sleep 100",
        ] {
            assert!(finding(script, patience).lasting, "{script}");
        }
        for script in ["exit 3", "echo 'words' >&2; kill -KILL $$"] {
            assert!(!finding(script, patience).lasting, "{script}");
        }
        assert!(!finding("exec sleep 100", Duration::from_millis(200)).lasting);
    }

    fn reason(script: &str, patience: Duration) -> String {
        match of(script, patience) {
            Verdict::Tcg { reason } => reason,
            Verdict::Kvm => panic!("{script}: KVM"),
        }
    }

    #[test]
    fn a_kernel_that_comes_up_is_waited_for() {
        let script = "echo '[    0.1] a warning'; sleep 0.1; printf 'sandgate: the pro'; sleep 0.1; echo 'be has booted'; exec sleep 100";
        let began = Instant::now();
        assert_eq!(of(script, Duration::from_secs(30)), Verdict::Kvm);
        assert!(began.elapsed() < Duration::from_secs(20), "it was not ended");
        // Also one that has ended by then.
        assert_eq!(of("echo sandgate: the probe has booted", Duration::from_secs(30)), Verdict::Kvm);
    }

    #[test]
    fn a_qemu_that_ends_says_why() {
        let script = "echo 'cannot join a group' >&2; echo 'qemu-system-x86_64: error: failed to set MSR 0x10a to 0x0' >&2; kill -ABRT $$";
        let said = reason(script, Duration::from_secs(30));
        assert!(said.contains("QEMU ended") && said.contains("SIGABRT"), "{said}");
        assert!(said.ends_with(": error: failed to set MSR 0x10a to 0x0"), "{said}");
        let said = reason("exit 3", Duration::from_secs(30));
        assert!(said.ends_with("(exit status: 3)"), "{said}");
        let nothing = watch(&mut Command::new("/nowhere/qemu"), Duration::from_secs(30));
        assert!(nothing.is_err(), "that is no verdict on KVM");
    }

    #[test]
    fn a_qemu_that_halts_or_hangs_is_given_up() {
        let script = "printf 'KVM internal error. Suberror: 1\nemulation failure\n' >&2; exec sleep 100";
        let began = Instant::now();
        let said = reason(script, Duration::from_secs(30));
        assert!(began.elapsed() < Duration::from_secs(20), "it was waited for");
        assert!(said.contains("KVM gave up") && said.ends_with("Suberror: 1"), "{said}");
        let said = reason("exec >/dev/null 2>/dev/null; exec sleep 100", Duration::from_secs(30));
        assert!(said.contains("QEMU ended"), "{said}");
        let said = reason("exec sleep 100", Duration::from_millis(200));
        assert!(said.ends_with("not up after 0.2 s"), "{said}");
        let said = reason("exec yes", Duration::from_millis(200));
        assert!(said.contains("not up after"), "{said}");
    }
}
