//! Terminals for browsers, over the control socket: what a page gets, and that nothing of a session is lost when it goes and comes back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

#[allow(dead_code, reason = "the tests of recordings need more of it")]
#[path = "browser/page.rs"]
mod page;
#[allow(dead_code, reason = "the tests of commands need more of it")]
#[path = "browser/stream.rs"]
mod stream;

#[path = "browser_terminal/doors.rs"]
mod doors;

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use page::{Api, Page, contains};
use sandgate_tests::process::{Guard, resident};
use sandgate_tests::target::Options;
use sandgate_tests::wait::until;
use sandgate_tests::{Target, skip};
use serde_json::json;

/// How long something that happens soon may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A page at a new shell.
#[track_caller]
fn begin(target: &Target) -> (Page, String) {
    let api = Api::new(target.gateway());
    let made = api.post("/api/v1/sandboxes/box/terminals", &json!({ "cols": 80, "rows": 24 }));
    let terminal = made["terminal"].as_str().expect("a terminal").to_owned();
    assert_eq!(made["expires_in"], 30);
    let mut page = api.attach(made["ticket"].as_str().expect("a ticket"), 80, 24);
    let ready = page.text("ready");
    assert_eq!((ready["mode"].as_str(), ready["resumed"].as_bool()), (Some("write"), Some(false)), "{ready}");
    assert_eq!(ready["terminal"], terminal.as_str());
    // What is typed is echoed too; the quotes inside the words keep the echo from being taken for the answer.
    page.types("PS1='> '; stty -echo\r");
    page.types("echo be''gun.\r");
    page.sees("begun.");
    (page, terminal)
}

/// A page that comes to a terminal that is there.
#[track_caller]
fn come(target: &Target, terminal: &str, mode: &str) -> Page {
    let api = Api::new(target.gateway());
    let issued = api.post(&format!("/api/v1/terminals/{terminal}/tickets"), &json!({ "mode": mode }));
    let mut page = api.attach(issued["ticket"].as_str().expect("a ticket"), 80, 24);
    let ready = page.text("ready");
    assert_eq!((ready["mode"].as_str(), ready["resumed"].as_bool()), (Some(mode), Some(true)), "{ready}");
    page
}

#[track_caller]
fn nobody_writes(target: &Target) {
    let api = Api::new(target.gateway());
    assert!(
        until(SOON, || api.get("/api/v1/terminals")[0]["attached"] == false),
        "{}",
        api.get("/api/v1/terminals")
    );
}

#[test]
fn a_shell_has_its_size_its_environment_and_its_exit_code() {
    if skip::oracle_lacks("browser") {
        return;
    }
    let target = Target::start();
    let (mut page, terminal) = begin(&target);
    page.types("stty size; echo $TERM $COLORTERM; tty; echo o''ne.\r");
    let text = page.sees("one.");
    assert!(text.contains("24 80\r\n") && text.contains("xterm-256color truecolor\r\n"), "{text}");
    assert!(text.contains("/dev/pts/"), "{text}");
    page.says(&json!({ "type": "resize", "cols": 101, "rows": 37, "xpixel": 0, "ypixel": 0 }));
    assert!(until(SOON, || {
        page.types("stty size; echo t''wo.\r");
        page.sees("two.").contains("37 101")
    }));
    page.says(&json!({ "type": "ping", "id": 77 }));
    assert_eq!(page.text("pong")["id"], 77);
    page.types("printf '\\377\\000\\342\\202'; sleep 0.2; printf '\\254.'; echo thr''ee.\r");
    page.sees("three.");
    assert!(contains(&page.output, b"\xff\x00\xe2\x82\xac.three."), "bytes are untouched");
    let listed = Api::new(target.gateway()).get("/api/v1/terminals");
    assert_eq!((&listed[0]["id"], &listed[0]["cols"]), (&json!(terminal), &json!(101)), "{listed}");
    let sessions = target.gateway().json(&["session", "ls"]);
    assert_eq!(sessions[0]["id"], listed[0]["session"], "{sessions}");
    page.types("echo la''st; exit 7\r");
    assert_eq!(page.text("exit"), json!({ "type": "exit", "code": 7 }));
    assert!(page.seen().contains("last"), "all output comes before the exit");
    assert_eq!(page.close(), 1000);
    assert!(until(SOON, || Api::new(target.gateway()).get("/api/v1/terminals") == json!([])));
    let (mut page, _) = begin(&target);
    page.types("kill -KILL $$\r");
    assert_eq!(page.text("exit"), json!({ "type": "exit", "code": 137, "signal": "KILL" }));
}

