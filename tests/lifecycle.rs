//! Starts and ends: of the gateway, of a sandbox, and of images that hold nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sandgate_tests::client::DEADLINE;
use sandgate_tests::files::make_image;
use sandgate_tests::process::Guard;
use sandgate_tests::wait::until;
use sandgate_tests::{Feed, Options, Target, run, skip};

#[test]
fn everything_is_as_before_after_a_crash_of_the_gateway() {
    if skip::oracle_lacks("sandboxes") {
        return;
    }
    let mut target = Target::start();
    target.gateway().create_sandbox("idle", &[]);
    target.gateway().start_sandbox("idle");
    target.gateway().cli(&["sandbox", "stop", "idle"]).ok();
    let idle_token = target.gateway().token("idle", &[]).token;
    target.exec("echo kept >~/file; setsid sleep 4243 </dev/null >/dev/null 2>&1 &").ok();
    let boot = target.exec("cat /proc/1/stat | cut -d' ' -f22").ok();
    let tokens = target.gateway().json(&["token", "ls"]);
    let known_hosts = std::fs::read_to_string(target.dir().join("known_hosts")).unwrap();

    target.gateway_mut().kill();
    target.gateway_mut().start_again();

    assert!(target.gateway().is_running("box"), "the running sandbox is not seen");
    assert!(!target.gateway().is_running("idle"), "the stopped sandbox is called running");
    let ids = |list: &serde_json::Value| list.to_string().matches("\"id\"").count();
    assert_eq!(ids(&target.gateway().json(&["token", "ls"])), ids(&tokens));
    let output = target.exec(
        "cat ~/file; pgrep -x -f 'sleep 4243' >/dev/null && echo runs; cat /proc/1/stat | cut -d' ' -f22",
    );
    assert_eq!(output.ok(), format!("kept\nruns\n{boot}"), "the sandbox was started anew");
    assert_eq!(
        std::fs::read_to_string(target.dir().join("known_hosts")).unwrap(),
        known_hosts,
        "other host keys"
    );
    assert_eq!(
        run(&mut target.ssh(&["-l", &idle_token, "box", "echo woken"]), Feed::Null, DEADLINE).ok(),
        "woken"
    );
    // And once more while a client is connected: its connection ends, the next one works.
    let mut command = target.ssh(&["box", "sleep 60"]);
    let mut session = Guard::spawn(command.stdin(Stdio::null()));
    assert!(until(Duration::from_secs(10), || target.exec("pgrep -x -f 'sleep 60'").code == 0));
    target.gateway_mut().kill();
    assert_eq!(session.wait(Duration::from_secs(5)), Some(255));
    target.gateway_mut().start_again();
    assert_eq!(target.exec("cat ~/file").ok(), "kept");
    let gone = until(Duration::from_secs(20), || target.exec("pgrep -x -f 'sleep 60'").code == 1);
    assert!(gone, "the command of a lost connection lives on");
}

#[test]
fn a_sandbox_that_died_is_seen_as_stopped() {
    if skip::oracle_lacks("sandboxes") {
        return;
    }
    let mut target = Target::start();
    let marker = format!("4244{}", target.port);
    let mut command = target.ssh(&["box", &format!("sleep {marker}")]);
    let _session = Guard::spawn(command.stdin(Stdio::null()));
    let mut inside = None;
    assert!(until(Duration::from_secs(10), || {
        inside = host_pid(&format!("sleep\0{marker}\0"));
        inside.is_some()
    }));
    let init = pid_one_of(inside.unwrap()).expect("the sandbox's first process");
    target.gateway_mut().kill();
    let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(init).unwrap(), Signal::KILL);
    target.gateway_mut().start_again();
    assert!(
        until(Duration::from_secs(5), || !target.gateway().is_running("box")),
        "a dead sandbox is called running"
    );
    assert_eq!(target.exec("echo again").ok(), "again");
}

/// A process on the host with exactly this command line.
fn host_pid(command_line: &str) -> Option<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.find(|pid| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == command_line.as_bytes())
    })
}

/// The process that is number 1 in the pid namespace of `pid`.
fn pid_one_of(pid: i32) -> Option<i32> {
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let wanted = namespace(pid)?;
    let entries = std::fs::read_dir("/proc").ok()?.flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.find(|&pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let inner = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:")?.split_whitespace().last()?.parse().ok());
        inner == Some(1) && namespace(pid).as_ref() == Some(&wanted)
    })
}

