//! The driver `external`: an agent that somebody else has started, by every way in which it can be reached.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sandgate_tests::process::{Guard, resident, try_run};
use sandgate_tests::wait::{free_port, is_wait_line, until};
use sandgate_tests::{Feed, Options, Target, paths, run, skip};

/// A gateway, and an agent on the host that it has not started.
struct Elsewhere {
    target: Target,
    agent: PathBuf,
    socket: PathBuf,
    _guards: Vec<Guard>,
}

impl Elsewhere {
    /// `None` where there is no agent to start, or no gateway under test.
    fn new() -> Option<Self> {
        if skip::oracle_lacks("drivers") {
            return None;
        }
        let Some(agent) = paths::agent() else {
            skip::because("the static agent is not built (make build)");
            return None;
        };
        let options =
            Options { extra_toml: "[sandbox]\nstart_timeout = \"5s\"\n".to_owned(), ..Options::default() };
        let target = Target::start_with(&options);
        let socket = target.dir().join("agent.sock");
        let mut command = Command::new(&agent);
        command.arg("--listen").arg(format!("unix:{}", socket.display()));
        let guard = Guard::spawn(command.current_dir("/").stdin(Stdio::null()));
        assert!(until(Duration::from_secs(5), || socket.exists()), "the agent does not listen");
        Some(Self { target, agent, socket, _guards: vec![guard] })
    }

    /// Starts `door.py` and waits until it listens.
    fn door(&mut self, args: &[&str]) {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(paths::workspace().join("tests/external/door.py")).args(args);
        let mut guard = Guard::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()));
        let mut line = String::new();
        BufReader::new(guard.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready");
        self._guards.push(guard);
    }

    /// Makes a sandbox of that link and returns a token for it.
    fn sandbox(&self, name: &str, args: &[&str]) -> String {
        self.target.gateway().create_sandbox(name, args);
        self.target.gateway().token(name, &[]).token
    }

    fn exec_link(&self) -> String {
        format!("exec:'{}' --stdio", self.agent.display())
    }

    fn ssh(&self, token: &str, args: &[&str]) -> sandgate_tests::Output {
        let mut command = self.target.ssh(&["-l", token]);
        run(command.args(args), Feed::Null, Duration::from_secs(60))
    }

    fn inspect(&self, name: &str) -> serde_json::Value {
        self.target.gateway().json(&["sandbox", "inspect", name])
    }
}