#[test]
fn a_page_that_comes_back_finds_the_same_shell_with_its_screen() {
    if skip::oracle_lacks("browser") {
        return;
    }
    let target = Target::start();
    let (mut page, terminal) = begin(&target);
    page.types("kept=yes; printf '\\033[?2004hmark%s\\n' 1; (sleep 1; seq 1 50000; echo af''ter.)\r");
    page.sees("mark1");
    // Without a word, as when the network is gone.
    drop(page);
    nobody_writes(&target);
    std::thread::sleep(Duration::from_secs(4));
    let mut page = come(&target, &terminal, "write");
    let dump = page.sees("after.");
    assert!(dump.contains("\x1b[?2004h"), "modes come back");
    assert!(dump.contains("50000\r\n") && dump.contains("49100\r\n") && !dump.contains("\n40000\r\n"));
    page.types("echo st''ill $kept.\r");
    page.sees("still yes.");
    page.types("printf '\\033[?1049h\\033[2J\\033[3;4Hin the editor'\r");
    page.sees("in the editor");
    drop(page);
    nobody_writes(&target);
    let mut page = come(&target, &terminal, "write");
    let dump = page.sees("in the editor");
    assert!(dump.contains("\x1b[?1047h") && dump.contains("still yes."), "both screens come back");
    page.types("exit\r");
    assert_eq!(page.text("exit")["code"], 0);
}

#[test]
fn one_page_writes_and_others_look_on() {
    if skip::oracle_lacks("browser") {
        return;
    }
    let target = Target::start();
    let (mut first, terminal) = begin(&target);
    let mut watcher = come(&target, &terminal, "watch");
    watcher.sees("begun.");
    watcher.types("echo evil; exit 66\r");
    assert!(watcher.text("error")["text"].as_str().expect("a text").contains("watching"));
    first.types("echo go''od.\r");
    first.sees("good.");
    watcher.sees("good.");
    let mut second = come(&target, &terminal, "write");
    assert!(first.text("detached")["text"].as_str().expect("a text").contains("taken over"));
    assert_eq!(first.close(), 4003);
    second.says(&json!({ "type": "resize", "cols": 90, "rows": 30, "xpixel": 0, "ypixel": 0 }));
    assert_eq!(watcher.text("resize"), json!({ "type": "resize", "cols": 90, "rows": 30 }));
    second.types("echo sec''ond.; exit 5\r");
    assert_eq!(second.text("exit")["code"], 5);
    watcher.sees("second.");
    assert_eq!(watcher.text("exit")["code"], 5);
    assert!(!watcher.seen().contains("evil"));
    assert_eq!(watcher.close(), 1000);
}

#[test]
fn tickets_are_good_once_and_what_is_not_understood_ends_it() {
    if skip::oracle_lacks("browser") {
        return;
    }
    let target = Target::start();
    let api = Api::new(target.gateway());
    let made = api.post("/api/v1/sandboxes/box/terminals", &json!({}));
    let ticket = made["ticket"].as_str().expect("a ticket");
    assert!(ticket.len() == 32 && ticket.bytes().all(|byte| byte.is_ascii_hexdigit()), "128 random bits");
    let mut page = api.attach(ticket, 80, 24);
    page.text("ready");
    for bad in [ticket, &"0".repeat(32), ""] {
        let mut refused = api.attach(bad, 80, 24);
        assert!(refused.text("error")["text"].as_str().expect("a text").contains("ticket"));
        assert_eq!(refused.close(), 4001);
    }
    for first in ["{}", "nonsense", r#"{"type":"ack","bytes":1}"#, r#"{"type":"attach","ticket":"x"}"#] {
        let mut refused = api.connect();
        refused.says_text(first);
        refused.text("error");
        assert_eq!(refused.close(), 4002, "{first}");
    }
    let mut refused = api.connect();
    refused.types("data before a ticket");
    assert_eq!(refused.close(), 4002);
    page.says(&json!({ "type": "signal", "name": "KILL" }));
    page.text("error");
    assert_eq!(page.close(), 4002);
    assert!(!target.gateway().log().contains(ticket), "no ticket is logged");
    assert!(api.refused("/api/v1/sandboxes/nosuch/terminals", &json!({})).contains("no sandbox"));
    assert!(
        api.refused("/api/v1/terminals/trm-x/tickets", &json!({ "mode": "watch" }))
            .contains("no such terminal")
    );
    assert!(api.refused("/api/v1/sandboxes/box/terminals", &json!({ "columns": 1 })).contains("columns"));
}

