//! What spans there are, in which tree, and what is never in them; the way to a collector over a real socket.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Instant;

use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SimpleSpanProcessor, SpanData, SpanExporter};
use sandgate_driver::NoProgress;
use sandgate_policy::{FileAccess, ForwardAccess, ForwardRules, Scopes, SessionAccess};
use time::OffsetDateTime;

use super::*;
use crate::session::SessionKind;

/// Spans as they were exported.
#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().extend(batch);
        Ok(())
    }
}

impl Kept {
    fn names(&self) -> Vec<String> {
        self.0.lock().iter().map(|span| span.name.to_string()).collect()
    }

    fn named(&self, name: &str) -> SpanData {
        let spans = self.0.lock();
        let mut found = spans.iter().filter(|span| span.name == name);
        let span = found.next().unwrap_or_else(|| panic!("no {name} in {spans:?}")).clone();
        assert!(found.next().is_none(), "more than one {name}");
        span
    }
}

/// What an attribute says; an empty text if it is not there.
fn attribute(span: &SpanData, key: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == key);
    found.map(|attribute| attribute.value.to_string()).unwrap_or_default()
}

fn config(ratio: f64) -> TelemetryConfig {
    let mut config = TelemetryConfig::new("http://127.0.0.1:9").expect("an endpoint");
    config.set_sample_ratio(ratio).expect("a ratio");
    config
}

fn traced(ratio: f64) -> (Telemetry, Kept) {
    let kept = Kept::default();
    let processor = SimpleSpanProcessor::new(kept.clone());
    (Telemetry::with(&config(ratio), processor, Arc::default()), kept)
}

fn peer() -> Peer {
    let client = "[::ffff:192.0.2.7]:4022".parse().expect("an address");
    Peer { client, server: "192.0.2.1:22".parse().expect("an address") }
}

fn principal() -> Principal {
    Principal {
        sandbox_id: "sb_1".to_owned(),
        sandbox_name: "box".to_owned(),
        credential: Credential::Token {
            id: "tok_1".to_owned(),
            label: "hush label".to_owned(),
            prefix: "sg_hush1".to_owned(),
        },
        scopes: Scopes::all(),
        expires_at: None,
        login_user: Some("hush user".to_owned()),
        files: FileAccess::default(),
        forward: ForwardAccess { credential: ForwardRules::default(), sandbox: ForwardRules::default() },
        session: SessionAccess::default(),
    }
}

fn info() -> SessionInfo {
    SessionInfo {
        id: "ses_1".to_owned(),
        sandbox: "box".to_owned(),
        sandbox_id: "sb_1".to_owned(),
        kind: SessionKind::Exec,
        pty: false,
        credential: "token tok_1 (hush label)".to_owned(),
        client: None,
        started_at: OffsetDateTime::UNIX_EPOCH,
        bytes_in: 0,
        bytes_out: 0,
        recording: None,
    }
}

/// One connection with one command, as the front door and the session core go through it.
fn connect_and_run(telemetry: &Telemetry) {
    let mut connection = telemetry.connection(&peer());
    drop(connection.connect());
    let mut auth = connection.auth("none");
    auth.decided("accepted");
    drop(auth);
    connection.logged_in(&principal());
    let mut session = telemetry.session(&connection.trace(), Some(&peer()), "box");
    let waking = session.waking(&NoProgress);
    waking.step("Starting sandbox hush");
    waking.step("again");
    waking.ended(Ok::<(), ()>(())).expect("awake");
    session.started(&info());
    drop(session.link());
    let mut first = session.first_byte();
    first.came();
    first.came();
    let traffic = Traffic::default();
    traffic.bytes_out.store(6, Ordering::Relaxed);
    session.ended("exited", Some(3), &traffic);
}

