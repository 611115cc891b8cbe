//! Sessions without a terminal: exit codes, streams, environment, and what becomes of processes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::time::Duration;

use rustix::process::Signal;
use sandgate_tests::client::DEADLINE;
use sandgate_tests::raw::codec::Writer;
use sandgate_tests::raw::{Client, pty};
use sandgate_tests::wait::{in_parallel, scaled, until};
use sandgate_tests::{Feed, Kind, Options, Target, data, left_behind, run, skip};

#[test]
fn every_exit_code_arrives() {
    let target = Target::start();
    let master = target.master();
    let wrong = in_parallel(4, 256, |code| {
        let output = master.exec(&format!("exit {code}"));
        if output.code == code as i32 { Ok(()) } else { Err(format!("{} {}", output.code, output.errors())) }
    });
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn thirty_times_five_over_one_connection() {
    let target = Target::start();
    let master = target.master();
    let codes: Vec<i32> = (0..30).map(|_| master.exec("exit 5").code).collect();
    assert_eq!(codes, [5; 30]);
}

/// Close must never overtake the exit status: a thousand over a shared connection, and a thousand with connections of their own.
#[test]
fn heavy_a_thousand_times_seven() {
    let target = Target::start();
    let master = target.master();
    let check = |output: sandgate_tests::Output| {
        if output.code == 7 { Ok(()) } else { Err(format!("{}: {}", output.code, output.errors())) }
    };
    let shared = in_parallel(4, scaled(1000), |_| check(master.exec("exit 7")));
    let plain = in_parallel(4, scaled(1000), |_| check(target.exec("exit 7")));
    assert!(shared.is_empty() && plain.is_empty(), "shared: {shared:?}\nplain: {plain:?}");
}

#[test]
fn a_finished_command_does_not_wait_for_silent_input() {
    let target = Target::start();
    target.exec("true").ok();
    let output = run(&mut target.ssh(&["box", "true"]), Feed::Silence, Duration::from_secs(20));
    output.ok();
    assert!(output.took < Duration::from_secs(4), "took {:?}", output.took);
}

#[test]
fn half_close_reaches_the_command_and_its_last_words_come_back() {
    let target = Target::start();
    assert_eq!(target.exec_with("cat; echo end", b"in\n".to_vec()).ok(), "in\nend");
    assert_eq!(target.exec("cat; echo end").ok(), "end");
}

#[test]
fn standard_error_is_separate_and_whole() {
    let target = Target::start();
    let output = target.exec("echo out; echo err >&2; exit 3");
    output.exits(3);
    assert_eq!((output.text().as_str(), output.errors().as_str()), ("out\n", "err\n"));

    let count = 20_000;
    let output =
        target.exec(&format!("i=0; while [ $i -lt {count} ]; do echo o$i; echo e$i >&2; i=$((i+1)); done"));
    output.exits(0);
    let expected = |letter: char| (0..count).map(|i| format!("{letter}{i}\n")).collect::<String>();
    assert!(output.text() == expected('o'), "standard output differs");
    assert!(output.errors() == expected('e'), "standard error differs");
}

#[test]
fn heavy_64_mib_of_standard_error() {
    let target = Target::start();
    let generator = data::shell_generator(64 << 20);
    let script = format!(
        "$SSH box '{generator} >&2; echo out' >$DIR/out 2>$DIR/err; echo $?; cat $DIR/out; sha256sum <$DIR/err; {generator} | sha256sum"
    );
    let text = run(&mut target.script(&script), Feed::Null, Duration::from_secs(120)).ok();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["0", "out"], "{text}");
    assert_eq!(lines[2], lines[3], "standard error differs");
}

#[test]
fn death_by_signal_is_told_on_the_wire() {
    let target = Target::start();
    let mut client = Client::login(&target);
    for (name, kill) in [("KILL", "kill -9 $$"), ("TERM", "kill -TERM $$"), ("USR1", "kill -USR1 $$")] {
        let channel = client.exec(format!("echo before; {kill}; echo never")).unwrap();
        let ending = client.finish(channel).unwrap();
        assert_eq!(ending.signal, Some((name.to_owned(), false)), "{ending:?}");
        assert_eq!((ending.status, ending.stdout.as_slice()), (None, b"before\n".as_slice()));
    }
    target.exec("kill -9 $$").exits(255);
}

#[test]
fn messages_come_in_order() {
    let target = Target::start();
    let mut client = Client::login(&target);
    for _ in 0..50 {
        let channel = client.exec("echo out; echo err >&2; exit 9").unwrap();
        let ending = client.finish(channel).unwrap();
        let at = |kind| {
            ending.order.iter().position(|&it| it == kind).unwrap_or_else(|| panic!("no {kind}: {ending:?}"))
        };
        assert!(at("data") < at("eof") && at("stderr") < at("eof"), "{ending:?}");
        assert!(at("exit") < at("close") && at("eof") < at("close"), "{ending:?}");
        assert_eq!(ending.status, Some(9));
    }
}

