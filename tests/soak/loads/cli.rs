//! `sandgate ssh` with a command, the agent and forwards, over the control socket.

use std::io::Read as _;
use std::process::Stdio;
use std::time::Duration;

use sandgate_tests::Feed;
use sandgate_tests::process::{Guard, try_run};
use sandgate_tests::wait::free_port;

use super::{end, taken};
use crate::ground::{Dice, Ground, Stop, Tally};
use crate::servers::{Stream, dangling, here, visit_hash, visit_speech};

const AGENT: &str = "ssh-add -l >/dev/null 2>&1; echo code $?";

/// The servers are here, and reached by `-L` of a port that is a `-R` of the same client: every connection goes in and comes out again.
pub fn run(ground: &Ground, stop: &Stop, tally: &Tally) {
    let mut dice = Dice::new();
    let (hash, speak) = here();
    while !stop.now() {
        let (near_hash, near_speak) = (free_port(), free_port());
        let (far_hash, far_speak) = (free_port(), free_port());
        let forwards = [
            ("-R", format!("{far_hash}:127.0.0.1:{hash}")),
            ("-R", format!("{far_speak}:127.0.0.1:{speak}")),
            ("-L", format!("{near_hash}:localhost:{far_hash}")),
            ("-L", format!("{near_speak}:localhost:{far_speak}")),
        ];
        let mut args = vec!["--exit-on-forward-failure"];
        args.extend(forwards.iter().flat_map(|(option, forward)| [*option, forward.as_str()]));
        args.extend(["box", "echo ready; sleep 600"]);
        let mut command = ground.cli(&args);
        let mut client =
            Guard::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()));
        // The command starts when all forwards are there.
        if taken(|child| child.stdout.take(), &mut client).read_exact(&mut [0; 6]).is_err() {
            tally.fail("the client ended before its command began");
            stop.sleep(Duration::from_secs(1));
            continue;
        }
        for _ in 0..4 {
            tally.count(Stream::tcp(near_hash).and_then(|stream| visit_hash(stream, &mut dice)));
            tally.count(Stream::tcp(near_speak).and_then(visit_speech));
        }
        let streams = (0..dice.roll(10)).filter_map(|_| Stream::tcp(near_hash).ok());
        let left = dangling(streams.collect(), &mut dice);
        left.iter().for_each(|_| tally.cut());
        end(client, &mut dice);
        drop(left);
        asks_the_agent(ground, tally);
        stop.sleep(Duration::from_millis(500));
    }
}

fn asks_the_agent(ground: &Ground, tally: &Tally) {
    let mut command = ground.cli(&["-A", "box", AGENT]);
    command.stderr(Stdio::piped());
    match try_run(&mut command, Feed::Null, Duration::from_secs(60)) {
        Ok(output) if output.text() == "code 0\n" => tally.succeed(),
        Ok(_) if ground.agent_was_away() => tally.excuse(),
        Ok(output) => tally.fail(&format!("code {}: {} {}", output.code, output.text(), output.errors())),
        Err(_) => tally.fail("sandgate ssh -A hangs"),
    }
}