#[test]
fn a_stopped_sandbox_is_started_for_whoever_connects() {
    if skip::oracle_lacks("sandboxes") {
        return;
    }
    let target = Target::start();
    target.exec("echo kept >~/file").ok();
    target.gateway().cli(&["sandbox", "stop", "box"]).ok();
    assert!(!target.gateway().is_running("box"));
    let output = target.exec("cat ~/file");
    output.exits(0);
    assert_eq!(output.text(), "kept\n", "standard output holds something else");
    assert!(output.errors().to_lowercase().contains("start"), "the user was not told: {:?}", output.errors());
    assert!(target.gateway().is_running("box"));
    let output = target.exec("true");
    assert_eq!((output.ok().as_str(), output.errors().as_str()), ("", ""));
    // Several at once wait for one start.
    target.gateway().cli(&["sandbox", "stop", "box"]).ok();
    let complaints = sandgate_tests::wait::in_parallel(6, 6, |_| {
        let output = target.exec("cat ~/file");
        if output.text() == "kept\n" { Ok(()) } else { Err(output.errors()) }
    });
    assert!(complaints.is_empty(), "{complaints:?}");
}

#[test]
fn a_sandbox_that_cannot_start_tells_why() {
    if skip::oracle_lacks("sandboxes") {
        return;
    }
    let target = Target::start();
    let runtime = target.dir().join("runtime");
    std::fs::write(&runtime, "#!/bin/sh\necho 'the flux capacitor is empty' >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&runtime, std::fs::Permissions::from_mode(0o755)).unwrap();
    target.gateway().create_sandbox("broken", &["--runtime", runtime.to_str().unwrap()]);
    let token = target.gateway().token("broken", &[]).token;
    let output = run(&mut target.ssh(&["-l", &token, "box", "echo never"]), Feed::Null, DEADLINE);
    assert_ne!(output.code, 0);
    assert!(output.stdout.is_empty());
    assert!(output.errors().contains("flux capacitor"), "the reason is missing: {:?}", output.errors());
    let start = target.gateway().cli(&["sandbox", "start", "broken"]);
    assert_ne!(start.code, 0);
    assert!(start.errors().contains("flux capacitor"), "{}", start.errors());
    assert_eq!(target.exec("echo fine").ok(), "fine");
}

#[test]
fn an_image_with_nothing_but_the_agent() {
    if skip::oracle_lacks("images") {
        return;
    }
    let target = Target::start();
    let image = target.dir().join("empty");
    std::fs::create_dir(&image).unwrap();
    std::fs::set_permissions(&image, std::fs::Permissions::from_mode(0o755)).unwrap();
    target.gateway().create_sandbox("bare", &["--image", image.to_str().unwrap()]);
    target.gateway().start_sandbox("bare");
    let token = target.gateway().token("bare", &[]).token;
    let ssh = |args: &[&str]| run(target.ssh(&["-l", &token, "box"]).args(args), Feed::Null, DEADLINE);
    let output = ssh(&["no-such-program --flag"]);
    output.exits(127);
    assert!(output.stdout.is_empty());
    assert_eq!(output.errors().trim_end().lines().count(), 1, "{:?}", output.errors());
    let output = ssh(&[]);
    output.exits(127);
    assert_eq!(output.errors().trim_end().lines().count(), 1, "{:?}", output.errors());
    assert!(output.errors().contains("shell"), "{:?}", output.errors());
    let mut terminal = sandgate_tests::terminal::Terminal::spawn(&target.ssh(&["-l", &token, "box"]), 80, 24);
    assert_eq!(terminal.wait(), 127);
    assert!(terminal.screen().contains("shell"), "{:?}", terminal.screen());
    target.gateway().cli(&["exec", "bare", "--", "/no/such"]).exits(127);
}

/// The account names a shell that the image does not have, as with an alpine image and an account from elsewhere.
#[test]
fn an_image_without_bash_has_the_shell_that_is_there() {
    if skip::oracle_lacks("images") {
        return;
    }
    let target = Target::start();
    for shell in ["ash", "sh"] {
        let image = target.dir().join(format!("{shell}-image"));
        make_image(&image, &["sh"]);
        std::fs::rename(image.join("bin/sh"), image.join("bin").join(shell)).unwrap();
        std::fs::create_dir(image.join("etc")).unwrap();
        std::fs::write(image.join("etc/passwd"), "root:x:0:0::/:/bin/bash\n").unwrap();
        target.gateway().create_sandbox(shell, &["--image", image.to_str().unwrap()]);
        let token = target.gateway().token(shell, &[]).token;
        let ssh = |args: &[&str], feed| run(target.ssh(&["-l", &token, "box"]).args(args), feed, DEADLINE);
        let output = ssh(&["echo $SHELL; exit 5"], Feed::Null);
        assert_eq!((output.code, output.text()), (5, format!("/bin/{shell}\n")), "{}", output.errors());
        assert_eq!(ssh(&[], Feed::Bytes(b"echo $0\n".to_vec())).ok(), format!("-{shell}"));
    }
}

#[test]
fn a_drain_lets_sessions_finish() {
    if skip::oracle_lacks("graceful drain") {
        return;
    }
    let mut target = Target::start();
    let mut command = target.ssh(&["box", "echo up; sleep 3; echo done; exit 4"]);
    let out = target.dir().join("out");
    command.stdin(Stdio::null()).stdout(std::fs::File::create(&out).unwrap());
    let mut session = Guard::spawn(&mut command);
    assert!(until(Duration::from_secs(10), || std::fs::read_to_string(&out).unwrap().contains("up")));
    target.gateway().signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(target.exec("echo never").code, 255, "a draining gateway took a new connection");
    assert_eq!(session.wait(Duration::from_secs(15)), Some(4), "the session was cut off");
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "up\ndone\n");
    assert_eq!(target.gateway_mut().wait(Duration::from_secs(10)), Some(0));
    // The sandbox outlives it.
    target.gateway_mut().start_again();
    assert!(target.gateway().is_running("box"));
}

