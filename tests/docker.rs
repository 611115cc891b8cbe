//! The driver `docker`, against Debian's dockerd and Podman, each started by the test that uses it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use sandgate_tests::client::DEADLINE;
use sandgate_tests::engine::{Engine, Kind};
use sandgate_tests::process::Guard;
use sandgate_tests::wait::{free_port, scaled, until};
use sandgate_tests::{Feed, Options, Output, Target, forward, machine, paths, run, skip};

/// A gateway whose sandbox `box` is a container of that engine.
struct Ground {
    target: Target,
    engine: Engine,
}

impl Ground {
    fn new(kind: Kind, create: &[&str]) -> Option<Self> {
        if skip::oracle_lacks("drivers") {
            return None;
        }
        let engine = Engine::start(kind)?;
        let arguments = [&["--driver", "docker"], create].concat();
        let options = Options {
            extra_toml: engine.toml(),
            create_args: arguments.iter().map(|word| (*word).to_owned()).collect(),
            ..Options::default()
        };
        Some(Self { target: Target::start_with(&options), engine })
    }

    /// What the command line says of a sandbox.
    #[track_caller]
    fn inspect(&self, name: &str) -> serde_json::Value {
        self.target.gateway().json(&["sandbox", "inspect", name])
    }

    /// Runs a command in another sandbox than `box`.
    #[track_caller]
    fn exec_in(&self, name: &str, command: &str) -> Output {
        let token = self.target.gateway().token(name, &[]).token;
        run(&mut self.target.ssh(&["-l", &token, "box", command]), Feed::Null, DEADLINE)
    }

    /// The engine's identifier of the container of `box`.
    #[track_caller]
    fn container(&self) -> String {
        let label = format!("label=io.sandgate.sandbox={}", self.inspect("box")["id"].as_str().unwrap());
        self.engine.cli(&["ps", "-aq", "--no-trunc", "--filter", &label]).ok()
    }

    /// A session that runs, and its first line.
    fn session(&self, command: &str) -> (Guard, BufReader<std::process::ChildStdout>, String) {
        let mut ssh = self.target.ssh(&["box", command]);
        let mut guard = Guard::spawn(ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()));
        let mut out = BufReader::new(guard.child().stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        (guard, out, line.trim().to_owned())
    }
}

/// The client's exit code, and what it printed as an error.
#[track_caller]
fn end_of(guard: &mut Guard, patience: Duration) -> (Option<i32>, String) {
    let mut stderr = guard.child().stderr.take().unwrap();
    let code = guard.wait(patience);
    let mut errors = String::new();
    if code.is_some() {
        stderr.read_to_string(&mut errors).unwrap();
    }
    (code, errors)
}

