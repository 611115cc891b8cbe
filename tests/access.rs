//! Who gets in, with what, for how long, and what those are told who do not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

#[allow(dead_code, reason = "the tests of commands need more of it")]
#[path = "browser/stream.rs"]
mod stream;

use std::process::Stdio;
use std::time::{Duration, Instant};

use sandgate_tests::client::{DEADLINE, make_key};
use sandgate_tests::process::Guard;
use sandgate_tests::raw::codec::{self, Writer};
use sandgate_tests::raw::{Client, Proof};
use sandgate_tests::terminal::Terminal;
use sandgate_tests::wait::until;
use sandgate_tests::{Feed, Options, Output, Target, http, run, skip};
use serde_json::json;
use tungstenite::Message;

/// `ssh USER@… COMMAND` with messages for the user shown.
fn as_user(target: &Target, user: &str, args: &[&str]) -> Output {
    run(target.ssh(&["-o", "LogLevel=INFO", "-l", user, "box"]).args(args), Feed::Null, DEADLINE)
}

#[track_caller]
fn denied(output: &Output) {
    assert_eq!(output.code, 255, "{output:?}");
    assert!(output.errors().contains("Permission denied"), "{}", output.errors());
    assert!(output.stdout.is_empty());
}

/// The same token with one character of its secret changed.
fn altered(token: &str) -> String {
    let mut bytes = token.as_bytes().to_vec();
    let at = bytes.len() / 2;
    bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_wrong_token_is_a_refused_login() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let target = Target::start();
    let long = format!("sg_{}", "a".repeat(300));
    for user in [&altered(&target.login), "sg_", "sg_nonsense", &long, "root", "box", "no-such-box", "ümläut"]
    {
        denied(&as_user(&target, user, &["echo never"]));
    }
    assert_eq!(as_user(&target, &target.login, &["echo in"]).ok(), "in");
}

#[test]
fn tokens_have_a_usable_form() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let target = Target::start();
    let token = &target.login;
    assert!(token.starts_with("sg_") && token.len() <= 48, "{} characters", token.len());
    assert!(
        token.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'_'),
        "odd characters"
    );
    assert_ne!(token, &target.gateway().token("box", &[]).token);
    let answer = target.gateway().json(&["token", "create", "box", "--ttl", "1h", "--label", "for ci"]);
    assert!(answer["ssh_command"].as_str().unwrap().contains(&format!("-p {}", target.port)), "{answer}");
    assert!(answer["expires_at"].is_string() || answer["expires_at"].is_number(), "{answer}");
    let list = target.gateway().json(&["token", "ls"]).to_string();
    assert!(list.contains("for ci") && !list.contains(answer["token"].as_str().unwrap()), "{list}");
}

#[test]
fn an_expired_token_says_so_to_its_holder_only() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let target = Target::start();
    let token = target.gateway().token("box", &["--ttl", "1s"]).token;
    std::thread::sleep(Duration::from_millis(1500));
    let output = as_user(&target, &token, &["echo never"]);
    denied(&output);
    assert!(output.errors().contains("expired at"), "{}", output.errors());
    let output = as_user(&target, &altered(&token), &["echo never"]);
    denied(&output);
    assert!(!output.errors().contains("expired"), "{}", output.errors());
}

