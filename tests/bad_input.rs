//! Bad input from the network: the server ends that connection alone, with a reason where the protocol has room for one, keeps
//! its memory bounded, and lets an honest client in meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sandgate_tests::client;
use sandgate_tests::process::{peak, resident};
use sandgate_tests::raw::codec::{self, Reader, Writer};
use sandgate_tests::raw::{Client, Damage};
use sandgate_tests::{Feed, Kind, Options, Target, data, run};

/// A bad connection is ended within this.
const SOON: Duration = Duration::from_secs(10);
/// What the gateway may grow by at its highest while it is being maltreated: the bound that SECURITY.md states.
const GROWTH: u64 = 96 << 20;
/// How long an honest client may take, whatever the others do.
const HONEST: Duration = Duration::from_secs(1);

/// An honest client that keeps coming from another source address while a test maltreats the server, beside the server's memory.
struct Meanwhile {
    pid: u32,
    before: u64,
    stop: Arc<AtomicBool>,
    client: JoinHandle<Vec<Duration>>,
}

impl Meanwhile {
    /// Begins; the stock client logs in, runs a command and leaves, again and again.
    fn begin(target: &Target) -> Self {
        let (config, stop) = (target.dir().join("ssh_config"), Arc::new(AtomicBool::new(false)));
        target.exec("true").ok();
        let before = resident(target.pid());
        let told = Arc::clone(&stop);
        let client = std::thread::spawn(move || {
            let mut times = Vec::new();
            while !told.load(Ordering::Relaxed) || times.len() < 3 {
                let mut command = client::ssh(&config);
                let output = run(command.args(["-b", "127.0.0.9", "box", "echo in"]), Feed::Null, SOON);
                assert_eq!(output.ok(), "in");
                times.push(output.took);
                std::thread::sleep(Duration::from_millis(50));
            }
            times
        });
        Self { pid: target.pid(), before, stop, client }
    }

    /// Ends: every visit of the honest client was short, and the server's memory stayed below its bound all the time.
    #[track_caller]
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let times = self.client.join().expect("the honest client gets in");
        let mut sorted = times.clone();
        sorted.sort();
        // One visit in ten may meet a moment in which the machine did something else.
        let (most, longest) = (sorted[(sorted.len() * 9).div_ceil(10) - 1], sorted[sorted.len() - 1]);
        assert!(most < HONEST && longest < 3 * HONEST, "an honest client had to wait: {times:?}");
        let grown = peak(self.pid).saturating_sub(self.before);
        assert!(grown < GROWTH, "grew by {grown}");
    }
}

/// Asserts that the gateway gave a reason for the end of a connection (RFC 4253 section 11.1). sshd need not.
#[track_caller]
fn with_a_reason(target: &Target, what: &str, end: &str) {
    assert!(target.kind() == Kind::Sshd || end.starts_with("disconnect "), "{what}: no reason, just {end}");
}

/// Reads until the server closes; what it said until then.
fn until_closed(mut stream: &TcpStream, patience: Duration) -> Result<Vec<u8>, String> {
    stream.set_read_timeout(Some(patience)).unwrap();
    let (mut all, mut chunk) = (Vec::new(), [0; 4096]);
    let end = Instant::now() + patience;
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(all),
            Ok(count) => all.extend_from_slice(&chunk[..count]),
            Err(err) if err.kind() == std::io::ErrorKind::ConnectionReset => return Ok(all),
            Err(err) => return Err(format!("still open after {patience:?}: {err}")),
        }
        if Instant::now() > end {
            return Err("the server keeps talking".into());
        }
    }
}

#[test]
fn timed_random_bytes_instead_of_a_banner() {
    let target = Target::start();
    let meanwhile = Meanwhile::begin(&target);
    let mut spoken = 0;
    for seed in 0..40 {
        let mut stream = TcpStream::connect(("127.0.0.1", target.port)).unwrap();
        // A reset while we still write is a fine answer.
        let _ = stream.write_all(&data::random(seed, 8192));
        let _ = stream.write_all(b"\r\n");
        let said = until_closed(&stream, SOON).unwrap_or_else(|err| panic!("seed {seed}: {err}"));
        spoken += usize::from(String::from_utf8_lossy(&said).contains("Invalid SSH identification string"));
    }
    assert_eq!(spoken, 40, "a reason was not given, or lost to a reset");
    meanwhile.end();
}