fn sessions(kind: Kind) {
    let create =
        ["--image", "bb", "--env", "COLOUR=blue", "--memory", "64M", "--cpus", "0.5", "--pids", "100"];
    let Some(ground) = Ground::new(kind, &create) else { return };
    let target = &ground.target;
    let output = target.exec("echo out; echo err >&2; echo $COLOUR $USER $HOME; exit 7");
    output.exits(7);
    assert_eq!((output.text().as_str(), output.errors().as_str()), ("out\nblue root /root\n", "err\n"));
    target.exec("kill -9 $$").exits(255);
    // Every byte there and back, more than any window.
    let bytes: Vec<u8> = (0..8_000_000u32).map(|n| (n ^ (n >> 8)) as u8).collect();
    let output = target.exec_with("cat", bytes.clone());
    assert!(output.exits(0).stdout == bytes, "{} bytes came back", output.stdout.len());
    let terminal = target.run_ssh(&["-tt", "box", "tty; stty size"]);
    assert!(terminal.text().contains("/dev/pts/"), "{terminal:?}");
    // A session that reads nothing does not hold up another one on the same pipe.
    let (_slow, _, first) = ground.session("echo up; cat /dev/zero");
    assert_eq!(first, "up");
    assert_eq!(target.exec("echo beside").ok(), "beside");
    // What it is and what it may.
    assert_eq!(
        target.exec("ls /sys/class/net; cat /proc/1/cmdline | tr '\\0' ' '").ok(),
        "lo\n/.sandgate/agent --hold "
    );
    let status = target.exec("grep -E '^(NoNewPrivs|CapBnd)' /proc/self/status").ok();
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!(field("NoNewPrivs:"), "1");
    let capabilities = u64::from_str_radix(&field("CapBnd:"), 16).unwrap();
    // NET_RAW, MKNOD, SYS_ADMIN.
    assert_eq!(capabilities & (1 << 13 | 1 << 27 | 1 << 21), 0, "{capabilities:x}");
    let format = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}} {{.HostConfig.RestartPolicy.Name}}";
    let container = ground.container();
    let limits = ground.engine.cli(&["inspect", "-f", format, &container]).ok();
    assert!(limits.starts_with("67108864 500000000 100"), "{limits}");
    assert!(!limits.contains("always"), "{limits}");
    let hog = target.exec("for i in $(seq 200); do sleep 30 & done; wait");
    assert!(hog.errors().contains("fork"), "the process limit does not hold: {hog:?}");
    let state = ground.inspect("box");
    assert_eq!((&state["state"], &state["driver"]), (&"running".into(), &"docker".into()), "{state}");
    let engine = if kind == Kind::Docker { "Docker Engine 2" } else { "Podman Engine " };
    assert!(state["engine"].as_str().unwrap().starts_with(engine), "{state}");
    // What it uses is asked of the engine, which may be busy for a moment.
    let mut usage = serde_json::Value::Null;
    assert!(
        until(DEADLINE, || {
            usage = ground.inspect("box")["usage"].take();
            usage["memory_bytes"].as_u64().is_some_and(|used| used > 0 && used < 64 << 20)
                && usage["memory_limit_bytes"] == 64 << 20
                && usage["cpu_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0)
                && usage["processes"].as_u64().is_some_and(|count| count > 1 && count <= 100)
        }),
        "{usage}"
    );
    // Stop and start; what was written stays. The agent of the sessions ends with them.
    target.exec("echo kept > /root/file").ok();
    let began = Instant::now();
    target.gateway().cli(&["sandbox", "stop", "box"]).ok();
    assert!(began.elapsed() < Duration::from_secs(9), "a stop takes {:?}", began.elapsed());
    let state = ground.inspect("box");
    assert_eq!((&state["state"], &state["reason"]), (&"stopped".into(), &"stopped on request".into()));
    assert_eq!(target.exec("cat /root/file").ok(), "kept");
    target.gateway().cli(&["sandbox", "rm", "--force", "box"]).ok();
    assert_eq!(ground.engine.containers(), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(target.gateway().data_dir().join("docker")).unwrap().count(), 0);
}

#[test]
fn docker_carries_sessions() {
    sessions(Kind::Docker);
}

#[test]
fn podman_carries_sessions() {
    sessions(Kind::Podman);
}

fn images(kind: Kind) {
    let Some(ground) = Ground::new(kind, &["--image", "empty"]) else { return };
    let target = &ground.target;
    // Nothing at all in it: no shell, no scp, no passwd file. Files come and go all the same.
    let output = target.exec("echo hello");
    output.exits(127);
    assert!(output.errors().contains("no shell found"), "{output:?}");
    let script = "cd $DIR && head -c 3000000 /dev/urandom > data && scp -F ssh_config data box:/there && \
                  scp -F ssh_config box:/there back && cmp data back && \
                  printf 'mkdir /d\\nput data /d/x\\nls -l /d\\n' | sftp -F ssh_config -b - box";
    let mut command = target.script(script);
    let output = run(command.env("DIR", target.dir()), Feed::Null, DEADLINE);
    assert!(output.ok().contains("/d/x"), "{output:?}");
    // An image with a user of its own: sessions are that user, the agent is not, and cannot be replaced by it.
    target.gateway().create_sandbox("own", &["--driver", "docker", "--image", "bbme"]);
    let output = ground.exec_in(
        "own",
        "id -un; echo $HOME; stat -c '%u %a' /.sandgate /.sandgate/agent; rm -f /.sandgate/agent",
    );
    assert_eq!(output.text(), "me\n/home/me\n0 755\n0 555\n");
    assert!(output.errors().contains("Permission denied"), "{output:?}");
    target.gateway().create_sandbox("named", &["--driver", "docker", "--image", "bbme", "--user", "root"]);
    assert_eq!(ground.exec_in("named", "id -un").ok(), "root");
    // What the engine does not have, and what it cannot have.
    for (image, words) in
        [("no-such:1", "docker pull no-such:1"), ("host", "--image debian:12"), ("/tmp", "docker load")]
    {
        let output =
            target.gateway().cli(&["sandbox", "create", "odd", "--driver", "docker", "--image", image]);
        assert_ne!(output.code, 0, "{image}");
        assert!(output.errors().contains(words), "{image}: {}", output.errors());
    }
    let runtime = ["sandbox", "create", "odd", "--driver", "docker", "--image", "bb", "--runtime", "flux"];
    let output = target.gateway().cli(&runtime);
    assert!(output.code != 0 && output.errors().contains("flux"), "{output:?}");
    assert_eq!(ground.engine.containers().len(), 3, "something is left of what was refused");
}

