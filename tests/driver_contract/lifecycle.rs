//! Starts and ends: of the sandbox, by request and by a crash, and of the gateway.

use std::io::Read as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use sandgate_tests::client::DEADLINE;
use sandgate_tests::process::Guard;
use sandgate_tests::wait::{is_wait_line, until};
use sandgate_tests::{Feed, rootfs, run};

use crate::ground::{Ground, Kind};
use crate::report::Behaviour;

pub const ALL: &[Behaviour] = &[
    ("states and kept files", states),
    ("wakes for who connects, and says so", wake),
    ("crash of the gateway", gateway_crash),
    ("crash of the sandbox under load", sandbox_crash),
    ("no shell: one line and 127", no_shell),
    ("rm leaves nothing", removal),
];

fn state(ground: &Ground) -> String {
    ground.inspect()["state"].as_str().unwrap_or_default().to_owned()
}

fn states(ground: &mut Ground) {
    assert_eq!(state(ground), "running");
    ground.exec("echo kept >~/file").ok();
    for _ in 0..2 {
        ground.target.gateway().cli(&["sandbox", "stop", "box"]).ok();
        assert_eq!(state(ground), "stopped");
        ground.target.gateway().start_sandbox("box");
        assert_eq!(state(ground), "running");
        if ground.kind == Kind::ExternalExec {
            // The program's overlay goes with it: where files lie is not the driver's.
            continue;
        }
        assert_eq!(ground.exec("cat ~/file").ok(), "kept");
    }
}

fn wake(ground: &mut Ground) {
    ground.target.gateway().cli(&["sandbox", "stop", "box"]).ok();
    let output = ground.exec("echo up");
    assert_eq!(output.ok(), "up");
    assert!(is_wait_line(&output.errors(), "box", "\n"), "{:?}", output.errors());
    assert_eq!(ground.exec("echo up").errors(), "", "it says so once");
}

fn gateway_crash(ground: &mut Ground) {
    ground.exec("echo before >~/crash").ok();
    let mut command = ground.target.ssh(&["box", "sleep 60"]);
    let mut session = Guard::spawn(command.stdin(Stdio::null()).stderr(Stdio::null()));
    let runs = |ground: &Ground| ground.exec("pgrep -x -f 'sleep 60' >/dev/null").code == 0;
    assert!(until(Duration::from_secs(10), || runs(ground)), "the command did not start");
    ground.target.gateway_mut().kill();
    assert_eq!(session.wait(Duration::from_secs(5)), Some(255), "the session outlived the gateway");
    ground.target.gateway_mut().start_again();
    // The program of `exec:` ends with the gateway; the others go on.
    if ground.kind == Kind::ExternalExec {
        assert_eq!(state(ground), "stopped");
        assert_eq!(ground.exec("echo again").ok(), "again");
        return;
    }
    assert_eq!(state(ground), "running", "it was not found again");
    assert_eq!(ground.exec("cat ~/crash").ok(), "before");
    assert!(until(Duration::from_secs(20), || !runs(ground)), "the command of a lost connection lives on");
}

/// A session that is flooded and one that waits: both end with a line; the state is true within 2 s; a new start works.
fn sandbox_crash(ground: &mut Ground) {
    ground.exec("true").ok();
    // Both run before the crash: one that connects after it would start the sandbox again.
    let begin = |command: &str| {
        let mut ssh = ground.target.ssh(&["box", command]);
        let mut guard = Guard::spawn(ssh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()));
        let mut errors = guard.child().stderr.take().unwrap();
        let mut first = [0; 3];
        errors.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"up\n");
        (guard, errors)
    };
    let (mut flood, _flood_errors) = begin("echo up >&2; exec yes");
    let (mut waiting, mut errors) = begin("echo up >&2; exec sleep 1000");
    let start = Instant::now();
    ground.crash();
    let stopped = until(Duration::from_secs(2), || state(ground) != "running");
    let took = start.elapsed();
    assert_eq!(waiting.wait(Duration::from_secs(5)), Some(255), "the waiting session lives on");
    assert_eq!(flood.wait(Duration::from_secs(5)), Some(255), "the flooded session lives on");
    let mut text = String::new();
    errors.read_to_string(&mut text).unwrap();
    assert!(text.contains("sandgate: "), "the user was told nothing: {text:?}");
    assert!(stopped, "after {took:?} it is still called running");
    ground.revive();
    assert_eq!(ground.exec("echo again").ok(), "again");
    assert_eq!(state(ground), "running");
}

fn no_shell(ground: &mut Ground) {
    let options = match ground.kind {
        Kind::Oci(runtime) => ["--runtime", runtime],
        Kind::Qemu => ["--driver", "qemu"],
        _ => {
            ground.exemption = Some("the image is somebody else's".into());
            return;
        }
    };
    let image = ground.place("empty");
    rootfs::empty_image(&image);
    let gateway = ground.target.gateway();
    gateway.create_sandbox("bare", &[&options[..], &["--image", image.to_str().unwrap()]].concat());
    let token = gateway.token("bare", &[]).token;
    run(&mut ground.target.ssh(&["-l", &token, "box"]), Feed::Null, DEADLINE);
    let output = run(&mut ground.target.ssh(&["-l", &token, "box", "true"]), Feed::Null, DEADLINE);
    assert_eq!((output.code, output.text().as_str()), (127, ""), "{}", output.errors());
    assert_eq!(output.errors().lines().count(), 1, "{}", output.errors());
}

fn removal(ground: &mut Ground) {
    ground.exec("setsid sleep 3333 </dev/null >/dev/null 2>&1 & echo up").ok();
    let id = ground.inspect()["id"].as_str().unwrap_or("box").to_owned();
    ground.target.gateway().cli(&["sandbox", "rm", "--force", "box"]).ok();
    let list = ground.target.gateway().json(&["sandbox", "ls"]).to_string();
    assert!(!list.contains("\"box\""), "{list}");
    if ground.kind.is_external() {
        return;
    }
    let left = || {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let groups = std::process::Command::new("find")
            .args(["/sys/fs/cgroup", "-type", "d", "-name", &format!("*{id}*")])
            .output();
        let groups = groups.map(|it| it.stdout).unwrap_or_default();
        let files = ground.target.gateway().data_dir().join("sandboxes").join(&id).exists();
        (
            mounts.lines().filter(|line| line.contains(&id)).count(),
            String::from_utf8_lossy(&groups).into_owned(),
            files,
            // Podman keeps the monitor of an exec that came by its API for five minutes (`exit_command_delay`), whatever becomes of the container.
            processes(&id)
                .into_iter()
                .filter(|line| !line.starts_with("/usr/bin/conmon "))
                .collect::<Vec<_>>(),
        )
    };
    let nothing = || left() == (0, String::new(), false, Vec::new());
    assert!(until(Duration::from_secs(5), nothing), "{:?}", left());
}

/// Processes of the host with this word on their command line.
fn processes(word: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    // This program's own search has the word, too.
    lines.filter(|line| line.contains(word) && !line.starts_with("find ")).collect()
}