#[test]
fn a_connection_is_one_tree() {
    let (telemetry, kept) = traced(1.0);
    connect_and_run(&telemetry);
    assert_eq!(
        kept.names(),
        ["connect", "auth", "wake", "link", "first_byte", "session", "ssh.connection"],
        "in the order of their ends"
    );
    let root = kept.named("ssh.connection");
    assert_eq!((root.parent_span_id, root.span_kind.clone()), (SpanId::INVALID, SpanKind::Server));
    assert_ne!(root.span_context.trace_id(), TraceId::INVALID);
    let session = kept.named("session");
    for (name, parent) in [
        ("connect", &root),
        ("auth", &root),
        ("session", &root),
        ("wake", &session),
        ("link", &session),
        ("first_byte", &session),
    ] {
        let span = kept.named(name);
        assert_eq!(span.parent_span_id, parent.span_context.span_id(), "{name}");
        assert_eq!(span.span_context.trace_id(), root.span_context.trace_id(), "{name}");
        assert!(span.start_time >= parent.start_time && span.end_time <= parent.end_time, "{name}");
        assert_eq!(span.status, Status::Unset, "{name}");
    }
    assert_eq!(kept.named("first_byte").start_time, session.start_time);
}

#[test]
fn attributes_say_what_and_no_secret() {
    let (telemetry, kept) = traced(1.0);
    connect_and_run(&telemetry);
    for (span, key, value) in [
        ("ssh.connection", "client.address", "192.0.2.7"),
        ("ssh.connection", "client.port", "4022"),
        ("ssh.connection", "network.protocol.name", "ssh"),
        ("ssh.connection", "sandgate.sandbox.name", "box"),
        ("ssh.connection", "sandgate.credential.kind", "token"),
        ("auth", "sandgate.auth.method", "none"),
        ("auth", "sandgate.auth.outcome", "accepted"),
        ("session", "sandgate.sandbox.name", "box"),
        ("session", "sandgate.session.id", "ses_1"),
        ("session", "sandgate.session.kind", "exec"),
        ("session", "sandgate.session.terminal", "false"),
        ("session", "sandgate.session.outcome", "exited"),
        ("session", "process.exit.code", "3"),
        ("session", "sandgate.session.bytes_out", "6"),
    ] {
        assert_eq!(attribute(&kept.named(span), key), value, "{span} {key}");
    }
    // Neither a token nor its label or user, nor a line that somebody was told.
    let all = format!("{:?}", kept.0.lock());
    assert!(!all.contains("hush"), "{all}");
}

#[test]
fn nothing_is_made_when_off() {
    let telemetry = Telemetry::start(None).expect("nothing to do");
    let connection = telemetry.connection(&peer());
    assert!(connection.0.is_none() && connection.auth("none").0.is_none());
    for trace in [connection.trace(), Trace::default()] {
        let session = telemetry.session(&trace, Some(&peer()), "box");
        assert!(session.0.is_none() && session.first_byte().0.is_none());
        let waking = session.waking(&NoProgress);
        waking.step("Starting sandbox box");
        assert!(waking.wake.into_inner().is_none_or(|wake| wake.0.is_none()));
    }
    connect_and_run(&telemetry);
    let mut page = Page::default();
    telemetry.write(&mut page);
    assert_eq!(format!("{page:?}"), format!("{:?}", Page::default()));
}

#[test]
fn of_a_connection_that_is_not_sampled_there_is_nothing() {
    let (telemetry, kept) = traced(0.0);
    connect_and_run(&telemetry);
    assert_eq!(kept.names(), [""; 0]);
    // Half of them: whole trees only.
    let (telemetry, kept) = traced(0.5);
    for _ in 0..200 {
        connect_and_run(&telemetry);
    }
    let roots = kept.names().iter().filter(|name| *name == "ssh.connection").count();
    assert!((40..160).contains(&roots), "{roots} of 200");
    assert_eq!(kept.names().len(), roots * 7);
}