#[test]
fn environment_values_are_bytes() {
    let target = Target::start();
    let mut command = target.script(
        r#"export LC_X=$'\xff\xfe\x01 =;'; $SSH -o SendEnv=LC_X box 'printf %s "$LC_X" | od -An -tx1'"#,
    );
    assert_eq!(run(&mut command, Feed::Null, DEADLINE).ok().trim(), "ff fe 01 20 3d 3b");
}

#[test]
fn the_environment_list_is_kept_with_honest_replies() {
    let target = Target::start();
    let mut client = Client::login(&target);
    let channel = client.open_session().unwrap();
    let mut ask = |name: &str, value: &str| {
        client.request(channel, "env", &Writer::default().string(name).string(value).done()).unwrap()
    };
    assert!(ask("LC_PAPER", "de_DE"));
    assert!(ask("LANG", "C.UTF-8"));
    assert!(!ask("LD_PRELOAD", "/tmp/evil.so"));
    assert!(!ask("FOO", "bar"));
    assert!(!ask("PATH", "/nowhere"));
    let command =
        Writer::default().string("echo $LC_PAPER $LANG [$FOO$LD_PRELOAD]; test \"$PATH\" != /nowhere").done();
    assert!(client.request(channel, "exec", &command).unwrap());
    let ending = client.finish(channel).unwrap();
    assert_eq!(String::from_utf8_lossy(&ending.stdout), "de_DE C.UTF-8 []\n");
    assert_eq!(ending.status, Some(0));
}

#[test]
fn the_usual_variables_are_there() {
    let target = Target::start();
    let text = target
        .exec("echo $USER; echo $LOGNAME; echo $HOME; echo $SHELL; pwd; echo $PATH; echo $SSH_CONNECTION")
        .ok();
    let lines: Vec<&str> = text.lines().collect();
    let [user, logname, home, shell, cwd, path, connection] = lines[..] else { panic!("{text}") };
    assert_eq!(user, logname);
    assert!(!user.is_empty() && home.starts_with('/') && shell.starts_with('/'), "{text}");
    assert_eq!(cwd, home);
    assert!(path.split(':').any(|dir| dir == "/usr/bin"), "{path}");
    let fields: Vec<&str> = connection.split(' ').collect();
    assert_eq!(fields.len(), 4, "{connection}");
    assert_eq!(fields[0], "127.0.0.1");
    assert!(
        fields[1].parse::<u16>().is_ok_and(|port| port > 0) && fields[3].parse::<u16>().is_ok(),
        "{connection}"
    );
}

/// What VS Code does: a shell without a terminal, fed with a script; plain pipes, bare LF, nothing else on standard output.
#[test]
fn a_script_on_the_input_of_a_shell() {
    let target = Target::start();
    for args in [&["-T", "box", "sh"][..], &["-T", "box"]] {
        let mut command = target.ssh(args);
        let output =
            run(&mut command, Feed::Bytes(b"echo a\nprintf 'x\\ty\\n'\nexit 3\n".to_vec()), DEADLINE);
        output.exits(3);
        assert_eq!(output.text(), "a\nx\ty\n", "{args:?}");
    }
    // A shell that was not given a command is a login shell all the same.
    let output =
        run(&mut target.ssh(&["-T", "box"]), Feed::Bytes(b"echo $0; pwd; echo ~\n".to_vec()), DEADLINE);
    let text = output.ok();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with('-'), "{text}");
    assert_eq!(lines[1], lines[2], "{text}");
}

#[test]
fn a_command_is_bytes_and_may_be_long() {
    let target = Target::start();
    let mut client = Client::login(&target);
    let channel = client.exec(b"printf %s '\xff\xc3\x28' | od -An -tx1".as_slice()).unwrap();
    let ending = client.finish(channel).unwrap();
    assert_eq!(String::from_utf8_lossy(&ending.stdout).trim(), "ff c3 28");
    let long = format!(": {}; echo ok", "a".repeat(100_000));
    assert_eq!(target.exec(&long).ok(), "ok");
    assert_eq!(target.exec("echo \"it's\" '$HOME' \\\\; echo \"$((1+1))\"").ok(), "it's $HOME \\\n2");
}