/// A session of each kind that is up, on its own connection.
fn long_sessions(target: &Target, token: &str) -> Vec<(&'static str, Guard, std::path::PathBuf)> {
    let kinds: [(&str, &[&str]); 3] = [
        ("exec", &["box", "echo up; sleep 60"]),
        ("terminal", &["-tt", "box", "echo up; sleep 60"]),
        ("no channel", &["-N", "box"]),
    ];
    let spawn = |(index, (kind, args)): (usize, (&'static str, &[&str]))| {
        let file = target.dir().join(format!("live{index}"));
        let mut command = target.ssh(&["-o", "LogLevel=INFO", "-l", token]);
        let out = std::fs::File::create(&file).unwrap();
        command.args(args).stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        (kind, Guard::spawn(&mut command), file)
    };
    let sessions: Vec<_> = kinds.into_iter().enumerate().map(spawn).collect();
    let text = |file: &std::path::Path| std::fs::read_to_string(file).unwrap();
    let up = until(Duration::from_secs(20), || sessions.iter().take(2).all(|it| text(&it.2).contains("up")));
    assert!(up, "the sessions did not come up");
    std::thread::sleep(Duration::from_millis(500));
    sessions
}

#[track_caller]
fn ended_within(
    sessions: Vec<(&'static str, Guard, std::path::PathBuf)>,
    since: Instant,
    bound: Duration,
    word: &str,
) {
    for (kind, mut session, file) in sessions {
        let code = session.wait(Duration::from_secs(10));
        let took = since.elapsed();
        let text = std::fs::read_to_string(file).unwrap();
        assert!(code.is_some_and(|it| it != 0), "{kind}: code {code:?}: {text}");
        assert!(took < bound, "{kind}: took {took:?}");
        assert!(text.to_lowercase().contains(word), "{kind}: no {word:?} in {text:?}");
    }
}

#[test]
fn timed_revoking_a_token_ends_its_sessions() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let target = Target::start();
    let other = target.master();
    let token = target.gateway().token("box", &[]);
    let sessions = long_sessions(&target, &token.token);
    let asked = Instant::now();
    target.gateway().cli(&["token", "revoke", &token.id]).ok();
    ended_within(sessions, asked, Duration::from_secs(1), "revoked");
    let output = as_user(&target, &token.token, &["echo never"]);
    denied(&output);
    assert!(output.errors().contains("revoked at"), "{}", output.errors());
    assert_eq!(other.exec("echo still").ok(), "still", "another token's connection was ended too");
    // The processes are gone as well.
    assert!(
        until(Duration::from_secs(15), || target.exec("pgrep -x -f 'sleep 60'").code == 1),
        "processes live on"
    );
}

/// A session whose output never pauses must hear of its end all the same.
#[test]
fn timed_revocation_reaches_a_flood() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let target = Target::start();
    let token = target.gateway().token("box", &[]);
    let mut command = target.ssh(&["-l", &token.token, "box", "yes"]);
    let said = target.dir().join("said");
    let stderr = std::fs::File::create(&said).unwrap();
    let mut flood = Guard::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(flood.wait(Duration::ZERO), None, "the flood did not start");
    let start = Instant::now();
    target.gateway().cli(&["token", "revoke", &token.id]).ok();
    assert!(flood.wait(Duration::from_secs(10)).is_some(), "the session goes on");
    assert!(start.elapsed() < Duration::from_secs(1), "took {:?}", start.elapsed());
    let said = std::fs::read_to_string(said).unwrap();
    assert!(said.contains("revoked"), "no line to the user: {said:?}");
}

#[test]
fn timed_expiry_ends_sessions() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let target = Target::start();
    let start = Instant::now();
    let token = target.gateway().token("box", &["--ttl", "5s"]).token;
    let created = Instant::now();
    let sessions = long_sessions(&target, &token);
    ended_within(sessions, created, Duration::from_secs(6), "expired");
    assert!(start.elapsed() > Duration::from_secs(4), "ended before the expiry");
}

#[test]
fn scopes_are_kept_and_named() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let target = Target::start();
    let gateway = target.gateway();
    let exec_only = gateway.token("box", &["--scopes", "exec"]).token;
    let shell_only = gateway.token("box", &["--scopes", "shell"]).token;
    assert_eq!(as_user(&target, &exec_only, &["echo in"]).ok(), "in");
    let output = as_user(&target, &exec_only, &[]);
    assert_ne!(output.code, 0);
    assert!(output.errors().contains("scope"), "{}", output.errors());
    let output = as_user(&target, &shell_only, &["echo never"]);
    assert_ne!(output.code, 0);
    assert!(output.errors().contains("scope") && output.stdout.is_empty(), "{output:?}");
    let mut shell = Terminal::spawn(&target.ssh(&["-l", &shell_only, "box"]), 80, 24);
    shell.send("echo $((40+2)).; exit 3\r");
    shell.expect("42.");
    assert_eq!(shell.wait(), 3);
    assert_ne!(gateway.cli(&["token", "create", "box", "--scopes", "everything"]).code, 0);
}

