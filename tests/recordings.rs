//! Recordings: equal to what the client saw, readable after a crash, and no change goes unseen.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

#[allow(dead_code, reason = "the tests of terminals need more of it")]
#[path = "browser/page.rs"]
mod page;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use page::Api;
use sandgate_tests::client::DEADLINE;
use sandgate_tests::forward::Server;
use sandgate_tests::gateway::Gateway;
use sandgate_tests::process::Guard;
use sandgate_tests::terminal::Terminal;
use sandgate_tests::{Feed, Options, Target, data, paths, run, skip, wait};
use serde_json::{Value, json};

/// A target all of whose sessions are recorded; `toml` is the rest of `[recording]`.
fn recorded(toml: &str) -> Option<Target> {
    if skip::oracle_lacks("recordings") {
        return None;
    }
    let options = Options {
        create_args: ["--record", "all"].map(str::to_owned).to_vec(),
        extra_toml: format!("[recording]\n{toml}\n"),
        ..Options::default()
    };
    Some(Target::start_with(&options))
}

/// What `recording ls` has of this kind once it is so many, none of them live; the newest first.
#[track_caller]
fn ended(gateway: &Gateway, kind: &str, count: usize) -> Vec<Value> {
    let mut found = Vec::new();
    let done = wait::until(Duration::from_secs(10), || {
        let all = gateway.json(&["recording", "ls"]);
        found = all.as_array().unwrap().iter().filter(|it| it["kind"] == kind).cloned().collect();
        found.len() == count && found.iter().all(|it| it["live"] == false)
    });
    assert!(done, "not {count} of {kind}: {found:?}");
    found
}

fn id(recording: &Value) -> &str {
    recording["id"].as_str().unwrap()
}

fn export(gateway: &Gateway, recording: &Value, format: &str) -> Vec<u8> {
    let output = gateway.cli(&["recording", "export", id(recording), "--format", format]);
    output.exits(0);
    output.stdout
}

fn files(gateway: &Gateway) -> Vec<PathBuf> {
    let directory = std::fs::read_dir(gateway.data_dir().join("recordings")).unwrap();
    directory.map(|entry| entry.unwrap().path()).collect()
}

