//! `sandgate ssh`: a session over the control socket that looks like ssh. What stock ssh does with the same words is asked beside it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::io::{BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use sandgate_tests::client::DEADLINE;
use sandgate_tests::process::Guard;
use sandgate_tests::terminal::Terminal;
use sandgate_tests::wait::{free_port, until};
use sandgate_tests::{Feed, Output, Target, data, run, skip};

fn command(target: &Target, args: &[&str]) -> Command {
    let mut command = target.gateway().command(&["ssh"]);
    command.args(args).env_remove("SSH_AUTH_SOCK");
    command
}

#[track_caller]
fn ssh(target: &Target, args: &[&str], feed: Feed) -> Output {
    run(&mut command(target, args), feed, DEADLINE)
}

/// A program in the sandbox whose first line says that it is ready.
fn inside(target: &Target, python: &str) -> (Guard, BufReader<std::process::ChildStdout>) {
    let mut command = target.ssh(&["box", &format!("python3 -uc '{python}'")]);
    let mut guard = Guard::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    let mut lines = BufReader::new(guard.child().stdout.take().unwrap());
    assert_eq!(line(&mut lines), "ready");
    (guard, lines)
}

fn line(lines: &mut impl std::io::BufRead) -> String {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// Reads all that comes, then answers with what it was and half-closes; says on standard output what it saw.
const SINK_THEN_ANSWER: &str = r#"
import socket,sys
l=ADDRESS
print("ready")
while 1:
  c,_=l.accept()
  n=0
  while 1:
    d=c.recv(65536)
    if not d: break
    n+=len(d)
  c.sendall(b"got %d" % n)
  c.close()
"#;

/// Speaks and half-closes first, then reads to the end; says on standard output what it got.
const SPEAK_THEN_LISTEN: &str = r#"
import socket,sys
l=ADDRESS
print("ready")
while 1:
  c,_=l.accept()
  c.sendall(b"bye")
  c.shutdown(socket.SHUT_WR)
  n=0
  while 1:
    d=c.recv(65536)
    if not d: break
    n+=len(d)
  print("then", n)
  c.close()
"#;

fn on_tcp(script: &str, port: u16) -> String {
    script.trim().replace("ADDRESS", &format!("socket.create_server((\"127.0.0.1\",{port}),backlog=256)"))
}

fn on_unix(script: &str, path: &str) -> String {
    let bind = format!("socket.socket(socket.AF_UNIX); l.bind(\"{path}\"); l.listen(64)");
    script.trim().replace("ADDRESS", &bind)
}

fn connect(port: u16) -> TcpStream {
    let mut stream = None;
    until(Duration::from_secs(20), || {
        stream = TcpStream::connect(("127.0.0.1", port)).ok();
        stream.is_some()
    });
    let stream = stream.expect("nobody listens here");
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

fn forwarder(target: &Target, args: &[&str]) -> Guard {
    Guard::spawn(command(target, args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))
}

#[test]
fn commands_and_shells_end_as_with_stock_ssh() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    for script in
        ["exit 0", "exit 7", "exit 255", "kill -9 $$", "kill -TERM $$", "echo $0; echo $SHELL; pwd; false"]
    {
        let (ours, stock) = (ssh(&target, &["box", "--", script], Feed::Null), target.exec(script));
        assert_eq!((ours.code, &ours.stdout), (stock.code, &stock.stdout), "{script}");
    }
    let killed = ssh(&target, &["box", "kill -9 $$"], Feed::Null);
    assert!(killed.errors().contains("signal KILL"), "stock ssh says nothing; we do: {}", killed.errors());
    // Words are joined by spaces and go to the shell, as with ssh.
    assert_eq!(ssh(&target, &["box", "echo", "a  b", "$HOME"], Feed::Null).ok(), "a b /root");
    let script = b"echo $0 in $PWD; echo oops >&2; exit 5\n".to_vec();
    let ours = ssh(&target, &["box"], Feed::Bytes(script.clone()));
    let stock = run(&mut target.ssh(&["box"]), Feed::Bytes(script), DEADLINE);
    assert_eq!((ours.code, &ours.stdout), (stock.code, &stock.stdout));
    assert!(ours.errors().contains("oops"));
    assert_eq!(ssh(&target, &["-l", "12345:12345", "box", "id -u"], Feed::Null).ok(), "12345");
    let mut command = command(&target, &["--env", "A=b c", "box", "echo $A $LC_TIME"]);
    assert_eq!(run(command.env("LC_TIME", "C.UTF-8"), Feed::Null, DEADLINE).ok(), "b c C.UTF-8");
}

#[test]
fn our_own_failures_are_255_with_one_line() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let mut target = Target::start();
    let output = ssh(&target, &["nosuch", "true"], Feed::Null);
    assert!(output.exits(255).errors().contains("no sandbox \"nosuch\""), "{}", output.errors());
    let output = ssh(&target, &["-l", "nosuchuser", "box", "true"], Feed::Null);
    assert!(output.exits(255).errors().contains("nosuchuser"), "{}", output.errors());
    let output = ssh(&target, &["-L", "x:y", "box", "true"], Feed::Null);
    assert!(output.exits(255).errors().contains("-L x:y"), "{}", output.errors());
    let mut waiting = forwarder(&target, &["box", "sleep 300"]);
    let sessions = |target: &Target| target.gateway().json(&["session", "ls"]).as_array().unwrap().clone();
    assert!(until(Duration::from_secs(10), || sessions(&target).len() == 1));
    let id = sessions(&target)[0]["id"].as_str().unwrap().to_owned();
    target.gateway().cli(&["session", "kill", &id]).ok();
    assert_eq!(waiting.wait(Duration::from_secs(10)), Some(255));
    target.gateway_mut().kill();
    let output = ssh(&target, &["box", "true"], Feed::Null);
    assert!(output.exits(255).errors().contains("no gateway is running"), "{}", output.errors());
    target.gateway_mut().start_again();
}