#[test]
fn docker_needs_nothing_in_an_image() {
    images(Kind::Docker);
}

#[test]
fn podman_needs_nothing_in_an_image() {
    images(Kind::Podman);
}

fn forwards(kind: Kind) {
    let Some(ground) = Ground::new(kind, &["--image", "bb"]) else { return };
    let target = &ground.target;
    target.exec("httpd -p 127.0.0.1:80 -h /var/www").ok();
    let port = free_port();
    let local = format!("{port}:127.0.0.1:80");
    let mut ssh = target.ssh(&["-L", &local, "box", "echo up; exec sleep 100"]);
    let mut guard = Guard::spawn(ssh.stdin(Stdio::null()).stdout(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(guard.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.ends_with("hello\n"), "{page}");
    // The other way.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let remote = format!("8080:127.0.0.1:{}", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]).unwrap();
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nfrom outside\n").unwrap();
    });
    let output = target.run_ssh(&["-R", &remote, "box", "wget -q -O - http://127.0.0.1:8080/"]);
    assert_eq!(output.ok(), "from outside");
    // An agent that is forwarded into the container lists its keys there.
    let socket = target.dir().join("a");
    let mut agent = std::process::Command::new("ssh-agent");
    let _agent =
        Guard::spawn(agent.args(["-D", "-a"]).arg(&socket).stdin(Stdio::null()).stdout(Stdio::null()));
    assert!(until(Duration::from_secs(5), || socket.exists()));
    let list = |socket: &std::path::Path, args: &[&str]| {
        let mut command = std::process::Command::new("ssh-add");
        run(command.args(args).env("SSH_AUTH_SOCK", socket), Feed::Null, DEADLINE)
    };
    list(&socket, &[target.key().to_str().unwrap()]).ok();
    let mut ssh = target.ssh(&[
        "-o",
        &format!("IdentityAgent={}", socket.display()),
        "-A",
        "box",
        "echo $SSH_AUTH_SOCK; exec sleep 100",
    ]);
    let mut guard = Guard::spawn(ssh.stdin(Stdio::null()).stdout(Stdio::piped()));
    let mut inside = String::new();
    BufReader::new(guard.child().stdout.take().unwrap()).read_line(&mut inside).unwrap();
    let back = target.dir().join("b");
    let mut ssh = target.ssh(&["-N", "-L", &format!("{}:{}", back.display(), inside.trim()), "box"]);
    let _forward = Guard::spawn(ssh.stdin(Stdio::null()));
    assert!(until(Duration::from_secs(10), || back.exists()), "no forward to {inside}");
    assert!(list(&back, &["-l"]).ok().contains("ED25519"));
}

#[test]
fn docker_carries_forwards_and_agents() {
    forwards(Kind::Docker);
}

#[test]
fn podman_carries_forwards_and_agents() {
    forwards(Kind::Podman);
}

fn container_dies(kind: Kind) {
    let Some(ground) = Ground::new(kind, &["--image", "bb"]) else { return };
    let (mut session, _out, first) = ground.session("echo up; exec sleep 1000");
    assert_eq!(first, "up");
    let container = ground.container();
    ground.engine.cli(&["kill", &container]).ok();
    let began = Instant::now();
    assert!(
        until(Duration::from_secs(2), || ground.inspect("box")["state"] == "stopped"),
        "{}",
        ground.inspect("box")
    );
    let (code, errors) = end_of(&mut session, Duration::from_secs(5));
    assert_eq!(code, Some(255), "the session outlived its container");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(errors.contains("sandgate: The session ended"), "{errors}");
    let state = ground.inspect("box");
    assert!(state["reason"].as_str().unwrap().contains("exit code 137"), "{state}");
    assert_eq!(ground.target.exec("echo again").ok(), "again");
    // Removed behind our back: that is said, and nothing hangs on it.
    ground.engine.cli(&["rm", "-f", &container]).ok();
    let state = ground.inspect("box");
    assert!(state["reason"].as_str().unwrap().contains("removed"), "{state}");
    let output = ground.target.exec("echo never");
    assert!(output.code == 255 && output.errors().contains("container was removed"), "{output:?}");
    ground.target.gateway().cli(&["sandbox", "rm", "box"]).ok();
}

