//! The HTTP API with real sandboxes: keys of all roles, one-shot commands, TLS, and the document put to the test by schemathesis.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests report by panicking")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sandgate_tests::client::DEADLINE;
use sandgate_tests::forward::{Near, Server};
use sandgate_tests::gateway::Gateway;
use sandgate_tests::process::{Guard, Output};
use sandgate_tests::target::Options;
use sandgate_tests::{Feed, Target, data, paths, run, skip, wait};
use serde_json::{Value, json};

/// How long schemathesis may take.
const EXAMINATION: Duration = Duration::from_secs(170);

struct Api<'a> {
    gateway: &'a Gateway,
    key: String,
}

impl Api<'_> {
    /// With a new key of this role.
    fn new<'a>(gateway: &'a Gateway, role: &str) -> Api<'a> {
        let made = gateway.json(&["api-key", "create", role, "--role", role]);
        Api { gateway, key: made["key"].as_str().unwrap().to_owned() }
    }

    /// One request by curl; gives the status and the body.
    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let mut command = Command::new("curl");
        command.args(["-sS", "-X", method, "-w", "\n%{http_code}"]);
        // Not as an argument: those are for all to see.
        let mut header = tempfile::NamedTempFile::new().unwrap();
        writeln!(header, "Authorization: Bearer {}", self.key).unwrap();
        command.arg("-H").arg(format!("@{}", header.path().display()));
        let mut feed = Feed::Null;
        if let Some(body) = body {
            command.args(["--data-binary", "@-"]);
            feed = Feed::Bytes(body.to_string().into_bytes());
        }
        command.arg(format!("http://127.0.0.1:{}/api/v1{path}", self.gateway.http_port));
        let said = run(&mut command, feed, DEADLINE).ok();
        let (body, status) = said.rsplit_once('\n').unwrap();
        let body = if body.is_empty() { Value::Null } else { serde_json::from_str(body).expect(body) };
        (status.parse().unwrap(), body)
    }

    #[track_caller]
    fn exec(&self, request: &Value) -> Value {
        let (status, answer) = self.ask("POST", "/sandboxes/box/exec", Some(request));
        assert_eq!(status, 200, "{answer}");
        answer
    }
}

/// What an output of an answer holds.
fn bytes(output: &Value) -> Vec<u8> {
    let text = output["data"].as_str().unwrap();
    if output["encoding"] == "base64" { STANDARD.decode(text).unwrap() } else { text.as_bytes().to_vec() }
}

#[test]
fn a_command_by_http_is_what_it_is_by_ssh() {
    if skip::oracle_lacks("HTTP") {
        return;
    }
    let target = Target::start();
    let api = Api::new(target.gateway(), "user");
    for command in [
        "true",
        "exit 7",
        "echo out; echo err >&2",
        "pwd; id -un; echo $0 $SHELL $HOME $USER",
        "nosuchcommand",
        "printf '\\377\\376'",
        "seq 1 20000",
        "cat",
        "env | cut -d= -f1 | grep -v ^SSH_ | sort",
    ] {
        let by_ssh = target.exec(command);
        let by_http = api.exec(&json!({ "command": command }));
        assert_eq!(by_http["end"], "exited", "{by_http}");
        assert_eq!(by_http["exit_code"], by_ssh.code, "{command}");
        assert_eq!(bytes(&by_http["stdout"]), by_ssh.stdout, "{command}");
        assert_eq!(bytes(&by_http["stderr"]), by_ssh.stderr, "{command}");
    }
    let killed = api.exec(&json!({ "command": "kill -9 $$" }));
    assert_eq!((&killed["end"], &killed["signal"]), (&json!("signaled"), &json!("KILL")));
    assert_eq!(killed["exit_code"], 137);
}