#[test]
fn bulk_passes_exactly_and_a_reader_that_stops_ends_it() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let sent = data::random(11, 40 << 20);
    let back = ssh(&target, &["box", "cat"], Feed::Bytes(sent.clone()));
    back.exits(0);
    assert_eq!((back.stdout.len(), data::sha256(&back.stdout)), (sent.len(), data::sha256(&sent)));
    let mut script =
        target.gateway().script("$SANDGATE ssh box 'yes; echo $? >/tmp/ended' | head -c 100000 | wc -c");
    assert_eq!(run(&mut script, Feed::Silence, DEADLINE).ok(), "100000");
    let gone = || target.exec("pgrep -x yes").code == 1;
    assert!(until(Duration::from_secs(20), gone), "the command outlives its reader");
    assert_eq!(target.exec("cat /tmp/ended").ok(), "141", "not ended by SIGPIPE");
}

/// With stock ssh as well: what writes learns it, and what comes after goes on.
#[test]
fn a_command_whose_reader_has_gone_is_not_cut_off() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let inside = "seq 1 1000000; echo saved >/tmp/after; exit 3";
    let ours = format!("$SANDGATE ssh box '{inside}' | head -n 1; echo ${{PIPESTATUS[0]}}");
    let mut script = target.gateway().script(&ours);
    assert_eq!(run(&mut script, Feed::Null, DEADLINE).ok(), "1\n3");
    assert_eq!(target.exec("cat /tmp/after").ok(), "saved");
    // Standard error is still shown.
    let inside = "seq 1 1000000; echo done >&2; exit 4";
    let ours = format!("$SANDGATE ssh box '{inside}' | head -n 1; echo ${{PIPESTATUS[0]}}");
    let output = run(&mut target.gateway().script(&ours), Feed::Null, DEADLINE);
    assert_eq!(output.ok(), "1\n4");
    assert!(output.errors().contains("done"), "{}", output.errors());
    // Our own line has no reader either.
    let ours = "$SANDGATE ssh box yes 2>&1 | head -n 1; echo ${PIPESTATUS[0]}";
    assert_eq!(run(&mut target.gateway().script(ours), Feed::Null, DEADLINE).ok(), "y\n255");
}

