//! Who gets an agent: the session that asks, if its credential allows it, and for as long as it lasts.

use std::process::{Command, Stdio};
use std::time::Duration;

use sandgate_tests::agent::{Agent, Shell};
use sandgate_tests::client::DEADLINE;
use sandgate_tests::raw::Client;
use sandgate_tests::raw::codec::Writer;
use sandgate_tests::terminal::Terminal;
use sandgate_tests::wait::until;
use sandgate_tests::{Feed, Target, run, skip};

/// The session's own environment, the socket with its directory, and the keys.
const LOOK: &str = "stat -c '%A %U' \"$(dirname $SSH_AUTH_SOCK)\" \"$SSH_AUTH_SOCK\" && ssh-add -l && echo at $SSH_AUTH_SOCK";

#[test]
fn a_session_that_asks_gets_a_socket_of_its_login_user() {
    let target = Target::start();
    let agent = Agent::start(&target);
    let key = agent.add_new_key("k");
    let output = agent.exec(&target, LOOK);
    let text = output.ok();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[0].starts_with("drwx------"), "{text}");
    assert!(lines[1].starts_with("srw") && lines[1].ends_with(lines[0].split(' ').nth(1).unwrap()), "{text}");
    assert!(lines[2].contains(&key), "{text}");
    assert!(lines[3].starts_with("at /tmp/ssh-"), "{text}");
    assert_eq!(output.errors(), "");
}

#[test]
fn another_login_user_gets_the_socket_as_its_own() {
    if skip::oracle_lacks("sandbox") {
        return;
    }
    let target = Target::start_with(&sandgate_tests::Options {
        create_args: vec!["--user".into(), "alice".into()],
        ..Default::default()
    });
    let agent = Agent::start(&target);
    let key = agent.add_new_key("k");
    let text = agent.exec(&target, "id -un; stat -c %U $SSH_AUTH_SOCK; ssh-add -l").ok();
    assert!(text.starts_with("alice\nalice\n") && text.contains(&key), "{text}");
}

#[test]
fn a_session_that_does_not_ask_has_no_agent() {
    let target = Target::start();
    let agent = Agent::start(&target);
    agent.add_new_key("k");
    let output = run(
        &mut agent.ssh(&target, &["box", "echo ${SSH_AUTH_SOCK-none}; ssh-add -l"]),
        Feed::Null,
        DEADLINE,
    );
    assert_eq!((output.code, output.text().as_str()), (2, "none\n"));
    if target.kind() == sandgate_tests::Kind::Gateway {
        assert_eq!(super::metric(&target, "sandgate_agent_opens_total"), 0);
    }
}

#[test]
fn the_socket_is_gone_with_its_session() {
    let target = Target::start();
    let agent = Agent::start(&target);
    let socket = agent.exec(&target, "echo $SSH_AUTH_SOCK").ok();
    assert!(socket.starts_with("/tmp/ssh-"), "{socket}");
    let look = format!("ls -d {socket} $(dirname {socket}) 2>/dev/null");
    assert!(
        until(Duration::from_secs(5), || target.exec(&look).text().is_empty()),
        "{socket} is still there"
    );
}

#[test]
fn two_sessions_of_one_connection_have_sockets_of_their_own() {
    if skip::oracle_lacks("socket for each session of a connection") {
        return;
    }
    let target = Target::start();
    let agent = Agent::start(&target);
    let key = agent.add_new_key("k");
    let identity = format!("IdentityAgent={}", agent.socket().display());
    let master = target.master_with(&["-A", "-o", &identity]);
    let shell = || Shell::spawn(&mut master.ssh(&["-A", "-o", &identity, "box", "sh"]));
    let (mut one, mut two) = (shell(), shell());
    let (first, second) = (one.ask("echo $SSH_AUTH_SOCK").1, two.ask("echo $SSH_AUTH_SOCK").1);
    assert!(
        first.starts_with("/tmp/ssh-") && second.starts_with("/tmp/ssh-") && first != second,
        "{first}{second}"
    );
    assert!(one.ask("ssh-add -l").1.contains(&key) && two.ask("ssh-add -l").1.contains(&key));
    one.tell("exit");
    assert_eq!(one.process.wait(DEADLINE), Some(0));
    assert!(
        until(Duration::from_secs(5), || two.ask(&format!("ls {first}")).0 != 0),
        "{first} is still there"
    );
    assert!(two.ask("ssh-add -l").1.contains(&key));
    // A third session of the same connection that does not ask.
    let without = run(&mut master.ssh(&["-a", "box", "echo ${SSH_AUTH_SOCK-none}"]), Feed::Null, DEADLINE);
    assert_eq!(without.ok(), "none");
}

#[test]
fn a_credential_without_the_scope_is_told_and_the_session_works() {
    if skip::oracle_lacks("scopes") {
        return;
    }
    let target = Target::start();
    let agent = Agent::start(&target);
    agent.add_new_key("k");
    let token = target.gateway().token("box", &["--scopes", "shell,exec,sftp"]).token;
    let as_token = |args: &[&str]| {
        let mut command = agent.ssh(&target, &["-A", "-o"]);
        command.arg(format!("User={token}")).args(args);
        command
    };
    let output = run(&mut as_token(&["box", "echo ${SSH_AUTH_SOCK-none}; exit 7"]), Feed::Null, DEADLINE);
    output.exits(7);
    assert_eq!(output.text(), "none\n");
    let said = "sandgate: The agent is not forwarded: This token does not have the scope \"agent\"; it has: shell,exec,sftp.";
    assert_eq!(output.errors(), format!("{said}\n"));
    // On a terminal as well; files are copied without a word.
    let mut terminal = Terminal::spawn(&as_token(&["-tt", "box", "echo ${SSH_AUTH_SOCK-none}"]), 200, 24);
    assert_eq!(terminal.wait(), 0);
    let screen = terminal.screen();
    assert!(screen.contains(&format!("{said}\r\n")) && screen.contains("none\r\n"), "{screen:?}");
    let mut sftp = Command::new("sftp");
    sftp.arg("-q").arg("-b").arg("-").arg("-F").arg(target.config()).args(["-o", "ForwardAgent=yes", "-o"]);
    sftp.arg(format!("IdentityAgent={}", agent.socket().display())).arg(format!("{token}@127.0.0.1"));
    let copied = run(sftp.stdout(Stdio::piped()), Feed::Bytes(b"pwd\n".to_vec()), DEADLINE);
    copied.ok();
    assert_eq!(copied.errors(), "");
}

#[test]
fn the_request_is_answered_as_sshd_answers_it() {
    let target = Target::start();
    let mut client = Client::login(&target);
    let channel = client.open_session().unwrap();
    assert!(client.request(channel, "auth-agent-req@openssh.com", &[]).unwrap());
    // Once is enough.
    assert!(!client.request(channel, "auth-agent-req@openssh.com", &[]).unwrap());
    let command = Writer::default().string("echo ${SSH_AUTH_SOCK%/*/*}").done();
    assert!(client.request(channel, "exec", &command).unwrap());
    assert_eq!(client.finish(channel).unwrap().stdout, b"/tmp\n");
    // Too late, with the program running.
    let channel = client.exec("sleep 1; echo ${SSH_AUTH_SOCK-none}").unwrap();
    assert!(!client.request(channel, "auth-agent-req@openssh.com", &[]).unwrap());
}
