//! Many connections: one after another, and at once.

use std::time::Duration;

use sandgate_tests::agent::{Agent, Shell};
use sandgate_tests::wait::{scaled, until};
use sandgate_tests::{Feed, Kind, Target, run, skip};

use super::ends::OBEDIENT;
use super::native::native;
use super::{descriptors, guest_agent, metric};

#[test]
fn heavy_ten_thousand_connections_in_one_session() {
    let count = scaled(10_000);
    let target = Target::start();
    let agent = Agent::start(&target);
    let key = agent.add_new_key("k");
    let mut shell = agent.shell(&target);
    assert_eq!(shell.ask("for i in $(seq 100); do ssh-add -l >/dev/null || exit 1; done").0, 0);
    let open = || match target.kind() {
        Kind::Gateway => (descriptors(target.pid()), descriptors(guest_agent(&target))),
        Kind::Sshd => (0, 0),
    };
    let before = open();
    let script = format!(
        "for i in $(seq {count}); do ssh-add -l >l || {{ echo failed at $i; cat l; break; }}; done; cat l"
    );
    shell.tell(&format!("cd $(mktemp -d); {script}; echo end"));
    let mut lines = Vec::new();
    // Longer than a line may take elsewhere.
    assert!(until(Duration::from_secs(420), || {
        lines.extend(shell.try_line());
        lines.last().is_some_and(|line| line == "end")
    }));
    assert!(lines.len() == 2 && lines[0].contains(&key), "{lines:?}");
    if target.kind() == Kind::Gateway {
        let after = || {
            let now = open();
            now.0 <= before.0 && now.1 <= before.1
        };
        assert!(until(Duration::from_secs(5), after), "{before:?} before, {:?} after", open());
        assert!(metric(&target, "sandgate_agent_opens_total") >= count as u64);
        assert_eq!(metric(&target, "sandgate_agent_failures_total"), 0);
    }
}

#[test]
fn heavy_a_hundred_at_once_again_and_again() {
    let target = Target::start();
    let agent = Agent::start(&target);
    let key = agent.add_new_key("k");
    let script = "for round in $(seq 10); do for i in $(seq 100); do ssh-add -l & done; wait; done";
    let output = run(&mut agent.ssh(&target, &["-A", "box", script]), Feed::Null, Duration::from_secs(120));
    let text = output.ok();
    assert_eq!(text.lines().filter(|line| line.contains(&key)).count(), 1000, "{}", output.errors());
    assert_eq!(output.errors(), "");
}

/// Makes connections that each ask for the list and stay. A line from outside lets go of so many; it says how many are answered.
const CROWD: &str = "import os,select,socket,sys\n\
    some=[]\n\
    answered=set()\n\
    for _ in range(int(sys.argv[1])):\n\
    \x20s=socket.socket(socket.AF_UNIX)\n\
    \x20s.connect(os.environ['SSH_AUTH_SOCK'])\n\
    \x20s.sendall(b'\\0\\0\\0\\1\\x0b')\n\
    \x20some.append(s)\n\
    while True:\n\
    \x20for s in select.select(some+[sys.stdin],[],[])[0]:\n\
    \x20\x20if s is sys.stdin:\n\
    \x20\x20\x20for o in list(answered)[:int(sys.stdin.readline())]: answered.remove(o); some.remove(o); o.close()\n\
    \x20\x20elif s.recv(4096): answered.add(s)\n\
    \x20\x20else: print('closed',flush=True); sys.exit(1)\n\
    \x20print(len(answered),len(some),flush=True)";

/// Fills all places with connections of which one side ends its direction and the other does not: the `program`, once it has its answer,
/// or the `agent`. Then asks on one more, and says whether
/// half a minute has passed since the first.
const HALF_ENDED: &str = "import os,socket,sys,time\n\
    ask=b'\\0\\0\\0\\1\\x0b'\n\
    def connect():\n\
    \x20s=socket.socket(socket.AF_UNIX)\n\
    \x20s.settimeout(60)\n\
    \x20s.connect(os.environ['SSH_AUTH_SOCK'])\n\
    \x20return s\n\
    before=time.monotonic()\n\
    some=[connect() for _ in range(64)]\n\
    for s in some:\n\
    \x20if sys.argv[1]=='agent': assert s.recv(9)==b''\n\
    \x20else: s.sendall(ask); assert len(s.recv(9))==9; s.shutdown(socket.SHUT_WR)\n\
    print('held',flush=True)\n\
    s=connect()\n\
    s.sendall(ask)\n\
    answer=len(s.recv(9))\n\
    took=time.monotonic()-before\n\
    print(answer,'in time' if 28<took<55 else took,flush=True)";

/// A session in which all places are held like that, and its agent. Where the program ends first, the client is ours: stock `ssh` closes
/// the whole connection then.
fn half_ended(target: &Target, who: &str) -> (Agent, Shell) {
    let by_program = who == "program";
    let script = if by_program {
        OBEDIENT.replace("(accept(),)", "(listener.accept()[0],)")
    } else {
        OBEDIENT.to_owned()
    };
    let agent = Agent::of_python(target, &script);
    let orders = agent.socket().with_extension("do");
    std::fs::write(&orders, if by_program { "keep" } else { "end" }).unwrap();
    let mut shell =
        if by_program { Shell::spawn(&mut native(target, &agent, "sh")) } else { agent.shell(target) };
    shell.tell(&format!("exec /usr/bin/python3 -c \"{HALF_ENDED}\" {who}"));
    assert_eq!(shell.line(), "held", "{who}");
    std::fs::write(&orders, "answer").unwrap();
    (agent, shell)
}

#[test]
fn heavy_sixty_four_are_served_at_once_and_the_rest_waits_for_longer_than_half_a_minute() {
    if skip::oracle_lacks("limit") {
        return;
    }
    let target = Target::start();
    let agent = Agent::start(&target);
    agent.add_new_key("k");
    let mut shell = agent.shell(&target);
    // All that may wait: 64 announced, and some in the kernel's queue.
    shell.tell(&format!("exec /usr/bin/python3 -c \"{CROWD}\" 180"));
    let mut last = String::new();
    let mut reaches = |shell: &Shell, wanted: &str| {
        let reached = until(Duration::from_secs(10), || {
            last = shell.try_line().unwrap_or(std::mem::take(&mut last));
            last == wanted
        });
        assert!(reached, "{last} is not {wanted}; {}", target.log());
    };
    reaches(&shell, "64 180");
    assert_eq!(metric(&target, "sandgate_agent_connections"), 64);
    // Beside it, since it takes as long: sessions whose places are held by what is over on one side only. Those are given back, after
    // half a minute in which the other side might end too.
    let half_ended = ["program", "agent"].map(|who| (who, half_ended(&target, who)));
    // Nobody is served meanwhile, and nobody is turned away.
    std::thread::sleep(Duration::from_secs(35));
    assert_eq!(shell.try_line(), None);
    for (who, (_agent, shell)) in &half_ended {
        assert_eq!(shell.line(), "9 in time", "places that the {who} has half ended");
    }
    for left in [116, 52] {
        shell.tell("64");
        reaches(&shell, &format!("{} {left}", left.min(64)));
    }
    assert_eq!(metric(&target, "sandgate_agent_failures_total"), 0);
}