/// Stopped for longer than the gateway waits for one that has everything.
#[test]
fn a_client_that_pauses_loses_neither_output_nor_exit() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    // It fits into the client's credit, so that the session ends meanwhile, and not into the socket.
    let script = "touch /tmp/up; until test -e /tmp/go; do sleep 0.1; done; head -c 260000 /dev/zero; exit 7";
    let mut client = forwarder(&target, &["box", script]);
    assert!(until(Duration::from_secs(20), || target.exec("test -e /tmp/up").code == 0));
    client.signal(Signal::STOP);
    target.exec("touch /tmp/go").ok();
    let over = || target.gateway().json(&["session", "ls"]).as_array().unwrap().is_empty();
    assert!(until(Duration::from_secs(20), over), "the session does not end");
    std::thread::sleep(Duration::from_secs(4));
    client.signal(Signal::CONT);
    let mut got = Vec::new();
    client.child().stdout.take().unwrap().read_to_end(&mut got).unwrap();
    assert!(got == vec![0; 260_000], "{} bytes", got.len());
    assert_eq!(client.wait(Duration::from_secs(10)), Some(7));
}

#[test]
fn a_terminal_is_asked_for_as_by_ssh() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let has_one = "test -t 0 && echo yes || echo no";
    assert_eq!(ssh(&target, &["box", has_one], Feed::Null).ok(), "no");
    assert_eq!(ssh(&target, &["-tt", "box", has_one], Feed::Null).ok().trim_end(), "yes");
    let once = ssh(&target, &["-t", "box", has_one], Feed::Null);
    assert_eq!(once.ok(), "no");
    assert!(once.errors().contains("will not be allocated"), "{}", once.errors());
    let in_terminal = |args: &[&str], expected: &str| {
        let mut terminal = Terminal::spawn(&command(&target, args), 80, 24);
        terminal.expect(expected);
        assert_eq!(terminal.wait(), 0, "{args:?}");
    };
    in_terminal(&["box", has_one], "no");
    in_terminal(&["-t", "box", has_one], "yes");
    let mut shell = Terminal::spawn(&command(&target, &["-T", "box"]), 80, 24);
    shell.send("tty; exit 4\n");
    shell.expect("not a tty");
    assert_eq!(shell.wait(), 4);
}

#[test]
fn with_n_the_input_is_left_to_others() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    // An input that never ends.
    assert_eq!(ssh(&target, &["-n", "box", "cat; echo end"], Feed::Silence).ok(), "end");
    let ours = "printf 'a\\nb\\n' | while read -r l; do $SANDGATE ssh -n box \"echo $l\"; done";
    assert_eq!(run(&mut target.gateway().script(ours), Feed::Null, DEADLINE).ok(), "a\nb");
    let has_one = "test -t 0 && echo yes || echo no";
    let mut terminal = Terminal::spawn(&command(&target, &["-n", "-t", "box", has_one]), 80, 24);
    terminal.expect("will not be allocated");
    terminal.expect("no\r\n");
    assert_eq!(terminal.wait(), 0);
    // The terminal here is as it was, so that its own Ctrl-C ends the client.
    let script = format!("{has_one}; exec sleep 4717");
    let mut terminal = Terminal::spawn(&command(&target, &["-n", "-tt", "box", &script]), 80, 24);
    terminal.expect("yes");
    terminal.send("\x03");
    assert_eq!(terminal.wait(), 255);
    assert!(until(Duration::from_secs(20), || target.exec("pgrep -x -f 'sleep 4717'").code == 1));
}

#[test]
fn an_interactive_shell_has_the_size_modes_and_keys_of_this_terminal() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let mut with_term = command(&target, &["box"]);
    with_term.env("TERM", "vt220");
    // Another erase character than any default.
    let mut outer = Command::new("sh");
    let line = |command: &Command| {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|it| format!("'{}'", it.to_string_lossy())).collect::<Vec<_>>().join(" ")
    };
    outer.args(["-c", &format!("stty erase '^X'; {}; echo code $?; stty -a", line(&with_term))]);
    outer.env("TERM", "vt220").env_remove("SSH_AUTH_SOCK");
    let mut terminal = Terminal::spawn(&outer, 93, 31);
    terminal.send("echo $TERM $((40+2)); shopt -q login_shell && echo login; stty -a\r");
    terminal.expect("vt220 42");
    terminal.expect("login");
    terminal.expect("rows 31; columns 93");
    terminal.expect("erase = ^X");
    terminal.resize(101, 41);
    terminal.send("sleep 1; stty size\r");
    terminal.expect("41 101");
    // A byte for the terminal inside, not the end of the client.
    terminal.send("sleep 300\r");
    std::thread::sleep(Duration::from_millis(500));
    terminal.send("\x03");
    terminal.send("exit 6\r");
    terminal.expect("Connection to box closed.");
    terminal.expect("code 6");
    let after = terminal.expect("-echoprt");
    assert!(after.contains(" icanon") && after.contains(" echo "), "the terminal stayed raw: {after}");
    assert_eq!(terminal.wait(), 0);
}

