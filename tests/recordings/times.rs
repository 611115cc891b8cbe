//! When it was: the times of a recording beside those at which its client got the bytes.

use std::io::Read as _;
use std::process::Stdio;
use std::thread::scope;
use std::time::Instant;

use sandgate_tests::Target;
use sandgate_tests::process::Guard;
use serde_json::{Value, json};

use super::page::Api;
use super::{ended, export, recorded, stream};

/// Lines that each session prints, one every hundredth of a second.
const LINES: usize = 150;
/// How far a time may be off, in seconds.
const BOUND: f64 = 0.010;
/// The client must get the processor to see when something comes: a session that was held up is measured again.
const TRIES: usize = 8;

/// What came, and by when so many bytes of it had come, in seconds.
struct Got {
    door: &'static str,
    bytes: Vec<u8>,
    at: Vec<(usize, f64)>,
}

fn script(door: &str) -> String {
    format!("i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo {door} line $i; sleep 0.01; done; exit 3")
}

fn by_ssh(target: &Target, start: Instant) -> Got {
    let mut command = target.ssh(&["-tt", "box", &script("ssh")]);
    let mut session = Guard::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    let mut output = session.child().stdout.take().unwrap();
    let (mut bytes, mut at, mut piece) = (Vec::new(), Vec::new(), [0; 8192]);
    while let Ok(count @ 1..) = output.read(&mut piece) {
        let now = start.elapsed().as_secs_f64();
        bytes.extend_from_slice(&piece[..count]);
        at.push((bytes.len(), now));
    }
    Got { door: "ssh", bytes, at }
}

fn by_page(target: &Target, start: Instant) -> Got {
    let api = Api::new(target.gateway());
    let made = api.post("/api/v1/sandboxes/box/terminals", &json!({ "cols": 80, "rows": 24 }));
    let mut page = api.attach(made["ticket"].as_str().unwrap(), 80, 24);
    page.text("ready");
    page.types(&format!("{}\r", script("page")));
    let mut at = Vec::new();
    let end = page.end_with(|output| at.push((output.len(), start.elapsed().as_secs_f64())));
    assert_eq!(end["code"], 3, "{end}");
    Got { door: "page", bytes: page.output, at }
}

fn by_stream(target: &Target, key: &str, start: Instant) -> Got {
    let terminal = json!({ "term": "xterm", "cols": 80, "rows": 24 });
    let what = json!({ "command": script("stream"), "terminal": terminal });
    let mut socket = stream::begin(target, key, &what);
    let mut at = Vec::new();
    let said =
        stream::rest_with(&mut socket, |said| at.push((said.stdout.len(), start.elapsed().as_secs_f64())));
    assert_eq!(said.exit()["code"], 3);
    Got { door: "stream", bytes: said.stdout, at }
}

/// By how much the worst of all events is off. Where the two clocks meet is not known, so the usual difference counts as none.
fn worst(got: &Got, v2: &str) -> f64 {
    let (mut length, mut off) = (0, Vec::new());
    for line in v2.lines().skip(1) {
        let event: Value = serde_json::from_str(line).unwrap();
        if event[1] != "o" {
            continue;
        }
        length += event[2].as_str().unwrap().len();
        let seen = got.at.iter().find(|(so_far, _)| *so_far >= length).expect("all of it came");
        off.push(seen.1 - event[0].as_f64().unwrap());
    }
    if off.len() < LINES * 9 / 10 {
        // Where a machine is busy several lines come at once.
        return f64::INFINITY;
    }
    let mut sorted = off.clone();
    sorted.sort_by(f64::total_cmp);
    let usual = sorted[sorted.len() / 2];
    off.iter().map(|off| (off - usual).abs()).fold(0.0, f64::max)
}

/// Every event, by whichever door, within 10 ms; and every byte.
#[test]
fn timed_bytes_and_times_are_those_that_the_client_saw() {
    let Some(target) = recorded("") else { return };
    let gateway = target.gateway();
    let key = stream::key(&target, "user");
    let mut left = vec!["ssh", "page", "stream"];
    for turn in 1..=TRIES {
        let start = Instant::now();
        let got = scope(|scope| {
            let doors = [
                scope.spawn(|| by_ssh(&target, start)),
                scope.spawn(|| by_page(&target, start)),
                scope.spawn(|| by_stream(&target, &key, start)),
            ];
            doors.map(|door| door.join().unwrap())
        });
        // The newest are those of this turn.
        let recordings = ended(gateway, "terminal", 3 * turn);
        for got in got {
            let same = recordings[..3].iter().find(|it| export(gateway, it, "raw") == got.bytes);
            let same = same.unwrap_or_else(|| panic!("no recording is what the client of {} saw", got.door));
            let worst = worst(&got, &String::from_utf8(export(gateway, same, "v2")).unwrap());
            println!("{}, turn {turn}: the worst time is off by {:.3} ms", got.door, worst * 1000.0);
            if worst < BOUND {
                left.retain(|door| *door != got.door);
            }
        }
        if left.is_empty() {
            return;
        }
    }
    panic!("times are off by more than 10 ms {TRIES} times over: {left:?}");
}
