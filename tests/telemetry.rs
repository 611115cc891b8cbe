//! Traces by OTLP, as a collector gets them; and collectors that hang or are away.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use sandgate_tests::client::DEADLINE;
use sandgate_tests::{Feed, Options, Target, paths, run, skip, wait};

/// A header's value, which must be seen by the collector and by nobody else.
const SECRET: &str = "Bearer hush-hush";
/// Spans wait for 5 s before they are sent; a busy machine takes longer for everything.
const EXPORTED: Duration = Duration::from_secs(30);

/// What a collector does with requests.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Answers,
    Hangs,
}

/// Heads and bodies.
type Requests = Vec<(String, Vec<u8>)>;

/// A collector on loopback.
struct Collector {
    address: SocketAddr,
    requests: Arc<Mutex<Requests>>,
}

impl Collector {
    fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = requests.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let kept = kept.clone();
                std::thread::spawn(move || serve(socket, manner, &kept));
            }
        });
        Self { address, requests }
    }

    fn toml(&self) -> String {
        format!(
            "[telemetry]\notlp_endpoint = \"http://{}\"\nservice_name = \"door\"\n\
             headers = {{ authorization = \"{SECRET}\" }}\n",
            self.address
        )
    }

    fn requests(&self) -> Requests {
        self.requests.lock().unwrap().clone()
    }

    fn exports(&self) -> Vec<ExportTraceServiceRequest> {
        let requests = self.requests();
        requests.iter().map(|(_, body)| ExportTraceServiceRequest::decode(&body[..]).unwrap()).collect()
    }

    fn spans(&self) -> Vec<Span> {
        let resources = self.exports().into_iter().flat_map(|export| export.resource_spans);
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }

    /// The spans of all traces that have been exported with their outermost span, by trace.
    fn traces(&self) -> Vec<BTreeMap<String, Span>> {
        let spans = self.spans();
        let roots = spans.iter().filter(|span| span.parent_span_id.is_empty());
        roots
            .map(|root| {
                let of_it = spans.iter().filter(|span| span.trace_id == root.trace_id);
                of_it.map(|span| (span.name.clone(), span.clone())).collect()
            })
            .collect()
    }

    /// The one trace that `wanted` is true of, once it is there.
    #[track_caller]
    fn trace(&self, wanted: impl Fn(&BTreeMap<String, Span>) -> bool) -> BTreeMap<String, Span> {
        let mut found = Vec::new();
        wait::until(EXPORTED, || {
            found = self.traces().into_iter().filter(|trace| wanted(trace)).collect();
            !found.is_empty()
        });
        assert_eq!(found.len(), 1, "{found:#?} of {:#?}", self.spans());
        found.remove(0)
    }
}

/// One connection, for as many requests as come by it.
fn serve(socket: TcpStream, manner: Manner, kept: &Mutex<Requests>) {
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    let mut socket = socket;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if !reader.read_line(&mut head).is_ok_and(|count| count > 0) {
                return;
            }
        }
        let lower = head.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length:"));
        let mut body = vec![0; length.unwrap().trim().parse().unwrap()];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        kept.lock().unwrap().push((head, body));
        if manner == Manner::Hangs {
            // Until the other side gives up.
            let _ = reader.read(&mut [0]);
            return;
        }
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        if socket.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn start(toml: &str) -> Target {
    Target::start_with(&Options { extra_toml: toml.to_owned(), ..Options::default() })
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(yes) => Some(yes.to_string()),
        other => panic!("{key} is {other:?}"),
    }
}

/// What the page of metrics has of traces.
fn metrics(target: &Target) -> Vec<String> {
    let mut command = Command::new("curl");
    command.args(["-sf", &format!("http://127.0.0.1:{}/metrics", target.gateway().http_port)]);
    let page = run(&mut command, Feed::Null, DEADLINE).ok();
    assert!(page.contains("sandgate_ssh_connections_total"), "{page}");
    page.lines().filter(|line| line.starts_with("sandgate_trace_spans_total")).map(str::to_owned).collect()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|it| it == text.as_bytes())
}

