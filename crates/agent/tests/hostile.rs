//! Each side against a peer that does not keep to the rules.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use sandgate_guest::{DialSpec, Guest, GuestError, ListenSpec, Ready, Timeouts, UnixDial};
use sandgate_wire::STREAM_WINDOW;
use sandgate_wire::frame::{Header, Kind};
use sandgate_wire::message::{Hello, Incoming, Listening, Opened, Peer, Reason, Refused};

fn frame(stream: u32, kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut out = Header { stream, kind, len: payload.len() }.encode().to_vec();
    out.extend_from_slice(payload);
    out
}

fn hello() -> Vec<u8> {
    frame(0, Kind::Hello, &Hello::new("hostile", 1).encode())
}

fn opened() -> Vec<u8> {
    frame(1, Kind::Opened, &Opened::Exec { passed_stdio: false, own: false }.encode())
}

/// A guest behind a thread that does what it likes with each connection.
fn hostile_agent(act: impl Fn(&mut UnixStream) + Send + 'static) -> (tempfile::TempDir, Guest) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("h.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            act(&mut stream);
        }
    });
    let timeouts = Timeouts { open: Duration::from_millis(600), ..Timeouts::default() };
    (dir, Guest::with_timeouts(Arc::new(UnixDial::new(path)), timeouts))
}

