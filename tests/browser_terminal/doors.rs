//! One list of commands and one of failures, through every door: what SSH gives is what the others give.

use std::process::Command;

use sandgate_tests::client::{DEADLINE, Master};
use sandgate_tests::target::Options;
use sandgate_tests::terminal::Terminal;
use sandgate_tests::{Feed, Target, rootfs, run, skip};
use serde_json::{Value, json};

use super::begin;
use super::page::Api;
use super::stream;

/// What came of a command.
#[derive(Debug, PartialEq, Eq)]
struct Came {
    stdout: String,
    stderr: String,
    code: i64,
}

/// Variables that say by which door and on which terminal somebody came, and what only pages say: that they know all colours.
const OWN: &str = "^(SSH_|TERM=|COLORTERM=|LINES=|COLUMNS=)";

/// A line for the user's shell, and how it ends.
const COMMANDS: &[(&str, &str, i64)] = &[
    ("environment", "env | grep -Ev 'OWN' | LC_ALL=C sort", 0),
    ("directory", "pwd", 0),
    ("shell", "echo $0 $- $SHELL; readlink /proc/$$/exe", 0),
    ("umask", "umask; touch /tmp/made; stat -c %a /tmp/made; rm /tmp/made", 0),
    ("limits", "ulimit -a", 0),
    ("user", "id; echo $USER $LOGNAME $HOME", 0),
    ("exit code", "echo out; echo err >&2; exit 7", 7),
    ("command not found", "no-such-command", 127),
    ("no such directory", "cd /no/such/directory", 1),
    ("not for execution", "/etc/passwd", 126),
    ("input at its end", "cat; echo end", 0),
    ("signal", "echo before; kill -KILL $$", 137),
];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace("\r\n", "\n")
}

/// The command line without what it would send of this test's own environment.
fn quiet(target: &Target, args: &[&str]) -> Command {
    let mut command = target.gateway().command(args);
    for name in ["LANG", "LC_ALL", "LC_CTYPE"] {
        command.env_remove(name);
    }
    command
}

fn by_request(api: &Api, command: &Value) -> Came {
    let (status, answer) = api.request("POST", "/api/v1/sandboxes/box/exec", Some(command));
    assert_eq!(status, 200, "{answer}");
    let signal = answer["signal"].as_str();
    assert_eq!(signal.is_some(), answer["end"] == "signaled", "{answer}");
    assert!(signal.is_none_or(|signal| signal == "KILL"), "{answer}");
    let output = |name: &str| {
        assert_eq!(answer[name]["encoding"], "utf-8", "{answer}");
        answer[name]["data"].as_str().unwrap().to_owned()
    };
    Came { stdout: output("stdout"), stderr: output("stderr"), code: answer["exit_code"].as_i64().unwrap() }
}

fn by_stream(target: &Target, key: &str, what: &Value) -> Came {
    let mut socket = stream::begin(target, key, what);
    if what["terminal"].is_null() {
        stream::eof(&mut socket);
    }
    let said = stream::rest(&mut socket);
    let exit = said.exit();
    let code = exit["code"].as_i64().unwrap();
    assert_eq!(exit["signal"].as_str(), (code == 137).then_some("KILL"), "{exit}");
    Came { stdout: text(&said.stdout), stderr: text(&said.stderr), code }
}

fn by_client(command: &mut Command) -> Came {
    let output = run(command, Feed::Null, DEADLINE);
    Came { stdout: text(&output.stdout), stderr: text(&output.stderr), code: output.code.into() }
}