#[test]
fn a_page_that_does_not_read_stops_the_shell_and_loses_nothing() {
    if skip::oracle_lacks("browser") {
        return;
    }
    let target = Target::start();
    let (mut page, _) = begin(&target);
    page.acknowledges = false;
    page.forget();
    page.types("seq 1 200000; echo do''ne.\r");
    // It reads, and says nothing of it: no more comes than the window.
    page.reads_for(Duration::from_secs(3));
    let stalled = page.output.len();
    assert!((100_000..=256 * 1024).contains(&stalled), "{stalled} bytes without an acknowledgement");
    page.says(&json!({ "type": "ack", "bytes": stalled }));
    // And now it does not read at all.
    std::thread::sleep(Duration::from_secs(2));
    page.acknowledges = true;
    page.sees("done.");
    let mut wanted = String::new();
    for number in 1..=200_000 {
        write!(wanted, "{number}\r\n").unwrap();
    }
    let text = String::from_utf8_lossy(&page.output).into_owned();
    let start = text.find("1\r\n2\r\n3\r\n").expect("the first lines");
    assert!(text[start..].starts_with(&wanted), "every line, in order");
}

/// Somebody who presses a key, waits until it shows, and presses the next.
enum Typist {
    Page(Box<Page>),
    Ssh(Guard),
}

impl Typist {
    /// What shows each key, so that its way leads through a process.
    const MIRROR: &str = "stty raw -echo; printf 'mir%s' ror; exec cat";

    fn at_a_page(target: &Target) -> Typist {
        let (mut page, _) = begin(target);
        page.types(&format!("{}\r", Self::MIRROR));
        page.sees("mirror");
        Typist::Page(Box::new(page))
    }

    fn by_ssh(target: &Target) -> Typist {
        let mut command = target.ssh(&["-tt", "box", Self::MIRROR]);
        let mut client = Guard::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let mut ready = [0; "mirror".len()];
        client.child().stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        assert_eq!(&ready, b"mirror");
        Typist::Ssh(client)
    }

    fn name(&self) -> &'static str {
        match self {
            Typist::Page(_) => "another page",
            Typist::Ssh(_) => "an SSH session",
        }
    }

    /// Both at once.
    fn all_type_for(typists: &mut [Typist; 2], time: Duration) -> [Echoes; 2] {
        std::thread::scope(|scope| {
            let typing = typists.each_mut().map(|typist| scope.spawn(move || typist.types_for(time)));
            typing.map(|typing| typing.join().unwrap())
        })
    }

    /// A hundred keys a second at most.
    fn types_for(&mut self, time: Duration) -> Echoes {
        let (begin, mut echoes) = (Instant::now(), Echoes::default());
        while begin.elapsed() < time {
            let start = Instant::now();
            match self {
                Typist::Page(page) => {
                    page.types("x");
                    page.sees("x");
                    page.forget();
                }
                Typist::Ssh(client) => {
                    let child = client.child();
                    child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
                    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
                }
            }
            echoes.0.push(start.elapsed());
            std::thread::sleep(Duration::from_millis(10));
        }
        echoes
    }
}

/// How long keys took to show.
#[derive(Default)]
struct Echoes(Vec<Duration>);

impl Echoes {
    /// The time within which so many of a hundred show.
    fn percentile(&self, of_hundred: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        sorted[sorted.len() * of_hundred / 100]
    }

    /// Other tests run beside this one, which is what the constants are for; somebody who waits for the page that does not read would
    /// wait for all of the minute.
    #[track_caller]
    fn are_as_quick_as(&self, calm: &Echoes, who: &str) {
        let both = |of_hundred| (calm.percentile(of_hundred), self.percentile(of_hundred));
        let (median, most) = (both(50), both(99));
        println!("{who}: before, and beside {} keys: median {median:?}, 99 of 100 {most:?}", self.0.len());
        assert!(median.1 < median.0 * 2 + Duration::from_millis(20), "{who}: the median went {median:?}");
        assert!(most.1 < most.0 * 2 + Duration::from_millis(250), "{who}: 99 of 100 went {most:?}");
    }
}

