//! Sessions with a terminal: size, modes, controlling terminal, and output that survives the end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::time::Duration;

use sandgate_tests::raw::codec::Writer;
use sandgate_tests::raw::{Client, pty};
use sandgate_tests::terminal::Terminal;
use sandgate_tests::wait::{in_parallel, scaled};
use sandgate_tests::{Feed, Output, Target, data, run};

#[test]
fn size_and_its_changes_arrive() {
    let target = Target::start();
    let mut terminal = Terminal::spawn(target.ssh(&["-t", "box"]).env("TERM", "vt220"), 101, 37);
    // What is typed is echoed too; the quotes inside the words keep the echo from being taken for the answer.
    terminal.send("PS1='> '; stty -echo\r");
    terminal.send("echo term=$TERM; stty size; echo o''ne.\r");
    let text = terminal.expect("one.");
    assert!(text.contains("term=vt220") && text.contains("37 101"), "{text}");
    terminal.send("trap 'echo win$((1))ched' WINCH; echo tr''apped.\r");
    terminal.expect("trapped.");
    terminal.resize(64, 20);
    std::thread::sleep(Duration::from_millis(500));
    terminal.send("sleep 1; stty size; echo t''wo.\r");
    let text = terminal.expect("two.");
    assert!(text.contains("win1ched") && text.contains("20 64"), "{text}");
    terminal.send("exit 42\r");
    assert_eq!(terminal.wait(), 42);
}

#[test]
fn pixels_and_modes_are_applied() {
    let target = Target::start();
    let mut client = Client::login(&target);
    let channel = client.open_session().unwrap();
    // RFC 4254 §8: VERASE = ^H, ECHO off, ONLCR off, IXON off, CS8 on, speeds, end.
    let mut modes = Writer::default();
    for (opcode, value) in [(3u8, 8u32), (53, 0), (72, 0), (38, 0), (91, 1), (128, 38400), (129, 38400)] {
        modes = modes.byte(opcode).u32(value);
    }
    assert!(client.request(channel, "pty-req", &pty("dumb", 90, 33, &modes.byte(0).done())).unwrap());
    let script = "stty -a; python3 -c 'import fcntl,termios,struct;print(struct.unpack(\"4H\",fcntl.ioctl(0,termios.TIOCGWINSZ,bytes(8))))'";
    assert!(client.request(channel, "exec", &Writer::default().string(script).done()).unwrap());
    let ending = client.finish(channel).unwrap();
    let text = String::from_utf8_lossy(&ending.stdout).into_owned();
    for wanted in ["erase = ^H;", " -echo ", " -onlcr", " -ixon ", "speed 38400 baud", "(33, 90, 720, 528)"] {
        assert!(text.replace('\n', " ").contains(wanted), "no {wanted:?} in {text}");
    }
    assert!(!text.contains('\r'), "onlcr was not turned off");
}

#[test]
fn the_terminal_is_the_controlling_one() {
    let target = Target::start();
    let text = target.run_ssh(&["-tt", "box", "tty; echo $SSH_TTY; echo x >/dev/tty; ps -o tty= -p $$"]).ok();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert!(lines[0].starts_with("/dev/pts/"), "{text}");
    assert_eq!((lines[1], lines[2]), (lines[0], "x"), "{text}");
    assert_eq!(format!("/dev/{}", lines[3]), lines[0], "{text}");
}

#[test]
fn a_terminal_only_when_asked_for() {
    let target = Target::start();
    let without = "tty; echo [$SSH_TTY]";
    for args in [["-T", "box", without], ["-t", "box", without]] {
        // Standard input is no terminal here, so even -t asks for none.
        let text = target.run_ssh(&args).ok();
        assert_eq!(text, "not a tty\n[]", "{args:?}");
    }
    let mut terminal = Terminal::spawn(&target.ssh(&["-t", "box", "tty && echo yes."]), 80, 24);
    assert!(terminal.expect("yes.").contains("/dev/pts/"));
    assert_eq!(terminal.wait(), 0);
    let mut terminal = Terminal::spawn(&target.ssh(&["box", "tty; echo no."]), 80, 24);
    assert!(terminal.expect("no.").contains("not a tty"));
    assert_eq!(terminal.wait(), 0);
}

#[test]
fn an_interactive_shell_at_home() {
    let target = Target::start();
    let mut terminal = Terminal::spawn(&target.ssh(&["box"]), 80, 24);
    terminal.send("echo \"arg0=$0 cwd=$PWD home=$HOME end.\"\r");
    terminal.expect("arg0=-");
    let text = terminal.expect("end.");
    let field = |name: &str| text.split(' ').find_map(|it| it.strip_prefix(name)).map(str::to_owned);
    assert_eq!(field("cwd="), field("home="), "{text}");
    // ^C reaches the foreground process, not the shell.
    terminal.send("sleep 100; echo code=$?\r");
    std::thread::sleep(Duration::from_millis(700));
    terminal.send("\x03");
    terminal.send("echo after=$?.\r");
    terminal.expect("after=130.");
    // ^D ends what reads, then the shell.
    terminal.send("cat; echo cat''ted.\r");
    // Not before cat reads: what is typed ahead of a change of modes is not edited by the terminal.
    std::thread::sleep(Duration::from_millis(700));
    terminal.send("line\r");
    terminal.expect("line");
    terminal.send("\x04");
    terminal.expect("catted.");
    terminal.send("exit 17\r");
    assert_eq!(terminal.wait(), 17);
}

#[test]
fn a_slow_reader_of_a_terminal_loses_nothing() {
    let target = Target::start();
    let mut script = target.script("$SSH -tt box 'seq 1 300000' </dev/null | (sleep 2; tr -d '\\r' | sha256sum); seq 1 300000 | sha256sum");
    let text = run(&mut script, Feed::Null, Duration::from_secs(60)).ok();
    let hashes: Vec<&str> = text.lines().collect();
    assert_eq!(hashes[0], hashes[1]);
}

fn check_seq(output: &Output, expected: &str) -> Result<(), String> {
    if output.code == 0 && data::sha256(&output.stdout) == expected {
        return Ok(());
    }
    let tail = String::from_utf8_lossy(&output.stdout[output.stdout.len().saturating_sub(20)..]).into_owned();
    Err(format!(
        "code {}, {} bytes ending in {tail:?}; {}",
        output.code,
        output.stdout.len(),
        output.errors()
    ))
}

/// Output that is still in the terminal when the command ends must be drained first.
#[test]
fn heavy_nothing_is_lost_at_the_end() {
    let target = Target::start();
    let hash = |line_end: &str| {
        let text: String = (1..=20_000).map(|number| format!("{number}{line_end}")).collect();
        data::sha256(text.as_bytes())
    };
    // Over a shared connection the client asks for all modes off when its own input is no terminal, so lines end as written.
    let (as_written, expected) = (hash("\n"), hash("\r\n"));
    let deadline = Duration::from_secs(60);
    let master = target.master();
    let shared = in_parallel(4, scaled(1000), |_| {
        check_seq(&run(&mut master.ssh(&["-tt", "box", "seq 1 20000"]), Feed::Null, deadline), &as_written)
    });
    let plain = in_parallel(3, scaled(1000), |_| {
        check_seq(&run(&mut target.ssh(&["-tt", "box", "seq 1 20000"]), Feed::Null, deadline), &expected)
    });
    assert!(shared.is_empty() && plain.is_empty(), "shared: {shared:?}\nplain: {plain:?}");
}