#[test]
fn escape_keys_work_at_the_start_of_a_line_only() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let script = "stty -echo -ixon; echo up; while read -r l; do echo \"<$l>\"; done";
    let mut terminal = Terminal::spawn(&command(&target, &["-t", "box", script]), 80, 24);
    terminal.expect("up");
    terminal.send("~?");
    terminal.expect("Supported escape sequences");
    terminal.send("~#");
    terminal.expect("There are no forwards.");
    terminal.send("a~.\r");
    terminal.expect("<a~.>");
    terminal.send("~~.\r");
    terminal.expect("<~.>");
    // Keys by which docker leaves a container are keys like all others.
    terminal.send("\x10\x11.\r");
    terminal.expect("<\x10\x11.>");
    terminal.send("~.");
    terminal.expect("Connection to box closed.");
    assert_eq!(terminal.wait(), 255);
    let gone = || target.gateway().json(&["session", "ls"]).as_array().unwrap().is_empty();
    assert!(until(Duration::from_secs(10), gone), "the session lives on");
    assert!(until(Duration::from_secs(20), || target.exec("pgrep -f 'stty -[e]cho'").code == 1));
    // What the command has detached itself lives on.
    let detached = "setsid sleep 4718 </dev/null >/dev/null 2>&1 & echo up; cat";
    let mut leaving = Terminal::spawn(&command(&target, &["-t", "box", detached]), 80, 24);
    leaving.expect("up");
    leaving.send("~.");
    assert_eq!(leaving.wait(), 255);
    assert!(until(Duration::from_secs(20), || target.exec("pgrep -x cat").code == 1));
    target.exec("pkill -x -f 'sleep 4718'").ok();
    let help = run(&mut target.gateway().command(&["ssh", "--help"]), Feed::Null, DEADLINE).ok();
    let words: Vec<_> = help.split_whitespace().collect();
    assert!(words.join(" ").contains("(~. ends the session, ~? lists the others)"), "{help}");

    let mut other = Terminal::spawn(&command(&target, &["-e", "^]", "-t", "box", script]), 80, 24);
    other.expect("up");
    other.send("~.\r");
    other.expect("<~.>");
    other.send("\x1d.");
    assert_eq!(other.wait(), 255);

    let mut none = Terminal::spawn(&command(&target, &["-e", "none", "-t", "box", script]), 80, 24);
    none.expect("up");
    none.send("~.\r");
    none.expect("<~.>");
    none.send("\x04");
    assert_eq!(none.wait(), 0);
}

#[test]
fn a_session_may_be_suspended_and_goes_on() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let mut shell = Command::new("bash");
    shell.args(["--norc", "--noprofile", "-i"]).env("PS1", "here$ ").env_remove("SSH_AUTH_SOCK");
    let mut terminal = Terminal::spawn(&shell, 200, 24);
    terminal.expect("here$ ");
    let words = command(&target, &["box", "-t", "stty -echo; echo up; read -r l; echo \\\"got $l\\\""]);
    let words: Vec<_> = std::iter::once(words.get_program()).chain(words.get_args()).collect();
    let words: Vec<_> =
        words.iter().map(|it| format!("\"{}\"", it.to_string_lossy().replace('$', "\\$"))).collect();
    terminal.send(format!("{}\r", words.join(" ")));
    terminal.expect("up\r\n");
    terminal.send("~\x1a");
    terminal.expect("here$ ");
    terminal.send("echo $((20+3))\r");
    terminal.expect("23");
    terminal.send("fg\r");
    // What is typed before the client has its terminal back is thrown away with the change of modes.
    terminal.wait_for_raw();
    terminal.send("word\r");
    terminal.expect("got word");
    // And what is typed before it has ended is its own.
    terminal.expect("here$ ");
    terminal.send("exit\r");
    assert_eq!(terminal.wait(), 0);
}

