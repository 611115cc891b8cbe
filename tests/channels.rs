//! Channels beside each other, and requests that no session needs to understand.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use sandgate_tests::process::{Guard, resident};
use sandgate_tests::raw::codec::{self, Reader, Writer};
use sandgate_tests::raw::{Client, pty};
use sandgate_tests::{Kind, Target, skip};

#[test]
fn a_hundred_sessions_at_once() {
    let target = Target::start();
    let master = target.master();
    let mut sessions: Vec<Guard> = (0..100)
        .map(|number| {
            let mut command = master.ssh(&["box", &format!("echo up {number}; cat; exit {number}")]);
            Guard::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))
        })
        .collect();
    // None is let go before all are up.
    for (number, session) in sessions.iter_mut().enumerate() {
        let mut line = vec![0; format!("up {number}\n").len()];
        session.child().stdout.as_mut().unwrap().read_exact(&mut line).expect("the session is up");
        assert_eq!(line, format!("up {number}\n").as_bytes());
    }
    for (number, session) in sessions.iter_mut().enumerate() {
        let mut stdin = session.child().stdin.take().unwrap();
        stdin.write_all(format!("hello {number}").as_bytes()).unwrap();
    }
    for (number, session) in sessions.iter_mut().enumerate() {
        let mut text = String::new();
        session.child().stdout.as_mut().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("hello {number}"));
        assert_eq!(session.wait(Duration::from_secs(20)), Some(number as i32));
    }
}

/// Other channels answer within this while one of them is stuck.
const PROMPT: Duration = Duration::from_secs(2);

#[track_caller]
fn echoes_promptly(master: &sandgate_tests::client::Master) {
    for _ in 0..5 {
        let output = master.exec("echo here");
        assert_eq!(output.ok(), "here");
        assert!(output.took < PROMPT, "took {:?}", output.took);
    }
}

#[test]
fn timed_input_that_nobody_reads_holds_up_nobody_else() {
    let target = Target::start();
    let master = target.master();
    let mut upload = master.ssh(&["box", "sleep 60"]);
    let mut upload = Guard::spawn(upload.stdin(Stdio::piped()));
    let mut stdin = upload.child().stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        let block = vec![b'x'; 1 << 20];
        // Ends when the client is killed: 100 MiB do not fit into any window.
        (0..100).take_while(|_| stdin.write_all(&block).is_ok()).count()
    });
    std::thread::sleep(Duration::from_secs(2));
    echoes_promptly(&master);
    drop(upload);
    assert!(writer.join().unwrap() < 100, "100 MiB went into a process that does not read");
}

#[test]
fn timed_output_that_nobody_reads_holds_up_nobody_else() {
    let target = Target::start();
    let master = target.master();
    let mut download = master.ssh(&["box", "cat /dev/zero"]);
    let _download = Guard::spawn(download.stdin(Stdio::null()).stdout(Stdio::piped()));
    std::thread::sleep(Duration::from_secs(2));
    echoes_promptly(&master);
}

/// The window is the bound: a client that takes nothing costs the server next to nothing.
#[test]
fn timed_a_closed_window_stops_the_process_not_the_connection() {
    let target = Target::start();
    let mut client = Client::login(&target);
    let stuck: Vec<_> = (0..8).map(|_| client.exec("cat /dev/zero").unwrap()).collect();
    std::thread::sleep(Duration::from_secs(1));
    let before = resident(target.pid());
    let start = Instant::now();
    for _ in 0..5 {
        let channel = client.exec("echo here").unwrap();
        assert_eq!(client.finish(channel).unwrap().stdout, b"here\n");
    }
    assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    std::thread::sleep(Duration::from_secs(1));
    let grown = resident(target.pid()).saturating_sub(before);
    assert!(grown < 16 << 20, "grew by {grown} bytes behind {} closed windows", stuck.len());
}

