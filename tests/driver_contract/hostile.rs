//! An agent that was taken over: the sandbox next door and the gateway's memory do not feel it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use sandgate_tests::process::{Guard, peak, resident, try_run};
use sandgate_tests::{Feed, machine, paths, rootfs};

use crate::ground::{Ground, IMAGE, Kind};
use crate::guest::{Link, hostile_agent, hybrid_door};
use crate::report::Behaviour;

pub const ALL: &[Behaviour] = &[
    ("floods", |ground| attack(ground, &["exec-flood", "exec-control-flood", "exec-ping-flood"])),
    ("is silent", |ground| attack(ground, &["silence", "exec-silence", "exec-opened-then-silence"])),
    ("cuts and lies", |ground| {
        attack(ground, &["close", "exec-cut", "exec-random", "exec-credit", "exec-huge-length"])
    }),
];

/// What the gateway may grow by, whatever a guest sends.
const GROWTH: u64 = 48 << 20;

fn attack(ground: &mut Ground, modes: &[&str]) {
    if let Kind::Oci(_) | Kind::Docker | Kind::Podman = ground.kind {
        let agent = ground.place("hostile-agent");
        if !agent.exists() {
            std::fs::copy(paths::workspace().join("tests/hostile/agent.py"), &agent).unwrap();
            let gateway = ground.target.gateway_mut();
            assert!(gateway.terminate(Duration::from_secs(15)).is_some(), "the gateway does not end");
            gateway.agent = Some(agent);
            gateway.start_again();
        }
    }
    assert_eq!(ground.exec("echo honest").ok(), "honest");
    let before = resident(ground.target.pid());
    for mode in modes {
        let _guards = adversary(ground, mode);
        let token = ground.target.gateway().token(mode, &[]).token;
        let mut left_alone = ground.target.ssh(&["-l", &token, "box", "anything"]);
        let left_alone =
            Guard::spawn(left_alone.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
        let mut visit = ground.target.ssh(&["-l", &token, "box", "anything"]);
        if *mode == "exec-flood" {
            machine::it_speaks(&ground.target, &token);
        }
        if let Ok(output) = try_run(&mut visit, Feed::Null, Duration::from_secs(2)) {
            let text = [output.stdout, output.stderr].concat();
            assert!(!text.contains(&0x1b), "{mode}: an escape sequence reached the terminal");
        }
        let start = Instant::now();
        assert_eq!(ground.exec("echo fine").ok(), "fine", "beside {mode}");
        assert!(start.elapsed() < Duration::from_secs(5), "beside {mode}: {:?}", start.elapsed());
        drop(left_alone);
        ground.target.gateway().cli(&["sandbox", "rm", "--force", mode]).ok();
    }
    // At its worst moment, not at the end. What the honest ones cost at their most is small.
    let grown = peak(ground.target.pid()).saturating_sub(before);
    assert!(grown < GROWTH, "the gateway grew by {grown} bytes");
    assert!(!ground.target.log().contains("panicked"), "a panic in the gateway");
}

/// Makes a sandbox named after the mode that the hostile agent serves, by the same driver.
fn adversary(ground: &Ground, mode: &str) -> Vec<Guard> {
    let gateway = ground.target.gateway();
    let (socket, door) = (ground.place(&format!("{mode}.a")), ground.place(&format!("{mode}.v")));
    let script = paths::workspace().join("tests/hostile/agent.py");
    match ground.kind {
        Kind::Oci(runtime) => {
            let (image, variable) = (rootfs::image().display().to_string(), format!("HOSTILE={mode}"));
            gateway.create_sandbox(mode, &["--runtime", runtime, "--image", &image, "--env", &variable]);
            Vec::new()
        }
        // Put in by the archive API, in the agent's place: it holds the container and answers for every session.
        Kind::Docker | Kind::Podman => {
            let variable = format!("HOSTILE={mode}");
            gateway.create_sandbox(mode, &["--driver", "docker", "--image", IMAGE, "--env", &variable]);
            Vec::new()
        }
        // Root in a machine puts it in the agent's place: what runs there first comes from the host.
        Kind::Qemu => {
            machine::hostile(&ground.target, mode, mode);
            Vec::new()
        }
        Kind::ExternalExec => {
            let link = format!("exec:env HOSTILE={mode} /usr/bin/python3 {}", script.display());
            gateway.create_sandbox(mode, &["--link", &link]);
            Vec::new()
        }
        Kind::ExternalHybrid => {
            let guards = vec![hostile_agent(mode, &socket), hybrid_door(&door, &socket)];
            gateway.create_sandbox(mode, &["--link", &Link::Hybrid(door).to_string()]);
            guards
        }
        Kind::ExternalUnix => {
            let guards = vec![hostile_agent(mode, &socket)];
            gateway.create_sandbox(mode, &["--link", &Link::Unix(socket).to_string()]);
            guards
        }
    }
}
