//! Listeners that the agent keeps in the guest, on passed pipes, in frames, and over one shared pipe.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

#[macro_use]
mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::*;
use sandgate_guest::{
    Guest, GuestError, Incoming, ListenAddress, ListenSpec, Listener, NetworkFailure, OpenFailure, Peer,
};

async fn next(listener: &mut Listener) -> Incoming {
    tokio::time::timeout(Duration::from_secs(10), listener.accept()).await.expect("in time").unwrap()
}

/// Talks to a client of the listener through the connection: a message each way, then both ends.
async fn talk(listener: &mut Listener, mut client: impl Read + Write + Send + 'static) {
    let connection = next(listener).await.accept().await.unwrap();
    let there = tokio::task::spawn_blocking(move || {
        client.write_all(b"question").unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        answer
    });
    let (mut input, mut output) = connection.split();
    let mut got = Vec::new();
    let mut buf = [0; 100];
    while got.len() < 8 {
        output.ready().await;
        let n = output.try_read(&mut buf).unwrap_or(0);
        got.extend_from_slice(&buf[..n]);
    }
    assert_eq!(got, b"question");
    input.write_all(b"answer").await.unwrap();
    input.shutdown().await.unwrap();
    assert_eq!(there.await.unwrap(), b"answer");
    assert!(read_all(&mut output).await.unwrap().is_empty());
}

async fn failure(guest: &Guest, spec: ListenSpec) -> (NetworkFailure, String) {
    match guest.listen(spec).await.err().expect("an error") {
        GuestError::Network { kind, text } => (kind, text),
        other => panic!("{other:?}"),
    }
}

each_way!(port_zero_is_chosen_and_told, async |guest: Guest| {
    for host in ["127.0.0.1", "localhost", "", "*", "0.0.0.0"] {
        let mut listener = guest.listen(ListenSpec::tcp(host, 0)).await.unwrap();
        assert_ne!(listener.port(), 0);
        for _ in 0..3 {
            let client = TcpStream::connect(("127.0.0.1", listener.port())).unwrap();
            talk(&mut listener, client).await;
        }
        let client = TcpStream::connect(("127.0.0.1", listener.port())).unwrap();
        let peer = next(&mut listener).await.peer.clone();
        let port = client.local_addr().unwrap().port();
        assert_eq!(peer, Peer::Tcp { host: "127.0.0.1".into(), port });
        let port = listener.port();
        drop(listener);
        eventually("nobody listens", || TcpStream::connect(("127.0.0.1", port)).is_err()).await;
    }
});

each_way!(a_port_in_use_is_refused, async |guest: Guest| {
    let listener = guest.listen(ListenSpec::tcp("localhost", 0)).await.unwrap();
    let (kind, text) = failure(&guest, ListenSpec::tcp("localhost", listener.port())).await;
    assert_eq!((kind, text.as_str()), (NetworkFailure::AddressInUse, "Address already in use"));
    let (kind, _) = failure(&guest, ListenSpec::tcp("192.0.2.1", 0)).await;
    assert_eq!(kind, NetworkFailure::NoRoute);
    let error = guest.listen(ListenSpec::tcp("example.org", 0)).await.err().unwrap();
    assert_eq!(error.open_failure(), OpenFailure::Prohibited);
});

each_way!(a_socket_replaces_another_only_when_asked, async |guest: Guest| {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let spec = |unlink| {
        let address =
            ListenAddress::Unix { path: path.as_os_str().as_encoded_bytes().to_vec(), mask: 0o177, unlink };
        ListenSpec { user: None, address, backlog: 0 }
    };
    drop(UnixListener::bind(&path).unwrap());
    assert_eq!(failure(&guest, spec(false)).await.0, NetworkFailure::AddressInUse);
    let mut listener = guest.listen(spec(true)).await.unwrap();
    assert_eq!(listener.path(), path.as_os_str().as_encoded_bytes());
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    talk(&mut listener, UnixStream::connect(&path).unwrap()).await;
    drop(listener);
    eventually("the socket is removed", || !path.exists()).await;
    // What somebody else has put in its place stays.
    let listener = guest.listen(spec(false)).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "mine").unwrap();
    drop(listener);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
});