#[test]
fn timed_banners_that_are_none() {
    let target = Target::start();
    let meanwhile = Meanwhile::begin(&target);
    let long = format!("SSH-2.0-{}\r\n", "a".repeat(20_000));
    let endless = "b".repeat(200_000);
    let lines = [
        "SSH-1.5-old\r\n",
        "SSH-9.9-new\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "SSH-2.0\r\n",
        &long,
        &endless,
    ];
    for line in lines {
        let mut stream = TcpStream::connect(("127.0.0.1", target.port)).unwrap();
        let _ = stream.write_all(line.as_bytes());
        let said = until_closed(&stream, SOON)
            .unwrap_or_else(|err| panic!("{:?}: {err}", &line[..line.len().min(20)]));
        assert!(said.len() < 4096, "a long answer to {:?}", &line[..line.len().min(20)]);
    }
    meanwhile.end();
}

#[test]
fn timed_random_bytes_after_the_banner() {
    let target = Target::start();
    let meanwhile = Meanwhile::begin(&target);
    for seed in 0..40 {
        let mut client = Client::dial(target.port).unwrap();
        client.banners().unwrap();
        let _ = client.write_raw(&data::random(100 + seed, 70_000));
        let said = client.wait_for_end(SOON).unwrap_or_else(|err| panic!("seed {seed}: {err}"));
        with_a_reason(&target, &format!("seed {seed}"), &said);
    }
    meanwhile.end();
}

#[test]
fn timed_packets_with_a_wrong_length_or_mac() {
    let target = Target::start();
    let meanwhile = Meanwhile::begin(&target);
    let damages = [
        Damage::Tag,
        Damage::Padding(255),
        Damage::Padding(0),
        Damage::Length(0),
        Damage::Length(1),
        Damage::Length(17),
        Damage::Length(1 << 20),
        Damage::Length(u32::MAX),
    ];
    let mut bystander = Client::login(&target);
    for damage in damages {
        let mut client = Client::login(&target);
        let ignore = Writer::new(codec::IGNORE).string("0123456789").done();
        client.send_damaged(&ignore, damage).unwrap();
        // A length that is merely too small looks like a short packet: the bytes after it tell.
        let _ = client.write_raw(&[0; 4096]);
        let end = client.wait_for_end(SOON).unwrap_or_else(|err| panic!("{damage:?}: {err}"));
        with_a_reason(&target, &format!("{damage:?}"), &end);
    }
    // Before any key: the same fields in the clear.
    for damage in [
        Damage::Length(0),
        Damage::Length(3),
        Damage::Length(1 << 30),
        Damage::Padding(255),
        Damage::Padding(1),
    ] {
        let mut client = Client::dial(target.port).unwrap();
        client.banners().unwrap();
        client.send_damaged(&Writer::new(codec::IGNORE).string("").done(), damage).unwrap();
        let _ = client.write_raw(&[0; 4096]);
        let end = client.wait_for_end(SOON).unwrap_or_else(|err| panic!("{damage:?} in the clear: {err}"));
        with_a_reason(&target, &format!("{damage:?} in the clear"), &end);
    }
    let channel = bystander.exec("echo fine").unwrap();
    assert_eq!(bystander.finish(channel).unwrap().stdout, b"fine\n");
    meanwhile.end();
}

/// Asserts that the server either ends the connection or says that it does not know such a message, and grants nothing.
#[track_caller]
fn not_granted(client: &mut Client, what: &str) {
    client.patience = SOON;
    match client.receive() {
        Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => panic!("{what}: no answer at all"),
        Err(_) => {}
        Ok(message) => assert_eq!(message[0], codec::UNIMPLEMENTED, "{what}: message {}", message[0]),
    }
}

#[test]
fn timed_messages_before_their_time() {
    let target = Target::start();
    let meanwhile = Meanwhile::begin(&target);
    let open = Writer::new(codec::CHANNEL_OPEN).string("session").u32(0).u32(65536).u32(32768).done();
    let service = |name: &str| Writer::new(codec::SERVICE_REQUEST).string(name).done();
    let cases: [(&str, Vec<Vec<u8>>); 6] = [
        ("a channel without a login", vec![open.clone()]),
        ("the connection service without a login", vec![service("ssh-connection")]),
        ("an unknown service", vec![service("no-such-service")]),
        ("a channel between service and login", vec![service("ssh-userauth"), open.clone()]),
        ("new keys out of the blue", vec![vec![codec::NEWKEYS]]),
        ("a key exchange reply from a client", vec![Writer::new(codec::ECDH_REPLY).string("x").done()]),
    ];
    for (what, messages) in cases {
        let mut client = Client::connect(target.port).unwrap();
        for message in messages {
            client.send(&message).unwrap();
            if message[0] == codec::SERVICE_REQUEST && what.starts_with("a channel") {
                assert_eq!(client.receive().unwrap()[0], codec::SERVICE_ACCEPT);
            }
        }
        not_granted(&mut client, what);
    }
    // In the clear, before any key exchange.
    for message in [service("ssh-userauth"), open] {
        let mut client = Client::dial(target.port).unwrap();
        client.banners().unwrap();
        client.send(&message).unwrap();
        not_granted(&mut client, "a message before the key exchange");
    }
    meanwhile.end();
}