/// A gigabyte in lines of one length, each with its number.
#[test]
fn heavy_a_page_stops_for_a_minute_while_the_shell_prints_a_gigabyte() {
    const FIRST: &[u8; 9] = b"100000001";
    const LINE: usize = FIRST.len() + 2;
    const LINES: usize = 1_000_000_000 / LINE;
    if skip::oracle_lacks("browser") {
        return;
    }
    let target = Target::start();
    let (mut page, terminal) = begin(&target);
    let quick = |when: &str| {
        let took = (0..3).map(|_| {
            let start = Instant::now();
            target.exec("true").exits(0);
            start.elapsed()
        });
        let took = took.min().unwrap();
        assert!(took < Duration::from_secs(1), "{when} a command took {took:?}");
    };
    quick("before");
    // Two who type meanwhile, and a ticket that is used when it is too old.
    let mut typists = [Typist::at_a_page(&target), Typist::by_ssh(&target)];
    let calm = Typist::all_type_for(&mut typists, Duration::from_millis(1500));
    let (api, watch) = (Api::new(target.gateway()), json!({ "mode": "watch" }));
    let issued = api.post(&format!("/api/v1/terminals/{terminal}/tickets"), &watch);
    let before = resident(target.pid());
    let bounded = |when: &str| {
        let grown = resident(target.pid()).saturating_sub(before);
        assert!(grown < 32 << 20, "{when} the gateway has grown by {grown} bytes");
    };
    page.forget();
    page.types(&format!("seq 100000001 {}; echo do''ne.\r", 100_000_000 + LINES));
    page.reads_for(Duration::from_millis(500));
    let stopped = Instant::now();
    let mut beside = [Echoes::default(), Echoes::default()];
    while stopped.elapsed() < Duration::from_secs(60) {
        quick("beside a page that does not read");
        bounded("beside a page that does not read");
        let more = Typist::all_type_for(&mut typists, Duration::from_secs(5));
        for (echoes, more) in beside.iter_mut().zip(more) {
            echoes.0.extend(more.0);
        }
    }
    for (typist, (calm, beside)) in typists.iter().zip(calm.iter().zip(&beside)) {
        beside.are_as_quick_as(calm, typist.name());
    }
    drop(typists);
    let mut late = api.attach(issued["ticket"].as_str().expect("a ticket"), 80, 24);
    assert!(late.text("error")["text"].as_str().expect("a text").contains("ticket"));
    assert_eq!(late.close(), 4001, "a ticket of a minute ago");
    let (mut wanted, mut seen, mut held) = (*FIRST, 0, Vec::new());
    let reading = Instant::now();
    while seen < LINES {
        assert!(reading.elapsed() < Duration::from_secs(300), "{seen} of {LINES} lines");
        page.reads_for(Duration::from_millis(200));
        held.append(&mut page.output);
        page.forget();
        if seen == 0 {
            // Before it, there is what the shell has said of the command.
            let first = [&FIRST[..], b"\r\n"].concat();
            let start = held.windows(first.len()).position(|window| window == first);
            held.drain(..start.expect("the first line"));
        }
        let whole = (held.len() / LINE).min(LINES - seen);
        for line in held[..whole * LINE].chunks(LINE) {
            assert!(line.starts_with(&wanted) && line.ends_with(b"\r\n"), "line {seen} is lost or changed");
            seen += 1;
            for digit in wanted.iter_mut().rev() {
                *digit = if *digit == b'9' { b'0' } else { *digit + 1 };
                if *digit != b'0' {
                    break;
                }
            }
        }
        held.drain(..whole * LINE);
        bounded("after it reads again");
    }
    let took = reading.elapsed();
    page.output = held;
    page.sees("done.");
    quick("after");
    println!("a gigabyte in {took:?}");
}

#[test]
fn who_ends_a_session_is_named_to_the_page() {
    if skip::oracle_lacks("browser") {
        return;
    }
    let target = Target::start();
    let (mut page, _) = begin(&target);
    let session = target.gateway().json(&["session", "ls"])[0]["id"].as_str().expect("an id").to_owned();
    target.gateway().cli(&["session", "kill", &session]).ok();
    assert!(page.text("error")["text"].as_str().expect("a text").contains("ended by the owner"));
    assert_eq!(page.close(), 4004);
    let (mut page, terminal) = begin(&target);
    Api::new(target.gateway()).delete(&format!("/api/v1/terminals/{terminal}"));
    assert!(page.text("error")["text"].as_str().expect("a text").contains("ended by local owner"));
    assert_eq!(page.close(), 4004);
    let (mut page, _) = begin(&target);
    target.gateway().cli(&["sandbox", "stop", "box"]).ok();
    assert!(!page.text("error")["text"].as_str().expect("a text").is_empty());
    assert_eq!(page.close(), 4004);
}

#[test]
fn a_shell_that_nobody_comes_back_to_is_hung_up() {
    if skip::oracle_lacks("browser") {
        return;
    }
    let options = Options { extra_toml: "[terminal]\ngrace = \"2s\"\n".to_owned(), ..Options::default() };
    let target = Target::start_with(&options);
    let (mut page, terminal) = begin(&target);
    page.types("trap 'echo hung up >/tmp/hup; exit' HUP; echo tr''apped.; while :; do sleep 0.1; done\r");
    page.sees("trapped.");
    drop(page);
    let gone = || Api::new(target.gateway()).get("/api/v1/terminals") == json!([]);
    assert!(!gone());
    assert!(until(SOON, gone));
    let path = format!("/api/v1/terminals/{terminal}/tickets");
    assert!(
        Api::new(target.gateway()).refused(&path, &json!({ "mode": "write" })).contains("no such terminal")
    );
    assert!(until(SOON, || target.exec("cat /tmp/hup").stdout == b"hung up\n"), "as a lost SSH client's");
}
