//! An agent or a client that fails for a while or for good: the program inside hears it at once, and the session goes on.

use std::time::{Duration, Instant};

use sandgate_tests::agent::Agent;
use sandgate_tests::raw::codec::{self, Reader, Writer};
use sandgate_tests::raw::{Channel, Client};
use sandgate_tests::{Kind, Target, skip};

use super::metric;

/// Lists the keys of an agent.
const LIST: &str = "ssh-add -l";
/// The most that a program waits for the error: three pauses of 1.4 s together, and a busy machine.
const AT_ONCE: Duration = Duration::from_secs(6);

/// The lines of the log about failures, of which each must have session, sandbox and reason.
fn warnings(target: &Target) -> Vec<String> {
    let log = target.log();
    let lines: Vec<_> =
        log.lines().filter(|line| line.contains("agent forwarding failed")).map(str::to_owned).collect();
    for line in &lines {
        let complete =
            ["WARN", "session=\"ses-", "sandbox=\"box\"", "reason="].iter().all(|part| line.contains(part));
        assert!(complete, "not complete: {line}");
    }
    lines
}

#[test]
fn timed_an_agent_that_is_gone_is_an_error_at_once_and_one_that_is_back_works_again() {
    let target = Target::start();
    let mut agent = Agent::start(&target);
    let key = agent.add_new_key("k");
    let mut shell = agent.shell(&target);
    assert!(shell.ask(LIST).1.contains(&key));
    for round in 0..2 {
        agent.kill();
        let before = Instant::now();
        let (code, text) = shell.ask(LIST);
        assert!(code > 0 && before.elapsed() < AT_ONCE, "{code} after {:?}: {text}", before.elapsed());
        agent.start_again();
        let key = agent.add_new_key(&format!("k{round}"));
        let (code, text) = shell.ask(LIST);
        assert!(code == 0 && text.contains(&key), "{text}");
    }
    if target.kind() == Kind::Gateway {
        let warnings = warnings(&target);
        assert!(
            warnings.iter().any(|line| line.contains("the agent cannot be reached, giving up")),
            "{warnings:?}"
        );
        assert_eq!(metric(&target, "sandgate_agent_open_failures_total"), 2);
        assert_eq!(metric(&target, "sandgate_agent_open_retries_total"), 6);
    }
}

#[test]
fn timed_an_agent_that_dies_over_a_question_is_an_error_at_once() {
    let target = Target::start();
    let agent = Agent::of_python(
        &target,
        "while True:\n connection = accept()\n connection.recv(4096)\n connection.close()\n",
    );
    let before = Instant::now();
    let output = agent.exec(&target, LIST);
    assert!(output.code > 0 && output.errors().starts_with("error fetching identities: "), "{output:?}");
    assert!(before.elapsed() < AT_ONCE, "{:?}", before.elapsed());
    if target.kind() == Kind::Gateway {
        let warnings = warnings(&target);
        assert!(warnings.iter().any(|line| line.contains("before it had answered")), "{warnings:?}");
    }
}

#[test]
fn an_agent_that_answers_nonsense_is_cut_off_and_told() {
    if skip::oracle_lacks("filter") {
        return;
    }
    let target = Target::start();
    let agent = Agent::of_python(
        &target,
        "while True:\n connection = accept()\n connection.recv(4096)\n\
         \x20connection.sendall(b'\\xff\\xff\\xff\\xff nonsense')\n connection.recv(4096)\n connection.close()\n",
    );
    assert!(agent.exec(&target, LIST).code > 0);
    let warnings = warnings(&target);
    assert!(
        warnings.iter().any(|line| line.contains("announced an answer of 4294967295 bytes")),
        "{warnings:?}"
    );
    assert_eq!(metric(&target, "sandgate_agent_connections"), 0);
}

#[test]
fn a_program_that_talks_nonsense_is_cut_off_and_told() {
    if skip::oracle_lacks("filter") {
        return;
    }
    let target = Target::start();
    let agent = Agent::start(&target);
    let key = agent.add_new_key("k");
    let mut shell = agent.shell(&target);
    let nonsense = "import os,socket\ns=socket.socket(socket.AF_UNIX)\ns.connect(os.environ['SSH_AUTH_SOCK'])\n\
                    s.sendall(b'GET / HTTP/1.0')\ns.settimeout(10)\nprint(s.recv(99))";
    let (_, text) = shell.ask(&format!("/usr/bin/python3 -c \"{nonsense}\""));
    assert!(text.contains("b''") || text.contains("reset"), "{text}");
    assert!(warnings(&target).iter().any(|line| line.contains("announced a request of")), "{}", target.log());
    assert!(shell.ask(LIST).1.contains(&key));
}

/// What a client of ours saw.
#[derive(Debug, Default)]
struct Seen {
    /// When the agent's channel was to be opened.
    opens: Vec<Instant>,
    status: Option<u32>,
}

