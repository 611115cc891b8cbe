//! A sandbox holds: what its root cannot read, see, reach, change or use up.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::time::{Duration, Instant};

use common::{Rig, rig};
use sandgate_driver::{Driver, NoProgress};

#[tokio::test]
async fn the_walls_hold() {
    let Some(rig) = rig() else { return };
    let spec = rig.spec("walls");
    let id = spec.id.clone();
    rig.up(&spec).await;
    no_host_file(&rig, &id).await;
    no_host_process_or_network(&rig, &id).await;
    no_system_call_out(&rig, &id).await;
    no_kernel_file(&rig, &id).await;
    rig.driver.remove(&id).await.unwrap();
}

async fn no_host_file(rig: &Rig, id: &sandgate_driver::SandboxId) {
    let secret = rig.home.path().join("secret");
    std::fs::write(&secret, "hunter2").unwrap();
    let data = rig.home.path().join("data");
    for path in [
        "/etc/shadow",
        "/etc/ssh",
        "/etc/sudoers",
        "/root/.ssh",
        &secret.to_string_lossy(),
        &data.to_string_lossy(),
    ] {
        let found = rig.sh(id, &format!("test -e {path} || test -L {path}")).await;
        assert_eq!(found.code, 1, "{path} is visible");
    }
    // The directories exist, and are the sandbox's own.
    let listed = rig.sh(id, "ls -A /home /opt /srv /mnt /media /var/log /var/lib/dpkg").await;
    for entry in std::fs::read_dir("/home").unwrap().flatten() {
        assert!(!listed.stdout.contains(&*entry.file_name().to_string_lossy()), "{}", listed.stdout);
    }
    // Whoever got out would be nobody.
    let map = rig.sh(id, "cat /proc/self/uid_map").await.stdout;
    let outside: u32 = map.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(outside > 65_535, "{map}");
    // Root of the host through /proc of PID 1 and through descriptors.
    let root = rig.sh(id, "ls -di /proc/1/root/ / | awk '{print $1}' | uniq | wc -l; ls -l /proc/1/fd").await;
    assert!(root.stdout.starts_with("1\n"), "{root:?}");
}

async fn no_host_process_or_network(rig: &Rig, id: &sandgate_driver::SandboxId) {
    let pids = rig.sh(id, "ls -d /proc/[0-9]* | wc -l").await.stdout;
    assert!(pids.trim().parse::<u32>().unwrap() < 8, "{pids}");
    let first = rig.sh(id, "tr '\\0' ' ' < /proc/1/cmdline").await.stdout;
    assert!(first.contains("agent"), "{first}");
    let links = rig.sh(id, "tail -n +3 /proc/net/dev | cut -d: -f1").await.stdout;
    assert_eq!(links.trim(), "lo");
    let up = "python3 -c 'import socket; s=socket.create_server((\"127.0.0.1\",0)); \
              socket.create_connection(s.getsockname(),2); print(\"up\")'";
    if std::path::Path::new("/usr/bin/python3").exists() {
        let lo = rig.sh(id, up).await;
        assert_eq!(lo.stdout.trim(), "up", "{lo:?}");
        let out = "python3 -c 'import socket; socket.create_connection((\"192.0.2.1\",80),2)'";
        assert!(rig.sh(id, out).await.stderr.contains("unreachable"));
    } else {
        common::skip("no python3, loopback is not tried");
    }
}

async fn no_system_call_out(rig: &Rig, id: &sandgate_driver::SandboxId) {
    for command in [
        "mount -t tmpfs x /mnt",
        "mount --bind / /mnt",
        "umount /proc",
        "unshare -U true",
        "unshare -m true",
        "unshare -n true",
        "mknod /tmp/disk b 254 0",
        "mknod /tmp/mem c 1 1",
        "swapon /tmp/x",
        "hostname other",
        "date -s 2001-01-01",
        "chroot /proc/1/root /bin/sh -c 'mount -t proc x /mnt'",
    ] {
        let output = rig.sh(id, command).await;
        assert_ne!(output.code, 0, "{command}: {output:?}");
    }
    if !std::path::Path::new("/usr/bin/python3").exists() {
        return common::skip("no python3, raw system calls are not tried");
    }
    // x86-64 numbers: pivot_root, init_module, finit_module, bpf, keyctl, add_key, perf_event_open, userfaultfd, setns,
    // open_by_handle_at, move_mount, fsopen, io_uring_setup, kexec_load, clone(NEWUSER), and a packet and a vsock socket.
    let script = "import ctypes, os\n\
        libc = ctypes.CDLL(None, use_errno=True)\n\
        calls = [(155,),(175,),(313,),(321,),(250,),(248,),(298,),(323,),(308,),(304,),(429,),(430,),(425,),(246,),\n\
                 (56,0x10000011,0),(41,17,3,0),(41,40,1,0)]\n\
        for call in calls:\n\
        \x20   r = libc.syscall(*(list(call) + [0] * (7 - len(call))))\n\
        \x20   if r == 0 and call[0] == 56: os._exit(0)\n\
        \x20   print(call[0], 'refused' if r == -1 and ctypes.get_errno() == 1 else 'ALLOWED %d' % r, flush=True)\n\
        r = libc.syscall(435, 0, 0); print(435, 'refused' if ctypes.get_errno() == 38 else 'ALLOWED')\n\
        pid = os.fork()\n\
        if pid == 0: os._exit(0)\n\
        print('fork', os.waitpid(pid, 0)[1])\n";
    let output = rig.sh(id, &format!("python3 -c \"{script}\"")).await;
    assert_eq!(output.stdout.lines().filter(|line| line.ends_with("refused")).count(), 18, "{output:?}");
    assert!(output.stdout.contains("fork 0"), "{output:?}");
    let status = rig.sh(id, "cat /proc/self/status").await.stdout;
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
}

