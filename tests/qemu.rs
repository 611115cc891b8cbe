//! The driver `qemu`: machines of a small root file system, by software emulation. Booting one takes seconds, so these tests are heavy ones.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Signal, kill_process};
use sandgate_tests::client::DEADLINE;
use sandgate_tests::machine::{self, Needs};
use sandgate_tests::process::Guard;
use sandgate_tests::terminal::Terminal;
use sandgate_tests::wait::{free_port, is_wait_line, until};
use sandgate_tests::{Feed, Options, Target, data, run};

/// A port inside.
const INSIDE: u16 = 7070;
/// That many bytes each way.
const BULK: usize = 10 << 20;

/// Root's accounts, busybox and nothing else.
const TREE: &str = r#"
    set -e
    mkdir -p bin etc tmp root dev proc sys run
    chmod 1777 tmp
    cp /bin/busybox bin/busybox
    for name in $(bin/busybox --list); do [ $name = busybox ] || ln -s busybox bin/$name; done
    echo 'root:x:0:0:root:/root:/bin/sh' > etc/passwd
    echo 'root:x:0:' > etc/group
"#;

/// A gateway whose sandbox `box` is a machine of busybox. `more` goes into the table `[qemu]`.
fn start(needs: &Needs, more: &str) -> (Target, tempfile::TempDir) {
    let image = sandgate_tests::target::short_dir();
    std::fs::set_permissions(image.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    run(Command::new("sh").args(["-c", TREE]).current_dir(image.path()), Feed::Null, DEADLINE).ok();
    let options = Options {
        extra_toml: needs.toml(more),
        create_args: machine::words(path(image.path())),
        ..Options::default()
    };
    (Target::start_with(&options), image)
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
fn state(target: &Target) -> String {
    machine::state(target, "box")
}

/// Command lines of processes that belong to the gateway's sandboxes.
fn processes(data_dir: &Path) -> Vec<String> {
    let found = machine::processes(&[&format!("{}/sandboxes/", data_dir.display())]);
    found.into_iter().map(|(_, line)| line).collect()
}

/// Control groups whose path names the sandbox.
fn groups(id: &str) -> String {
    let script = format!("find /sys/fs/cgroup -type d -path '*{id}*' 2>/dev/null; true");
    run(Command::new("sh").args(["-c", &script]), Feed::Null, DEADLINE).text()
}

#[test]
fn heavy_sessions_files_and_forwards_in_a_machine() {
    let Some(needs) = Needs::find() else { return };
    let (target, _image) = start(&needs, "");

    let output = target.exec("echo out; echo err >&2; exit 7");
    output.exits(7);
    assert_eq!((output.text().as_str(), output.errors().as_str()), ("out\n", "err\n"));
    assert_eq!(target.exec("id -un; pwd; hostname").ok(), "root\n/root\nbox");
    // A kernel of its own: the one that we named.
    let version = target.exec("uname -r").ok();
    assert!(path(&needs.kernel).ends_with(&version), "{version}");

    assert_eq!(target.exec("ls /sys/class/net").ok(), "lo");
    let links = target.exec("ip -o link").ok();
    assert!(links.lines().count() == 1 && links.contains(": lo:"), "{links}");

    let mut terminal = Terminal::spawn(&target.ssh(&["-tt", "box", "stty size"]), 111, 37);
    terminal.expect("37 111");
    assert_eq!(terminal.wait(), 0);

    let bytes = data::random(5, BULK);
    let hash = data::sha256(&bytes);
    assert!(target.exec_with("tee f | sha256sum", bytes.clone()).ok().starts_with(&hash));
    let back = target.exec("cat f");
    back.exits(0);
    assert_eq!(data::sha256(&back.stdout), hash);

    // What it uses is what QEMU uses: the machine's memory is in it, and no processes are told.
    let seen = target.gateway().json(&["sandbox", "inspect", "box"]);
    let (usage, most) = (&seen["usage"], seen["memory_bytes"].as_u64().unwrap());
    if !seen["warnings"].to_string().contains("cgroup") {
        assert!(usage["memory_bytes"].as_u64().unwrap() > 16 << 20, "{seen}");
        assert!(usage["memory_limit_bytes"].as_u64().unwrap() >= most, "{seen}");
        assert!(usage["cpu_seconds"].as_f64().unwrap() > 0.0 && usage["processes"].is_null(), "{seen}");
    }

    let (near, again) = (target.dir().join("near"), target.dir().join("again"));
    std::fs::write(&near, &bytes).unwrap();
    target.scp(&[path(&near), "box:/tmp/far"]).exits(0);
    target.scp(&["box:/tmp/far", path(&again)]).exits(0);
    assert_eq!(data::sha256(&std::fs::read(&again).unwrap()), hash);
    assert!(target.sftp(&[], "ls -l /tmp\n").ok().contains("far"));

    let mut server =
        Guard::spawn(target.ssh(&["box", &format!("echo inside | nc -l -p {INSIDE}")]).stdin(Stdio::null()));
    // In hexadecimal, as the kernel lists it; 0A is LISTEN.
    let listening = format!("grep -qs ':{INSIDE:04X} .* 0A ' /proc/net/tcp /proc/net/tcp6");
    assert!(until(Duration::from_secs(20), || target.exec(&listening).code == 0));
    let port = free_port();
    let forward = format!("127.0.0.1:{port}:127.0.0.1:{INSIDE}");
    let master = target.master_with(&["-o", "ExitOnForwardFailure=yes", "-L", &forward]);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut text = [0; 7];
    stream.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"inside\n");
    drop((stream, master));
    let _ = server.wait(Duration::from_secs(10));

    // What a machine cannot have is refused, and nothing is left of the attempt.
    let image = path(_image.path());
    for (words, reason) in [
        (["--mount", "/tmp:/mnt"], "mounts"),
        (["--pids", "9"], "process limit"),
        (["--memory", "64M"], "128 MiB"),
    ] {
        let create =
            [&["sandbox", "create", "wrong", "--driver", "qemu", "--image", image], &words[..]].concat();
        let mut output = target.gateway().cli(&create);
        if output.code == 0 {
            output = target.gateway().cli(&["sandbox", "start", "wrong"]);
            target.gateway().cli(&["sandbox", "rm", "wrong"]).ok();
        }
        assert!(output.code != 0 && output.errors().contains(reason), "{words:?}: {}", output.errors());
    }
}

#[test]
fn heavy_a_machine_stops_pauses_dies_and_goes_without_a_trace() {
    let Some(needs) = Needs::find() else { return };
    let (target, _image) = start(&needs, "");
    let gateway = target.gateway();

    target.exec("echo kept >file; echo $$ >/dev/null; sync").ok();
    let seed = target.exec("head -c 16 /dev/urandom | od -An -tx1").ok();
    let machine_id = target.exec("cat /etc/machine-id").ok();
    gateway.cli(&["sandbox", "stop", "box"]).ok();
    assert_eq!(state(&target), "stopped");
    let running = processes(gateway.data_dir());
    assert!(running.is_empty(), "left after the stop: {running:?}");
    gateway.start_sandbox("box");
    assert_eq!(target.exec("cat file").ok(), "kept");
    assert_ne!(target.exec("head -c 16 /dev/urandom | od -An -tx1").ok(), seed);
    assert_eq!(target.exec("cat /etc/machine-id").ok(), machine_id);

    // A session stands still with its machine and goes on with it.
    let mut ssh = target.ssh(&["box", "echo ready; read word; echo got $word"]);
    let mut session = Guard::spawn(ssh.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut out = BufReader::new(session.child().stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    gateway.cli(&["sandbox", "pause", "box"]).ok();
    assert_eq!(state(&target), "paused");
    gateway.cli(&["sandbox", "pause", "box"]).ok();
    // Long enough for a clock that stood still to be visibly behind.
    std::thread::sleep(Duration::from_secs(4));
    let output = target.exec("date +%s");
    let inside: u64 = output.ok().parse().unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(inside) <= 2, "the clock of a resumed machine is {inside}, not {now}");
    assert!(output.errors().contains("esuming"), "the user was not told: {:?}", output.errors());
    assert_eq!(state(&target), "running");
    session.child().stdin.take().unwrap().write_all(b"it\n").unwrap();
    line.clear();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "got it\n");
    assert_eq!(session.wait(Duration::from_secs(10)), Some(0));
    gateway.cli(&["sandbox", "pause", "box"]).ok();
    gateway.cli(&["sandbox", "resume", "box"]).ok();
    assert_eq!(target.exec("cat file").ok(), "kept");

    // A machine that dies takes its sessions with it, and they are told.
    let mut ssh = target.ssh(&["box", "echo ready; sleep 1000"]);
    let piped = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut session = Guard::spawn(piped);
    let mut out = BufReader::new(session.child().stdout.take().unwrap());
    line.clear();
    out.read_line(&mut line).unwrap();
    let killed = Instant::now();
    kill_process(machine::qemu_pid(&target, "box"), Signal::KILL).unwrap();
    assert!(until(Duration::from_secs(2), || state(&target) == "stopped"), "it is {}", state(&target));
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(3), "known as stopped only after {took:?}");
    assert!(session.wait(Duration::from_secs(10)).is_some_and(|code| code != 0));
    let mut errors = String::new();
    session.child().stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(!errors.trim().is_empty(), "the session ended without a line");
    gateway.start_sandbox("box");
    assert_eq!(target.exec("cat file").ok(), "kept");

    let id = gateway.json(&["sandbox", "inspect", "box"])["id"].as_str().unwrap().to_owned();
    assert!(!processes(gateway.data_dir()).is_empty());
    gateway.cli(&["sandbox", "rm", "--force", "box"]).ok();
    let running = processes(gateway.data_dir());
    assert!(running.is_empty(), "left: {running:?}");
    assert_eq!(groups(&id), "", "control groups are left");
    let left = gateway.data_dir().join("sandboxes").join(&id);
    assert!(!left.exists(), "{} is left", left.display());
}