/// Runs a command with a forwarded agent, which has no keys. `answer` says how the n-th open is refused, or not.
fn client_with_agent(target: &Target, command: &str, answer: impl Fn(usize) -> Option<u32>) -> Seen {
    const OURS: u32 = 4711;
    let mut client = Client::login(target);
    let session = client.open_session().unwrap();
    assert!(client.request(session, "auth-agent-req@openssh.com", &[]).unwrap());
    assert!(client.request(session, "exec", &Writer::default().string(command).done()).unwrap());
    let mut seen = Seen::default();
    let mut agent = None;
    loop {
        let message = client.receive().unwrap();
        let mut reader = Reader::new(&message[1..]);
        match message[0] {
            codec::CHANNEL_OPEN => {
                assert_eq!(reader.text().unwrap(), "auth-agent@openssh.com");
                let theirs = reader.u32().unwrap();
                let refused = answer(seen.opens.len());
                seen.opens.push(Instant::now());
                let reply = if let Some(code) = refused {
                    Writer::new(codec::CHANNEL_OPEN_FAILURE)
                        .u32(theirs)
                        .u32(code)
                        .string("not now")
                        .string("")
                } else {
                    let (window, max_packet) = (reader.u32().unwrap(), reader.u32().unwrap());
                    agent = Some(Channel { ours: OURS, theirs, window, max_packet });
                    Writer::new(codec::CHANNEL_OPEN_CONFIRMATION)
                        .u32(theirs)
                        .u32(OURS)
                        .u32(1 << 20)
                        .u32(32768)
                };
                client.send(&reply.done()).unwrap();
            }
            codec::CHANNEL_DATA if reader.u32().unwrap() == OURS => {
                assert_eq!(reader.string().unwrap(), b"\0\0\0\x01\x0b");
                client.data(agent.unwrap(), b"\0\0\0\x05\x0c\0\0\0\0").unwrap();
            }
            codec::CHANNEL_REQUEST
                if reader.u32().unwrap() == session.ours && reader.text().unwrap() == "exit-status" =>
            {
                reader.bool().unwrap();
                seen.status = Some(reader.u32().unwrap());
            }
            codec::CHANNEL_CLOSE if reader.u32().unwrap() == session.ours => return seen,
            _ => {}
        }
    }
}

/// RFC 4254 section 5.1.
/// What stock `ssh` answers when it cannot reach its agent.
const PROHIBITED: u32 = 1;
const CONNECT_FAILED: u32 = 2;
const UNKNOWN_CHANNEL_TYPE: u32 = 3;

#[test]
fn timed_a_client_that_fails_to_connect_for_a_moment_is_asked_again() {
    if skip::oracle_lacks("second attempt") {
        return;
    }
    let target = Target::start();
    for (failures, code) in [(1, CONNECT_FAILED), (2, CONNECT_FAILED), (3, PROHIBITED)] {
        let seen = client_with_agent(&target, LIST, |n| (n < failures).then_some(code));
        assert_eq!((seen.status, seen.opens.len()), (Some(1), failures + 1), "{failures} failures");
        for (pair, pause) in seen.opens.windows(2).zip([200, 400, 800]) {
            let waited = pair[1].duration_since(pair[0]);
            let pause = Duration::from_millis(pause);
            assert!(
                waited >= pause * 9 / 10 && waited < pause + Duration::from_secs(1),
                "{waited:?} for {pause:?}"
            );
        }
    }
    assert_eq!(warnings(&target).iter().filter(|line| line.contains("trying again")).count(), 1 + 2 + 3);
    // A fourth failure is the last, and each connection has its own attempts.
    let seen = client_with_agent(&target, &format!("{LIST}; {LIST}"), |_| Some(CONNECT_FAILED));
    assert_eq!((seen.status, seen.opens.len()), (Some(1), 8));
}

/// The socket in the sandbox is there whether or not the client reaches its agent, and each connection asks anew.
#[test]
fn an_agent_that_is_absent_when_the_session_begins_is_picked_up_later() {
    if skip::oracle_lacks("second attempt") {
        return;
    }
    let target = Target::start();
    let listed = format!("{LIST} 2>&1 | grep -q 'no identities'");
    let command = format!("{listed} && exit 9; {listed}");
    let seen = client_with_agent(&target, &command, |n| (n < 4).then_some(CONNECT_FAILED));
    assert_eq!((seen.status, seen.opens.len()), (Some(0), 5), "{}", target.log());
}

#[test]
fn a_client_that_knows_no_such_channel_is_not_asked_again() {
    let target = Target::start();
    let seen = client_with_agent(&target, LIST, |_| Some(UNKNOWN_CHANNEL_TYPE));
    // With sshd the program may die of SIGPIPE.
    assert!(seen.status != Some(0) && seen.opens.len() == 1, "{seen:?}");
    if target.kind() == Kind::Gateway {
        let warnings = warnings(&target);
        assert!(
            warnings.len() == 1 && warnings[0].contains("UnknownChannelType \"not now\""),
            "{warnings:?}"
        );
    }
}

#[test]
fn warnings_of_a_session_are_bounded_and_those_left_out_are_counted() {
    if skip::oracle_lacks("such log") {
        return;
    }
    let target = Target::start();
    let mut agent = Agent::start(&target);
    let mut shell = agent.shell(&target);
    // Stock ssh asks for forwarding only if there is an agent when it starts.
    assert_eq!(shell.ask(LIST).0, 1);
    agent.kill();
    shell.ask("for i in $(seq 60); do ssh-add -l & done; wait");
    assert_eq!(metric(&target, "sandgate_agent_failures_total"), 240);
    assert_eq!(warnings(&target).len(), 100);
}
