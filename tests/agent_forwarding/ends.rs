//! Each side may end its direction first, or be killed: the other side sees exactly that, and nothing is left behind.

use std::time::Duration;

use sandgate_tests::agent::Agent;
use sandgate_tests::client::DEADLINE;
use sandgate_tests::wait::{scaled, until};
use sandgate_tests::{Feed, Kind, Target, run, skip};

use super::{descriptors, guest_agent, metric};

/// A program inside, which asks for the list of keys and ends its direction.
const ASK_AND_END: &str = "import os,socket\n\
    s=socket.socket(socket.AF_UNIX)\n\
    s.connect(os.environ['SSH_AUTH_SOCK'])\n\
    s.settimeout(10)\n\
    s.sendall(b'\\0\\0\\0\\1\\x0b')\n\
    s.shutdown(socket.SHUT_WR)\n\
    d=b''\n\
    while True:\n\
    \x20p=s.recv(4096)\n\
    \x20if not p: break\n\
    \x20d+=p\n\
    print(d.hex())";
/// A program inside, which waits for the agent to say something, or to end.
const LISTEN: &str = "import os,socket\n\
    s=socket.socket(socket.AF_UNIX)\n\
    s.connect(os.environ['SSH_AUTH_SOCK'])\n\
    s.settimeout(10)\n\
    print(s.recv(4096))";
/// Holds a place for as long as it runs.
const HOLD: &str = "import os,socket,time\n\
    s=socket.socket(socket.AF_UNIX)\n\
    s.connect(os.environ['SSH_AUTH_SOCK'])\n\
    s.sendall(b'\\0\\0\\0\\1\\x0b')\n\
    print('asked',flush=True)\n\
    time.sleep(600)";

fn python(program: &str) -> String {
    format!("/usr/bin/python3 -c \"{program}\"")
}

#[test]
fn a_program_that_ends_its_direction_is_still_answered_and_the_agent_sees_the_end() {
    // Stock ssh drops what its agent says after an end from the server.
    if skip::oracle_lacks("answer for a program that has ended its direction") {
        return;
    }
    let target = Target::start();
    // It answers at once and closes once it has seen the end.
    let agent = Agent::of_python(
        &target,
        "while True:\n connection = accept()\n data = b''\n\
         \x20while piece := connection.recv(4096):\n\
         \x20\x20data += piece\n\
         \x20\x20time.sleep(0.1)\n\
         \x20\x20if data == b'\\0\\0\\0\\1\\x0b': connection.sendall(b'\\0\\0\\0\\5\\x0c\\0\\0\\0\\0')\n\
         \x20connection.close()\n",
    );
    for _ in 0..20 {
        assert_eq!(agent.exec(&target, &python(ASK_AND_END)).ok(), "000000050c00000000");
    }
    assert!(until(Duration::from_secs(5), || metric(&target, "sandgate_agent_connections") == 0));
    assert_eq!(metric(&target, "sandgate_agent_failures_total"), 0);
}

#[test]
fn an_agent_that_ends_its_direction_is_seen_by_the_program_at_once() {
    let target = Target::start();
    // It goes on reading, and notes when the program has gone.
    let note = target.dir().join("note");
    let agent = Agent::of_python(
        &target,
        &format!(
            "while True:\n connection = accept()\n connection.shutdown(socket.SHUT_WR)\n\
             \x20while connection.recv(4096): pass\n open('{}', 'a').write('gone\\n')\n",
            note.display()
        ),
    );
    for round in 1..=20 {
        assert_eq!(agent.exec(&target, &python(LISTEN)).ok(), "b''");
        let told = || std::fs::read_to_string(&note).unwrap_or_default().lines().count() == round;
        assert!(until(Duration::from_secs(5), told), "the agent does not see the end of the program");
    }
}

