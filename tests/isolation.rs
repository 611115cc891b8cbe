//! What code in a sandbox can see and reach of the machine: nothing but its image and its own processes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::os::linux::net::SocketAddrExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use sandgate_tests::process::Guard;
use sandgate_tests::wait::until;
use sandgate_tests::{Feed, Options, Target, run, skip};

/// Capabilities that Docker gives by default, as the bits of `CapEff`.
const DOCKER_CAPABILITIES: u64 = 0xa804_25fb;

/// Runs a script inside and returns what it prints.
#[track_caller]
fn inside(target: &Target, script: &str) -> String {
    target.exec(script).ok()
}

/// Asserts that a command fails inside.
#[track_caller]
fn fails_inside(target: &Target, script: &str) {
    let output = target.exec(script);
    assert_ne!(output.code, 0, "{script} worked: {} {}", output.text(), output.errors());
    assert_ne!(output.code, 127, "{script} proves nothing, the program is missing: {}", output.errors());
}

#[test]
fn no_file_of_the_host_is_readable() {
    if skip::oracle_lacks("sandbox") {
        return;
    }
    let target = Target::start();
    let name = format!("sandgate-marker-{}", target.port);
    let places = ["/root", "/tmp", "/var/tmp", "/home", "/opt", "/var/lib", "/srv"];
    let written: Vec<_> = places
        .iter()
        .map(|place| std::path::Path::new(place).join(&name))
        .filter(|file| std::fs::write(file, "host secret").is_ok())
        .collect();
    assert!(!written.is_empty(), "no place could be written to");
    let found = target.exec(&format!("find / -name '{name}' -not -path '/proc/*' 2>/dev/null"));
    let reads: Vec<_> = written.iter().map(|file| target.exec(&format!("cat {}", file.display()))).collect();
    let own = target.exec(&format!("echo own >/tmp/{name}; cat /tmp/{name}"));
    written.iter().for_each(|file| drop(std::fs::remove_file(file)));
    assert_eq!(found.text(), "", "a file of the host is visible");
    assert!(reads.iter().all(|read| read.code != 0 && !read.text().contains("secret")), "{reads:?}");
    assert_eq!(own.ok(), "own");
    fails_inside(&target, &format!("cat {}", target.key().display()));
    for file in ["/etc/shadow", "/etc/gshadow", "/etc/ssh/ssh_host_ed25519_key", "/root/.ssh/authorized_keys"]
    {
        let text = target.exec(&format!("cat {file} 2>/dev/null")).text();
        assert!(!text.contains('$') && !text.contains("KEY"), "{file} holds {text}");
    }
    fails_inside(&target, "head -c 1 /proc/kcore");
    fails_inside(&target, "echo h >/proc/sysrq-trigger");
    fails_inside(&target, "echo 1 >/proc/sys/kernel/panic");
    fails_inside(&target, "echo x >/proc/sys/kernel/core_pattern");
    // What lies below /usr may be changed inside, but only there.
    let before = std::fs::read("/usr/bin/env").unwrap();
    target.exec("echo changed >>/usr/bin/env; rm -f /usr/bin/yes");
    assert!(
        std::fs::read("/usr/bin/env").unwrap() == before && std::path::Path::new("/usr/bin/yes").exists()
    );
}

#[test]
fn no_process_of_the_host_is_visible() {
    if skip::oracle_lacks("sandbox") {
        return;
    }
    let target = Target::start();
    let processes =
        inside(&target, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; echo; ls -d /proc/[0-9]* | wc -l");
    assert!(!processes.contains("sandgate serve") && !processes.contains("nextest"), "{processes}");
    let count: usize = processes.lines().last().unwrap().trim().parse().unwrap();
    assert!(count < 15, "{processes}");
    fails_inside(&target, &format!("kill -0 {}", target.pid()));
    let marker = format!("4245{}", target.port);
    let mut command = target.ssh(&["box", &format!("sleep {marker}")]);
    let _session = Guard::spawn(command.stdin(Stdio::null()));
    let wanted = format!("sleep\0{marker}\0");
    let mut status = String::new();
    assert!(until(Duration::from_secs(10), || {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let mut matching = entries.filter(|it| {
            std::fs::read(it.path().join("cmdline")).is_ok_and(|line| line == wanted.as_bytes())
        });
        status = matching
            .next()
            .and_then(|it| std::fs::read_to_string(it.path().join("status")).ok())
            .unwrap_or_default();
        !status.is_empty()
    }));
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
    };
    assert!(field("Uid:").split_whitespace().all(|uid| uid != "0"), "root inside is root outside: {status}");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    let effective = u64::from_str_radix(&field("CapEff:"), 16).unwrap();
    assert_eq!(effective & !DOCKER_CAPABILITIES, 0, "more capabilities than Docker gives: {effective:x}");
}