/// The totals of a timeline.
fn totals(gateway: &Gateway, recording: &Value) -> Value {
    assert_eq!(recording["format"], "timeline");
    gateway.cli(&["recording", "verify", id(recording)]).exits(0);
    let text = String::from_utf8(export(gateway, recording, "v3")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let end = lines[lines.len() - 2]["end"].clone();
    for direction in ["in", "out", "err"] {
        let counted: u64 =
            lines.iter().filter(|it| it["dir"] == direction).map(|it| it["bytes"].as_u64().unwrap()).sum();
        assert_eq!(end[direction]["bytes"], counted, "{direction}");
    }
    end
}

#[test]
fn a_terminal_is_recorded_byte_for_byte() {
    let Some(target) = recorded("") else { return };
    let gateway = target.gateway();
    // Text, a character in two pieces, and bytes that are no text.
    let script = r"seq 1 20000; printf '\342\202'; sleep 0.5; printf '\254 \377\200 \033[1mx\033[m'; exit 3";
    let output = target.run_ssh(&["-tt", "box", script]);
    output.exits(3);
    let recording = &ended(gateway, "terminal", 1)[0];
    assert_eq!(recording["complete"], true);
    assert!(export(gateway, recording, "raw") == output.stdout, "the recording is not what the client saw");
    let verified = gateway.json(&["recording", "verify", id(recording)]);
    assert_eq!(verified["valid"], true, "{verified}");
    let text = String::from_utf8(export(gateway, recording, "v3")).unwrap();
    assert!(text.contains(", \"x\", \"3\"]"), "no exit in {text}");
    use std::os::unix::fs::PermissionsExt as _;
    for file in files(gateway) {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
        let bytes = std::fs::read(&file).unwrap();
        let token = target.login.as_bytes();
        assert!(!bytes.windows(token.len()).any(|it| it == token), "the token is in {}", file.display());
    }
}

#[test]
fn times_are_those_at_which_the_client_saw_it() {
    let Some(target) = recorded("") else { return };
    let script = "for i in 1 2 3 4 5 6 7 8 9; do echo line $i; sleep 0.2; done";
    let mut session =
        Guard::spawn(target.ssh(&["-tt", "box", script]).stdin(Stdio::null()).stdout(Stdio::piped()));
    let lines = BufReader::new(session.child().stdout.take().unwrap());
    let seen: Vec<Instant> = lines.lines().map(|line| line.map(|_| Instant::now()).unwrap()).collect();
    let recording = &ended(target.gateway(), "terminal", 1)[0];
    let v2 = String::from_utf8(export(target.gateway(), recording, "v2")).unwrap();
    let events: Vec<Value> = v2.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<f64> = events
        .iter()
        .filter(|it| it[2].as_str().unwrap().contains("line"))
        .map(|it| it[0].as_f64().unwrap())
        .collect();
    assert_eq!((seen.len(), told.len()), (9, 9), "{v2}");
    let mut off: Vec<f64> =
        (1..9).map(|at| ((seen[at] - seen[0]).as_secs_f64() - (told[at] - told[0])).abs()).collect();
    // The scheduler of a busy machine may hold up one of them.
    off.sort_by(f64::total_cmp);
    assert!(off[4] < 0.010, "{off:?}");
}

#[test]
fn size_and_input_are_in_it_if_asked() {
    let Some(target) = recorded("input = true") else { return };
    let mut terminal = Terminal::spawn(&target.ssh(&["-t", "box"]), 101, 37);
    terminal.send("echo re''ady.\r");
    terminal.expect("ready.");
    terminal.resize(64, 20);
    std::thread::sleep(Duration::from_millis(500));
    terminal.send("exit 4\r");
    assert_eq!(terminal.wait(), 4);
    let recording = &ended(target.gateway(), "terminal", 1)[0];
    let text = String::from_utf8(export(target.gateway(), recording, "v3")).unwrap();
    assert!(text.contains("\"cols\":101") && text.contains(", \"r\", \"64x20\"]"), "{text}");
    assert!(text.contains(", \"i\", ") && text.contains(", \"x\", \"4\"]"), "{text}");
}

/// As by SSH.
#[test]
fn the_doors_of_browsers_and_programs_record_as_much() {
    let Some(target) = recorded("input = true") else { return };
    let gateway = target.gateway();
    let api = Api::new(gateway);
    let made = api.post("/api/v1/sandboxes/box/terminals", &json!({ "cols": 101, "rows": 37 }));
    let mut page = api.attach(made["ticket"].as_str().unwrap(), 101, 37);
    page.text("ready");
    page.says(&json!({ "type": "resize", "cols": 64, "rows": 20, "xpixel": 0, "ypixel": 0 }));
    page.types("echo re''ady.\r");
    page.sees("ready.");
    page.types("exit 4\r");
    assert_eq!(page.text("exit")["code"], 4);
    let text = String::from_utf8(export(gateway, &ended(gateway, "terminal", 1)[0], "v3")).unwrap();
    assert!(text.contains("\"cols\":101") && text.contains(", \"r\", \"64x20\"]"), "{text}");
    assert!(text.contains(", \"i\", ") && text.contains(", \"x\", \"4\"]"), "{text}");

    let input = "some input\n".repeat(100_000);
    let command = json!({ "argv": ["wc", "-c"], "stdin": input });
    let (status, answer) = api.request("POST", "/api/v1/sandboxes/box/exec", Some(&command));
    assert_eq!((status, &answer["exit_code"]), (200, &json!(0)), "{answer}");
    let end = totals(gateway, &ended(gateway, "exec", 1)[0]);
    assert_eq!(end["in"]["bytes"], input.len());
    assert_eq!(end["in"]["sha256"], data::sha256(input.as_bytes()));
}

#[test]
fn a_killed_gateway_leaves_all_but_the_last_second() {
    let Some(mut target) = recorded("") else { return };
    let script = "i=0; while sleep 0.1; do i=$((i+1)); echo tick $i; done";
    let mut session =
        Guard::spawn(target.ssh(&["-tt", "box", script]).stdin(Stdio::null()).stdout(Stdio::piped()));
    let mut lines = BufReader::new(session.child().stdout.take().unwrap()).lines();
    let start = Instant::now();
    let mut last = 0;
    while start.elapsed() < Duration::from_secs(4) {
        let line = lines.next().unwrap().unwrap();
        last = line.trim().strip_prefix("tick ").and_then(|it| it.parse::<u32>().ok()).unwrap_or(last);
    }
    target.gateway_mut().kill();
    let file = files(target.gateway()).into_iter().find(|it| it.extension().is_some_and(|it| it == "cast"));
    let file = file.unwrap();
    let verified = target.gateway().cli(&["recording", "verify", "--file", file.to_str().unwrap()]);
    verified.exits(0);
    assert!(verified.text().contains("without an end"), "{}", verified.text());
    let text = std::fs::read_to_string(&file).unwrap();
    let kept = text.rmatch_indices("tick ").next().unwrap().0;
    let kept: u32 =
        text[kept + 5..].chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
    assert!(kept + 10 >= last, "{kept} of {last} ticks");
    // A gateway that starts again takes it over.
    target.gateway_mut().start_again();
    let recording = &ended(target.gateway(), "terminal", 1)[0];
    assert_eq!(recording["complete"], false);
    target.gateway().cli(&["recording", "verify", id(recording)]).exits(0);
    assert!(!export(target.gateway(), recording, "raw").is_empty());
}

#[test]
fn a_change_is_found() {
    let Some(target) = recorded("") else { return };
    let gateway = target.gateway();
    target.run_ssh(&["-tt", "box", "echo salary 1000"]).exits(0);
    let recording = &ended(gateway, "terminal", 1)[0];
    let file = gateway.data_dir().join(format!("recordings/{}.cast", id(recording)));
    let written = std::fs::read(&file).unwrap();
    let check = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        gateway.cli(&["recording", "verify", id(recording)]).code
    };
    assert_eq!(check(&written), 0);
    for at in [5, written.len() / 3, written.len() / 2, written.len() - 2] {
        let mut changed = written.clone();
        changed[at] ^= 1;
        assert_eq!(check(&changed), 1, "byte {at}");
    }
    // A cut looks like a crash to the file alone, and not to the gateway.
    let lines: Vec<&[u8]> = written.split_inclusive(|byte| *byte == b'\n').collect();
    assert_eq!(check(&lines[..lines.len() - 2].concat()), 1);
    assert_eq!(check(&written), 0);
    gateway.cli(&["recording", "rm", id(recording)]).exits(0);
    assert!(!file.exists());
}

