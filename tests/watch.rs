//! Sessions by SSH and by the command line that somebody else watches: the watcher sees what is printed, and the session notices nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

#[allow(dead_code, reason = "the tests of terminals need more of it")]
#[path = "browser/page.rs"]
mod page;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use page::{Api, Page};
use sandgate_tests::client::DEADLINE;
use sandgate_tests::gateway::Gateway;
use sandgate_tests::process::{Guard, resident};
use sandgate_tests::terminal::Terminal;
use sandgate_tests::wait::until;
use sandgate_tests::{Feed, Target, data, run, skip};
use serde_json::{Value, json};

/// How long something that happens soon may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// The stock client between pipes.
struct Client {
    process: Guard,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Client {
    fn start(target: &Target, script: &str) -> Client {
        let mut command = target.ssh(&["-tt", "box", script]);
        let mut process = Guard::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let seen = Arc::<Mutex<Vec<u8>>>::default();
        let (mut output, into) = (process.child().stdout.take().unwrap(), seen.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                into.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Client { process, seen }
    }

    fn types(&mut self, text: &str) {
        self.process.child().stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Everything after `text`, once that has come.
    #[track_caller]
    fn after(&self, text: &str) -> Vec<u8> {
        let mut found = None;
        let came = until(SOON, || {
            let seen = self.seen.lock().unwrap();
            let at = seen.windows(text.len()).position(|window| window == text.as_bytes());
            found = at.map(|at| seen[at + text.len()..].to_vec());
            found.is_some()
        });
        assert!(came, "no {text:?} in {:?}", String::from_utf8_lossy(&self.seen.lock().unwrap()));
        found.unwrap()
    }
}

/// The one live session.
#[track_caller]
fn session(gateway: &Gateway) -> String {
    let mut found = None;
    assert!(until(SOON, || {
        let all = gateway.json(&["session", "ls"]);
        let all = all.as_array().unwrap();
        found = all.first().map(|one| one["id"].as_str().unwrap().to_owned());
        all.len() == 1
    }));
    found.unwrap()
}

fn tickets(session: &str) -> String {
    format!("/api/v1/sessions/{session}/tickets")
}

/// Somebody who watches and has the picture of the screen, which is in `output`.
#[track_caller]
fn watch(gateway: &Gateway, session: &str) -> (Page, Value) {
    let api = Api::new(gateway);
    let issued = api.post(&tickets(session), &json!({ "mode": "watch" }));
    shown(&api, &issued, session)
}

#[track_caller]
fn shown(api: &Api, issued: &Value, session: &str) -> (Page, Value) {
    assert_eq!(issued["expires_in"], 30);
    let mut page = api.attach(issued["ticket"].as_str().expect("a ticket"), 40, 10);
    let ready = page.text("ready");
    assert_eq!(
        (ready["session"].as_str(), ready["mode"].as_str()),
        (Some(session), Some("watch")),
        "{ready}"
    );
    assert!(ready.get("terminal").is_none() && ready["since"].as_str().is_some(), "{ready}");
    // The picture is one message. Nothing else comes while the session says nothing.
    assert!(until(SOON, || {
        page.reads_for(Duration::from_millis(100));
        !page.output.is_empty()
    }));
    page.reads_for(Duration::from_millis(300));
    (page, ready)
}

/// A request over TCP with a key of the API.
#[track_caller]
fn ask(gateway: &Gateway, key: Option<&str>, path: &str, body: &Value) -> (u16, Value) {
    let mut stream = TcpStream::connect(("127.0.0.1", gateway.http_port)).unwrap();
    let (body, key) = (body.to_string(), key.map(|key| format!("Authorization: Bearer {key}\r\n")));
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{}Content-Length: {}\r\n\r\n{body}",
        key.unwrap_or_default(),
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, serde_json::from_str(body.trim()).unwrap_or_default())
}

#[test]
fn a_session_by_ssh_is_seen_byte_for_byte_and_its_exit_is_told() {
    if skip::oracle_lacks("watching") {
        return;
    }
    let target = Target::start();
    let gateway = target.gateway();
    // Text, a character in two pieces, and bytes that are no text.
    let script = r"stty -echo; echo sta''rted.; read -r go; seq 1 5000; printf '\342\202'; sleep 0.5
        printf '\254 \377\200 \033[1mx\033[m'; read -r word; echo got $word.; exit 3";
    let mut client = Client::start(&target, script);
    client.after("started.\r\n");
    let id = session(gateway);
    let (mut watcher, ready) = watch(gateway, &id);
    assert_eq!(
        (&ready["cols"], &ready["rows"]),
        (&json!(80), &json!(24)),
        "a client without a window has said no size"
    );
    assert!(!watcher.seen().contains("started"), "what went before is not known");
    watcher.forget();
    client.types("go\n");
    watcher.sees("\x1b[1mx\x1b[m");

    watcher.types("evil\r");
    assert!(watcher.text("error")["text"].as_str().expect("a text").contains("watching"));
    watcher.says(&json!({ "type": "resize", "cols": 33, "rows": 11, "xpixel": 0, "ypixel": 0 }));
    client.types("mine\n");
    watcher.sees("got mine.\r\n");
    assert_eq!(watcher.text("exit"), json!({ "type": "exit", "code": 3 }));
    assert_eq!(watcher.close(), 1000);
    assert_eq!(client.process.wait(DEADLINE), Some(3));
    let same = until(SOON, || client.after("started.\r\n") == watcher.output);
    assert!(
        same,
        "{} bytes at the client, {} at the watcher",
        client.after("started.\r\n").len(),
        watcher.output.len()
    );
    assert!(client.after("started.\r\n").len() > 20_000);

    // Who watched whom.
    let trail = gateway.json(&["audit", "--action", "session.ticket"]);
    let row = trail.as_array().unwrap().first().expect("a row");
    assert_eq!((&row["action"], &row["sandbox"]), (&json!("session.ticket"), &json!("box")), "{trail}");
    let detail = row["detail"].as_str().unwrap();
    assert!(detail.starts_with(&format!("{id}, to watch the exec of token ")), "{detail}");
    assert!(!detail.contains(&target.login), "{detail}");
    // It is over.
    let gone = Api::new(gateway).refused(&tickets(&id), &json!({ "mode": "watch" }));
    assert!(gone.contains("no live session"), "{gone}");
}

#[test]
fn who_comes_later_finds_the_screen_as_far_as_it_is_known() {
    if skip::oracle_lacks("watching") {
        return;
    }
    let target = Target::start();
    let gateway = target.gateway();
    let mut command = gateway.command(&["ssh", "box"]);
    command.env("TERM", "xterm-256color");
    let mut terminal = Terminal::spawn(&command, 90, 25);
    terminal.send("PS1='> '; stty -echo\r");
    terminal.send("echo be''gun.\r");
    terminal.expect("begun.");
    let id = session(gateway);
    let (mut first, ready) = watch(gateway, &id);
    assert_eq!((&ready["cols"], &ready["rows"]), (&json!(90), &json!(25)), "the client's own size");
    terminal.send("printf '\\033[?1049h\\033[2J\\033[3;4Hin the edi''tor'\r");
    first.sees("in the editor");
    let (late, again) = watch(gateway, &id);
    assert_eq!(again["since"], ready["since"], "it is one picture");
    assert!(late.seen().contains("in the editor") && late.seen().contains("\x1b[?1047h"), "{}", late.seen());
    terminal.resize(101, 37);
    assert_eq!(first.text("resize"), json!({ "type": "resize", "cols": 101, "rows": 37 }));
    drop(late);
    drop(first);
    // Without watchers nothing is kept: the next picture is another one.
    let mut third = None;
    assert!(until(SOON, || {
        let (page, ready) = watch(gateway, &id);
        third = (ready["since"] != again["since"]).then_some((page, ready));
        third.is_some()
    }));
    let (mut third, ready) = third.unwrap();
    assert_eq!((&ready["cols"], &ready["rows"]), (&json!(101), &json!(37)));
    assert!(!third.seen().contains("in the editor"));
    gateway.cli(&["session", "kill", &id]).ok();
    assert!(third.text("error")["text"].as_str().expect("a text").contains("ended by the owner"));
    assert_eq!(third.close(), 4004);
    assert!(third.seen().contains("ended by the owner"), "what the user reads is on the screen");
    assert_ne!(terminal.wait(), 0);
}

#[test]
fn whoever_may_watch_a_browsers_terminal_may_watch_this_and_nobody_else() {
    if skip::oracle_lacks("watching") {
        return;
    }
    let target = Target::start();
    let gateway = target.gateway();
    let mut client = Client::start(&target, "stty -echo; echo sta''rted.; read -r word; echo got $word.");
    client.after("started.\r\n");
    let id = session(gateway);
    let made = gateway.json(&["api-key", "create", "guest", "--role", "viewer"]);
    let viewer = made["key"].as_str().unwrap();
    let watch = json!({ "mode": "watch" });
    for (key, path, body, status) in [
        (None, tickets(&id), &watch, 401),
        (Some("sgk_wrong"), tickets(&id), &watch, 401),
        (Some(viewer), tickets(&id), &json!({ "mode": "write" }), 403),
        (Some(viewer), tickets(&id), &json!({ "mode": "own" }), 422),
        (Some(viewer), tickets("ses-x"), &watch, 404),
        (Some(viewer), format!("/api/v1/terminals/{id}/tickets"), &watch, 404),
    ] {
        let (got, answer) = ask(gateway, key, &path, body);
        assert_eq!(got, status, "{path} {body}: {answer}");
    }
    let api = Api::new(gateway);
    assert!(api.refused(&tickets(&id), &json!({ "mode": "write" })).contains("watched and nothing else"));

    // The viewer's ticket is good once, and no longer than the key.
    let (status, issued) = ask(gateway, Some(viewer), &tickets(&id), &watch);
    assert_eq!(status, 201, "{issued}");
    let (mut page, _) = shown(&api, &issued, &id);
    let ticket = issued["ticket"].as_str().unwrap();
    let mut again = api.attach(ticket, 80, 24);
    assert_eq!(again.close(), 4001);
    let trail = gateway.json(&["audit", "--action", "session.ticket"]);
    assert_eq!(trail[0]["actor"], "api key guest", "{trail}");
    assert!(!trail.to_string().contains(ticket) && !gateway.log().contains(ticket), "the ticket is told");
    gateway.cli(&["api-key", "revoke", made["id"].as_str().unwrap()]).ok();
    assert!(page.text("error")["text"].as_str().expect("a text").contains("revoked"));
    assert_eq!(page.close(), 4004);
    // The session has noticed nothing.
    client.types("mine\n");
    client.after("got mine.");
    assert_eq!(client.process.wait(DEADLINE), Some(0));

    let none = || gateway.json(&["session", "ls"]).as_array().is_some_and(Vec::is_empty);
    assert!(until(DEADLINE, none), "the session stays in the register");

    // Pipes have no screen.
    let mut command = target.ssh(&["-T", "box", "cat"]);
    let _pipes = Guard::spawn(command.stdin(Stdio::piped()).stdout(Stdio::null()));
    assert!(api.refused(&tickets(&session(gateway)), &watch).contains("no terminal"));
}

#[test]
fn heavy_a_watcher_who_does_not_read_holds_up_nothing() {
    if skip::oracle_lacks("watching") {
        return;
    }
    let target = Target::start();
    let gateway = target.gateway();
    let script = "stty -echo -onlcr; echo sta''rted.; read -r go; seq 1 3000000; echo the end.";
    let mut client = Client::start(&target, script);
    client.after("started.\n");
    let id = session(gateway);
    let (mut asleep, _) = watch(gateway, &id);
    asleep.forget();
    let before = resident(target.pid());
    client.types("go\n");
    assert!(until(DEADLINE, || client.process.wait(Duration::ZERO).is_some()), "the session is held up");
    let grown = resident(target.pid()).saturating_sub(before);
    assert!(grown < 32 << 20, "the gateway has grown by {grown} bytes");
    let wanted = run(Command::new("sh").args(["-c", "seq 1 3000000; echo the end."]), Feed::Null, DEADLINE);
    let same = until(SOON, || data::sha256(&client.after("started.\n")) == data::sha256(&wanted.stdout));
    assert!(same, "the client has lost something");
    // Now it reads: what it has not missed of the old, then the screen as it is in the end.
    asleep.sees("the end.");
    assert_eq!(asleep.text("exit")["code"], 0);
    assert!(asleep.output.len() < 4 << 20, "{} bytes for one who did not read", asleep.output.len());
}