each_way!(the_longest_path_is_usable, async |guest: Guest| {
    let dir = tempfile::tempdir().unwrap();
    let mut path = dir.path().join("s").as_os_str().as_encoded_bytes().to_vec();
    path.resize(107, b'x');
    let mut listener = guest.listen(ListenSpec::unix(path.clone())).await.unwrap();
    assert_eq!(listener.path(), path);
    let path = PathBuf::from(String::from_utf8(path).unwrap());
    let client = UnixStream::connect(&path).unwrap();
    talk(&mut listener, client).await;
    drop(listener);
    eventually("the socket is removed", || !path.exists()).await;
});

each_way!(an_agent_socket_is_for_its_user_alone_and_goes_away, async |guest: Guest| {
    let users: &[&str] = if is_root("another user") { &["0", "4242:4343"] } else { &[] };
    for user in users {
        let spec = ListenSpec { user: Some(user.as_bytes().to_vec()), ..ListenSpec::agent_socket() };
        let mut listener = guest.listen(spec).await.unwrap();
        let path = PathBuf::from(String::from_utf8(listener.path().to_vec()).unwrap());
        let dir = path.parent().unwrap().to_owned();
        assert!(path.starts_with("/tmp"), "{path:?}");
        let name = dir.file_name().unwrap().to_str().unwrap().strip_prefix("ssh-").unwrap();
        assert_eq!(name.len(), 10);
        assert!(path.file_name().unwrap().to_str().unwrap().starts_with("agent."));
        let uid: u32 = user.split(':').next().unwrap().parse().unwrap();
        for (path, mode) in [(&dir, 0o700), (&path, 0o600)] {
            let stat = std::fs::metadata(path).unwrap();
            assert_eq!((stat.uid(), stat.mode() & 0o7777), (uid, mode), "{path:?}");
        }
        for _ in 0..20 {
            talk(&mut listener, UnixStream::connect(&path).unwrap()).await;
        }
        drop(listener);
        eventually("socket and directory are removed", || !dir.exists()).await;
    }
});

each_way!(the_65th_connection_waits_and_is_not_refused, async |guest: Guest| {
    let mut listener = guest.listen(ListenSpec::tcp("127.0.0.1", 0)).await.unwrap();
    let port = listener.port();
    let clients: Vec<_> = (0..80).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    let mut incoming = Vec::new();
    for _ in 0..64 {
        incoming.push(next(&mut listener).await);
    }
    let more = tokio::time::timeout(Duration::from_millis(300), listener.accept()).await;
    assert!(more.is_err(), "the 65th must wait");
    // Each that is taken or refused makes room for another.
    let first = incoming.remove(0).accept().await.unwrap();
    incoming.push(next(&mut listener).await);
    drop(incoming.remove(0));
    incoming.push(next(&mut listener).await);
    assert!(tokio::time::timeout(Duration::from_millis(300), listener.accept()).await.is_err());
    drop((first, clients));
});

each_way!(a_refused_connection_is_closed_at_once, async |guest: Guest| {
    let mut listener = guest.listen(ListenSpec::tcp("127.0.0.1", 0)).await.unwrap();
    let mut client = TcpStream::connect(("127.0.0.1", listener.port())).unwrap();
    drop(next(&mut listener).await);
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let end = tokio::task::spawn_blocking(move || client.read(&mut [0; 10]));
    assert_eq!(end.await.unwrap().unwrap(), 0);
});

