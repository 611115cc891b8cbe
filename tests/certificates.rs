//! OpenSSH user certificates: stock `ssh-keygen` signs them, stock `ssh` logs in with them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests report by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sandgate_tests::agent::Agent;
use sandgate_tests::client::{DEADLINE, make_key};
use sandgate_tests::process::Guard;
use sandgate_tests::terminal::Terminal;
use sandgate_tests::wait::until;
use sandgate_tests::{Feed, Output, Target, run, skip};

/// An authority: a key that signs.
struct Authority {
    key: PathBuf,
}

impl Authority {
    fn new(target: &Target, name: &str) -> Authority {
        let key = target.dir().join(name);
        make_key(&key);
        Authority { key }
    }

    fn rsa(target: &Target, name: &str) -> Authority {
        let key = target.dir().join(name);
        let mut command = Command::new("ssh-keygen");
        run(command.args(["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f"]).arg(&key), Feed::Null, DEADLINE)
            .ok();
        Authority { key }
    }

    /// `key add NAME CA.pub --cert-authority ARGS…`.
    fn register(&self, target: &Target, name: &str, args: &[&str]) {
        let public = self.key.with_extension("pub");
        let add = ["key", "add", name, public.to_str().unwrap(), "--cert-authority"];
        target.gateway().cli(&[&add, args].concat()).ok();
    }

    /// A new key with a certificate around it, by `ssh-keygen -s CA -I NAME ARGS…`.
    fn certify(&self, name: &str, args: &[&str]) -> PathBuf {
        let key =
            self.key.with_file_name(format!("{}-{name}", self.key.file_name().unwrap().to_str().unwrap()));
        make_key(&key);
        let mut command = Command::new("ssh-keygen");
        command
            .arg("-q")
            .arg("-s")
            .arg(&self.key)
            .args(["-I", name])
            .args(args)
            .arg(key.with_extension("pub"));
        run(&mut command, Feed::Null, DEADLINE).ok();
        key
    }
}

/// `ssh -i KEY ARGS…` as the user `box`, with messages for the user shown. The client finds the certificate beside the key.
fn ssh(target: &Target, key: &Path, args: &[&str]) -> Command {
    let mut command = target.ssh(&["-o", "LogLevel=INFO", "-l", "box"]);
    command
        .arg("-o")
        .arg(format!("CertificateFile={}-cert.pub", key.display()))
        .arg("-i")
        .arg(key)
        .args(args);
    command
}

fn log_in(target: &Target, key: &Path, command: &str) -> Output {
    run(&mut ssh(target, key, &["box", command]), Feed::Null, DEADLINE)
}

#[track_caller]
fn denied(output: &Output) -> String {
    assert_eq!(output.code, 255, "{output:?}");
    assert!(output.errors().contains("Permission denied"), "{}", output.errors());
    assert!(output.stdout.is_empty());
    output.errors()
}

#[test]
fn a_certificate_of_a_known_authority_opens_the_sandbox_that_it_names() {
    if skip::oracle_lacks("sandboxes") {
        return;
    }
    let target = Target::start();
    let gateway = target.gateway();
    gateway.create_sandbox("other", &[]);
    let ca = Authority::new(&target, "ca");
    ca.register(&target, "staff", &["--sandbox", "box"]);

    let alice = ca.certify("alice", &["-n", "x,box", "-z", "7", "-V", "-1m:+1h"]);
    assert_eq!(log_in(&target, &alice, "echo in").ok(), "in");
    // Not the sandbox, although the certificate names it.
    let both = ca.certify("both", &["-n", "box,other"]);
    assert_eq!(log_in(&target, &both, "echo in").ok(), "in");
    let mut elsewhere = target.ssh(&["-l", "other", "-i"]);
    denied(&run(elsewhere.arg(&both).args(["box", "echo never"]), Feed::Null, DEADLINE));

    // Who it was, for the operator.
    let log = gateway.log();
    let lines = log.lines().filter(|it| it.contains("logged in") && it.contains("alice"));
    assert!(lines.clone().any(|it| it.contains("serial 7 of staff")), "{log}");

    let keys = gateway.cli(&["key", "ls"]).ok();
    assert!(keys.contains("certificates"), "{keys}");

    // The authority's own key logs nobody in, and a key that logs in is no authority.
    let mut as_authority = target.ssh(&["-l", "box", "-i"]);
    denied(&run(as_authority.arg(&ca.key).args(["box", "echo never"]), Feed::Null, DEADLINE));
    let plain = Authority::new(&target, "plain");
    let public = plain.key.with_extension("pub");
    gateway.cli(&["key", "add", "plain", public.to_str().unwrap()]).ok();
    denied(&log_in(&target, &plain.certify("eve", &["-n", "box"]), "echo never"));

    // The certified key without its certificate.
    std::fs::remove_file(format!("{}-cert.pub", alice.display())).unwrap();
    let mut bare = target.ssh(&["-l", "box", "-i"]);
    denied(&run(bare.arg(&alice).args(["box", "echo never"]), Feed::Null, DEADLINE));
}