#[test]
fn small_windows_and_packets_are_kept() {
    let target = Target::start();
    let mut client = Client::login(&target);
    let channel = client.open_channel("session", 700, 300, &[]).unwrap();
    assert!(client.request(channel, "exec", &Writer::default().string("seq 1 5000").done()).unwrap());
    let (mut text, mut window) = (Vec::new(), 700usize);
    loop {
        let message = client.receive().unwrap();
        let mut reader = Reader::new(&message[1..]);
        reader.u32().unwrap();
        match message[0] {
            codec::CHANNEL_DATA => {
                let bytes = reader.string().unwrap();
                assert!(bytes.len() <= 300, "a message of {} bytes where 300 are allowed", bytes.len());
                window = window.checked_sub(bytes.len()).expect("more data than the window allows");
                text.extend_from_slice(bytes);
                if window < 200 {
                    client.adjust(channel, 500).unwrap();
                    window += 500;
                }
            }
            codec::CHANNEL_CLOSE => break,
            _ => {}
        }
    }
    let expected: String = (1..=5000).map(|number| format!("{number}\n")).collect();
    assert!(text == expected.as_bytes(), "{} bytes of {}", text.len(), expected.len());
}

/// OpenSSH sends these in one burst; each reply belongs to the request in its place.
#[test]
fn replies_keep_the_order_of_requests() {
    let target = Target::start();
    let mut client = Client::login(&target);
    let channel = client.open_session().unwrap();
    let env = |name: &str| Writer::default().string(name).string("x").done();
    client.request_later(channel, "pty-req", 1, &pty("xterm", 80, 24, &[0])).unwrap();
    client.request_later(channel, "env", 1, &env("LC_ONE")).unwrap();
    client.request_later(channel, "env", 1, &env("SECRET")).unwrap();
    client.request_later(channel, "nonsense@example.org", 1, &[]).unwrap();
    client.request_later(channel, "env", 0, &env("LC_TWO")).unwrap();
    client
        .request_later(channel, "exec", 1, &Writer::default().string("echo $LC_ONE$LC_TWO$SECRET").done())
        .unwrap();
    client.request_later(channel, "exec", 1, &Writer::default().string("echo twice").done()).unwrap();
    let replies: Vec<bool> = (0..6).map(|_| client.reply(channel).unwrap()).collect();
    assert_eq!(replies, [true, true, false, false, true, false]);
}

#[test]
fn unknown_requests_are_refused_and_nothing_ends() {
    let target = Target::start();
    let mut client = Client::login(&target);
    let channel = client.open_session().unwrap();
    for name in [
        "simple@putty.projects.tartarus.org",
        "winadj@putty.projects.tartarus.org",
        "x",
        "",
        "auth-agent-req@example.org",
    ] {
        assert!(!client.request(channel, name, b"odd").unwrap(), "{name:?} was granted");
        client.request_later(channel, name, 0, b"odd").unwrap();
    }
    assert!(
        !client.request(channel, "subsystem", &Writer::default().string("no-such-thing").done()).unwrap()
    );
    for name in ["nonsense@example.org", "keepalive@openssh.com"] {
        client.send(&Writer::new(codec::GLOBAL_REQUEST).string(name).byte(1).done()).unwrap();
        let reply = client.receive().unwrap()[0];
        assert!(matches!(reply, codec::REQUEST_FAILURE | codec::REQUEST_SUCCESS), "{name}: {reply}");
    }
    // An unknown message number is answered with its sequence number, RFC 4253 §11.4.
    client.send(&[191, 1, 2, 3]).unwrap();
    assert_eq!(client.receive().unwrap()[0], codec::UNIMPLEMENTED);
    assert!(client.request(channel, "exec", &Writer::default().string("echo fine").done()).unwrap());
    assert_eq!(client.finish(channel).unwrap().stdout, b"fine\n");
    let output = target.run_ssh(&["-s", "box", "no-such-thing"]);
    assert_ne!(output.code, 0);
    assert!(output.errors().contains("subsystem request failed"), "{}", output.errors());
}