each_way!(the_end_of_a_listener_spares_what_was_accepted, async |guest: Guest| {
    let mut listener = guest.listen(ListenSpec::tcp("127.0.0.1", 0)).await.unwrap();
    let port = listener.port();
    let mut taken_client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let taken = next(&mut listener).await.accept().await.unwrap();
    let mut late_client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let late = next(&mut listener).await;
    drop(listener);
    late_client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let end = tokio::task::spawn_blocking(move || late_client.read(&mut [0; 10]));
    assert_eq!(end.await.unwrap().unwrap_or(0), 0);
    let error = late.accept().await.err().expect("too late");
    assert!(
        matches!(error, GuestError::Network { kind: NetworkFailure::NotWaiting, .. }),
        "accept after close: {error:?}"
    );
    let (mut input, mut output) = taken.split();
    input.write_all(b"still here").await.unwrap();
    input.shutdown().await.unwrap();
    let answer = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        taken_client.read_to_string(&mut text).unwrap();
        taken_client.write_all(b"me too").unwrap();
        text
    });
    assert_eq!(answer.await.unwrap(), "still here");
    assert_eq!(read_all(&mut output).await.unwrap(), b"me too");
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_nobody_takes_is_closed_after_a_while() {
    let agent = Agent::start();
    let mut listener = agent.guest().listen(ListenSpec::tcp("127.0.0.1", 0)).await.unwrap();
    let mut client = TcpStream::connect(("127.0.0.1", listener.port())).unwrap();
    let incoming = next(&mut listener).await;
    client.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    let start = std::time::Instant::now();
    let end = tokio::task::spawn_blocking(move || client.read(&mut [0; 10]));
    assert_eq!(end.await.unwrap().unwrap(), 0);
    assert!(start.elapsed() > Duration::from_secs(28), "{:?}", start.elapsed());
    assert!(incoming.accept().await.is_err());
    // The listener lives on.
    let client = TcpStream::connect(("127.0.0.1", listener.port())).unwrap();
    talk(&mut listener, client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_has_the_rights_of_its_user() {
    if !is_root("another user") {
        return;
    }
    let agent = Agent::start();
    let guest = agent.guest();
    let as_user = |spec: ListenSpec| ListenSpec { user: Some(b"4242:4343".to_vec()), ..spec };
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if text.trim() != "0" {
        let (kind, text) = failure(&guest, as_user(ListenSpec::tcp("127.0.0.1", 23))).await;
        assert_eq!((kind, text.as_str()), (NetworkFailure::AccessDenied, "Permission denied"));
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let path = dir.path().join("s");
    let bytes = path.as_os_str().as_encoded_bytes();
    assert_eq!(failure(&guest, as_user(ListenSpec::unix(bytes))).await.0, NetworkFailure::AccessDenied);
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let mut spec = as_user(ListenSpec::unix(bytes));
    let listener = guest.listen(spec.clone()).await.unwrap();
    let stat = std::fs::metadata(&path).unwrap();
    assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777), (4242, 4343, 0o600));
    drop(listener);
    eventually("the socket is removed", || !Path::new(&path).exists()).await;
    spec.address = ListenAddress::Unix { path: bytes.to_vec(), mask: 0o111, unlink: true };
    let _listener = guest.listen(spec).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o666);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_leaks_over_many_listeners_and_connections() {
    let agent = Agent::start();
    let guests = [agent.guest(), agent.framed()];
    drop(guests[0].listen(ListenSpec::agent_socket()).await.unwrap());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = agent.open_fds();
    for round in 0..100 {
        let mut listener = guests[round % 2].listen(ListenSpec::agent_socket()).await.unwrap();
        let path = PathBuf::from(String::from_utf8(listener.path().to_vec()).unwrap());
        let clients: Vec<_> = (0..5).map(|_| UnixStream::connect(&path).unwrap()).collect();
        let mut taken = Vec::new();
        for i in 0..5 {
            let incoming = next(&mut listener).await;
            if i < 3 {
                taken.push(incoming.accept().await.unwrap());
            }
        }
        drop((listener, clients, taken));
    }
    eventually("descriptors are back", || agent.open_fds() <= before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_told_to_stop_removes_its_sockets() {
    let mut agent = Agent::start();
    let mut listener = agent.guest().listen(ListenSpec::agent_socket()).await.unwrap();
    let path = PathBuf::from(String::from_utf8(listener.path().to_vec()).unwrap());
    let pid = rustix::process::Pid::from_child(&agent.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = tokio::task::spawn_blocking(move || agent.child.wait().unwrap()).await.unwrap();
    assert!(status.success());
    assert!(!path.parent().unwrap().exists());
    assert!(matches!(listener.accept().await, Err(GuestError::SandboxGone | GuestError::LinkLost)));
}
