//! Waiting for something to become true, with a deadline.

use std::time::{Duration, Instant};

/// Polls `condition` every 20 ms until it holds; false when `deadline` passed first.
pub fn until(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + deadline;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether this is, to the byte, what a user reads on standard error who had to wait for a sandbox. `eol` ends a line of ours there.
pub fn is_wait_line(text: &str, sandbox: &str, eol: &str) -> bool {
    let rest = text.strip_prefix(&format!("sandgate: starting {sandbox} … "));
    let time = rest.and_then(|rest| rest.strip_suffix(&format!(" s{eol}")));
    time.is_some_and(|time| {
        !time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
    })
}

/// A port that was free on loopback a moment ago.
///
/// It lies below the range from which the kernel takes ports for outgoing connections, so that none of those takes it away before
/// the server has bound it.
pub fn free_port() -> u16 {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    loop {
        let step = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // Tests run as processes of their own; their ids keep them apart.
        let port = 10_000 + ((std::process::id() % 1000) * 20 + u32::from(step)) % 20_000;
        if std::net::TcpListener::bind(("127.0.0.1", port as u16)).is_ok() {
            return port as u16;
        }
    }
}

/// Divides a large repetition count by `SANDGATE_TEST_SCALE`, never below one.
pub fn scaled(count: usize) -> usize {
    let scale =
        std::env::var("SANDGATE_TEST_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1usize);
    (count / scale.max(1)).max(1)
}

/// Runs `work(0..count)` on `threads` threads and collects the complaints it returns.
///
/// A panic in `work` fails the whole.
pub fn in_parallel(
    threads: usize,
    count: usize,
    work: impl Fn(usize) -> Result<(), String> + Sync,
) -> Vec<String> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let complaints = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    if let Err(complaint) = work(index) {
                        complaints.lock().unwrap().push(format!("#{index}: {complaint}"));
                    }
                }
            });
        }
    });
    complaints.into_inner().unwrap()
}
