//! Forwards from the client into the server's side: `-L`, `-D`, `-W`, `-J`, for TCP and Unix sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

#[path = "forward/bulk.rs"]
mod bulk;
#[path = "forward/killed.rs"]
mod killed;

use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use sandgate_tests::client::{DEADLINE, Master};
use sandgate_tests::data::{random, sha256};
use sandgate_tests::forward::{Near, Server, Side, watched};
use sandgate_tests::process::Guard;
use sandgate_tests::wait::{free_port, until};
use sandgate_tests::{Feed, Kind, Options, Target, run, skip};

/// A forward to a port (`at` is digits) or a socket, and its near end.
fn local(target: &Target, at: &str) -> (Master, String) {
    let far = if at.parse::<u16>().is_ok() { format!("127.0.0.1:{at}") } else { at.to_owned() };
    let near = free_port().to_string();
    let master = target.master_with(&["-o", "ExitOnForwardFailure=yes", "-L", &format!("{near}:{far}")]);
    (master, near)
}

/// Where servers of a test listen: a port, and a socket.
fn places(target: &Target) -> [String; 2] {
    // In the sandbox the directory does not exist; with sshd it is ours.
    let directory =
        if target.kind() == Kind::Gateway { "/tmp".into() } else { target.dir().display().to_string() };
    ["0".to_owned(), format!("{directory}/far.sock")]
}

#[test]
fn bytes_pass_in_both_directions() {
    let target = Target::start();
    for place in places(&target) {
        let server = Server::start(&target, "echo", &place);
        let (_master, near) = local(&target, &server.at);
        let mut near = Near::connect(&near);
        for text in ["one", "two", "three"] {
            near.write(text.as_bytes()).unwrap();
            assert_eq!(near.read(text.len()).unwrap(), text.as_bytes());
        }
        near.end();
        assert_eq!(near.rest().unwrap(), b"");
    }
}

#[test]
fn the_end_of_what_the_client_sends_is_passed_on() {
    let target = Target::start();
    for place in places(&target) {
        let server = Server::start(&target, "collect", &place);
        let (_master, near) = local(&target, &server.at);
        let mut near = Near::connect(&near);
        near.write(b"some words").unwrap();
        near.end();
        let answer = String::from_utf8(near.rest().expect("the server never saw the end")).unwrap();
        assert!(answer.starts_with("10 "), "{answer}");
    }
}

#[test]
fn the_end_of_what_the_server_sends_is_passed_on_and_the_other_direction_lives() {
    let target = Target::start();
    for place in places(&target) {
        let mut server = Server::start(&target, "farewell", &place);
        let (_master, near) = local(&target, &server.at);
        let mut near = Near::connect(&near);
        assert_eq!(near.rest().expect("the client never saw the end"), b"bye");
        std::thread::sleep(Duration::from_millis(200));
        near.write(b"still here").unwrap();
        near.end();
        assert_eq!(server.line(), "read still here");
    }
}

#[test]
fn everything_arrives_unchanged() {
    let target = Target::start();
    let server = Server::start(&target, "collect", "0");
    let (_master, near) = local(&target, &server.at);
    let size = 64 << 20;
    let data = random(7, size);
    let expected = format!("{size} {}", sha256(&data));
    let mut near = Near::connect(&near);
    near.write(&data).unwrap();
    near.end();
    assert_eq!(String::from_utf8(near.rest().unwrap()).unwrap(), expected);
}

#[test]
fn what_cannot_be_reached_is_told_and_exits_non_zero() {
    let target = Target::start();
    let refused = free_port();
    for (place, says) in [
        (format!("127.0.0.1:{refused}"), "connect failed: Connection refused"),
        (format!("localhost:{refused}"), "connect failed: Connection refused"),
        ("no-such-host.invalid:80".to_owned(), "open failed"),
    ] {
        let output = target.run_ssh(&["-o", "LogLevel=INFO", "-W", &place, "box"]);
        assert_eq!(output.code, 255, "{place}");
        assert!(output.errors().contains(says), "{place}: {}", output.errors());
        assert_eq!(output.stdout, b"");
    }
}