#[test]
fn a_drain_ends_at_its_deadline_and_says_so() {
    if skip::oracle_lacks("graceful drain") {
        return;
    }
    let mut target = Target::start_with(&Options {
        extra_toml: "[drain]\ndeadline = \"2s\"\n".into(),
        ..Options::default()
    });
    let text = target.dir().join("err");
    let mut command = target.ssh(&["-o", "LogLevel=INFO", "-tt", "box", "echo up; sleep 60"]);
    let out = std::fs::File::create(&text).unwrap();
    command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
    let mut session = Guard::spawn(&mut command);
    assert!(until(Duration::from_secs(10), || std::fs::read_to_string(&text).unwrap().contains("up")));
    let start = Instant::now();
    assert_eq!(target.gateway_mut().terminate(Duration::from_secs(15)), Some(0));
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert!(session.wait(Duration::from_secs(3)).is_some_and(|code| code != 0));
    let said = std::fs::read_to_string(&text).unwrap();
    assert!(said.contains("shutting down"), "the user was not told: {said:?}");
    target.gateway_mut().start_again();
}

#[test]
fn sandboxes_are_managed() {
    if skip::oracle_lacks("sandboxes") {
        return;
    }
    let target = Target::start();
    let gateway = target.gateway();
    assert_ne!(gateway.cli(&["sandbox", "create", "box"]).code, 0, "two of one name");
    for bad in ["-x", "a b", "../x", "sg_x", "", "ä"] {
        assert_ne!(gateway.cli(&["sandbox", "create", "--", bad]).code, 0, "{bad:?} was taken for a name");
    }
    assert_ne!(gateway.cli(&["sandbox", "rm", "box"]).code, 0, "a running sandbox went without --force");
    assert_ne!(gateway.cli(&["sandbox", "rm", "nobody"]).code, 0);
    assert!(gateway.json(&["sandbox", "ls"]).to_string().contains("\"box\""));
    gateway
        .create_sandbox("vars", &["--env", "ONE=1", "--env", "TWO=b c", "--memory", "256M", "--cpus", "1"]);
    let token = gateway.token("vars", &[]).token;
    let output = run(&mut target.ssh(&["-l", &token, "box", "echo $ONE $TWO"]), Feed::Null, DEADLINE);
    assert_eq!(output.ok(), "1 b c");
    gateway.cli(&["sandbox", "rm", "--force", "vars"]).ok();
    assert!(!gateway.json(&["sandbox", "ls"]).to_string().contains("vars"));
    let output = run(&mut target.ssh(&["-l", &token, "box", "echo never"]), Feed::Null, DEADLINE);
    assert!(output.code == 255 && output.errors().contains("Permission denied"), "{output:?}");
}

#[test]
fn without_a_gateway_the_command_line_says_so() {
    if skip::oracle_lacks("command line") {
        return;
    }
    let mut target = Target::start();
    target.gateway_mut().kill();
    let output = target.gateway().cli(&["sandbox", "ls"]);
    assert_ne!(output.code, 0);
    assert!(output.errors().contains("gateway"), "{:?}", output.errors());
    target.gateway_mut().start_again();
}