#[test]
fn a_command_gets_its_input_its_variables_its_user_and_its_time() {
    if skip::oracle_lacks("HTTP") {
        return;
    }
    let target = Target::start();
    let api = Api::new(target.gateway(), "user");
    let sent = data::all_values(1 << 20);
    let back = api.exec(&json!({ "argv": ["cat"], "stdin_base64": STANDARD.encode(&sent) }));
    assert!(bytes(&back["stdout"]) == sent, "other bytes came back");
    let text = api.exec(&json!({ "argv": ["tr", "a-z", "A-Z"], "stdin": "grüße" }));
    assert_eq!(text["stdout"], json!({ "encoding": "utf-8", "data": "GRüßE" }));
    let env = api.exec(&json!({ "command": "echo $COLOUR", "env": { "COLOUR": "a b" } }));
    assert_eq!(bytes(&env["stdout"]), b"a b\n");
    let user = api.exec(&json!({ "argv": ["id", "-un"], "user": "nobody" }));
    assert_eq!(bytes(&user["stdout"]), b"nobody\n", "{user}");
    // Words are not looked at by a shell.
    let words = api.exec(&json!({ "argv": ["printf", "%s|", "$HOME", "a  b", ""] }));
    assert_eq!(bytes(&words["stdout"]), b"$HOME|a  b||");

    let slow = api.exec(&json!({ "command": "echo first; sleep 3131", "timeout_seconds": 1 }));
    assert_eq!((&slow["end"], &slow["exit_code"]), (&json!("timed-out"), &Value::Null));
    assert_eq!(bytes(&slow["stdout"]), b"first\n", "what it said before is told");
    let gone = || api.exec(&json!({ "command": "pgrep -fx 'sleep 3131'" }))["exit_code"] == 1;
    assert!(wait::until(Duration::from_secs(20), gone), "the command lives on");

    let flood = api.exec(&json!({ "command": "yes" }));
    assert_eq!(flood["end"], "output-limit", "{}", flood["detail"]);
    let sessions = || target.gateway().json(&["session", "ls"]) == json!([]);
    assert!(wait::until(Duration::from_secs(20), sessions), "a session stays");
}

#[test]
fn an_api_key_that_is_revoked_ends_its_commands_and_is_nowhere_in_clear() {
    if skip::oracle_lacks("HTTP") {
        return;
    }
    let target = Target::start();
    let gateway = target.gateway();
    let api = Api::new(gateway, "user");
    let id = gateway.json(&["api-key", "ls"])[0]["id"].as_str().unwrap().to_owned();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| api.exec(&json!({ "command": "echo on; sleep 3132" })));
        let runs = || !gateway.json(&["session", "ls"]).as_array().unwrap().is_empty();
        assert!(wait::until(DEADLINE, runs), "the command does not start");
        gateway.cli(&["api-key", "revoke", &id]).ok();
        let answer = running.join().unwrap();
        assert_eq!(
            (&answer["end"], &answer["detail"]),
            (&json!("ended"), &json!("Your API key was revoked."))
        );
    });
    let (status, problem) = api.ask("GET", "/whoami", None);
    assert_eq!(status, 401);
    assert!(problem["detail"].as_str().unwrap().contains("was revoked at"), "{problem}");
    let audit = gateway.json(&["audit", "--action", "api-key."]);
    let actions: Vec<_> =
        audit.as_array().unwrap().iter().map(|row| row["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["api-key.create", "api-key.revoke"]);
    assert!(!gateway.log().contains(&api.key[..9]), "the log holds the key");
    for entry in std::fs::read_dir(gateway.data_dir()).unwrap().flatten().filter(|it| it.path().is_file()) {
        let held = std::fs::read(entry.path()).unwrap();
        let part = &api.key.as_bytes()[..9];
        assert!(!held.windows(part.len()).any(|it| it == part), "{:?} holds the key", entry.path());
    }
}

/// A new certificate for 127.0.0.1, signed by itself.
fn certificate(dir: &Path, name: &str) {
    let mut command = Command::new("openssl");
    command.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]);
    command.args(["-subj", &format!("/CN={name}"), "-addext", "subjectAltName=IP:127.0.0.1"]);
    command.arg("-keyout").arg(dir.join("new-key.pem")).arg("-out").arg(dir.join("new-cert.pem"));
    run(&mut command, Feed::Null, DEADLINE).ok();
    std::fs::rename(dir.join("new-key.pem"), dir.join("key.pem")).unwrap();
    std::fs::rename(dir.join("new-cert.pem"), dir.join("cert.pem")).unwrap();
}

