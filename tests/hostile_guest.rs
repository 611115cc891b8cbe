//! A guest whose agent was replaced by an attacker's program: it can hurt its own sandbox only.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::process::Stdio;
use std::time::{Duration, Instant};

use sandgate_tests::agent::Agent;
use sandgate_tests::forward::Near;
use sandgate_tests::gateway::Gateway;
use sandgate_tests::process::{Guard, peak, resident, try_run};
use sandgate_tests::wait::free_port;
use sandgate_tests::{Feed, Options, Output, Target, paths, run, skip};

/// What the gateway may grow by, whatever a guest sends.
const GROWTH: u64 = 48 << 20;

/// Attacks on the first contact: the sandbox never becomes usable.
const AT_START: &[&str] = &["silence", "close", "random", "huge-hello", "wrong-version", "hello-flood"];

/// Attacks once a process was asked for.
const AT_EXEC: &[&str] = &[
    "exec-silence",
    "exec-opened-then-silence",
    "exec-flood",
    "exec-flood-slices",
    "exec-exit-first",
    "exec-data-after-end",
    "exec-two-exits",
    "exec-bad-signal",
    "exec-credit",
    "exec-other-streams",
    "exec-huge-length",
    "exec-control-flood",
    "exec-refused-terminal-text",
    "exec-cut",
    "exec-random",
];

/// The same, about the pipes that were passed along and the keepalive.
const AT_PIPES: &[&str] = &[
    "exec-pass-unasked",
    "exec-pass-hold",
    "exec-pass-drop",
    "exec-pass-flood",
    "exec-ping-flood",
    "exec-pong-flood",
    "exec-ping-on-a-stream",
];

/// Attacks once the gateway connects or listens in the sandbox for a client.
const AT_FORWARD: &[&str] = &[
    "forward-silence",
    "forward-flood",
    "forward-wrong-answer",
    "forward-terminal-text",
    "forward-exit",
    "forward-twice",
    "forward-data",
    "forward-crowd",
];

/// A gateway that gives the hostile agent to every sandbox that it starts; those that ran before keep theirs.
struct Arena {
    target: Target,
}

impl Arena {
    /// A target with an honest running sandbox `box`, and then the gateway started again with the hostile agent.
    fn new() -> Self {
        // An agent that never answers is given up sooner than by default: the tests wait for that in most modes.
        let toml = "[sandbox]\nstart_timeout = \"5s\"\n".to_owned();
        let mut target = Target::start_with(&Options { extra_toml: toml, ..Options::default() });
        let agent = target.dir().join("hostile");
        std::fs::copy(paths::workspace().join("tests/hostile/agent.py"), &agent).unwrap();
        assert!(target.gateway_mut().terminate(Duration::from_secs(15)).is_some());
        target.gateway_mut().agent = Some(agent);
        target.gateway_mut().start_again();
        assert_eq!(
            target.exec("echo honest").ok(),
            "honest",
            "the honest sandbox did not outlive the restart"
        );
        Self { target }
    }

    fn gateway(&self) -> &Gateway {
        self.target.gateway()
    }

    /// Makes a sandbox in that mode and returns a token for it. It is started by whoever connects.
    fn sandbox(&self, mode: &str) -> String {
        self.gateway().create_sandbox(mode, &["--env", &format!("HOSTILE={mode}")]);
        self.gateway().token(mode, &[]).token
    }

    /// The honest sandbox next door answers, and soon.
    #[track_caller]
    fn others_are_fine(&self, mode: &str) {
        let start = Instant::now();
        assert_eq!(self.target.exec("echo fine").ok(), "fine", "beside {mode}");
        assert!(start.elapsed() < Duration::from_secs(5), "beside {mode}: {:?}", start.elapsed());
    }

    /// A client of the hostile sandbox; `None` when it was still waiting at the deadline.
    fn visit(&self, token: &str, args: &[&str], deadline: Duration) -> Option<Output> {
        try_run(self.target.ssh(&["-l", token]).args(args), Feed::Null, deadline).ok()
    }
}