#[test]
fn a_place_that_nobody_listens_on_is_told_to_the_visitor_and_the_user() {
    let target = Target::start();
    let refused = format!("127.0.0.1:{}", free_port());
    for (place, says) in [
        ("/tmp/no-such.sock", "open failed: connect failed"),
        (&*refused, "connect failed: Connection refused"),
    ] {
        let near = free_port().to_string();
        let log = target.dir().join("log");
        let mut command = target.ssh(&["-N", "-o", "LogLevel=INFO", "-L", &format!("{near}:{place}"), "box"]);
        let _session = Guard::spawn(command.stderr(std::fs::File::create(&log).unwrap()));
        let told = || std::fs::read_to_string(&log).unwrap().matches(says).count();
        // The connection of the client is none the worse for it.
        for visit in 1..=2 {
            assert_eq!(Near::connect(&near).rest().unwrap_or_default(), b"", "{place}");
            assert!(until(DEADLINE, || told() == visit), "{}", std::fs::read_to_string(&log).unwrap());
        }
    }
}

#[test]
fn standard_input_and_output_are_joined_to_a_port() {
    let target = Target::start();
    let server = Server::start(&target, "collect", "0");
    let place = format!("localhost:{}", server.at);
    let output =
        run(&mut target.ssh(&["-W", &place, "box"]), Feed::Bytes(b"twelve bytes".to_vec()), DEADLINE);
    assert!(output.ok().starts_with("12 "), "{}", output.text());
}

/// Asks a SOCKS server (RFC 1928) for a connection.
fn socks(near: &mut Near, host: &str, port: u16) -> std::io::Result<Vec<u8>> {
    near.write(&[5, 1, 0]).unwrap();
    assert_eq!(near.read(2).unwrap(), [5, 0]);
    let mut request = vec![5, 1, 0, 3, host.len() as u8];
    request.extend_from_slice(host.as_bytes());
    request.extend_from_slice(&port.to_be_bytes());
    near.write(&request).unwrap();
    near.read(10)
}

#[test]
fn a_socks_client_reaches_names_and_ports() {
    let target = Target::start();
    let server = Server::start(&target, "echo", "0");
    let port: u16 = server.at.parse().unwrap();
    let near = free_port().to_string();
    let _master = target.master_with(&["-D", &near]);
    let socks = |host: &str, port: u16| {
        let mut near = Near::connect(&near);
        (socks(&mut near, host, port), near)
    };
    let (answer, mut near_end) = socks("localhost", port);
    assert_eq!(answer.unwrap()[..2], [5, 0]);
    near_end.write(b"through socks").unwrap();
    assert_eq!(near_end.read(13).unwrap(), b"through socks");
    let (answer, mut near_end) = socks("localhost", free_port());
    // The client has said yes before it asked; then it closes.
    assert!(answer.is_err() || near_end.rest().unwrap_or_default().is_empty());
}

#[test]
fn names_are_resolved_inside_the_sandbox() {
    let target = Target::start();
    if target.kind() == Kind::Sshd {
        return skip::because("sshd has the hosts file of this machine");
    }
    let server = Server::start(&target, "echo", "0");
    target.exec("echo 127.0.0.1 only-inside.example >> /etc/hosts").ok();
    let near = free_port().to_string();
    let _master = target.master_with(&["-L", &format!("{near}:only-inside.example:{}", server.at)]);
    let mut near = Near::connect(&near);
    near.write(b"abc").unwrap();
    assert_eq!(near.read(3).unwrap(), b"abc");
    // The agent has dialled, since the name is one of the sandbox's own.
    assert_eq!(watched(&target, Side::Dialled, server.at.parse().unwrap()), (1, 1));
}

