//! What the forwarded agent does for programs inside, what it does not, and what the audit trail keeps.

use sandgate_tests::agent::{Agent, fingerprint};
use sandgate_tests::client::{DEADLINE, make_key};
use sandgate_tests::{Feed, Kind, Target, run, skip};

use super::{audit_row, audit_rows, metric};

#[test]
fn nothing_that_changes_the_agent_gets_through() {
    if skip::oracle_lacks("filter") {
        return;
    }
    let target = Target::start();
    let agent = Agent::start(&target);
    let key = agent.add_new_key("k");
    let mut shell = agent.shell(&target);
    shell.tell("cd $(mktemp -d)");
    let (_, made) = shell.ask("ssh-keygen -q -t ed25519 -N '' -f new && ssh-add -L >own.pub && echo made");
    assert_eq!(made, "made\n");
    for (command, refused) in [
        ("ssh-add new", "add a key (type 17)"),
        ("ssh-add -t 60 -c new", "add a key with constraints (type 25)"),
        ("ssh-add -d own.pub", "remove a key (type 18)"),
        ("ssh-add -D", "remove all keys (type 19)"),
        (
            "printf 'a\\na\\n' >p; SSH_ASKPASS=/bin/true SSH_ASKPASS_REQUIRE=force ssh-add -x",
            "lock the agent (type 22)",
        ),
        ("SSH_ASKPASS=/bin/true SSH_ASKPASS_REQUIRE=force ssh-add -X", "unlock the agent (type 23)"),
        (
            "SSH_ASKPASS=/bin/true SSH_ASKPASS_REQUIRE=force ssh-add -s /usr/lib/x.so",
            "add a smartcard key (type 20)",
        ),
    ] {
        let (code, text) = shell.ask(command);
        assert_ne!(code, 0, "{command}: {text}");
        let row = audit_row(&target, &["agent.refused session ses-", &format!(": refused: {refused}")]);
        assert!(row.starts_with("agent.refused session ses-"), "{row}");
    }
    // An extension that OpenSSH's agent would not know either, and the list of extensions.
    let extension = "import os,socket\ns=socket.socket(socket.AF_UNIX)\ns.connect(os.environ['SSH_AUTH_SOCK'])\n\
                     s.sendall(b'\\0\\0\\0\\x0c\\x1b\\0\\0\\0\\7a@b.org')\nprint(s.recv(99).hex())";
    assert_eq!(shell.ask(&format!("/usr/bin/python3 -c \"{extension}\"")).1, "0000000105\n");
    audit_row(&target, &["agent.refused", "refused: extension \"a@b.org\""]);
    let (code, text) = shell.ask("ssh-add -l");
    assert!(code == 0 && text.contains(&key) && text.lines().count() == 1, "{text}");
    assert!(agent.keys().contains(&key) && agent.keys().lines().count() == 1, "{}", agent.keys());
    assert!(metric(&target, "sandgate_agent_refused_total") >= 8);
}

#[test]
fn a_credential_that_is_held_to_a_key_sees_and_uses_that_one_alone() {
    if skip::oracle_lacks("filter") {
        return;
    }
    let target = Target::start();
    let agent = Agent::start(&target);
    let (allowed, other) = (agent.add_new_key("allowed"), agent.add_new_key("other"));
    let token = target.gateway().token("box", &["--agent-key", &allowed]).token;
    let public = std::fs::read_to_string(target.dir().join("other.pub")).unwrap();
    let script = format!(
        "ssh-add -l; cd $(mktemp -d); echo '{}' >other.pub; echo data >data; ssh-keygen -q -Y sign -f other.pub -n file data; echo $?",
        public.trim()
    );
    let mut command = agent.ssh(&target, &["-A", "-l", &token, "box", &script]);
    let output = run(&mut command, Feed::Null, DEADLINE);
    let text = output.text();
    assert!(text.contains(&allowed) && !text.contains(&other), "{text}");
    assert_ne!(text.lines().last(), Some("0"), "the other key has signed: {text} {}", output.errors());
    // Without the rule both are there.
    let mut command = agent.ssh(&target, &["-A", "box", "ssh-add -l"]);
    let text = run(&mut command, Feed::Null, DEADLINE).text();
    assert!(text.contains(&allowed) && text.contains(&other), "{text}");
}

#[test]
fn a_commit_is_signed_inside_and_the_signature_is_good() {
    let target = Target::start();
    let agent = Agent::start(&target);
    let key = agent.add_new_key("k");
    let script = "set -e; cd $(mktemp -d); ssh-add -L >key.pub; echo \"me@example.org $(cat key.pub)\" >signers\n\
                  git init -q . 2>/dev/null; git config user.name me; git config user.email me@example.org\n\
                  git config gpg.format ssh; git config user.signingkey \"$PWD/key.pub\"\n\
                  git config gpg.ssh.allowedSignersFile \"$PWD/signers\"\n\
                  git commit -q --allow-empty -S -m signed && git verify-commit HEAD 2>&1\n\
                  echo text >file; ssh-keygen -q -Y sign -n file -f key.pub file\n\
                  ssh-keygen -Y verify -n file -I me@example.org -f signers -s file.sig <file";
    let output = agent.exec(&target, script);
    let text = output.ok();
    for namespace in ["git", "file"] {
        let good = format!("Good \"{namespace}\" signature for me@example.org with ED25519 key {key}");
        assert!(text.contains(&good), "{text} {}", output.errors());
    }
    if target.kind() == Kind::Gateway {
        for namespace in ["git", "file"] {
            let purpose = format!("SSHSIG namespace \"{namespace}\" hash \"sha512\"");
            let row = audit_row(&target, &["agent.sign", &purpose]);
            assert!(
                row.starts_with("agent.sign session ses-") && row.contains(&format!(": signed: {key} ")),
                "{row}"
            );
        }
        assert_eq!(metric(&target, "sandgate_agent_signatures_total"), 2);
    }
}