#[test]
fn signals_end_the_client_and_its_command_as_with_ssh() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    for (signal, code) in [(Signal::TERM, 255), (Signal::INT, 255), (Signal::KILL, 137)] {
        let mut client = forwarder(&target, &["box", "sleep 4713"]);
        let runs = || target.exec("pgrep -x -f 'sleep 4713'").code == 0;
        assert!(until(Duration::from_secs(10), runs));
        client.signal(signal);
        assert_eq!(client.wait(Duration::from_secs(10)), Some(code));
        assert!(until(Duration::from_secs(20), || !runs()), "the command lives on");
    }
}

/// As after `nohup`, and for a command that a script has put into the background.
#[test]
fn signals_that_were_ignored_stay_ignored() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    for (words, code) in [("ssh box 'sleep 4716'", 255), ("exec box -- sleep 4716", 143)] {
        let text = format!("trap '' HUP INT QUIT; exec $SANDGATE {words}");
        let mut script = target.gateway().script(&text);
        let mut client = Guard::spawn(script.stdin(Stdio::null()).stderr(Stdio::null()));
        let runs = || target.exec("pgrep -x -f 'sleep 4716'").code == 0;
        assert!(until(Duration::from_secs(10), runs), "{words}");
        for signal in [Signal::HUP, Signal::INT, Signal::QUIT] {
            client.signal(signal);
        }
        assert_eq!(client.wait(Duration::from_secs(2)), None, "{words}");
        assert!(runs(), "{words}");
        client.signal(Signal::TERM);
        assert_eq!(client.wait(Duration::from_secs(10)), Some(code), "{words}");
        assert!(until(Duration::from_secs(20), || !runs()), "{words}");
    }
}

/// Nobody reads what it shows: it still ends by a signal.
#[test]
fn a_client_whose_output_is_not_read_still_listens() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let mut client = forwarder(&target, &["box", "yes"]);
    let stuck = |client: &mut Guard| {
        let pipe = client.child().stdout.as_ref().unwrap();
        rustix::io::ioctl_fionread(pipe).unwrap() >= 60_000
    };
    assert!(until(Duration::from_secs(20), || stuck(&mut client)), "the pipe is not full");
    std::thread::sleep(Duration::from_millis(500));
    client.signal(Signal::TERM);
    assert_eq!(client.wait(Duration::from_secs(10)), Some(255));
    assert!(until(Duration::from_secs(20), || target.exec("pgrep -x yes").code == 1), "the command lives on");
}

#[test]
fn a_local_forward_passes_each_half_close_on() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let (_one, _) = inside(&target, &on_tcp(SINK_THEN_ANSWER, 7001));
    let (_two, mut seen) = inside(&target, &on_tcp(SPEAK_THEN_LISTEN, 7002));
    let (first, second) = (free_port(), free_port());
    let forwards = [format!("{first}:localhost:7001"), format!("{second}:127.0.0.1:7002")];
    let _ssh = forwarder(&target, &["-N", "-L", &forwards[0], "-L", &forwards[1], "box"]);

    let mut stream = connect(first);
    let mut bytes = data::random(5, 3 << 20);
    stream.write_all(&bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, format!("got {}", bytes.len()));

    let mut stream = connect(second);
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "bye");
    bytes.truncate(1 << 20);
    stream.write_all(&bytes).unwrap();
    drop(stream);
    assert_eq!(line(&mut seen), format!("then {}", bytes.len()));
}

#[test]
fn a_forwarded_connection_outlives_the_session() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let (_server, mut seen) = inside(&target, &on_tcp(SPEAK_THEN_LISTEN, 7005));
    let port = free_port();
    let forward = format!("{port}:127.0.0.1:7005");
    // The connection is there, and its command has ended.
    let begin = || {
        let mut command = command(&target, &["-L", &forward, "box", "read x; exit 3"]);
        let mut client = Guard::spawn(command.stdin(Stdio::piped()).stderr(Stdio::null()));
        let mut stream = connect(port);
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert_eq!(said, "bye");
        client.child().stdin.take().unwrap().write_all(b"\n").unwrap();
        assert_eq!(client.wait(Duration::from_secs(2)), None, "the connection is cut off");
        (client, stream)
    };
    let (mut client, mut stream) = begin();
    stream.write_all(&[1; 1000]).unwrap();
    drop(stream);
    assert_eq!(line(&mut seen), "then 1000");
    assert_eq!(client.wait(Duration::from_secs(10)), Some(3));
    // And a signal still ends it.
    let (mut client, _stream) = begin();
    client.signal(Signal::TERM);
    assert_eq!(client.wait(Duration::from_secs(10)), Some(255));
}