async fn exec_error(guest: &Guest) -> GuestError {
    let start = Instant::now();
    let error = guest.exec(command("true")).await.err().expect("an error");
    assert!(start.elapsed() < Duration::from_secs(3));
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_never_answers() {
    let (_dir, guest) = hostile_agent(|s| drop(s.read_to_end(&mut Vec::new())));
    assert!(matches!(exec_error(&guest).await, GuestError::Timeout { .. }));
    let (_dir, guest) = hostile_agent(|s| {
        s.write_all(&hello()).unwrap();
        drop(s.read_to_end(&mut Vec::new()));
    });
    assert!(matches!(exec_error(&guest).await, GuestError::Timeout { .. }));
    assert!(matches!(guest.info().await, Err(GuestError::Timeout { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_speaks_nonsense() {
    let cases: Vec<Vec<u8>> = vec![
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        vec![0; 100],
        vec![0xff; 100],
        opened(),
        [hello(), hello()].concat(),
        [hello(), frame(0, Kind::Stdout, b"x")].concat(),
        [hello(), frame(2, Kind::Opened, &[1, 0])].concat(),
        [hello(), frame(1, Kind::Stdout, b"early")].concat(),
        [hello(), frame(1, Kind::Exit, &[0, 0, 0, 0, 0])].concat(),
        [hello(), frame(1, Kind::Opened, &[9, 9, 9])].concat(),
        [hello(), frame(1, Kind::Open, &[2])].concat(),
        [hello(), vec![0, 0, 0, 1, Kind::Exit as u8, 0xff, 0xff, 0xff]].concat(),
    ];
    for (i, bytes) in cases.into_iter().enumerate() {
        let (_dir, guest) = hostile_agent(move |s| {
            let _ = s.write_all(&bytes);
            drop(s.read_to_end(&mut Vec::new()));
        });
        let error = exec_error(&guest).await;
        assert!(matches!(error, GuestError::Protocol(_)), "case {i}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_of_another_time() {
    let (_dir, guest) = hostile_agent(|s| {
        let old = Hello { version_min: 8, version_max: 9, ..Hello::new("sandgate-agent 9.0", 0) };
        s.write_all(&frame(0, Kind::Hello, &old.encode())).unwrap();
        drop(s.read_to_end(&mut Vec::new()));
    });
    let GuestError::Version(text) = exec_error(&guest).await else { panic!("another error") };
    assert!(text.contains("sandgate-agent 9.0) speaks 8 to 9"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_cannot_steer_a_terminal() {
    let (_dir, guest) = hostile_agent(|s| {
        let refused = Refused { reason: Reason::Resources, text: "\x1b]0;owned\x07\nline".into() };
        s.write_all(&[hello(), frame(1, Kind::Refused, &refused.encode())].concat()).unwrap();
        drop(s.read_to_end(&mut Vec::new()));
    });
    let error = exec_error(&guest).await.to_string();
    assert!(!error.chars().any(char::is_control), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_floods() {
    // More data than credit.
    let (_dir, guest) = hostile_agent(|s| {
        s.write_all(&[hello(), opened()].concat()).unwrap();
        let data = frame(1, Kind::Stdout, &vec![7; 100_000]);
        while s.write_all(&data).is_ok() {}
    });
    let mut process = guest.exec(command("true")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut got = 0;
    let mut buf = vec![0; 65536];
    let lost = loop {
        match tokio::time::timeout(Duration::from_secs(5), process.output.ready()).await.unwrap() {
            Ready::Stdout => got += process.output.try_read(&mut buf).unwrap_or(0),
            Ready::LinkLost(e) => break e,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(lost, GuestError::Protocol(_)), "{lost:?}");
    assert!(got <= STREAM_WINDOW as usize);
    // Control frames without end: the runtime stays responsive and memory bounded.
    let (_dir, guest) = hostile_agent(|s| {
        s.write_all(&[hello(), opened()].concat()).unwrap();
        let flood = frame(1, Kind::ReaderGone, &[]).repeat(5000);
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until && s.write_all(&flood).is_ok() {}
    });
    let before = status_kib(std::process::id(), "VmRSS:");
    let process = guest.exec(command("true")).await.unwrap();
    for _ in 0..20 {
        let start = Instant::now();
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(start.elapsed() < Duration::from_millis(500));
    }
    let after = status_kib(std::process::id(), "VmRSS:");
    assert!(after < before + 16 * 1024, "{before} -> {after} KiB");
    drop(process);
}

/// Announced connections are bounded, and their numbers are checked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_announces_connections_without_end() {
    let listening = Opened::Listen(Listening { port: 1, path: Vec::new() }).encode();
    let announce = |id| frame(1, Kind::Incoming, &Incoming { id, peer: Peer::Unix }.encode());
    let first = [hello(), frame(1, Kind::Opened, &listening)].concat();
    let flood: Vec<u8> = (1..=5000).flat_map(announce).collect();
    let bytes = [&first[..], &flood].concat();
    let (_dir, guest) = hostile_agent(move |s| {
        let _ = s.write_all(&bytes);
        std::thread::sleep(Duration::from_secs(2));
    });
    let mut listener = guest.listen(ListenSpec::tcp("", 0)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut kept = 0;
    while tokio::time::timeout(Duration::from_millis(100), listener.accept()).await.is_ok_and(|i| i.is_ok()) {
        kept += 1;
    }
    assert_eq!(kept, 64);
    // The same number twice.
    let bytes = [&first[..], &announce(7), &announce(7)].concat();
    let (_dir, guest) = hostile_agent(move |s| {
        let _ = s.write_all(&bytes);
        std::thread::sleep(Duration::from_secs(1));
    });
    let mut listener = guest.listen(ListenSpec::tcp("", 0)).await.unwrap();
    drop(listener.accept().await.unwrap());
    assert!(matches!(listener.accept().await, Err(GuestError::Protocol(_))));
    // On a stream that is no listener.
    let bytes = [hello(), opened(), announce(1)].concat();
    let (_dir, guest) = hostile_agent(move |s| {
        let _ = s.write_all(&bytes);
        std::thread::sleep(Duration::from_secs(1));
    });
    let mut process = guest.exec(command("true")).await.unwrap();
    assert!(matches!(process.output.ready().await, Ready::LinkLost(GuestError::Protocol(_))));
}

/// What an agent may answer to a dial: only what fits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_answers_something_else() {
    let dial = DialSpec::tcp("127.0.0.1", 1);
    for answer in [
        Opened::Exec { passed_stdio: false, own: false },
        Opened::Accept { passed_stdio: false },
        Opened::Listen(Listening { port: 1, path: Vec::new() }),
    ] {
        let bytes = [hello(), frame(1, Kind::Opened, &answer.encode())].concat();
        let (_dir, guest) = hostile_agent(move |s| {
            let _ = s.write_all(&bytes);
            drop(s.read_to_end(&mut Vec::new()));
        });
        assert!(matches!(guest.dial(dial.clone()).await.err(), Some(GuestError::Protocol(_))), "{answer:?}");
    }
    // One from before these requests.
    let (_dir, guest) = hostile_agent(|s| {
        let refused = Refused { reason: Reason::Unsupported, text: "type 4".into() };
        s.write_all(&[hello(), frame(1, Kind::Refused, &refused.encode())].concat()).unwrap();
        drop(s.read_to_end(&mut Vec::new()));
    });
    let error = guest.dial(dial).await.err().unwrap().to_string();
    assert!(error.contains("too old"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_does_not_read() {
    let (_dir, guest) = hostile_agent(|s| {
        s.write_all(&[hello(), opened()].concat()).unwrap();
        std::thread::sleep(Duration::from_secs(3));
    });
    let mut process = guest.exec(command("true")).await.unwrap();
    let write =
        tokio::time::timeout(Duration::from_millis(300), process.input.write_all(&vec![0; 4 << 20])).await;
    assert!(write.is_err(), "credit ends");
    let mut refused = false;
    for _ in 0..100_000 {
        process.control.resize(sandgate_guest::WindowSize::default()).unwrap_or_default();
        refused |= process.control.signal("WINCH").is_err();
    }
    assert!(refused, "control messages are bounded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_frames_at_the_client() {
    let (_dir, guest) = hostile_agent(|s| {
        let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
        let noise = pattern(4096 + (seed as usize % 512));
        let mut bytes = [hello(), opened()].concat();
        for (i, chunk) in noise.chunks(37).enumerate() {
            let kind = Kind::from_u8(1 + (seed.wrapping_add(i as u32) % 16) as u8).unwrap();
            let len = chunk.len().min(kind.max_payload());
            bytes.extend_from_slice(&frame(u32::from(chunk[0] % 3), kind, &chunk[..len]));
        }
        let _ = s.write_all(&bytes);
    });
    for _ in 0..200 {
        if let Ok(mut process) = guest.exec(command("true")).await {
            let mut buf = [0; 4096];
            let end = async {
                loop {
                    match process.output.ready().await {
                        Ready::Exit(_) | Ready::LinkLost(_) => return,
                        _ => drop(process.output.try_read(&mut buf)),
                    }
                }
            };
            tokio::time::timeout(Duration::from_secs(5), end).await.expect("the client hangs");
        }
    }
}

/// The agent's own side: whatever arrives, it closes that connection alone and serves the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_bytes_at_the_agent() {
    let agent = Agent::start();
    let before = agent.open_fds();
    let noise = pattern(20_000);
    for i in 0..200usize {
        let mut s = UnixStream::connect(&agent.socket).unwrap();
        s.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let from = i * 90;
        let mut bytes = if i % 3 == 0 { Vec::new() } else { hello() };
        if i % 3 == 2 {
            for (k, chunk) in noise[from..from + 900].chunks(31).enumerate() {
                let kind = Kind::from_u8(1 + ((i + k) % 16) as u8).unwrap();
                let len = chunk.len().min(kind.max_payload());
                bytes.extend_from_slice(&frame(u32::from(chunk[0] % 4), kind, &chunk[..len]));
            }
        } else {
            bytes.extend_from_slice(&noise[from..from + 900]);
        }
        let _ = s.write_all(&bytes);
        let _ = s.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = s.read_to_end(&mut answer);
    }
    eventually("connections are closed", || agent.open_fds() <= before).await;
    assert_eq!(run(&agent.guest(), command("exit 7")).await.code(), 7);
    assert!(agent.rss() < 8 * 1024);
}

/// A session that has nothing to say while the shared output is full must be heard once there is room again.
#[test]
fn a_quiet_session_survives_a_full_link() {
    use sandgate_wire::frame::{Decoder, Item};
    use sandgate_wire::message::{Exec, Open, Program};
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_sandgate-agent"))
        .args(["--stdio", "--hangup-grace", "300"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (mut to, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let open = |line: &str| {
        let exec = Exec {
            passed_stdio: false,
            user: None,
            program: Program::Command(line.as_bytes().to_vec()),
            pty: None,
            env: Vec::new(),
            cwd: None,
            ssh_connection: None,
            ssh_client: None,
        };
        Open::Exec(Box::new(exec)).encode().unwrap()
    };
    to.write_all(
        &[hello(), frame(1, Kind::Open, &open("yes")), frame(2, Kind::Open, &open("sleep 1.5; cat"))]
            .concat(),
    )
    .unwrap();
    // Nobody reads: the output is full by now. The frame makes the agent look at stream 2 in that state.
    std::thread::sleep(Duration::from_millis(700));
    to.write_all(&frame(2, Kind::Stdin, b"hello")).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let (send, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut decoder = Decoder::new();
        let mut buf = vec![0; 65536];
        while let Ok(n) = from.read(&mut buf) {
            let mut rest = &buf[..n];
            while let Ok(Some(item)) = decoder.next(&mut rest) {
                if matches!(item, Item::Data { stream: 2, kind: Kind::Stdout, chunk: b"hello" }) {
                    let _ = send.send(());
                    return;
                }
            }
            if n == 0 {
                return;
            }
        }
    });
    let result = heard.recv_timeout(Duration::from_secs(5));
    child.kill().unwrap();
    child.wait().unwrap();
    result.expect("stream 2 is never heard");
}
