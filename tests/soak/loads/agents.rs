//! A hundred agent clients at once, in one session.

use std::time::Duration;

use sandgate_tests::Feed;
use sandgate_tests::process::try_run;

use crate::ground::{Ground, Stop, Tally};

/// At once.
const CLIENTS: usize = 100;

pub fn run(ground: &Ground, stop: &Stop, tally: &Tally) {
    let script = format!(
        "for i in $(seq {CLIENTS}); do {{ ssh-add -l >/dev/null 2>&1 && echo good || echo bad; }} & done; wait"
    );
    while !stop.now() {
        match try_run(&mut ground.ssh(&["-A", "box", &script]), Feed::Null, Duration::from_secs(120)) {
            Ok(output) => {
                let good = output.text().lines().filter(|line| *line == "good").count();
                (0..good).for_each(|_| tally.succeed());
                for _ in good..CLIENTS {
                    if ground.agent_was_away() {
                        tally.excuse();
                    } else {
                        tally.fail(&format!(
                            "{good} of {CLIENTS}, code {}: {}",
                            output.code,
                            output.errors()
                        ));
                    }
                }
            }
            Err(_) => tally.fail("agent clients hang"),
        }
        stop.sleep(Duration::from_secs(3));
    }
}