#[test]
fn a_refused_forward_is_told_and_the_session_goes_on() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let port = free_port();
    let forward = format!("{port}:localhost:7999");
    let mut command = command(&target, &["-L", &forward, "box", "read x; echo still $x"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = Guard::spawn(&mut command);
    let mut stream = connect(port);
    assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0, "a connection to nowhere says something");
    let mut errors = BufReader::new(client.child().stderr.take().unwrap());
    let told = line(&mut errors);
    assert!(told.contains("localhost:7999: Connection refused"), "{told}");
    client.child().stdin.take().unwrap().write_all(b"here\n").unwrap();
    let mut out = String::new();
    client.child().stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(out, "still here\n");
    assert_eq!(client.wait(Duration::from_secs(10)), Some(0));
    // A port that is taken here: a line, or the end when that was asked for.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let forward = format!("{}:localhost:1", taken.local_addr().unwrap().port());
    let output = ssh(&target, &["-L", &forward, "box", "echo on"], Feed::Null);
    assert_eq!(output.ok(), "on");
    assert!(output.errors().contains("cannot listen on"), "{}", output.errors());
    ssh(&target, &["--exit-on-forward-failure", "-L", &forward, "box", "echo on"], Feed::Null).exits(255);
}

#[test]
fn the_rules_of_a_sandbox_hold_its_owner_too() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let rules = ["--permit-open", "localhost:7001", "--permit-listen", "7002"];
    target.gateway().create_sandbox("held", &rules);
    let port = free_port();
    let forward = format!("{port}:localhost:7999");
    let mut command = command(&target, &["-L", &forward, "held", "read x"]);
    let mut client = Guard::spawn(command.stdin(Stdio::piped()).stderr(Stdio::piped()));
    let mut stream = connect(port);
    assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0, "a connection that is not permitted says something");
    let mut errors = BufReader::new(client.child().stderr.take().unwrap());
    let told = std::iter::repeat_with(|| line(&mut errors)).find(|line| !line.contains("Starting")).unwrap();
    assert!(told.contains("PermitOpen of the sandbox allows localhost:7001 only"), "{told}");
    let output =
        ssh(&target, &["--exit-on-forward-failure", "-R", "7003:localhost:1", "held", "true"], Feed::Null);
    assert!(
        output.exits(255).errors().contains("PermitListen of the sandbox allows 7002 only"),
        "{output:?}"
    );
}

#[test]
fn sockets_are_forwarded_in_every_combination() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let (_one, _) = inside(&target, &on_unix(SINK_THEN_ANSWER, "/tmp/one.sock"));
    let (_two, _) = inside(&target, &on_tcp(SINK_THEN_ANSWER, 7003));
    let (here, port) = (target.dir().join("here.sock"), free_port());
    let forwards = [format!("{}:localhost:7003", here.display()), format!("{port}:/tmp/one.sock")];
    let mut client = forwarder(&target, &["-N", "-L", &forwards[0], "-L", &forwards[1], "box"]);
    let mut tcp = connect(port);
    tcp.write_all(b"12345").unwrap();
    tcp.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "got 5");
    let mut unix = UnixStream::connect(&here).unwrap();
    unix.write_all(b"123").unwrap();
    unix.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    unix.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "got 3");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(here.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    client.signal(Signal::TERM);
    assert_eq!(client.wait(Duration::from_secs(10)), Some(255));
    assert!(!here.exists(), "the socket is left behind");
}

/// Connects inside to `port`, sends `count` bytes, half-closes, prints the answer.
fn visit(target: &Target, address: &str, count: usize) -> Output {
    let script = format!(
        "import socket; s=socket.socket(socket.AF_UNIX) if \"/\" in \"{address}\" else socket.socket()\n\
         s.connect(\"{address}\" if \"/\" in \"{address}\" else (\"127.0.0.1\",int(\"{address}\")))\n\
         s.sendall(b\"x\"*{count}); s.shutdown(socket.SHUT_WR)\nprint(s.makefile().read())"
    );
    target.exec(&format!("python3 -c '{script}'"))
}