#[test]
fn a_token_or_key_for_one_sandbox_never_opens_another() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let target = Target::start();
    let gateway = target.gateway();
    gateway.create_sandbox("other", &[]);
    gateway.start_sandbox("other");
    let other = gateway.token("other", &[]).token;
    assert_eq!(as_user(&target, &target.login, &["echo secret >~/here; hostname"]).code, 0);
    let output = as_user(&target, &other, &["ls -A ~"]);
    assert!(!output.text().contains("here"), "{output:?}");
    // The same kernel, but neither sees the other's processes or files.
    let mut held = target.ssh(&["box", "sleep 4242"]);
    let _held = Guard::spawn(held.stdin(Stdio::null()));
    assert!(until(Duration::from_secs(10), || target.exec("pgrep -x -f 'sleep 4242'").code == 0));
    assert_eq!(as_user(&target, &other, &["pgrep -x -f 'sleep 4242'"]).code, 1);
    let text = as_user(&target, &other, &["find / -xdev -name here 2>/dev/null; true"]).ok();
    assert!(!text.contains("here"), "{text}");
    // A key that is meant for one sandbox.
    let key = target.key().with_extension("pub");
    gateway.cli(&["key", "add", "someone", key.to_str().unwrap(), "--sandbox", "other"]).ok();
    assert_eq!(as_user(&target, "other", &["echo in"]).ok(), "in");
    denied(&as_user(&target, "box", &["echo never"]));
    // Nor does a token as password open a sandbox that it is not for.
    let mut askpass = target.script(
        "printf '#!/bin/sh\\necho '$TOKEN'\\n' >$DIR/askpass; chmod +x $DIR/askpass; \
         for box in other box; do SSH_ASKPASS=$DIR/askpass SSH_ASKPASS_REQUIRE=force $SSH -o BatchMode=no \
         -o PreferredAuthentications=password -o NumberOfPasswordPrompts=1 -l $box box 'echo in' 2>&1; done; true",
    );
    let text = run(askpass.env("TOKEN", &other), Feed::Null, DEADLINE).ok();
    assert!(text.starts_with("in\n") && text.contains("Permission denied"), "{text}");
}

/// People carry many keys; being asked about each of them is no failed login, and the right one may come last.
#[test]
fn public_keys_open_sandboxes_by_name() {
    if skip::oracle_lacks("sandboxes") {
        return;
    }
    let target = Target::start();
    let gateway = target.gateway();
    let keys: Vec<_> = (0..15).map(|number| target.dir().join(format!("k{number}"))).collect();
    keys.iter().for_each(|key| make_key(key));
    let right = keys.last().unwrap().with_extension("pub");
    gateway.cli(&["key", "add", "alice", right.to_str().unwrap(), "--sandbox", "box"]).ok();
    let mut command = target.ssh(&["-l", "box"]);
    for key in &keys {
        command.arg("-i").arg(key);
    }
    assert_eq!(run(command.args(["box", "echo in"]), Feed::Null, DEADLINE).ok(), "in");
    // Without the right one.
    let mut command = target.ssh(&["-l", "box"]);
    for key in &keys[..14] {
        command.arg("-i").arg(key);
    }
    denied(&run(command.args(["box", "echo never"]), Feed::Null, DEADLINE));
    assert!(gateway.cli(&["key", "ls"]).ok().contains("alice"));
    gateway.cli(&["key", "rm", "alice"]).ok();
    let mut command = target.ssh(&["-l", "box", "-i"]);
    denied(&run(command.arg(&keys[14]).args(["box", "echo never"]), Feed::Null, DEADLINE));
}

#[test]
fn limits_say_which_they_are() {
    if skip::oracle_lacks("limits of this kind") {
        return;
    }
    let target = Target::start_with(&Options {
        extra_toml: "max_connections_per_credential = 2\nmax_channels = 3\nmax_attempts = 2\n".into(),
        ..Options::default()
    });
    let (first, second) = (target.master(), target.master());
    let output = as_user(&target, &target.login, &["echo never"]);
    denied(&output);
    assert!(output.errors().contains("connections") && output.errors().contains('2'), "{}", output.errors());
    drop(second);
    assert!(until(Duration::from_secs(10), || target.exec("true").code == 0), "a slot is not given back");
    let spawn = || {
        let mut command = first.ssh(&["box", "sleep 30"]);
        Guard::spawn(command.stdin(Stdio::null()))
    };
    let held: Vec<Guard> = (0..3).map(|_| spawn()).collect();
    assert!(until(Duration::from_secs(10), || {
        let mut client = Client::connect(target.port).unwrap();
        if !client.authenticate(&target.login, &Proof::None).unwrap() {
            return false;
        }
        let opened: Vec<_> = (0..4).map(|_| client.open_session().map_err(|err| err.to_string())).collect();
        let Err(reason) = &opened[3] else { panic!("a fourth channel was opened") };
        assert!(opened[..3].iter().all(Result::is_ok), "{opened:?}");
        assert!(reason.contains('3') && reason.contains("channels"), "{reason}");
        true
    }));
    drop(held);
    // Two failed attempts end a connection with a reason.
    let mut client = Client::connect(target.port).unwrap();
    client.request_service("ssh-userauth").unwrap();
    let attempt = Writer::new(codec::USERAUTH_REQUEST).string("box").string("ssh-connection");
    let attempt = attempt.string("password").byte(0).string("wrong").done();
    client.send(&attempt).unwrap();
    assert_eq!(client.receive().unwrap()[0], codec::USERAUTH_FAILURE);
    client.send(&attempt).unwrap();
    let end = client.wait_for_end(Duration::from_secs(10)).unwrap();
    assert!(end.starts_with("disconnect ") && end.contains("authentication failures"), "{end}");
}

