//! A minute of the soak (see `soak/main.rs`); `make soak` runs it for as long as one likes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests report by panicking")]

use std::process::Command;
use std::time::Duration;

use sandgate_tests::{Feed, paths, run, skip};

#[test]
fn heavy_everything_that_forwards_for_a_minute() {
    if skip::oracle_lacks("the gateway's own counts") {
        return;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandgate-soak"));
    command.env("SOAK", "60s").env("SANDGATE_BIN", paths::sandgate());
    let output = run(&mut command, Feed::Null, Duration::from_secs(400));
    assert_eq!(output.code, 0, "{}\n{}", output.text(), output.errors());
}