/// Answers each connection here with how much it sent.
fn count_here(listener: TcpListener) {
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(format!("here {}", all.len()).as_bytes()).unwrap();
        }
    });
}

#[test]
fn a_remote_forward_listens_inside_and_nowhere_else() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = listener.local_addr().unwrap().port();
    count_here(listener);
    let socket = target.dir().join("far.sock");
    let unix = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = unix.accept() {
            stream.write_all(b"by socket").unwrap();
        }
    });
    let far = free_port();
    let forwards = [
        format!("{far}:localhost:{here}"),
        format!("/tmp/far.sock:{}", socket.display()),
        format!("0:localhost:{here}"),
    ];
    let args = ["-N", "-R", &forwards[0], "-R", &forwards[1], "-R", &forwards[2], "box"];
    let mut client = forwarder(&target, &args);
    let mut said = BufReader::new(client.child().stderr.take().unwrap());
    let allocated = line(&mut said);
    let chosen =
        allocated.strip_prefix("Allocated port ").and_then(|it| it.split(' ').next()).expect("a port");
    assert_eq!(visit(&target, &far.to_string(), 200_000).ok(), "here 200000");
    assert_eq!(visit(&target, chosen, 7).ok(), "here 7");
    assert_eq!(visit(&target, "/tmp/far.sock", 0).ok(), "by socket");
    assert!(TcpStream::connect(("127.0.0.1", far)).is_err(), "something listens on this machine");
    // In use inside: told, and the session lives.
    let again = ssh(&target, &["-R", &forwards[0], "box", "echo on"], Feed::Null);
    assert_eq!(again.ok(), "on");
    assert!(again.errors().contains("remote forwarding failed"), "{}", again.errors());
    // Nobody here any more: whoever connects inside is turned away, and it is told.
    let gone = format!("0:localhost:{}", free_port());
    let mut nowhere = forwarder(&target, &["-N", "-R", &gone, "box"]);
    let mut said = BufReader::new(nowhere.child().stderr.take().unwrap());
    let allocated = line(&mut said);
    let chosen =
        allocated.strip_prefix("Allocated port ").and_then(|it| it.split(' ').next()).expect("a port");
    let visited = visit(&target, chosen, 1);
    assert!(visited.code != 0 || visited.text().trim().is_empty(), "{visited:?}");
    assert!(line(&mut said).contains("refused"));
    client.signal(Signal::KILL);
    let closed = || visit(&target, &far.to_string(), 1).code != 0;
    assert!(until(Duration::from_secs(10), closed), "the listener inside outlives its client");
}

#[test]
fn clients_that_are_killed_amid_forwards_leave_nothing_behind() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let (_server, _) = inside(&target, &on_tcp(SINK_THEN_ANSWER, 7004));
    let descriptors =
        |pid: u64| std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, std::iter::Iterator::count);
    let agent = target.gateway().json(&["sandbox", "inspect", "box"])["pid"].as_u64().unwrap();
    let count = || (descriptors(u64::from(target.pid())), descriptors(agent));
    let round = || {
        let port = free_port();
        let forward = format!("{port}:localhost:7004");
        let client = forwarder(&target, &["-L", &forward, "-R", "0:localhost:1", "box", "sleep 900"]);
        let mut streams: Vec<TcpStream> = (0..5).map(|_| connect(port)).collect();
        for stream in &mut streams {
            stream.write_all(b"half a word").unwrap();
        }
        streams[0].shutdown(Shutdown::Write).unwrap();
        client.signal(Signal::KILL);
    };
    round();
    std::thread::sleep(Duration::from_secs(1));
    let before = count();
    for _ in 0..10 {
        round();
    }
    assert!(
        until(Duration::from_secs(30), || count().0 <= before.0 && count().1 <= before.1),
        "{before:?} {:?}",
        count()
    );
    assert!(until(Duration::from_secs(20), || target.exec("pgrep -x sleep").code == 1));
}

#[test]
fn without_an_agent_the_session_works_and_says_so() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let output = ssh(&target, &["-A", "box", "echo ${SSH_AUTH_SOCK-none}"], Feed::Null);
    assert_eq!(output.ok(), "none");
    assert!(output.errors().contains("SSH_AUTH_SOCK is not set"), "{}", output.errors());
}