#[test]
fn sources_that_keep_failing_are_slowed_down() {
    if skip::oracle_lacks("penalties in this version") {
        return;
    }
    let target = Target::start_with(&Options { source_penalties: true, ..Options::default() });
    let wrong = altered(&target.login);
    let attempt = |source: &str| {
        let command = &mut target.ssh(&["-b", source, "-l", &wrong, "box", "true"]);
        run(command, Feed::Null, DEADLINE).errors()
    };
    let refused = (0..20).any(|_| !attempt("127.0.0.5").contains("Permission denied"));
    assert!(refused, "twenty failures had no consequence");
    let good = run(&mut target.ssh(&["-b", "127.0.0.6", "box", "echo in"]), Feed::Null, DEADLINE);
    assert_eq!(good.ok(), "in", "another source suffers too");
    let bad = run(&mut target.ssh(&["-b", "127.0.0.5", "box", "echo never"]), Feed::Null, DEADLINE);
    assert_ne!(bad.code, 0, "the penalty does not hold");
}

/// The answer to a token that exists must not take another time than that to one which does not.
#[test]
fn timed_refusals_take_the_same_time() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let target = Target::start();
    let token = target.gateway().token("box", &[]);
    target.gateway().cli(&["token", "revoke", &token.id]).ok();
    let unknown = altered(&token.token);
    let time = |user: &str| {
        let mut client = Client::connect(target.port).unwrap();
        let start = Instant::now();
        assert!(!client.authenticate(user, &Proof::None).unwrap());
        start.elapsed()
    };
    let (mut known, mut other): (Vec<_>, Vec<_>) =
        (0..41).map(|_| (time(&token.token), time(&unknown))).unzip();
    known.sort();
    other.sort();
    let (known, other) = (known[20], other[20]);
    let difference = known.abs_diff(other);
    assert!(difference < Duration::from_millis(3), "known {known:?}, unknown {other:?}");
}

#[test]
fn sessions_are_listed_and_killed() {
    if skip::oracle_lacks("list of sessions") {
        return;
    }
    let target = Target::start();
    let file = target.dir().join("out");
    let mut command = target.ssh(&["-o", "LogLevel=INFO", "box", "sleep 60"]);
    let out = std::fs::File::create(&file).unwrap();
    let mut session = Guard::spawn(command.stdin(Stdio::null()).stderr(out));
    let mut list = serde_json::Value::Null;
    assert!(until(Duration::from_secs(10), || {
        list = target.gateway().json(&["session", "ls"]);
        list.as_array().or_else(|| list["sessions"].as_array()).is_some_and(|it| !it.is_empty())
    }));
    let first = list.get(0).or_else(|| list["sessions"].get(0)).unwrap();
    let id = first["id"].as_str().map_or_else(|| first["id"].to_string(), str::to_owned);
    target.gateway().cli(&["session", "kill", &id]).ok();
    assert!(session.wait(Duration::from_secs(3)).is_some_and(|code| code != 0), "the session lives on");
    assert!(!std::fs::read_to_string(file).unwrap().is_empty(), "the user was not told");
}