#[test]
fn certificates_that_do_not_fit_are_refused() {
    if skip::oracle_lacks("sandboxes") {
        return;
    }
    let target = Target::start();
    let ca = Authority::new(&target, "ca");
    ca.register(&target, "staff", &[]);
    let stranger = Authority::new(&target, "stranger");
    let refused = [
        ("wrong-principal", &["-n", "root"][..]),
        ("no-principal", &[]),
        ("host", &["-h", "-n", "box"]),
        ("elsewhere", &["-n", "box", "-O", "source-address=192.0.2.0/24"]),
        ("unknown-option", &["-n", "box", "-O", "critical:box@example.com=yes"]),
        ("unverified", &["-n", "box", "-O", "verify-required"]),
    ];
    for (name, args) in refused {
        let text = denied(&log_in(&target, &ca.certify(name, args), "echo never"));
        assert!(!text.contains("Your certificate"), "{name}: {text}");
    }
    denied(&log_in(&target, &stranger.certify("stranger", &["-n", "box"]), "echo never"));
    // Whoever had a good one is told.
    for (name, time, word) in [
        ("late", "-2h:-1h", "certificate expired at"),
        ("early", "+1h:+2h", "certificate is not valid before"),
    ] {
        let text = denied(&log_in(&target, &ca.certify(name, &["-n", "box", "-V", time]), "echo never"));
        assert!(text.contains(word), "{name}: {text}");
        // But no stranger, who has signed his own.
        let text =
            denied(&log_in(&target, &stranger.certify(name, &["-n", "box", "-V", time]), "echo never"));
        assert!(!text.contains("Your certificate"), "{name}: {text}");
    }
    let log = target.gateway().log();
    assert!(log.contains("box@example.com"), "the log does not name the option: {log}");

    let near = ca.certify("near", &["-n", "box", "-O", "source-address=192.0.2.0/24,127.0.0.0/8"]);
    assert_eq!(log_in(&target, &near, "echo in").ok(), "in");
}

#[test]
fn principals_stand_in_for_the_name_of_the_sandbox_and_an_authority_may_be_rsa() {
    if skip::oracle_lacks("sandboxes") {
        return;
    }
    let target = Target::start();
    let ca = Authority::rsa(&target, "ca");
    ca.register(&target, "teams", &["--principals", "dev,ops"]);
    assert_eq!(log_in(&target, &ca.certify("someone", &["-n", "ops"]), "echo in").ok(), "in");
    denied(&log_in(&target, &ca.certify("nobody", &["-n", "box"]), "echo never"));
    let keys = target.gateway().json(&["key", "ls"]);
    assert_eq!(keys[0]["cert_authority"]["principals"], serde_json::json!(["dev", "ops"]));
    let refused = target.gateway().cli(&["key", "add", "x", "/dev/null", "--principals", "a"]);
    assert_ne!(refused.code, 0);
}

