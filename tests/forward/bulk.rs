//! Much: a GiB each way through one forward, compared by hash, and a thousand forwarded connections at once.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sandgate_tests::data::random;
use sandgate_tests::forward::{Home, Near, Server};
use sandgate_tests::process::Guard;
use sandgate_tests::wait::{free_port, scaled};
use sandgate_tests::{Feed, Target, run};

use super::{local, socks};

/// Of what is sent, each with its number in front, so that none can be missed, repeated or in another's place.
const PIECE: usize = 1 << 20;
/// Time for a thousand connections on a busy machine.
const LONG: Duration = Duration::from_secs(120);

/// Gives back what comes through a listener, to its end; the argument is the port.
const ECHO: &str = r#"
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
while True:
    d = s.recv(1 << 18)
    if not d: break
    s.sendall(d)
"#;

/// Sends so many bytes to somebody who gives them back, and compares while both directions are in use.
fn there_and_back(near: Near, pieces: usize) {
    let Near::Tcp(mut stream) = near else { panic!("it is TCP") };
    let mut sender = stream.try_clone().unwrap();
    let sent = std::thread::spawn(move || {
        let (mut piece, mut hash) = (random(5, PIECE), Context::new(&SHA256));
        for number in 0..pieces as u64 {
            piece[..8].copy_from_slice(&number.to_le_bytes());
            hash.update(&piece);
            sender.write_all(&piece).unwrap();
        }
        sender.shutdown(Shutdown::Write).unwrap();
        hash.finish()
    });
    let (mut buffer, mut hash, mut count) = (vec![0; 1 << 18], Context::new(&SHA256), 0);
    loop {
        match stream.read(&mut buffer).expect("the rest, in time") {
            0 => break,
            read => {
                hash.update(&buffer[..read]);
                count += read;
            }
        }
    }
    assert_eq!(count, pieces * PIECE);
    assert_eq!(hash.finish().as_ref(), sent.join().unwrap().as_ref());
}

#[test]
fn heavy_a_gib_there_and_back_through_a_local_forward() {
    let target = Target::start();
    let server = Server::start(&target, "echo", "0");
    let (_master, near) = local(&target, &server.at);
    there_and_back(Near::connect(&near), scaled(1024));
}

#[test]
fn heavy_a_gib_there_and_back_through_a_remote_forward() {
    let target = Target::start();
    let (home, home_port) = Home::tcp();
    let far = free_port();
    let forward = format!("{far}:127.0.0.1:{home_port}");
    let mut client = target.ssh(&["-o", "ExitOnForwardFailure=yes", "-R", &forward, "box"]);
    client.arg(format!("exec python3 -c '{ECHO}' {far}"));
    let _client = Guard::spawn(client.stdin(Stdio::null()));
    there_and_back(home.accept(), scaled(1024));
}

/// Takes as many descriptors as this process may have, for itself and its children.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

/// Makes so many connections to a server that gives back what it gets, and uses all of them while all are open.
fn all_at_once(count: usize, connect: impl Fn() -> Near) {
    // A few at a time, as many as the client's own queue takes.
    let mut connections: Vec<Near> = (0..count)
        .map(|number| {
            let mut near = connect();
            let text = format!("{number:06}");
            near.write(text.as_bytes()).unwrap();
            assert_eq!(near.read(6).unwrap(), text.as_bytes(), "connection {number}");
            near
        })
        .collect();
    for (number, near) in connections.iter_mut().enumerate() {
        near.write(format!("again {number:06}").as_bytes()).unwrap();
    }
    for (number, near) in connections.iter_mut().enumerate() {
        assert_eq!(near.read(12).unwrap(), format!("again {number:06}").as_bytes());
        near.end();
        assert_eq!(near.rest().unwrap(), b"");
    }
}

#[test]
fn heavy_a_thousand_connections_at_once() {
    raise_descriptor_limit();
    let target = Target::start();
    let server = Server::start(&target, "echo", "0");
    let (near, proxy) = (free_port().to_string(), free_port().to_string());
    let forward = format!("{near}:127.0.0.1:{}", server.at);
    let _master = target.master_with(&["-L", &forward, "-D", &proxy]);
    all_at_once(scaled(1000), || Near::connect(&near));
    let port = server.at.parse().unwrap();
    all_at_once(scaled(1000), || {
        let mut near = Near::connect(&proxy);
        assert_eq!(socks(&mut near, "localhost", port).unwrap()[..2], [5, 0]);
        near
    });
}

/// As [`all_at_once`], in the sandbox; the arguments are the port and the count.
const VISITORS: &str = r#"
import resource, socket, sys
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
port, count = map(int, sys.argv[1:])
def exact(s, n): return s.recv(n, socket.MSG_WAITALL)
all = []
for i in range(count):
    s = socket.create_connection(("127.0.0.1", port))
    s.sendall(b"%06d" % i)
    assert exact(s, 6) == b"%06d" % i, i
    all.append(s)
for i, s in enumerate(all): s.sendall(b"again %06d" % i)
for i, s in enumerate(all):
    assert exact(s, 12) == b"again %06d" % i, i
    s.shutdown(socket.SHUT_WR)
    assert s.recv(1) == b"", i
print(len(all))
"#;

#[test]
fn heavy_a_thousand_visitors_at_once() {
    raise_descriptor_limit();
    let target = Target::start();
    let (home, home_port) = Home::tcp();
    let (far, count) = (free_port(), scaled(1000));
    std::thread::spawn(move || {
        for _ in 0..count {
            let Near::Tcp(connection) = home.accept() else { panic!("it is TCP") };
            std::thread::spawn(move || echo(connection));
        }
    });
    let forward = format!("{far}:127.0.0.1:{home_port}");
    let mut client = target.ssh(&["-o", "ExitOnForwardFailure=yes", "-R", &forward, "box"]);
    client.arg(format!("exec python3 -c '{VISITORS}' {far} {count}"));
    assert_eq!(run(&mut client, Feed::Null, LONG).ok(), count.to_string());
}

/// Gives back what it gets.
fn echo(mut connection: TcpStream) {
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = connection.read(&mut buffer) {
        if connection.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
}