#[test]
fn the_printed_configuration_works() {
    if skip::oracle_lacks("ssh-config output") {
        return;
    }
    let target = Target::start();
    let text = target.gateway().cli(&["ssh-config", "box"]).ok();
    let host = text
        .lines()
        .find_map(|line| line.strip_prefix("Host "))
        .expect("a Host line")
        .split(' ')
        .next()
        .unwrap();
    let known: Vec<&str> = text.lines().filter(|line| line.contains("ssh-ed25519 ")).collect();
    assert!(!known.is_empty(), "no host key in {text}");
    let line = known[0].trim_start_matches(['#', ' ']).trim_start_matches("known_hosts: ");
    let known_hosts = target.dir().join("printed_known_hosts");
    std::fs::write(&known_hosts, format!("{line}\n")).unwrap();
    // The account's own part: a key or a token; the printed block leads to the right place with the right host key.
    let key = target.key().with_extension("pub");
    target.gateway().cli(&["key", "add", "me", key.to_str().unwrap(), "--sandbox", "box"]).ok();
    let config = target.dir().join("printed_config");
    std::fs::write(&config, &text).unwrap();
    let mut command = sandgate_tests::client::ssh(&config);
    command.args(["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o"]);
    command.arg(format!("UserKnownHostsFile={}", known_hosts.display())).arg("-i").arg(target.key());
    assert_eq!(run(command.args([host, "echo in"]), Feed::Null, DEADLINE).ok(), "in");
}

#[test]
fn the_command_line_runs_commands_with_the_exit_code_of_a_shell() {
    if skip::oracle_lacks("exec command") {
        return;
    }
    let target = Target::start();
    let gateway = target.gateway();
    let output = gateway.cli(&["exec", "box", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    output.exits(7);
    assert_eq!((output.text(), output.errors()), ("out\n".into(), "err\n".into()));
    gateway.cli(&["exec", "box", "--", "sh", "-c", "kill -9 $$"]).exits(137);
    gateway.cli(&["exec", "box", "--", "no-such-program"]).exits(127);
    assert_eq!(gateway.cli(&["exec", "box", "-e", "LC_X=a b", "--", "printenv", "LC_X"]).ok(), "a b");
    assert_eq!(
        gateway.cli(&["exec", "box", "--", "printf", "%s.", "a b", "$HOME", "*"]).ok(),
        "a b.$HOME.*."
    );
    let output = run(
        &mut gateway.command(&["exec", "box", "--", "wc", "-c"]),
        Feed::Bytes(vec![0; 300_000]),
        DEADLINE,
    );
    assert_eq!(output.ok().trim(), "300000");
    let mut terminal = Terminal::spawn(
        &gateway.command(&["exec", "box", "-t", "--", "sh", "-c", "stty size; tty; exit 9"]),
        77,
        22,
    );
    terminal.expect("22 77");
    terminal.expect("/dev/pts/");
    assert_eq!(terminal.wait(), 9);
}

/// The first files below `dir` that hold `needle`.
fn files_with(dir: &std::path::Path, needle: &[u8]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(dir) else { return found };
    for entry in entries.flatten() {
        let path = entry.path();
        match entry.file_type() {
            // The image's own files are the host's and large; what sandgate writes lies beside them.
            Ok(kind)
                if kind.is_dir()
                    && !["rootfs", "merged"].contains(&&*entry.file_name().to_string_lossy()) =>
            {
                found.extend(files_with(&path, needle));
            }
            Ok(kind) if kind.is_file() => {
                let bytes = std::fs::read(&path).unwrap_or_default();
                if bytes.windows(needle.len()).any(|window| window == needle) {
                    found.push(path);
                }
            }
            _ => {}
        }
    }
    found
}

#[test]
fn a_log_in_json_has_one_object_on_each_line_and_no_token() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let mut target = Target::start();
    assert_eq!(target.gateway_mut().terminate(Duration::from_secs(20)), Some(0));
    let before = target.log().len();
    target.gateway_mut().log_format = Some("json");
    target.gateway_mut().log_level = Some("debug");
    target.gateway_mut().start_again();
    target.exec("echo in").ok();
    denied(&as_user(&target, &altered(&target.login), &["true"]));
    assert_eq!(target.gateway_mut().terminate(Duration::from_secs(20)), Some(0));
    let log = target.log().split_off(before);
    let mut messages = Vec::new();
    for line in log.lines() {
        let entry: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}"));
        for field in ["timestamp", "level", "target"] {
            assert!(entry[field].is_string(), "no {field}: {line}");
        }
        // Some lines of libraries have fields alone.
        messages.extend(entry["message"].as_str().map(str::to_owned));
    }
    for message in ["logged in", "session started", "session ended", "login refused"] {
        assert!(messages.iter().any(|it| it == message), "no {message:?} in {messages:?}");
    }
    let secret = &target.login[10..target.login.len() - 4];
    assert!(!log.contains(secret), "the log holds the token");
}

