//! Sandboxes that are made and removed many times over leave nothing on the host and nothing in the gateway. Containers of an engine:
//! `docker.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::time::Duration;

use sandgate_tests::forward::descriptors;
use sandgate_tests::machine::{self, Holdings, Needs};
use sandgate_tests::process::resident;
use sandgate_tests::wait::{scaled, until};
use sandgate_tests::{Options, Target, rootfs, skip};

/// What the gateway may grow by over all rounds, in bytes.
const GROWTH: u64 = 16 << 20;

fn rounds(target: &Target, count: usize, create: &[&str]) {
    let gateway = target.gateway();
    let mut ids = Vec::new();
    let mut round = |index: usize| {
        let name = format!("n{index}");
        gateway.create_sandbox(&name, create);
        let output = gateway.cli(&["exec", &name, "--", "sh", "-c", &format!("echo {name}")]);
        assert_eq!(output.ok(), name);
        ids.push(machine::id(target, &name));
        gateway.cli(&["sandbox", "rm", "--force", &name]).ok();
    };
    // The first brings what is kept for the others: the image's layers, a machine to copy.
    round(0);
    let files = || walk(&gateway.data_dir().display().to_string());
    let before = (descriptors(target.pid()), resident(target.pid()), files());
    let holdings = Holdings::of(target, &[]);
    (1..=count).for_each(&mut round);
    let same = || Holdings::of(target, &ids) == holdings;
    assert!(
        until(Duration::from_secs(5), same),
        "{holdings:#?} before, {:#?} after",
        Holdings::of(target, &ids)
    );
    let closed = until(Duration::from_secs(10), || descriptors(target.pid()) <= before.0 + 2);
    assert!(closed, "{} descriptors, then {}", before.0, descriptors(target.pid()));
    let grown = resident(target.pid()).saturating_sub(before.1);
    assert!(grown < GROWTH, "the gateway grew by {grown} bytes in {count} rounds");
    assert_eq!(files(), before.2, "files below the data directory");
}

/// All files below, but the store's own and the log of its writes.
fn walk(dir: &str) -> Vec<String> {
    let script = format!("find {dir} -not -name '*.db*' | sort");
    let mut command = std::process::Command::new("sh");
    let output = sandgate_tests::run(
        command.args(["-c", &script]),
        sandgate_tests::Feed::Null,
        Duration::from_secs(30),
    );
    output.ok().lines().map(str::to_owned).collect()
}

#[test]
fn heavy_twenty_machines_leave_nothing() {
    let Some(needs) = Needs::find() else { return };
    let target = Target::start_with(&Options { extra_toml: needs.toml(""), ..Options::default() });
    let words = machine::words(&rootfs::image().display().to_string());
    rounds(&target, scaled(20), &words.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn heavy_two_hundred_containers_leave_nothing() {
    if skip::oracle_lacks("sandboxes") {
        return;
    }
    let target = Target::start();
    rounds(&target, scaled(200), &["--image", &rootfs::image().display().to_string()]);
}
