//! Programs without terminal, each on passed pipes, in frames, and over one shared pipe.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

#[macro_use]
mod common;

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use sandgate_guest::{ExecSpec, ExitStatus, Guest, GuestError, Program, Ready};

each_way!(exit_codes_and_signals, async |guest: Guest| {
    for code in (0..256).step_by(5) {
        assert_eq!(run(&guest, command(&format!("exit {code}"))).await.code(), code);
    }
    for (number, name) in [(9, "KILL"), (15, "TERM"), (1, "HUP"), (10, "USR1")] {
        let out = run(&guest, command(&format!("kill -{number} $$"))).await;
        assert!(matches!(&out.exit, Some(ExitStatus::Signal { name: n, .. }) if n == name), "{out:?}");
    }
});

each_way!(streams_are_apart_and_exact, async |guest: Guest| {
    let out = run(&guest, command("echo out; echo err >&2; printf '\\000\\377'")).await;
    assert_eq!((out.stdout.as_slice(), out.err().as_str(), out.code()), (&b"out\n\0\xff"[..], "err\n", 0));
});

each_way!(much_standard_error, async |guest: Guest| {
    let out = run(&guest, command("head -c 67108864 /dev/zero | tr '\\0' 'e' >&2; echo done")).await;
    assert_eq!((out.stderr.len(), out.text().as_str()), (64 << 20, "done\n"));
    assert!(out.stderr.iter().all(|b| *b == b'e'));
});

each_way!(binary_both_ways, async |guest: Guest| {
    let data = pattern(10 << 20);
    let out = run_with_input(&guest, command("cat"), data.clone()).await;
    assert!(out.stdout == data, "{} of {} bytes, or other ones", out.stdout.len(), data.len());
    assert_eq!(out.code(), 0);
});

each_way!(end_of_input, async |guest: Guest| {
    let out = run_with_input(&guest, command("cat | wc -c; read x; echo $?"), b"abc\n".to_vec()).await;
    assert_eq!(out.text(), "4\n1\n");
});

each_way!(exit_is_told_while_input_is_open, async |guest: Guest| {
    let mut process = guest.exec(command("true")).await.unwrap();
    let start = Instant::now();
    assert_eq!(drain(&mut process.output).await.code(), 0);
    assert!(start.elapsed() < Duration::from_secs(5));
    drop(process);
});