#[test]
fn docker_container_that_dies_is_seen() {
    container_dies(Kind::Docker);
}

#[test]
fn podman_container_that_dies_is_seen() {
    container_dies(Kind::Podman);
}

#[test]
fn dockerd_is_killed_under_load() {
    let Some(mut ground) = Ground::new(Kind::Docker, &["--image", "bb"]) else { return };
    let descriptors = |ground: &Ground| forward::descriptors(ground.target.pid());
    assert_eq!(ground.target.exec("echo kept >/root/file; echo up").ok(), "up");
    let before = descriptors(&ground);
    let (flood, mut out, first) = ground.session("echo up; exec cat /dev/zero");
    assert_eq!(first, "up");
    let drain = std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    let (waiting, _out, first) = ground.session("echo up; exec sleep 4246");
    assert_eq!(first, "up");
    let (mut upload, _out, first) = ground.session("echo up; exec cat >/dev/null");
    assert_eq!(first, "up");
    let mut stdin = upload.child().stdin.take().unwrap();
    let sender = std::thread::spawn(move || while stdin.write_all(&[7; 65536]).is_ok() {});
    std::thread::sleep(Duration::from_millis(300));
    ground.engine.kill();
    let began = Instant::now();
    let told = |ground: &Ground| {
        let state = ground.inspect("box");
        state["state"] == "unknown"
            && state["reason"].as_str().unwrap_or_default().contains("does not answer")
    };
    assert!(
        until(Duration::from_secs(2), || told(&ground)),
        "{:?} later: {}",
        began.elapsed(),
        ground.inspect("box")
    );
    for (what, mut session) in [("flood", flood), ("wait", waiting), ("upload", upload)] {
        let (code, errors) = end_of(&mut session, Duration::from_secs(10));
        assert_eq!(code, Some(255), "the session of the {what} outlived the engine");
        // One line, and nothing but it.
        let line = errors.strip_suffix('\n').unwrap_or_default();
        assert!(
            line.starts_with("sandgate: The session ended: "),
            "the user of the {what} was told {errors:?}"
        );
        assert!(line.ends_with('.') && !line.contains('\n'), "the user of the {what} was told {errors:?}");
    }
    drain.join().unwrap().unwrap();
    sender.join().unwrap();
    let output = ground.target.exec("echo never");
    assert!(output.code == 255 && output.errors().contains("does not answer"), "{output:?}");

    assert!(ground.engine.start_again(), "{}", ground.engine.log());
    assert_eq!(ground.target.exec("cat /root/file").ok(), "kept");
    assert_eq!(ground.inspect("box")["state"], "running");
    // The agent of the sessions that were lost has ended with them, and so has what they ran.
    let of_lost = "ps | grep -E '[s]leep 4246|[c]at( |$)'; ps | grep -c '[a]gent --stdio'";
    assert!(
        until(Duration::from_secs(20), || ground.target.exec(of_lost).ok() == "1"),
        "{}",
        ground.target.exec("ps").text()
    );
    // It can be stopped and started as ever, and goes without a trace.
    ground.target.gateway().cli(&["sandbox", "stop", "box"]).ok();
    assert_eq!(ground.inspect("box")["state"], "stopped");
    assert_eq!(ground.target.exec("cat /root/file").ok(), "kept");
    let fewer = until(Duration::from_secs(10), || descriptors(&ground) <= before + 2);
    assert!(fewer, "{before} descriptors before and {} after", descriptors(&ground));
    ground.target.gateway().cli(&["sandbox", "rm", "--force", "box"]).ok();
    assert_eq!(ground.engine.containers(), Vec::<String>::new());
    let left = machine::processes(&["sleep 4246"]);
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(std::fs::read_dir(ground.target.gateway().data_dir().join("docker")).unwrap().count(), 0);
}

fn gateway_dies(kind: Kind) {
    let Some(mut ground) = Ground::new(kind, &["--image", "bb"]) else { return };
    ground.target.exec("setsid sleep 4245 >/dev/null 2>&1 </dev/null &").ok();
    let (mut session, _out, first) = ground.session("echo up; exec sleep 1000");
    assert_eq!(first, "up");
    let format = "{{.State.StartedAt}}";
    let container = ground.container();
    let started = ground.engine.cli(&["inspect", "-f", format, &container]).ok();
    ground.target.gateway_mut().kill();
    assert_eq!(session.wait(Duration::from_secs(10)), Some(255));
    ground.target.gateway_mut().start_again();
    assert_eq!(ground.inspect("box")["state"], "running");
    assert_eq!(ground.target.exec("ps | grep -q '[s]leep 4245' && echo alive").ok(), "alive");
    assert_eq!(
        ground.engine.cli(&["inspect", "-f", format, &container]).ok(),
        started,
        "it was started anew"
    );
    // The agent of the killed gateway has ended with its sessions; one new one is there.
    let gone = until(Duration::from_secs(20), || {
        ground.target.exec("ps | grep '[s]leep 1000'; ps | grep -c '[a]gent --stdio'").ok() == "1"
    });
    assert!(gone, "{}", ground.target.exec("ps").text());
}