/// What a row comes to at the door of pages, which have a shell alone: as the command that this shell becomes.
fn by_page(target: &Target, command: &str) -> Came {
    let marked = format!("printf 'be%s\\n' gin; {command}");
    let mut put = quiet(target, &["exec", "box", "--", "sh", "-c", "cat >/tmp/row"]);
    run(&mut put, Feed::Bytes(marked.into_bytes()), DEADLINE).exits(0);
    let (mut page, _) = begin(target);
    page.types("exec -a \"${SHELL##*/}\" \"$SHELL\" -c \"$(cat /tmp/row)\"\r");
    let exit = page.text("exit");
    let code = exit["code"].as_i64().unwrap();
    assert_eq!(exit["signal"].as_str(), (code == 137).then_some("KILL"), "{exit}");
    let all = text(&page.output);
    let stdout = all.split_once("begin\n").unwrap_or_else(|| panic!("it did not begin: {all}")).1.to_owned();
    Came { stdout, stderr: String::new(), code }
}

/// One row, by the doors that take a command, without a terminal and with one. The stock client's word is the right one.
fn by_all_doors(
    target: &Target,
    master: &Master,
    api: &Api,
    key: &str,
    (what, command, code): &(&str, &str, i64),
) {
    let command = command.replace("OWN", OWN);
    let killed = *code == 137;
    // What the stock client makes of a signal.
    let by_stock = if killed { 255 } else { *code };
    let mut ssh = by_client(&mut master.ssh(&["box", &command]));
    assert_eq!(ssh.code, by_stock, "{what}: {ssh:?}");
    assert!(!ssh.stdout.is_empty() || !ssh.stderr.is_empty(), "{what}");
    let mut ours = by_client(&mut quiet(target, &["ssh", "box", &command]));
    if killed {
        // It says which one it was, where the stock client says nothing.
        assert!(ours.stderr.contains("signal KILL"), "{what}: {ours:?}");
        ours.stderr.clear();
    }
    assert_eq!(ours, ssh, "{what}, sandgate ssh");
    ssh.code = *code;
    assert_eq!(by_request(api, &json!({ "command": command })), ssh, "{what}, one request");
    assert_eq!(by_stream(target, key, &json!({ "command": command })), ssh, "{what}, a stream");

    // A terminal has one output, and no end of the input.
    if *what == "input at its end" {
        return;
    }
    let mut ssh = by_client(master.ssh(&["-tt", "box", &command]).env("TERM", "xterm"));
    assert_eq!((ssh.code, ssh.stderr.as_str()), (by_stock, ""), "{what} on a terminal: {ssh:?}");
    ssh.code = *code;
    let size = json!({ "term": "xterm", "cols": 80, "rows": 24 });
    let came = by_stream(target, key, &json!({ "command": command, "terminal": size }));
    assert_eq!(came, ssh, "{what}, a stream with a terminal");
    // A login shell has read its profile, and is where it could go.
    if !["environment", "no home and no shell"].contains(what) {
        assert_eq!(by_page(target, &command), ssh, "{what}, a page");
    }
}

/// A command, by the doors that take one.
#[test]
fn a_command_is_the_same_by_every_door() {
    if skip::oracle_lacks("browser") {
        return;
    }
    let target = Target::start();
    let (api, key, master) = (Api::new(target.gateway()), stream::key(&target, "user"), target.master());
    for row in COMMANDS {
        by_all_doors(&target, &master, &api, &key, row);
    }
    // Words, which no shell has looked at.
    let words = ["printf", "%s|", "$HOME", "a  b", "*"];
    let by_words = Came { stdout: "$HOME|a  b|*|".to_owned(), stderr: String::new(), code: 0 };
    assert_eq!(by_request(&api, &json!({ "argv": words })), by_words);
    assert_eq!(by_stream(&target, &key, &json!({ "argv": words })), by_words);
    assert_eq!(by_client(&mut quiet(&target, &[&["exec", "box", "--"], &words[..]].concat())), by_words);
    let nothing = json!({ "argv": ["no-such-program"] });
    let (one, other) = (by_request(&api, &nothing), by_stream(&target, &key, &nothing));
    assert!(one.code == 127 && !one.stderr.is_empty(), "{one:?}");
    assert_eq!(one, other);
    assert_eq!(one, by_client(&mut quiet(&target, &["exec", "box", "--", "no-such-program"])));
    // An account whose home and shell are not there.
    let account = "sed -i 's#^root:.*#root:x:0:0:root:/no/home:/no/shell#' /etc/passwd";
    master.exec(account).exits(0);
    by_all_doors(&target, &master, &api, &key, &("no home and no shell", "pwd; echo $HOME $SHELL", 0));
    let told = master.exec("pwd");
    assert_eq!((told.ok().as_str(), told.errors().contains("Could not chdir to home")), ("/", true));
}