/// Bytes and ends that come for a machine that stands still wait in its vsock device, which has to survive them.
#[test]
fn heavy_what_is_typed_into_a_paused_machine_arrives_and_its_stop_loses_nothing() {
    let Some(needs) = Needs::find() else { return };
    let (target, _image) = start(&needs, "");
    let gateway = target.gateway();
    let pause = || {
        gateway.cli(&["sandbox", "pause", "box"]).ok();
        assert_eq!(state(&target), "paused");
    };
    let mut terminal = Terminal::spawn(&target.ssh(&["-tt", "box", "echo ready; exec cat"]), 80, 24);
    terminal.expect("ready");
    terminal.wait_for_raw();
    for word in ["alpha", "beta"] {
        pause();
        terminal.expect("The sandbox was paused.");
        terminal.send(format!("{word}\r"));
        std::thread::sleep(Duration::from_secs(1));
        assert!(!terminal.screen().contains(word), "it does not stand still: {}", terminal.screen());
        gateway.cli(&["sandbox", "resume", "box"]).ok();
        // By the terminal inside, and by the program.
        terminal.expect(word);
        terminal.expect(word);
    }
    // Above it may come before or after what was waiting inside.
    pause();
    gateway.cli(&["sandbox", "resume", "box"]).ok();
    terminal.expect("The sandbox goes on.");

    let mut ssh = target.ssh(&["box", "echo ready; exec cat"]);
    let mut leaver = Guard::spawn(ssh.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(leaver.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    pause();
    drop(leaver);
    std::thread::sleep(Duration::from_secs(1));
    gateway.cli(&["sandbox", "resume", "box"]).ok();
    assert_eq!(target.exec("echo up").ok(), "up");
    terminal.send("gamma\r");
    terminal.expect("gamma");
    terminal.expect("gamma");

    target.exec("echo kept >unsynced").ok();
    pause();
    gateway.cli(&["sandbox", "stop", "box"]).ok();
    assert_eq!(state(&target), "stopped");
    assert_ne!(terminal.wait(), 0, "its session was not told");
    gateway.start_sandbox("box");
    assert_eq!(target.exec("cat unsynced").ok(), "kept");
}

#[test]
fn heavy_a_machine_boots_when_that_is_configured() {
    let Some(needs) = Needs::find() else { return };
    let (target, _image) = start(&needs, "start = \"cold\"");
    assert_eq!(target.exec("echo from $(ls /sys/class/net)").ok(), "from lo");
    machine::expect_host_time(|command| target.exec(command));
    let gateway = target.gateway();
    let machines: Vec<_> =
        std::fs::read_dir(gateway.data_dir().join("machines")).unwrap().flatten().collect();
    assert!(machines.iter().all(|it| !path(&it.path()).contains("template")), "{machines:?}");
    assert_eq!(gateway.json(&["sandbox", "inspect", "box"])["start"], "cold");
    gateway.cli(&["sandbox", "pause", "box"]).ok();
    assert_eq!(target.exec("echo again").ok(), "again");

    // Who comes meanwhile reads one line, and on a terminal, where it can be written anew, also what takes the time.
    gateway.cli(&["sandbox", "stop", "box"]).ok();
    let output = target.exec("echo up");
    assert_eq!(output.ok(), "up");
    assert!(is_wait_line(&output.errors(), "box", "\n"), "{:?}", output.errors());
    gateway.cli(&["sandbox", "stop", "box"]).ok();
    let output = target.run_ssh(&["-tt", "box", "echo up"]);
    assert_eq!(output.ok(), "up\r");
    let errors = output.errors();
    let (first, rest) = errors.split_once('\r').unwrap();
    assert_eq!(first, "sandgate: starting box … ");
    let (anew, end) = rest.rsplit_once('\r').and_then(|(rest, _)| rest.rsplit_once('\r')).unwrap();
    assert!(is_wait_line(&format!("{}\n", end.trim_end()), "box", "\n"), "{errors:?}");
    for line in anew.split('\r') {
        let (line, step) =
            line.trim_end().split_once(" (").unwrap_or((line.trim_end(), "booting the kernel)"));
        assert!(is_wait_line(&format!("{line}\n"), "box", "\n"), "{errors:?}");
        assert_eq!(step, "booting the kernel)", "{errors:?}");
    }
    assert!(errors.ends_with("\r\n") && errors.matches('\n').count() == 1, "{errors:?}");
}

#[test]
fn heavy_a_machine_boots_when_none_can_be_copied() {
    let Some(needs) = Needs::find() else { return };
    let dir = sandgate_tests::target::short_dir();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("qemu");
    // Booting works, saving a machine does not.
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *pcie-root-port*) echo no >&2; exit 1;; esac\nexec {} \"$@\"\n",
        path(&needs.qemu)
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (target, _image) = start(&needs, &format!("program = {program:?}"));
    assert_eq!(target.exec("echo up").ok(), "up");
    let inspect = target.gateway().json(&["sandbox", "inspect", "box"]);
    assert!(inspect["warnings"].to_string().contains("It boots"), "{inspect}");
    assert_eq!(inspect["start"], "cold", "{inspect}");
}

/// The configured kernel is not there: nothing but the sandbox's own is used.
#[test]
fn heavy_a_machine_runs_the_kernel_that_was_named_for_it() {
    let Some(needs) = Needs::find() else { return };
    let dir = sandgate_tests::target::short_dir();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let kernel = dir.path().join("vmlinuz");
    std::fs::copy(&needs.kernel, &kernel).unwrap();
    let version = needs.kernel.file_name().unwrap().to_str().unwrap().trim_start_matches("vmlinuz-");
    let modules = needs.kernel.parent().unwrap().join("../lib/modules").join(version);
    std::fs::create_dir(dir.path().join("modules")).unwrap();
    if let Ok(modules) = modules.canonicalize() {
        std::os::unix::fs::symlink(modules, dir.path().join("modules").join(version)).unwrap();
    }
    // The gateway has another working directory.
    let here = std::env::current_dir().unwrap();
    let up = "../".repeat(here.components().count() - 1);
    let relative = format!("{up}{}", path(kernel.strip_prefix("/").unwrap()));

    let image = sandgate_tests::target::short_dir();
    std::fs::set_permissions(image.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    run(Command::new("sh").args(["-c", TREE]).current_dir(image.path()), Feed::Null, DEADLINE).ok();
    let options = Options {
        extra_toml: format!(
            "[qemu]\nkernel = \"/nowhere/vmlinuz\"\nvhost_device_vsock = {:?}\n",
            needs.vsock
        ),
        create_args: [machine::words(path(image.path())), vec!["--kernel".into(), relative]].concat(),
        ..Options::default()
    };
    let target = Target::start_with(&options);
    let gateway = target.gateway();
    assert_eq!(target.exec("uname -r").ok(), version);
    let inspect = gateway.json(&["sandbox", "inspect", "box"]);
    assert_eq!(inspect["kernel"], path(&kernel), "{inspect}");
    assert!(gateway.cli(&["sandbox", "inspect", "box"]).ok().contains(path(&kernel)));

    let text = dir.path().join("text");
    std::fs::write(&text, "no kernel").unwrap();
    let packed = dir.path().join("packed");
    std::fs::write(&packed, b"\x1f\x8b\x08 a kernel perhaps").unwrap();
    let alone = dir.path().join("alone");
    std::fs::create_dir(&alone).unwrap();
    let without = alone.join("vmlinuz");
    std::fs::copy(&needs.kernel, &without).unwrap();
    let mut cases = vec![
        ("qemu", text.clone(), "neither a bzImage"),
        ("qemu", packed, "gzip"),
        ("qemu", dir.path().to_owned(), "not a file"),
        ("qemu", dir.path().join("none"), "No such file"),
        ("oci", kernel.clone(), "kernel"),
    ];
    if !Path::new("/lib/modules").join(version).is_dir() {
        cases.push(("qemu", without, "no modules for"));
    }
    for (driver, file, reason) in cases {
        let create = ["sandbox", "create", "wrong", "--driver", driver, "--image", path(image.path())];
        let output = gateway.cli(&[&create[..], &["--kernel", path(&file)]].concat());
        assert!(output.code != 0 && output.errors().contains(reason), "{file:?}: {}", output.errors());
        assert!(driver == "oci" || output.errors().contains(path(&file)), "{}", output.errors());
    }
    assert_ne!(gateway.cli(&["sandbox", "inspect", "wrong"]).code, 0);

    // Another file in its place is noticed at the next start, and the machine does not get the template of the old one.
    gateway.cli(&["sandbox", "stop", "box"]).ok();
    std::fs::copy(&text, &kernel).unwrap();
    let output = gateway.cli(&["sandbox", "start", "box"]);
    assert!(output.code != 0 && output.errors().contains("neither a bzImage"), "{}", output.errors());
    std::fs::copy(&needs.kernel, &kernel).unwrap();
    gateway.start_sandbox("box");
    assert_eq!(target.exec("uname -r").ok(), version);
}

/// Whether KVM runs the kernel was found out by a boot, once, and is said with the reason; what the operator says is not tried.
#[test]
fn heavy_a_machine_says_who_runs_its_processor_and_why() {
    let Some(needs) = Needs::find() else { return };
    let (target, _image) = start(&needs, "start = \"cold\"");
    let gateway = target.gateway();
    let known = gateway.data_dir().join("machines/kvm.json");
    let look = || {
        let inspect = gateway.json(&["sandbox", "inspect", "box"]);
        (inspect["accel"].as_str().unwrap_or_default().to_owned(), inspect["warnings"].to_string())
    };
    assert_eq!(target.exec("echo up").ok(), "up");
    let (accel, warnings) = look();
    let emulated = "is emulated in software (TCG) and slow: ";
    assert!(["kvm", "tcg"].contains(&accel.as_str()), "{accel:?}");
    assert_eq!(warnings.contains(emulated), accel == "tcg", "{accel}: {warnings}");
    assert!(gateway.cli(&["sandbox", "inspect", "box"]).ok().contains(&format!("accel     {accel}")));
    let device = Path::new("/dev/kvm").exists();
    assert_eq!(warnings.contains("there is no /dev/kvm"), !device, "{warnings}");
    let cpu = target.exec("grep -m 1 'model name' /proc/cpuinfo").ok();
    assert_eq!(cpu.contains("QEMU Virtual CPU"), accel == "tcg", "{cpu}");
    if device {
        let tried = std::fs::metadata(&known).unwrap().modified().unwrap();
        let log = gateway.data_dir().join("sandboxes").join(machine::id(&target, "box")).join("shim.log");
        let lines = || {
            let log = std::fs::read_to_string(&log).unwrap();
            log.lines()
                .filter(|line| {
                    line.contains("emulated in software: ") || line.contains("KVM runs the kernel")
                })
                .count()
        };
        assert_eq!(lines(), 1);
        gateway.cli(&["sandbox", "stop", "box"]).ok();
        gateway.start_sandbox("box");
        assert_eq!(look(), (accel, warnings), "the second start sees it in another way");
        assert_eq!(std::fs::metadata(&known).unwrap().modified().unwrap(), tried, "it was tried again");
        assert_eq!(lines(), 1);
    }
    drop(target);

    let (target, _image) = start(&needs, "accel = \"tcg\"");
    assert_eq!(target.exec("echo up").ok(), "up");
    let inspect = target.gateway().json(&["sandbox", "inspect", "box"]);
    assert_eq!(inspect["accel"], "tcg", "{inspect}");
    assert!(inspect["warnings"].to_string().contains("[qemu] accel says so"), "{inspect}");
    assert!(!target.gateway().data_dir().join("machines/kvm.json").exists(), "KVM was tried");
}