#[test]
fn a_login_and_a_command_are_one_trace() {
    if skip::oracle_lacks("traces") {
        return;
    }
    let collector = Collector::start(Manner::Answers);
    let target = start(&collector.toml());
    target.gateway().cli(&["sandbox", "stop", "box"]).ok();
    assert_eq!(target.exec("echo a-word; exit 3").exits(3).text(), "a-word\n");
    let trace =
        collector.trace(|trace| trace.contains_key("session") && trace.contains_key("ssh.connection"));

    let names: Vec<&str> = trace.keys().map(String::as_str).collect();
    assert_eq!(names, ["auth", "connect", "first_byte", "link", "session", "ssh.connection", "wake"]);
    let (root, session) = (&trace["ssh.connection"], &trace["session"]);
    for (name, parent) in [
        ("connect", root),
        ("auth", root),
        ("session", root),
        ("wake", session),
        ("link", session),
        ("first_byte", session),
    ] {
        let span = &trace[name];
        assert_eq!(span.parent_span_id, parent.span_id, "{name}");
        assert_eq!(span.trace_id, root.trace_id, "{name}");
        assert!(span.start_time_unix_nano >= parent.start_time_unix_nano, "{name} begins too early");
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano, "{name} ends too early");
        assert!(span.end_time_unix_nano <= parent.end_time_unix_nano, "{name} ends too late");
    }
    // In the order of a user's wait.
    let ends = ["connect", "auth", "wake", "link", "first_byte"].map(|name| trace[name].end_time_unix_nano);
    assert!(ends.is_sorted(), "{ends:?}");
    for (name, key, value) in [
        ("ssh.connection", "client.address", "127.0.0.1"),
        ("ssh.connection", "sandgate.sandbox.name", "box"),
        ("ssh.connection", "sandgate.credential.kind", "token"),
        ("auth", "sandgate.auth.method", "none"),
        ("auth", "sandgate.auth.outcome", "accepted"),
        ("session", "sandgate.session.kind", "exec"),
        ("session", "sandgate.session.outcome", "exited"),
        ("session", "process.exit.code", "3"),
        ("session", "sandgate.session.bytes_out", "7"),
    ] {
        assert_eq!(attribute(&trace[name].attributes, key).as_deref(), Some(value), "{name} {key}");
    }

    let export = &collector.exports()[0].resource_spans[0];
    let resource = export.resource.as_ref().unwrap();
    assert_eq!(attribute(&resource.attributes, "service.name").as_deref(), Some("door"));
    assert!(attribute(&resource.attributes, "service.version").is_some());
    for (head, body) in collector.requests() {
        assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
        assert!(head.contains(SECRET), "{head}");
        // The first characters of a token are in no span either, nor what was run.
        assert!(!holds(&body, &target.login[..8]) && !holds(&body, "a-word"));
    }
    assert!(!target.log().contains("hush-hush"), "a header's value is in the log");
    let metrics = metrics(&target);
    assert!(
        metrics.iter().any(|line| line == "sandgate_trace_spans_total{result=\"lost\"} 0"),
        "{metrics:?}"
    );
}

#[test]
fn other_doors_are_traced_and_the_last_spans_go_at_the_end() {
    if skip::oracle_lacks("traces") {
        return;
    }
    let collector = Collector::start(Manner::Answers);
    let mut target = start(&collector.toml());
    let exec = target.gateway().cli(&["exec", "box", "--", "sh", "-c", "echo out; kill -TERM $$"]);
    exec.exits(143);
    let refused = {
        let mut command = target.ssh(&["-l", "sg_0000000000", "box", "true"]);
        run(&mut command, Feed::Null, DEADLINE)
    };
    refused.exits(255);
    // Long before a batch is due.
    assert_eq!(target.gateway_mut().terminate(Duration::from_secs(20)), Some(0));
    let by_exec = collector.trace(|trace| !trace.contains_key("ssh.connection"));
    let names: Vec<&str> = by_exec.keys().map(String::as_str).collect();
    assert_eq!(names, ["first_byte", "link", "session"], "a sandbox that runs is not woken");
    let session = &by_exec["session"].attributes;
    assert_eq!(attribute(session, "sandgate.session.outcome").as_deref(), Some("signalled"));
    assert_eq!(attribute(session, "process.exit.code").as_deref(), Some("143"));
    // The client tries its key as well, which is one more attempt.
    let spans = collector.spans();
    let is_refused = |span: &&Span| {
        let outcome = attribute(&span.attributes, "sandgate.auth.outcome");
        span.name == "auth" && outcome.as_deref() == Some("refused")
    };
    let refused = spans.iter().find(is_refused).unwrap_or_else(|| panic!("no refusal in {spans:#?}"));
    let beside = spans.iter().filter(|span| span.trace_id == refused.trace_id);
    assert!(beside.into_iter().all(|span| span.name != "session"), "{spans:#?}");
}

