//! Signals to this program.

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind, signal};

/// Signals that this program listens to. To be made once: afterwards nothing looks ignored.
pub struct Heard {
    resized: unix::Signal,
    /// `None` when it was ignored before us, by `nohup` or the `&` of a shell: it stays ignored, as with ssh.
    interrupt: Option<unix::Signal>,
    terminate: Option<unix::Signal>,
    hangup: Option<unix::Signal>,
    quit: Option<unix::Signal>,
}

impl Heard {
    /// The window has another size.
    pub const RESIZED: i32 = Signal::WINCH.as_raw();

    pub fn new() -> std::io::Result<Heard> {
        // Without /proc nothing can be known, and a signal that is not ignored matters more.
        let ignored = std::fs::read_to_string("/proc/self/status").map_or(0, |status| ignored(&status));
        let listen = |kind: SignalKind| {
            if has(ignored, kind) { Ok(None) } else { signal(kind).map(Some) }
        };
        Ok(Heard {
            resized: signal(SignalKind::window_change())?,
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            quit: listen(SignalKind::quit())?,
        })
    }

    /// The next one, by number.
    pub async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.resized.recv() => Heard::RESIZED,
            () = received(&mut self.interrupt) => Signal::INT.as_raw(),
            () = received(&mut self.terminate) => Signal::TERM.as_raw(),
            () = received(&mut self.hangup) => Signal::HUP.as_raw(),
            () = received(&mut self.quit) => Signal::QUIT.as_raw(),
        }
    }

    /// The next one that is to end something, by number.
    pub async fn next_end(&mut self) -> i32 {
        loop {
            match self.next().await {
                Heard::RESIZED => {}
                signal => return signal,
            }
        }
    }
}

async fn received(signal: &mut Option<unix::Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// The mask of ignored signals in `/proc/PID/status`; the lowest bit is signal 1.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn has(mask: u64, kind: SignalKind) -> bool {
    u32::try_from(kind.as_raw_value() - 1).is_ok_and(|bit| mask.checked_shr(bit).unwrap_or(0) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_read_from_the_kernels_words() {
        let mask = ignored("Name:\tsh\nSigBlk:\t0000000000000007\nSigIgn:\t0000000000001005\nSigCgt:\t0\n");
        let kinds = [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::pipe()];
        assert_eq!(kinds.map(|kind| has(mask, kind)), [true, false, true, true]);
        assert_eq!(ignored("Name:\tsh\n"), 0);
        assert_eq!(ignored("SigIgn:\tnonsense\n"), 0);
    }

    #[test]
    fn the_mask_is_there() {
        // Rust's own runtime ignores SIGPIPE.
        let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
        assert!(has(ignored(&status), SignalKind::pipe()), "{status}");
    }
}