/// Certificates of an authority for `localhost` and a client, and of another one for a stranger.
fn certificates(dir: &Path) {
    let script = r"
        set -e
        for ca in ca other; do
            openssl req -x509 -newkey ed25519 -nodes -keyout $ca.key -out $ca.pem -subj /CN=$ca -days 2 \
                -addext basicConstraints=critical,CA:TRUE
        done
        leaf() {
            openssl req -newkey ed25519 -nodes -keyout $1.key -out $1.csr -subj /CN=$1
            printf 'subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n' > $1.ext
            openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2.key -CAcreateserial -out $1.pem -days 2 -extfile $1.ext
        }
        leaf guest ca
        leaf gateway ca
        leaf stranger other";
    let output = Command::new("sh").args(["-c", script]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What every link has to carry.
fn works(elsewhere: &Elsewhere, token: &str, what: &str) {
    let output = elsewhere.ssh(token, &["box", "echo out; echo err >&2; exit 7"]);
    assert_eq!((output.code, output.text().trim(), output.errors().trim()), (7, "out", "err"), "{what}");
    let terminal = elsewhere.ssh(token, &["-tt", "box", "stty size; tty"]);
    assert!(terminal.text().contains("/dev/pts/"), "{what}: {terminal:?}");
    // 20 MB of all bytes there and back.
    let script = format!(
        "python3 -c 'import sys; sys.stdout.buffer.write(bytes(range(256)) * 80000)' > $DIR/data && \
         $SSH -l {token} box cat < $DIR/data | cmp - $DIR/data && \
         {{ $SSH -l {token} box 'sleep 3; echo late' & }} && \
         $SSH -l {token} box cat < $DIR/data | cmp - $DIR/data; a=$?; wait $! && exit $a"
    );
    let mut command = elsewhere.target.script(&script);
    command.env("DIR", elsewhere.target.dir());
    let output = run(&mut command, Feed::Null, Duration::from_secs(60));
    assert_eq!((output.code, output.text().trim()), (0, "late"), "{what}: {}", output.errors());
    // Files, which the agent serves itself.
    let script = format!(
        "cd $DIR && rm -f back && scp -F ssh_config -o User={token} data box:$DIR/there && \
         scp -F ssh_config -o User={token} box:$DIR/there back && cmp data back && rm there back"
    );
    let mut command = elsewhere.target.script(&script);
    command.env("DIR", elsewhere.target.dir());
    let output = run(&mut command, Feed::Null, Duration::from_secs(60));
    assert_eq!(output.code, 0, "{what}: {}", output.errors());
    assert!(!output.errors().contains("denied"), "{what}: {}", output.errors());
}

#[test]
fn every_link_carries_sessions_and_files() {
    let Some(mut elsewhere) = Elsewhere::new() else { return };
    let dir = elsewhere.target.dir().to_owned();
    let socket = elsewhere.socket.display().to_string();
    let vsock = dir.join("vm.vsock").display().to_string();
    elsewhere.door(&["hybrid", &vsock, "1024", &socket]);
    let tls_port = free_port();
    certificates(&dir);
    let file = |name: &str| dir.join(name).display().to_string();
    let (ca, cert, key) = (file("ca.pem"), file("guest.pem"), file("guest.key"));
    elsewhere.door(&["tls", &tls_port.to_string(), &ca, &cert, &key, &socket]);

    let links = [
        ("unix", format!("unix:{socket}")),
        ("exec", elsewhere.exec_link()),
        ("hybrid", format!("hybrid:{vsock}:1024")),
        ("tcp", format!("tcp:localhost:{tls_port}")),
    ];
    let (our_cert, our_key) = (file("gateway.pem"), file("gateway.key"));
    for (name, link) in &links {
        let tls = ["--tls-ca", &ca, "--tls-cert", &our_cert, "--tls-key", &our_key];
        let mut args = vec!["--link", link];
        if *name == "tcp" {
            args.extend(tls);
        }
        let token = elsewhere.sandbox(name, &args);
        let first = elsewhere.ssh(&token, &["box", "true"]);
        assert_eq!(first.code, 0, "{}", first.errors());
        assert!(is_wait_line(&first.errors(), name, "\n"), "{first:?}");
        works(&elsewhere, &token, name);
        let state = elsewhere.inspect(name);
        assert_eq!((&state["state"], &state["driver"]), (&"running".into(), &"external".into()), "{state}");
        assert_eq!(state["link"].as_str(), Some(link.as_str()));
    }
}

#[test]
fn tls_is_mutual_or_not_at_all() {
    let Some(mut elsewhere) = Elsewhere::new() else { return };
    let dir = elsewhere.target.dir().to_owned();
    certificates(&dir);
    let file = |name: &str| dir.join(name).display().to_string();
    let port = free_port();
    let socket = elsewhere.socket.display().to_string();
    elsewhere.door(&[
        "tls",
        &port.to_string(),
        &file("ca.pem"),
        &file("guest.pem"),
        &file("guest.key"),
        &socket,
    ]);
    let link = format!("tcp:localhost:{port}");
    let refused = elsewhere.target.gateway().cli(&["sandbox", "create", "plain", "--link", &link]);
    assert_ne!(refused.code, 0);
    assert!(refused.errors().contains("mutual TLS"), "{}", refused.errors());
    // A client of another authority, and a guest of another authority. The start gives up in its own time; nobody gets in.
    for (name, ca, cert) in [("stranger", "ca.pem", "stranger"), ("impostor", "other.pem", "gateway")] {
        let (ca, cert, key) = (file(ca), file(&format!("{cert}.pem")), file(&format!("{cert}.key")));
        let args = ["--link", &link, "--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key];
        let token = elsewhere.sandbox(name, &args);
        let mut command = elsewhere.target.ssh(&["-l", &token]);
        let output = run(command.args(["box", "echo in"]), Feed::Null, Duration::from_secs(60));
        assert_eq!((output.code, output.text().as_str()), (255, ""), "{name}");
        assert!(output.errors().contains("could not be started"), "{name}: {}", output.errors());
    }
}

#[test]
fn a_program_that_cannot_lead_anywhere_is_told_at_once() {
    let Some(elsewhere) = Elsewhere::new() else { return };
    for (name, link, words) in [
        ("missing", "exec:/no/such/program", "cannot be run"),
        ("fails", "exec:sh -c 'echo no such container >&2; exit 3'", "no such container"),
        // Its end is noticed before its last words arrive.
        ("late", "exec:sh -c '(sleep 0.2; echo no such container >&2) & exit 3'", "no such container"),
    ] {
        let token = elsewhere.sandbox(name, &["--link", link]);
        let began = Instant::now();
        let output = elsewhere.ssh(&token, &["box", "true"]);
        assert_eq!(output.code, 255, "{name}");
        assert!(output.errors().contains(words), "{name}: {}", output.errors());
        assert!(began.elapsed() < Duration::from_secs(10), "{name}: {:?}", began.elapsed());
        assert_eq!(elsewhere.inspect(name)["state"], "stopped");
    }
}

#[test]
fn the_program_of_a_link_dies_and_is_started_again() {
    let Some(mut elsewhere) = Elsewhere::new() else { return };
    let link = elsewhere.exec_link();
    let token = elsewhere.sandbox("ext", &["--link", &link]);
    for _ in 0..3 {
        let mut session = elsewhere.target.ssh(&["-l", &token, "box", "echo up; exec sleep 1000"]);
        let mut session =
            Guard::spawn(session.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
        let mut line = String::new();
        BufReader::new(session.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "up");
        let pid = elsewhere.inspect("ext")["pid"].as_i64().unwrap() as i32;
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        let mut errors = String::new();
        let stderr = session.child().stderr.take().unwrap();
        assert_eq!(session.wait(Duration::from_secs(5)), Some(255), "the session outlived its agent");
        std::io::Read::read_to_string(&mut BufReader::new(stderr), &mut errors).unwrap();
        assert!(errors.contains("sandgate: "), "the user was told nothing: {errors}");
        let state = elsewhere.inspect("ext");
        assert_eq!(state["state"], "stopped", "{state}");
        assert!(state["reason"].as_str().unwrap().contains("signal 9"), "{state}");
    }
    assert_eq!(elsewhere.ssh(&token, &["box", "echo again"]).ok(), "again");
    // It ends with the gateway, however that ends.
    let pid = elsewhere.inspect("ext")["pid"].as_i64().unwrap();
    let gone = || !Path::new(&format!("/proc/{pid}")).exists();
    elsewhere.target.gateway_mut().kill();
    assert!(until(Duration::from_secs(10), gone), "the program outlived the gateway");
    elsewhere.target.gateway_mut().start_again();
    assert_eq!(elsewhere.inspect("ext")["state"], "stopped");
    assert_eq!(elsewhere.ssh(&token, &["box", "echo again"]).ok(), "again");
}

#[test]
fn stop_and_remove_leave_nothing() {
    let Some(elsewhere) = Elsewhere::new() else { return };
    let gateway = elsewhere.target.gateway();
    let link = elsewhere.exec_link();
    let token = elsewhere.sandbox("ext", &["--link", &link]);
    assert_eq!(elsewhere.ssh(&token, &["box", "echo up"]).ok(), "up");
    let pid = elsewhere.inspect("ext")["pid"].as_i64().unwrap();
    gateway.cli(&["sandbox", "stop", "ext"]).ok();
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "the program still runs");
    assert_eq!(elsewhere.inspect("ext")["state"], "stopped");
    assert_eq!(elsewhere.ssh(&token, &["box", "echo up"]).ok(), "up");
    let pid = elsewhere.inspect("ext")["pid"].as_i64().unwrap();
    gateway.cli(&["sandbox", "rm", "--force", "ext"]).ok();
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "the program still runs");
    let left: Vec<_> = std::fs::read_dir(gateway.data_dir().join("external")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    // Of an agent that is not ours only the use ends.
    let unix = format!("unix:{}", elsewhere.socket.display());
    let token = elsewhere.sandbox("unix", &["--link", &unix]);
    assert_eq!(elsewhere.ssh(&token, &["box", "echo up"]).ok(), "up");
    gateway.cli(&["sandbox", "stop", "unix"]).ok();
    assert_eq!(elsewhere.inspect("unix")["state"], "stopped");
    assert_eq!(elsewhere.ssh(&token, &["box", "echo up"]).ok(), "up");
}

#[test]
fn what_somebody_else_made_cannot_be_given_limits() {
    let Some(elsewhere) = Elsewhere::new() else { return };
    let link = elsewhere.exec_link();
    for more in [&["--memory", "1G"][..], &["--env", "A=B"], &["--image", "/tmp"], &["--driver", "oci"]] {
        let args = [&["sandbox", "create", "odd", "--link", &link][..], more].concat();
        let output = elsewhere.target.gateway().cli(&args);
        assert_ne!(output.code, 0, "{more:?}");
        assert!(output.errors().contains("has no use for"), "{more:?}: {}", output.errors());
    }
    let output = elsewhere.target.gateway().cli(&["sandbox", "create", "odd", "--driver", "external"]);
    assert!(output.errors().contains("needs a link"), "{}", output.errors());
}

#[test]
fn a_monitor_gone_mad_hurts_nobody_else() {
    let Some(mut elsewhere) = Elsewhere::new() else { return };
    let before = resident(elsewhere.target.pid());
    for kind in ["garbage", "silence", "close", "flood"] {
        let socket = elsewhere.target.dir().join(kind).display().to_string();
        elsewhere.door(&[kind, &socket]);
        let token = elsewhere.sandbox(kind, &["--link", &format!("hybrid:{socket}:1")]);
        let mut waiting = elsewhere.target.ssh(&["-l", &token, "box", "echo never"]);
        let waiting = Guard::spawn(waiting.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(elsewhere.target.exec("echo fine").ok(), "fine", "beside {kind}");
        drop(waiting);
        let mut visit = elsewhere.target.ssh(&["-l", &token, "box", "echo never"]);
        let Ok(output) = try_run(&mut visit, Feed::Null, Duration::from_secs(45)) else {
            panic!("{kind}: the client waits for ever");
        };
        assert_eq!((output.code, output.text().as_str()), (255, ""), "{kind}");
        assert!(!output.stderr.contains(&0x1b), "{kind}: an escape sequence reached the terminal");
    }
    let grown = resident(elsewhere.target.pid()).saturating_sub(before);
    assert!(grown < 32 << 20, "grew by {grown}");
}
