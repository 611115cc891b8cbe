//! What a machine is from inside: its network, its devices, bulk data and a forwarded agent for long. What every driver does is in
//! `driver_contract.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Pid;

use sandgate_tests::agent::Agent;
use sandgate_tests::client::DEADLINE;
use sandgate_tests::machine::{self, Needs};
use sandgate_tests::wait::scaled;
use sandgate_tests::{Feed, Options, Output, Target, paths, rootfs, run};

/// Bytes through a machine and back; under emulation some 20 to 50 MiB a second.
const BULK: usize = 1 << 30;
/// For the longest of these.
const PATIENCE: Duration = Duration::from_secs(420);

#[test]
fn heavy_a_machine_has_a_disk_a_console_and_vsock() {
    let Some(needs) = Needs::find() else { return };
    let target = needs.start();
    let devices = target.exec("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; ls /sys/class/net").ok();
    assert_eq!(devices, "lo\nlo", "another interface than loopback");
    let routes = target.exec("tail -n +2 /proc/net/route").ok();
    assert_eq!(routes, "", "a route leads out");

    // By the numbers of the virtio specification: block, console, vsock. The kernel's own console is a serial port.
    let virtio = target.exec("cat /sys/bus/virtio/devices/*/device | sort -u").ok();
    let known = ["0x0002", "0x0003", "0x0013"];
    assert!(
        virtio.contains("0x0002") && virtio.lines().all(|id| known.contains(&id)),
        "virtio devices: {virtio}"
    );
    // A copy has its vsock device on a PCI bus: the host bridge, the port it is plugged into, and itself.
    let pci = target
        .exec("cat /sys/bus/pci/devices/*/vendor /sys/bus/pci/devices/*/device 2>/dev/null | sort; true")
        .ok();
    let known = ["0x1b36", "0x1af4", "0x0008", "0x000c", "0x1053"];
    assert!(pci.lines().all(|id| known.contains(&id)), "another PCI device: {pci}");
    for bus in ["usb", "scsi", "pcmcia", "hid"] {
        assert_eq!(
            target.exec(&format!("ls /sys/bus/{bus}/devices 2>/dev/null; true")).ok(),
            "",
            "on the bus {bus}"
        );
    }

    // Without a device for randomness: what the host hands in at the start seeds the kernel.
    let random = target.exec("head -c 1000000 /dev/random | wc -c").ok();
    assert_eq!(random, "1000000");

    let agent = Agent::start(&target);
    let fingerprint = agent.add_new_key("listed");
    let count = scaled(1000);
    let script = format!("i=0; while [ $i -lt {count} ]; do ssh-add -l || exit 1; i=$((i+1)); done");
    let text = run(&mut agent.ssh(&target, &["-A", "box", &script]), Feed::Null, PATIENCE).ok();
    assert_eq!(text.lines().filter(|line| line.contains(&fingerprint)).count(), count);

    // A gateway that did not make the machine gets in by the socket of its vsock device.
    let gateway = target.gateway();
    let socket = gateway.data_dir().join("sandboxes").join(machine::id(&target, "box")).join("vm/vsock");
    gateway.create_sandbox("guest", &["--link", &format!("hybrid:{}:1024", socket.display())]);
    let token = gateway.token("guest", &[]).token;
    let who = "cat; cat /proc/sys/kernel/random/boot_id; exit 7";
    let mut ssh = target.ssh(&["-l", &token, "box", who]);
    let output = run(&mut ssh, Feed::Bytes(b"in and out\n".to_vec()), DEADLINE);
    let boot = target.exec("cat /proc/sys/kernel/random/boot_id").ok();
    assert_eq!((output.code, output.text()), (7, format!("in and out\n{boot}\n")), "{output:?}");
}

/// Memory of the machines below, and what their processes may have beside it, in bytes.
const MEMORY: u64 = 256 << 20;
const OVERHEAD: u64 = 384 << 20;
/// The small disk, in bytes.
const DISK: u64 = 64 << 20;
/// What two copies of one machine may not have in common, one a line. First of all: what is drawn at once.
const OWN: &str = "python3 -c 'import os; print(os.getrandom(32).hex(), os.urandom(32).hex(), sep=chr(10))'; \
    head -c 32 /dev/urandom | sha256sum; cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id /etc/machine-id; \
    cat /proc/sys/kernel/hostname";