#[test]
fn no_network_but_its_own_loopback() {
    if skip::oracle_lacks("sandbox") {
        return;
    }
    let target = Target::start();
    assert_eq!(inside(&target, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"), "lo");
    // The host's own services, by loopback and by abstract socket.
    let connect = format!("bash -c 'exec 3<>/dev/tcp/127.0.0.1/{}'", target.port);
    fails_inside(&target, &connect);
    assert!(
        std::process::Command::new("sh").args(["-c", &connect]).status().unwrap().success(),
        "the control fails"
    );
    let name = format!("sandgate-test-{}", target.port);
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    assert!(std::fs::read_to_string("/proc/net/unix").unwrap().contains(&name));
    assert!(!inside(&target, "cat /proc/net/unix").contains(&name));
    // Its own loopback is up.
    let own = "python3 -c 'import socket; l=socket.create_server((\"127.0.0.1\",0)); socket.create_connection(l.getsockname()); print(1)'";
    assert_eq!(inside(&target, own), "1");
}

#[test]
fn the_network_of_the_host_is_there_only_when_asked_for() {
    if skip::oracle_lacks("sandbox") {
        return;
    }
    let target = Target::start();
    target.gateway().create_sandbox("open", &["--network", "host"]);
    let token = target.gateway().token("open", &[]).token;
    let service = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = service.local_addr().unwrap().port();
    let connect = format!("bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}'");
    fails_inside(&target, &connect);
    let mut open = target.ssh(&["-l", &token, "open", &connect]);
    assert_eq!(run(&mut open, Feed::Null, Duration::from_secs(20)).code, 0);
    // It may use it and not change it.
    let mut change = target.ssh(&["-l", &token, "open", "ip addr add 127.9.9.9/32 dev lo"]);
    assert_ne!(run(&mut change, Feed::Null, Duration::from_secs(20)).code, 0);
}

#[test]
fn no_mount_no_module_no_device() {
    if skip::oracle_lacks("sandbox") {
        return;
    }
    let target = Target::start();
    fails_inside(&target, "mkdir -p /tmp/m && mount -t tmpfs none /tmp/m");
    fails_inside(&target, "mount --bind /proc /mnt");
    fails_inside(&target, "mount -o remount,rw /proc/sys");
    fails_inside(&target, "umount /proc/kcore");
    fails_inside(&target, "unshare -Ur mount -t tmpfs none /mnt");
    fails_inside(&target, "unshare -m true");
    fails_inside(&target, "nsenter -t 1 -m -p true && nsenter -t 1 -U true");
    fails_inside(&target, "mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk");
    fails_inside(&target, "dmesg");
    fails_inside(&target, "date -s 2001-01-01");
    // EPERM, ENOSYS or EACCES; a process of the host is not even there (ESRCH).
    for (name, number, arguments) in [
        ("init_module", 175, "0, 0, b''"),
        ("finit_module", 313, "0, b'', 0"),
        ("kexec_load", 246, "0, 0, 0, 0"),
        ("bpf", 321, "0, 0, 0"),
        ("keyctl", 250, "0, -3, 0"),
        ("open_by_handle_at", 304, "-100, 0, 0"),
        ("perf_event_open", 298, "0, 0, -1, -1, 0"),
        ("userfaultfd", 323, "0"),
        ("mount_setattr", 442, "-100, b'', 0, 0, 0"),
        ("ptrace (attach)", 101, format!("16, {}, 0, 0", target.pid()).as_str()),
        ("ptrace (seize)", 101, format!("16902, {}, 0, 0", target.pid()).as_str()),
        ("pidfd_open", 434, format!("{}, 0", target.pid()).as_str()),
    ] {
        let script = format!(
            "python3 -c 'import ctypes; c=ctypes.CDLL(None,use_errno=True); r=c.syscall({number}, {arguments}); print(r, ctypes.get_errno())'"
        );
        let text = inside(&target, &script.replace("b''", "None"));
        assert!(
            ["-1 1", "-1 38", "-1 13", "-1 3"].contains(&text.as_str()),
            "{name} gave {text}: neither EPERM nor ENOSYS nor ESRCH"
        );
    }
}

/// Whether the sandbox was made without limits, and says so.
fn limits_are_off(target: &Target) -> bool {
    let warnings = target.gateway().json(&["sandbox", "inspect", "box"])["warnings"].to_string();
    warnings.contains("cgroup") || warnings.contains("group limit")
}

#[test]
fn timed_a_fork_bomb_stays_inside() {
    if skip::oracle_lacks("sandbox") {
        return;
    }
    let target = Target::start();
    target.gateway().create_sandbox("bystander", &[]);
    target.gateway().start_sandbox("bystander");
    let other = target.gateway().token("bystander", &[]).token;
    if limits_are_off(&target) {
        skip::because("no cgroup hierarchy can be written, so processes are not limited");
        return;
    }
    // Bounded by itself as well, for a machine on which the limit should not hold.
    let bomb = "python3 -c '\nimport os,sys,time\nn=0\ntry:\n  while n<20000:\n    if os.fork()==0: time.sleep(20); os._exit(0)\n    n+=1\nexcept OSError as e: print(\"stopped\", n, e.errno, flush=True)\ntime.sleep(6)'";
    let mut command = target.ssh(&["box", bomb]);
    let out = target.dir().join("bomb");
    let _bomb = Guard::spawn(command.stdin(Stdio::null()).stdout(std::fs::File::create(&out).unwrap()));
    assert!(
        until(Duration::from_secs(30), || std::fs::read_to_string(&out).unwrap().contains("stopped")),
        "no limit was met"
    );
    let start = Instant::now();
    let output = target.run_ssh(&["-l", &other, "box", "echo fine"]);
    assert_eq!(output.ok(), "fine");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    target.gateway().cli(&["sandbox", "rm", "--force", "box"]).ok();
}

#[test]
fn a_memory_hog_stays_inside() {
    if skip::oracle_lacks("sandbox") {
        return;
    }
    let target = Target::start_with(&Options {
        create_args: vec!["--memory".into(), "128M".into()],
        ..Options::default()
    });
    if limits_are_off(&target) {
        skip::because("no cgroup hierarchy can be written, so memory is not limited");
        return;
    }
    let output = target.exec("python3 -c 'b=bytearray(1<<30); print(len(b))'");
    assert_ne!(output.code, 0, "a GiB was taken where 128 MiB are allowed");
    assert_eq!(target.exec("python3 -c 'b=bytearray(32<<20); print(len(b))'").ok(), "33554432");
}

#[test]
fn a_busy_loop_gets_its_share_and_no_more() {
    if skip::oracle_lacks("sandbox") {
        return;
    }
    let target = Target::start_with(&Options {
        create_args: vec!["--cpus".into(), "0.25".into()],
        ..Options::default()
    });
    if limits_are_off(&target) {
        skip::because("no cgroup hierarchy can be written, so CPU is not limited");
        return;
    }
    let busy = "python3 -c '\nimport time\nend=time.monotonic()+4\nwhile time.monotonic()<end: pass\nprint(time.process_time())'";
    let used: f64 = target.exec(busy).ok().parse().unwrap();
    // Of four seconds a quarter, and what the first period gives beyond it.
    assert!((0.1..1.6).contains(&used), "{used} s of CPU in 4 s with a quarter of a core");
}
