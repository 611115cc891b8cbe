//! The agent through `sandgate ssh -A`, which is on the gateway's own machine and speaks no SSH.

use std::process::Command;
use std::time::Duration;

use sandgate_tests::agent::{Agent, Shell};
use sandgate_tests::client::DEADLINE;
use sandgate_tests::wait::until;
use sandgate_tests::{Feed, Target, run, skip};

use super::ends::{ASK_AND_END, LISTEN, python};
use super::{audit_row, metric};

/// `sandgate ssh -A box COMMAND`.
pub fn native(target: &Target, agent: &Agent, command: &str) -> Command {
    let mut client = target.gateway().command(&["ssh", "-A", "box", command]);
    client.env("SSH_AUTH_SOCK", agent.socket());
    client
}

#[test]
fn the_native_client_lists_and_signs_with_the_filter_the_audit_and_the_retry_of_others() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let agent = Agent::start(&target);
    let key = agent.add_new_key("k");
    let mut shell = Shell::spawn(&mut native(&target, &agent, "sh"));
    let (code, text) = shell.ask("ssh-add -l; stat -c '%A' $SSH_AUTH_SOCK $(dirname $SSH_AUTH_SOCK)");
    assert!(code == 0 && text.contains(&key), "{text}");
    assert!(text.contains("\nsrw") && text.contains("\ndrwx------"), "{text}");

    let sign = "set -e; cd $(mktemp -d); ssh-add -L >k.pub; echo text >t; ssh-keygen -q -Y sign -n file -f k.pub t; \
                ssh-keygen -Y check-novalidate -n file -s t.sig <t";
    let (code, text) = shell.ask(sign);
    assert!(code == 0 && text.contains("Good \"file\" signature"), "{text}");
    let purpose = "SSHSIG namespace \"file\" hash \"sha512\"";
    let row = audit_row(&target, &["agent.sign", purpose]);
    assert!(
        row.starts_with("agent.sign session ses-") && row.contains(&format!(": signed: {key} ")),
        "{row}"
    );

    let add = "cd $(mktemp -d); ssh-keygen -q -t ed25519 -N '' -f new && ssh-add new";
    assert_ne!(shell.ask(add).0, 0);
    audit_row(&target, &["agent.refused session ses-", ": refused: add a key "]);
    assert!(agent.keys().contains(&key) && agent.keys().lines().count() == 1, "{}", agent.keys());

    // Gone while somebody asks, and back before the last attempt, of four within 1.4 s.
    let away = agent.socket().with_extension("away");
    std::fs::rename(agent.socket(), &away).unwrap();
    shell.tell("ssh-add -l 2>&1");
    let tries = || metric(&target, "sandgate_agent_open_retries_total");
    let asked_again = until(Duration::from_secs(5), || tries() > 0);
    std::fs::rename(&away, agent.socket()).unwrap();
    let line = shell.line();
    assert!(line.contains(&key), "a moment without an agent was too long: {line}");
    assert!(asked_again && metric(&target, "sandgate_agent_open_failures_total") == 0);

    // Gone for longer: an error in the end, and the session works on.
    std::fs::rename(agent.socket(), &away).unwrap();
    assert_ne!(shell.ask("ssh-add -l").0, 0);
    std::fs::rename(&away, agent.socket()).unwrap();
    assert!(shell.ask("ssh-add -l").1.contains(&key));
    assert_eq!(metric(&target, "sandgate_agent_open_failures_total"), 1);
}

#[test]
fn the_native_client_passes_on_the_end_of_each_direction() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let target = Target::start();
    let note = target.dir().join("note");
    // Both note when they have seen the end of what the program says, and only then close.
    let seen = format!("open('{}', 'a').write('end\\n')", note.display());
    let answers = Agent::of_python(
        &target,
        &format!(
            "while True:\n connection, _ = listener.accept()\n\
             \x20while piece := connection.recv(5, socket.MSG_WAITALL):\n\
             \x20\x20connection.sendall(b'\\0\\0\\0\\5\\x0c\\0\\0\\0\\0')\n\
             \x20{seen}\n connection.close()\n"
        ),
    );
    let ends = Agent::of_python(
        &target,
        &format!(
            "while True:\n connection, _ = listener.accept()\n connection.shutdown(socket.SHUT_WR)\n\
             \x20while connection.recv(4096): pass\n {seen}\n connection.close()\n"
        ),
    );
    let mut rounds = 0;
    for (agent, program, prints) in [(&answers, ASK_AND_END, "000000050c00000000"), (&ends, LISTEN, "b''")] {
        for _ in 0..5 {
            rounds += 1;
            let said = run(&mut native(&target, agent, &python(program)), Feed::Null, DEADLINE).ok();
            assert_eq!(said, prints, "round {rounds}");
            let told = || std::fs::read_to_string(&note).unwrap_or_default().lines().count() == rounds;
            assert!(until(Duration::from_secs(5), told), "the agent does not see the end in round {rounds}");
        }
    }
    assert!(until(Duration::from_secs(5), || metric(&target, "sandgate_agent_connections") == 0));
    assert_eq!(metric(&target, "sandgate_agent_failures_total"), 0);
}
