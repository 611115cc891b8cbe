//! Commands over a WebSocket: the same bytes and the same end as by SSH, whoever reads slowly or goes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

#[path = "browser/stream.rs"]
mod stream;

use std::process::Command;
use std::time::{Duration, Instant};

use sandgate_tests::client::DEADLINE;
use sandgate_tests::process::resident;
use sandgate_tests::wait::until;
use sandgate_tests::{Feed, Target, data, http, run, skip};
use serde_json::{Value, json};
use stream::{STREAM, Said, begin, connect, eof, key, open, rest};
use tungstenite::Message;

/// What a client of a command's stream asks for.
const PROTOCOL: (&str, &str) = ("sec-websocket-protocol", "sandgate.exec.v1");

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
        eof(&mut socket);
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
    eof(&mut socket);
    let said = rest(&mut socket);
    assert_eq!(said.exit()["code"], 0);
    assert!(String::from_utf8_lossy(&said.stdout).starts_with(&data::sha256(&sent)), "other bytes came");
    let trap = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done";
    let mut socket = begin(&target, &key, &json!({ "command": trap }));
    let mut said = Said::default();
    while !said.stdout.ends_with(b"ready\n") {
        said.take(socket.read().unwrap());
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
    assert_eq!(connect(&target, STREAM, &[PROTOCOL]).err(), Some(401), "without a key");
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

/// A browser opens WebSockets for pages of anybody, and sends our cookie along; it also says whose page it is.
#[test]
fn pages_of_others_are_refused_and_so_is_a_viewer_at_every_door_that_writes() {
    if skip::oracle_lacks("HTTP") {
        return;
    }
    let target = Target::start();
    let port = target.gateway().http_port;
    let login = |role| {
        let body = json!({ "key": key(&target, role) });
        http::ask(port, "POST", "/api/v1/login", &[], Some(&body)).cookie()
    };
    let (cookie, viewer) = (login("user"), login("viewer"));
    let own = format!("http://127.0.0.1:{port}");
    let body = json!({ "command": "echo in" });
    let page = ("sec-websocket-protocol", "sandgate.terminal.v1");
    let near = format!("http://127.0.0.1:{}", port - 1);
    let evil = format!("http://127.0.0.1:{port}.evil.example");
    for origin in [None, Some("null"), Some("http://evil.example"), Some(near.as_str()), Some(evil.as_str())]
    {
        let said: Vec<_> = origin.map(|origin| ("origin", origin)).into_iter().collect();
        let with_cookie = [&said[..], &[("cookie", cookie.as_str())]].concat();
        let stream = connect(&target, STREAM, &[&with_cookie[..], &[PROTOCOL]].concat());
        assert_eq!(stream.err(), Some(403), "the stream of a command, {origin:?}");
        let terminal = connect(&target, "/api/v1/terminal", &[&with_cookie[..], &[page]].concat());
        assert_eq!(terminal.err(), Some(403), "a terminal, {origin:?}");
        for path in ["/api/v1/sandboxes/box/exec", "/api/v1/sandboxes/box/terminals"] {
            let answer = http::ask(port, "POST", path, &with_cookie, Some(&body));
            assert_eq!(answer.status, 403, "{path}, {origin:?}: {answer:?}");
            assert!(answer.body["detail"].as_str().unwrap().contains("another origin"), "{answer:?}");
        }
    }
    // Our own page, so that it was not something else that was wrong.
    let ours = [("origin", own.as_str()), ("cookie", cookie.as_str())];
    let mut socket = connect(&target, STREAM, &[&ours[..], &[PROTOCOL]].concat()).expect("a stream");
    socket.send(Message::Text(body.to_string().into())).unwrap();
    assert_eq!(rest(&mut socket).stdout, b"in\n");
    let answer = http::ask(port, "POST", "/api/v1/sandboxes/box/exec", &ours, Some(&body));
    assert_eq!((answer.status, &answer.body["stdout"]["data"]), (200, &json!("in\n")), "{answer:?}");
    let made = http::ask(port, "POST", "/api/v1/sandboxes/box/terminals", &ours, Some(&json!({})));
    assert_eq!(made.status, 201, "{made:?}");
    connect(&target, "/api/v1/terminal", &[("origin", own.as_str()), page]).expect("a terminal");

    // Who may only look, from our own page.
    let ours = [("origin", own.as_str()), ("cookie", viewer.as_str())];
    assert_eq!(connect(&target, STREAM, &[&ours[..], &[PROTOCOL]].concat()).err(), Some(403));
    let terminal = made.body["terminal"].as_str().unwrap();
    let (tickets, write) = (format!("/api/v1/terminals/{terminal}/tickets"), json!({ "mode": "write" }));
    for (method, path, body) in [
        ("POST", "/api/v1/sandboxes/box/exec", &body),
        ("POST", "/api/v1/sandboxes/box/terminals", &json!({})),
        ("POST", tickets.as_str(), &write),
        ("DELETE", &format!("/api/v1/terminals/{terminal}"), &Value::Null),
    ] {
        let answer = http::ask(port, method, path, &ours, Some(body).filter(|it| !it.is_null()));
        assert_eq!(answer.status, 403, "{method} {path}: {answer:?}");
        assert!(answer.body["detail"].as_str().unwrap().contains("yours is viewer"), "{answer:?}");
    }
    let ticket = http::ask(port, "POST", &tickets, &ours, Some(&json!({ "mode": "watch" })));
    assert_eq!(ticket.status, 201, "to look on is what it may: {ticket:?}");
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
