//! Terminals whose bytes pass the agent by: made by the gateway in the sandbox's own `/dev/pts`. What a terminal is to its programs is in
//! `terminal.rs`; here is what is special to this way, and that the other way takes over without a word.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use sandgate_tests::client::DEADLINE;
use sandgate_tests::process::Guard;
use sandgate_tests::terminal::Terminal;
use sandgate_tests::wait::until;
use sandgate_tests::{Feed, Target, run, skip};

/// Masters that the gateway holds.
fn masters(target: &Target) -> usize {
    let fds = std::fs::read_dir(format!("/proc/{}/fd", target.gateway().pid())).unwrap();
    fds.flatten().filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.ends_with("ptmx"))).count()
}

/// A shell that has answered.
fn shell(target: &Target) -> Terminal {
    let mut terminal = Terminal::spawn(&target.ssh(&["-t", "box"]), 80, 24);
    terminal.send("PS1='> '; stty -echo\r");
    terminal.send("echo rea''dy.\r");
    terminal.expect("ready.");
    terminal
}

/// Where the shim of `box` listens.
fn shim_socket(target: &Target) -> PathBuf {
    let sandboxes = std::fs::read_dir(target.gateway().data_dir().join("sandboxes")).unwrap();
    sandboxes.flatten().map(|entry| entry.path().join("shim.sock")).find(|path| path.exists()).unwrap()
}

#[test]
fn the_gateway_holds_the_master_for_as_long_as_the_session_lasts() {
    if skip::oracle_lacks("sandboxes") {
        return;
    }
    let target = Target::start();
    let mut terminal = shell(&target);
    assert_eq!(masters(&target), 1, "the bytes pass the agent");
    terminal.send("exit 9\r");
    assert_eq!(terminal.wait(), 9);
    assert!(until(Duration::from_secs(5), || masters(&target) == 0), "a master is left");
}

#[test]
fn name_owner_and_mode_are_those_of_a_login() {
    if skip::oracle_lacks("sandboxes") {
        return;
    }
    let target = Target::start();
    let look = "tty; echo $SSH_TTY; stat -c '%u %g %a' $(tty); ls /dev/pts | grep -v ptmx; ps -o tty= -p $$";
    let text = target.run_ssh(&["-tt", "box", look]).ok();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let number = lines[0].strip_prefix("/dev/pts/").expect("a name");
    assert_eq!(lines[1..], [lines[0], "0 5 620", number, &format!("pts/{number}")], "{text}");

    let gateway = target.gateway();
    gateway.create_sandbox("plain", &["--user", "alice"]);
    gateway.start_sandbox("plain");
    let token = gateway.token("plain", &[]).token;
    let look = "tty; id -u; stat -c '%u %g %a' $(tty); echo x >/dev/tty";
    let text = run(&mut target.ssh(&["-tt", "-l", &token, "box", look]), Feed::Null, DEADLINE).ok();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert!(lines[0].starts_with("/dev/pts/"), "{text}");
    assert_eq!(lines[2..], [&format!("{} 5 620", lines[1]), "x"], "{text}");
}

#[test]
fn keys_sizes_and_signals_reach_the_foreground() {
    if skip::oracle_lacks("sandboxes") {
        return;
    }
    let target = Target::start();
    let mut terminal = shell(&target);
    assert_eq!(masters(&target), 1);
    // The program in the foreground leads a group of its own.
    terminal.send("python3 -c 'import signal,time;signal.signal(28,lambda *a:print(\"win\"+\"ched.\",flush=True));print(\"wai\"+\"ting.\",flush=True);time.sleep(99)'\r");
    terminal.expect("waiting.");
    terminal.resize(64, 20);
    terminal.expect("winched.");
    terminal.send("\x03");
    terminal.send("echo code=$?; stty size; echo d''one.\r");
    let text = terminal.expect("done.");
    assert!(text.contains("20 64"), "{text}");
    terminal.send("exit 0\r");
    assert_eq!(terminal.wait(), 0);
}

#[test]
fn the_session_ends_with_its_shell_though_the_terminal_is_held() {
    if skip::oracle_lacks("sandboxes") {
        return;
    }
    let target = Target::start();
    let began = Instant::now();
    // One that is silent and one that floods; neither minds a hangup.
    for holder in ["sleep 60", "while echo noise; do :; done"] {
        let line = format!("trap '' HUP; ({holder}) & echo sta''rted; sleep 0.2; exit 8");
        assert_eq!(target.run_ssh(&["-tt", "box", &line]).code, 8, "{holder}");
    }
    assert!(began.elapsed() < Duration::from_secs(30));
    assert!(until(Duration::from_secs(5), || masters(&target) == 0), "a master is left");
}

#[test]
fn a_killed_client_hangs_up() {
    if skip::oracle_lacks("sandboxes") {
        return;
    }
    let target = Target::start();
    let line = "trap 'echo hup >~/hup; exit' HUP; echo on >~/on; while :; do sleep 0.1; done";
    let mut command = target.ssh(&["-tt", "box", line]);
    let session = Guard::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()));
    assert!(until(Duration::from_secs(10), || target.exec("test -e ~/on").code == 0));
    drop(session);
    assert!(until(Duration::from_secs(10), || target.exec("grep -q hup ~/hup").code == 0), "no SIGHUP");
    assert!(until(Duration::from_secs(5), || masters(&target) == 0), "a master is left");
}

#[test]
fn restarts_of_gateway_and_sandbox_change_nothing() {
    if skip::oracle_lacks("sandboxes") {
        return;
    }
    let mut target = Target::start();
    let check = |target: &Target| {
        let mut terminal = shell(target);
        assert_eq!(masters(target), 1);
        terminal.send("tty; echo e''nd.\r");
        let text = terminal.expect("end.");
        assert!(text.contains("/dev/pts/"), "{text}");
        terminal.send("exit 0\r");
        assert_eq!(terminal.wait(), 0);
    };
    check(&target);
    target.gateway_mut().kill();
    target.gateway_mut().start_again();
    check(&target);
    // Another instance of /dev/pts.
    target.gateway().cli(&["sandbox", "stop", "box"]).ok();
    target.gateway().start_sandbox("box");
    check(&target);
}

/// A shim from before the question hangs up; one that hangs has a deadline.
#[test]
fn without_an_answer_of_the_shim_the_agent_makes_the_terminal() {
    if skip::oracle_lacks("sandboxes") {
        return;
    }
    let target = Target::start();
    let socket = shim_socket(&target);
    let aside = socket.with_extension("aside");
    std::fs::rename(&socket, &aside).unwrap();
    let check = || {
        let mut terminal = shell(&target);
        assert_eq!(masters(&target), 0, "made by whom?");
        terminal.resize(64, 20);
        terminal.send("exit 5\r");
        assert_eq!(terminal.wait(), 5);
    };
    check();
    let silent = UnixListener::bind(&socket).unwrap();
    check();
    let old = std::thread::spawn(move || {
        // The one from before waits still; then ours.
        silent.incoming().take(2).for_each(drop);
    });
    check();
    old.join().unwrap();
    std::fs::rename(&aside, &socket).unwrap();
}
