//! A machine that was taken over by its root, or whose monitor lies: the gateway does not feel it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use sandgate_tests::client::DEADLINE;
use sandgate_tests::machine::{self, Needs};
use sandgate_tests::process::{Guard, peak, resident, try_run};
use sandgate_tests::{Feed, Options, Target, run};

/// What the gateway may grow by, whatever a guest sends.
const GROWTH: u64 = 48 << 20;
/// Within which an honest client gets in beside it.
const HONEST: Duration = Duration::from_secs(1);
/// Attacks of one machine each: floods, an end of reading, resets and lies, and a port that nobody listens on any more.
const MODES: &[&str] = &[
    "exec-flood",
    "exec-control-flood",
    "exec-ping-flood",
    "exec-silence",
    "exec-cut",
    "exec-cut-random",
    "exec-random",
    "close",
    "port-closed",
];

/// An honest client gets in, and soon; the fastest of three, since the machine next door has a processor of ours, too.
fn honest(target: &Target, beside: &str) {
    let mut took = Duration::MAX;
    for _ in 0..3 {
        let start = Instant::now();
        assert_eq!(target.exec("echo fine").ok(), "fine", "beside {beside}");
        took = took.min(start.elapsed());
    }
    assert!(took < HONEST, "beside {beside} it took {took:?}");
}

#[test]
fn heavy_a_machine_taken_over_by_its_root() {
    let Some(needs) = Needs::find() else { return };
    let target = Target::start_with(&Options { extra_toml: needs.toml(""), ..Options::default() });
    honest(&target, "nobody");
    let before = resident(target.pid());
    for mode in MODES {
        let token = machine::hostile(&target, mode, mode);
        if *mode == "exec-flood" {
            machine::it_speaks(&target, &token);
        }
        let mut unread = target.ssh(&["-l", &token, "box", "anything"]);
        let unread = Guard::spawn(unread.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
        // Each is cut elsewhere.
        for _ in 0..if *mode == "exec-cut-random" { 20 } else { 1 } {
            let mut visit = target.ssh(&["-l", &token, "box", "anything"]);
            let visit = try_run(&mut visit, Feed::Null, Duration::from_secs(2));
            if let (Ok(output), "exec-cut-random" | "port-closed") = (visit, *mode) {
                let errors = output.errors();
                assert!(output.code == 255 && errors.contains("sandgate: "), "{mode}: {errors:?}");
            }
        }
        honest(&target, mode);
        let grown = peak(target.pid()).saturating_sub(before);
        assert!(grown < GROWTH, "{mode}: the gateway grew by {grown} bytes");
        drop(unread);
        let start = Instant::now();
        target.gateway().cli(&["sandbox", "rm", "--force", mode]).ok();
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "{mode}: removed only after {:?}",
            start.elapsed()
        );
    }
    assert!(!target.log().contains("panicked"), "a panic in the gateway");
}

/// What only the device can do: its socket floods before its answer, never answers, ends at once, or resets at random.
#[test]
fn timed_a_device_that_lies() {
    if sandgate_tests::skip::oracle_lacks("machines") {
        return;
    }
    let toml = "[sandbox]\nstart_timeout = \"3s\"\n".to_owned();
    let target = Target::start_with(&Options { extra_toml: toml, ..Options::default() });
    honest(&target, "nobody");
    let before = resident(target.pid());
    for how in ["flood", "silent", "close", "reset", "ok-flood"] {
        let path = target.dir().join(how);
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || serve(&listener, how));
        target.gateway().create_sandbox(how, &["--link", &format!("hybrid:{}:1024", path.display())]);
        let token = target.gateway().token(how, &[]).token;
        let crowd: Vec<_> = (0..8)
            .map(|_| {
                let mut ssh = target.ssh(&["-l", &token, "box", "anything"]);
                Guard::spawn(ssh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
            })
            .collect();
        honest(&target, how);
        drop(crowd);
        let output = run(&mut target.ssh(&["-l", &token, "box", "anything"]), Feed::Null, DEADLINE);
        assert_ne!(output.code, 0, "{how}");
        assert!(output.errors().contains("sandgate: "), "{how}: the user was told {:?}", output.errors());
        target.gateway().cli(&["sandbox", "rm", "--force", how]).ok();
        let grown = peak(target.pid()).saturating_sub(before);
        assert!(grown < GROWTH, "{how}: the gateway grew by {grown} bytes");
    }
    assert!(!target.log().contains("panicked"), "a panic in the gateway");
}

fn serve(listener: &UnixListener, how: &'static str) {
    use std::io::{Read as _, Write as _};
    for stream in listener.incoming().map_while(Result::ok) {
        std::thread::spawn(move || {
            let mut stream = stream;
            let mut asked = [0; 13];
            match how {
                "flood" => while stream.write_all(&[b'O'; 65536]).is_ok() {},
                "silent" => {
                    let _ = stream.read_to_end(&mut Vec::new());
                }
                // Closed with what it was asked unread: a reset for who asks.
                "reset" => {
                    let _ = stream.read(&mut asked[..3]);
                }
                "ok-flood" => {
                    let _ = stream.read_exact(&mut asked);
                    let _ = stream.write_all(b"OK 1024\n");
                    while stream.write_all(&[0xff; 65536]).is_ok() {}
                }
                _ => {}
            }
        });
    }
}