#[test]
fn other_doors_begin_traces_of_their_own() {
    let (telemetry, kept) = traced(1.0);
    drop(telemetry.session(&Trace::default(), Some(&peer()), "box"));
    let session = kept.named("session");
    assert_eq!((session.parent_span_id, session.span_kind.clone()), (SpanId::INVALID, SpanKind::Server));
    assert_eq!(attribute(&session, "client.address"), "192.0.2.7");
}

#[test]
fn what_did_not_happen_leaves_no_step() {
    let (telemetry, kept) = traced(1.0);
    let session = telemetry.session(&Trace::default(), None, "box");
    session.waking(&NoProgress).ended(Ok::<(), ()>(())).expect("awake");
    drop(session.first_byte());
    drop(session);
    assert_eq!(kept.names(), ["session"], "neither a wake nor a first byte");
}

#[test]
fn failures_are_words() {
    let (telemetry, kept) = traced(1.0);
    let mut session = telemetry.session(&Trace::default(), None, "box");
    let waking = session.waking(&NoProgress);
    waking.step("Starting sandbox box");
    waking.ended(Err::<(), ()>(())).expect_err("it does not start");
    session.failed("sandbox_not_started");
    drop(session);
    for name in ["wake", "session"] {
        let span = kept.named(name);
        assert_eq!(attribute(&span, "error.type"), "sandbox_not_started", "{name}");
        assert_eq!(span.status, Status::error(""), "{name}");
    }
}

/// Never done with a batch.
#[derive(Debug)]
struct Hung;

impl SpanExporter for Hung {
    async fn export(&self, _batch: Vec<SpanData>) -> OTelSdkResult {
        std::future::pending().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_holds_up_nobody() {
    let health = Arc::default();
    let telemetry = Telemetry::with(&config(1.0), export::batching(Hung, &health), health.clone());
    let began = Instant::now();
    // Seven spans each, more than there is room for.
    for _ in 0..1000 {
        connect_and_run(&telemetry);
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let mut page = Page::default();
    telemetry.write(&mut page);
    let page = format!("{page:?}");
    assert!(page.contains("{result=\\\"lost\\\"} ") && !page.contains("{result=\\\"lost\\\"} 0"), "{page}");
    let began = Instant::now();
    telemetry.close().await;
    assert!(began.elapsed() < FLUSH + Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn who_does_not_close_it_does_not_wait() {
    let health = Arc::default();
    let telemetry = Telemetry::with(&config(1.0), export::batching(Hung, &health), health.clone());
    connect_and_run(&telemetry);
    let began = Instant::now();
    drop(telemetry);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

/// Answers one request with 200 and gives what it was.
fn collector() -> (std::net::SocketAddr, std::thread::JoinHandle<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let served = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("a connection");
        let mut read = Vec::new();
        loop {
            let mut piece = [0; 4096];
            let count = socket.read(&mut piece).expect("a request");
            assert!(count > 0, "the request is cut short");
            read.extend_from_slice(&piece[..count]);
            let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.expect("a length").parse().expect("a number");
            if read.len() >= end + 4 + length {
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("an answer");
                return (head, read[end + 4..].to_vec());
            }
        }
    });
    (address, served)
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_are_posted_with_the_headers() {
    let (address, served) = collector();
    let mut config = TelemetryConfig::new(&format!("http://{address}")).expect("an endpoint");
    config.set_header("x-api-key", "hush").expect("a header");
    let telemetry = Telemetry::start(Some(&config)).expect("a client");
    connect_and_run(&telemetry);
    telemetry.close().await;
    let (head, body) = served.join().expect("a request");
    assert!(head.starts_with("post /v1/traces http/1.1"), "{head}");
    for line in ["x-api-key: hush", "content-type: application/x-protobuf"] {
        assert!(head.lines().any(|it| it == line), "no {line} in {head}");
    }
    for text in ["service.name", "sandgate", "ssh.connection", "first_byte"] {
        assert!(body.windows(text.len()).any(|it| it == text.as_bytes()), "no {text}");
    }
    assert!(!body.windows(4).any(|it| it == b"hush"));
}
