//! Commands over a WebSocket: the same bytes and the same end as by SSH, whoever reads slowly or goes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use sandgate_tests::client::DEADLINE;
use sandgate_tests::process::resident;
use sandgate_tests::wait::until;
use sandgate_tests::{Feed, Target, data, run, skip};
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Error, Message, WebSocket};

/// What a command said, and how it ended.
#[derive(Default)]
struct Said {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    texts: Vec<Value>,
    close: Option<u16>,
}

impl Said {
    #[track_caller]
    fn exit(&self) -> Value {
        assert_eq!(self.close, Some(1000), "{:?}", self.texts);
        self.texts.last().expect("an exit").clone()
    }
}

fn key(target: &Target, role: &str) -> String {
    let made = target.gateway().json(&["api-key", "create", role, "--role", role]);
    made["key"].as_str().unwrap().to_owned()
}

/// By TCP with a key, as a program elsewhere.
fn open(target: &Target, key: &str, more: &[(&'static str, &str)]) -> Result<WebSocket<TcpStream>, u16> {
    let port = target.gateway().http_port;
    let address = format!("ws://127.0.0.1:{port}/api/v1/sandboxes/box/exec/stream");
    let mut request = address.into_client_request().unwrap();
    let bearer = format!("Bearer {key}");
    for (name, value) in [("authorization", bearer.as_str()), ("sec-websocket-protocol", "sandgate.exec.v1")]
        .iter()
        .chain(more)
    {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    match tungstenite::client::client(request, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(Error::Http(answer))) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

/// Asks for a command.
#[track_caller]
fn begin(target: &Target, key: &str, what: &Value) -> WebSocket<TcpStream> {
    let mut socket = open(target, key, &[]).expect("a WebSocket");
    socket.send(Message::Text(what.to_string().into())).unwrap();
    socket
}

fn take(said: &mut Said, message: Message) {
    match message {
        Message::Binary(bytes) => match bytes.first() {
            Some(1) => said.stdout.extend_from_slice(&bytes[1..]),
            Some(2) => said.stderr.extend_from_slice(&bytes[1..]),
            other => panic!("output {other:?}"),
        },
        Message::Text(text) => said.texts.push(serde_json::from_str(&text).unwrap()),
        Message::Close(frame) => said.close = frame.map(|frame| frame.code.into()),
        _ => {}
    }
}

/// Reads to the end.
#[track_caller]
fn rest(socket: &mut WebSocket<TcpStream>) -> Said {
    let mut said = Said::default();
    loop {
        match socket.read() {
            Ok(message) => take(&mut said, message),
            Err(Error::ConnectionClosed | Error::AlreadyClosed) => return said,
            Err(error) => panic!("{error}; {:?}", said.texts),
        }
    }
}

#[test]
fn a_command_is_what_it_is_by_ssh() {
    if skip::oracle_lacks("HTTP") {
        return;
    }
    let target = Target::start();
    let key = key(&target, "user");
    for command in
        ["exit 7", "echo out; echo err >&2; exit 3", "pwd; id -un; echo $0 $SHELL $HOME", "seq 1 200000"]
    {
        let by_ssh = target.exec(command);
        let mut socket = begin(&target, &key, &json!({ "command": command }));
        socket.send(Message::Text(r#"{"type":"eof"}"#.into())).unwrap();
        let said = rest(&mut socket);
        assert_eq!(said.exit(), json!({ "type": "exit", "code": by_ssh.code }), "{command}");
        assert!(said.stdout == by_ssh.stdout, "{command}: other output");
        assert_eq!(said.stderr, by_ssh.stderr, "{command}");
        assert!(said.texts.iter().any(|text| text["type"] == "started"), "{:?}", said.texts);
    }
    let mut socket = begin(&target, &key, &json!({ "argv": ["sh", "-c", "kill -KILL $$"] }));
    assert_eq!(rest(&mut socket).exit(), json!({ "type": "exit", "code": 137, "signal": "KILL" }));
    // On a terminal, with a window that changes, and a shell if nothing is said.
    let terminal = json!({ "term": "xterm", "cols": 80, "rows": 24 });
    let mut socket = begin(&target, &key, &json!({ "terminal": terminal }));
    socket.send(Message::Text(r#"{"type":"resize","cols":101,"rows":37}"#.into())).unwrap();
    socket.send(Message::Binary("stty size; tty; exit 4\r".into())).unwrap();
    let said = rest(&mut socket);
    assert_eq!(said.exit()["code"], 4);
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(text.contains("37 101") && text.contains("/dev/pts/") && said.stderr.is_empty(), "{text}");
}

#[test]
fn input_signals_and_pings_arrive() {
    if skip::oracle_lacks("HTTP") {
        return;
    }
    let target = Target::start();
    let key = key(&target, "user");
    let sent = data::random(5, 3_000_000);
    let mut socket = begin(&target, &key, &json!({ "argv": ["sha256sum"] }));
    for piece in sent.chunks(100_000) {
        socket.send(Message::Binary(piece.to_vec().into())).unwrap();
    }
    socket.send(Message::Text(r#"{"type":"eof"}"#.into())).unwrap();
    let said = rest(&mut socket);
    assert_eq!(said.exit()["code"], 0);
    assert!(String::from_utf8_lossy(&said.stdout).starts_with(&data::sha256(&sent)), "other bytes came");
    let trap = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done";
    let mut socket = begin(&target, &key, &json!({ "command": trap }));
    let mut said = Said::default();
    while !said.stdout.ends_with(b"ready\n") {
        take(&mut said, socket.read().unwrap());
    }
    socket.send(Message::Text(r#"{"type":"ping","id":5}"#.into())).unwrap();
    socket.send(Message::Text(r#"{"type":"signal","name":"INT"}"#.into())).unwrap();
    let said = rest(&mut socket);
    assert_eq!((said.exit()["code"].as_u64(), &said.stdout[..]), (Some(9), &b"caught\n"[..]));
    assert!(said.texts.contains(&json!({ "type": "pong", "id": 5 })), "{:?}", said.texts);
}

#[test]
fn who_may_not_or_does_not_keep_to_it_is_told() {
    if skip::oracle_lacks("HTTP") {
        return;
    }
    let target = Target::start();
    assert_eq!(open(&target, &key(&target, "viewer"), &[]).err(), Some(403));
    assert_eq!(open(&target, "sgk_unknown", &[]).err(), Some(401));
    let key = key(&target, "user");
    assert_eq!(open(&target, &key, &[("sec-websocket-protocol", "other")]).err(), Some(400));
    for (first, words) in [
        (Message::Text("{}".into()), "either a command or the words"),
        (Message::Text("hello".into()), "does not say what to run"),
        (Message::Binary("ls".into()), "must say what to run"),
    ] {
        let mut socket = open(&target, &key, &[]).expect("a WebSocket");
        socket.send(first).unwrap();
        let said = rest(&mut socket);
        assert_eq!(said.close, Some(4002));
        assert!(said.texts[0]["text"].as_str().unwrap().contains(words), "{:?}", said.texts);
    }
    let mut socket = begin(&target, &key, &json!({ "command": "sleep 600" }));
    assert_eq!(
        serde_json::from_str::<Value>(socket.read().unwrap().to_text().unwrap()).unwrap()["type"],
        "started"
    );
    let made = target.gateway().json(&["session", "ls"]);
    target.gateway().cli(&["session", "kill", made[0]["id"].as_str().unwrap()]).exits(0);
    let said = rest(&mut socket);
    assert_eq!(said.close, Some(4004), "{:?}", said.texts);
}

/// A client that stops reading holds up its command alone, and one that goes ends it.
#[test]
fn a_client_that_does_not_read_holds_up_its_command_alone() {
    if skip::oracle_lacks("HTTP") {
        return;
    }
    let target = Target::start();
    let key = key(&target, "user");
    let before = resident(target.pid());
    let mut socket = begin(&target, &key, &json!({ "command": "head -c 100000000 /dev/zero; exit 5" }));
    std::thread::sleep(Duration::from_secs(5));
    let start = Instant::now();
    target.exec("true").exits(0);
    assert!(start.elapsed() < Duration::from_secs(2), "another was held up for {:?}", start.elapsed());
    let grown = resident(target.pid()).saturating_sub(before);
    assert!(grown < 24 << 20, "the gateway has grown by {grown} bytes");
    let said = rest(&mut socket);
    assert_eq!((said.exit()["code"].as_u64(), said.stdout.len()), (Some(5), 100_000_000));
    let mut socket = begin(&target, &key, &json!({ "argv": ["sleep", "4711"] }));
    socket.read().unwrap();
    drop(socket);
    let gone = until(DEADLINE, || {
        let mut look = Command::new("pgrep");
        run(look.args(["-x", "-f", "sleep 4711"]), Feed::Null, DEADLINE).code != 0
    });
    assert!(gone, "the command of a client that has gone lives on");
}
