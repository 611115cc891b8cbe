//! Ends that hang without closing anything: a stopped agent, a stopped client, a stopped gateway. And those that are only slow.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sandgate_tests::process::{Guard, try_run};
use sandgate_tests::wait::until;
use sandgate_tests::{Feed, Options, Output, Target, skip};

/// Short enough for a test; three of them are long enough for a busy machine to answer in time.
const QUICK: &str = "[guest]\nkeepalive = \"400ms\"\n[control]\nkeepalive = \"400ms\"\n";
/// For what is slow on purpose.
const PATIENT: &str = "[guest]\nkeepalive = \"1s\"\n[control]\nkeepalive = \"1s\"\n";
/// Within which a hung end must have been found, with `QUICK`.
const FOUND: Duration = Duration::from_secs(10);

fn start(toml: &str) -> Target {
    Target::start_with(&Options { extra_toml: toml.to_owned(), ..Options::default() })
}

/// The agent of the sandbox, as a process of this machine.
fn agent(target: &Target) -> Pid {
    let pid = target.gateway().json(&["sandbox", "inspect", "box"])["pid"].as_i64().unwrap();
    Pid::from_raw(pid as i32).unwrap()
}

fn signal(pid: Pid, signal: Signal) {
    kill_process(pid, signal).unwrap();
}

/// Starts a client and reads what it says until it ends, on another thread.
fn client(mut command: Command) -> std::thread::JoinHandle<Option<Output>> {
    std::thread::spawn(move || try_run(&mut command, Feed::Silence, Duration::from_secs(40)).ok())
}

fn sessions(target: &Target) -> usize {
    target.gateway().json(&["session", "ls"]).as_array().unwrap().len()
}

fn warnings(target: &Target, text: &str) -> usize {
    target.log().lines().filter(|line| line.contains("WARN") && line.contains(text)).count()
}

#[test]
fn a_hung_guest_ends_every_session_with_a_line_and_a_warning() {
    if skip::oracle_lacks("guests") {
        return;
    }
    let target = start(QUICK);
    let clients = [
        ("a command, with passed pipes", target.ssh(&["box", "sleep 500"])),
        ("a terminal", target.ssh(&["-tt", "box", "sleep 500"])),
        ("exec", target.gateway().command(&["exec", "box", "--", "sleep", "500"])),
        ("ssh without SSH", target.gateway().command(&["ssh", "box", "sleep 500"])),
    ];
    let names = clients.each_ref().map(|(name, _)| *name);
    let clients = clients.map(|(_, command)| client(command));
    assert!(until(Duration::from_secs(20), || sessions(&target) == names.len()), "{}", target.log());
    // Nothing happens while all is well, for longer than a hung one takes.
    std::thread::sleep(Duration::from_millis(3000));
    assert_eq!(sessions(&target), names.len());
    let agent = agent(&target);
    signal(agent, Signal::STOP);
    let began = Instant::now();
    let ended = until(FOUND, || sessions(&target) == 0);
    let took = began.elapsed();
    signal(agent, Signal::CONT);
    assert!(ended, "sessions of a hung guest live on");
    assert!(took > Duration::from_millis(700), "given up after {took:?}");
    for (name, client) in names.into_iter().zip(clients) {
        let output = client.join().unwrap().unwrap_or_else(|| panic!("{name}: the client was not told"));
        assert_ne!(output.code, 0, "{name}");
        assert!(output.errors().contains("not responding"), "{name}: {:?}", output.errors());
    }
    assert_eq!(warnings(&target, "not responding"), names.len(), "{}", target.log());
    assert_eq!(target.exec("echo back").ok(), "back");
    let gone = || target.exec("pgrep -x sleep").code == 1;
    assert!(until(Duration::from_secs(20), gone), "what ran in the lost sessions lives on");
}