#[test]
fn commands_files_and_forwards_have_timelines() {
    let Some(target) = recorded("") else { return };
    let gateway = target.gateway();
    let input = b"some input\n".repeat(10_000);
    let output = target.exec_with("cat; echo err >&2; exit 9", input.clone());
    output.exits(9);
    let end = totals(gateway, &ended(gateway, "exec", 1)[0]);
    for (direction, bytes) in [("in", &input[..]), ("out", &output.stdout), ("err", b"err\n")] {
        assert_eq!(end[direction]["bytes"], bytes.len(), "{direction}");
        assert_eq!(end[direction]["sha256"], data::sha256(bytes), "{direction}");
    }
    assert_eq!(end["exit"], 9);

    let mut batch =
        target.script("echo 'put /etc/hostname /tmp/copied' | sftp -q -b - -F $DIR/ssh_config box");
    run(&mut batch, Feed::Null, DEADLINE).exits(0);
    let end = totals(gateway, &ended(gateway, "sftp", 1)[0]);
    assert!(end["in"]["bytes"].as_u64() > Some(0) && end["out"]["bytes"].as_u64() > Some(0), "{end}");

    let server = Server::start(&target, "echo", "0");
    let to = format!("localhost:{}", server.at);
    let output = run(&mut target.ssh(&["-W", &to, "box"]), Feed::Bytes(input.clone()), DEADLINE);
    assert!(output.stdout == input, "the forward lost something");
    let forward = &ended(gateway, "forward", 1)[0];
    let end = totals(gateway, forward);
    for direction in ["in", "out"] {
        assert_eq!(end[direction]["sha256"], data::sha256(&input), "{direction}");
    }
    assert!(String::from_utf8(export(gateway, forward, "v3")).unwrap().contains(&to));
}