/// Uses all kinds of secrets that the doors of programs and browsers take, rightly and wrongly, and gives them.
fn secrets_of_the_web(target: &Target) -> Vec<(&'static str, String)> {
    let port = target.gateway().http_port;
    let key = stream::key(target, "user");
    let bearer = |key: &str| format!("Bearer {key}");
    let post =
        |path: &str, headers: &[(&str, &str)], body| http::ask(port, "POST", path, headers, Some(&body));
    let (right, wrong_key) = (bearer(&key), altered(&key));
    let right = [("authorization", right.as_str())];
    let wrong = bearer(&wrong_key);
    assert_eq!(http::ask(port, "GET", "/api/v1/whoami", &right, None).status, 200);
    assert_eq!(http::ask(port, "GET", "/api/v1/whoami", &[("authorization", &wrong)], None).status, 401);
    assert_eq!(post("/api/v1/sandboxes/box/exec", &right, json!({ "command": "true" })).status, 200);
    let mut socket = stream::begin(target, &key, &json!({ "command": "echo in" }));
    assert_eq!(stream::rest(&mut socket).stdout, b"in\n");
    // A page that logs in by the key, and one by a link; also with words that are not understood.
    let odd = post("/api/v1/login", &[], json!({ "key": key, "colour": "red" }));
    assert!(odd.status == 422 && !odd.body.to_string().contains(&key), "{odd:?}");
    assert_eq!(post("/api/v1/login", &[], json!({ "key": wrong_key })).status, 401);
    let cookie = post("/api/v1/login", &[], json!({ "key": key })).cookie();
    let link = target.gateway().json(&["login-link"])["url"].as_str().unwrap().to_owned();
    let code =
        link.split_once('#').and_then(|(_, after)| after.rsplit('=').next()).expect("a code").to_owned();
    let owner = post("/api/v1/login", &[], json!({ "code": code })).cookie();
    assert_eq!(post("/api/v1/login", &[], json!({ "code": code })).status, 401, "a link that was used");
    for cookie in [&cookie, &owner] {
        assert_eq!(http::ask(port, "GET", "/api/v1/whoami", &[("cookie", cookie)], None).status, 200);
    }
    // Terminals, with a ticket that is right, one that is wrong, one that was used and one in an odd message.
    let own = format!("http://127.0.0.1:{port}");
    let page = [("origin", own.as_str()), ("cookie", cookie.as_str())];
    let ticket = || {
        let made = post("/api/v1/sandboxes/box/terminals", &page, json!({}));
        made.body["ticket"].as_str().unwrap_or_else(|| panic!("{made:?}")).to_owned()
    };
    let (good, unused) = (ticket(), ticket());
    let wrong_ticket = altered(&unused);
    let attach = |message: serde_json::Value| {
        let protocol = ("sec-websocket-protocol", "sandgate.terminal.v1");
        let mut socket =
            stream::connect(target, "/api/v1/terminal", &[("origin", &own), protocol]).expect("a WebSocket");
        socket.send(Message::Text(message.to_string().into())).unwrap();
        socket
    };
    let by = |ticket: &str| attach(json!({ "type": "attach", "ticket": ticket, "cols": 80, "rows": 24 }));
    let ended = |mut socket: tungstenite::WebSocket<std::net::TcpStream>| {
        loop {
            if let Message::Close(frame) = socket.read().unwrap() {
                return frame.map(|frame| u16::from(frame.code));
            }
        }
    };
    let mut socket = by(&good);
    socket.send(Message::Binary("echo typed; exit\r".into())).unwrap();
    assert_eq!(ended(socket), Some(1000));
    for bad in [&good, &wrong_ticket] {
        assert_eq!(ended(by(bad)), Some(4001));
    }
    assert_eq!(ended(attach(json!({ "type": "attach", "ticket": unused }))), Some(4002));
    let value = |cookie: String| cookie.split_once('=').expect("a cookie").1.to_owned();
    vec![
        ("API key", key),
        ("wrong API key", wrong_key),
        ("code of a link", code),
        ("cookie", value(cookie)),
        ("cookie of the owner", value(owner)),
        ("ticket", good),
        ("ticket that was not used", unused),
        ("wrong ticket", wrong_ticket),
    ]
}