/// A login shell, by the doors that have one: it writes down what it is, and how it likes a command that is not there.
#[test]
fn a_login_shell_is_the_same_by_every_door() {
    if skip::oracle_lacks("browser") {
        return;
    }
    let target = Target::start();
    let show = "(env; pwd; echo \"$0 $-\"; umask; ulimit -a; id; shopt login_shell; no-such-command 2>&1; echo \"code $?\") | \
                LC_ALL=C sort >/tmp/at-NAME; exit 7\r";
    let (mut page, _) = begin(&target);
    page.types(&show.replace("NAME", "page"));
    assert_eq!(page.text("exit"), json!({ "type": "exit", "code": 7 }));
    let size = json!({ "term": "xterm-256color", "cols": 80, "rows": 24 });
    let mut socket = stream::begin(&target, &stream::key(&target, "user"), &json!({ "terminal": size }));
    let typed = show.replace("NAME", "stream");
    socket.send(tungstenite::Message::Binary(typed.into_bytes().into())).unwrap();
    assert_eq!(stream::rest(&mut socket).exit(), json!({ "type": "exit", "code": 7 }));
    for (name, mut command) in
        [("ssh", target.ssh(&["-t", "box"])), ("ours", quiet(&target, &["ssh", "box"]))]
    {
        command.env("TERM", "xterm-256color");
        let mut terminal = Terminal::spawn(&command, 80, 24);
        terminal.send("echo be''gun.\r");
        terminal.expect("begun.");
        terminal.send(show.replace("NAME", name));
        assert_eq!(terminal.wait(), 7, "{name}");
    }
    let read = |name: &str| {
        let shown = format!("grep -Ev '{OWN}' /tmp/at-{name}");
        by_client(&mut quiet(&target, &["ssh", "box", &shown])).stdout
    };
    let ssh = read("ssh");
    assert!(ssh.lines().count() > 20 && ssh.contains("code 127"), "{ssh}");
    for name in ["page", "stream", "ours"] {
        assert_eq!(read(name), ssh, "{name}");
    }
}