async fn no_kernel_file(rig: &Rig, id: &sandgate_driver::SandboxId) {
    for command in [
        "echo b > /proc/sysrq-trigger",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo 1 > /proc/sys/kernel/hostname",
        "test -s /proc/kcore && head -c 1 /proc/kcore | grep -q .",
        "echo 1 > /sys/kernel/mm/ksm/run",
        "touch /sys/x",
        "ls /sys/firmware | grep -q .",
        "echo -17 > /proc/1/oom_score_adj && echo -1000 > /proc/self/oom_score_adj",
        "head -c 1 /dev/mem || head -c 1 /dev/vda || head -c 1 /dev/sda || head -c 1 /dev/kmsg",
        "echo x > /.sandgate/agent",
        "rm -f /.sandgate/agent",
    ] {
        let output = rig.sh(id, command).await;
        assert_ne!(output.code, 0, "{command}: {output:?}");
    }
}

#[tokio::test]
async fn bombs_and_hogs_stay_inside() {
    let Some(rig) = rig() else { return };
    let mut spec = rig.spec("limits");
    spec.pids = Some(64);
    spec.memory_bytes = Some(128 << 20);
    let id = spec.id.clone();
    rig.up(&spec).await;
    // The agent and its session answer while the bomb is on.
    let bomb = "for i in $(seq 200); do sleep 5 & done; wait";
    let began = Instant::now();
    let output = common::run(&rig.driver, &id, bomb, Duration::from_secs(30)).await;
    assert!(output.stderr.contains("fork") || output.code != 0, "{output:?}");
    assert!(began.elapsed() < Duration::from_secs(25));
    // tmpfs is memory too.
    let hog = rig.sh(&id, "head -c 1000000000 /dev/zero | tail -c 900000000 | wc -c").await;
    assert_ne!(hog.stdout.trim(), "900000000", "{hog:?}");
    assert!(rig.is_running(&id).await, "the hog was killed, not the sandbox");
    assert_eq!(rig.sh(&id, "echo alive").await.stdout, "alive\n");
    rig.driver.remove(&id).await.unwrap();
}

#[tokio::test]
async fn sandboxes_are_apart() {
    let Some(rig) = rig() else { return };
    let (one, two) = (rig.spec("one"), rig.spec("two"));
    rig.up(&one).await;
    rig.up(&two).await;
    rig.sh(&one.id, "echo mine > /tmp/file; sleep 30 > /dev/null 2>&1 &").await;
    let seen = rig.sh(&two.id, "cat /tmp/file; ps ax | grep -c '[s]leep 30'").await;
    assert!(!seen.stdout.contains("mine") && seen.stdout.trim().ends_with('0'), "{seen:?}");
    let map = |output: common::Output| output.stdout.split_ascii_whitespace().nth(1).unwrap().to_owned();
    let first = map(rig.sh(&one.id, "cat /proc/self/uid_map").await);
    assert_ne!(first, map(rig.sh(&two.id, "cat /proc/self/uid_map").await), "two sandboxes share their ids");
    for spec in [&one, &two] {
        rig.driver.remove(&spec.id).await.unwrap();
    }
}

#[tokio::test]
async fn a_guest_cannot_redirect_its_link() {
    let Some(rig) = rig() else { return };
    let spec = rig.spec("redirect");
    let id = spec.id.clone();
    rig.up(&spec).await;
    // A socket under every name that could be taken for the link, in the sandbox's own layer.
    rig.sh(
        &id,
        "mkdir -p /run/sandgate; ln -sf /tmp/evil /agent.sock; ln -sf /tmp/evil /.sandgate/agent.sock; \
                 touch /state.json /shim.sock",
    )
    .await;
    rig.driver.stop(&id, Duration::from_secs(2)).await.unwrap();
    rig.driver.start(&id, &NoProgress).await.unwrap();
    assert_eq!(rig.sh(&id, "echo same").await.stdout, "same\n");
    let socket = std::fs::symlink_metadata(rig.dir(&id).join("agent.sock")).unwrap();
    assert!(std::os::unix::fs::FileTypeExt::is_socket(&socket.file_type()));
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&socket.permissions()) & 0o777, 0o600);
    rig.driver.remove(&id).await.unwrap();
}
