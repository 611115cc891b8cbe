//! Sessions: what a command says, how it ends, its terminal, its environment, and channels beside each other.

use std::process::Stdio;
use std::time::{Duration, Instant};

use sandgate_tests::client::DEADLINE;
use sandgate_tests::process::Guard;
use sandgate_tests::raw::Client;
use sandgate_tests::raw::codec::Writer;
use sandgate_tests::terminal::Terminal;
use sandgate_tests::wait::{in_parallel, scaled, until};
use sandgate_tests::{Feed, data, left_behind, run};

use crate::ground::Ground;
use crate::report::Behaviour;

pub const ALL: &[Behaviour] = &[
    ("exit codes, 13 of them", exit_codes),
    ("100 × exit 7", a_hundred_times_seven),
    ("stderr apart and byte-exact", stderr_apart),
    ("10 MB binary both ways", binary_both_ways),
    ("end of input", end_of_input),
    ("a writer learns that nobody reads", nobody_reads),
    ("silent input does not delay the end", silent_input),
    ("terminal: size, modes, resize", terminal),
    ("terminal: a command that lets go of it lives on", lets_go),
    ("input of what is left behind ends with the command", input_ends),
    ("signals in", signals_in),
    ("exit-signal", exit_signal),
    ("environment", environment),
    ("starts in $HOME as the user", home),
    ("killed client: process group gone", killed_client),
    ("20 sessions on one connection", shared_connection),
    ("an unread channel beside one in use", unread_channel),
];

fn exit_codes(ground: &mut Ground) {
    let master = ground.target.master();
    for code in [0, 1, 2, 7, 42, 126, 127, 128, 129, 137, 143, 254, 255] {
        assert_eq!(master.exec(&format!("exit {code}")).code, code);
    }
}

fn a_hundred_times_seven(ground: &mut Ground) {
    let master = ground.target.master();
    let wrong = in_parallel(4, scaled(100), |turn| {
        let output = if turn % 10 == 0 { ground.exec("exit 7") } else { master.exec("exit 7") };
        if output.code == 7 { Ok(()) } else { Err(format!("{}: {}", output.code, output.errors())) }
    });
    assert!(wrong.is_empty(), "{wrong:?}");
}

fn stderr_apart(ground: &mut Ground) {
    let output = ground.exec("echo out; echo err >&2; exit 3");
    assert_eq!((output.code, output.text().as_str(), output.errors().as_str()), (3, "out\n", "err\n"));
    let generator = "seq 1 400000";
    let script = format!(
        "$SSH box '{generator} >&2; echo out' >$DIR/out 2>$DIR/err; echo $?; cat $DIR/out; sha256sum <$DIR/err; {generator} | sha256sum"
    );
    let text = run(&mut ground.target.script(&script), Feed::Null, DEADLINE).ok();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["0", "out"], "{text}");
    assert_eq!(lines[2], lines[3], "standard error differs");
}

fn binary_both_ways(ground: &mut Ground) {
    let bytes = data::random(1, 10_000_000);
    let hash = data::sha256(&bytes);
    let there = ground.target.exec_with("sha256sum", bytes.clone()).ok();
    assert!(there.starts_with(&hash), "other bytes arrived inside: {there}");
    let back = ground.target.exec_with("cat", bytes);
    back.exits(0);
    assert_eq!(data::sha256(&back.stdout), hash, "other bytes came back");
}

/// By SIGPIPE, and where that is ignored (Python does) by EPIPE. Standard error is still taken.
fn nobody_reads(ground: &mut Ground) {
    let ignoring = "trap '' PIPE; while echo y; do :; done 2>/dev/null; echo told >&2 || exit 8; exit 7";
    for (command, code) in [("yes; exit \\$?", "141"), (ignoring, "7")] {
        let script = format!("$SSH box \"{command}\" 2>/dev/null | head -n 2; echo ${{PIPESTATUS[0]}}");
        let text = run(&mut ground.target.script(&script), Feed::Null, DEADLINE).text();
        assert_eq!(text, format!("y\ny\n{code}\n"), "{command}");
    }
}

fn end_of_input(ground: &mut Ground) {
    assert_eq!(ground.target.exec_with("cat; echo end", b"in\n".to_vec()).ok(), "in\nend");
    assert_eq!(ground.exec("cat; echo end").ok(), "end");
}

fn silent_input(ground: &mut Ground) {
    let output = run(&mut ground.target.ssh(&["box", "true"]), Feed::Silence, Duration::from_secs(20));
    output.ok();
    assert!(output.took < Duration::from_secs(5), "took {:?}", output.took);
}

fn terminal(ground: &mut Ground) {
    let mut terminal = Terminal::spawn(&ground.target.ssh(&["-t", "box", "sh"]), 97, 31);
    terminal.send("tty; stty size; echo 'with a ter''minal'\n");
    let before = terminal.expect("with a terminal");
    assert!(before.contains("/dev/pts/") && before.contains("31 97"), "{before:?}");
    terminal.resize(120, 40);
    let mut seen = false;
    for _ in 0..20 {
        terminal.send("stty size; echo ma''rk\n");
        seen = terminal.expect("mark").contains("40 120");
        if seen {
            break;
        }
    }
    assert!(seen, "the new size did not arrive: {}", terminal.screen());
    terminal.send("exit 5\n");
    assert_eq!(terminal.wait(), 5);
    let output = ground.target.run_ssh(&["-tt", "box", "stty -a; seq 1 5000 | tail -n 1"]);
    assert!(output.text().contains("icanon") && output.text().trim().ends_with("5000"), "{output:?}");
}