/// A script inside that makes `$D/cfg` for an `sshd -i` whose host key is `KEY` (its private part, in a variable) and that the keys of
/// the agent may enter.
const SECOND_SERVER: &str = r#"set -e
    D=$(mktemp -d); cd $D
    mkdir -p /run/sshd
    grep -q ^sshd: /etc/passwd || echo sshd:x:100:65534::/run/sshd:/usr/sbin/nologin >>/etc/passwd
    umask 077; printf '%s' "$KEY" >host; printf '%s' "$OTHER" >other; umask 022
    printf '%s\n' "$PUB" >keys
    for name in host other; do
        printf '%s\n' "HostKey $D/$name" "AuthorizedKeysFile $D/keys" 'StrictModes no' 'UsePAM no' \
            'PermitRootLogin yes' "SetEnv WHERE=$name" >$name.cfg
    done
    into() {
        ssh -F /dev/null -o "ProxyCommand=/usr/sbin/sshd -i -f $D/$1.cfg -E $D/$1.log" -o UserKnownHostsFile=/dev/null \
            -o StrictHostKeyChecking=no -o LogLevel=ERROR -o BatchMode=yes -o IdentityFile=none root@inner 'echo in $WHERE' ||
            { echo refused; tail -3 $D/$1.log >&2; }
    }
"#;

/// Two sshds inside, with host keys that this test knows.
fn second_server(target: &Target, key: &str) -> String {
    let mut script = String::new();
    let read = |name: &str| std::fs::read_to_string(target.dir().join(name)).unwrap();
    for (variable, name) in [("KEY", "inner"), ("OTHER", "elsewhere")] {
        make_key(&target.dir().join(name));
        script.push_str(&format!("{variable}='{}'\n", read(name)));
    }
    script.push_str(&format!("PUB='{}'\n", read(&format!("{key}.pub")).trim()));
    script + SECOND_SERVER
}

#[test]
fn a_login_on_another_server_is_signed_and_audited() {
    let target = Target::start();
    let agent = Agent::start(&target);
    let key = agent.add_new_key("k");
    let script = second_server(&target, "k");
    let output = agent.exec(&target, &format!("{script}into host"));
    assert_eq!(output.ok(), "in host", "{}", output.errors());
    if target.kind() == Kind::Gateway {
        let host = fingerprint(&target.dir().join("inner"));
        let bound = format!("bound for login to host key {host} (verified, accepted by the agent)");
        audit_row(&target, &["agent.bind session ses-", &bound]);
        let row = audit_row(&target, &["agent.sign session ses-"]);
        for words in [
            format!(
                ": signed: {key} type \"ssh-ed25519\" comment \"test\": login as \"root\" service \"ssh-connection\" session "
            ),
            format!(" host key {host} {bound}"),
        ] {
            assert!(row.contains(&words), "no {words} in {row}");
        }
    }
}

#[test]
fn keys_that_are_constrained_to_a_destination_go_there_and_nowhere_else() {
    let target = Target::start();
    let agent = Agent::start(&target);
    make_key(&target.dir().join("k"));
    let script = second_server(&target, "k");
    let front = match target.kind() {
        Kind::Gateway => target.dir().join("d/host_keys/ssh_host_ed25519_key.pub"),
        Kind::Sshd => target.dir().join("host.pub"),
    };
    let public = |file: &std::path::Path| std::fs::read_to_string(file).unwrap();
    let hosts = format!("front {}inner {}", public(&front), public(&target.dir().join("inner.pub")));
    std::fs::write(target.dir().join("hosts"), hosts).unwrap();
    agent.ask("ssh-add", &["-q", "-H", "hosts", "-h", "front", "-h", "front>inner", "k"]).ok();
    let output = agent.exec(&target, &format!("{script}into host; into other 2>/dev/null"));
    assert_eq!(output.ok(), "in host\nrefused", "{}", output.errors());
    if target.kind() == Kind::Gateway {
        let other = fingerprint(&target.dir().join("elsewhere"));
        audit_row(&target, &["agent.bind", &other, "(verified, "]);
        let signed = audit_rows(&target).into_iter().filter(|row| row.contains(": signed: ")).count();
        assert_eq!(signed, 1, "{:#?}", audit_rows(&target));
    }
}

#[test]
fn a_sandbox_that_signs_without_end_fills_no_disk() {
    if skip::oracle_lacks("audit trail") {
        return;
    }
    let target = Target::start();
    let agent = Agent::start(&target);
    agent.add_new_key("k");
    let flood = "import os,socket\ns=socket.socket(socket.AF_UNIX)\ns.connect(os.environ['SSH_AUTH_SOCK'])\n\
                 for _ in range(1500):\n s.sendall(b'\\0\\0\\0\\1\\x13')\n assert s.recv(99)==b'\\0\\0\\0\\1\\5'\nprint('done')";
    let mut command = agent.ssh(&target, &["-A", "box"]);
    command.arg(format!("/usr/bin/python3 -c \"{flood}\""));
    assert_eq!(run(&mut command, Feed::Null, DEADLINE).ok(), "done");
    audit_row(&target, &["agent.more", "not recorded one by one: 0 signatures, 500 refused"]);
    let rows = audit_rows(&target);
    assert_eq!(rows.iter().filter(|row| row.starts_with("agent.refused")).count(), 1000);
    assert_eq!(rows.iter().filter(|row| row.starts_with("agent.more")).count(), 2);
}