/// `eow@openssh.com`: the client's consumer has gone. The process gets SIGPIPE, with its window open or closed.
#[test]
fn the_end_of_write_reaches_the_process() {
    let target = Target::start();
    let mut client = Client::login(&target);
    for (window, input_ends) in [(1u32 << 16, false), (1 << 30, false), (1 << 16, true), (1 << 30, true)] {
        let channel = client.open_channel("session", window, 32768, &[]).unwrap();
        let command = Writer::default().string("yes; exit $?").done();
        assert!(client.request(channel, "exec", &command).unwrap());
        if input_ends {
            client.eof(channel).unwrap();
            std::thread::sleep(Duration::from_millis(300));
        }
        client.request_later(channel, "eow@openssh.com", 0, &[]).unwrap();
        client.patience = Duration::from_secs(10);
        let start = Instant::now();
        let mut status = None;
        // Nothing is given back to the window, so what was on its way is all that comes.
        while status.is_none() {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "the process still writes; window {window}, input ended {input_ends}"
            );
            let message = client
                .receive()
                .unwrap_or_else(|err| panic!("window {window}, input ended {input_ends}: {err}"));
            let mut reader = Reader::new(&message[1..]);
            reader.u32().unwrap();
            if message[0] == codec::CHANNEL_REQUEST && reader.text().unwrap() == "exit-status" {
                reader.bool().unwrap();
                status = Some(reader.u32().unwrap());
            }
        }
        assert_eq!(status, Some(141));
    }
}

#[test]
fn no_more_sessions_means_none() {
    let target = Target::start();
    let mut client = Client::login(&target);
    let channel = client.exec("echo first").unwrap();
    client.finish(channel).unwrap();
    client
        .send(&Writer::new(codec::GLOBAL_REQUEST).string("no-more-sessions@openssh.com").byte(0).done())
        .unwrap();
    assert!(client.open_session().is_err(), "a session was opened after no-more-sessions");
}

#[test]
fn an_open_that_fails_has_a_reason_and_the_session_works() {
    let target = Target::start();
    let output = target.run_ssh(&["-o", "LogLevel=INFO", "-W", "127.0.0.1:9", "box"]);
    assert_ne!(output.code, 0);
    assert!(output.errors().contains("open failed: "), "{}", output.errors());

    let mut client = Client::login(&target);
    let rest = Writer::default().string("127.0.0.1").u32(9).string("127.0.0.1").u32(1).done();
    let err = client.open_channel("direct-tcpip", 65536, 32768, &rest).unwrap_err().to_string();
    let (code, reason) = err.split_once(": ").unwrap();
    assert!(matches!(code, "1" | "2") && !reason.is_empty(), "{err}");
    let err = client.open_channel("no-such-type", 65536, 32768, &[]).unwrap_err().to_string();
    // RFC 4254 has a code of its own for this; sshd says "connect failed" all the same.
    assert!(err.starts_with(if target.kind() == Kind::Gateway { "3: " } else { "2: " }), "{err}");
    let channel = client.exec("echo still").unwrap();
    assert_eq!(client.finish(channel).unwrap().stdout, b"still\n");
}

#[test]
fn host_keys_are_announced_and_pings_answered() {
    let target = Target::start();
    let mut client = Client::login(&target);
    let channel = client.open_session().unwrap();
    client.request_later(channel, "exec", 1, &Writer::default().string("true").done()).unwrap();
    drop(client);
    let known = std::fs::read_to_string(target.dir().join("known_hosts")).unwrap_or_default();
    assert!(!known.contains("ssh-rsa"), "the other key is known too early");
    target.run_ssh(&["-o", "UpdateHostKeys=yes", "box", "true"]).ok();
    if target.kind() == Kind::Sshd {
        skip::because("this sshd has one host key and no ping, so neither rotation nor ping can be compared");
        return;
    }
    // The client checks the proof before it writes the key down.
    target.run_ssh(&["-o", "UpdateHostKeys=yes", "box", "true"]).ok();
    let known = std::fs::read_to_string(target.dir().join("known_hosts")).unwrap();
    assert!(known.contains("ssh-rsa"), "the RSA key was not taken up: {known}");
    let mut client = Client::login(&target);
    client.send(&Writer::new(192).string("tick").done()).unwrap();
    let pong = client.receive().unwrap();
    assert_eq!(pong, Writer::new(193).string("tick").done());
}