/// How long a command takes: the median of five.
fn median(target: &Target) -> Duration {
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            let output = target.exec("echo x");
            output.ok();
            output.took
        })
        .collect();
    times.sort();
    times[2]
}

#[test]
fn timed_a_collector_that_hangs_delays_nothing() {
    if skip::oracle_lacks("traces") {
        return;
    }
    let without = start("");
    let expected = median(&without);
    drop(without);
    let collector = Collector::start(Manner::Hangs);
    let mut target = start(&collector.toml());
    assert_eq!(target.exec("echo x").ok(), "x");
    assert!(wait::until(EXPORTED, || !collector.requests().is_empty()), "nothing was sent");
    let hung = median(&target);
    assert!(hung < expected * 2 + Duration::from_millis(100), "{hung:?}, without a collector {expected:?}");
    let began = Instant::now();
    assert_eq!(target.gateway_mut().terminate(Duration::from_secs(20)), Some(0), "{}", target.log());
    assert!(began.elapsed() < Duration::from_secs(8), "it took {:?} to end", began.elapsed());
}

#[test]
fn a_collector_that_is_away_is_told_once() {
    if skip::oracle_lacks("traces") {
        return;
    }
    let away = wait::free_port();
    let target = start(&format!("[telemetry]\notlp_endpoint = \"http://127.0.0.1:{away}\"\n"));
    let told = || {
        let log = target.log();
        log.lines().filter(|line| line.contains("WARN") && line.contains("traces cannot be exported")).count()
    };
    assert_eq!(target.exec("echo x").ok(), "x");
    assert!(wait::until(EXPORTED, || told() == 1), "{}", target.log());
    // Two batches more.
    for _ in 0..2 {
        assert_eq!(target.exec("echo x").ok(), "x");
        std::thread::sleep(Duration::from_secs(7));
    }
    assert_eq!(told(), 1, "{}", target.log());
    let log = target.log();
    let line = log.lines().find(|line| line.contains("traces cannot be exported")).unwrap();
    assert!(line.contains("refused"), "the cause is not named: {line}");
    let lost = metrics(&target);
    let lost = lost.iter().find_map(|line| line.strip_prefix("sandgate_trace_spans_total{result=\"lost\"} "));
    assert!(lost.unwrap().parse::<u64>().unwrap() > 7, "{lost:?}");
}

#[test]
fn off_unless_asked_for_and_mistakes_refuse_the_start() {
    if skip::oracle_lacks("traces") {
        return;
    }
    let target = start("");
    assert_eq!(target.exec("echo x").ok(), "x");
    assert_eq!(metrics(&target), [""; 0]);
    for (toml, says) in [
        ("otlp_endpoint = \"collector:4317\"", "telemetry.otlp_endpoint must be an address by http or https"),
        (
            "otlp_endpoint = \"http://x\"\nsample_ratio = 1.5",
            "telemetry.sample_ratio must be a number from 0",
        ),
        ("otlp_endpoint = \"http://x\"\nsampling = 1", "unknown field `sampling`"),
        ("otlp_endpoint = \"http://x\"\nheaders = { \"a b\" = \"hush\" }", "\"a b\" cannot be the name"),
        ("otlp_endpoint = \"http://x\"\nheaders = { a = \"hush\", b = 1 }", "\"b\" must be a string"),
        ("otlp_endpoint = \"http://me:hush@x\"", "must not hold a login"),
        ("sample_ratio = 1", "of no use without telemetry.otlp_endpoint"),
    ] {
        let (file, data) = (target.dir().join("bad.toml"), target.dir().join("bad"));
        std::fs::write(&file, format!("[telemetry]\n{toml}\n")).unwrap();
        let mut command = Command::new(paths::sandgate());
        command.arg("serve").arg("--data-dir").arg(&data).args(["--ssh-listen", "127.0.0.1:0", "--config"]);
        let output = run(command.arg(&file), Feed::Null, DEADLINE);
        output.exits(1);
        assert!(output.errors().contains(says), "{toml}: {}", output.errors());
        assert!(!output.errors().contains("hush"), "{toml}: {}", output.errors());
    }
}