#[test]
fn what_a_certificate_does_not_permit_is_withheld() {
    if skip::oracle_lacks("sandboxes") {
        return;
    }
    let target = Target::start();
    let ca = Authority::new(&target, "ca");
    ca.register(&target, "staff", &[]);
    let full = ca.certify("full", &["-n", "box"]);
    let bare = ca.certify("bare", &["-n", "box", "-O", "clear"]);
    let ask = |key: &Path, args: &[&str]| run(&mut ssh(&target, key, args), Feed::Null, DEADLINE);

    let terminal = ["-tt", "box", "test -t 1 && echo is a terminal"];
    assert_eq!(ask(&full, &terminal).ok().trim(), "is a terminal");
    // Stock ssh gives up where a terminal was demanded, and goes on where it would have liked one.
    assert_ne!(ask(&bare, &terminal).code, 0);
    let mut without = Terminal::spawn(&ssh(&target, &bare, &["box"]), 80, 24);
    without.expect("This certificate does not permit a terminal.");
    // In two parts, so that the echo of what is typed does not match.
    without.send("test -t 1 || echo 'is a ''pipe'; exit\n");
    without.expect("is a pipe");
    assert_eq!(without.wait(), 0);

    let forward = ask(&bare, &["-W", "localhost:9", "box"]);
    assert_ne!(forward.code, 0);
    assert!(forward.errors().contains("administratively prohibited"), "{}", forward.errors());
    let forward = ask(&full, &["-W", "localhost:9", "box"]);
    assert!(forward.errors().contains("connect failed"), "{}", forward.errors());

    let agent = Agent::start(&target);
    let with_agent = |key: &Path| {
        let mut command = agent.ssh(&target, &["-A", "-l", "box", "-o", "LogLevel=INFO", "-i"]);
        command.arg(key).args(["box", "echo ${SSH_AUTH_SOCK:-none}"]);
        run(&mut command, Feed::Null, DEADLINE)
    };
    assert_ne!(with_agent(&full).ok(), "none");
    let without = with_agent(&bare);
    assert!(without.errors().contains("The agent is not forwarded"), "{}", without.errors());
    assert_eq!(without.ok(), "none");

    // Without xauth, ssh makes a cookie of its own up.
    let with_display = |key: &Path| {
        let mut command = ssh(&target, key, &["-Y", "-o", "XAuthLocation=/nonexistent", "box"]);
        run(command.arg("echo ${DISPLAY:-none}").env("DISPLAY", "127.0.0.1:999"), Feed::Null, DEADLINE).ok()
    };
    assert_eq!(with_display(&full), "localhost:10.0");
    assert_eq!(with_display(&bare), "none");
}

#[test]
fn a_forced_command_runs_whatever_is_asked_for() {
    if skip::oracle_lacks("sandboxes") {
        return;
    }
    let target = Target::start();
    let ca = Authority::new(&target, "ca");
    ca.register(&target, "staff", &[]);
    let forced =
        ca.certify("forced", &["-n", "box", "-O", "force-command=echo \"got $SSH_ORIGINAL_COMMAND\""]);
    assert_eq!(log_in(&target, &forced, "echo never").ok(), "got echo never");
    assert_eq!(run(&mut ssh(&target, &forced, &["box"]), Feed::Null, DEADLINE).ok().trim(), "got");
    let subsystem = run(&mut ssh(&target, &forced, &["-s", "box", "sftp"]), Feed::Null, DEADLINE);
    assert_eq!(subsystem.ok(), "got sftp");

    let files = ca.certify("files", &["-n", "box", "-O", "force-command=internal-sftp"]);
    assert!(!log_in(&target, &files, "echo never").text().contains("never"));
    let mut sftp = Command::new("sftp");
    sftp.args(["-b", "-", "-F"]).arg(target.config()).args(["-o", "User=box", "-i"]).arg(&files).arg("box");
    let listed = run(&mut sftp, Feed::Bytes(b"ls /etc/passwd\n".to_vec()), DEADLINE).ok();
    assert!(listed.contains("/etc/passwd"), "{listed}");
}

/// A session that is up, and where it writes.
fn live(target: &Target, key: &Path) -> (Guard, PathBuf) {
    let file = key.with_extension("live");
    let out = std::fs::File::create(&file).unwrap();
    let mut command = ssh(target, key, &["box", "echo up; sleep 120"]);
    command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
    let session = Guard::spawn(&mut command);
    let up = || std::fs::read_to_string(&file).unwrap().contains("up\n");
    assert!(until(Duration::from_secs(30), up), "{}", std::fs::read_to_string(&file).unwrap());
    (session, file)
}

#[track_caller]
fn ends((mut session, file): (Guard, PathBuf), word: &str) {
    let code = session.wait(Duration::from_secs(40));
    let text = std::fs::read_to_string(file).unwrap();
    assert!(code.is_some_and(|it| it != 0), "code {code:?}: {text}");
    assert!(text.contains(word), "no {word:?} in {text:?}");
}

#[test]
fn removing_the_authority_or_the_end_of_its_time_ends_a_session() {
    if skip::oracle_lacks("sandboxes") {
        return;
    }
    let target = Target::start();
    let gateway = target.gateway();
    let ca = Authority::new(&target, "ca");
    ca.register(&target, "staff", &[]);
    let other = Authority::new(&target, "other");
    other.register(&target, "guests", &[]);

    let long = ca.certify("long", &["-n", "box"]);
    let removed = live(&target, &long);
    let short = other.certify("short", &["-n", "box", "-V", "-1m:+20s"]);
    let expired = live(&target, &short);
    gateway.cli(&["key", "rm", "staff"]).ok();
    ends(removed, "was removed");
    denied(&log_in(&target, &long, "echo never"));
    // That of another authority lives on until its time is over.
    ends(expired, "expired at");
    denied(&log_in(&target, &short, "echo never"));
}
