//! `sandgate exec`: what goes through the control socket, byte for byte.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::process::Stdio;
use std::time::Duration;

use rustix::io::ioctl_fionbio;
use rustix::process::Signal;
use sandgate_tests::client::DEADLINE;
use sandgate_tests::process::{Guard, Output};
use sandgate_tests::terminal::Terminal;
use sandgate_tests::wait::until;
use sandgate_tests::{Feed, Target, data, run, skip};

/// Bytes in bulk, each way.
const BULK: usize = 10 << 20;

/// `sandgate exec box ARGS…` with this input.
#[track_caller]
fn exec(target: &Target, args: &[&str], feed: Feed) -> Output {
    run(&mut target.gateway().command(&[&["exec", "box"], args].concat()), feed, DEADLINE)
}

/// Every value of a byte in every neighbourhood, and then noise.
fn bytes() -> Vec<u8> {
    [data::all_values(BULK / 2), data::random(7, BULK / 2)].concat()
}

#[test]
fn bytes_pass_exactly_in_both_directions() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let sent = bytes();
    let hash = data::sha256(&sent);
    let there = exec(&target, &["--", "sha256sum"], Feed::Bytes(sent.clone()));
    assert_eq!(there.ok().split(' ').next(), Some(&*hash));
    let back = exec(&target, &["--", "cat"], Feed::Bytes(sent.clone()));
    assert!(back.ok().len() > BULK / 2 && back.stderr.is_empty(), "{}", back.errors());
    assert_eq!((back.stdout.len(), data::sha256(&back.stdout)), (sent.len(), hash.clone()));
    let aside = exec(&target, &["--", "sh", "-c", "cat >&2"], Feed::Bytes(sent));
    aside.exits(0);
    assert!(aside.stdout.is_empty());
    assert_eq!((aside.stderr.len(), data::sha256(&aside.stderr)), (BULK, hash));
}

/// A shell or a program before us may have left `O_NONBLOCK` on what we share with it.
#[test]
fn pipes_that_do_not_wait_are_waited_for() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let sent = data::random(13, 3 << 20);
    let (stdin, mut feed) = std::io::pipe().unwrap();
    let (mut back, stdout) = std::io::pipe().unwrap();
    ioctl_fionbio(&stdin, true).unwrap();
    ioctl_fionbio(&stdout, true).unwrap();
    let mut command = target.gateway().command(&["exec", "box", "--", "cat"]);
    command.stdin(Stdio::from(stdin)).stdout(Stdio::from(stdout));
    let mut client = Guard::spawn(&mut command);
    drop(command);
    // First there is nothing to read, and then nobody reads.
    std::thread::sleep(Duration::from_secs(1));
    let bytes = sent.clone();
    let feeder = std::thread::spawn(move || feed.write_all(&bytes));
    std::thread::sleep(Duration::from_secs(1));
    let mut got = Vec::new();
    back.read_to_end(&mut got).unwrap();
    assert_eq!((got.len(), data::sha256(&got)), (sent.len(), data::sha256(&sent)));
    feeder.join().unwrap().unwrap();
    assert_eq!(client.wait(Duration::from_secs(10)), Some(0));
}

#[test]
fn standard_output_and_error_stay_apart_and_the_code_comes_after_both() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let script = "head -c 3000000 /dev/zero; head -c 2000000 /dev/zero | tr '\\0' e >&2; exit 7";
    let output = exec(&target, &["--", "sh", "-c", script], Feed::Null);
    output.exits(7);
    assert!(output.stdout == vec![0; 3_000_000], "{} bytes", output.stdout.len());
    assert!(output.stderr == vec![b'e'; 2_000_000], "{} bytes", output.stderr.len());
}

#[test]
fn codes_and_signals_are_those_of_the_command() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    for code in [0, 1, 2, 77, 255] {
        exec(&target, &["--", "sh", "-c", &format!("exit {code}")], Feed::Silence).exits(code);
    }
    for (name, code) in [("KILL", 137), ("TERM", 143), ("SEGV", 139), ("HUP", 129)] {
        exec(&target, &["--", "sh", "-c", &format!("kill -{name} $$")], Feed::Null).exits(code);
    }
    // No shell is in between: the arguments are the command's, whatever is in them.
    let mut command =
        target.gateway().command(&["exec", "box", "--", "printf", "%s|", "a  b", "$HOME;*", ""]);
    command.arg(OsStr::from_bytes(b"\xff\n"));
    let output = run(&mut command, Feed::Null, DEADLINE);
    output.exits(0);
    assert_eq!(output.stdout, b"a  b|$HOME;*||\xff\n|");
    let output = exec(&target, &["--", "/no/such/program"], Feed::Null);
    assert!(output.code != 0 && output.errors().contains("/no/such/program"), "{output:?}");
}

#[test]
fn a_command_whose_reader_has_gone_gets_sigpipe() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let mut script = target.gateway().script("$SANDGATE exec box -- yes | head -n 1; echo ${PIPESTATUS[0]}");
    assert_eq!(run(&mut script, Feed::Silence, DEADLINE).ok(), "y\n141");
    let inside = "seq 1 1000000; echo $? >/tmp/seq; exit 6";
    let text = format!("$SANDGATE exec box -- sh -c '{inside}' | head -n 1; echo ${{PIPESTATUS[0]}}");
    assert_eq!(run(&mut target.gateway().script(&text), Feed::Silence, DEADLINE).ok(), "1\n6");
    assert_eq!(exec(&target, &["--", "cat", "/tmp/seq"], Feed::Null).ok(), "141");
}