#[test]
fn a_guest_that_is_slow_but_alive_is_spared() {
    if skip::oracle_lacks("guests") {
        return;
    }
    let target = start(PATIENT);
    let clients = [
        client(target.ssh(&["box", "sleep 9; echo alive"])),
        client(target.gateway().command(&["ssh", "box", "sleep 9; echo alive"])),
    ];
    assert!(until(Duration::from_secs(20), || sessions(&target) == clients.len()));
    let agent = agent(&target);
    for _ in 0..4 {
        signal(agent, Signal::STOP);
        std::thread::sleep(Duration::from_millis(1700));
        signal(agent, Signal::CONT);
        std::thread::sleep(Duration::from_millis(300));
    }
    for client in clients {
        assert_eq!(client.join().unwrap().expect("an end").ok(), "alive");
    }
    assert_eq!(warnings(&target, "not responding"), 0);
}

#[test]
fn a_hung_client_of_the_control_socket_is_given_up_and_told_when_it_goes_on() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = start(QUICK);
    let idle = client(target.gateway().command(&["ssh", "box", "sleep 8; echo alive"]));
    let mut command = target.gateway().command(&["ssh", "box", "sleep 500"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut hung = Guard::spawn(&mut command);
    assert!(until(Duration::from_secs(20), || sessions(&target) == 2));
    hung.signal(Signal::STOP);
    // Sooner than the idle one ends by itself.
    let found = until(Duration::from_secs(6), || sessions(&target) == 1);
    assert!(found, "the session of a hung client lives on");
    assert_eq!(warnings(&target, "not responding"), 1, "{}", target.log());
    hung.signal(Signal::CONT);
    assert_eq!(hung.wait(Duration::from_secs(10)), Some(255));
    let mut said = String::new();
    std::io::Read::read_to_string(hung.child().stderr.as_mut().unwrap(), &mut said).unwrap();
    assert!(said.contains("not responding"), "{said}");
    assert_eq!(idle.join().unwrap().expect("an end").ok(), "alive", "a client that answers was given up");
}

#[test]
fn a_hung_gateway_is_noticed_by_the_command_line() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = start("");
    let commands = [
        target.gateway().command(&["ssh", "--keepalive", "400ms", "box", "sleep 500"]),
        target.gateway().command(&["ssh", "--keepalive", "400ms", "-N", "box"]),
        target.gateway().command(&["exec", "--keepalive", "400ms", "box", "--", "sleep", "500"]),
    ];
    let clients = commands.map(client);
    assert!(until(Duration::from_secs(20), || sessions(&target) == 2));
    std::thread::sleep(Duration::from_millis(3000));
    assert!(clients.iter().all(|it| !it.is_finished()), "given up while all was well");
    target.gateway().signal(Signal::STOP);
    let ended = until(FOUND, || clients.iter().all(std::thread::JoinHandle::is_finished));
    target.gateway().signal(Signal::CONT);
    assert!(ended, "a client waits for a hung gateway for ever");
    for (client, code) in clients.into_iter().zip([255, 255, 1]) {
        let output = client.join().unwrap().expect("an end");
        output.exits(code);
        assert!(output.errors().contains("the gateway is not responding"), "{}", output.errors());
    }
}

/// The kernel's own view: column `tr` of /proc/net/tcp is 2 while a keepalive timer runs.
fn keepalive_timer(local_port: u16) -> Vec<bool> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let suffix = format!(":{local_port:04X}");
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    // State 01: established.
    rows.filter(|row| row[1].ends_with(&suffix) && row[3] == "01")
        .map(|row| row[5].starts_with("02:"))
        .collect()
}

#[test]
fn accepted_tcp_connections_have_the_kernels_keepalive() {
    if skip::oracle_lacks("the gateway's listeners") {
        return;
    }
    let target = start("");
    let _ssh = std::net::TcpStream::connect(("127.0.0.1", target.port)).unwrap();
    let http_port = target.gateway().http_port;
    let _http = std::net::TcpStream::connect(("127.0.0.1", http_port)).unwrap();
    for port in [target.port, http_port] {
        let all = || keepalive_timer(port) == [true];
        assert!(until(Duration::from_secs(5), all), "port {port}: {:?}", keepalive_timer(port));
    }
}
