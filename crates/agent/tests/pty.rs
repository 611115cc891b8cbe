//! Programs with a terminal.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

mod common;

use std::time::Duration;

use common::*;
use sandgate_guest::{ExecSpec, ExitStatus, Program, Ready, WindowSize};

fn seq_20000() -> String {
    (1..=20000).map(|n| format!("{n}\r\n")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_at_the_end() {
    let agent = Agent::start();
    let guest = agent.guest();
    let want = seq_20000();
    for i in 0..200 {
        let out = run(&guest, with_pty(command("seq 1 20000; exit 3"))).await;
        assert!(out.text() == want, "run {i}: {} of {} bytes", out.stdout.len(), want.len());
        assert_eq!(out.code(), 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_gets_everything() {
    let agent = Agent::start();
    let mut process = agent.guest().exec(with_pty(command("seq 1 200000; exit 3"))).await.unwrap();
    let mut got = Vec::new();
    let mut buf = [0; 4000];
    let mut reads = 0;
    loop {
        match process.output.ready().await {
            Ready::Stdout => {
                if let Ok(n) = process.output.try_read(&mut buf) {
                    got.extend_from_slice(&buf[..n]);
                    reads += 1;
                    if reads % 20 == 0 {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
            }
            Ready::Exit(exit) => {
                assert_eq!(exit, ExitStatus::Code(3));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    let want: String = (1..=200_000).map(|n| format!("{n}\r\n")).collect();
    assert!(got == want.as_bytes(), "{} of {} bytes", got.len(), want.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_terminal_is_set_up() {
    let agent = Agent::start();
    let mut spec = with_pty(command(
        "stty size; echo $TERM; tty; echo $SSH_TTY; stty -a | grep -o -- '-echo ' | head -1; stty speed; ls -l $SSH_TTY",
    ));
    let pty = spec.pty.as_mut().unwrap();
    (pty.cols, pty.rows) = (132, 43);
    pty.modes = vec![53, 0, 0, 0, 0, 128, 0, 0, 0x96, 0, 129, 0, 0, 0x96, 0, 0];
    let out = run(&agent.guest(), spec).await;
    let text = out.text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..2], ["43 132", "xterm"]);
    assert!(lines[2].starts_with("/dev/pts/") && lines[2] == lines[3], "{text}");
    assert_eq!(lines[4], "-echo ");
    assert_eq!(lines[5], "38400");
    assert!(lines[6].starts_with("crw--w----"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interactive_login_shell() {
    let agent = Agent::start();
    let mut process = agent.guest().exec(with_pty(ExecSpec::new(Program::Shell))).await.unwrap();
    process.input.write_all(b"stty -echo; PS1=; echo $((40+2)) $0 $IMAGE_VAR; pwd\n").await.unwrap();
    process.control.resize(WindowSize { cols: 101, rows: 37, ..WindowSize::default() }).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    process.input.write_all(b"stty size; exit 12\n").await.unwrap();
    let out = drain(&mut process.output).await;
    let text = out.text();
    assert!(text.contains("42 -bash from image") || text.contains("42 -sh from image"), "{text}");
    assert!(text.contains("37 101"), "{text}");
    assert_eq!(out.code(), 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_c_and_signals_reach_the_foreground() {
    let agent = Agent::start();
    let mut process = agent.guest().exec(with_pty(command("echo 1; exec sleep 1000"))).await.unwrap();
    first_number(&mut process).await;
    process.input.write_all(b"\x03").await.unwrap();
    let out = drain(&mut process.output).await;
    assert!(matches!(out.exit, Some(ExitStatus::Signal { ref name, .. }) if name == "INT"), "{out:?}");

    let mut shell = agent.guest().exec(with_pty(ExecSpec::new(Program::Shell))).await.unwrap();
    shell
        .input
        .write_all(b"stty -echo; PS1=; (sleep 0.5; echo re''ady) & sleep 1000; echo st=$?; exit 0\n")
        .await
        .unwrap();
    let mut seen = Vec::new();
    while !seen.windows(5).any(|w| w == b"ready") {
        assert!(matches!(shell.output.ready().await, Ready::Stdout));
        let mut buf = [0; 1024];
        let n = shell.output.try_read(&mut buf).unwrap_or(0);
        seen.extend_from_slice(&buf[..n]);
    }
    shell.control.signal("TERM").unwrap();
    let out = drain(&mut shell.output).await;
    assert!(out.text().contains("st=143"), "{}", out.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn end_of_input_does_nothing_on_a_terminal() {
    let agent = Agent::start();
    let mut process = agent
        .guest()
        .exec(with_pty(command("stty -echo; echo 1; head -n 1; sleep 0.4; echo end")))
        .await
        .unwrap();
    first_number(&mut process).await;
    process.input.write_all(b"line\n").await.unwrap();
    process.input.shutdown().await.unwrap();
    let out = drain(&mut process.output).await;
    assert_eq!(out.text().replace('\r', ""), "line\nend\n");
    // Control-D does.
    let mut process =
        agent.guest().exec(with_pty(command("stty -echo; echo 1; cat; echo end"))).await.unwrap();
    first_number(&mut process).await;
    process.input.write_all(b"\x04").await.unwrap();
    assert_eq!(drain(&mut process.output).await.text(), "end\r\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_session_ends_with_its_shell() {
    let agent = Agent::start();
    let line = "trap '' HUP; (while echo noise; do :; done) & sleep 0.2; exit 8";
    let out = tokio::time::timeout(Duration::from_secs(10), run(&agent.guest(), with_pty(command(line))))
        .await
        .unwrap();
    assert_eq!(out.code(), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_hangs_up_the_terminal() {
    let agent = Agent::start();
    for line in ["echo $$; exec sleep 1000", "trap '' HUP TERM; echo $$; sleep 1000; sleep 1000"] {
        let mut process = agent.guest().exec(with_pty(command(line))).await.unwrap();
        let pid = first_number(&mut process).await;
        drop(process);
        eventually("the program dies", || !alive(pid)).await;
    }
    eventually("no child is left", || agent.children() == 0).await;
}