/// Two machines of one kernel, image and size: both are copies of one that has booted, they share nothing, and neither they nor their processes
/// get more than they were given.
#[test]
fn heavy_two_copies_of_a_machine_are_two_machines_in_two_jails() {
    let Some(needs) = Needs::find() else { return };
    let image = rootfs::image().display().to_string();
    let mut words: Vec<String> = ["--driver", "qemu", "--memory", "256M", "--cpus", "1.5", "--image", &image]
        .map(str::to_owned)
        .to_vec();
    words.extend(["--disk".to_owned(), format!("{}M", DISK >> 20)]);
    let target = Target::start_with(&Options {
        extra_toml: needs.toml(""),
        create_args: words.clone(),
        ..Options::default()
    });
    let gateway = target.gateway();
    let saved = template(gateway.data_dir());
    gateway.create_sandbox("twin", &words.iter().map(String::as_str).collect::<Vec<_>>());
    let twin = gateway.token("twin", &[]).token;
    let in_twin = |command: &str| run(&mut target.ssh(&["-l", &twin, "box", command]), Feed::Null, DEADLINE);
    let own = [own_of(|command| target.exec(command)), own_of(in_twin)];
    for (one, other) in own[0].iter().zip(&own[1]) {
        assert_ne!(one, other, "both have it: {own:#?}");
    }
    // The same one, started again, is a new copy with its own name for itself.
    gateway.cli(&["sandbox", "stop", "box"]).ok();
    gateway.start_sandbox("box");
    let again = own_of(|command| target.exec(command));
    assert_eq!(again[MACHINE_ID..], own[0][MACHINE_ID..], "{own:#?}");
    for (one, other) in again.iter().zip(&own[0]).take(MACHINE_ID) {
        assert_ne!(one, other, "drawn before and after: {again:#?} {:#?}", own[0]);
    }
    for name in ["box", "twin"] {
        let inspect = gateway.json(&["sandbox", "inspect", name]);
        assert_eq!(inspect["start"], "warm", "{inspect}");
    }
    assert_eq!(template(gateway.data_dir()), saved, "another machine has booted");

    // Its disk, which can be filled.
    let full = target.exec("echo mine >/root/only; cat /dev/zero >/root/fill");
    assert!(full.code != 0 && full.errors().contains("No space left on device"), "{}", full.errors());
    let size: u64 = target.exec("stat -c %s /root/fill").ok().parse().unwrap();
    assert!((DISK / 2..DISK).contains(&size), "{size} bytes were written to a disk of {DISK}");
    assert_eq!(
        in_twin(
            "ls -A /root/only 2>/dev/null; head -c 1000000 /dev/zero >/root/file && stat -c %s /root/file"
        )
        .ok(),
        "1000000"
    );
    assert_eq!(target.exec("rm /root/fill; echo more >>/root/only; cat /root/only").ok(), "mine\nmore");

    // Its processors and memory: as many whole ones as hold what was asked for, and not more of the host's time than that.
    assert_eq!(target.exec("grep -c ^processor /proc/cpuinfo").ok(), "2");
    let memory: u64 =
        target.exec("sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo").ok().parse().unwrap();
    assert!((MEMORY * 3 / 4..=MEMORY).contains(&(memory << 10)), "{memory} KiB of memory");

    let users: Vec<Vec<u32>> = ["box", "twin"].map(|name| jailed(&target, name)).into();
    if rustix::process::geteuid().is_root() {
        assert!(users[0].iter().all(|user| !users[1].contains(user)), "one user for two machines: {users:?}");
    }
}

/// Of the lines of [`OWN`], where those begin that stay the same for one machine.
const MACHINE_ID: usize = 5;