#[test]
fn the_host_is_not_reached() {
    let target = Target::start();
    if target.kind() == Kind::Sshd {
        return skip::because("sshd is on the host");
    }
    let listener = std::net::TcpListener::bind(("0.0.0.0", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    for host in ["127.0.0.1", "localhost", "::1", "0.0.0.0"] {
        let output = target.run_ssh(&["-o", "LogLevel=INFO", "-W", &format!("[{host}]:{port}"), "box"]);
        assert_eq!(output.code, 255, "{host}: {}", output.text());
    }
    let path = target.dir().join("host.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let near = free_port().to_string();
    let _master = target.master_with(&["-L", &format!("{near}:{}", path.display())]);
    assert_eq!(Near::connect(&near).rest().unwrap_or_default(), b"");
}

#[test]
fn forwards_come_and_go_on_a_shared_connection() {
    let target = Target::start();
    let server = Server::start(&target, "echo", "0");
    let master = target.master();
    let near = free_port().to_string();
    let forward = format!("{near}:127.0.0.1:{}", server.at);
    for _ in 0..3 {
        run(&mut master.ssh(&["-O", "forward", "-L", &forward, "box"]), Feed::Null, DEADLINE).ok();
        let mut connection = Near::connect(&near);
        connection.write(b"x").unwrap();
        assert_eq!(connection.read(1).unwrap(), b"x");
        run(&mut master.ssh(&["-O", "cancel", "-L", &forward, "box"]), Feed::Null, DEADLINE).ok();
        assert!(std::net::TcpStream::connect(("127.0.0.1", near.parse::<u16>().unwrap())).is_err());
        // What was connected stays so.
        connection.write(b"y").unwrap();
        assert_eq!(connection.read(1).unwrap(), b"y");
    }
}

/// `ssh -J box inner`, where `inner` is an sshd on the far side.
#[test]
fn the_server_is_a_way_station() {
    let target = Target::start();
    let port = free_port();
    let key = std::fs::read_to_string(target.key().with_extension("pub")).unwrap();
    let script = format!(
        "set -e; d=$(mktemp -d); chmod 755 $d; echo '{}' > $d/ak; ssh-keygen -q -t ed25519 -N '' -f $d/hk; mkdir -p /run/sshd
         grep -q ^sshd: /etc/passwd || echo sshd:x:100:65534::/run/sshd:/usr/sbin/nologin >>/etc/passwd
         exec /usr/sbin/sshd -D -e -f /dev/null -p {port} -o ListenAddress=127.0.0.1 -o HostKey=$d/hk \
         -o AuthorizedKeysFile=$d/ak -o StrictModes=no -o PidFile=none -o UsePAM=no",
        key.trim()
    );
    let log = std::fs::File::create(target.dir().join("inner.log")).unwrap();
    let mut inner = target.ssh(&["-tt", "box", &script]);
    let _inner = Guard::spawn(inner.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log));
    let listens = || target.run_ssh(&["-W", &format!("127.0.0.1:{port}"), "box"]).text().starts_with("SSH-");
    if !until(DEADLINE, listens) {
        return skip::because("sshd does not run in this sandbox");
    }
    let inner =
        ["-o", "ProxyJump=box", "-p", &port.to_string(), "-o", "UserKnownHostsFile=/dev/null", "-l", "root"];
    let output = target.run_ssh(&[&inner[..], &["127.0.0.1", "echo inner; exit 7"]].concat());
    assert_eq!((output.code, output.text().trim()), (7, "inner"), "{}", output.errors());
}

/// Key presses on a terminal are answered within this while a forward of the same connection is stuck.
const PROMPT: Duration = Duration::from_millis(250);

#[test]
fn timed_a_forward_that_nobody_reads_does_not_delay_a_key_press() {
    let target = Target::start();
    let server = Server::start(&target, "flood", "0");
    let (master, near) = local(&target, &server.at);
    let _stuck: Vec<Near> = (0..4).map(|_| Near::connect(&near)).collect();
    let mut shell = master.ssh(&["-tt", "box", "stty raw -echo; echo ready; exec cat"]);
    let mut shell = Guard::spawn(shell.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut stdin = shell.child().stdin.take().unwrap();
    let mut stdout = shell.child().stdout.take().unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"ready\r\n") && !seen.ends_with(b"ready\n") {
        let mut byte = [0];
        stdout.read_exact(&mut byte).expect("the shell has started");
        seen.push(byte[0]);
    }
    std::thread::sleep(Duration::from_secs(1));
    let mut slowest = Duration::ZERO;
    for _ in 0..100 {
        let start = Instant::now();
        stdin.write_all(b"k").unwrap();
        stdout.read_exact(&mut [0]).unwrap();
        slowest = slowest.max(start.elapsed());
    }
    assert!(slowest < PROMPT, "a key press took {slowest:?}");
}

#[test]
fn a_connection_that_only_forwards_counts_as_used() {
    let options = Options { extra_toml: "unused_connection_timeout = \"1s\"\n".into(), ..Options::default() };
    let target = Target::start_with(&options);
    if target.kind() == Kind::Sshd {
        return skip::because("sshd 9.2 has no UnusedConnectionTimeout");
    }
    let server = Server::start(&target, "echo", "0");
    let near = free_port().to_string();
    let mut client = target.ssh(&["-N", "-L", &format!("{near}:127.0.0.1:{}", server.at), "box"]);
    let mut client = Guard::spawn(client.stdin(Stdio::null()).stderr(Stdio::null()));
    let mut connection = Near::connect(&near);
    std::thread::sleep(Duration::from_secs(3));
    connection.write(b"x").unwrap();
    assert_eq!(connection.read(1).unwrap(), b"x");
    connection.end();
    drop(connection);
    assert!(client.wait(DEADLINE).is_some(), "unused at last, and still there");
}
