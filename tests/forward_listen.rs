//! Forwards from the server's side to the client: `-R`, for TCP and Unix sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sandgate_tests::client::{DEADLINE, Master};
use sandgate_tests::forward::{Home, Near, Server, Side, descriptors, visitor, watched};
use sandgate_tests::process::{Guard, parent};
use sandgate_tests::wait::{free_port, until};
use sandgate_tests::{Feed, Kind, Options, Output, Target, run, skip};

const STRICT: [&str; 2] = ["-o", "ExitOnForwardFailure=yes"];

/// A directory on the far side for sockets: with sshd that is ours.
fn far_directory(target: &Target) -> String {
    if target.kind() == Kind::Gateway { "/tmp".into() } else { target.dir().display().to_string() }
}

/// `ssh -R at:home box` as a master connection, with a listener at home.
fn remote(target: &Target, at: &str) -> (Master, Home) {
    let (home, port) = Home::tcp();
    let forward = format!("{at}:127.0.0.1:{port}");
    (target.master_with(&[&STRICT[..], &["-R", &forward]].concat()), home)
}

/// Somebody on the far side connects; what it printed at the end.
fn visit(target: &Target, at: &str) -> Guard {
    Guard::spawn(
        target
            .ssh(&["box", &visitor(at)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit()),
    )
}

fn printed(mut visitor: Guard) -> String {
    let mut text = String::new();
    std::io::Read::read_to_string(visitor.child().stdout.as_mut().unwrap(), &mut text).unwrap();
    text.trim().to_owned()
}

/// Whether somebody on the far side can connect.
fn reachable(target: &Target, port: u16) -> bool {
    let connect = format!(
        "python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}), 5)' 2>/dev/null"
    );
    target.exec(&connect).code == 0
}

#[test]
fn a_port_on_the_far_side_leads_home_and_each_direction_ends_on_its_own() {
    let target = Target::start();
    let port = free_port();
    let (_master, home) = remote(&target, &port.to_string());
    let visitor = visit(&target, &port.to_string());
    let mut connection = home.accept();
    // The visitor has ended its direction; ours lives.
    assert_eq!(connection.rest().expect("the end of what the visitor sent"), b"hello");
    std::thread::sleep(Duration::from_millis(200));
    connection.write(b"welcome").unwrap();
    connection.end();
    assert_eq!(printed(visitor), "welcome");
}

#[test]
fn a_socket_on_the_far_side_leads_home() {
    let target = Target::start();
    let path = format!("{}/r{}.sock", far_directory(&target), free_port());
    let (_master, home) = remote(&target, &path);
    let visitor = visit(&target, &path);
    let mut connection = home.accept();
    assert_eq!(connection.rest().unwrap(), b"hello");
    connection.write(b"welcome").unwrap();
    connection.end();
    assert_eq!(printed(visitor), "welcome");
    let mode = target.exec(&format!("stat -c %a {path}")).ok();
    assert_eq!(mode, "600");

    // The other way about: the visitor says nothing before it has seen our end.
    let script = format!(
        "import socket; s=socket.socket(socket.AF_UNIX); s.connect(\"{path}\"); d=s.makefile(\"rb\").read(); s.sendall(b\"heard \"+d)"
    );
    let _listener =
        Guard::spawn(target.ssh(&["box", &format!("python3 -c '{script}'")]).stdin(Stdio::null()));
    let mut connection = home.accept();
    connection.write(b"words").unwrap();
    connection.end();
    assert_eq!(connection.rest().expect("the visitor's answer to our end"), b"heard words");
}

#[test]
fn a_socket_at_home_is_reached_too() {
    let target = Target::start();
    let home_path = target.dir().join("home.sock");
    let home = Home::unix(&home_path);
    let port = free_port();
    let _master =
        target.master_with(&[&STRICT[..], &["-R", &format!("{port}:{}", home_path.display())]].concat());
    let visitor = visit(&target, &port.to_string());
    let mut connection = home.accept();
    assert_eq!(connection.rest().unwrap(), b"hello");
    connection.write(b"welcome").unwrap();
    drop(connection);
    assert_eq!(printed(visitor), "welcome");
}

#[test]
fn port_zero_is_answered_with_the_port() {
    let target = Target::start();
    let master = target.master();
    let mut forwards = Vec::new();
    for _ in 0..3 {
        // To different homes: the client takes the same forward twice for one.
        let (home, home_port) = Home::tcp();
        let forward = format!("0:127.0.0.1:{home_port}");
        let told = run(&mut master.ssh(&["-O", "forward", "-R", &forward, "box"]), Feed::Null, DEADLINE).ok();
        forwards.push((home, told.trim().parse::<u16>().expect("a port")));
    }
    assert!(forwards[0].1 != forwards[1].1 && forwards[1].1 != forwards[2].1);
    for (home, port) in forwards {
        let visitor = visit(&target, &port.to_string());
        let mut connection = home.accept();
        assert_eq!(connection.rest().unwrap(), b"hello");
        drop(connection);
        assert_eq!(printed(visitor), "");
    }
}

#[test]
fn a_cancelled_forward_is_gone_and_its_port_is_free_at_once() {
    let target = Target::start();
    let (home, home_port) = Home::tcp();
    let port = free_port();
    let master = target.master();
    let forward = format!("{port}:127.0.0.1:{home_port}");
    for _ in 0..5 {
        run(&mut master.ssh(&["-O", "forward", "-R", &forward, "box"]), Feed::Null, DEADLINE).ok();
        let visitor = visit(&target, &port.to_string());
        let mut connection = home.accept();
        assert_eq!(connection.rest().unwrap(), b"hello");
        run(&mut master.ssh(&["-O", "cancel", "-R", &forward, "box"]), Feed::Null, DEADLINE).ok();
        // What was connected stays so.
        connection.write(b"late").unwrap();
        connection.end();
        assert_eq!(printed(visitor), "late");
    }
    assert!(!reachable(&target, port));
}

#[test]
fn a_cancelled_socket_is_gone_and_its_path_is_free_at_once() {
    // sshd leaves the socket behind, and takes the path again only with this.
    let unlink = Kind::from_env() == Kind::Sshd;
    let target = Target::start_with(&Options { stream_local_bind_unlink: unlink, ..Options::default() });
    let (home, home_port) = Home::tcp();
    let path = format!("{}/c{}.sock", far_directory(&target), free_port());
    let master = target.master();
    let forward = format!("{path}:127.0.0.1:{home_port}");
    for _ in 0..5 {
        run(&mut master.ssh(&["-O", "forward", "-R", &forward, "box"]), Feed::Null, DEADLINE).ok();
        let visitor = visit(&target, &path);
        let mut connection = home.accept();
        assert_eq!(connection.rest().unwrap(), b"hello");
        run(&mut master.ssh(&["-O", "cancel", "-R", &forward, "box"]), Feed::Null, DEADLINE).ok();
        if target.kind() == Kind::Gateway {
            assert_eq!(
                target.exec(&format!("test -e {path}")).code,
                1,
                "the socket is there after the cancel"
            );
        }
        // What was connected stays so.
        connection.write(b"late").unwrap();
        connection.end();
        assert_eq!(printed(visitor), "late");
    }
    // What is no longer there cannot be cancelled.
    let again = run(&mut master.ssh(&["-O", "cancel", "-R", &forward, "box"]), Feed::Null, DEADLINE);
    assert!(again.errors().contains("port not forwarded"), "{}", again.errors());
}

#[track_caller]
fn is_refused(output: &Output) {
    assert_eq!(output.code, 255, "{}", output.text());
    assert!(output.errors().contains("remote port forwarding failed"), "{}", output.errors());
}

#[test]
fn a_port_in_use_is_refused_and_told() {
    let target = Target::start();
    let (home, home_port) = Home::tcp();
    let port = free_port();
    let forward = format!("{port}:127.0.0.1:{home_port}");
    let _master = target.master_with(&[&STRICT[..], &["-R", &forward]].concat());
    is_refused(&target.run_ssh(&[&STRICT[..], &["-R", &forward, "box", "true"]].concat()));
    // Without that option the session itself works, as ever.
    let output = target.run_ssh(&["-o", "LogLevel=INFO", "-R", &forward, "box", "echo works"]);
    assert_eq!((output.code, output.text().trim()), (0, "works"));
    assert!(output.errors().contains("remote port forwarding failed"));
    // The first one is unharmed.
    let visitor = visit(&target, &port.to_string());
    assert_eq!(home.accept().rest().unwrap(), b"hello");
    drop(printed(visitor));
    // A program has one too.
    let server = Server::start(&target, "echo", "0");
    is_refused(&target.run_ssh(
        &[&STRICT[..], &["-R", &format!("{}:127.0.0.1:{home_port}", server.at), "box", "true"]].concat(),
    ));
}

#[test]
fn the_same_forward_twice_is_refused() {
    let target = Target::start();
    let port = free_port();
    let output = target.run_ssh(
        &[
            &STRICT[..],
            &[
                "-R",
                &format!("{port}:127.0.0.1:1"),
                "-R",
                &format!("localhost:{port}:127.0.0.1:1"),
                "box",
                "true",
            ],
        ]
        .concat(),
    );
    assert_eq!(output.code, 255, "{}", output.errors());
}

#[test]
fn only_loopback_is_listened_on_whatever_is_asked() {
    let target = Target::start();
    for asked in ["", "*", "0.0.0.0"] {
        let port = free_port();
        let forward = format!("{asked}{}{port}:127.0.0.1:1", if asked.is_empty() { "" } else { ":" });
        let command = format!("cat /proc/net/tcp | grep ':{port:04X} 00000000:0000 0A' | cut -d: -f2");
        let output = target.run_ssh(&[&STRICT[..], &["-R", &forward, "box", &command]].concat());
        assert_eq!(output.ok().trim(), "0100007F", "{asked}");
    }
}

/// sshd listens before it starts what was asked for afterwards. Here the shim, which has a part in listening and none in starting, is held up.
#[test]
fn a_program_finds_the_listener_that_was_asked_for_before_it() {
    let target = Target::start();
    if target.kind() == Kind::Sshd {
        return skip::because("sshd has no shim");
    }
    let shim = Pid::from_raw(parent(target.gateway().agent_pid("box")).cast_signed()).unwrap();
    let port = free_port();
    let command = format!("grep -c ':{port:04X} ' /proc/net/tcp");
    kill_process(shim, Signal::STOP).unwrap();
    let client = std::thread::scope(|scope| {
        let run = scope.spawn(|| target.run_ssh(&["-R", &format!("{port}:127.0.0.1:1"), "box", &command]));
        std::thread::sleep(Duration::from_millis(400));
        kill_process(shim, Signal::CONT).unwrap();
        run.join().unwrap()
    });
    assert_eq!(client.ok().trim(), "1");
}

/// What a TCP forward carries goes from the gateway to the program and back; the agent has no part in it.
#[test]
fn tcp_forwards_pass_the_agent_by() {
    let target = Target::start();
    if target.kind() == Kind::Sshd {
        return skip::because("sshd has no agent");
    }
    let agent = target.gateway().agent_pid("box");
    let (far, near) = (free_port(), free_port());
    let server = Server::start(&target, "echo", "0");
    let (home, home_port) = Home::tcp();
    let forwards = [format!("{far}:127.0.0.1:{home_port}"), format!("{near}:localhost:{}", server.at)];
    let _master = target.master_with(&[&STRICT[..], &["-R", &forwards[0], "-L", &forwards[1]]].concat());
    let before = descriptors(agent);
    let mut connections: Vec<_> = (0..20).map(|_| Near::connect(&near.to_string())).collect();
    for connection in &mut connections {
        connection.write(b"x").unwrap();
        assert_eq!(connection.read(1).unwrap(), b"x");
    }
    let mut visitors: Vec<_> = (0..5).map(|_| visit(&target, &far.to_string())).collect();
    let homes: Vec<_> = (0..5).map(|_| home.accept()).collect();
    // Each visitor is a session, and a session is a link of its own with a few descriptors.
    let visiting = descriptors(agent) - before;
    assert!(visiting < 25, "the agent holds {visiting} more descriptors");
    // Unlike sshd's, ours notice a peer that has vanished; see docs/forwarding.md.
    assert_eq!(watched(&target, Side::Dialled, server.at.parse().unwrap()), (20, 20));
    assert_eq!(watched(&target, Side::Taken, far), (5, 5));
    drop((homes, connections));
    for visitor in &mut visitors {
        visitor.wait(DEADLINE);
    }
    assert!(until(DEADLINE, || descriptors(agent) <= before), "descriptors stay with the agent");
}

#[test]
fn nothing_listens_on_the_host() {
    let target = Target::start();
    if target.kind() == Kind::Sshd {
        return skip::because("sshd listens on its own host");
    }
    let port = free_port();
    let (_master, _home) = remote(&target, &port.to_string());
    assert!(reachable(&target, port));
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    assert!(std::net::TcpStream::connect(("::1", port)).is_err());
    // The gateway itself listens on its own two ports and nothing else.
    let listening = run(
        std::process::Command::new("bash").args([
            "-c",
            &format!(
                "for f in /proc/{}/fd/*; do readlink $f; done | grep -o 'socket:.[0-9]*' | grep -o '[0-9]*'",
                target.pid()
            ),
        ]),
        Feed::Null,
        DEADLINE,
    )
    .ok();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap()
        + &std::fs::read_to_string("/proc/net/tcp6").unwrap();
    let own: Vec<&str> = table
        .lines()
        .filter(|line| line.split_whitespace().nth(3) == Some("0A"))
        .filter(|line| listening.lines().any(|inode| line.split_whitespace().nth(9) == Some(inode)))
        .collect();
    assert_eq!(own.len(), 2, "{own:?}");
}

#[test]
fn a_home_that_refuses_closes_the_visitors_connection() {
    let target = Target::start();
    let port = free_port();
    let closed = free_port();
    let _master = target.master_with(&[&STRICT[..], &["-R", &format!("{port}:127.0.0.1:{closed}")]].concat());
    for _ in 0..3 {
        let output = run(
            target.ssh(&["box", &visitor(&port.to_string())]).stdin(Stdio::null()),
            Feed::Null,
            Duration::from_secs(10),
        );
        // Closed with or without a reset, but soon.
        assert_eq!(output.text().trim(), "", "{}", output.errors());
    }
}

#[test]
fn what_is_at_the_path_of_a_socket_stays_unless_the_operator_says_otherwise() {
    for unlink in [false, true] {
        let options = Options { stream_local_bind_unlink: unlink, ..Options::default() };
        let target = Target::start_with(&options);
        let path = format!("{}/u{}.sock", far_directory(&target), free_port());
        target.exec(&format!("touch {path}")).ok();
        let forward = format!("{path}:127.0.0.1:1");
        let output =
            target.run_ssh(&[&STRICT[..], &["-R", &forward, "box", &format!("test -S {path}")]].concat());
        if unlink {
            output.ok();
        } else {
            assert_eq!(output.code, 255, "{}", output.errors());
            target.exec(&format!("test -f {path}")).ok();
        }
    }
}

#[test]
fn a_socket_is_removed_with_its_forward() {
    let target = Target::start();
    if target.kind() == Kind::Sshd {
        return skip::because("sshd leaves it behind");
    }
    for _ in 0..3 {
        target
            .run_ssh(
                &[&STRICT[..], &["-R", "/tmp/again.sock:127.0.0.1:1", "box", "test -S /tmp/again.sock"]]
                    .concat(),
            )
            .ok();
        assert!(until(DEADLINE, || target.exec("test -e /tmp/again.sock").code == 1));
    }
}

#[test]
fn the_number_of_listeners_is_bounded_and_the_reason_is_told() {
    let target = Target::start();
    if target.kind() == Kind::Sshd {
        return skip::because("sshd has no such limit");
    }
    let master = target.master();
    let more = |home: u16| {
        let forward = format!("0:127.0.0.1:{home}");
        run(&mut master.ssh(&["-O", "forward", "-R", &forward, "box"]), Feed::Null, DEADLINE).code
    };
    for home in 1..=64 {
        assert_eq!(more(home), 0, "number {home}");
    }
    assert_ne!(more(65), 0);
    assert!(target.log().contains("this connection has 64 listeners already"), "{}", target.log());
    assert_eq!(master.exec("echo works").ok(), "works");
    run(&mut master.ssh(&["-O", "cancel", "-R", "0:127.0.0.1:1", "box"]), Feed::Null, DEADLINE).ok();
    assert_eq!(more(65), 0);
}

#[test]
fn privileged_ports_are_for_root() {
    let target = Target::start();
    if target.kind() == Kind::Sshd {
        return skip::because("the account under test is root");
    }
    let gateway = target.gateway();
    gateway.create_sandbox("plain", &["--user", "alice"]);
    let token = gateway.token("plain", &[]).token;
    let user = format!("User={token}");
    let output =
        target.run_ssh(&["-o", &user, "-o", "LogLevel=DEBUG", "-R", "81:127.0.0.1:1", "box", "echo works"]);
    assert_eq!(output.ok(), "works");
    assert!(output.errors().contains("Permission denied"), "{}", output.errors());
}

#[test]
fn a_listener_comes_back_with_its_sandbox() {
    let target = Target::start();
    if target.kind() == Kind::Sshd {
        return skip::because("it is about sandboxes");
    }
    let gateway = target.gateway();
    let port = free_port();
    let (_master, home) = remote(&target, &port.to_string());
    let agent = gateway.json(&["sandbox", "inspect", "box"])["pid"].as_i64().expect("a process id");
    let agent = rustix::process::Pid::from_raw(agent as i32).unwrap();
    rustix::process::kill_process(agent, rustix::process::Signal::KILL).unwrap();
    assert!(
        until(DEADLINE, || target.log().contains("a listener in the sandbox has ended")),
        "{}",
        target.log()
    );
    assert!(until(DEADLINE, || !gateway.is_running("box")));
    gateway.start_sandbox("box");
    assert!(until(DEADLINE, || target.log().contains("the listener is back")), "{}", target.log());
    let visitor = visit(&target, &port.to_string());
    assert_eq!(home.accept().rest().unwrap(), b"hello");
    drop(printed(visitor));
}