#[test]
fn an_answer_before_the_end_arrives_whole() {
    let target = Target::start();
    // 200 kB of keys in one answer, and the end right behind it.
    let agent = Agent::of_python(
        &target,
        "key = b'\\0\\0\\0\\x0bssh-ed25519\\0\\0\\0\\x20' + b'k' * 32\n\
         entry = struct.pack('>I', len(key)) + key + struct.pack('>I', 99) + b'c' * 99\n\
         body = b'\\x0c' + struct.pack('>I', 1200) + entry * 1200\n\
         while True:\n connection = accept()\n connection.recv(5)\n\
         \x20connection.sendall(struct.pack('>I', len(body)) + body)\n connection.close()\n",
    );
    // Stock ssh drops what its agent says after an end from the server, so with sshd the program must not end first.
    let read_late =
        ASK_AND_END.replace("s.shutdown(socket.SHUT_WR)\nd=b''", "import time; time.sleep(0.5)\nd=b''");
    assert_ne!(read_late, ASK_AND_END);
    let programs: &[&str] =
        if target.kind() == Kind::Sshd { &[&read_late] } else { &[ASK_AND_END, &read_late] };
    for program in programs {
        let length = agent.exec(&target, &format!("{} | wc -c", python(program))).ok();
        assert_eq!(length.trim(), (2 * (9 + 1200 * (4 + 51 + 4 + 99)) + 1).to_string());
    }
}

#[test]
fn a_killed_program_frees_its_place_though_the_agent_never_answers() {
    if skip::oracle_lacks("metrics") {
        return;
    }
    let target = Target::start();
    let agent = Agent::of_python(&target, "all = []\nwhile True: all.append(accept())\n");
    let mut shell = agent.shell(&target);
    for _ in 0..10 {
        shell.tell(&format!("{} & PIDS=\"$PIDS $!\"", python(HOLD)));
        assert_eq!(shell.line(), "asked");
    }
    assert!(until(DEADLINE, || metric(&target, "sandgate_agent_connections") == 10));
    shell.tell("kill -9 $PIDS");
    let free = || metric(&target, "sandgate_agent_connections") == 0;
    assert!(
        until(Duration::from_secs(10), free),
        "{} places are held",
        metric(&target, "sandgate_agent_connections")
    );
}

#[test]
fn a_session_that_ends_closes_the_connections_of_what_it_leaves_behind() {
    if skip::oracle_lacks("metrics") {
        return;
    }
    let target = Target::start();
    let agent = Agent::start(&target);
    agent.add_new_key("k");
    // Detached on purpose, so it lives on; the agent does not.
    let script = format!("setsid {} >/dev/null 2>&1 </dev/null & sleep 1; ssh-add -l", python(HOLD));
    let output = run(&mut agent.ssh(&target, &["-A", "box", &script]), Feed::Null, DEADLINE);
    output.ok();
    for name in ["sandgate_agent_connections", "sandgate_agent_sockets"] {
        assert!(until(Duration::from_secs(5), || metric(&target, name) == 0), "{name}");
    }
}

#[test]
fn heavy_killed_clients_leave_nothing_behind() {
    if skip::oracle_lacks("guest agent") {
        return;
    }
    let target = Target::start();
    let agent = Agent::start(&target);
    let key = agent.add_new_key("k");
    assert!(agent.exec(&target, "ssh-add -l").ok().contains(&key));
    let (gateway, guest) = (target.pid(), guest_agent(&target));
    let settled = |pid| {
        // A connection or two may still be on their way out.
        std::thread::sleep(Duration::from_secs(2));
        descriptors(pid)
    };
    let before = (settled(gateway), settled(guest), settled(agent.pid()));
    let work = "while :; do ssh-add -l & ssh-add -l & ssh-add -L >/dev/null; wait; echo on; done";
    for round in 0..scaled(200) {
        let mut shell = agent.shell(&target);
        shell.tell(work);
        while shell.line() != "on" {}
        std::thread::sleep(Duration::from_millis(17 * (round as u64 % 20)));
        // In the middle of it; the shell's guard kills with -9.
        drop(shell);
    }
    let now = || (descriptors(gateway), descriptors(guest), descriptors(agent.pid()));
    assert!(
        until(Duration::from_secs(40), || {
            let now = now();
            now.0 <= before.0 && now.1 <= before.1 && now.2 <= before.2
        }),
        "{before:?} descriptors before, {:?} after",
        now()
    );
    assert_eq!(target.exec("ls -d /tmp/ssh-* 2>/dev/null; ps -e -o comm= | grep -c ssh-add").text(), "0\n");
    for name in ["sandgate_agent_connections", "sandgate_agent_sockets"] {
        assert_eq!(metric(&target, name), 0, "{name}");
    }
    assert!(agent.exec(&target, "ssh-add -l").ok().contains(&key));
}
