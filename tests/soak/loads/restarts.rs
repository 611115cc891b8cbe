//! The user's agent is restarted, every minute (more often in a short run). Afterwards sessions that were there before have it again.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;
use std::time::Duration;

use sandgate_tests::process::Guard;
use sandgate_tests::wait::until;

use super::taken;
use crate::ground::{Ground, Stop, Tally};

/// Between two restarts.
const PAUSE: Duration = Duration::from_secs(60);
/// The first comes early, so that a short run has one.
const FIRST: Duration = Duration::from_secs(8);

pub fn run(ground: &Ground, stop: &Stop, tally: &Tally) {
    let script = "while read -r line; do ssh-add -l >/dev/null 2>&1 && echo good || echo bad; done";
    let mut command = ground.ssh(&["-A", "box", script]);
    let mut session = Guard::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut ask = taken(|child| child.stdin.take(), &mut session);
    let mut answers = BufReader::new(taken(|child| child.stdout.take(), &mut session)).lines();
    let mut has_agent =
        || writeln!(ask).is_ok() && answers.next().is_some_and(|line| line.is_ok_and(|line| line == "good"));
    stop.sleep(FIRST);
    while !stop.now() {
        ground.restart_agent();
        if until(Duration::from_secs(20), &mut has_agent) {
            tally.succeed();
        } else {
            tally.fail("a session has lost its agent for good");
        }
        stop.sleep(PAUSE);
    }
}