/// A small file system over the directory of recordings.
struct Small(PathBuf);

impl Small {
    fn mount(gateway: &Gateway) -> Option<Small> {
        let at = gateway.data_dir().join("recordings");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs"]).arg(&at);
        if run(&mut mount, Feed::Null, DEADLINE).code == 0 {
            return Some(Small(at));
        }
        skip::because("no small file system can be mounted here");
        None
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0 as &Path).status();
    }
}

#[test]
fn a_full_disk_ends_the_recording_and_not_the_session() {
    let Some(target) = recorded("") else { return };
    let Some(_small) = Small::mount(target.gateway()) else { return };
    let output = target.run_ssh(&["-tt", "box", "seq 1 100000; sleep 1; echo done."]);
    output.exits(0);
    assert!(output.text().ends_with("done.\r\n"));
    let recording = &ended(target.gateway(), "terminal", 1)[0];
    assert_eq!(recording["complete"], false);
    target.gateway().cli(&["recording", "verify", id(recording)]).exits(0);
    assert_eq!(target.log().matches("a recording ends before its session").count(), 1);
}

#[test]
fn a_recording_ends_at_its_limit_and_its_session_goes_on() {
    let Some(target) = recorded("max_bytes = 65536") else { return };
    let output = target.run_ssh(&["-tt", "box", "seq 1 100000; sleep 1; echo done."]);
    output.exits(0);
    assert!(output.text().ends_with("done.\r\n"));
    let recording = &ended(target.gateway(), "terminal", 1)[0];
    assert_eq!(recording["complete"], false);
    assert!(files(target.gateway()).iter().all(|file| file.metadata().unwrap().len() <= 65536));
    target.gateway().cli(&["recording", "verify", id(recording)]).exits(0);
}

#[test]
fn a_full_disk_ends_the_session_where_recordings_are_required() {
    let Some(target) = recorded("required = true") else { return };
    let Some(small) = Small::mount(target.gateway()) else { return };
    let output = target.run_ssh(&["-tt", "box", "seq 1 100000; sleep 60; echo done."]);
    assert_eq!(output.code, 255);
    let said = format!("{}{}", output.text(), output.errors());
    assert!(said.contains("can no longer be recorded") && !said.contains("done."), "{said}");
    // And no other begins.
    std::fs::write(small.0.join("filler"), vec![0; 64 << 10]).unwrap_err();
    let output = target.run_ssh(&["box", "echo done."]);
    assert_eq!(output.code, 255);
    assert!(output.errors().contains("cannot be recorded"), "{}", output.errors());
}

#[test]
fn asciinema_plays_and_converts_it() {
    let Some(target) = recorded("") else { return };
    let asciinema = paths::venv("asciinema");
    if !asciinema.exists() {
        return skip::because("asciinema is not installed: run tests/setup.sh");
    }
    let gateway = target.gateway();
    let output = target.run_ssh(&["-tt", "box", "printf 'caf\\303\\251 \\033[31mred\\033[m\\n'; seq 1 100"]);
    output.exits(0);
    let recording = &ended(gateway, "terminal", 1)[0];
    let file = target.dir().join("v2.cast");
    let name = file.to_str().unwrap();
    gateway.cli(&["recording", "export", id(recording), "--format", "v2", "-o", name]).exits(0);
    let mut command = Command::new(asciinema);
    let command = command.args(["cat", name]).env("HOME", target.dir()).env("LANG", "C.UTF-8");
    let played = run(command, Feed::Null, DEADLINE);
    played.exits(0);
    assert!(played.stdout == output.stdout, "{:?}", played.text());
}