/// After the login: what breaks the protocol ends the connection with a reason, what is merely odd does not.
#[test]
fn timed_channel_messages_out_of_order() {
    let target = Target::start();
    let meanwhile = Meanwhile::begin(&target);
    let data_for = |number: u32| Writer::new(codec::CHANNEL_DATA).u32(number).string("x").done();
    let bad = [
        ("data for no channel", data_for(77)),
        ("close of no channel", Writer::new(codec::CHANNEL_CLOSE).u32(77).done()),
        ("a truncated open", Writer::new(codec::CHANNEL_OPEN).string("session").u32(1).done()),
        ("a string longer than its message", Writer::new(codec::CHANNEL_OPEN).u32(0xffff_fff0).done()),
    ];
    for (what, message) in bad {
        let mut client = Client::login(&target);
        client.send(&message).unwrap();
        let end = client.wait_for_end(SOON).unwrap_or_else(|err| panic!("{what}: {err}"));
        with_a_reason(&target, what, &end);
    }
    let mut client = Client::login(&target);
    client
        .send(
            &Writer::new(codec::USERAUTH_REQUEST).string("x").string("ssh-connection").string("none").done(),
        )
        .unwrap();
    // Nobody is hurt by window for a channel that has gone, and it may cross with the close.
    client.send(&Writer::new(codec::CHANNEL_WINDOW_ADJUST).u32(77).u32(1).done()).unwrap();
    let channel = client.open_session().expect("a late login attempt is ignored, RFC 4252 section 5.3");
    assert!(client.request(channel, "exec", &Writer::default().string("cat; echo end").done()).unwrap());
    client.eof(channel).unwrap();
    client.eof(channel).unwrap();
    assert_eq!(client.finish(channel).unwrap().stdout, b"end\n");
    meanwhile.end();
}

#[test]
fn timed_a_window_that_is_overrun() {
    let target = Target::start();
    let meanwhile = Meanwhile::begin(&target);
    let mut bystander = Client::login(&target);
    let mut client = Client::login(&target);
    let channel = client.exec("sleep 30").unwrap();
    let block = vec![b'x'; 16 * 1024];
    let mut sent = 0u64;
    let limit = u64::from(channel.window) * 2 + (16 << 20);
    let mut cut = false;
    while sent < limit && !cut {
        cut = client.data(channel, &block).is_err();
        sent += block.len() as u64;
    }
    // sshd 9.2 throws the excess away and goes on; here it is a protocol error.
    if target.kind() == Kind::Gateway {
        let end = client.wait_for_end(SOON).expect("the connection ends");
        with_a_reason(&target, "an overrun", &end);
    }
    let channel = bystander.exec("echo fine").unwrap();
    assert_eq!(bystander.finish(channel).unwrap().stdout, b"fine\n");
    meanwhile.end();
}

#[test]
fn timed_ten_thousand_channels() {
    let target = Target::start();
    let mut client = Client::login(&target);
    let meanwhile = Meanwhile::begin(&target);
    let (mut opened, mut refused) = (0, 0);
    for batch in 0..100u32 {
        let mut bytes = Vec::new();
        for number in batch * 100..(batch + 1) * 100 {
            let open = Writer::new(codec::CHANNEL_OPEN)
                .string("session")
                .u32(1000 + number)
                .u32(1 << 20)
                .u32(32768)
                .done();
            bytes.extend(client.pack(&open));
        }
        client.write_raw(&bytes).unwrap();
        for _ in 0..100 {
            let message = client.receive().expect("the connection lives");
            match message[0] {
                codec::CHANNEL_OPEN_CONFIRMATION => opened += 1,
                codec::CHANNEL_OPEN_FAILURE => {
                    refused += 1;
                    let mut reader = Reader::new(&message[5..]);
                    assert!(reader.u32().unwrap() > 0);
                    if target.kind() == Kind::Gateway {
                        let reason = reader.text().unwrap();
                        assert!(reason.chars().any(|it| it.is_ascii_digit()), "which limit? {reason:?}");
                    }
                }
                other => panic!("message {other}"),
            }
        }
    }
    assert!(opened >= 100 && refused > 0 && opened + refused == 10_000, "{opened} opened, {refused} refused");
    meanwhile.end();
}