/// The lines of [`OWN`], of a machine whose clock is right.
fn own_of(exec: impl Fn(&str) -> Output) -> Vec<String> {
    machine::expect_host_time(&exec);
    let lines: Vec<String> = exec(OWN).ok().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), MACHINE_ID + 2, "{lines:#?}");
    lines
}

/// The saved machine that others are copies of: its name, inode and time of change.
fn template(data: &Path) -> (PathBuf, u64, i64, i64) {
    let entries = fs::read_dir(data.join("machines")).unwrap().flatten().map(|entry| entry.path());
    let mut found: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|it| it == "template")).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    let meta = fs::metadata(found[0].join("state")).unwrap();
    (found.remove(0), meta.ino(), meta.ctime(), meta.ctime_nsec())
}

/// Expects that the machine's QEMU and vsock device are shut in. Returns the users that they run as.
fn jailed(target: &Target, name: &str) -> Vec<u32> {
    let (id, qemu) = (machine::id(target, name), machine::qemu_pid(target, name));
    let processes = machine::processes_of(&id);
    let is_device = |line: &str| line.split(' ').next().is_some_and(|it| it.ends_with("vhost-device-vsock"));
    let device = processes.iter().find(|(_, line)| is_device(line)).expect("a vsock device").0;
    let mut users = Vec::new();
    for (what, pid) in [("QEMU", qemu), ("the vsock device", device)] {
        let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        let status = fs::read_to_string(proc.join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
            line.unwrap_or_else(|| panic!("{what}: no {name} in {status}"))
                .split_whitespace()
                .collect::<Vec<_>>()
        };
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(field(set), ["0000000000000000"], "{what}: {set}");
        }
        assert_eq!(field("NoNewPrivs"), ["1"], "{what}");
        if what == "QEMU" {
            assert_eq!(field("Seccomp"), ["2"], "{what}: without a filter of system calls");
        }
        for namespace in ["mnt", "net", "ipc", "uts"] {
            let of = |process: &Path| fs::read_link(process.join("ns").join(namespace)).unwrap();
            assert_ne!(of(&proc), of(Path::new("/proc/self")), "{what} is in the host's {namespace}");
        }
        // What it sees of the host is programs, and of the data directory its own.
        for hidden in ["proc", "sys", "run", "etc/passwd", "etc/shadow", "var/log"] {
            assert!(!proc.join("root").join(hidden).exists(), "{what} sees /{hidden}");
        }
        let data = proc.join("root").join(target.gateway().data_dir().strip_prefix("/").unwrap());
        let known = ["sandboxes", "images", "image-store", "machines", "agents"];
        for entry in fs::read_dir(&data).unwrap().flatten() {
            assert!(known.iter().any(|it| entry.file_name() == *it), "{what} sees the gateway's {entry:?}");
        }
        let seen: Vec<_> =
            fs::read_dir(data.join("sandboxes")).unwrap().flatten().map(|it| it.file_name()).collect();
        assert_eq!(seen, [id.as_str()], "{what} sees other sandboxes");
        if rustix::process::geteuid().is_root() {
            for (field, ids) in ["Uid", "Gid"].map(|name| (name, field(name))) {
                assert!(ids.iter().all(|id| *id == ids[0] && *id != "0"), "{what}: {field} {ids:?}");
            }
            assert_eq!(field("Groups"), Vec::<&str>::new(), "{what}");
            users.push(field("Uid")[0].parse().unwrap());
            limited(what, pid, &id);
        }
    }
    users
}

/// Expects that the control groups of a process are its sandbox's, with the limits of the machines above.
fn limited(what: &str, pid: Pid, id: &str) {
    let find = format!("find /sys/fs/cgroup -type d -path '*{id}*' 2>/dev/null; true");
    let groups = run(Command::new("sh").args(["-c", &find]), Feed::Null, DEADLINE).text();
    let pid = pid.as_raw_nonzero().to_string();
    let limit = |files: &[&str]| {
        let holds = |group: &&str| {
            fs::read_to_string(Path::new(group).join("cgroup.procs"))
                .is_ok_and(|it| it.lines().any(|it| it == pid))
        };
        let values = groups
            .lines()
            .filter(holds)
            .flat_map(|group| files.iter().map(move |file| Path::new(group).join(file)));
        values.filter_map(|file| fs::read_to_string(file).ok()).map(|text| text.trim().to_owned()).next()
    };
    let memory = (MEMORY + OVERHEAD).to_string();
    assert_eq!(limit(&["memory.limit_in_bytes", "memory.max"]), Some(memory), "{what}: {groups}");
    assert_eq!(limit(&["pids.max"]).as_deref(), Some("256"), "{what}: {groups}");
    let cpu = limit(&["cpu.cfs_quota_us", "cpu.max"]).unwrap_or_default();
    assert!(cpu == "150000" || cpu == "150000 100000", "{what}: {cpu:?} {groups}");
}