#[test]
fn no_file_and_no_log_holds_a_token() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    // Nor has a recording one, also of what is typed.
    let toml = "[recording]\ndefault = \"all\"\ninput = true\n".to_owned();
    let mut target = Target::start_with(&Options { extra_toml: toml, ..Options::default() });
    // With all that the gateway and its libraries have to say.
    assert_eq!(target.gateway_mut().terminate(Duration::from_secs(20)), Some(0));
    target.gateway_mut().log_level = Some("trace");
    target.gateway_mut().start_again();
    let second = target.gateway().token("box", &["--label", "findme-label"]).token;
    let wrong = altered(&second);
    target.exec("echo in").ok();
    target.run_ssh(&["-tt", "box", "true"]).ok();
    denied(&as_user(&target, &wrong, &["true"]));
    let mut askpass = target.script(
        "printf '#!/bin/sh\\necho '$TOKEN'\\n' >$DIR/askpass; chmod +x $DIR/askpass; SSH_ASKPASS=$DIR/askpass \
         SSH_ASKPASS_REQUIRE=force $SSH -o BatchMode=no -o PreferredAuthentications=password -l box box 'echo in'",
    );
    assert_eq!(run(askpass.env("TOKEN", &second), Feed::Null, DEADLINE).ok(), "in");
    assert_eq!(as_user(&target, &second, &["echo in"]).ok(), "in");
    let garbled = format!("{second}x");
    denied(&as_user(&target, &garbled, &["true"]));
    let id = target.gateway().token("box", &[]).id;
    target.gateway().cli(&["token", "revoke", &id]).ok();
    let fd_texts: String = std::fs::read_dir(format!("/proc/{}", target.pid()))
        .map(|_| std::fs::read_to_string(format!("/proc/{}/cmdline", target.pid())).unwrap_or_default())
        .unwrap();
    let data_dir = target.gateway().data_dir().to_owned();
    let mut secrets = secrets_of_the_web(&target);
    secrets.extend([("token", target.login.clone()), ("token", second), ("wrong token", wrong)]);
    for (kind, token) in &secrets {
        // Past the 8 characters that may be shown, nothing that narrows the search may be there either.
        let rest = &token[10..token.len() - 4];
        for part in [token.as_str(), rest] {
            assert_eq!(
                files_with(&data_dir, part.as_bytes()),
                Vec::<std::path::PathBuf>::new(),
                "a file holds {part}, of a {kind}"
            );
            assert!(!target.log().contains(part), "the log holds {part}, of a {kind}");
            assert!(!fd_texts.contains(part));
        }
    }
    // The search finds what is there: a label that was stored, and the log has lines.
    assert!(!files_with(&data_dir, b"findme-label").is_empty(), "the search does not see the database");
    assert!(target.log().contains("DEBUG"), "there is no such log to search");
    // Also after an orderly end, when everything has been written out.
    assert_eq!(target.gateway_mut().terminate(Duration::from_secs(20)), Some(0));
    for (kind, secret) in &secrets {
        let held = files_with(&data_dir, secret.as_bytes());
        assert_eq!(held, Vec::<std::path::PathBuf>::new(), "a {kind}");
        assert!(!target.log().contains(secret), "the log holds a {kind}");
    }
    let recordings = files_with(&data_dir.join("recordings"), b"echo typed");
    assert!(!recordings.is_empty(), "what was typed is in no recording");
    target.gateway_mut().start_again();
    let output = run(&mut target.ssh(&["box", "echo in"]), Feed::Null, DEADLINE);
    assert_eq!(output.ok(), "in");
}

#[test]
fn secrets_on_disk_are_for_the_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    if skip::oracle_lacks("data directory") {
        return;
    }
    let target = Target::start();
    let dir = target.gateway().data_dir();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(dir), 0o700, "the data directory");
    let mut keys = 0;
    for path in files_with(dir, b"OPENSSH PRIVATE KEY") {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        keys += 1;
    }
    assert!(keys >= 2, "{keys} host keys were found");
}