/// A thousand that say nothing, and more that keep coming all the time.
#[test]
fn timed_a_thousand_half_open_connections() {
    let target = Target::start();
    let meanwhile = Meanwhile::begin(&target);
    let dial = || TcpStream::connect(("127.0.0.1", target.port)).ok();
    let mut held: VecDeque<TcpStream> = (0..1000).filter_map(|_| dial()).collect();
    assert!(held.len() > 900, "only {} could be made", held.len());
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        held.pop_front();
        held.extend(dial());
        std::thread::sleep(Duration::from_millis(2));
    }
    meanwhile.end();
    drop(held);
    Meanwhile::begin(&target).end();
}

#[test]
fn timed_slow_loris() {
    let target = Target::start_with(&Options { login_grace_seconds: Some(6), ..Options::default() });
    let meanwhile = Meanwhile::begin(&target);
    let start = Instant::now();
    let mut slow: Vec<TcpStream> =
        (0..60).map(|_| TcpStream::connect(("127.0.0.1", target.port)).unwrap()).collect();
    // Some stop after the banner, some in the middle of a packet, some go on for ever a byte at a time.
    let mut stalled: Vec<Client> = (0..10).map(|_| Client::connect(target.port).unwrap()).collect();
    for byte in "SSH-2.0-slow_".bytes().take(4) {
        slow.iter_mut().for_each(|stream| drop(stream.write_all(&[byte])));
        std::thread::sleep(Duration::from_millis(300));
    }
    // A session that has logged in is not subject to that deadline.
    let mut honest = Client::login(&target);
    while start.elapsed() < Duration::from_secs(10) {
        slow.iter_mut().for_each(|stream| drop(stream.write_all(b"x")));
        std::thread::sleep(Duration::from_millis(500));
    }
    for stream in &slow {
        until_closed(stream, Duration::from_secs(2)).expect("a slow banner is cut off");
    }
    for client in &mut stalled {
        client.wait_for_end(Duration::from_secs(2)).expect("a connection that never logs in is cut off");
    }
    let channel = honest.exec("echo fine").unwrap();
    assert_eq!(honest.finish(channel).unwrap().stdout, b"fine\n");
    meanwhile.end();
}

/// A client that asks for everything and reads nothing from its socket.
#[test]
fn timed_a_client_that_never_reads() {
    let target = Target::start();
    let mut client = Client::login(&target);
    let channel = client.open_channel("session", u32::MAX, 1 << 30, &[]).unwrap();
    assert!(client.request(channel, "exec", &Writer::default().string("cat /dev/zero").done()).unwrap());
    let before = resident(target.pid());
    let meanwhile = Meanwhile::begin(&target);
    // Each of these wants an answer; the answers have nowhere to go.
    let request = Writer::new(codec::GLOBAL_REQUEST).string("nonsense@example.org").byte(1).done();
    let mut flood = Vec::new();
    for _ in 0..20_000 {
        flood.extend(client.pack(&request));
    }
    let writer = std::thread::spawn(move || {
        // Blocks once every buffer on the way is full; the end of the test process ends it.
        let _ = client.write_raw(&flood);
        std::thread::sleep(Duration::from_secs(60));
    });
    std::thread::sleep(Duration::from_secs(4));
    meanwhile.end();
    let grown = resident(target.pid()).saturating_sub(before);
    assert!(grown < 32 << 20, "grew by {grown}");
    drop(writer);
}

#[test]
fn timed_huge_fields_in_a_login() {
    let target = Target::start();
    let meanwhile = Meanwhile::begin(&target);
    let big = "u".repeat(30_000);
    let mut client = Client::connect(target.port).unwrap();
    client.request_service("ssh-userauth").unwrap();
    for _ in 0..20 {
        let request =
            Writer::new(codec::USERAUTH_REQUEST).string(&big).string("ssh-connection").string("none").done();
        if client.send(&request).is_err() || client.receive().is_err() {
            break;
        }
    }
    let mut client = Client::connect(target.port).unwrap();
    client.request_service("ssh-userauth").unwrap();
    client.send(&Writer::new(codec::USERAUTH_REQUEST).u32(0xffff_ffff).raw(b"x").done()).unwrap();
    let end = client.wait_for_end(SOON).expect("a malformed login ends the connection");
    with_a_reason(&target, "a malformed login", &end);
    meanwhile.end();
}