#[test]
fn a_background_child_keeps_the_channel_as_with_sshd() {
    let target = Target::start();
    let output = target.exec("sleep 3 & echo started");
    assert_eq!(output.ok(), "started");
    assert!(output.took > Duration::from_millis(2900), "did not wait for the pipe: {:?}", output.took);
    let output = target.exec("sleep 30 >/dev/null 2>&1 & echo started");
    assert_eq!(output.ok(), "started");
    assert!(output.took < Duration::from_secs(10), "{:?}", output.took);
    // With a terminal the session ends when the shell does.
    let output = target.run_ssh(&["-tt", "box", "sleep 30 & echo started"]);
    assert_eq!(output.ok().trim(), "started");
    assert!(output.took < Duration::from_secs(10), "{:?}", output.took);
}

#[test]
fn a_writer_learns_that_nobody_reads() {
    let target = Target::start();
    let file = format!("/tmp/pipe-{}", target.port);
    let script = format!("$SSH box 'yes; echo $? >{file}' | head -n 3; true");
    assert_eq!(run(&mut target.script(&script), Feed::Null, Duration::from_secs(20)).ok(), "y\ny\ny");
    let mut code = String::new();
    until(Duration::from_secs(10), || {
        code = target.exec(&format!("cat {file} 2>/dev/null")).text();
        !code.is_empty()
    });
    target.exec(&format!("rm -f {file}"));
    assert_eq!(code, "141\n", "SIGPIPE did not reach the writer");
}

#[test]
fn what_is_left_behind_sees_the_end_of_its_input() {
    left_behind::its_input_ends_with_the_command(&Target::start());
}

/// Python ignores SIGPIPE, and a shell can: they get EPIPE. Standard error is still taken, although stock clients show no more of it.
#[test]
fn a_writer_that_ignores_the_signal_learns_it_as_well() {
    let target = Target::start();
    let command = "trap '' PIPE; while echo y; do :; done 2>/dev/null; echo told >&2 || exit 8; exit 7";
    let script = format!("$SSH box \"{command}\" 2>/dev/null | head -n 2; echo ${{PIPESTATUS[0]}}");
    let text = run(&mut target.script(&script), Feed::Null, Duration::from_secs(20)).text();
    assert_eq!(text, "y\ny\n7\n");
}

/// Whether a process with exactly this command line runs on the far side (neither a shell nor a client that names it).
fn far_side_runs(target: &Target, command_line: &str) -> bool {
    target.exec(&format!("pgrep -x -f '{command_line}' >/dev/null")).code == 0
}

/// Starts a client with a far command of a recognizable length of sleep, kills the client, and tells whether it lives on.
fn survives_its_client(
    target: &Target,
    args: &[&str],
    command: &str,
    marker: &str,
    deadline: Duration,
) -> bool {
    let mut ssh = target.ssh(args);
    ssh.args(["box", command]).stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    let client = sandgate_tests::process::Guard::spawn(&mut ssh);
    assert!(until(Duration::from_secs(15), || far_side_runs(target, marker)), "{command} did not start");
    drop(client);
    !until(deadline, || !far_side_runs(target, marker))
}

#[test]
fn the_processes_of_a_killed_client_go() {
    let target = Target::start();
    let marker = |n: u32| format!("sleep 7{n}{}", target.port);
    let patience = Duration::from_secs(20);
    let (on_tty, plain, stubborn) = (marker(1), marker(2), marker(3));
    assert!(!survives_its_client(&target, &["-tt"], &format!("{on_tty}; true"), &on_tty, patience));
    if target.kind() == Kind::Gateway {
        // sshd lets these live on; that commands outlive their client was measured as a fault of earlier gateways.
        assert!(!survives_its_client(&target, &[], &format!("{plain}; true"), &plain, patience));
        let command = format!("trap '' HUP TERM; {stubborn}; {stubborn}; true");
        assert!(!survives_its_client(&target, &[], &command, &stubborn, patience));
    }
}

#[test]
fn the_silent_process_of_a_killed_client_goes_though_the_connection_lives_on() {
    let target = Target::start();
    if target.kind() != Kind::Gateway {
        // sshd lets it live on, as above.
        return;
    }
    let master = target.master();
    let marker = format!("sleep 76{}", target.port);
    let mut ssh = master.ssh(&["box", &format!("{marker}; true")]);
    let client = sandgate_tests::process::Guard::spawn(ssh.stdin(std::process::Stdio::null()));
    assert!(until(Duration::from_secs(15), || far_side_runs(&target, &marker)), "it did not start");
    drop(client);
    assert!(until(Duration::from_secs(10), || !far_side_runs(&target, &marker)), "it was left behind");
    assert_eq!(master.exec("echo here").ok(), "here", "the connection lives on");
}