#[test]
fn docker_sandbox_outlives_the_gateway() {
    gateway_dies(Kind::Docker);
}

#[test]
fn podman_sandbox_outlives_the_gateway() {
    gateway_dies(Kind::Podman);
}

fn adopt(kind: Kind) {
    let Some(ground) = Ground::new(kind, &["--image", "bb"]) else { return };
    let gateway = ground.target.gateway();
    let engine = &ground.engine;
    engine
        .cli(&["run", "-d", "--name", "My_Web", "--network", "none", "--user", "1000", "bb", "sleep", "5000"])
        .ok();
    engine
        .cli(&["create", "--name", "idle", "--network", "none", "--label", "role=db", "bb", "sleep", "5000"])
        .ok();
    let made = gateway.json(&["sandbox", "adopt", "docker:My_Web"]);
    assert_eq!((&made["name"], &made["adopted"]), (&"my-web".into(), &"docker:My_Web".into()), "{made}");
    let output =
        ground.exec_in("my-web", "id -u; tr '\\0' ' ' < /proc/1/cmdline; stat -c %u /.sandgate/agent");
    assert_eq!(output.ok(), "1000\nsleep 5000 0");
    // By label, stopped: it is started when somebody comes, and sessions may be somebody else.
    gateway
        .cli(&["sandbox", "adopt", "docker:role=db", "--name", "db", "--user", "me", "--record", "all"])
        .ok();
    let adopted = ground.inspect("db");
    assert_eq!((&adopted["state"], &adopted["record"]), (&"created".into(), &"all".into()), "{adopted}");
    assert_eq!(ground.exec_in("db", "id -un").ok(), "me");
    for (target, words) in [
        ("docker:My_Web", "adopted before"),
        ("docker:no-such", "o such container"),
        ("docker:role=none", "no container has this label"),
    ] {
        let output = gateway.cli(&["sandbox", "adopt", target, "--name", "odd"]);
        assert!(output.code != 0 && output.errors().contains(words), "{target}: {}", output.errors());
    }
    let ours = format!("docker:{}", ground.container());
    let output = gateway.cli(&["sandbox", "adopt", &ours, "--name", "odd"]);
    assert!(output.code != 0 && output.errors().contains("a sandbox of sandgate"), "{}", output.errors());
    // Stop stops it. Remove forgets it, and it goes on.
    gateway.cli(&["sandbox", "stop", "db"]).ok();
    assert_eq!(engine.cli(&["inspect", "-f", "{{.State.Running}}", "idle"]).ok(), "false");
    gateway.cli(&["sandbox", "rm", "db"]).ok();
    gateway.cli(&["sandbox", "rm", "--force", "my-web"]).ok();
    assert_eq!(engine.cli(&["inspect", "-f", "{{.State.Running}}", "My_Web"]).ok(), "true");
    assert_eq!(engine.containers().len(), 3);
}

#[test]
fn docker_adopts() {
    adopt(Kind::Docker);
}

#[test]
fn podman_adopts() {
    adopt(Kind::Podman);
}

#[test]
fn an_agent_that_was_replaced_hurts_nobody_else() {
    let Some(mut ground) = Ground::new(Kind::Docker, &["--image", "bb"]) else { return };
    ground.target.gateway().create_sandbox("other", &["--driver", "docker", "--image", "bb"]);
    for script in [
        "exec yes",
        "exec cat /dev/zero",
        "exec sleep 1000",
        "echo rude >&2; exit 3",
        "head -c 100000 /dev/zero | tr '\\\\0' '\\\\377'",
    ] {
        let replace = format!(
            "rm /.sandgate/agent; printf '#!/bin/sh\\n{script}\\n' > /.sandgate/agent; chmod 755 /.sandgate/agent"
        );
        ground.target.exec(&replace).ok();
        // The next gateway has to start what is there.
        ground.target.gateway_mut().kill();
        ground.target.gateway_mut().start_again();
        let began = Instant::now();
        let output = run(&mut ground.target.ssh(&["box", "echo never"]), Feed::Null, Duration::from_secs(90));
        assert_eq!((output.code, output.text().as_str()), (255, ""), "{script}");
        assert!(output.errors().contains("sandgate: "), "{script}: {output:?}");
        assert!(began.elapsed() < Duration::from_secs(80), "{script}: {:?}", began.elapsed());
        assert_eq!(ground.exec_in("other", "echo fine").ok(), "fine", "beside {script}");
        // A start puts the real one back.
        ground.target.gateway().cli(&["sandbox", "stop", "box"]).ok();
        assert_eq!(ground.target.exec("echo healed").ok(), "healed", "after {script}");
    }
}