#[test]
fn heavy_a_gibibyte_goes_in_and_comes_out() {
    let Some(needs) = Needs::find() else { return };
    let target = needs.start();
    let bytes = scaled(BULK);
    // The bytes of a cipher without a file, so that only hashes are kept.
    let script = format!(
        "head -c {bytes} /dev/zero | openssl enc -aes-128-ctr -nosalt -K 0123456789abcdef0123456789abcdef -iv 0 2>/dev/null \
         | tee >(sha256sum >$DIR/sent) | $SSH box cat | sha256sum >$DIR/back; cat $DIR/sent $DIR/back"
    );
    let text = run(&mut target.script(&script), Feed::Null, PATIENCE).ok();
    let hashes: Vec<&str> = text.lines().collect();
    assert!(hashes.len() == 2 && hashes[0] == hashes[1], "{text}");
}

/// An OCI layout of the image of all drivers, with that configuration.
fn layout(target: &Target, config: &str) -> PathBuf {
    let dir = target.dir().join("layouts");
    fs::create_dir(&dir).unwrap();
    let mut command = Command::new("/usr/bin/python3");
    let script = paths::workspace().join("tests/images/layout.py");
    command.arg(script).args(["named", config]).arg(rootfs::image()).current_dir(&dir);
    run(&mut command, Feed::Null, DEADLINE).ok();
    dir.join("named")
}

#[test]
fn heavy_an_image_by_name_says_who_and_where() {
    let Some(needs) = Needs::find() else { return };
    // `box` is the same image as a directory, in a container: it boots nothing.
    let target = Target::start_with(&Options { extra_toml: needs.toml(""), ..Options::default() });
    let gateway = target.gateway();
    let config =
        r#"{"User": "dev", "WorkingDir": "/tmp", "Env": ["PATH=/usr/bin:/bin", "FROM_IMAGE=a b=c"]}"#;
    let layout = layout(&target, config);
    gateway.cli(&["image", "import", layout.to_str().unwrap(), "local/named:1"]).ok();
    let mut said = Vec::new();
    for driver in ["qemu", "oci"] {
        let create = ["--driver", driver, "--image", "local/named:1", "--env", "GIVEN=1"];
        gateway.create_sandbox(driver, &create);
        let ask = "id -un; pwd; echo $FROM_IMAGE; echo $GIVEN; echo $PATH; echo $HOME";
        said.push(gateway.cli(&["exec", driver, "--", "sh", "-c", ask]).ok());
        let token = gateway.token(driver, &[]).token;
        said.push(run(&mut target.ssh(&["-l", &token, "box", ask]), Feed::Null, DEADLINE).ok());
    }
    let lines: Vec<&str> = said[0].lines().collect();
    assert_eq!((lines[0], lines[2], lines[3]), ("dev", "a b=c", "1"), "{said:#?}");
    assert_eq!(said[..2], said[2..], "a machine differs from a container");
    // A sandbox of a name keeps the image; without it the image goes.
    let refused = gateway.cli(&["image", "rm", "local/named:1"]);
    assert_ne!(refused.code, 0, "an image in use was removed");
    for driver in ["qemu", "oci"] {
        gateway.cli(&["sandbox", "rm", "--force", driver]).ok();
    }
    gateway.cli(&["image", "rm", "local/named:1"]).ok();
    assert_eq!(machine::state(&target, "box"), "running");
}
