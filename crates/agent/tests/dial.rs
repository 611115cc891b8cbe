//! Connections that the agent makes in the guest, on passed pipes, in frames, and over one shared pipe.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

#[macro_use]
mod common;

use std::hash::Hasher;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use common::*;
use sandgate_guest::{Connection, ConnectionReady, DialSpec, Guest, GuestError, NetworkFailure, OpenFailure};

/// A server that treats each connection in a thread of its own.
fn server(act: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let act = act.clone();
            std::thread::spawn(move || act(stream));
        }
    });
    port
}

/// Copies everything back; ends when the client has.
fn echo(mut stream: TcpStream) {
    let mut from = stream.try_clone().unwrap();
    let _ = std::io::copy(&mut from, &mut stream);
    let _ = stream.shutdown(Shutdown::Write);
}

async fn failure(guest: &Guest, spec: DialSpec) -> (NetworkFailure, String) {
    match guest.dial(spec).await.err().expect("an error") {
        GuestError::Network { kind, text } => (kind, text),
        other => panic!("{other:?}"),
    }
}

each_way!(a_refused_port_is_told, async |guest: Guest| {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for host in ["127.0.0.1", "localhost"] {
        let start = Instant::now();
        let (kind, text) = failure(&guest, DialSpec::tcp(host, port)).await;
        assert_eq!((kind, text.as_str()), (NetworkFailure::Refused, "Connection refused"));
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    let error = guest.dial(DialSpec::tcp("127.0.0.1", port)).await.err().unwrap();
    assert_eq!(error.open_failure(), OpenFailure::ConnectFailed);
});

each_way!(a_missing_socket_is_told, async |guest: Guest| {
    let (kind, text) = failure(&guest, DialSpec::unix("/no/such/socket")).await;
    assert_eq!((kind, text.as_str()), (NetworkFailure::NotFound, "No such file or directory"));
    let (kind, _) = failure(&guest, DialSpec::unix("/etc/passwd")).await;
    assert_eq!(kind, NetworkFailure::Refused);
    let error = guest.dial(DialSpec::unix([b'/'; 108])).await.err().unwrap();
    assert!(error.to_string().contains("too long"), "{error}");
    let spec = DialSpec { user: Some(b"no-such-user".to_vec()), ..DialSpec::tcp("127.0.0.1", 1) };
    assert_eq!(guest.dial(spec).await.err().unwrap().open_failure(), OpenFailure::Prohibited);
});

each_way!(a_megabyte_goes_there_and_back, async |guest: Guest| {
    let port = server(echo);
    let data = pattern(1 << 20);
    for host in ["127.0.0.1", "localhost"] {
        let (input, mut output) = guest.dial(DialSpec::tcp(host, port)).await.unwrap().split();
        let writer = tokio::spawn(feed(input, data.clone()));
        assert!(read_all(&mut output).await.unwrap() == data);
        writer.await.unwrap();
    }
});

each_way!(the_client_may_end_its_direction_first, async |guest: Guest| {
    // The server answers only when it has seen the end.
    let port = server(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
    });
    let data = pattern(1 << 20);
    let (input, mut output) = guest.dial(DialSpec::tcp("127.0.0.1", port)).await.unwrap().split();
    feed(input, data.clone()).await;
    assert!(read_all(&mut output).await.unwrap() == data);
});

each_way!(the_server_may_end_its_direction_first, async |guest: Guest| {
    let (send, receive) = std::sync::mpsc::channel();
    let port = server(move |mut stream| {
        stream.write_all(&pattern(1 << 20)).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        send.send(all).unwrap();
    });
    let Connection { input, mut output } = guest.dial(DialSpec::tcp("127.0.0.1", port)).await.unwrap();
    let data = pattern(1 << 20);
    assert!(read_all(&mut output).await.unwrap() == data);
    tokio::time::sleep(Duration::from_millis(100)).await;
    feed(input, data.clone()).await;
    let got = tokio::task::spawn_blocking(move || receive.recv_timeout(Duration::from_secs(10)));
    assert!(got.await.unwrap().unwrap() == data);
});

each_way!(an_end_before_any_data_is_passed_on, async |guest: Guest| {
    let port = server(|mut stream| {
        assert_eq!(stream.read(&mut [0; 10]).unwrap(), 0);
        stream.write_all(b"bye").unwrap();
    });
    let Connection { mut input, mut output } = guest.dial(DialSpec::tcp("127.0.0.1", port)).await.unwrap();
    input.shutdown().await.unwrap();
    assert_eq!(read_all(&mut output).await.unwrap(), b"bye");
    // Both have ended, and asking again changes nothing.
    assert!(matches!(output.ready().await, ConnectionReady::End));
});

