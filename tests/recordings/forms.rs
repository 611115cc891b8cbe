//! The forms in which a recording is had: as it was written, for older players, as text, as bytes, and played; also by asciinema.

use std::process::Command;
use std::time::Duration;

use sandgate_tests::client::DEADLINE;
use sandgate_tests::terminal::Terminal;
use sandgate_tests::{Feed, paths, run, skip, wait};
use serde_json::Value;

use super::{ended, export, id, recorded};

/// Text, colours, a title, a pause, a character in two pieces (which wait for each other for a quarter of a second at least), and bytes that are
/// no text.
const SCRIPT: &str = r"seq 1 200; printf 'caf\303\251 \033[31mred\033[m\n\033]0;title\007'; sleep 0.5
    printf '\342\202'; sleep 0.1; printf '\254 \377\200.\n'; exit 3";

/// The events of lines of JSON.
fn events(text: &str) -> Vec<(f64, String, String)> {
    let lines = text.lines().skip(1).filter(|line| !line.starts_with('#'));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn a_recording_is_played_and_written_in_every_form() {
    let Some(target) = recorded("") else { return };
    let gateway = target.gateway();
    let output = target.run_ssh(&["-tt", "box", SCRIPT]);
    output.exits(3);
    let recording = &ended(gateway, "terminal", 1)[0];
    let id = id(recording);

    // Played, as fast as it goes and without its pauses, it is what was seen; so it is at its own speed, and then it takes its time.
    for (args, least) in [
        (&["--speed", "1000", "--idle-limit", "0.001"][..], 0.0),
        (&["--speed", "1000000"], 0.0),
        (&[], 0.45),
    ] {
        let played = gateway.cli(&[&["recording", "play", id], args].concat());
        played.exits(0);
        assert!(played.stdout == output.stdout, "{args:?}: {:?}", played.text());
        assert!(played.took.as_secs_f64() > least, "{args:?}: in {:?}", played.took);
    }
    let text = String::from_utf8(export(gateway, recording, "text")).unwrap();
    let numbers: String = (1..=200).map(|number| format!("{number}\n")).collect();
    assert_eq!(text, format!("{numbers}café red\n€ \u{fffd}\u{fffd}.\n"));

    let v3 = String::from_utf8(export(gateway, recording, "v3")).unwrap();
    let v2 = String::from_utf8(export(gateway, recording, "v2")).unwrap();
    let head = |text: &str| serde_json::from_str::<Value>(text.lines().next().unwrap()).unwrap();
    let (new, old) = (head(&v3), head(&v2));
    assert_eq!((&new["version"], &old["version"]), (&3.into(), &2.into()));
    assert_eq!((&new["term"]["cols"], &new["term"]["rows"]), (&old["width"], &old["height"]));
    assert_eq!(new["timestamp"], old["timestamp"]);
    // One has intervals and an exit, the other has times and none.
    let (mut now, mut new, old) = (0.0, events(&v3), events(&v2));
    assert_eq!(new.pop().map(|(_, code, data)| (code, data)), Some(("x".to_owned(), "3".to_owned())));
    assert!(!new.is_empty() && new.len() == old.len(), "{v3}{v2}");
    for (new, old) in new.iter().zip(&old) {
        now += new.0;
        assert!((now - old.0).abs() < 1e-5, "{now} and {}", old.0);
        assert_eq!((&new.1, &new.2), (&old.1, &old.2));
    }
    assert!(now > 0.45, "the pause is in it");
    let file = std::fs::read(gateway.data_dir().join(format!("recordings/{id}.cast"))).unwrap();
    assert!(v3.as_bytes() == file, "as it was written");

    // For people.
    let list = gateway.cli(&["recording", "ls"]).ok();
    assert!(list.starts_with("ID ") && list.lines().count() == 2, "{list}");
    assert!(list.contains(id) && list.contains(" terminal ") && list.ends_with("complete"), "{list}");
    let verified = gateway.cli(&["recording", "verify", id]).ok();
    assert!(verified.starts_with(&format!("{id}: valid and complete")), "{verified}");
    // What is there is not written over, and what is not there is named.
    let to = target.dir().join("there");
    let there = ["recording", "export", id, "-o", to.to_str().unwrap()];
    gateway.cli(&there).exits(0);
    assert!(std::fs::read(&to).unwrap() == file);
    assert!(gateway.cli(&there).code != 0 && std::fs::read(&to).unwrap() == file);
    for args in [&["play", "rec-none"][..], &["export", "rec-none"], &["verify", "rec-none"]] {
        let none = gateway.cli(&[&["recording"], args].concat());
        assert!(none.code == 1 && none.errors().contains("no recording with that id"), "{args:?}: {none:?}");
    }
}

/// PyPI has asciinema up to 2.4, which knows version 2.
#[test]
fn asciinema_plays_and_converts_it() {
    let Some(target) = recorded("") else { return };
    let asciinema = paths::venv("asciinema");
    if !asciinema.exists() {
        return skip::because("asciinema is not installed: run tests/setup.sh");
    }
    let gateway = target.gateway();
    // Without bytes that are no text, which an asciicast can only show as such.
    let output = target.run_ssh(&["-tt", "box", &SCRIPT.replace(r"\377\200", "")]);
    output.exits(3);
    let recording = &ended(gateway, "terminal", 1)[0];
    let file = target.dir().join("v2.cast");
    let name = file.to_str().unwrap();
    gateway.cli(&["recording", "export", id(recording), "--format", "v2", "-o", name]).exits(0);
    let command = |args: &[&str]| {
        let mut command = Command::new(&asciinema);
        command.args(args).arg(name).env("HOME", target.dir()).env("LANG", "C.UTF-8");
        command
    };
    let played = run(&mut command(&["cat"]), Feed::Null, DEADLINE);
    played.exits(0);
    assert!(played.stdout == output.stdout, "{:?}", played.text());

    // On a terminal, as a person would.
    let mut terminal = Terminal::spawn(&command(&["play", "-s", "1000", "-i", "0.01"]), 80, 24);
    assert_eq!(terminal.wait(), 0, "{}", terminal.screen());
    let all = || terminal.screen() == output.text();
    assert!(wait::until(Duration::from_secs(5), all), "{:?}", terminal.screen());

    // And written again by it: the same header, the same events.
    let again = run(&mut command(&["play", "-s", "1000000", "--out-fmt", "asciicast"]), Feed::Null, DEADLINE);
    let (ours, theirs) = (std::fs::read_to_string(&file).unwrap(), again.ok());
    let head = |text: &str| serde_json::from_str::<Value>(text.lines().next().unwrap()).unwrap();
    for field in ["version", "width", "height", "timestamp", "env"] {
        assert_eq!(head(&ours)[field], head(&theirs)[field], "{field}");
    }
    let said = |text: &str| events(text).into_iter().map(|(_, code, text)| (code, text)).collect::<Vec<_>>();
    assert_eq!(said(&ours), said(&theirs));
}