/// To close the last descriptor of a terminal is no hangup.
fn lets_go(ground: &mut Ground) {
    let output = ground.target.run_ssh(&["-tt", "box", "sleep 1 </dev/null >/dev/null 2>&1; exit 5"]);
    assert_eq!(output.code, 5, "{output:?}");
    let output = ground.target.run_ssh(&["-tt", "box", "exec sleep 1 </dev/null >/dev/null 2>&1"]);
    assert_eq!(output.code, 0, "{output:?}");
}

/// As with sshd, a background process that reads the command's standard input sees its end when the command ends, not when the client ends
/// its own.
fn input_ends(ground: &mut Ground) {
    left_behind::its_input_ends_with_the_command(&ground.target);
}

fn signals_in(ground: &mut Ground) {
    let mut client = Client::login(&ground.target);
    let script = "trap 'echo got; exit 3' TERM; echo ready >&2; while :; do sleep 0.1; done";
    let channel = client.exec(script).unwrap();
    // The trap is set before this returns: the session that asks for it is over later.
    let ready = || ground.exec("pgrep -f 'echo read[y]'").code == 0;
    assert!(until(Duration::from_secs(10), ready), "the command did not start");
    client.request_later(channel, "signal", 0, &Writer::default().string("TERM").done()).unwrap();
    let ending = client.finish(channel).unwrap();
    assert_eq!((ending.stdout.as_slice(), ending.status), (b"got\n".as_slice(), Some(3)), "{ending:?}");
}

fn exit_signal(ground: &mut Ground) {
    let mut client = Client::login(&ground.target);
    for (name, kill) in [("KILL", "kill -9 $$"), ("TERM", "kill -TERM $$")] {
        let channel = client.exec(format!("echo before; {kill}; echo never")).unwrap();
        let ending = client.finish(channel).unwrap();
        assert_eq!(ending.signal, Some((name.to_owned(), false)), "{ending:?}");
        assert_eq!((ending.status, ending.stdout.as_slice()), (None, b"before\n".as_slice()));
    }
}

fn environment(ground: &mut Ground) {
    let mut command = ground
        .target
        .script(r#"export LC_X=$'\xff\x01 =;'; $SSH -o SendEnv=LC_X box 'printf %s "$LC_X" | od -An -tx1'"#);
    assert_eq!(run(&mut command, Feed::Null, DEADLINE).ok().trim(), "ff 01 20 3d 3b");
}

fn home(ground: &mut Ground) {
    let text = ground.exec("pwd; echo $HOME; echo $USER; id -un; echo $0").ok();
    assert_eq!(text.lines().take(4).collect::<Vec<_>>(), ["/home/dev", "/home/dev", "dev", "dev"], "{text}");
}

fn killed_client(ground: &mut Ground) {
    let marker = format!("sleep 72{}", ground.target.port);
    let runs = |ground: &Ground| ground.exec(&format!("pgrep -x -f '{marker}' >/dev/null")).code == 0;
    let mut ssh = ground.target.ssh(&["box", &format!("{marker}; true")]);
    let client = Guard::spawn(ssh.stdin(Stdio::null()).stdout(Stdio::null()));
    assert!(until(Duration::from_secs(15), || runs(ground)), "it did not start");
    drop(client);
    assert!(until(Duration::from_secs(20), || !runs(ground)), "it outlived its client");
}

fn shared_connection(ground: &mut Ground) {
    let master = ground.target.master();
    let wrong = in_parallel(20, 20, |turn| {
        let output = master.exec(&format!("sleep 0.3; echo {turn}; exit {turn}"));
        let right = output.code == turn as i32 && output.text().trim() == turn.to_string();
        if right { Ok(()) } else { Err(format!("{turn}: {} {}", output.code, output.errors())) }
    });
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Both directions: output that the client does not read, and input that the process does not read.
fn unread_channel(ground: &mut Ground) {
    let master = ground.target.master();
    let mut unread = master.ssh(&["box", "yes"]);
    let _unread = Guard::spawn(unread.stdin(Stdio::null()).stdout(Stdio::piped()));
    let mut stuffed = master.ssh(&["box", "exec sleep 100"]);
    let mut stuffed = Guard::spawn(stuffed.stdin(Stdio::piped()).stdout(Stdio::null()));
    let mut stdin = stuffed.child().stdin.take().unwrap();
    let (full, is_full) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        use std::io::Write as _;
        let chunk = [7; 65536];
        while stdin.write_all(&chunk).is_ok() {
            let _ = full.send(());
        }
    });
    // Until the pipe of the client takes no more.
    while is_full.recv_timeout(Duration::from_secs(1)).is_ok() {}
    for _ in 0..10 {
        let start = Instant::now();
        assert_eq!(master.exec("echo here").ok(), "here");
        assert!(start.elapsed() < Duration::from_secs(3), "took {:?}", start.elapsed());
    }
}
