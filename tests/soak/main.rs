//! The soak: everything that forwards, at once and for a long time, with ends that are cut at random. `make soak` runs it.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `SOAK` | how long: `15m` (default), `24h`, `60s` |
//! | `SOAK_LOADS` | only these loads, by name, with commas between |
//! | `SANDGATE_BIN` | the binary under test, as for the other tests |
//!
//! First each load runs for a moment, so that everything has been used once; then gateway and guest agent are measured at rest, the loads run for the
//! time given, and both are measured again. It ends with counts, and with 1 when anything failed or did not come back to where it
//! began.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "a test reports by panicking"
)]

mod ground;
mod loads;
mod measure;
mod servers;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ground::{Ground, Stop, Tally};
use measure::Rest;

/// Each load runs so long before the first measurement.
const WARM_UP: Duration = Duration::from_secs(12);
/// Time for everything to come to rest after the loads have stopped: the grace of hung up processes, twice, and more.
const SETTLE: Duration = Duration::from_secs(40);

fn main() -> ExitCode {
    let time = match duration(std::env::var("SOAK").ok().as_deref().unwrap_or("15m")) {
        Some(time) => time,
        None => {
            eprintln!("SOAK is a length of time such as 60s, 15m or 24h");
            return ExitCode::from(2);
        }
    };
    let wanted = std::env::var("SOAK_LOADS").ok();
    let wanted: Option<Vec<&str>> = wanted.as_deref().map(|text| text.split(',').collect());
    let loads: Vec<_> =
        loads::ALL.iter().filter(|load| wanted.as_ref().is_none_or(|it| it.contains(&load.name))).collect();

    let ground = Arc::new(Ground::new());
    println!("soak: warming up for {WARM_UP:?}");
    let warm = run(&ground, &loads, WARM_UP);
    let before = Rest::wait(&ground, SETTLE, None);
    println!("soak: at rest: {before}");
    println!("soak: {} loads for {time:?}", loads.len());
    let tallies = run(&ground, &loads, time);
    let after = Rest::wait(&ground, SETTLE, Some(&before));
    println!("soak: at rest again: {after}");

    let mut failures = Vec::new();
    println!("{:<10} {:>9} {:>9} {:>9} {:>9}", "load", "good", "excused", "cut", "failed");
    for (load, (warm, tally)) in loads.iter().zip(warm.iter().zip(&tallies)) {
        println!("{:<10} {tally}", load.name);
        if tally.good() == 0 {
            failures.push(format!("{}: nothing succeeded", load.name));
        }
        if tally.failed() + warm.failed() > 0 {
            failures.push(format!("{}: {} failures", load.name, tally.failed() + warm.failed()));
        }
        for text in warm.samples().iter().chain(&tally.samples()) {
            println!("    {text}");
        }
    }
    failures.extend(after.compared_with(&before));
    let log = ground.target.log();
    if log.contains("panicked") {
        failures.push("a panic in the gateway".to_owned());
    }
    for failure in &failures {
        println!("soak: FAILED: {failure}");
    }
    println!("soak: {}", if failures.is_empty() { "passed" } else { "failed" });
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the loads beside each other, each on a thread of its own.
fn run(ground: &Arc<Ground>, loads: &[&loads::Load], time: Duration) -> Vec<Arc<Tally>> {
    let stop = Arc::new(Stop::at(Instant::now() + time));
    let running: Vec<_> = loads
        .iter()
        .map(|load| {
            let tally = Arc::<Tally>::default();
            let (ground, stop, counted, run) = (ground.clone(), stop.clone(), tally.clone(), load.run);
            (std::thread::spawn(move || run(&ground, &stop, &counted)), tally)
        })
        .collect();
    running
        .into_iter()
        .map(|(thread, tally)| {
            if let Err(panic) = thread.join() {
                let text = panic.downcast_ref::<String>().cloned();
                tally.fail(&format!("the load itself panicked: {}", text.unwrap_or_default()));
            }
            tally
        })
        .collect()
}

/// `60s`, `15m`, `24h`; a bare number is seconds.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    let seconds = digits.parse::<u64>().ok()?.checked_mul(unit)?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}
