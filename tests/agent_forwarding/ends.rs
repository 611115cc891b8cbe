//! Each side may end its direction first, or be killed: the other side sees exactly that, and nothing is left behind.

use std::time::Duration;

use sandgate_tests::agent::{Agent, Shell};
use sandgate_tests::client::DEADLINE;
use sandgate_tests::wait::{scaled, until};
use sandgate_tests::{Feed, Kind, Target, run, skip};

use super::{descriptors, guest_agent, metric};

/// A program inside, which asks for the list of keys and ends its direction.
pub const ASK_AND_END: &str = "import os,socket\n\
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
pub const LISTEN: &str = "import os,socket\n\
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

pub fn python(program: &str) -> String {
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

/// Places of one session.
const PLACES: usize = 64;
/// Takes as many places, asks on each for the list of keys, and lives on after what its argument says: `ask` reads the answers and keeps
/// the places; `end` ends its direction first and reads to the end; `wait` closes what the other side has ended; `hold` does nothing.
const TAKE: &str = "import os,socket,sys,time\n\
    how=sys.argv[1]\n\
    some=[socket.socket(socket.AF_UNIX) for _ in range(64)]\n\
    for s in some:\n\
    \x20s.settimeout(20)\n\
    \x20s.connect(os.environ['SSH_AUTH_SOCK'])\n\
    \x20s.sendall(b'\\0\\0\\0\\1\\x0b')\n\
    \x20if how=='end': s.shutdown(socket.SHUT_WR)\n\
    def rest(s):\n\
    \x20while s.recv(9): pass\n\
    \x20return b''\n\
    said=[rest(s) if how=='wait' else s.recv(9,socket.MSG_WAITALL) for s in some if how!='hold']\n\
    if how=='wait':\n\
    \x20for s in some: s.close()\n\
    if how=='end': said+=[rest(s) for s in some]\n\
    print(sum(len(b)==9 for b in said),'answers',sum(b==b'' for b in said),'ends',flush=True)\n\
    time.sleep(600)";
/// Does with each connection what the file says: `answer` until the program ends its direction and close then; `end` its own direction
/// before the program has; `ignore` it for ever; `keep` it for ever, but answer. Notes each question that it is asked.
pub const OBEDIENT: &str = "def serve(connection):\n\
    \x20do = open(sys.argv[1] + '.do').read()\n\
    \x20if do == 'end': connection.shutdown(socket.SHUT_WR)\n\
    \x20while connection.recv(5):\n\
    \x20\x20open(sys.argv[1] + '.asked', 'a').write('x')\n\
    \x20\x20if do in ('answer', 'keep'): connection.sendall(b'\\0\\0\\0\\5\\x0c\\0\\0\\0\\0')\n\
    \x20if do in ('ignore', 'keep'): time.sleep(600)\n\
    \x20connection.close()\n\
    while True: threading.Thread(target=serve, args=(accept(),), daemon=True).start()\n";

/// After each way in which a session's connections can end while it lives on itself, as many are served together again, at once: a
/// single place that is still held would be one too many.
#[test]
fn all_places_of_a_living_session_are_free_again_however_their_connections_end() {
    if skip::oracle_lacks("limit") {
        return;
    }
    let target = Target::start();
    let mut agent = Agent::of_python(&target, OBEDIENT);
    let (orders, asked) = (agent.socket().with_extension("do"), agent.socket().with_extension("asked"));
    let mut shell = agent.shell(&target);
    shell.tell(&format!("T=$(mktemp); cat >$T <<'END'\n{TAKE}\nEND"));
    let take =
        |shell: &mut Shell, how: &str| shell.tell(&format!("/usr/bin/python3 $T {how} & PIDS=\"$PIDS $!\""));
    let all_asked = || std::fs::metadata(&asked).is_ok_and(|file| file.len() == PLACES as u64);
    for (round, agent_does, program_does) in [
        ("the program ends its direction first", "answer", "end"),
        ("the agent ends its direction first", "end", "wait"),
        ("the agent is killed", "ignore", "wait"),
        ("the program is killed", "ignore", "hold"),
    ] {
        std::fs::write(&orders, agent_does).unwrap();
        std::fs::write(&asked, "").unwrap();
        take(&mut shell, program_does);
        if agent_does == "ignore" {
            assert!(until(DEADLINE, all_asked), "{round}");
        }
        if round == "the agent is killed" {
            agent.kill();
        }
        let seen = match program_does {
            "end" => "64 answers 64 ends",
            "wait" => "0 answers 64 ends",
            _ => "0 answers 0 ends",
        };
        assert_eq!(shell.line(), seen, "{round}");
        match round {
            "the agent is killed" => agent.start_python(OBEDIENT),
            "the program is killed" => shell.tell("kill -9 $!"),
            _ => {}
        }
        std::fs::write(&orders, "answer").unwrap();
        take(&mut shell, "ask");
        assert_eq!(shell.line(), "64 answers 0 ends", "after: {round}; {}", target.log());
        shell.tell("kill -9 $!");
    }
    shell.tell("kill -9 $PIDS 2>/dev/null");
    let held = || metric(&target, "sandgate_agent_connections");
    assert!(until(Duration::from_secs(10), || held() == 0), "{} places are held", held());
    assert_eq!(shell.ask("ssh-add -l"), (1, "The agent has no identities.\n".to_owned()));
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
