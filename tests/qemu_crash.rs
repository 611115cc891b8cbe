//! A machine whose parts are killed under load: QEMU, its shim, its vsock device. Users are told, the state is true, nothing is left,
//! and it starts again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::io::{Read as _, Write as _};
use std::process::{ChildStderr, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sandgate_tests::Target;
use sandgate_tests::machine::{self, Holdings, Needs};
use sandgate_tests::process::Guard;
use sandgate_tests::wait::until;

/// Until `sandbox inspect` tells the truth.
const TRUTH: Duration = Duration::from_secs(2);
/// Until a client of a dead machine has ended.
const END: Duration = Duration::from_secs(10);

/// A session that has begun, and what it says on standard error from then on.
fn begin(target: &Target, command: &str) -> (Guard, ChildStderr) {
    let mut ssh = target.ssh(&["box", &format!("echo up >&2; {command}")]);
    let mut guard = Guard::spawn(ssh.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()));
    let mut errors = guard.child().stderr.take().unwrap();
    let mut first = [0; 3];
    errors.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"up\n");
    (guard, errors)
}

fn killed(part: &str, find: fn(&Target, &str) -> Pid) {
    let Some(needs) = Needs::find() else { return };
    let target = needs.start();
    let id = machine::id(&target, "box");
    target.exec("echo kept >file; python3 -c 'import os; os.sync()'").ok();
    target.gateway().cli(&["sandbox", "stop", "box"]).ok();
    let ids = [id.clone()];
    let before = Holdings::of(&target, &ids);
    target.gateway().start_sandbox("box");

    let flood = begin(&target, "exec yes");
    let waiting = begin(&target, "exec sleep 1000");
    let mut upload = begin(&target, "exec cat >/tmp/upload");
    let mut stdin = upload.0.child().stdin.take().unwrap();
    let sender = std::thread::spawn(move || while stdin.write_all(&[7; 65536]).is_ok() {});
    std::thread::sleep(Duration::from_millis(500));

    let victim = find(&target, &id);
    let start = Instant::now();
    kill_process(victim, Signal::KILL).unwrap();
    let true_state = until(TRUTH, || machine::state(&target, "box") == "stopped");
    assert!(true_state, "{part}: {:?} later it is {}", start.elapsed(), machine::state(&target, "box"));
    for (what, (mut session, mut errors)) in [("flood", flood), ("wait", waiting), ("upload", upload)] {
        assert_eq!(session.wait(END), Some(255), "{part}: the session of the {what} lives on");
        let mut text = String::new();
        errors.read_to_string(&mut text).unwrap();
        assert!(text.contains("sandgate: "), "{part}: the user of the {what} was told {text:?}");
    }
    sender.join().unwrap();
    let clean = until(Duration::from_secs(3), || Holdings::of(&target, &ids) == before);
    assert!(clean, "{part}: before {before:#?}, left {:#?}", Holdings::of(&target, &ids));

    target.gateway().start_sandbox("box");
    assert_eq!(target.exec("cat file").ok(), "kept", "{part}");
    target.gateway().cli(&["sandbox", "rm", "--force", "box"]).ok();
    let gone = Holdings { directories: before.directories - 1, ..before };
    let clean = until(Duration::from_secs(3), || Holdings::of(&target, &ids) == gone);
    assert!(clean, "{part}: {:#?} is left of the removed one", Holdings::of(&target, &ids));
}

fn of_program(id: &str, name: &str) -> Pid {
    let all = machine::processes_of(id);
    let found = all.iter().find(|(_, line)| line.split(' ').next().is_some_and(|it| it.ends_with(name)));
    found.unwrap_or_else(|| panic!("no {name} among {all:#?}")).0
}

#[test]
fn heavy_qemu_is_killed_under_load() {
    killed("QEMU", |target, _| machine::qemu_pid(target, "box"));
}

#[test]
fn heavy_the_shim_is_killed_under_load() {
    killed("the shim", |_, id| {
        let all = machine::processes_of(id);
        let found = all.iter().find(|(_, line)| line.contains("vm-run"));
        found.unwrap_or_else(|| panic!("no shim among {all:#?}")).0
    });
}

#[test]
fn heavy_the_vsock_device_is_killed_under_load() {
    killed("the vsock device", |_, id| of_program(id, "vhost-device-vsock"));
}