#[test]
fn without_an_engine_only_its_users_are_told() {
    if skip::oracle_lacks("drivers") {
        return;
    }
    let socket = "/nonexistent/docker.sock";
    let options = Options { extra_toml: format!("[docker]\nsocket = \"{socket}\"\n"), ..Options::default() };
    let target = Target::start_with(&options);
    assert_eq!(target.exec("echo fine").ok(), "fine");
    assert!(!target.log().contains(socket), "the log speaks of an engine that nobody uses");
    for args in [&["create", "c", "--driver", "docker", "--image", "bb"][..], &["adopt", "docker:x"]] {
        let output = target.gateway().cli(&[&["sandbox"], args].concat());
        let errors = output.errors();
        assert!(
            output.code != 0 && errors.contains(socket) && errors.contains("[docker] socket"),
            "{errors}"
        );
    }
    assert_eq!(target.gateway().json(&["sandbox", "ls"]).as_array().unwrap().len(), 1);
}

#[test]
fn docker_runs_gvisor_where_it_is_installed() {
    if paths::which("runsc").is_none() {
        skip::because("runsc is not installed");
        return;
    }
    let Some(ground) = Ground::new(Kind::Docker, &["--image", "bb"]) else { return };
    ground
        .target
        .gateway()
        .create_sandbox("gv", &["--driver", "docker", "--image", "bb", "--runtime", "runsc"]);
    assert!(ground.exec_in("gv", "dmesg").ok().contains("gVisor"));
}

#[test]
fn exec_links_lead_through_an_engines_own_command() {
    let Some(ground) = Ground::new(Kind::Docker, &["--image", "bb"]) else { return };
    let engine = &ground.engine;
    engine.cli(&["run", "-d", "--name", "plain", "--network", "none", "bb", "sleep", "5000"]).ok();
    let agent = paths::agent().expect("an agent");
    engine.cli(&["cp", agent.to_str().unwrap(), "plain:/agent"]).ok();
    let link = format!("exec:docker -H unix://{} exec -i plain /agent --stdio", engine.socket().display());
    ground.target.gateway().create_sandbox("ext", &["--link", &link]);
    let output = ground.exec_in("ext", "echo out; echo err >&2; exit 3");
    assert_eq!((output.code, output.text().as_str()), (3, "out\n"), "{output:?}");
    assert!(output.errors().ends_with("err\n"), "{output:?}");
}

#[test]
fn heavy_containers_come_and_go() {
    let Some(ground) = Ground::new(Kind::Docker, &["--image", "bb"]) else { return };
    let gateway = ground.target.gateway();
    assert_eq!(ground.target.exec("true").code, 0);
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", ground.target.pid())).unwrap().count();
    let turn = |index: usize| {
        let name = format!("n{index}");
        gateway.cli(&["sandbox", "create", &name, "--driver", "docker", "--image", "bb"]).ok();
        let output = gateway.cli(&["exec", &name, "--", "echo", &name]);
        assert_eq!(output.ok(), name);
        gateway.cli(&["sandbox", "rm", "--force", &name]).ok();
    };
    turn(0);
    let (before, memory) = (descriptors(), sandgate_tests::process::resident(ground.target.pid()));
    (1..=scaled(200)).for_each(turn);
    assert_eq!(ground.engine.containers().len(), 1);
    assert_eq!(std::fs::read_dir(gateway.data_dir().join("docker")).unwrap().count(), 1);
    assert!(
        until(Duration::from_secs(10), || descriptors() <= before + 2),
        "{} then {before} descriptors",
        descriptors()
    );
    let after = sandgate_tests::process::resident(ground.target.pid());
    assert!(after < memory + (16 << 20), "from {memory} to {after} bytes of memory");
}