#[test]
fn what_was_detached_on_purpose_stays() {
    let target = Target::start();
    let marker = format!("sleep 74{}", target.port);
    let command = format!("setsid {marker} </dev/null >/dev/null 2>&1 & sleep 60");
    let survived = survives_its_client(&target, &["-tt"], &command, &marker, Duration::from_secs(5));
    let nohup = format!("sleep 75{}", target.port);
    target.exec(&format!("nohup {nohup} </dev/null >/dev/null 2>&1 &")).ok();
    std::thread::sleep(Duration::from_secs(3));
    let stayed = far_side_runs(&target, &nohup);
    target.exec(&format!("pkill -x -f 'sleep 7[45]{}'", target.port));
    assert!(survived, "a setsid child was killed");
    assert!(stayed, "a nohup child of an ended session was killed");
}

#[test]
fn no_command_and_background() {
    let target = Target::start();
    let mut idle = target.ssh(&["-N", "box"]);
    let mut idle = sandgate_tests::process::Guard::spawn(idle.stdin(std::process::Stdio::null()));
    assert_eq!(idle.wait(Duration::from_secs(2)), None, "ssh -N ended by itself");
    drop(idle);
    let script = "$SSH -f box \"sleep 1; echo done\" >$DIR/f 2>&1 </dev/null; echo $? $(cat $DIR/f); sleep 3; cat $DIR/f";
    assert_eq!(run(&mut target.script(script), Feed::Null, DEADLINE).ok(), "0\ndone");
}

#[test]
fn signals_are_delivered() {
    let target = Target::start();
    if target.kind() == Kind::Sshd {
        skip::because("sshd delivers signals only where it separates privileges, and it does not for root");
        return;
    }
    let mut client = Client::login(&target);
    let script = "trap 'echo got; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    let channel = client.exec(script).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    client.request_later(channel, "signal", 0, &Writer::default().string("TERM").done()).unwrap();
    let ending = client.finish(channel).unwrap();
    assert_eq!((ending.stdout.as_slice(), ending.status), (b"ready\ngot\n".as_slice(), Some(3)));

    // Right after the start the process does not lead its group yet.
    for _ in 0..20 {
        let channel = client.exec("sleep 60").unwrap();
        client.request_later(channel, "signal", 0, &Writer::default().string("INT").done()).unwrap();
        let ending = client.finish(channel).unwrap();
        assert!(
            ending.signal.is_some_and(|it| it.0 == "INT") || ending.status == Some(130),
            "SIGINT is lost"
        );
    }
}

#[test]
fn a_break_needs_a_terminal() {
    let target = Target::start();
    let mut client = Client::login(&target);
    let length = Writer::default().u32(500).done();
    let channel = client.exec("sleep 1").unwrap();
    assert!(
        !client.request(channel, "break", &length).unwrap(),
        "there is no line to break without a terminal"
    );
    let channel = client.open_session().unwrap();
    assert!(client.request(channel, "pty-req", &pty("xterm", 80, 24, &[0])).unwrap());
    assert!(client.request(channel, "exec", &Writer::default().string("sleep 1").done()).unwrap());
    assert!(client.request(channel, "break", &length).unwrap());
}

#[test]
fn keepalives_of_the_client_are_answered() {
    let target = Target::start();
    let output = target.run_ssh(&[
        "-o",
        "ServerAliveInterval=1",
        "-o",
        "ServerAliveCountMax=2",
        "box",
        "sleep 6; echo alive",
    ]);
    assert_eq!(output.ok(), "alive");
}

#[test]
fn a_client_that_stopped_answering_is_dropped_and_an_idle_one_is_not() {
    let target = Target::start_with(&Options { keepalive_seconds: Some(1), ..Options::default() });
    let (idle, dead) = (format!("sleep 76{}", target.port), format!("sleep 77{}", target.port));
    let spawn = |marker: &str| {
        let mut ssh = target.ssh(&["-tt", "box", &format!("{marker}; true")]);
        sandgate_tests::process::Guard::spawn(
            ssh.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()),
        )
    };
    let (_idle_client, dead_client) = (spawn(&idle), spawn(&dead));
    assert!(until(Duration::from_secs(15), || far_side_runs(&target, &idle) && far_side_runs(&target, &dead)));
    dead_client.signal(Signal::STOP);
    let start = std::time::Instant::now();
    assert!(
        until(Duration::from_secs(15), || !far_side_runs(&target, &dead)),
        "the silent client still holds its session"
    );
    assert!(start.elapsed() > Duration::from_millis(1500), "dropped before three keepalives were missed");
    assert!(far_side_runs(&target, &idle), "a client that answers was dropped");
    if target.kind() == sandgate_tests::Kind::Gateway {
        let log = target.log();
        let told = |line: &&str| line.contains("WARN") && line.contains("client is not responding");
        assert_eq!(log.lines().filter(told).count(), 1, "one warning: {log}");
    }
}