each_way!(a_reset_is_no_end, async |guest: Guest| {
    let port = server(|stream| {
        // A close with unread data is a reset.
        stream.peek(&mut [0]).unwrap();
    });
    let Connection { mut input, mut output } = guest.dial(DialSpec::tcp("127.0.0.1", port)).await.unwrap();
    input.write_all(&[1; 1000]).await.unwrap();
    let error = read_all(&mut output).await.expect_err("a reset");
    assert!(matches!(error, GuestError::Reset), "{error:?}");
});

each_way!(a_server_that_goes_away_is_noticed_by_the_writer, async |guest: Guest| {
    let port = server(|mut stream| {
        let _ = stream.read(&mut [0; 10]);
    });
    let mut connection = guest.dial(DialSpec::tcp("127.0.0.1", port)).await.unwrap();
    let writing = async {
        loop {
            if let Err(e) = connection.input.write_all(&[0; 65536]).await {
                return e;
            }
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(10), writing).await.expect("told");
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
});

each_way!(dropping_closes_the_connection, async |guest: Guest| {
    let (send, receive) = std::sync::mpsc::channel();
    let port = server(move |mut stream| {
        let n = stream.read(&mut [0; 10]).unwrap_or(0);
        send.send(n).unwrap();
    });
    drop(guest.dial(DialSpec::tcp("127.0.0.1", port)).await.unwrap());
    let got = tokio::task::spawn_blocking(move || receive.recv_timeout(Duration::from_secs(10)));
    assert_eq!(got.await.unwrap(), Ok(0));
});

each_way!(a_slow_reader_holds_the_sender_back, async |guest: Guest| {
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&sent);
    let port = server(move |mut stream| {
        let chunk = vec![7; 65536];
        while stream.write_all(&chunk).is_ok() {
            count.fetch_add(chunk.len(), std::sync::atomic::Ordering::Relaxed);
        }
    });
    let connection = guest.dial(DialSpec::tcp("127.0.0.1", port)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    let before = sent.load(std::sync::atomic::Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(sent.load(std::sync::atomic::Ordering::Relaxed), before, "it must be waiting by now");
    drop(connection);
});

each_way!(a_hundred_megabytes_arrive_unchanged_each_way, async |guest: Guest| {
    const ROUNDS: usize = 100;
    let hash = |chunks: &mut dyn Iterator<Item = Vec<u8>>| {
        let mut hasher = std::hash::DefaultHasher::new();
        chunks.for_each(|c| c.iter().for_each(|b| hasher.write_u8(*b)));
        hasher.finish()
    };
    let chunk = |i: usize| {
        let mut chunk = pattern(1 << 20);
        chunk[0] = u8::try_from(i).unwrap();
        chunk
    };
    let want = hash(&mut (0..ROUNDS).map(chunk));
    let (send, receive) = std::sync::mpsc::channel();
    let port = server(move |mut stream| {
        let mut from = stream.try_clone().unwrap();
        let send = send.clone();
        let reader = std::thread::spawn(move || {
            let mut hasher = std::hash::DefaultHasher::new();
            let mut buf = vec![0; 1 << 18];
            loop {
                match from.read(&mut buf).unwrap() {
                    0 => break,
                    n => buf[..n].iter().for_each(|b| hasher.write_u8(*b)),
                }
            }
            send.send(hasher.finish()).unwrap();
        });
        (0..ROUNDS).for_each(|i| stream.write_all(&chunk(i)).unwrap());
        stream.shutdown(Shutdown::Write).unwrap();
        reader.join().unwrap();
    });
    let (mut input, mut output) = guest.dial(DialSpec::tcp("127.0.0.1", port)).await.unwrap().split();
    let writer = tokio::spawn(async move {
        for i in 0..ROUNDS {
            input.write_all(&chunk(i)).await.unwrap();
        }
        input.shutdown().await.unwrap();
    });
    let mut hasher = std::hash::DefaultHasher::new();
    read_with(&mut output, |chunk| chunk.iter().for_each(|b| hasher.write_u8(*b))).await.unwrap();
    assert_eq!(hasher.finish(), want);
    writer.await.unwrap();
    let got = tokio::task::spawn_blocking(move || receive.recv_timeout(Duration::from_secs(30)));
    assert_eq!(got.await.unwrap(), Ok(want));
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipes_are_used_where_they_can_be_passed() {
    let port = server(echo);
    let agent = Agent::start();
    let spec = DialSpec::tcp("127.0.0.1", port);
    assert!(agent.guest().dial(spec.clone()).await.unwrap().output.is_passed());
    assert!(!agent.framed().dial(spec.clone()).await.unwrap().output.is_passed());
    let (_child, guest) = stdio_agent();
    assert!(!guest.dial(spec).await.unwrap().output.is_passed());
}

/// The agent only says when; the kernel moves the bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_costs_nothing_even_when_nobody_reads() {
    let port = server(|mut stream| {
        // Fills everything on the way and ends its direction: a state that must not spin.
        let _ = stream.write_all(&vec![1; 8 << 20]);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read(&mut [0]);
    });
    let small = server(|mut stream| {
        let _ = stream.write_all(&vec![1; 300 << 10]);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read(&mut [0]);
    });
    let agent = Agent::start();
    for guest in [agent.guest(), agent.framed()] {
        let mut held = Vec::new();
        for port in [port, small] {
            held.push(guest.dial(DialSpec::tcp("127.0.0.1", port)).await.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = cpu_ticks(agent.child.id());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let used = cpu_ticks(agent.child.id()) - before;
        assert!(used <= 2, "{used} ticks in a second without any traffic");
    }
}

/// User and system time, in hundredths of a second.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_at_once() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    if limit.maximum.is_some_and(|max| max < 10_000) {
        eprintln!("skipped: needs 10000 descriptors");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("echo");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    let agent = Agent::start();
    let (_child, shared) = stdio_agent();
    let before = agent.open_fds();
    for guest in [agent.guest(), agent.framed(), shared] {
        let dials = (0..1000).map(|_| {
            let (guest, spec) = (guest.clone(), DialSpec::unix(path.as_os_str().as_encoded_bytes()));
            tokio::spawn(async move { guest.dial(spec).await.unwrap() })
        });
        let mut held = Vec::new();
        for dial in dials.collect::<Vec<_>>() {
            held.push(dial.await.unwrap());
        }
        let talks = held.into_iter().enumerate().map(|(i, connection)| {
            tokio::spawn(async move {
                let (input, mut output) = connection.split();
                let data = pattern(5000 + i);
                let writer = tokio::spawn(feed(input, data.clone()));
                assert!(read_all(&mut output).await.unwrap() == data);
                writer.await.unwrap();
            })
        });
        for talk in talks.collect::<Vec<_>>() {
            talk.await.unwrap();
        }
    }
    eventually("descriptors are back", || agent.open_fds() <= before).await;
    assert!(agent.rss() < 12 * 1024, "{} KiB resident", agent.rss());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_dies_leaves_nothing_behind() {
    use sandgate_wire::frame::{Header, Kind};
    use sandgate_wire::message::{Address, Dial, Hello, Listen, ListenAddress, Open};
    let port = server(|mut stream| drop(stream.read_to_end(&mut Vec::new())));
    let agent = Agent::start();
    // The first one brings what is kept for good.
    drop(agent.framed().dial(DialSpec::tcp("127.0.0.1", port)).await.unwrap());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = agent.open_fds();
    let address = |host: &str| Address::Tcp { host: host.into(), port };
    let dial = |address| Open::Dial(Dial { passed_stdio: false, user: None, address });
    let listen = Open::Listen(Listen { user: None, address: ListenAddress::AgentSocket, backlog: 0 });
    let requests = [dial(address("127.0.0.1")), dial(address("no-such-name.invalid")), listen];
    let frame = |stream: u32, kind: Kind, payload: &[u8]| {
        [&Header { stream, kind, len: payload.len() }.encode()[..], payload].concat()
    };
    for i in 0..60 {
        let mut link = UnixStream::connect(&agent.socket).unwrap();
        let open = frame(1, Kind::Open, &requests[i % 3].encode().unwrap());
        let first = [frame(0, Kind::Hello, &Hello::new("test", 0).encode()), open].concat();
        link.write_all(&first).unwrap();
        if i % 2 == 0 {
            let _ = link.read(&mut [0; 200]);
        }
        // No Close: as if the host had been killed.
    }
    eventually("descriptors and children are back", || agent.open_fds() <= before && agent.children() == 0)
        .await;
    let pid = agent.child.id();
    let left = std::fs::read_dir("/tmp").unwrap().flatten().filter(|entry| {
        entry.file_name().as_encoded_bytes().starts_with(b"ssh-")
            && entry.path().join(format!("agent.{pid}")).exists()
    });
    assert_eq!(left.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_resolve_inside_the_guest() {
    if !is_root("a network namespace") {
        return;
    }
    let hosts = "127.0.0.1 localhost\n10.9.9.9 twice\n127.0.0.1 twice\n127.0.0.1 here.test\n";
    let agent = Agent::start_in_a_box(hosts);
    for guest in [agent.guest(), agent.framed()] {
        // Something to connect to in there.
        let mut listener = guest.listen(sandgate_guest::ListenSpec::tcp("127.0.0.1", 0)).await.unwrap();
        let port = listener.port();
        for name in ["here.test", "HERE.test", "twice"] {
            let dialed = guest.dial(DialSpec::tcp(name, port)).await;
            let dialed = dialed.unwrap_or_else(|e| panic!("{name}: {e}"));
            let taken = listener.accept().await.unwrap().accept().await.unwrap();
            let (mut input, _output) = taken.split();
            input.write_all(name.as_bytes()).await.unwrap();
            input.shutdown().await.unwrap();
            let (_input, mut output) = dialed.split();
            assert_eq!(read_all(&mut output).await.unwrap(), name.as_bytes());
        }
        // Many names at once: more than there may be resolvers.
        let many = (0..60).map(|i| {
            let (guest, host) = (guest.clone(), format!("none{i}.invalid"));
            tokio::spawn(async move { failure(&guest, DialSpec::tcp(host, 1)).await })
        });
        for result in many.collect::<Vec<_>>() {
            let (kind, text) = result.await.unwrap();
            assert_eq!(kind, NetworkFailure::NameNotFound);
            assert!(text.contains("name resolution") || text.contains("not known"), "{text}");
        }
        let (kind, text) = failure(&guest, DialSpec::tcp("10.1.2.3", 80)).await;
        assert_eq!((kind, text.as_str()), (NetworkFailure::NoRoute, "Network is unreachable"));
        let (kind, _) = failure(&guest, DialSpec::tcp(&b"\xff\xfe"[..], 80)).await;
        assert_eq!(kind, NetworkFailure::NameNotFound);
    }
    eventually("no resolver is left", || agent.children() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_does_not_answer_times_out() {
    // A queue of one that is full: further requests to connect are not answered.
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None);
    let socket = socket.unwrap();
    rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let address = SocketAddr::try_from(rustix::net::getsockname(&socket).unwrap()).unwrap();
    let mut fill = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        fill.push(stream);
    }
    let agent = Agent::start();
    let start = Instant::now();
    let (kind, text) = failure(&agent.guest(), DialSpec::tcp("127.0.0.1", address.port())).await;
    assert_eq!((kind, text.as_str()), (NetworkFailure::TimedOut, "Connection timed out"));
    let took = start.elapsed();
    assert!((Duration::from_secs(29)..Duration::from_secs(34)).contains(&took), "{took:?}");
    // Others were served meanwhile: it is one of many in the loop.
    assert_eq!(run(&agent.guest(), command("exit 3")).await.code(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_whose_queue_is_full_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let _held = UnixStream::connect(&path).unwrap();
    let agent = Agent::start();
    let (guest, spec) = (agent.guest(), DialSpec::unix(path.as_os_str().as_encoded_bytes()));
    let dial = tokio::spawn(async move { guest.dial(spec).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!dial.is_finished());
    let listener = UnixListener::from(socket);
    drop(listener.accept().unwrap());
    let connection = tokio::time::timeout(Duration::from_secs(5), dial).await.unwrap().unwrap().unwrap();
    drop((connection, listener));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_side_sees_the_login_user() {
    if !is_root("another user") {
        return;
    }
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mode = |path: &std::path::Path, mode: u32| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    let (open, closed) = (dir.path().join("open"), dir.path().join("closed"));
    let listener = UnixListener::bind(&open).unwrap();
    mode(&open, 0o777);
    let _closed_listener = UnixListener::bind(&closed).unwrap();
    mode(&closed, 0o600);
    let agent = Agent::start();
    let spec = |path: &std::path::Path| DialSpec {
        user: Some(b"4242:4343".to_vec()),
        ..DialSpec::unix(path.as_os_str().as_encoded_bytes())
    };
    for guest in [agent.guest(), agent.framed()] {
        let _connection = guest.dial(spec(&open)).await.unwrap();
        let (stream, _) = listener.accept().unwrap();
        let peer = rustix::net::sockopt::socket_peercred(&stream).unwrap();
        assert_eq!((peer.uid.as_raw(), peer.gid.as_raw()), (4242, 4343));
        let (kind, text) = failure(&guest, spec(&closed)).await;
        assert_eq!((kind, text.as_str()), (NetworkFailure::AccessDenied, "Permission denied"));
        // And the agent itself is root again.
        assert_eq!(run(&guest, command("id -u")).await.text(), "0\n");
    }
}
