//! `-L` in its forms, and `-W`, with stock ssh.

use std::process::Stdio;
use std::time::Duration;

use sandgate_tests::process::try_run;
use sandgate_tests::wait::free_port;
use sandgate_tests::{Feed, data};

use super::{end, forwarder};
use crate::ground::{Dice, Ground, Stop, Tally};
use crate::servers::{INSIDE, INSIDE_SOCKET, Inside, Stream, dangling, visit_hash, visit_speech};

pub fn run(ground: &Ground, stop: &Stop, tally: &Tally) {
    let _servers = Inside::start(ground);
    let mut dice = Dice::new();
    while !stop.now() {
        let (hash, speak, over) = (free_port(), free_port(), free_port());
        let socket = ground.target.dir().join(format!("l{hash}"));
        let forwards = [
            format!("{hash}:127.0.0.1:{INSIDE}"),
            format!("{speak}:localhost:{}", INSIDE + 1),
            format!("{over}:{INSIDE_SOCKET}"),
            format!("{}:localhost:{INSIDE}", socket.display()),
        ];
        let mut args = vec!["-N", "-o", "ExitOnForwardFailure=yes"];
        args.extend(forwards.iter().flat_map(|forward| ["-L", forward.as_str()]));
        args.push("box");
        let client = forwarder(ground.ssh(&args));
        for _ in 0..4 {
            tally.count(Stream::tcp(hash).and_then(|stream| visit_hash(stream, &mut dice)));
            tally.count(Stream::tcp(speak).and_then(visit_speech));
            tally.count(Stream::tcp(over).and_then(|stream| visit_hash(stream, &mut dice)));
            tally.count(Stream::unix(&socket).and_then(|stream| visit_hash(stream, &mut dice)));
        }
        let streams =
            (0..dice.roll(20)).filter_map(|i| Stream::tcp(if i % 2 == 0 { hash } else { speak }).ok());
        let left = dangling(streams.collect(), &mut dice);
        left.iter().for_each(|_| tally.cut());
        end(client, &mut dice);
        drop(left);
        let _ = std::fs::remove_file(&socket);
        tally.count(through_standard_input(ground));
        stop.sleep(Duration::from_millis(500));
    }
}

/// `-W` to the first kind of server.
fn through_standard_input(ground: &Ground) -> Result<(), String> {
    let bytes = data::random(3, 50_000);
    let mut command = ground.ssh(&["-W", &format!("localhost:{INSIDE}"), "box"]);
    command.stderr(Stdio::piped());
    let output = try_run(&mut command, Feed::Bytes(bytes.clone()), Duration::from_secs(60))
        .map_err(|_| "-W hangs".to_owned())?;
    if output.text() == data::sha256(&bytes) {
        Ok(())
    } else {
        Err(format!("-W: code {}, {:?} {}", output.code, output.text(), output.errors()))
    }
}