#[test]
fn tls_is_served_with_the_certificate_that_is_there_now() {
    if skip::oracle_lacks("HTTP") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path(), "first");
    let files = dir.path().display();
    let options = Options {
        extra_toml: format!(
            "[http]\ntls_certificate = \"{files}/cert.pem\"\ntls_key = \"{files}/key.pem\"\n"
        ),
        ..Options::default()
    };
    let target = Target::start_with(&options);
    let url = format!("https://127.0.0.1:{}/healthz", target.gateway().http_port);
    let ask = |authority: &Path| -> Output {
        run(Command::new("curl").args(["-sS", "--cacert"]).arg(authority).arg(&url), Feed::Null, DEADLINE)
    };
    let first = dir.path().join("first.pem");
    std::fs::copy(dir.path().join("cert.pem"), &first).unwrap();
    assert_eq!(ask(&first).ok(), "ok");
    let link = target.gateway().json(&["login-link"]);
    assert!(link["url"].as_str().unwrap().starts_with("https://127.0.0.1:"), "{link}");

    // A broken one changes nothing; a good one is taken without a restart.
    std::fs::write(dir.path().join("cert.pem"), "no certificate").unwrap();
    let warned = || target.log().contains("the old one stays");
    assert!(wait::until(DEADLINE, warned), "{}", target.log());
    assert_eq!(ask(&first).ok(), "ok");
    certificate(dir.path(), "second");
    let second = dir.path().join("cert.pem");
    assert!(wait::until(DEADLINE, || ask(&second).code == 0), "the new certificate is not taken");
    assert_ne!(ask(&first).code, 0, "the old certificate is still served");
}

#[test]
fn heavy_schemathesis_finds_no_failure() {
    if skip::oracle_lacks("HTTP") {
        return;
    }
    let examiner = paths::venv("schemathesis");
    if !examiner.exists() {
        skip::because("schemathesis is not installed: run tests/setup.sh");
        return;
    }
    let target = Target::start();
    let gateway = target.gateway();
    let api = Api::new(gateway, "admin");
    let dir = tempfile::tempdir().unwrap();
    let settings = std::fs::read_to_string(paths::workspace().join("tests/schemathesis.toml")).unwrap();
    std::fs::write(dir.path().join("schemathesis.toml"), settings).unwrap();
    let base = format!("http://127.0.0.1:{}/api/v1", gateway.http_port);
    let mut command = Command::new(examiner);
    command.current_dir(dir.path()).env("SANDGATE_API_KEY", &api.key).env("NO_COLOR", "1");
    command.args(["run", &format!("{base}/openapi.json"), "--url", &base, "--no-color", "--seed", "1"]);
    let report = run(&mut command, Feed::Null, EXAMINATION);
    assert_eq!(report.code, 0, "{}\n{}", report.text(), report.errors());
    assert!(
        report.text().contains("No issues found") || report.text().contains("passed"),
        "{}",
        report.text()
    );
    // It made and removed things at will; the gateway is as it was.
    assert_eq!(api.ask("GET", "/status", None).0, 200);
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
}

