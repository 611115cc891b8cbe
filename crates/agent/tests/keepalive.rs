//! Links on which nothing moves: an end that hangs is found, one that is slow is spared, one that cannot answer is not asked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::*;
use rustix::process::{Pid, Signal, kill_process};
use sandgate_guest::mux::MuxDial;
use sandgate_guest::{DialSpec, ExecSpec, Guest, GuestError, Keepalive, ListenSpec, Process, Program, Ready};
use sandgate_guest::{Timeouts, UnixDial};
use sandgate_wire::frame::{Decoder, Header, Item, Kind};
use sandgate_wire::message::{Exec, Hello, Open, Opened};
use sandgate_wire::mux::{Mux, Role};
use sandgate_wire::{CAP_PING, message};

/// Long enough for a busy machine to answer in time, three of them short enough for a test.
const KEEPALIVE: Keepalive = Keepalive { interval: Duration::from_millis(300), max_missed: 3 };
/// For an agent that is slow on purpose.
const PATIENT: Keepalive = Keepalive { interval: Duration::from_secs(1), max_missed: 3 };

fn timeouts(keepalive: Keepalive) -> Timeouts {
    Timeouts { keepalive, ..Timeouts::default() }
}

fn guest(agent: &Agent, keepalive: Keepalive) -> Guest {
    Guest::with_timeouts(Arc::new(UnixDial::new(&agent.socket)), timeouts(keepalive))
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

fn sleeper(seconds: u32) -> ExecSpec {
    ExecSpec::new(Program::Argv(vec![b"sleep".to_vec(), seconds.to_string().into_bytes()]))
}

async fn lost(process: &mut Process) -> (GuestError, Duration) {
    let start = Instant::now();
    let ready = tokio::time::timeout(Duration::from_secs(10), process.output.ready()).await;
    match ready.expect("a hung agent was never noticed") {
        Ready::LinkLost(error) => (error, start.elapsed()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_hangs_is_given_up_on_every_kind_of_stream() {
    let agent = Agent::start();
    let guest = guest(&agent, KEEPALIVE);
    let mut passed = guest.exec(sleeper(60)).await.unwrap();
    assert!(passed.output.is_passed(), "the case with no frames at all");
    let mut framed = guest.exec(with_terminal(sleeper(60))).await.unwrap();
    let mut listener = guest.listen(ListenSpec::tcp("localhost", 0)).await.unwrap();
    let mut connection = guest.dial(DialSpec::tcp("localhost", listener.port())).await.unwrap();
    let _incoming = listener.accept().await.unwrap();
    // Longer than it would take, while all is well.
    tokio::time::sleep(KEEPALIVE.interval * 6).await;
    signal(agent.child.id(), Signal::STOP);
    let (error, took) = lost(&mut passed).await;
    assert!(matches!(error, GuestError::NotResponding { missed: 3, .. }), "{error:?}");
    assert!(took >= KEEPALIVE.interval * 2, "given up after {took:?}");
    assert!(error.to_string().contains("not responding"), "{error}");
    let (error, _) = lost(&mut framed).await;
    assert!(matches!(error, GuestError::NotResponding { .. }), "{error:?}");
    let error = tokio::time::timeout(Duration::from_secs(5), listener.accept()).await.unwrap().err().unwrap();
    assert!(matches!(error, GuestError::NotResponding { .. }), "{error:?}");
    let end = tokio::time::timeout(Duration::from_secs(5), connection.output.ready()).await.unwrap();
    assert!(
        matches!(end, sandgate_guest::ConnectionReady::Lost(GuestError::NotResponding { .. })),
        "{end:?}"
    );
    signal(agent.child.id(), Signal::CONT);
    drop((passed, framed, listener, connection));
    assert!(guest.info().await.is_ok(), "it is back");
    for _ in 0..100 {
        if agent.children() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("what ran on the lost links lives on");
}

fn with_terminal(mut spec: ExecSpec) -> ExecSpec {
    spec.pty =
        Some(sandgate_guest::PtySpec { term: b"vt100".to_vec(), cols: 80, rows: 24, ..Default::default() });
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_hangs_behind_one_pipe_ends_every_link_and_may_come_back() {
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_sandgate-agent"))
        .args(["--stdio", "--hangup-grace", "300"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let trunk = tokio::io::join(child.stdout.take().unwrap(), child.stdin.take().unwrap());
    // Only the pipe asks: the links end in this process.
    let guest = Guest::new(Arc::new(MuxDial::with_keepalive(trunk, KEEPALIVE)));
    let mut one = guest.exec(sleeper(60)).await.unwrap();
    let mut two = guest.exec(sleeper(60)).await.unwrap();
    tokio::time::sleep(KEEPALIVE.interval * 6).await;
    signal(child.id().unwrap(), Signal::STOP);
    for process in [&mut one, &mut two] {
        let (error, _) = lost(process).await;
        assert!(error.to_string().contains("not responding"), "{error}");
    }
    signal(child.id().unwrap(), Signal::CONT);
    drop((one, two));
    let info = guest.info().await.expect("it is back on the same pipe");
    assert_eq!(info.sessions, 0, "what ran on the lost links lives on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_slow_but_alive_is_spared() {
    let agent = Agent::start();
    let guest = guest(&agent, PATIENT);
    let mut process = guest.exec(sleeper(9)).await.unwrap();
    let pid = agent.child.id();
    let slow = std::thread::spawn(move || {
        for _ in 0..4 {
            signal(pid, Signal::STOP);
            // Nearly as long as it may be silent.
            std::thread::sleep(Duration::from_millis(1800));
            signal(pid, Signal::CONT);
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    let done = drain(&mut process.output).await;
    slow.join().unwrap();
    assert_eq!(done.code(), 0);
}

#[test]
fn an_agent_from_before_is_not_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("old.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let kinds = Arc::new(Mutex::new(Vec::new()));
    let seen = kinds.clone();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut mux = Mux::new(Role::Agent, Hello::new("an old one", 0));
        let opened = Opened::Exec { passed_stdio: false, own: false };
        let (mut decoder, mut buffer) = (Decoder::new(), [0; 4096]);
        stream.write_all(mux.output()).unwrap();
        mux.consume_output(usize::MAX);
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            let mut bytes = &buffer[..n];
            while let Some(Item::Control { kind, stream: id, .. }) = decoder.next(&mut bytes).unwrap() {
                seen.lock().unwrap().push(kind);
                if kind == Kind::Open {
                    let payload = opened.encode();
                    let head = Header { stream: id, kind: Kind::Opened, len: payload.len() }.encode();
                    stream.write_all(&[&head[..], &payload].concat()).unwrap();
                }
            }
        }
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let guest = Guest::with_timeouts(Arc::new(UnixDial::new(&path)), timeouts(KEEPALIVE));
        let mut process = guest.exec(sleeper(60)).await.unwrap();
        let silent = tokio::time::timeout(KEEPALIVE.interval * 8, process.output.ready()).await;
        assert!(silent.is_err(), "an agent that cannot answer was given up: {silent:?}");
    });
    let kinds = kinds.lock().unwrap().clone();
    assert!(kinds.contains(&Kind::Open) && !kinds.contains(&Kind::Ping), "{kinds:?}");
}

/// A host of our own that starts `sleep` and says `patience` once.
fn host(agent: &Agent, patience: u32) -> (UnixStream, Mux) {
    let mut stream = UnixStream::connect(&agent.socket).unwrap();
    let mut mux = Mux::new(Role::Host, Hello::new("a host", CAP_PING));
    let exec = Exec {
        passed_stdio: false,
        user: None,
        program: message::Program::Argv(vec![b"sleep".to_vec(), b"60".to_vec()]),
        pty: None,
        env: Vec::new(),
        cwd: None,
        ssh_connection: None,
        ssh_client: None,
    };
    mux.open(&Open::Exec(Box::new(exec))).unwrap();
    stream.write_all(mux.output()).unwrap();
    mux.consume_output(usize::MAX);
    let mut buffer = [0; 4096];
    while mux.peer().is_none() {
        let n = stream.read(&mut buffer).unwrap();
        mux.input(&buffer[..n]).unwrap();
    }
    assert!(mux.ping(patience));
    stream.write_all(mux.output()).unwrap();
    mux.consume_output(usize::MAX);
    (stream, mux)
}

#[test]
fn a_host_that_breaks_its_promise_to_be_heard_loses_what_it_started() {
    /// Long enough for three programs to start on a busy machine.
    const PATIENCE: u32 = 3000;
    let agent = Agent::start();
    let (_silent, _) = host(&agent, PATIENCE);
    let (mut alive, mut mux) = host(&agent, PATIENCE);
    let (_no_promise, _) = host(&agent, 0);
    let start = Instant::now();
    while agent.children() < 3 {
        assert!(start.elapsed() < Duration::from_secs(2), "{} of 3", agent.children());
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut speak = || {
        mux.ping(PATIENCE);
        alive.write_all(mux.output()).unwrap();
        mux.consume_output(usize::MAX);
        std::thread::sleep(Duration::from_millis(100));
    };
    while agent.children() > 2 {
        assert!(start.elapsed() < Duration::from_secs(10), "a silent host was never noticed");
        speak();
    }
    assert!(start.elapsed() > Duration::from_secs(2), "{:?}", start.elapsed());
    let noticed = Instant::now();
    while noticed.elapsed() < Duration::from_secs(4) {
        speak();
    }
    assert_eq!(agent.children(), 2, "one that is heard, and one that promised nothing");
}

/// As in a machine that was paused: its host says nothing then, and not at once after it.
#[test]
fn a_host_is_given_the_time_in_which_the_agent_did_not_run() {
    const PATIENCE: u32 = 3000;
    let agent = Agent::start();
    let (_silent, _) = host(&agent, PATIENCE);
    let start = Instant::now();
    while agent.children() < 1 {
        assert!(start.elapsed() < Duration::from_secs(2), "nothing was started");
        std::thread::sleep(Duration::from_millis(5));
    }
    signal(agent.child.id(), Signal::STOP);
    std::thread::sleep(Duration::from_secs(5));
    signal(agent.child.id(), Signal::CONT);
    let resumed = Instant::now();
    while resumed.elapsed() < Duration::from_millis(800) {
        assert_eq!(agent.children(), 1, "{:?} after the pause the host was given up", resumed.elapsed());
        std::thread::sleep(Duration::from_millis(20));
    }
    while agent.children() > 0 {
        assert!(resumed.elapsed() < Duration::from_secs(10), "a silent host was never noticed");
        std::thread::sleep(Duration::from_millis(20));
    }
}