/// The same words and the same code by every door when it does not work.
#[test]
fn a_failure_is_told_in_the_same_words_by_every_door() {
    if skip::oracle_lacks("browser") {
        return;
    }
    let toml = "[sandbox]\nstart_timeout = \"3s\"\n".to_owned();
    let target = Target::start_with(&Options { extra_toml: toml, ..Options::default() });
    let (gateway, key) = (target.gateway(), stream::key(&target, "user"));
    let api = Api::new(gateway);
    let empty = target.dir().join("empty");
    rootfs::empty_image(&empty);
    let image = rootfs::image();
    let nowhere = format!("unix:{}", target.dir().join("nowhere").display());
    // One without any shell, one for a user who is not there, one that cannot be reached, and one that cannot be started.
    let runtime = target.dir().join("runtime");
    std::fs::write(&runtime, "#!/bin/sh\necho 'the flux capacitor is empty' >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&runtime, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for (name, args, says) in [
        ("bare", vec!["--image", empty.to_str().unwrap()], "shell"),
        ("stranger", vec!["--image", image.to_str().unwrap(), "--user", "nobodyknows"], "nobodyknows"),
        ("away", vec!["--link", nowhere.as_str()], "did not answer"),
        ("broken", vec!["--runtime", runtime.to_str().unwrap()], "flux capacitor"),
    ] {
        gateway.create_sandbox(name, &args);
        let token = gateway.token(name, &[]).token;
        // A login shell on a terminal.
        let by_ssh = target.run_ssh(&["-tt", "-l", &token, "box"]);
        let words = text(&[by_ssh.stdout, by_ssh.stderr].concat());
        assert!(words.contains(says), "{name}: {words}");
        let made =
            api.post(&format!("/api/v1/sandboxes/{name}/terminals"), &json!({ "cols": 80, "rows": 24 }));
        let mut page = api.attach(made["ticket"].as_str().unwrap(), 80, 24);
        let last = page.last();
        let (said, code) = match last["text"].as_str() {
            Some(text) => (text.to_owned(), 255),
            None => (text(&page.output), last["code"].as_i64().unwrap()),
        };
        assert_eq!(code, i64::from(by_ssh.code), "{name}: {last} {words}");
        assert!(!said.trim().is_empty() && words.contains(said.trim()), "{name}: {said:?} and {words:?}");

        if name == "away" {
            // Each door would wait for its three seconds.
            continue;
        }

        // A command without one.
        let by_ssh = target.run_ssh(&["-l", &token, "box", "true"]);
        let words = by_ssh.errors();
        let (status, answer) = api.request(
            "POST",
            &format!("/api/v1/sandboxes/{name}/exec"),
            Some(&json!({ "command": "true" })),
        );
        let (said, code) = match answer["detail"].as_str() {
            Some(text) if status >= 400 => (text.to_owned(), 255),
            _ => {
                (answer["stderr"]["data"].as_str().unwrap().to_owned(), answer["exit_code"].as_i64().unwrap())
            }
        };
        let same = |door: &str, said: &str, code: i64| {
            assert_eq!(code, i64::from(by_ssh.code), "{name}, {door}: {said:?} and {words:?}");
            assert!(
                !said.trim().is_empty() && words.contains(said.trim()),
                "{name}, {door}: {said:?} and {words:?}"
            );
        };
        same("one request", &said, code);
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("sec-websocket-protocol", "sandgate.exec.v1")];
        let path = format!("/api/v1/sandboxes/{name}/exec/stream");
        let mut socket = stream::connect(&target, &path, &headers).expect("a stream");
        socket.send(tungstenite::Message::Text(json!({ "command": "true" }).to_string().into())).unwrap();
        let said = stream::rest(&mut socket);
        let last = said.texts.last().expect("an end");
        match last["text"].as_str() {
            Some(text) => same("a stream", text, 255),
            None => same("a stream", &text(&said.stderr), last["code"].as_i64().unwrap()),
        }
        let ours = by_client(&mut quiet(&target, &["ssh", name, "true"]));
        assert_eq!(ours.code, i64::from(by_ssh.code), "{name}, sandgate ssh: {ours:?} and {words:?}");
        assert!(ours.stderr.contains(says), "{name}, sandgate ssh: {ours:?}");
    }

    // A sandbox that is stopped is started, whoever comes.
    gateway.cli(&["sandbox", "stop", "box"]).exits(0);
    assert_eq!(by_request(&api, &json!({ "command": "echo up" })).stdout, "up\n");
    gateway.cli(&["sandbox", "stop", "box"]).exits(0);
    assert_eq!(by_stream(&target, &key, &json!({ "command": "echo up" })).stdout, "up\n");
    gateway.cli(&["sandbox", "stop", "box"]).exits(0);
    begin(&target);

    // A credential that may do nothing of the kind is told what it lacks, and nothing runs.
    let files = gateway.token("box", &["--scopes", "sftp"]).token;
    for args in [&["-tt"][..], &[]] {
        let output = target.run_ssh(&[args, &["-l", &files, "box", "touch /tmp/ran"]].concat());
        assert_eq!(output.code, 255, "{output:?}");
        assert!(output.errors().contains("scope") || output.text().contains("scope"), "{output:?}");
    }
    let viewer = stream::key(&target, "viewer");
    assert_eq!(stream::open(&target, &viewer, &[]).err(), Some(403));
    target.exec("test ! -e /tmp/ran").exits(0);
}