/// What is counted is what has happened, by whichever door.
#[test]
fn the_numbers_for_operators_are_those_of_what_has_happened() {
    if skip::oracle_lacks("HTTP") {
        return;
    }
    let target = Target::start();
    let api = Api::new(target.gateway(), "user");
    target.exec("head -c 100000 /dev/zero").exits(0);
    target.exec_with("cat >/dev/null; exit 3", vec![b'x'; 50_000]).exits(3);
    api.exec(&json!({ "command": "true" }));
    let mut stranger = target.ssh(&["-l", "sg_00000000000000000000000000000000", "box", "true"]);
    assert_eq!(run(&mut stranger, Feed::Null, DEADLINE).code, 255);
    let link = target.gateway().json(&["login-link"]);
    let code = &link["code"];
    for (body, status) in [
        (json!({ "key": api.key }), 200),
        (json!({ "key": "sgk_wrong" }), 401),
        (json!({ "code": code }), 200),
        (json!({ "code": code }), 401),
    ] {
        assert_eq!(api.ask("POST", "/login", Some(&body)).0, status);
    }
    let look = || {
        let mut get = Command::new("curl");
        get.args(["-sf", &format!("http://127.0.0.1:{}/metrics", target.gateway().http_port)]);
        run(&mut get, Feed::Null, DEADLINE).ok()
    };
    let number = |page: &str, name: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).parse::<f64>().unwrap()
    };
    {
        let server = Server::start(&target, "echo", "0");
        let near = wait::free_port().to_string();
        let _master = target.master_with(&["-L", &format!("{near}:127.0.0.1:{}", server.at)]);
        let mut near = Near::connect(&near);
        near.write(b"hi").unwrap();
        assert_eq!(near.read(2).unwrap(), b"hi");
        let page = look();
        for (kind, count) in [("session", 1.0), ("direct-tcpip", 1.0), ("auth-agent", 0.0)] {
            let name = format!("sandgate_ssh_channels{{kind=\"{kind}\"}}");
            assert_eq!(number(&page, &name), count, "{name}: {page}");
        }
    }
    let mut page = String::new();
    let ended = wait::until(DEADLINE, || {
        page = look();
        number(&page, "sandgate_sessions") == 0.0
            && number(&page, "sandgate_ssh_channels{kind=\"direct-tcpip\"}") == 0.0
    });
    assert!(ended, "{page}");
    for (name, least) in [
        ("sandgate_ssh_connections_total", 3.0),
        ("sandgate_ssh_logins_total{result=\"accepted\"}", 2.0),
        ("sandgate_ssh_logins_total{result=\"refused\"}", 1.0),
        ("sandgate_sessions_started_total{kind=\"exec\"}", 3.0),
        ("sandgate_session_start_seconds_count", 3.0),
        ("sandgate_session_bytes_total{direction=\"from_client\"}", 50_000.0),
        ("sandgate_session_bytes_total{direction=\"to_client\"}", 100_000.0),
    ] {
        assert!(number(&page, name) >= least, "{name} is less than {least}: {page}");
    }
    for (name, value) in [
        ("sandgate_draining", 0.0),
        ("sandgate_link_errors_total", 0.0),
        ("sandgate_session_start_seconds_bucket{le=\"60\"}", 4.0),
        ("sandgate_ssh_channels{kind=\"session\"}", 0.0),
        ("sandgate_ssh_channels_opened_total{kind=\"session\"}", 3.0),
        ("sandgate_ssh_channels_opened_total{kind=\"direct-tcpip\"}", 1.0),
        ("sandgate_http_logins_total{result=\"key\"}", 1.0),
        ("sandgate_http_logins_total{result=\"link\"}", 1.0),
        ("sandgate_http_logins_total{result=\"refused\"}", 2.0),
    ] {
        assert_eq!(number(&page, name), value, "{name}: {page}");
    }
}

/// What a sandbox uses is shown while it runs, by the API and by the command line.
#[test]
fn a_sandbox_that_eats_memory_and_time_shows_it() {
    if skip::oracle_lacks("HTTP") {
        return;
    }
    let target = Target::start();
    let gateway = target.gateway();
    let api = Api::new(gateway, "user");
    target.exec("true").exits(0);
    let look = || api.ask("GET", "/sandboxes/box", None).1;
    let idle = look();
    if idle["usage"].is_null() {
        assert!(idle["warnings"].to_string().contains("cgroup"), "{idle}");
        return skip::because("no control group can be written here, so nobody counts what a sandbox uses");
    }
    let limits = &idle["usage"];
    assert_eq!(limits["memory_limit_bytes"], json!(1 << 30), "{idle}");
    assert!(limits["memory_bytes"].as_u64().unwrap() < 64 << 20, "{idle}");
    assert!(limits["processes"].as_u64() < limits["processes_limit"].as_u64(), "{idle}");

    let mut eater = target.ssh(&["box", "x=$(head -c 67108864 /dev/zero | tr '\\0' x); while :; do :; done"]);
    let eater = Guard::spawn(eater.stdin(Stdio::null()));
    let cpu = |seen: &Value| seen["usage"]["cpu_seconds"].as_f64().unwrap();
    let mut seen = Value::Null;
    let eats = wait::until(DEADLINE, || {
        seen = look();
        seen["usage"]["memory_bytes"].as_u64().unwrap() > 64 << 20 && cpu(&seen) > cpu(&idle) + 0.5
    });
    assert!(eats, "{idle}\n{seen}");
    assert!(seen["usage"]["processes"].as_u64().unwrap() >= 2, "{seen}");
    // In the list as by itself.
    let listed = &api.ask("GET", "/sandboxes", None).1[0];
    assert!(cpu(listed) >= cpu(&seen), "{listed}");
    let shown = gateway.cli(&["sandbox", "inspect", "box"]).ok();
    assert!(
        shown.contains(" MiB of 1024 MiB of memory") && shown.contains("processes and threads"),
        "{shown}"
    );

    drop(eater);
    let rests = || look()["usage"]["memory_bytes"].as_u64().unwrap() < 64 << 20;
    assert!(wait::until(DEADLINE, rests), "{}", look());
    gateway.cli(&["sandbox", "stop", "box"]).ok();
    assert!(look()["usage"].is_null(), "{}", look());
}