#[test]
fn an_agent_that_attacks_at_once() {
    if skip::oracle_lacks("guests") {
        return;
    }
    let arena = Arena::new();
    let before = resident(arena.target.pid());
    for mode in AT_START {
        let token = arena.sandbox(mode);
        let mut waiting = arena.target.ssh(&["-l", &token, "box", "echo never"]);
        let waiting = Guard::spawn(waiting.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
        std::thread::sleep(Duration::from_secs(1));
        arena.others_are_fine(mode);
        drop(waiting);
        let output = arena.visit(&token, &["box", "echo never"], Duration::from_secs(40));
        let output = output.unwrap_or_else(|| panic!("{mode}: the client waits for ever"));
        assert_ne!(output.code, 0, "{mode}");
        assert!(output.stdout.is_empty(), "{mode}: {output:?}");
        assert!(!output.stderr.is_empty(), "{mode}: the user was told nothing");
        arena.gateway().cli(&["sandbox", "rm", "--force", mode]).ok();
        arena.others_are_fine(mode);
    }
    let grown = peak(arena.target.pid()).saturating_sub(before);
    assert!(grown < GROWTH, "grew by {grown}");
}

#[test]
fn an_agent_that_attacks_during_a_session() {
    attacks_during_a_session(AT_EXEC);
}

#[test]
fn an_agent_that_attacks_by_pipes_and_keepalives() {
    attacks_during_a_session(AT_PIPES);
}

fn attacks_during_a_session(modes: &[&str]) {
    if skip::oracle_lacks("guests") {
        return;
    }
    let arena = Arena::new();
    let before = resident(arena.target.pid());
    for mode in modes {
        let token = arena.sandbox(mode);
        // One that is looked at, one that is left alone with a client that reads nothing.
        let mut left_alone = arena.target.ssh(&["-l", &token, "box", "anything"]);
        let left_alone =
            Guard::spawn(left_alone.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
        let output = arena.visit(&token, &["box", "anything"], Duration::from_secs(4));
        if let Some(output) = output {
            let text = [output.stdout, output.stderr].concat();
            // Floods may be shown as what they are, but refusals and error texts are the gateway's own words.
            assert!(!text.contains(&0x1b), "{mode}: an escape sequence reached the terminal");
        }
        let terminal = arena.visit(&token, &["-tt", "box"], Duration::from_secs(2));
        assert!(
            terminal.is_none_or(|it| it.code != 0 || mode.contains("exit") || mode.contains("end")),
            "{mode}"
        );
        arena.others_are_fine(mode);
        // At its highest, with the guest still at it.
        let grown = peak(arena.target.pid()).saturating_sub(before);
        assert!(grown < GROWTH, "{mode}: grew by {grown}");
        drop(left_alone);
        arena.gateway().cli(&["sandbox", "rm", "--force", mode]).ok();
    }
    let log = arena.target.log();
    assert!(!log.contains("panicked"), "a panic in the gateway");
}

#[test]
fn an_agent_that_attacks_forwards() {
    if skip::oracle_lacks("guests") {
        return;
    }
    let arena = Arena::new();
    let agent = Agent::start(&arena.target);
    agent.add_new_key("k");
    let before = resident(arena.target.pid());
    for mode in AT_FORWARD {
        let token = arena.sandbox(mode);
        let (near, log) = (free_port().to_string(), arena.target.dir().join(mode));
        let out = std::fs::File::create(&log).unwrap();
        let mut client = agent.ssh(&arena.target, &["-o", "LogLevel=INFO", "-A", "-l", &token]);
        // Ports below 1024 and Unix sockets are the agent's; others pass it by.
        client.args([
            "-L",
            &format!("{near}:/tmp/far"),
            "-L",
            &format!("{}:127.0.0.1:1", free_port()),
            "-R",
            "80:127.0.0.1:1",
            "-R",
            "0:127.0.0.1:1",
            "-R",
            "/tmp/s:127.0.0.1:1",
        ]);
        client.args(["box", "anything"]).stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        let client = Guard::spawn(&mut client);
        // One that is looked at, and one that reads nothing.
        let _silent = Near::connect(&near);
        let mut seen = Near::connect(&near);
        if let Near::Tcp(stream) = &seen {
            stream.set_read_timeout(Some(Duration::from_secs(4))).unwrap();
        }
        let flooded = seen.read(100_000).is_ok_and(|bytes| bytes.iter().all(|byte| *byte == b'x'));
        assert_eq!(flooded, *mode == "forward-flood", "{mode}");
        arena.others_are_fine(mode);
        drop(client);
        assert!(
            !std::fs::read(&log).unwrap().contains(&0x1b),
            "{mode}: an escape sequence reached the terminal"
        );
        arena.gateway().cli(&["sandbox", "rm", "--force", mode]).ok();
        let grown = peak(arena.target.pid()).saturating_sub(before);
        assert!(grown < GROWTH, "{mode}: grew by {grown}");
    }
    let log = arena.target.log();
    assert!(!log.contains("panicked"), "a panic in the gateway");
    assert!(!log.contains('\u{1b}'), "an escape sequence in the log");
}

/// The control: the hostile program does run and does speak, or the tests above would prove nothing.
#[test]
fn the_hostile_agent_is_really_there() {
    if skip::oracle_lacks("guests") {
        return;
    }
    let arena = Arena::new();
    let token = arena.sandbox("exec-flood");
    let script = format!("$SSH -l {token} box anything | head -c 100000 | tr -d x | wc -c");
    let output = run(&mut arena.target.script(&script), Feed::Null, Duration::from_secs(30));
    assert_eq!(output.text().trim(), "0", "{output:?}");
    let script = format!("$SSH -l {token} box anything | head -c 100000 | wc -c");
    let output = run(&mut arena.target.script(&script), Feed::Null, Duration::from_secs(30));
    assert_ne!(output.text().trim(), "0", "no output of the hostile agent arrived: {output:?}");
}