#[test]
fn the_end_of_input_arrives_and_a_command_need_not_read_any() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    assert_eq!(exec(&target, &["--", "wc", "-c"], Feed::Null).ok(), "0");
    assert_eq!(exec(&target, &["--", "wc", "-c"], Feed::Bytes(vec![0; 12345])).ok(), "12345");
    // More than any buffer on the way holds, for a command that reads one line of it.
    let output =
        exec(&target, &["--", "sh", "-c", "read a; echo $a"], Feed::Bytes(b"yes\n".repeat(BULK / 4)));
    assert_eq!(output.ok(), "yes");
}

#[test]
fn variables_and_users_are_taken() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let mut command = target.gateway().command(&["exec", "box", "-e", "A=b=c d", "-e", "E="]);
    command.arg("-e").arg(OsStr::from_bytes(b"ODD=\xff\n")).args(["--", "sh", "-c"]);
    command.arg("printf '%s|' \"$A\" \"${E-unset}\" \"$ODD\"");
    let output = run(&mut command, Feed::Null, DEADLINE);
    output.exits(0);
    assert_eq!(output.stdout, b"b=c d||\xff\n|");
    assert_eq!(exec(&target, &["--", "id", "-u"], Feed::Null).ok(), "0");
    assert_eq!(exec(&target, &["-u", "nobody", "--", "id", "-un"], Feed::Null).ok(), "nobody");
    let output = exec(&target, &["-u", "nosuchuser", "--", "id"], Feed::Null);
    assert!(output.code != 0 && output.errors().contains("nosuchuser"), "{output:?}");
}

#[test]
fn a_terminal_is_one_inside_too() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let script = "tty; stty size; echo $TERM; read line; echo \"<$line>\"; stty size; exit 3";
    let mut command = target.gateway().command(&["exec", "box", "-t", "--", "sh", "-c", script]);
    command.env("TERM", "vt220");
    let mut terminal = Terminal::spawn(&command, 93, 31);
    terminal.expect("/dev/pts/");
    terminal.expect("31 93");
    terminal.expect("vt220");
    terminal.resize(101, 41);
    let resized = || {
        let output = exec(&target, &["--", "sh", "-c", "stty size </dev/pts/0"], Feed::Null);
        output.text().trim() == "41 101"
    };
    assert!(until(Duration::from_secs(10), resized), "the new size did not arrive");
    terminal.send("typed\r");
    terminal.expect("<typed>");
    terminal.expect("41 101");
    assert_eq!(terminal.wait(), 3);
    // Ctrl-C is a byte for the terminal inside, not the end of the client.
    let script = "trap 'echo caught; exit 4' INT; echo ready; while :; do sleep 0.1; done";
    let command = target.gateway().command(&["exec", "box", "-t", "--", "sh", "-c", script]);
    let mut terminal = Terminal::spawn(&command, 80, 24);
    terminal.expect("ready");
    terminal.send("\x03");
    terminal.expect("caught");
    assert_eq!(terminal.wait(), 4);
}

#[test]
fn without_a_terminal_there_is_none_inside() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let script = "test -t 0 || test -t 1 || test -t 2 || echo none";
    assert_eq!(exec(&target, &["--", "sh", "-c", script], Feed::Null).ok(), "none");
}

#[test]
fn signals_are_passed_on_and_a_client_that_is_killed_takes_its_command_along() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let runs = |marker: &str| exec(&target, &["--", "pgrep", "-x", "-f", marker], Feed::Null).code == 0;
    let script = "trap 'exit 9' TERM; sleep 4711 & wait";
    let mut command = target.gateway().command(&["exec", "box", "--", "sh", "-c", script]);
    let mut client = Guard::spawn(command.stdin(Stdio::null()));
    assert!(until(Duration::from_secs(10), || runs("sleep 4711")));
    client.signal(Signal::TERM);
    assert_eq!(client.wait(Duration::from_secs(10)), Some(9));

    let mut command = target.gateway().command(&["exec", "box", "--", "sleep", "4712"]);
    let mut client = Guard::spawn(command.stdin(Stdio::null()));
    assert!(until(Duration::from_secs(10), || runs("sleep 4712")));
    client.signal(Signal::KILL);
    assert_eq!(client.wait(Duration::from_secs(10)), Some(137));
    assert!(until(Duration::from_secs(20), || !runs("sleep 4712")), "the command lives on");
    let sessions = || target.gateway().json(&["session", "ls"]).as_array().unwrap().len();
    assert!(until(Duration::from_secs(10), || sessions() == 0), "a session is left");
}

#[test]
fn signals_are_passed_on_while_nobody_reads_and_no_output_is_lost() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let flood = "(trap '' TERM; exec head -c 3000000 /dev/zero) & wait; wait; exit 4";
    let script = format!("trap 'touch /tmp/told' TERM; {flood}");
    let mut command = target.gateway().command(&["exec", "box", "--", "sh", "-c", &script]);
    let mut client = Guard::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    let mut stdout = client.child().stdout.take().unwrap();
    let full = || rustix::io::ioctl_fionread(&stdout).unwrap() >= 60_000;
    assert!(until(Duration::from_secs(20), full), "the pipe is not full");
    std::thread::sleep(Duration::from_millis(500));
    client.signal(Signal::TERM);
    let told = || exec(&target, &["--", "test", "-e", "/tmp/told"], Feed::Null).code == 0;
    assert!(until(Duration::from_secs(10), told), "the signal waits for the reader");
    let mut got = Vec::new();
    stdout.read_to_end(&mut got).unwrap();
    assert!(got == vec![0; 3_000_000], "{} bytes", got.len());
    assert_eq!(client.wait(Duration::from_secs(10)), Some(4));
}