each_way!(a_reader_that_goes_away_is_told, async |guest: Guest| {
    let mut process = guest.exec(command("exec <&-; sleep 0.5; exit 3")).await.unwrap();
    let error = async {
        loop {
            if let Err(e) = process.input.write_all(&[0; 4096]).await {
                return e;
            }
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(10), error).await.unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    assert_eq!(drain(&mut process.output).await.code(), 3);
});

each_way!(sigpipe_reaches_the_writer, async |guest: Guest| {
    let out = run(&guest, command("yes | head -n 1; kill -l ${PIPESTATUS:-0} 2>/dev/null; trap")).await;
    assert_eq!(out.text().lines().next(), Some("y"));
    // Dispositions and mask are the defaults.
    let out = run(&guest, command("grep -E 'Sig(Blk|Ign)' /proc/self/status")).await;
    assert!(out.text().lines().all(|l| l.ends_with("0000000000000000")), "{}", out.text());
});

each_way!(a_slow_reader_holds_the_writer_back, async |guest: Guest| {
    let mut process = guest.exec(command("head -c 33554432 /dev/zero; echo written >&2")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    // Nothing was read, so the writer must be waiting: no word on standard error yet.
    let waker = std::task::Waker::noop();
    let mut cx = std::task::Context::from_waker(waker);
    for _ in 0..2 {
        if let std::task::Poll::Ready(ready) = process.output.poll_ready(&mut cx) {
            assert!(matches!(ready, Ready::Stdout), "{ready:?}");
        }
    }
    let out = drain(&mut process.output).await;
    assert_eq!((out.stdout.len(), out.err().as_str()), (32 << 20, "written\n"));
});

each_way!(a_background_child_keeps_the_channel, async |guest: Guest| {
    let start = Instant::now();
    let out = run(&guest, command("(sleep 1; echo late) & echo early; exit 4")).await;
    assert_eq!((out.text().as_str(), out.code()), ("early\nlate\n", 4));
    assert!(start.elapsed() >= Duration::from_millis(900));
    let start = Instant::now();
    assert_eq!(run(&guest, command("sleep 20 >/dev/null 2>&1 </dev/null & exit 5")).await.code(), 5);
    assert!(start.elapsed() < Duration::from_secs(5));
});

each_way!(environment_is_bytes, async |guest: Guest| {
    let mut spec =
        command("printf %s \"$LC_X\" | od -An -tx1; echo $SSH_CONNECTION; echo $HOME $USER; umask");
    spec.env = vec![(b"LC_X".to_vec(), b"\xff\xfe".to_vec())];
    spec.ssh_connection = Some(b"1.2.3.4 5 6.7.8.9 22".to_vec());
    let out = run(&guest, spec).await;
    let lines: Vec<_> = out.text().lines().map(str::to_owned).collect();
    assert_eq!(lines[0].trim(), "ff fe");
    assert_eq!(lines[1], "1.2.3.4 5 6.7.8.9 22");
    assert_eq!(lines[3], "0022");
});

each_way!(missing_programs, async |guest: Guest| {
    let argv = |name: &str| ExecSpec::new(Program::Argv(vec![name.as_bytes().to_vec()]));
    let out = run(&guest, argv("no-such-program-here")).await;
    assert_eq!((out.err().as_str(), out.code()), ("no-such-program-here: command not found\n", 127));
    let out = run(&guest, argv("/no/such/program")).await;
    assert_eq!((out.err().as_str(), out.code()), ("/no/such/program: No such file or directory\n", 127));
    let out = run(&guest, argv("/etc/passwd")).await;
    assert_eq!((out.err().as_str(), out.code()), ("/etc/passwd: Permission denied\n", 126));
    let mut spec = argv("pwd");
    spec.cwd = Some(b"/no/such/dir".to_vec());
    assert_eq!(
        run(&guest, spec).await.err(),
        "sandgate: could not chdir to /no/such/dir: No such file or directory\n"
    );
});

each_way!(refusals, async |guest: Guest| {
    let mut spec = command("true");
    spec.user = Some(b"no-such-user".to_vec());
    let error = guest.exec(spec).await.err().unwrap();
    assert!(
        matches!(&error, GuestError::Refused { reason: 3, text } if text.contains("no-such-user")),
        "{error:?}"
    );
    let spec = ExecSpec::new(Program::Argv(vec![]));
    assert!(matches!(guest.exec(spec).await.err().unwrap(), GuestError::Refused { reason: 7, .. }));
});

each_way!(dropping_ends_the_group, async |guest: Guest| {
    for line in [
        "echo $$; exec sleep 1000",
        "echo $$; trap '' HUP; sleep 1000; sleep 1000",
        "trap '' HUP TERM; echo $$; sleep 1000; sleep 1000",
    ] {
        let mut process = guest.exec(command(line)).await.unwrap();
        let pid = first_number(&mut process).await;
        assert!(alive(pid));
        drop(process);
        eventually("the group dies", || !alive(pid)).await;
    }
});

each_way!(detached_programs_survive, async |guest: Guest| {
    let line = "setsid sleep 77 >/dev/null 2>&1 </dev/null & echo $!; sleep 1000";
    let mut process = guest.exec(command(line)).await.unwrap();
    let detached = first_number(&mut process).await;
    let line = "nohup sleep 78 >/dev/null 2>&1 </dev/null & echo $!; sleep 1000";
    let mut process2 = guest.exec(command(line)).await.unwrap();
    let nohup = first_number(&mut process2).await;
    // The shell tells the number when it has forked. Before `setsid` and `nohup` have run they are as any other member of the group.
    eventually("both have become sleep", || [detached, nohup].into_iter().all(|pid| name(pid) == "sleep"))
        .await;
    drop((process, process2));
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert!(alive(detached) && alive(nohup), "setsid {} nohup {}", alive(detached), alive(nohup));
    run(&guest, command(&format!("kill {detached} {nohup}"))).await;
});

each_way!(signals_go_to_the_group, async |guest: Guest| {
    let mut process = guest
        .exec(command("trap 'echo got; exit 9' USR1; sleep 1000 & sleep 0.3; echo $$; wait"))
        .await
        .unwrap();
    first_number(&mut process).await;
    process.control.signal("USR1").unwrap();
    let out = drain(&mut process.output).await;
    assert_eq!((out.text().as_str(), out.code()), ("got\n", 9));
    assert!(process.control.signal("bad name").is_err());
});

each_way!(a_signal_is_not_behind_input, async |guest: Guest| {
    let mut process = guest.exec(command("echo $$; exec sleep 1000")).await.unwrap();
    first_number(&mut process).await;
    let full =
        tokio::time::timeout(Duration::from_millis(500), process.input.write_all(&vec![0; 8 << 20])).await;
    assert!(full.is_err(), "nobody reads, so this must wait");
    process.control.signal("INT").unwrap();
    let out = drain(&mut process.output).await;
    assert!(matches!(out.exit, Some(ExitStatus::Signal { ref name, .. }) if name == "INT"), "{out:?}");
});

each_way!(information, async |guest: Guest| {
    let info = guest.info().await.unwrap();
    assert_eq!(info.protocol, 1);
    assert!(info.version.starts_with("sandgate-agent "), "{info:?}");
    assert!(info.pid > 1);
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn which_path_is_used() {
    let agent = Agent::start();
    assert!(agent.guest().exec(command("true")).await.unwrap().output.is_passed());
    assert!(!agent.framed().exec(command("true")).await.unwrap().output.is_passed());
    assert!(!agent.guest().exec(with_pty(command("true"))).await.unwrap().output.is_passed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_user_can_open_its_own_streams() {
    let agent = Agent::start();
    for guest in [agent.guest(), agent.framed()] {
        let mut spec = command("id -u; echo to-out > /dev/stdout; echo to-err > /dev/stderr; cat /dev/stdin");
        if rustix::process::geteuid().is_root() {
            spec.user = Some(b"4242:4242".to_vec());
        }
        let out = run_with_input(&guest, spec, b"in\n".to_vec()).await;
        assert!(out.text().ends_with("to-out\nin\n"), "{out:?}");
        assert_eq!(out.err(), "to-err\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_at_once() {
    let agent = Agent::start();
    let (_child, shared) = stdio_agent();
    for guest in [agent.guest(), agent.framed(), shared] {
        let tasks: Vec<_> = (0..200u32)
            .map(|i| {
                let guest = guest.clone();
                tokio::spawn(async move {
                    let out =
                        run_with_input(&guest, command(&format!("cat; exit {}", i % 200)), vec![b'x'; 5000])
                            .await;
                    (out.stdout.len(), out.code(), i % 200)
                })
            })
            .collect();
        for task in tasks {
            let (len, code, want) = task.await.unwrap();
            assert_eq!((len, code), (5000, want));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_leaks_over_many_sessions() {
    let agent = Agent::start();
    let guests = [agent.guest(), agent.framed()];
    run(&guests[0], command("true")).await;
    let before = agent.open_fds();
    let own = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let true_program = ExecSpec::new(Program::Argv(vec![b"true".to_vec()]));
    for round in 0..100 {
        let guest = &guests[round % 2];
        let runs = (0..20).map(|i| {
            let (guest, spec) = (guest.clone(), true_program.clone());
            let spec = if i % 4 == 0 { with_pty(spec) } else { spec };
            tokio::spawn(async move { run(&guest, spec).await.code() })
        });
        for task in runs.collect::<Vec<_>>() {
            assert_eq!(task.await.unwrap(), 0);
        }
    }
    eventually("descriptors and children are back", || agent.open_fds() <= before && agent.children() == 0)
        .await;
    eventually("our own descriptors are back", || {
        std::fs::read_dir("/proc/self/fd").unwrap().count() <= own + 2
    })
    .await;
    assert!(agent.rss() < 8 * 1024, "{} KiB resident", agent.rss());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_session_is_small() {
    let agent = Agent::start();
    let guest = agent.guest();
    run(&guest, command("true")).await;
    let before = agent.rss();
    let mut held = Vec::new();
    for i in 0..100 {
        let spec = command("cat");
        held.push(guest.exec(if i % 2 == 0 { with_pty(spec) } else { spec }).await.unwrap());
    }
    let each = agent.rss().saturating_sub(before) / 100;
    assert!(each <= 64, "{each} KiB per session");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_descriptors_is_a_refusal() {
    let agent = Agent::start_with(|c| {
        use std::os::unix::process::CommandExt;
        let _ = c.arg0("agent");
    });
    // 24 descriptors are soon used up by held sessions; the agent says so, and lives on.
    let limit = rustix::process::Rlimit { current: Some(24), maximum: Some(24) };
    let pid = rustix::process::Pid::from_raw(agent.child.id().cast_signed());
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).unwrap();
    let guest = agent.framed();
    let mut held = Vec::new();
    let error = loop {
        match guest.exec(command("cat")).await {
            Ok(process) => held.push(process),
            Err(e) => break e,
        }
        assert!(held.len() < 24);
    };
    assert!(matches!(&error, GuestError::Refused { reason: 6, .. }), "{error:?} after {}", held.len());
    held.clear();
    eventually("the agent is well again", || agent.open_fds() < 12).await;
    assert_eq!(run(&guest, command("exit 6")).await.code(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_told_to_stop_ends_its_sessions() {
    let mut agent = Agent::start();
    let mut process =
        agent.guest().exec(command("trap '' HUP; echo $$; sleep 1000; sleep 1000")).await.unwrap();
    let pid = first_number(&mut process).await;
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&agent.child),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    let status = tokio::task::spawn_blocking(move || {
        let status = agent.child.wait().unwrap();
        (status, agent)
    });
    let (status, agent) = tokio::time::timeout(Duration::from_secs(10), status).await.unwrap().unwrap();
    assert!(status.success(), "{status:?}");
    assert!(!alive(pid));
    let error = agent.guest().exec(command("true")).await.err().unwrap();
    assert!(matches!(error, GuestError::SandboxGone), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_agent_is_a_gone_sandbox() {
    let mut agent = Agent::start();
    let mut framed = agent.framed().exec(command("sleep 5")).await.unwrap();
    let mut passed = agent.guest().exec(command("exec sleep 1")).await.unwrap();
    agent.child.kill().unwrap();
    agent.child.wait().unwrap();
    for output in [&mut framed.output, &mut passed.output] {
        let ready = tokio::time::timeout(Duration::from_secs(5), output.ready()).await.unwrap();
        if let Ready::Stdout | Ready::Stderr = ready {
            continue;
        }
        assert!(matches!(ready, Ready::LinkLost(GuestError::SandboxGone)), "{ready:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_gives_a_stdio_agent_a_socket() {
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_sandgate-agent"))
        .args(["--stdio", "--hangup-grace", "300"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let trunk = tokio::io::join(child.stdout.take().unwrap(), child.stdin.take().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("b.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let bridge = tokio::spawn(sandgate_guest::bridge::run(listener, trunk));
    let guest = Guest::new(Arc::new(sandgate_guest::UnixDial::new(&path)));
    let data = pattern(3 << 20);
    assert!(run_with_input(&guest, command("cat"), data.clone()).await.stdout == data);
    // One that nobody reads does not delay another.
    let stuck = guest.exec(command("yes")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    for i in 0..20 {
        assert_eq!(run(&guest, command(&format!("exit {i}"))).await.code(), i);
    }
    drop(stuck);
    let mut last = guest.exec(command("echo $$; exec sleep 100")).await.unwrap();
    let pid = first_number(&mut last).await;
    bridge.abort();
    let _ = bridge.await;
    assert!(matches!(last.output.ready().await, Ready::LinkLost(_)));
    eventually("the agent ends its programs and itself", || !alive(pid)).await;
    tokio::time::timeout(Duration::from_secs(10), child.wait()).await.unwrap().unwrap();
}
