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
#[allow(dead_code, reason = "the tests of commands need more of it")]
#[path = "browser/stream.rs"]
mod stream;

#[path = "recordings/disk.rs"]
mod disk;
#[path = "recordings/doors.rs"]
mod doors;
#[path = "recordings/forms.rs"]
mod forms;
#[path = "recordings/times.rs"]
mod times;

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use sandgate_tests::gateway::Gateway;
use sandgate_tests::process::Guard;
use sandgate_tests::terminal::Terminal;
use sandgate_tests::{Options, Target, skip, wait};
use serde_json::Value;

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

#[test]
fn a_killed_gateway_leaves_all_but_the_last_second() {
    let Some(mut target) = recorded("") else { return };
    let script = "i=0; while sleep 0.1; do i=$((i+1)); echo tick $i; done";
    let mut session =
        Guard::spawn(target.ssh(&["-tt", "box", script]).stdin(Stdio::null()).stdout(Stdio::piped()));
    let mut lines = BufReader::new(session.child().stdout.take().unwrap());
    // Beside it, one without a terminal.
    let mut other = Guard::spawn(target.ssh(&["box", script]).stdin(Stdio::null()).stdout(Stdio::piped()));
    let mut output = other.child().stdout.take().unwrap();
    let counted = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // It ends with the gateway.
        let _ = std::io::Read::read_to_end(&mut output, &mut bytes);
        bytes.len() as u64
    });
    let start = Instant::now();
    let (mut last, mut seen) = (0, String::new());
    while start.elapsed() < Duration::from_secs(4) {
        let begin = seen.len();
        lines.read_line(&mut seen).unwrap();
        let tick = seen[begin..].trim().strip_prefix("tick ").and_then(|it| it.parse::<u32>().ok());
        last = tick.unwrap_or(last);
    }
    target.gateway_mut().kill();
    // What was on its way.
    let _ = std::io::Read::read_to_string(&mut lines, &mut seen);
    let counted = counted.join().unwrap();
    let file = |kind: &str| {
        let found =
            files(target.gateway()).into_iter().find(|it| it.extension().is_some_and(|it| it == kind));
        let found = found.unwrap();
        let verified = target.gateway().cli(&["recording", "verify", "--file", found.to_str().unwrap()]);
        verified.exits(0);
        assert!(verified.text().contains("without an end"), "{}", verified.text());
        std::fs::read_to_string(found).unwrap()
    };
    let text = file("cast");
    let kept = text.rmatch_indices("tick ").next().unwrap().0;
    let kept: u32 =
        text[kept + 5..].chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
    assert!(kept + 10 >= last, "{kept} of {last} ticks");
    let timeline = file("jsonl");
    let lines = timeline.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let noted: u64 = lines.filter(|line| line["dir"] == "out").map(|it| it["bytes"].as_u64().unwrap()).sum();
    // A second has ten ticks.
    assert!(noted <= counted && noted + 10 * "tick 10\n".len() as u64 >= counted, "{noted} of {counted}");
    // A gateway that starts again takes it over.
    target.gateway_mut().start_again();
    let recording = &ended(target.gateway(), "terminal", 1)[0];
    assert_eq!(recording["complete"], false);
    target.gateway().cli(&["recording", "verify", id(recording)]).exits(0);
    let kept = String::from_utf8(export(target.gateway(), recording, "raw")).unwrap();
    assert!(!kept.is_empty() && seen.starts_with(&kept), "{kept:?} is not what was seen: {seen:?}");
    let recording = &ended(target.gateway(), "exec", 1)[0];
    assert_eq!(recording["complete"], false);
    target.gateway().cli(&["recording", "verify", id(recording)]).exits(0);
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
